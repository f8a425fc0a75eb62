//! When the series of a number end. Its gauges end when it is served here no more. Its counters stay for a
//! while after its lane has left the record too, since their last steps (what became of its last jobs) are to
//! be read by who watches. So there are series of the lanes that there are and of so many that went last,
//! however many come and go.

use super::Metrics;
use super::declare::ByNumber;
use crate::wire::NumberId;
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, PoisonError};

/// Numbers whose lanes have gone and whose counters are still shown: the latest. Lanes go minutes apart
/// (`numbers.retire_after`), so this is far longer than between two scrapes.
const KEPT_GONE: usize = 32;

/// All counters by number, and which numbers have them.
#[derive(Debug)]
pub(super) struct Numbers {
    counters: Vec<ByNumber>,
    lanes: Mutex<Lanes>,
}

#[derive(Debug, Default)]
struct Lanes {
    recorded: BTreeSet<NumberId>,
    /// The latest at the back.
    gone: VecDeque<NumberId>,
}

impl Numbers {
    pub(super) fn new(counters: Vec<ByNumber>) -> Numbers {
        Numbers { counters, lanes: Mutex::default() }
    }
}

impl Lanes {
    /// Takes over which numbers have a lane; those whose counters end with that.
    fn record(&mut self, lanes: &BTreeSet<NumberId>) -> Vec<NumberId> {
        self.gone.extend(self.recorded.difference(lanes).cloned());
        self.gone.retain(|number| !lanes.contains(number));
        self.recorded.clone_from(lanes);
        let over = self.gone.len().saturating_sub(KEPT_GONE);
        self.gone.drain(..over).collect()
    }
}

impl Metrics {
    /// These numbers have a lane, with whatever worker.
    pub fn lanes_recorded(&self, lanes: &BTreeSet<NumberId>) {
        let mut known = self.numbers.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        for number in known.record(lanes) {
            self.numbers.counters.iter().for_each(|metric| metric.remove(&number));
        }
    }

    /// Nothing of this number is served here any more.
    pub fn number_gone(&self, number: &NumberId) {
        self.waiting.forget(number);
        self.limits.forget(number);
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
        let (metrics, id) = (Metrics::new().unwrap(), |id: &str| NumberId::parse(id).unwrap());
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

        metrics.number_gone(&one);
        metrics.lanes_recorded(&[other.clone()].into());
        metrics.result(Some(&one), Status::Accepted, None);
        let kept = shown(&metrics, "1");
        assert!(kept.contains("chakra_sender_results_total"), "its last results can be read");
        assert!(!kept.contains("chakra_sender_lane_oldest_seconds"), "{kept:?}");
        for later in 1_000..1_000 + KEPT_GONE {
            assert_eq!(shown(&metrics, "1"), kept);
            metrics.lanes_recorded(&[other.clone(), id(&later.to_string())].into());
            metrics.lanes_recorded(&[other.clone()].into());
        }
        assert_eq!((shown(&metrics, "1"), shown(&metrics, "2")), (BTreeSet::new(), all));
        assert_eq!(shown(&metrics, "unknown"), ["chakra_sender_results_total".to_owned()].into());
        let balance = metrics.balance();
        assert_eq!((balance.received, balance.gap()), (2, 0), "what went through still counts");
    }

    #[test]
    fn a_number_that_another_worker_serves_or_that_has_come_back_keeps_its_counters_here() {
        let (metrics, number) = (Metrics::new().unwrap(), NumberId::parse("1").unwrap());
        metrics.lanes_recorded(&[number.clone()].into());
        metrics.lane_oldest(&number, Duration::ZERO);
        metrics.result(Some(&number), Status::Accepted, None);
        metrics.number_gone(&number);
        let counted = || BTreeSet::from(["chakra_sender_results_total".to_owned()]);
        assert_eq!(shown(&metrics, "1"), counted());
        metrics.lanes_recorded(&BTreeSet::new());
        metrics.lanes_recorded(&[number.clone()].into());
        for other in 1_000..=1_000 + KEPT_GONE {
            let other = NumberId::parse(&other.to_string()).unwrap();
            metrics.lanes_recorded(&[number.clone(), other].into());
        }
        assert_eq!(shown(&metrics, "1"), counted());
    }
}
