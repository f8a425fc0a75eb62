//! What one worker knows of its numbers, as JSON: the page `/numbers`, and what `numbers list` reads.

use super::worker_name;
use crate::queue::{OperatorPause, Operators};
use crate::wire::NumberId;
use crate::worker::{LaneView, LaneViews};
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
        rows(&self.worker, self.views.list(), self.operators.pauses(now))
    }
}

/// A pause, for programs.
pub(super) fn paused(pause: &OperatorPause) -> Value {
    let OperatorPause { until, reason, by, at } = pause;
    let moment = |at: Timestamp| format!("{at:.3}");
    json!({ "until": until.map(moment), "reason": reason, "by": by, "at": moment(*at) })
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
            "in_flight": in_flight, "worker": worker, "held_until": held_until, "held_for": held_for,
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
    fn a_paused_number_is_on_the_page_also_where_the_worker_does_not_serve_it() {
        let number = |digits| NumberId::parse(digits).unwrap();
        let view = LaneView {
            number: number("2"),
            rate: 70.0,
            source: "override".into(),
            waiting: 3,
            in_flight: 1,
            held_until: None,
            held_for: None,
        };
        let at = Timestamp::UNIX_EPOCH;
        let pause = OperatorPause { until: None, reason: "why".into(), by: None, at };
        let rows = rows("w", vec![view], BTreeMap::from([(number("1"), pause)]));
        assert_eq!(rows[0]["number"], "1");
        assert_eq!((&rows[0]["paused"]["reason"], &rows[0]["rate"]), (&json!("why"), &Value::Null));
        assert_eq!((&rows[1]["rate"], &rows[1]["paused"]), (&json!(70.0), &Value::Null));
        let keys = |row: &Value| row.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&rows[0]), keys(&rows[1]));
    }
}
