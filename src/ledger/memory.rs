//! The entries in memory: those of the jobs in hand, the doubts, and, where no folder stands behind
//! the ledger, all the others, within a bound. Quiet: time comes as an argument.

use super::identity::Identity;
use super::record::{Claim, Entry, State};
use crate::fast_map::FastMap;
use crate::policy::Strength;
use jiff::Timestamp;
use std::collections::VecDeque;
use std::time::Duration;

/// A job in doubt is noted anew at each of its looks. One that was not for so long has gone (its queue
/// was purged, for one), and nobody waits for it.
const DOUBT_LASTS_MILLIS: i64 = 15 * 60 * 1_000;

/// How much is remembered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) keep: Duration,
    pub(super) max_entries: usize,
    /// A folder has all entries: only what is in hand and in doubt stays here.
    pub(super) on_disk: bool,
}

#[derive(Debug)]
pub(super) struct Memory {
    bounds: Bounds,
    entries: FastMap<u128, Held>,
    /// Jobs in doubt.
    doubts: FastMap<u128, Doubtful>,
    /// Doubts that were noted so far.
    noted: u64,
    /// Which job a message of Meta's belongs to.
    claims: FastMap<u128, Claim>,
    /// Entries that may be forgotten, in the order in which they came to it.
    finished: VecDeque<u128>,
    loose: VecDeque<u128>,
    /// No longer in hand, but their last change may not be in the folder yet; with its number.
    lingering: VecDeque<(u64, u128)>,
}

/// A job in doubt.
#[derive(Debug, Clone, Copy)]
struct Doubtful {
    /// Once it is known.
    content: Option<u128>,
    /// Who may take a message first: what was begun, then in the order of their coming.
    turn: (Strength, u64),
    /// When it was last noted, in milliseconds of Unix time.
    at: i64,
}

#[derive(Debug)]
struct Held {
    entry: Entry,
    /// Deliveries of the job that are in this worker now.
    in_hand: u32,
    /// It stands among those that may be forgotten.
    leaves: bool,
    /// The number of its last change on the way to the folder.
    written: u64,
}

impl Held {
    /// Nothing is known of the job any more.
    fn is_forgotten(&self) -> bool {
        matches!(self.entry.state, State::Received) && self.entry.deliveries == 0
    }
}

impl Memory {
    pub(super) fn new(bounds: Bounds) -> Memory {
        Memory {
            bounds,
            entries: FastMap::default(),
            doubts: FastMap::default(),
            noted: 0,
            claims: FastMap::default(),
            finished: VecDeque::new(),
            loose: VecDeque::new(),
            lingering: VecDeque::new(),
        }
    }

    pub(super) fn has(&self, key: u128) -> bool {
        self.entries.contains_key(&key)
    }

    pub(super) fn entry(&self, key: u128) -> Option<&Entry> {
        self.entries.get(&key).map(|held| &held.entry)
    }

    /// Takes a job in hand. `known` is what the folder has of it. None where the id belongs to
    /// another message; else how many deliveries of this one came before.
    pub(super) fn take(
        &mut self,
        job: &Identity,
        known: Option<Entry>,
        now: Timestamp,
    ) -> Option<u32> {
        if !self.has(job.key) {
            self.make_room(now);
        }
        let fresh = || Held {
            entry: known.unwrap_or_else(|| Entry::new(job, now)),
            in_hand: 0,
            leaves: false,
            written: 0,
        };
        let held = self.entries.entry(job.key).or_insert_with(fresh);
        if held.in_hand == 0 && held.is_forgotten() {
            held.entry = Entry::new(job, now);
        }
        if held.entry.fingerprint != job.fingerprint {
            if self.bounds.on_disk && held.written == 0 {
                // It has come from the folder just now.
                self.drop_if_idle(job.key);
            }
            return None;
        }
        let before = held.entry.deliveries;
        held.entry.deliveries = before.saturating_add(1);
        held.in_hand += 1;
        Some(before)
    }

    /// A change of the entry is on its way to the folder.
    pub(super) fn is_written(&mut self, key: u128, number: u64) {
        if let Some(held) = self.entries.get_mut(&key) {
            held.written = number;
        }
    }

    /// One delivery less is in hand. The folder has all changes up to the number `committed`.
    pub(super) fn release(&mut self, key: u128, committed: u64) {
        self.let_go(committed);
        let Some(held) = self.entries.get_mut(&key) else { return };
        held.in_hand = held.in_hand.saturating_sub(1);
        if held.in_hand > 0 {
            return;
        }
        let forgotten = held.is_forgotten();
        if self.bounds.on_disk {
            // Until then the folder would tell an older state.
            return self.lingering.push_back((held.written, key));
        }
        if forgotten {
            return self.drop_if_idle(key);
        }
        let line = match &held.entry.state {
            State::Begun { .. } => return,
            State::Finished(_) => &mut self.finished,
            State::Received | State::Answered(_) => &mut self.loose,
        };
        if !std::mem::replace(&mut held.leaves, true) {
            line.push_back(key);
        }
    }

    fn let_go(&mut self, committed: u64) {
        while let Some((number, key)) = self.lingering.front().copied()
            && number <= committed
        {
            self.lingering.pop_front();
            if self.entries.get(&key).is_some_and(|held| held.written <= committed) {
                self.drop_if_idle(key);
            }
        }
    }

    /// Changes the state of a job in hand.
    pub(super) fn change(&mut self, job: &Identity, state: State, now: Timestamp) {
        let key = job.key;
        if !matches!(state, State::Begun { .. }) {
            self.doubts.remove(&key);
        }
        let Some(held) = self.entries.get_mut(&key) else { return };
        held.entry.changed = now.as_millisecond();
        held.entry.state = state;
        self.claims.extend(held.entry.claim(job));
    }

    /// The job's present message has left: deliveries of the next one are counted from none.
    pub(super) fn count_anew(&mut self, key: u128) {
        if let Some(held) = self.entries.get_mut(&key) {
            held.entry.deliveries = 0;
        }
    }

    /// Nothing is known of the job any more.
    pub(super) fn forget(&mut self, key: u128) {
        self.doubts.remove(&key);
        if let Some(held) = self.entries.get_mut(&key) {
            held.entry.deliveries = 0;
            held.entry.state = State::Received;
        }
    }

    /// Gives a message to a job that was found to be its own.
    pub(super) fn claim(&mut self, message: u128, job: &Identity, now: Timestamp) {
        self.claims.insert(message, Claim::new(job, now.as_millisecond()));
    }

    pub(super) fn claim_on(&self, message: u128) -> Option<&Claim> {
        self.claims.get(&message)
    }

    /// A job is in doubt; its content where that is known by now.
    pub(super) fn doubt(
        &mut self,
        key: u128,
        content: Option<u128>,
        strength: Strength,
        now: Timestamp,
    ) {
        self.noted += 1;
        let turn = (strength, u64::MAX - self.noted);
        let first = Doubtful { content, turn, at: 0 };
        let noted = self.doubts.entry(key).or_insert(first);
        noted.content = content.or(noted.content);
        noted.turn.0 = strength;
        noted.at = now.as_millisecond();
        if let Some(held) = self.entries.get_mut(&key) {
            held.entry.content = content;
        }
    }

    pub(super) fn doubts(&self) -> usize {
        self.doubts.len()
    }

    /// How many jobs with this content are in doubt, without that one.
    pub(super) fn in_doubt(&self, content: u128, but_for: u128, now: Timestamp) -> usize {
        self.others(content, but_for, now).count()
    }

    /// Whether another job in doubt may take a message with this content before that one.
    pub(super) fn is_behind(&self, content: u128, key: u128, now: Timestamp) -> bool {
        let own = self.doubts.get(&key).map(|own| own.turn);
        self.others(content, key, now).any(|other| Some(other.turn) > own)
    }

    fn others(
        &self,
        content: u128,
        but_for: u128,
        now: Timestamp,
    ) -> impl Iterator<Item = &Doubtful> {
        let since = now.as_millisecond().saturating_sub(DOUBT_LASTS_MILLIS);
        let others = self.doubts.iter().filter(move |(key, _)| **key != but_for);
        let others = others.map(|(_, other)| other);
        others.filter(move |other| other.content == Some(content) && other.at >= since)
    }

    /// Whether one more attempt can be remembered.
    pub(super) fn has_room(&mut self, now: Timestamp) -> bool {
        self.make_room(now);
        self.entries.len() <= self.bounds.max_entries
    }

    /// The longest finished leave first, then what waits for another try. What was begun never does,
    /// nor what is in hand.
    fn make_room(&mut self, now: Timestamp) {
        let keep = i64::try_from(self.bounds.keep.as_millis()).unwrap_or(i64::MAX);
        let oldest = now.as_millisecond().saturating_sub(keep);
        while let Some(key) = self.finished.front().copied() {
            let lapsed = self.entry(key).is_none_or(|entry| entry.changed < oldest);
            if !lapsed && self.entries.len() < self.bounds.max_entries {
                break;
            }
            self.finished.pop_front();
            self.leave(key);
        }
        while self.entries.len() >= self.bounds.max_entries
            && let Some(key) = self.loose.pop_front()
        {
            self.leave(key);
        }
    }

    fn leave(&mut self, key: u128) {
        let Some(held) = self.entries.get_mut(&key) else { return };
        held.leaves = false;
        if !matches!(held.entry.state, State::Begun { .. }) {
            self.drop_if_idle(key);
        }
    }

    fn drop_if_idle(&mut self, key: u128) {
        if self.entries.get(&key).is_none_or(|held| held.in_hand > 0) {
            return;
        }
        if let Some(message) = self.entries.remove(&key).and_then(|held| held.entry.message()) {
            self.claims.remove(&message);
        }
    }
}
