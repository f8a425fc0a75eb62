//! What one worker knows of its numbers, as JSON: the page `/numbers`, and what `numbers list` reads.

use super::forecast::{Backlog, Forecast};
use super::worker_name;
use crate::cli::output::moment;
use crate::metrics::{Metrics, Shown};
use crate::queue::{OperatorPause, Operators};
use crate::wire::NumberId;
use crate::worker::{Fault, JobViews, LaneView, LaneViews, Recent};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
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
        rows(&self.worker, self.views.list(), self.operators.pauses(now))
    }

    /// The same with what this worker knows of each number's backlog and failures, for who looks at it alone.
    pub(in crate::cli) fn with_backlogs(
        &self,
        metrics: &Metrics,
        jobs: &JobViews,
        now: Timestamp,
    ) -> Value {
        let (views, pauses) = (self.views.list(), self.operators.pauses(now));
        let known: BTreeMap<NumberId, LaneView> =
            views.iter().map(|view| (view.number.clone(), view.clone())).collect();
        let (shown, mut rows) = (metrics.shown(), rows(&self.worker, views, pauses.clone()));
        for row in rows.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
            let number = row.get("number").and_then(Value::as_str).unwrap_or_default();
            let Ok(number) = NumberId::parse(number) else { continue };
            let shown = shown.get(number.as_str()).copied().unwrap_or_default();
            let pause = pauses.get(&number).map(|pause| pause.until);
            row.extend(backlog(known.get(&number), shown, pause, now));
            let failures: Vec<Value> = jobs.failures(&number).iter().map(failure).collect();
            row.insert("failures".to_owned(), failures.into());
        }
        rows
    }
}

/// What waits of a number, and until when.
fn backlog(
    view: Option<&LaneView>,
    shown: Shown,
    paused: Option<Option<Timestamp>>,
    now: Timestamp,
) -> Map<String, Value> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
    let count = |gauge: f64| gauge as u64;
    let (normal, urgent) = (shown.normal.map(count), shown.urgent.map(count));
    let in_hand = view.map_or(0, |view| view.waiting + view.in_flight);
    let ready = normal.unwrap_or(0) + urgent.unwrap_or(0);
    let backlog = Backlog {
        jobs: ready + u64::try_from(in_hand).unwrap_or(u64::MAX),
        rate: view.map(|view| view.rate),
        held_until: view.and_then(|view| view.held_until),
        paused,
    };
    // Another worker knows what waits of a number that is not served here.
    let forecast = view.map_or(Forecast::Unknown, |_| backlog.forecast(now));
    let pairs = [
        ("ready", json!({ "normal": normal, "urgent": urgent })),
        ("oldest_seconds", json!(shown.oldest)),
        ("forecast", forecast.name().into()),
        ("done_in_seconds", json!(forecast.done_in(now).map(|rest| rest.as_secs()))),
    ];
    pairs.map(|(key, value)| (key.to_owned(), value)).into_iter().collect()
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

fn rows(
    worker: &str,
    views: Vec<LaneView>,
    mut pauses: BTreeMap<NumberId, OperatorPause>,
) -> Value {
    let mut rows: BTreeMap<NumberId, Value> = BTreeMap::new();
    for view in views {
        let LaneView { number, rate, source, waiting, in_flight, held_until, held_for } = view;
        let row = json!({
            "number": number, "rate": rate, "source": source, "waiting": waiting,
            "in_flight": in_flight, "worker": worker, "held_until": moment(held_until), "held_for": held_for,
            "paused": pauses.remove(&number).as_ref().map(paused),
        });
        rows.insert(number, row);
    }
    for (number, pause) in pauses {
        let row = json!({
            "number": number, "rate": null, "source": null, "waiting": null,
            "in_flight": null, "worker": worker, "held_until": null, "held_for": null, "paused": paused(&pause),
        });
        rows.insert(number, row);
    }
    rows.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forecast_is_of_what_waits_in_the_broker_and_in_hand_and_only_where_it_is_served() {
        let view = LaneView {
            number: NumberId::parse("1").unwrap(),
            rate: 10.0,
            source: "override".into(),
            waiting: 20,
            in_flight: 10,
            held_until: None,
            held_for: None,
        };
        let shown = Shown { normal: Some(60.0), urgent: Some(10.0), oldest: Some(7.5) };
        let now = Timestamp::UNIX_EPOCH;
        let served = backlog(Some(&view), shown, None, now);
        assert_eq!(served["ready"], json!({ "normal": 60, "urgent": 10 }));
        assert_eq!((&served["forecast"], &served["done_in_seconds"]), (&json!("done"), &json!(10)));
        assert_eq!(served["oldest_seconds"], 7.5);
        let paused = backlog(Some(&view), shown, Some(None), now);
        assert_eq!(
            (&paused["forecast"], &paused["done_in_seconds"]),
            (&json!("never"), &Value::Null)
        );
        let elsewhere = backlog(None, Shown::default(), Some(None), now);
        assert_eq!(elsewhere["forecast"], "unknown");
        assert_eq!(elsewhere.len(), served.len());
    }

    #[test]
    fn a_paused_number_is_on_the_page_also_where_the_worker_does_not_serve_it() {
        let number = |digits| NumberId::parse(digits).unwrap();
        let at = Timestamp::UNIX_EPOCH;
        let view = LaneView {
            number: number("2"),
            rate: 70.0,
            source: "override".into(),
            waiting: 3,
            in_flight: 1,
            held_until: Some(at),
            held_for: None,
        };
        let pause = OperatorPause { until: None, reason: "why".into(), by: None, at };
        let rows = rows("w", vec![view], BTreeMap::from([(number("1"), pause)]));
        assert_eq!(rows[0]["number"], "1");
        assert_eq!((&rows[0]["paused"]["reason"], &rows[0]["rate"]), (&json!("why"), &Value::Null));
        assert_eq!((&rows[1]["rate"], &rows[1]["paused"]), (&json!(70.0), &Value::Null));
        assert_eq!(rows[1]["held_until"], "1970-01-01T00:00:00.000Z", "as all times");
        let keys = |row: &Value| row.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&rows[0]), keys(&rows[1]));
    }
}
