//! `numbers list`: each number of the record, what waits for it, how fast it goes and why it does not.
//! What stands in the broker is always shown; what workers believe, as far as they answer.

use super::failed;
use super::forecast::{Backlog, Forecast, about};
use super::page::paused;
use super::served::{Served, serving};
use crate::cli::End;
use crate::cli::columns::columns;
use crate::cli::output::{print, tell};
use crate::clock;
use crate::policy::rest;
use crate::queue::OperatorPause;
use crate::queue::rabbitmq::{Console, Depths, Record};
use crate::wire::NumberId;
use clap::Args;
use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Lanes that the broker is asked about at once, each on a channel of its own.
const ASKED_AT_ONCE: usize = 16;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  chakra-sender numbers list                                 a row for each number
  chakra-sender numbers list --json | jq 'select(.paused)'   only what is paused")]
pub(super) struct ListArguments {
    /// One JSON object a number
    #[arg(long)]
    json: bool,
}

/// What workers answered.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// The page of each.
    pub(super) pages: Vec<Value>,
    /// How many are here and said nothing in time.
    pub(super) silent: usize,
}

/// All that is known of one number.
struct Row {
    number: NumberId,
    has_lane: bool,
    depths: Option<Depths>,
    pause: Option<OperatorPause>,
    is_dropping: bool,
    /// The worker that serves it, and what it believes.
    served: Option<Served>,
}

pub(super) async fn run(
    arguments: &ListArguments,
    console: &mut Console,
    ask_workers: impl AsyncFnOnce() -> Result<Answers, String>,
) -> anyhow::Result<End> {
    let record = failed(console.record().await, "reading the record")?;
    let (pages, silence) = match ask_workers().await {
        Ok(Answers { pages, silent: 0 }) if pages.is_empty() => {
            (pages, Some("no worker answers".to_owned()))
        }
        Ok(Answers { pages, silent: 0 }) => (pages, None),
        Ok(Answers { pages, silent }) => {
            (pages, Some(format!("workers that do not answer: {silent}")))
        }
        Err(reason) => (Vec::new(), Some(format!("workers cannot be asked: {reason}"))),
    };
    let now = clock::wall();
    let served = serving(pages);
    let rows = failed(rows(console, &record, served, now).await, "counting waiting jobs")?;
    let text = match arguments.json {
        true => rows.iter().map(|row| format!("{}\n", row.to_json(now))).collect(),
        false => table(&rows, now),
    };
    print(text)?;
    match silence {
        _ if rows.is_empty() => tell(format_args!("no number has a lane, and none is paused")),
        Some(silence) => tell(format_args!(
            "{silence}: rates, jobs in hand and owners are not known (each worker has /numbers)"
        )),
        None => {}
    }
    Ok(End::Done)
}

async fn rows(
    console: &Console,
    record: &Record,
    mut served: BTreeMap<NumberId, Served>,
    now: Timestamp,
) -> Result<Vec<Row>, String> {
    let numbers: BTreeSet<NumberId> =
        record.lanes().iter().chain(record.paused_numbers(now)).cloned().collect();
    let asked = stream::iter(numbers).map(async |number| {
        let depths = console.depths(&number).await?;
        Ok::<_, String>((number, depths))
    });
    let counted: Vec<(NumberId, Option<Depths>)> =
        asked.buffered(ASKED_AT_ONCE).try_collect().await?;
    let rows = counted.into_iter().map(|(number, depths)| Row {
        has_lane: record.lanes().contains(&number),
        depths,
        pause: record.paused(&number, now).cloned(),
        is_dropping: record.is_dropping(&number, now),
        served: served.remove(&number),
        number,
    });
    Ok(rows.collect())
}

impl Row {
    fn in_hand(&self) -> Option<usize> {
        self.served.as_ref().map(Served::in_hand)
    }

    /// When all that waits now has been sent, if it goes on like this.
    fn forecast(&self, now: Timestamp) -> Forecast {
        let Some(depths) = self.depths else { return Forecast::Unknown };
        let view = self.served.as_ref().map(|served| &served.view);
        let in_hand = u64::try_from(self.in_hand().unwrap_or(0)).unwrap_or(u64::MAX);
        let backlog = Backlog {
            jobs: depths.ready().saturating_add(in_hand),
            rate: view.map(|view| view.rate),
            held_until: view.and_then(|view| view.held_until),
            paused: self.pause.as_ref().map(|pause| pause.until),
        };
        backlog.forecast(now)
    }

    /// Why it does not go; nothing where it does.
    fn state(&self, now: Timestamp) -> String {
        let mut parts = Vec::new();
        if !self.has_lane {
            parts.push("no lane".to_owned());
        } else if self.depths.is_none() {
            parts.push("a queue of its lane is missing".to_owned());
        }
        if let Some(OperatorPause { until, reason, by, .. }) = &self.pause {
            let until = until.map_or("resumed".to_owned(), |until| format!("{until:.0}"));
            let by = by.as_ref().map(|by| format!(" ({by})")).unwrap_or_default();
            parts.push(format!("paused until {until}: {reason}{by}"));
        }
        if self.is_dropping {
            parts.push("jobs are being dropped".to_owned());
        }
        if let Some(Served { view, .. }) = &self.served
            && let Some(until) = view.held_until.filter(|until| *until > now)
        {
            let why = view.held_for.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
            parts.push(format!("held for {}{why}", about(rest(until, now))));
        }
        if parts.is_empty() && self.depths.is_some_and(|depths| !depths.is_read()) {
            parts.push("no worker reads it".to_owned());
        }
        parts.join("; ")
    }

    fn to_json(&self, now: Timestamp) -> Value {
        let done_in = self.forecast(now).done_in(now);
        let view = self.served.as_ref().map(|served| &served.view);
        let held = view.filter(|view| view.held_until.is_some_and(|until| until > now));
        json!({
            "phone_number_id": self.number,
            "has_lane": self.has_lane,
            "ready": self.depths.map(|depths| {
                json!({ "normal": depths.normal.ready, "urgent": depths.urgent.ready })
            }),
            "is_read": self.depths.map(|depths| depths.is_read()),
            "rate": view.map(|view| view.rate),
            "rate_source": view.map(|view| &view.source),
            "in_hand": self.in_hand(),
            "worker": self.served.as_ref().map(|served| &served.worker),
            "held_until": held.and_then(|view| view.held_until).map(|at| format!("{at:.3}")),
            "held_for": held.and_then(|view| view.held_for.as_ref()),
            "paused": self.pause.as_ref().map(paused),
            "is_dropping": self.is_dropping,
            "done_in_seconds": done_in.map(|rest| rest.as_secs()),
        })
    }
}

fn table(rows: &[Row], now: Timestamp) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let head =
        ["number", "ready", "urgent", "in hand", "rate/s", "from", "done in", "worker", "state"];
    let mut cells = vec![head.map(str::to_owned)];
    cells.extend(rows.iter().map(|row| {
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let served = row.served.as_ref();
        [
            row.number.to_string(),
            or_none(row.depths.map(|depths| depths.ready().to_string())),
            or_none(row.depths.map(|depths| depths.urgent.ready.to_string())),
            or_none(row.in_hand().map(|jobs| jobs.to_string())),
            or_none(served.map(|served| format!("{:.1}", served.view.rate))),
            or_none(served.map(|served| served.view.source.clone())),
            row.forecast(now).words(now),
            or_none(served.map(|served| served.worker.clone())),
            row.state(now),
        ]
    }));
    columns(&cells, [false, true, true, true, true, false, true, false, false])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::rabbitmq::Depth;
    use crate::worker::LaneView;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn view(waiting: usize, rate: f64) -> LaneView {
        LaneView {
            number: NumberId::parse("1").unwrap(),
            rate,
            source: "override".into(),
            waiting,
            in_flight: 0,
            held_until: None,
            held_for: None,
            ready: None,
            oldest_seconds: None,
        }
    }

    fn served(view: LaneView) -> Option<Served> {
        Some(Served { worker: "w".into(), view, paused: None })
    }

    /// 700 jobs that wait, at 10 a second, read by a worker.
    fn row() -> Row {
        let depth = |ready| Depth { ready, consumers: 1 };
        Row {
            number: NumberId::parse("1").unwrap(),
            has_lane: true,
            depths: Some(Depths { normal: depth(690), urgent: depth(10) }),
            pause: None,
            is_dropping: false,
            served: served(view(20, 10.0)),
        }
    }

    fn pause(until: Option<i64>) -> Option<OperatorPause> {
        let (reason, by) = ("wrong list".into(), Some("ann@desk".into()));
        Some(OperatorPause { until: until.map(at), reason, by, at: at(0) })
    }

    #[test]
    fn a_number_that_runs_has_a_forecast_and_one_that_stands_says_why() {
        assert_eq!(
            (row().state(at(0)).as_str(), row().forecast(at(0))),
            ("", Forecast::Done(at(72)))
        );
        let paused = |until| Row { pause: pause(until), ..row() }.state(at(0));
        assert_eq!(paused(None), "paused until resumed: wrong list (ann@desk)");
        assert_eq!(paused(Some(60)), "paused until 2027-01-15T08:01:00Z: wrong list (ann@desk)");
        let held =
            LaneView { held_until: Some(at(90)), held_for: Some("131057".into()), ..view(0, 1.0) };
        let held = Row { served: served(held), ..row() };
        assert_eq!(
            (held.state(at(0)).as_str(), held.forecast(at(0))),
            ("held for 90 s: 131057", Forecast::Done(at(790)))
        );
        assert_eq!(
            Row { depths: Some(Depths::default()), ..row() }.state(at(0)),
            "no worker reads it"
        );
        assert_eq!(Row { depths: None, ..row() }.state(at(0)), "a queue of its lane is missing");
        let unserved = Row { served: None, ..row() };
        assert_eq!(
            (unserved.state(at(0)).as_str(), unserved.forecast(at(0))),
            ("", Forecast::Unknown)
        );
        let paused = Row { pause: pause(None), ..row() };
        assert_eq!(paused.forecast(at(0)), Forecast::Never);
    }

    #[test]
    fn who_has_most_in_hand_is_believed_and_what_cannot_be_read_is_left_out() {
        let page = |worker: &str, waiting: usize, rate: f64| {
            json!([
                { "number": "1", "rate": rate, "source": "override", "waiting": waiting, "in_flight": 0,
                  "worker": worker, "held_until": null, "held_for": null, "paused": null },
                { "number": "1", "rate": null },
            ])
        };
        let odd = json!({ "numbers": 1 });
        let serving = serving(vec![page("old", 0, 5.0), page("new", 3, 10.0), odd]);
        let Served { worker, view, .. } = &serving[&NumberId::parse("1").unwrap()];
        assert_eq!((worker.as_str(), view.rate, serving.len()), ("new", 10.0, 1));
    }

    #[test]
    fn every_key_is_there_also_when_little_is_known() {
        let keys = |row: &Row| row.to_json(at(0)).as_object().unwrap().len();
        let bare = Row { has_lane: false, depths: None, served: None, ..row() };
        assert_eq!(keys(&bare), keys(&row()));
        let json = Row { pause: pause(None), ..row() }.to_json(at(0));
        assert_eq!(json["ready"], json!({ "normal": 690, "urgent": 10 }));
        assert_eq!(json["paused"]["at"], "2027-01-15T08:00:00.000Z");
        assert_eq!((&json["done_in_seconds"], &json["worker"]), (&Value::Null, &json!("w")));
        assert_eq!(row().to_json(at(0))["done_in_seconds"], 72);
    }
}
