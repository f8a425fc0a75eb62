//! Shows what stands in the record, where it can be seen: which lanes there are; what operators ordered,
//! to the hall, as metrics, in the log. Decides nothing, and remembers over all connections what it has shown.

use super::record::Record;
use crate::metrics::{Metrics, PauseReason};
use crate::policy::DropRule;
use crate::queue::{OperatorPause, Operators};
use crate::wire::NumberId;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// The record, shown.
#[derive(Debug)]
pub(super) struct Board {
    lanes: watch::Sender<BTreeSet<NumberId>>,
    operators: Operators,
    metrics: Arc<Metrics>,
    shown: Mutex<Shown>,
}

#[derive(Debug, Default)]
struct Shown {
    pauses: BTreeMap<NumberId, OperatorPause>,
    /// By their names.
    drops: BTreeMap<String, DropRule>,
}

impl Board {
    pub(super) fn new(operators: Operators, metrics: Arc<Metrics>) -> Board {
        Board { lanes: watch::Sender::default(), operators, metrics, shown: Mutex::default() }
    }

    /// The numbers that have a lane, with whatever worker.
    pub(super) fn lanes(&self) -> watch::Receiver<BTreeSet<NumberId>> {
        self.lanes.subscribe()
    }

    /// Shows the record as it stands at `now`, and logs what is new.
    pub(super) fn show(&self, record: &Record, now: Timestamp) {
        self.lanes.send_if_modified(|lanes| {
            let is_new = lanes != record.lanes();
            if is_new {
                self.metrics.lanes_recorded(record.lanes());
                lanes.clone_from(record.lanes());
            }
            is_new
        });
        let orders = record.orders();
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pauses = orders.pauses.clone();
        pauses.retain(|_, pause| pause.holds(now));
        for (number, pause) in &pauses {
            if shown.pauses.get(number) != Some(pause) {
                self.metrics.paused(number, PauseReason::Operator, true);
                let until = pause.until.map_or_else(|| "resumed".to_owned(), |at| at.to_string());
                let (reason, by) = (&pause.reason, pause.by.as_deref());
                tracing::info!(%number, until, reason, by, "an operator pauses the number");
            }
        }
        for (number, pause) in &shown.pauses {
            if !pauses.contains_key(number) {
                self.metrics.paused(number, PauseReason::Operator, false);
                match pause.holds(now) {
                    true => tracing::info!(%number, "an operator resumes the number"),
                    false => tracing::info!(%number, "the operator's pause of the number is over"),
                }
            }
        }
        let running = record.running().map(|rule| (rule.id.clone(), rule.clone()));
        let drops: BTreeMap<String, DropRule> = running.collect();
        for (id, DropRule { number, reason, metadata, until, .. }) in &drops {
            if !shown.drops.contains_key(id) {
                let key = metadata.as_ref().map(|filter| &filter.key);
                tracing::info!(%number, reason, key, %until, "an operator drops jobs of the number");
            }
        }
        for (id, DropRule { number, .. }) in &shown.drops {
            if !drops.contains_key(id) {
                tracing::info!(%number, "the drop is over: it still reaches what comes back from waits");
            }
        }
        *shown = Shown { pauses, drops };
        self.operators.replace(orders);
    }
}
