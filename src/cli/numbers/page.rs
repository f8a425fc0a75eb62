//! What one worker knows of its numbers, as JSON: the page `/numbers`, and what `numbers list` reads.

use super::forecast::{Backlog, Forecast};
use super::worker_name;
use crate::cli::output::moment;
use crate::queue::{OperatorPause, Operators};
use crate::wire::NumberId;
use crate::worker::{Fault, JobViews, LaneView, LaneViews, Recent};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The worker and its numbers, as they are when asked.
#[derive(Debug)]
pub(in crate::cli) struct Page {
    /// Which worker, for people: host:process.
    worker: String,
    views: LaneViews,
    operators: Operators,
}

impl Page {
    /// Of this process.
    pub(in crate::cli) fn new(views: LaneViews, operators: Operators) -> Page {
        Page { worker: worker_name(), views, operators }
    }

    /// A list, by number: each that the worker serves, and each that an operator paused. Every key
    /// is always present, null where unknown.
    pub(in crate::cli) fn to_json(&self, now: Timestamp) -> Value {
        let rows = self.rows(now);
        rows.iter().map(|row| row.to_json(&self.worker, now)).collect()
    }

    /// The same with what failed of each number, for who looks at this worker alone.
    pub(in crate::cli) fn with_failures(&self, jobs: &JobViews, now: Timestamp) -> Value {
        let row = |row: Row| {
            let mut json = row.to_json(&self.worker, now);
            json["failures"] = jobs.failures(&row.number).iter().map(failure).collect();
            json
        };
        self.rows(now).into_iter().map(row).collect()
    }

    fn rows(&self, now: Timestamp) -> Vec<Row> {
        rows(self.views.list(), self.operators.pauses(now))
    }
}

/// One number.
struct Row {
    number: NumberId,
    /// None where another worker serves it.
    view: Option<LaneView>,
    pause: Option<OperatorPause>,
}

fn rows(views: Vec<LaneView>, mut pauses: BTreeMap<NumberId, OperatorPause>) -> Vec<Row> {
    let served = views.into_iter().map(|view| Row {
        pause: pauses.remove(&view.number),
        number: view.number.clone(),
        view: Some(view),
    });
    let mut rows: Vec<Row> = served.collect();
    let paused = |(number, pause)| Row { number, view: None, pause: Some(pause) };
    rows.extend(pauses.into_iter().map(paused));
    rows.sort_by(|one, other| one.number.cmp(&other.number));
    rows
}

impl Row {
    fn forecast(&self, now: Timestamp) -> Forecast {
        // Else another worker knows what waits.
        let Some(view) = &self.view else { return Forecast::Unknown };
        let ready = view.ready.unwrap_or_default();
        let in_hand = u64::try_from(view.waiting + view.in_flight).unwrap_or(u64::MAX);
        let backlog = Backlog {
            jobs: in_hand.saturating_add(u64::from(ready.normal) + u64::from(ready.urgent)),
            rate: Some(view.rate),
            held_until: view.held_until,
            paused: self.pause.as_ref().map(|pause| pause.until),
        };
        backlog.forecast(now)
    }

    fn to_json(&self, worker: &str, now: Timestamp) -> Value {
        let (view, forecast) = (self.view.as_ref(), self.forecast(now));
        json!({
            "number": self.number,
            "worker": worker,
            "rate": view.map(|view| view.rate),
            "source": view.map(|view| &view.source),
            "waiting": view.map(|view| view.waiting),
            "in_flight": view.map(|view| view.in_flight),
            "ready": view.and_then(|view| view.ready),
            "oldest_seconds": view.and_then(|view| view.oldest_seconds),
            "held_until": moment(view.and_then(|view| view.held_until)),
            "held_for": view.and_then(|view| view.held_for.as_ref()),
            "paused": self.pause.as_ref().map(paused),
            "forecast": forecast.name(),
            "done_in_seconds": forecast.done_in(now).map(|rest| rest.as_secs()),
        })
    }
}

fn failure(recent: &Recent) -> Value {
    let Recent { fault: Fault { class, scope, code, http_status }, count, last } = recent;
    json!({
        "class": class, "scope": scope, "code": code, "http_status": http_status, "count": count,
        "last": format!("{last:.3}"),
    })
}

/// A pause, for programs.
pub(super) fn paused(pause: &OperatorPause) -> Value {
    let OperatorPause { until, reason, by, at } = pause;
    json!({ "until": moment(*until), "reason": reason, "by": by, "at": moment(Some(*at)) })
}

#[cfg(test)]
mod tests {
    use super::super::served::Served;
    use super::*;
    use crate::queue::Ready;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn view(number: &str) -> LaneView {
        LaneView {
            number: NumberId::parse(number).unwrap(),
            rate: 10.0,
            source: "override".into(),
            waiting: 20,
            in_flight: 10,
            held_until: None,
            held_for: None,
            ready: Some(Ready { normal: 60, urgent: 10 }),
            oldest_seconds: Some(7.5),
        }
    }

    fn json(views: Vec<LaneView>, paused: Option<&str>) -> Vec<Value> {
        let pause = OperatorPause { until: None, reason: "why".into(), by: None, at: NOW };
        let pauses = paused.map(|number| (NumberId::parse(number).unwrap(), pause));
        let rows = rows(views, pauses.into_iter().collect());
        rows.iter().map(|row| row.to_json("w", NOW)).collect()
    }

    #[test]
    fn a_forecast_is_of_what_waits_in_the_broker_and_in_hand_and_only_where_it_is_served() {
        let forecast = |row: &Value| (row["forecast"].clone(), row["done_in_seconds"].clone());
        assert_eq!(forecast(&json(vec![view("1")], None)[0]), (json!("done"), json!(10)));
        let uncounted = LaneView { ready: None, ..view("1") };
        assert_eq!(forecast(&json(vec![uncounted], None)[0]), (json!("done"), json!(3)));
        let paused = json(vec![view("1")], Some("1"));
        assert_eq!(forecast(&paused[0]), (json!("never"), Value::Null));
        assert_eq!(forecast(&json(vec![], Some("1"))[0]), (json!("unknown"), Value::Null));
    }

    #[test]
    fn a_paused_number_is_on_the_page_also_where_the_worker_does_not_serve_it() {
        let rows = json(vec![view("2")], Some("1"));
        assert_eq!(rows[0]["number"], "1");
        assert_eq!((&rows[0]["paused"]["reason"], &rows[0]["rate"]), (&json!("why"), &Value::Null));
        assert_eq!((&rows[1]["rate"], &rows[1]["paused"]), (&json!(10.0), &Value::Null));
        let keys = |row: &Value| row.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&rows[0]), keys(&rows[1]));
    }

    #[test]
    fn all_that_is_believed_of_a_number_is_read_back_and_an_older_workers_row_as_well() {
        let full =
            LaneView { held_until: Some(NOW), held_for: Some("blocked".into()), ..view("1") };
        let mut row = json(vec![full.clone()], None).remove(0);
        let read = |row: &Value| serde_json::from_value::<Served>(row.clone()).unwrap().view;
        assert_eq!(read(&row), full);
        assert_eq!(row["held_until"], "1970-01-01T00:00:00.000Z", "as all times");
        let keys = row.as_object_mut().unwrap();
        assert!(keys.remove("ready").is_some() && keys.remove("oldest_seconds").is_some());
        assert_eq!(read(&row), LaneView { ready: None, oldest_seconds: None, ..full });
    }
}
