//! Which lanes are on their way out, since the plugin has their numbers no more, and how far each is: it
//! is consumed until nothing waits in it, then closed, then deleted. Quiet: what the broker counted and
//! the time come in as arguments.

use crate::wire::NumberId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// Between two looks at a lane that is not empty yet.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The lanes of this worker that are on their way out.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    /// Since when each lane is ours.
    since: BTreeMap<NumberId, Instant>,
    stages: BTreeMap<NumberId, Stage>,
}

/// How far one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It is consumed as ever, and looked at then.
    Draining(Instant),
    /// The broker is being asked what is left in it.
    Looking,
    /// Nothing waits in it: it is closed, and being deleted.
    Closed,
}

/// What is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Steps {
    /// On their way out from now.
    pub(super) begun: Vec<NumberId>,
    /// To be unbound, and looked into.
    pub(super) look: Vec<NumberId>,
    /// Their numbers have returned: to be bound again.
    pub(super) bind: Vec<NumberId>,
}

impl Leaving {
    /// `ours` are the lanes of this worker, `vanished` the numbers that have gone for good. A lane goes
    /// once it has been ours for `after`: what another worker has in hand of it is settled by then.
    pub(super) fn step<'a>(
        &mut self,
        ours: impl Iterator<Item = &'a NumberId>,
        vanished: &BTreeSet<NumberId>,
        after: Duration,
        now: Instant,
    ) -> Steps {
        let before = std::mem::take(&mut self.since);
        let since = |number: &NumberId| before.get(number).copied().unwrap_or(now);
        self.since = ours.map(|number| (number.clone(), since(number))).collect();
        self.stages.retain(|number, _| self.since.contains_key(number));
        // Where it is being looked at or deleted, an unbinding on its way would undo this: what came of
        // that is waited for.
        let mut bind = Vec::new();
        self.stages.retain(|number, stage| {
            let stays = vanished.contains(number) || !matches!(stage, Stage::Draining(_));
            if !stays {
                bind.push(number.clone());
            }
            stays
        });
        let mut begun = Vec::new();
        for (number, since) in &self.since {
            let goes = vanished.contains(number) && now.duration_since(*since) >= after;
            if goes && !self.stages.contains_key(number) {
                self.stages.insert(number.clone(), Stage::Draining(now));
                begun.push(number.clone());
            }
        }
        let mut look = Vec::new();
        for (number, stage) in &mut self.stages {
            if matches!(stage, Stage::Draining(at) if *at <= now) {
                *stage = Stage::Looking;
                look.push(number.clone());
            }
        }
        Steps { begun, look, bind }
    }

    /// So many jobs wait in it; none where the broker did not say. True: it is closed now, and to be
    /// deleted once all that was in hand of it is settled.
    pub(super) fn looked(&mut self, number: &NumberId, jobs: Option<u32>, now: Instant) -> bool {
        let Some(stage) = self.stages.get_mut(number).filter(|stage| **stage == Stage::Looking)
        else {
            return false;
        };
        let is_empty = jobs == Some(0);
        *stage = if is_empty { Stage::Closed } else { Stage::Draining(now + LOOK_EVERY) };
        is_empty
    }

    /// It was not deleted: something came meanwhile, and it is consumed again.
    pub(super) fn kept(&mut self, number: &NumberId, now: Instant) {
        if let Some(stage) = self.stages.get_mut(number) {
            *stage = Stage::Draining(now + LOOK_EVERY);
        }
    }

    /// It is not ours any more, or is no lane any more. Ours again, it begins anew: one that was deleted
    /// and made again at once, since its number returned, is to be consumed.
    pub(super) fn left(&mut self, number: &NumberId) {
        self.since.remove(number);
        self.stages.remove(number);
    }

    /// Whether it is not to be consumed.
    pub(super) fn is_closed(&self, number: &NumberId) -> bool {
        self.stages.get(number) == Some(&Stage::Closed)
    }

    /// When the next one is to be looked at.
    pub(super) fn next(&self) -> Option<Instant> {
        let at = |stage: &Stage| match stage {
            Stage::Draining(at) => Some(*at),
            Stage::Looking | Stage::Closed => None,
        };
        self.stages.values().filter_map(at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const AFTER: Duration = Duration::from_secs(60);

    struct Story {
        leaving: Leaving,
        began: Instant,
        number: NumberId,
    }

    impl Story {
        fn begin() -> Story {
            let number = NumberId::parse("1").unwrap();
            Story { leaving: Leaving::default(), began: clock::monotonic(), number }
        }

        fn at(&self, second: u64) -> Instant {
            self.began + Duration::from_secs(second)
        }

        fn step(&mut self, second: u64, is_ours: bool, is_gone: bool) -> Steps {
            let (ours, now) = (is_ours.then(|| self.number.clone()), self.at(second));
            let gone = is_gone.then(|| self.number.clone()).into_iter().collect();
            self.leaving.step(ours.iter(), &gone, AFTER, now)
        }

        fn look(&self) -> Steps {
            Steps { look: vec![self.number.clone()], ..Steps::default() }
        }

        fn begin_to_look(&self) -> Steps {
            Steps { begun: vec![self.number.clone()], ..self.look() }
        }
    }

    #[test]
    fn a_lane_goes_once_it_was_ours_for_long_enough_and_nothing_waits_in_it() {
        let (mut story, number) = (Story::begin(), NumberId::parse("1").unwrap());
        let nothing = Steps::default();
        assert_eq!(story.step(0, true, true), nothing);
        assert_eq!(story.step(59, true, true), nothing);
        assert_eq!(story.step(60, true, true), story.begin_to_look());
        assert_eq!(story.step(61, true, true), nothing, "asked already");
        let now = story.at(61);
        assert!(!story.leaving.looked(&number, Some(2), now), "two wait");
        assert!(!story.leaving.is_closed(&number));
        let next = story.leaving.next();
        assert_eq!((next, story.step(65, true, true)), (Some(now + LOOK_EVERY), nothing));
        assert_eq!(story.step(66, true, true), story.look());
        assert!(!story.leaving.looked(&number, None, story.at(66)), "the broker did not say");
        assert_eq!(story.step(71, true, true), story.look());
        assert!(story.leaving.looked(&number, Some(0), story.at(71)));
        assert!(story.leaving.is_closed(&number) && story.leaving.next().is_none());
        story.leaving.kept(&number, story.at(72));
        assert!(!story.leaving.is_closed(&number), "something came");
        assert_eq!(story.step(77, true, true), story.look());
    }

    #[test]
    fn a_number_that_returns_is_bound_again_and_one_that_went_elsewhere_is_not_ours_to_delete() {
        let (mut story, number) = (Story::begin(), NumberId::parse("1").unwrap());
        story.step(0, true, true);
        story.step(60, true, true);
        let bind = Steps { bind: vec![number.clone()], ..Steps::default() };
        assert_eq!(story.step(61, true, false), Steps::default(), "it is being looked at");
        assert!(!story.leaving.looked(&number, None, story.at(61)));
        assert_eq!(story.step(61, true, false), bind);
        assert!(!story.leaving.looked(&number, Some(0), story.at(61)), "it is back");
        assert_eq!(story.step(62, true, true), story.begin_to_look());
        assert_eq!(story.step(63, false, true), Steps::default());
        assert!(!story.leaving.looked(&number, Some(0), story.at(63)), "not ours");
        assert_eq!(story.step(64, true, true), Steps::default(), "ours from now");
        story.step(124, true, true);
        assert!(story.leaving.looked(&number, Some(0), story.at(124)));
        assert_eq!(story.step(125, true, false), Steps::default(), "it is being deleted");
        story.leaving.kept(&number, story.at(126));
        assert_eq!(story.step(126, true, false), bind);
    }

    #[test]
    fn a_lane_that_was_deleted_and_made_again_between_two_steps_is_consumed() {
        let (mut story, number) = (Story::begin(), NumberId::parse("1").unwrap());
        story.step(0, true, true);
        story.step(60, true, true);
        assert!(story.leaving.looked(&number, Some(0), story.at(60)));
        story.leaving.left(&number);
        assert!(!story.leaving.is_closed(&number));
        assert_eq!(story.step(61, true, true), Steps::default(), "ours from now");
        assert_eq!(story.step(121, true, true), story.begin_to_look());
    }
}
