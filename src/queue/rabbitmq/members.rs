//! Which workers are here: signs of life and the time go in, the view comes out. No I/O, no clock, and
//! nothing about lanes: whose they are is `share`'s.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::Instant;

/// Who gives no sign for so long is gone.
const SILENCE: Duration = Duration::from_secs(2);

/// Who has not heard itself for so long hears nobody: the silence of others then says nothing of them.
const DEAF: Duration = Duration::from_secs(1);

/// No more other workers are remembered, those that have just said goodbye included: far above any real
/// installation, so that a broken client cannot fill our memory.
const MAX_WORKERS: usize = 1_000;

/// How long a goodbye is remembered, so that an older sign which comes late does not bring its worker
/// back: longer than a sign is under way when a connection is lost and its publish is repeated.
const REMEMBERED: Duration = Duration::from_secs(60);

/// A worker: made once for each process. Written as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(u128);

impl WorkerId {
    /// By chance; two are never the same.
    pub fn new(chance: u128) -> WorkerId {
        WorkerId(chance)
    }

    /// Reads what `Display` writes.
    fn parse(text: &str) -> Option<WorkerId> {
        let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        digits.then(|| u128::from_str_radix(text, 16).ok().map(WorkerId)).flatten()
    }

    /// For hashing: the high and the low half.
    pub(super) fn halves(self) -> [u64; 2] {
        let [a, b, c, d, e, f, g, h, low @ ..] = self.0.to_be_bytes();
        [[a, b, c, d, e, f, g, h], low].map(u64::from_be_bytes)
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for WorkerId {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for WorkerId {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<WorkerId, D::Error> {
        let text = String::deserialize(from)?;
        let id = WorkerId::parse(&text);
        id.ok_or_else(|| serde::de::Error::custom("a worker's id is 32 hexadecimal digits"))
    }
}

/// This process among the workers, over all its connections; clones are the same one.
#[derive(Debug, Clone)]
pub struct Identity {
    id: WorkerId,
    signs: Arc<AtomicU64>,
}

impl Identity {
    /// To be made once for each process.
    pub fn new(id: WorkerId) -> Identity {
        Identity { id, signs: Arc::default() }
    }

    /// Who it is.
    pub fn id(&self) -> WorkerId {
        self.id
    }

    /// The sequence number of its next sign.
    pub(super) fn next_sign(&self) -> u64 {
        self.signs.fetch_add(1, Relaxed) + 1
    }
}

/// What a worker says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    /// It is here.
    Here,
    /// It leaves.
    Bye,
}

/// What came of a sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// The view is as before.
    Unchanged,
    /// There is another view.
    Changed,
    /// A new worker, and no more are remembered: passed over.
    TooMany,
}

/// Who has been heard when, as one worker knows it.
#[derive(Debug)]
pub(super) struct Members {
    me: WorkerId,
    heard_myself: Instant,
    others: BTreeMap<WorkerId, Last>,
    view: BTreeSet<WorkerId>,
}

/// The last sign of another worker.
#[derive(Debug)]
struct Last {
    sign: Sign,
    sequence: u64,
    at: Instant,
}

impl Last {
    fn is_here(&self) -> bool {
        self.sign == Sign::Here
    }
}

impl Members {
    /// Nobody but me is known.
    pub(super) fn new(me: WorkerId, now: Instant) -> Members {
        Members { me, heard_myself: now, others: BTreeMap::new(), view: BTreeSet::from([me]) }
    }

    /// All that are here, me included.
    pub(super) fn view(&self) -> &BTreeSet<WorkerId> {
        &self.view
    }

    /// When a sign of my own came last.
    pub(super) fn heard_myself(&self) -> Instant {
        self.heard_myself
    }

    /// A worker gave a sign; signs that it gave before the last known one say nothing.
    pub(super) fn heard(
        &mut self,
        worker: WorkerId,
        sequence: u64,
        sign: Sign,
        now: Instant,
    ) -> Heard {
        if worker == self.me {
            self.hear_myself(now);
            return Heard::Unchanged;
        }
        let full = self.others.len() >= MAX_WORKERS;
        let last = Last { sign, sequence, at: now };
        match self.others.entry(worker) {
            Entry::Vacant(_) if full => return Heard::TooMany,
            Entry::Vacant(place) => {
                place.insert(last);
            }
            Entry::Occupied(known) if known.get().sequence >= sequence => return Heard::Unchanged,
            Entry::Occupied(mut known) => {
                known.insert(last);
            }
        }
        let changed = match sign {
            Sign::Here => self.view.insert(worker),
            Sign::Bye => self.view.remove(&worker),
        };
        if changed { Heard::Changed } else { Heard::Unchanged }
    }

    /// What others said meanwhile may have been lost, or is still to come.
    fn hear_myself(&mut self, now: Instant) {
        if self.is_deaf(now) {
            for last in self.others.values_mut().filter(|last| last.is_here()) {
                last.at = now;
            }
        }
        self.heard_myself = now;
    }

    fn is_deaf(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.heard_myself) > DEAF
    }

    /// Time has passed: who was silent for too long is gone. Whether the view changed.
    pub(super) fn pass(&mut self, now: Instant) -> bool {
        let deaf = self.is_deaf(now);
        let view = &mut self.view;
        let before = view.len();
        self.others.retain(|worker, last| {
            let age = now.saturating_duration_since(last.at);
            let keep = match last.sign {
                Sign::Here => deaf || age < SILENCE,
                Sign::Bye => age < REMEMBERED,
            };
            if !keep {
                view.remove(worker);
            }
            keep
        });
        view.len() != before
    }

    /// When `pass` will change the view next if nothing more is heard of others; none where nothing
    /// can change before this worker hears itself again.
    pub(super) fn next_change_at(&self, now: Instant) -> Option<Instant> {
        let here = self.others.values().filter(|last| last.is_here());
        let next = here.map(|last| last.at + SILENCE).min()?;
        (next.max(now) <= self.heard_myself + DEAF).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use Sign::{Bye, Here};

    const ME: WorkerId = WorkerId(0);

    /// Members at made-up times, in milliseconds.
    struct Story {
        members: Members,
        start: Instant,
        sequence: u64,
    }

    impl Story {
        fn begin() -> Story {
            let start = clock::monotonic();
            Story { members: Members::new(ME, start), start, sequence: 0 }
        }

        fn at(&self, millis: u64) -> Instant {
            self.start + Duration::from_millis(millis)
        }

        fn hear(&mut self, worker: u128, sign: Sign, millis: u64) -> Heard {
            self.sequence += 1;
            self.hear_again(worker, self.sequence, sign, millis)
        }

        fn hear_again(&mut self, worker: u128, sequence: u64, sign: Sign, millis: u64) -> Heard {
            self.members.heard(WorkerId(worker), sequence, sign, self.at(millis))
        }

        /// Hears itself every half second, from here to there.
        fn hear_myself(&mut self, from: u64, to: u64) {
            for millis in (from..=to).step_by(500) {
                self.hear(0, Here, millis);
            }
        }

        /// Who is here at that time.
        fn view(&mut self, millis: u64) -> Vec<u128> {
            let before = self.members.view().clone();
            let changed = self.members.pass(self.at(millis));
            assert_eq!(changed, before != *self.members.view());
            self.members.view().iter().map(|worker| worker.0).collect()
        }

        /// When the view changes by itself, in milliseconds, as known at that time.
        fn next_change(&self, millis: u64) -> Option<u128> {
            let next = self.members.next_change_at(self.at(millis))?;
            Some(next.duration_since(self.start).as_millis())
        }
    }

    #[test]
    fn who_gives_a_sign_is_here_until_two_seconds_of_silence() {
        let mut story = Story::begin();
        assert_eq!((story.view(0), story.next_change(0)), (vec![0], None));
        assert_eq!(story.hear(1, Here, 100), Heard::Changed);
        assert_eq!(story.hear(1, Here, 600), Heard::Unchanged);
        story.hear_myself(0, 2_500);
        assert_eq!(story.next_change(2_500), Some(2_600));
        assert_eq!(story.view(2_599), [0, 1]);
        assert_eq!(story.view(2_600), [0]);
        assert_eq!(story.hear(1, Here, 2_700), Heard::Changed, "it was slow, not dead");
    }

    #[test]
    fn who_says_goodbye_is_gone_at_once_and_no_late_sign_brings_it_back() {
        let mut story = Story::begin();
        story.hear_again(1, 7, Here, 100);
        assert_eq!(story.hear_again(1, 9, Bye, 200), Heard::Changed);
        assert_eq!(story.hear_again(1, 8, Here, 300), Heard::Unchanged);
        assert_eq!((story.view(300), story.next_change(300)), (vec![0], None));
        // In a new epoch of the same process.
        assert_eq!(story.hear_again(1, 10, Here, 400), Heard::Changed);
    }

    #[test]
    fn a_goodbye_that_comes_before_every_other_sign_is_remembered_too() {
        let mut story = Story::begin();
        assert_eq!(story.hear_again(1, 9, Bye, 100), Heard::Unchanged);
        assert_eq!(story.hear_again(1, 8, Here, 200), Heard::Unchanged);
        story.view(60_100);
        assert!(story.members.others.is_empty(), "and forgotten after a minute");
    }

    #[test]
    fn who_does_not_hear_itself_declares_nobody_gone() {
        let mut story = Story::begin();
        story.hear_myself(0, 1_000);
        story.hear(1, Here, 1_000);
        // Its last own sign is a second old when the other's silence would be too long.
        assert_eq!(story.next_change(1_000), None);
        assert_eq!(story.view(3_600_000), [0, 1]);
        assert_eq!(story.next_change(3_600_000), None);
    }

    #[test]
    fn who_hears_itself_again_gives_the_others_two_seconds() {
        let mut story = Story::begin();
        story.hear(1, Here, 0);
        story.hear(2, Here, 0);
        story.hear(3, Bye, 0);
        story.hear_myself(10_000, 11_500);
        story.hear(2, Here, 11_500);
        assert_eq!(story.next_change(11_500), Some(12_000));
        assert_eq!(story.view(11_999), [0, 1, 2]);
        assert_eq!(story.view(12_000), [0, 2]);
    }

    /// As after SIGCONT: the timer may be looked at before what lies in the queue.
    #[test]
    fn who_stood_still_finds_everybody_still_here() {
        let mut story = Story::begin();
        story.hear_myself(0, 1_000);
        story.hear(1, Here, 1_000);
        assert_eq!(story.view(60_000), [0, 1]);
        story.hear_myself(60_000, 60_500);
        assert_eq!(story.view(60_500), [0, 1]);
    }

    #[test]
    fn no_more_than_a_thousand_others_are_remembered() {
        let mut story = Story::begin();
        for worker in 1..=1_000 {
            assert_eq!(story.hear(worker, Here, 0), Heard::Changed);
        }
        assert_eq!(story.hear(1_001, Here, 0), Heard::TooMany);
        assert_eq!(story.hear(1_000, Here, 100), Heard::Unchanged);
        assert_eq!(story.view(100).len(), 1_001);
    }

    #[test]
    fn an_id_is_written_as_thirty_two_digits() {
        let id = WorkerId(0xab);
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, r#""000000000000000000000000000000ab""#);
        assert_eq!(serde_json::from_str::<WorkerId>(&json).unwrap(), id);
        for bad in ["\"ab\"", "\"+00000000000000000000000000000ab\"", "7"] {
            assert!(serde_json::from_str::<WorkerId>(bad).is_err(), "{bad}");
        }
    }
}
