//! What operators ordered, as the hall needs it: numbers that are paused, jobs that are to be dropped.
//! The queue fills it in. Decides nothing: what a drop ends is `policy`'s.

use crate::policy::{self, DropRule, History};
use crate::wire::{NumberId, SendJob};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::watch;

/// A job that is read only because a drop goes through its number's backlog waits for so long: it comes
/// back seldom enough to cost nothing, and soon after the number is resumed. A second more than the step
/// of two minutes: with exactly that, what has passed until it is published would make it a shorter one.
const PUT_OFF: Duration = Duration::from_secs(121);

/// An operator's word that a number is not to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorPause {
    /// Until when; none: until it is resumed.
    pub until: Option<Timestamp>,
    /// Why, for people.
    pub reason: String,
    /// Who, as user@host, where that is known.
    pub by: Option<String>,
    /// Since when.
    pub at: Timestamp,
}

impl OperatorPause {
    /// Whether it holds.
    pub fn holds(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// All orders; clones are the same. Bounded by the record that they stand in.
#[derive(Debug, Clone, Default)]
pub struct Operators(watch::Sender<Orders>);

/// The orders of one moment.
#[derive(Debug, Default)]
pub struct Orders {
    /// By number.
    pub pauses: BTreeMap<NumberId, OperatorPause>,
    /// Drops, those that are over included: they still reach what comes back from a wait.
    pub drops: Vec<DropRule>,
    /// Numbers whose backlog is being read for a drop.
    pub dropping: BTreeSet<NumberId>,
}

impl Operators {
    /// Replaces all that was ordered.
    pub fn replace(&self, orders: Orders) {
        self.0.send_replace(orders);
    }

    /// The drop that ends a job which surely was not sent; none where it may live.
    pub fn drop_of(&self, job: &SendJob, history: &History, now: Timestamp) -> Option<DropRule> {
        let orders = self.0.borrow();
        orders.drops.iter().find(|rule| policy::drops(rule, job, history, now)).cloned()
    }

    /// Until when a job is to wait elsewhere: its number is paused, and its lane is read only for a
    /// drop. None where it may go, or where its lane is left alone as a whole.
    pub fn put_off(&self, number: &NumberId, now: Timestamp) -> Option<Timestamp> {
        let orders = self.0.borrow();
        let pause = orders.pauses.get(number).filter(|pause| pause.holds(now))?;
        let later = now.checked_add(PUT_OFF).unwrap_or(Timestamp::MAX);
        let until = pause.until.map_or(later, |until| until.min(later));
        orders.dropping.contains(number).then_some(until)
    }

    /// The pauses that hold.
    pub fn pauses(&self, now: Timestamp) -> BTreeMap<NumberId, OperatorPause> {
        let orders = self.0.borrow();
        let holding = orders.pauses.iter().filter(|(_, pause)| pause.holds(now));
        holding.map(|(number, pause)| (number.clone(), pause.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_put_off_while_its_paused_lane_is_read_for_a_drop_and_not_past_the_pause() {
        let at = |seconds| Timestamp::from_second(1_800_000_000 + seconds).unwrap();
        let number = NumberId::parse("1").unwrap();
        let put_off = |until: Option<i64>, dropping: bool| {
            let pause =
                OperatorPause { until: until.map(at), reason: "x".into(), by: None, at: at(-9) };
            let operators = Operators::default();
            operators.replace(Orders {
                pauses: BTreeMap::from([(number.clone(), pause)]),
                dropping: dropping.then(|| number.clone()).into_iter().collect(),
                ..Orders::default()
            });
            operators.put_off(&number, at(0))
        };
        assert_eq!(put_off(None, true), Some(at(121)));
        assert_eq!(put_off(Some(30), true), Some(at(30)));
        assert_eq!(put_off(Some(0), true), None, "the pause is over");
        assert_eq!(put_off(None, false), None, "its lane is left alone as a whole");
        assert_eq!(Operators::default().put_off(&number, at(0)), None);
    }
}
