//! How far each message is known to have come, within a bounded window, so that repeats and steps back are
//! told to nobody. It is only a courtesy: what left the window, or came by another worker, is told again,
//! with the same AMQP `message_id`.
//!
//! A status counts as seen once the broker has it, not before: one that was answered with 503 is repeated,
//! and must pass then. Of two that come at the same time both pass.

use super::notice::Notice;
use crate::wire::DeliveryStatus;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;
use tokio::time::Instant;

/// Messages that one half of the window holds: 17 bytes each in a table with room for 2^19 of them, so both
/// halves take 18 MB at most. At 1,000 messages a second they reach back 7 to 15 minutes.
const MOST: usize = 450_000;

/// One half of the window spans no longer. Repeats come within minutes; what is older only takes room.
const LONGEST: Duration = Duration::from_secs(12 * 3_600);

/// Why a status is not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Old {
    /// It was told before.
    Repeat,
    /// The message is known to have come further.
    StepBack,
}

/// The window: what was seen lately, in two halves. The older half goes as a whole.
#[derive(Debug)]
pub(super) struct Seen {
    most: usize,
    hasher: RandomState,
    young: HashMap<u64, Rank>,
    old: HashMap<u64, Rank>,
    /// When the younger half began.
    since: Instant,
}

/// How far a message came. A later status of the order stands above an earlier one. `failed` stands below
/// `delivered`: whatever else is told, a message that was delivered did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank(u8);

impl From<DeliveryStatus> for Rank {
    fn from(status: DeliveryStatus) -> Rank {
        Rank(match status {
            DeliveryStatus::Sent => 1,
            DeliveryStatus::Failed => 2,
            DeliveryStatus::Delivered => 3,
            DeliveryStatus::Read => 4,
            DeliveryStatus::Played => 5,
        })
    }
}

impl Seen {
    /// Nothing was seen yet.
    pub(super) fn new(now: Instant) -> Seen {
        Seen::of(MOST, now)
    }

    fn of(most: usize, now: Instant) -> Seen {
        let (young, old) = (HashMap::new(), HashMap::new());
        Seen { most, hasher: RandomState::new(), young, old, since: now }
    }

    /// Why it need not be told; none where it must be.
    pub(super) fn knows(&self, notice: &Notice) -> Option<Old> {
        let message = self.key(notice);
        let known = self.young.get(&message).max(self.old.get(&message))?;
        match Rank::from(notice.status).cmp(known) {
            std::cmp::Ordering::Less => Some(Old::StepBack),
            std::cmp::Ordering::Equal => Some(Old::Repeat),
            std::cmp::Ordering::Greater => None,
        }
    }

    /// It has been told.
    pub(super) fn mark(&mut self, notice: &Notice, now: Instant) {
        let age = now.saturating_duration_since(self.since);
        if self.young.len() >= self.most || age >= LONGEST {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
            self.since = now;
        }
        let rank = Rank::from(notice.status);
        let known = self.young.entry(self.key(notice)).or_insert(rank);
        *known = rank.max(*known);
    }

    /// Of 64 bits: one in 10^13 new messages is taken for another one.
    fn key(&self, notice: &Notice) -> u64 {
        self.hasher.hash_one(&notice.message_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use DeliveryStatus::{Delivered, Failed, Played, Read, Sent};
    use proptest::prelude::*;

    fn notice(message: u16, status: DeliveryStatus) -> Notice {
        Notice {
            number: None,
            message_id: format!("wamid.{message}"),
            status,
            at: jiff::Timestamp::UNIX_EPOCH,
            opaque: None,
            fault: None,
        }
    }

    /// Those of these statuses of one message that are told, each marked once it is.
    fn told(statuses: &[DeliveryStatus]) -> Vec<DeliveryStatus> {
        let now = clock::monotonic();
        let mut seen = Seen::new(now);
        let mut told = Vec::new();
        for status in statuses {
            let notice = notice(1, *status);
            if seen.knows(&notice).is_none() {
                seen.mark(&notice, now);
                told.push(*status);
            }
        }
        told
    }

    #[test]
    fn repeats_and_steps_back_are_not_told() {
        assert_eq!(told(&[Sent, Sent, Delivered, Sent, Read, Delivered]), [Sent, Delivered, Read]);
        assert_eq!(told(&[Read, Delivered, Played, Read]), [Read, Played]);
        assert_eq!(told(&[Sent, Failed, Failed, Sent]), [Sent, Failed]);
    }

    #[test]
    fn what_was_delivered_did_not_fail() {
        assert_eq!(told(&[Delivered, Failed]), [Delivered]);
        assert_eq!(told(&[Failed, Delivered, Failed]), [Failed, Delivered]);
    }

    #[test]
    fn it_says_whether_it_is_a_repeat_or_a_step_back() {
        let now = clock::monotonic();
        let mut seen = Seen::new(now);
        seen.mark(&notice(1, Delivered), now);
        assert_eq!(seen.knows(&notice(1, Delivered)), Some(Old::Repeat));
        assert_eq!(seen.knows(&notice(1, Sent)), Some(Old::StepBack));
        assert_eq!(seen.knows(&notice(1, Read)), None);
        assert_eq!(seen.knows(&notice(2, Sent)), None);
    }

    #[test]
    fn what_was_not_marked_passes_again() {
        let seen = Seen::new(clock::monotonic());
        let status = notice(1, Sent);
        assert_eq!((seen.knows(&status), seen.knows(&status)), (None, None));
    }

    #[test]
    fn a_late_mark_of_an_earlier_status_takes_nothing_back() {
        let now = clock::monotonic();
        let mut seen = Seen::new(now);
        seen.mark(&notice(1, Read), now);
        seen.mark(&notice(1, Sent), now);
        assert_eq!(seen.knows(&notice(1, Read)), Some(Old::Repeat));
    }

    #[test]
    fn the_window_ends_by_age() {
        let begin = clock::monotonic();
        let mut seen = Seen::new(begin);
        seen.mark(&notice(1, Sent), begin);
        let mut at = begin + LONGEST;
        seen.mark(&notice(2, Sent), at);
        assert_eq!(seen.knows(&notice(1, Sent)), Some(Old::Repeat), "it is in the older half");
        at += LONGEST;
        seen.mark(&notice(3, Sent), at);
        assert_eq!(seen.knows(&notice(1, Sent)), None);
    }

    proptest! {
        #[test]
        fn it_holds_no_more_than_its_bound_and_the_latest_are_in_it(
            messages in prop::collection::vec(0..50_u16, 1..300), most in 1..20_usize,
        ) {
            let now = clock::monotonic();
            let mut seen = Seen::of(most, now);
            for (count, message) in messages.iter().enumerate() {
                seen.mark(&notice(*message, Sent), now);
                prop_assert!(seen.young.len() <= most && seen.old.len() <= most);
                for latest in &messages[(count + 1).saturating_sub(most)..=count] {
                    prop_assert_eq!(seen.knows(&notice(*latest, Sent)), Some(Old::Repeat));
                }
            }
        }

        #[test]
        fn each_status_that_is_told_stands_above_the_one_before(
            statuses in prop::collection::vec(prop::sample::select(&DeliveryStatus::ALL[..]), 0..20),
        ) {
            let told = told(&statuses);
            prop_assert!(told.windows(2).all(|two| Rank::from(two[0]) < Rank::from(two[1])));
            prop_assert_eq!(
                told.iter().map(|status| Rank::from(*status)).max(),
                statuses.iter().map(|status| Rank::from(*status)).max()
            );
        }
    }
}
