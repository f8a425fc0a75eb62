//! When the series of a number end. Its gauges end when it is served here no more; its counters, once its
//! lane has left the record too. So there are series of the lanes that there are, and of no more, however many
//! come and go.

use super::Metrics;
use super::declare::ByNumber;
use crate::wire::NumberId;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// All counters by number, and which numbers have a lane.
#[derive(Debug)]
pub(super) struct Numbers {
    counters: Vec<ByNumber>,
    recorded: Mutex<BTreeSet<NumberId>>,
}

impl Numbers {
    pub(super) fn new(counters: Vec<ByNumber>) -> Numbers {
        Numbers { counters, recorded: Mutex::default() }
    }

    fn remove(&self, number: &NumberId) {
        for metric in &self.counters {
            metric.remove(number);
        }
    }
}

impl Metrics {
    /// These numbers have a lane, with whatever worker.
    pub fn lanes_recorded(&self, lanes: &BTreeSet<NumberId>) {
        let mut recorded = self.numbers.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in recorded.difference(lanes) {
            self.numbers.remove(gone);
        }
        recorded.clone_from(lanes);
    }

    /// Nothing of this number is here any more. What was still in hand as its lane left the record has made
    /// series again: they go now. A webhook's status or a job without a lane that is counted at this very
    /// moment may leave one; it goes with the number's next lane.
    pub fn number_gone(&self, number: &NumberId) {
        self.waiting.forget(number);
        self.limits.forget(number);
        let recorded = self.numbers.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        if !recorded.contains(number) {
            self.numbers.remove(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Limit, PauseReason, RateSource};
    use crate::policy::Answer;
    use crate::wire::{DeliveryStatus, Priority, Scope, Status};
    use std::time::Duration;

    /// A line of the page that names this number, for each metric that has such lines.
    fn shown(metrics: &Metrics, number: &str) -> BTreeSet<String> {
        let page = metrics.render().unwrap();
        let own = page.lines().filter(|line| line.contains(&format!("number=\"{number}\"")));
        let name = |line: &str| line.split_once('{').unwrap().0.to_owned();
        own.map(name).collect()
    }

    fn everything_happens(metrics: &Metrics, number: &NumberId) {
        metrics.lane_ready(number, Priority::Normal, 7);
        metrics.lane_oldest(number, Duration::ZERO);
        metrics.rate_limit(number, RateSource::Plugin, 80.0);
        metrics.paused(number, PauseReason::Throttled, true);
        metrics.limit_delayed(number, Limit::Number);
        metrics.limit_refused(number, Scope::Number);
        metrics.priority_disagreed(number);
        metrics.webhooks().published(Some(number), DeliveryStatus::Read);
        let accepted = Answer::Accepted { whatsapp_message_id: None };
        metrics.send_started();
        metrics.send_ended(number, &accepted, Duration::ZERO);
        metrics.result(Some(number), Status::Accepted, None);
        let token = metrics.received(Some(number), Priority::Normal);
        token.leave(crate::metrics::Departure::Finished);
    }

    #[test]
    fn of_a_number_whose_lane_is_gone_nothing_is_shown_and_no_other_loses_anything() {
        let (metrics, id) = (Metrics::new().unwrap(), |id| NumberId::parse(id).unwrap());
        let of_numbers = metrics.themes.iter().flat_map(|theme| &theme.entries);
        let of_numbers =
            of_numbers.filter(|entry| entry.labels.iter().any(|label| label.name == "number"));
        let all = of_numbers.map(|entry| format!("chakra_sender_{}", entry.about.name));
        let all: BTreeSet<String> = all.collect();
        let (one, other) = (id("1"), id("2"));
        metrics.lanes_recorded(&[one.clone(), other.clone()].into());
        everything_happens(&metrics, &one);
        everything_happens(&metrics, &other);
        metrics.result(None, Status::Failed, None);
        assert_eq!(shown(&metrics, "1"), all, "each metric by number is told of here");

        metrics.lanes_recorded(&[other].into());
        let late = || metrics.result(Some(&one), Status::Accepted, None);
        late();
        metrics.number_gone(&one);
        assert_eq!((shown(&metrics, "1"), shown(&metrics, "2")), (BTreeSet::new(), all));
        assert_eq!(shown(&metrics, "unknown"), ["chakra_sender_results_total".to_owned()].into());
        let balance = metrics.balance();
        assert_eq!((balance.received, balance.gap()), (2, 0), "what went through still counts");
    }

    #[test]
    fn a_number_that_another_worker_serves_now_keeps_its_counters_here_as_long_as_it_has_a_lane() {
        let (metrics, number) = (Metrics::new().unwrap(), NumberId::parse("1").unwrap());
        metrics.lanes_recorded(&[number.clone()].into());
        metrics.lane_oldest(&number, Duration::ZERO);
        metrics.result(Some(&number), Status::Accepted, None);
        metrics.number_gone(&number);
        let counted = || BTreeSet::from(["chakra_sender_results_total".to_owned()]);
        assert_eq!(shown(&metrics, "1"), counted());
        metrics.lanes_recorded(&BTreeSet::new());
        assert_eq!(shown(&metrics, "1"), BTreeSet::new());
    }
}
