//! The pair limit: how fast one number may write to one recipient. Meta lets one message through in
//! 6 s and bursts of up to 45, which borrow from the future; over it is code 131056, after which the
//! pair waits (`setbacks`).

use super::bucket::Bucket;
use super::setbacks::Setbacks;
use crate::fast_map::FastMap;
use crate::wire::{NumberId, Recipient};
use governor::Quota;
use governor::nanos::Nanos;
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU32;
use std::time::Duration;
use tokio::time::Instant;

/// The largest burst; Meta's own is 45.
const MAX_BURST: u32 = 1_000;

/// The longest and shortest time for one message.
const EVERY: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(3_600);

/// Below this many buckets a sweep is not worth its while.
const MIN_SWEEP: usize = 1_024;

/// How fast one number may write to one recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecipientLimit {
    burst: NonZeroU32,
    every: Duration,
}

impl RecipientLimit {
    /// `burst` messages at once, from 1 to 1,000; then one in `every`, from 1 ms to 1 h. The error
    /// says which of them is out of range.
    pub fn new(burst: u32, every: Duration) -> Result<RecipientLimit, String> {
        if !EVERY.contains(&every) {
            let (shortest, longest) = (EVERY.start(), EVERY.end());
            return Err(format!("every must be from {shortest:?} to {longest:?}, not {every:?}"));
        }
        match NonZeroU32::new(burst) {
            Some(lawful) if burst <= MAX_BURST => Ok(RecipientLimit { burst: lawful, every }),
            _ => Err(format!("burst must be from 1 to {MAX_BURST}, not {burst}")),
        }
    }

    /// Messages at once.
    pub fn burst(self) -> u32 {
        self.burst.get()
    }

    /// The time for one message.
    pub fn every(self) -> Duration {
        self.every
    }

    fn quota(self) -> Quota {
        Quota::with_period(self.every).expect("the range starts above zero").allow_burst(self.burst)
    }
}

impl Default for RecipientLimit {
    /// 20 at once, then one in 6 s: well within what Meta allows.
    fn default() -> RecipientLimit {
        RecipientLimit {
            burst: NonZeroU32::new(20).expect("not zero"),
            every: Duration::from_secs(6),
        }
    }
}

/// What is remembered of a pair.
#[derive(Debug, Clone, Copy, Default)]
struct Pair {
    bucket: Bucket,
    /// The last moment that was given to it. It says what is still to come when the limit changes.
    promised: Nanos,
}

impl Pair {
    fn reserve(&mut self, quota: Quota, now: Duration) -> Duration {
        // Without a change of the limit the bucket alone would say the same.
        let at = self.bucket.reserve(quota, now.max(self.promised.into()));
        self.promised = at.into();
        at
    }

    fn change_quota(&mut self, from: Quota, to: Quota, now: Duration) {
        self.bucket = self.bucket.moved(from, to, now.max(self.promised.into()));
    }
}

/// The gates of all (number, recipient) pairs, each full at first. At most `capacity` pairs are
/// remembered, in under 60 bytes each, and a few that were refused.
#[derive(Debug)]
pub struct Recipients {
    /// While it is off, the last one: the buckets count by it.
    limit: RecipientLimit,
    is_on: bool,
    capacity: usize,
    /// By the hash of the pair, so that no phone number stays in memory. Two of a million pairs share
    /// a bucket with a chance of 1 in 37 million; they would wait for each other, nothing worse.
    pairs: FastMap<u64, Pair>,
    setbacks: Setbacks,
    hasher: RandomState,
    start: Option<Instant>,
    sweep_above: usize,
    next_sweep: Duration,
    ungated: u64,
}

impl Recipients {
    /// No limit, no gate: then a pair waits only after a refusal. `capacity` bounds the memory.
    pub fn new(limit: Option<RecipientLimit>, capacity: usize) -> Recipients {
        Recipients {
            limit: limit.unwrap_or_default(),
            is_on: limit.is_some(),
            capacity,
            pairs: FastMap::default(),
            setbacks: Setbacks::default(),
            hasher: RandomState::new(),
            start: None,
            sweep_above: MIN_SWEEP.min(capacity),
            next_sweep: Duration::ZERO,
            ungated: 0,
        }
    }

    /// When this job may go: the next free moment of its pair after all promised before. Not after
    /// `now` means at once. A pair that finds no room passes at once too: Meta then refuses it.
    pub fn reserve(&mut self, number: &NumberId, recipient: &Recipient, now: Instant) -> Instant {
        if !self.is_on && self.setbacks.is_empty() {
            return now;
        }
        let pair = self.pair(number, recipient);
        let (start, since_start) = self.since_start(now);
        let from = self.setbacks.until(pair, since_start).unwrap_or(since_start);
        if !self.is_on {
            return start + from;
        }
        let limit = self.limit;
        self.make_room(limit, since_start);

        let full = self.pairs.len() >= self.capacity;
        let pair = match self.pairs.get_mut(&pair) {
            Some(pair) => pair,
            None if full => {
                self.ungated += 1;
                return start + from;
            }
            None => self.pairs.entry(pair).or_default(),
        };
        start + pair.reserve(limit.quota(), from)
    }

    /// Whether the pair waits after a refusal: then no earlier promise holds.
    pub fn is_set_back(&mut self, number: &NumberId, recipient: &Recipient, now: Instant) -> bool {
        if self.setbacks.is_empty() {
            return false;
        }
        let (_, since_start) = self.since_start(now);
        self.setbacks.until(self.pair(number, recipient), since_start).is_some()
    }

    /// The pair was refused. Returns how long it waits now, not less than the service asked for.
    pub fn refused(
        &mut self,
        number: &NumberId,
        recipient: &Recipient,
        asked: Option<Duration>,
        now: Instant,
    ) -> Duration {
        let (_, since_start) = self.since_start(now);
        let pair = self.pair(number, recipient);
        self.setbacks.refused(pair, asked.unwrap_or_default(), since_start)
    }

    /// A message was accepted: the pair is refused no more.
    pub fn accepted(&mut self, number: &NumberId, recipient: &Recipient) {
        if !self.setbacks.is_empty() {
            self.setbacks.accepted(self.pair(number, recipient));
        }
    }

    fn pair(&self, number: &NumberId, recipient: &Recipient) -> u64 {
        self.hasher.hash_one((number, recipient))
    }

    fn since_start(&mut self, now: Instant) -> (Instant, Duration) {
        let start = *self.start.get_or_insert(now);
        (start, now.saturating_duration_since(start))
    }

    /// Goes on with another limit. What each pair has taken counts under it as well, and what was
    /// promised stands: what comes now comes after it. While there is no limit nothing is counted, and nothing is forgotten.
    pub fn change_limit(&mut self, limit: Option<RecipientLimit>, now: Instant) {
        self.is_on = limit.is_some();
        let Some(limit) = limit.filter(|limit| *limit != self.limit) else { return };
        let (_, since_start) = self.since_start(now);
        let (from, to) = (self.limit.quota(), limit.quota());
        for pair in self.pairs.values_mut() {
            pair.change_quota(from, to, since_start);
        }
        self.limit = limit;
        self.next_sweep = self.next_sweep.min(since_start + limit.every);
    }

    /// Jobs that passed without a gate because there was no room.
    pub fn ungated(&self) -> u64 {
        self.ungated
    }

    /// Pairs that are remembered.
    pub fn remembered(&self) -> usize {
        self.pairs.len()
    }

    /// Forgets the pairs that may use their whole burst again. A bucket in use lives at least `every`,
    /// so sweeping more often would find little; and the map must have doubled or be full.
    fn make_room(&mut self, limit: RecipientLimit, now: Duration) {
        if self.pairs.len() < self.sweep_above || now < self.next_sweep {
            return;
        }
        self.pairs.retain(|_, pair| !pair.bucket.is_full(now));
        self.sweep_above = (2 * self.pairs.len()).max(MIN_SWEEP).min(self.capacity);
        self.next_sweep = now + limit.every;
    }
}
