//! A pace is kept where requests start, not where they pass. A job that has its turn is recorded before its
//! request starts: a slow disk or a busy machine lets several start at once, and none for a while before.

use super::Rate;
use std::time::Duration;
use tokio::time::Instant;

/// Starts are counted by slots of time, so many to a second.
const PER_SECOND: usize = 50;

/// One slot, in milliseconds.
const SLOT_MS: u64 = 1_000 / PER_SECOND as u64;

/// As many as a second touches.
const SLOTS: usize = PER_SECOND + 1;

/// Of the rate: what may start in a second beyond rate + burst, less one request, so that a number which bears
/// 20 gets no 21. Requests may be nearly 100 ms late, a disk's sync, and cost no pace. At the default paces
/// 20, 78 and 970 start in a second at most, of numbers that bear 20, 80 and 1,000.
const LATE: f64 = 0.1;

/// What one pace has let pass: the starts of the last second, and what has not started yet. Whatever of it
/// starts when, no sliding second holds more than is allowed here.
#[derive(Debug, Clone)]
pub(super) struct Starts {
    begun: Instant,
    counts: [u32; SLOTS],
    /// The slot up to which old ones are forgotten, counted from the beginning.
    slot: u64,
    /// All counts.
    recent: u32,
    pending: u32,
}

impl Starts {
    pub(super) fn new(now: Instant) -> Starts {
        Starts { begun: now, counts: [0; SLOTS], slot: 0, recent: 0, pending: 0 }
    }

    /// A request passed. It will start or be dropped.
    pub(super) fn passed(&mut self) {
        self.pending += 1;
    }

    /// One that passed starts now.
    pub(super) fn started(&mut self, now: Instant) {
        self.dropped();
        self.forget(now);
        self.counts[place(self.slot)] += 1;
        self.recent += 1;
    }

    /// One that passed will not start.
    pub(super) fn dropped(&mut self) {
        self.pending = self.pending.saturating_sub(1);
    }

    /// When one more may pass: `now`, or it is worth asking again then.
    pub(super) fn free_at(&mut self, rate: Rate, now: Instant) -> Instant {
        self.forget(now);
        let mut surplus = (self.recent + self.pending + 1).saturating_sub(allowed(rate));
        if surplus == 0 {
            return now;
        }
        let kept = SLOTS as u64;
        for slot in self.slot.saturating_sub(kept - 1)..=self.slot {
            surplus = surplus.saturating_sub(self.counts[place(slot)]);
            if surplus == 0 {
                return self.begun + Duration::from_millis((slot + kept) * SLOT_MS);
            }
        }
        // What has not started is too much by itself.
        now + Duration::from_millis(SLOT_MS)
    }

    /// Forgets what is older than a second.
    fn forget(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.begun);
        let slot = u64::try_from(since.as_millis()).unwrap_or(u64::MAX) / SLOT_MS;
        // Another thread may have looked at the clock later.
        let old = self.slot + 1..=slot.min(self.slot + SLOTS as u64);
        for slot in old {
            self.recent -= std::mem::take(&mut self.counts[place(slot)]);
        }
        self.slot = self.slot.max(slot);
    }
}

/// Where a slot is counted.
fn place(slot: u64) -> usize {
    usize::try_from(slot % SLOTS as u64).unwrap_or_default()
}

/// How many may start in any second.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "from 1 to 3 million in the range of rates"
)]
fn allowed(rate: Rate) -> u32 {
    let late = (rate.per_second() * LATE - 1.0).max(0.0);
    (rate.per_second() + f64::from(rate.burst()) + late) as u32
}
