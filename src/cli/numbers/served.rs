//! What workers tell of their numbers, read back from their pages.

use crate::wire::NumberId;
use crate::worker::LaneView;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// A row of a worker's page; what else it holds is not asked for.
#[derive(Debug, Deserialize)]
pub(in crate::cli) struct Served {
    /// Which worker, for people.
    pub(in crate::cli) worker: String,
    #[serde(flatten)]
    pub(in crate::cli) view: LaneView,
    /// An operator's pause, as the worker knows it.
    pub(in crate::cli) paused: Option<Paused>,
}

#[derive(Debug, Deserialize)]
pub(in crate::cli) struct Paused {
    /// None: until it is resumed.
    pub(in crate::cli) until: Option<Timestamp>,
    pub(in crate::cli) reason: String,
}

impl Served {
    pub(in crate::cli) fn in_hand(&self) -> usize {
        self.view.waiting + self.view.in_flight
    }
}

/// Of each number the worker that has most of its jobs in hand: one that has handed it over may still
/// remember it. What cannot be read of an answer is left out.
pub(in crate::cli) fn serving(pages: Vec<Value>) -> BTreeMap<NumberId, Served> {
    let mut serving: BTreeMap<NumberId, Served> = BTreeMap::new();
    for page in pages {
        let Value::Array(page) = page else { continue };
        for served in page.into_iter().filter_map(|row| serde_json::from_value::<Served>(row).ok())
        {
            let other = serving.get(&served.view.number);
            if other.is_none_or(|other| other.in_hand() < served.in_hand()) {
                serving.insert(served.view.number.clone(), served);
            }
        }
    }
    serving
}
