//! One gate: the pace of a number or of the account. It never waits and keeps no queue.

use super::bucket::Bucket;
use governor::Quota;
use std::num::NonZeroU32;
use std::time::Duration;
use tokio::time::Instant;

/// The slowest and the fastest rate, in jobs a second.
const RATES: std::ops::RangeInclusive<f64> = 0.1..=1_000_000.0;

/// The largest burst: as many as the fastest rate passes in a second.
const MAX_BURST: u32 = 1_000_000;

/// The smallest burst by default. A timer that wakes a millisecond late must find a second token,
/// else the pace is lost: with a burst of 1 governor reached 479 of 1,000 a second.
const MIN_DEFAULT_BURST: u32 = 2;

/// Who waits for a fast pace waits at least so long, so that several go together: each wake-up costs as much
/// as a job.
const STRIDE: Duration = Duration::from_millis(5);

/// A pace, and how many may pass at once after a pause. No sliding second holds more than
/// `per_second` + `burst`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    per_second: f64,
    burst: NonZeroU32,
}

impl Rate {
    /// `per_second` from 0.1 to 1,000,000; `burst` from 1 to 1,000,000, by default 1% of the rate,
    /// at least 2. The error says which of them is out of range.
    pub fn new(per_second: f64, burst: Option<u32>) -> Result<Rate, String> {
        if !RATES.contains(&per_second) {
            return Err(format!(
                "rate must be from {} to {} a second, not {per_second}",
                RATES.start(),
                RATES.end()
            ));
        }
        let burst = burst.unwrap_or_else(|| default_burst(per_second));
        match NonZeroU32::new(burst) {
            Some(lawful) if burst <= MAX_BURST => Ok(Rate { per_second, burst: lawful }),
            _ => Err(format!("burst must be from 1 to {MAX_BURST}, not {burst}")),
        }
    }

    /// Jobs a second.
    pub fn per_second(self) -> f64 {
        self.per_second
    }

    /// Jobs at once.
    pub fn burst(self) -> u32 {
        self.burst.get()
    }

    /// This rate, but not faster than so many a second. The burst shrinks with it, to 2 at least where
    /// it was so much.
    pub(super) fn at_most(self, per_second: f64) -> Rate {
        if per_second >= self.per_second {
            return self;
        }
        let per_second = per_second.max(*RATES.start()).min(self.per_second);
        let burst = f64::from(self.burst.get()) * per_second / self.per_second;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "not above the burst"
        )]
        let burst = (burst as u32).max(MIN_DEFAULT_BURST);
        let burst = NonZeroU32::new(burst).map_or(self.burst, |burst| burst.min(self.burst));
        Rate { per_second, burst }
    }

    /// What each of so many has that share this rate evenly, though not below what is lawful.
    pub fn share(self, of: usize) -> Rate {
        #[expect(clippy::cast_precision_loss, reason = "workers")]
        self.at_most(self.per_second / of.max(1) as f64)
    }

    /// What two may have that share this rate and know nothing of each other: in no sliding second do
    /// both together pass more than this rate + burst. (Below one job a second with a burst of 1 they
    /// can meet, each with one.)
    pub(super) fn half(self) -> Rate {
        let half = self.per_second / 2.0;
        match NonZeroU32::new(self.burst.get() / 2) {
            Some(burst) => Rate { per_second: half, burst },
            // Each passes whole jobs: without this two times 9 of 17.5 a second would be one too many.
            None => {
                let whole = f64::midpoint(self.per_second, 1.0).floor();
                let per_second = if whole < 1.0 { half } else { half.min(whole) };
                Rate { per_second, burst: NonZeroU32::MIN }
            }
        }
    }

    /// Rounded up to whole nanoseconds: never faster than the rate.
    fn interval(self) -> Duration {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "from 1e3 to 2e10 in the range of rates and their halves"
        )]
        Duration::from_nanos((1e9 / self.per_second).ceil() as u64)
    }

    /// How long jobs that wait may be held to go together, at most [`STRIDE`]. Zero below two jobs in that
    /// time. They are never more than half the burst, so that a timer which wakes late loses no pace.
    fn stride(self) -> Duration {
        let interval = self.interval();
        #[expect(
            clippy::cast_possible_truncation,
            reason = "5 ms of the shortest interval are 5,000"
        )]
        let together = (STRIDE.as_nanos() / interval.as_nanos()) as u32;
        match together.min(self.burst.get() / 2) {
            0 | 1 => Duration::ZERO,
            together => interval * together,
        }
    }

    fn quota(self) -> Quota {
        Quota::with_period(self.interval())
            .expect("the fastest rate has an interval of 1,000 ns")
            .allow_burst(self.burst)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "from 1 to 10,000 in the range of rates"
)]
fn default_burst(per_second: f64) -> u32 {
    ((per_second / 100.0).ceil() as u32).max(MIN_DEFAULT_BURST)
}

/// Lets jobs pass at a rate. A new gate has an empty bucket: whoever had the number before may just
/// have spent the burst.
#[derive(Debug, Clone)]
pub struct Gate {
    rate: Rate,
    bucket: Bucket,
    start: Instant,
}

impl Gate {
    /// A gate whose first job passes one interval after `now`.
    pub fn new(rate: Rate, now: Instant) -> Gate {
        let bucket = Bucket::with_next(rate.quota(), rate.interval());
        Gate { rate, bucket, start: now }
    }

    /// One job passes now, or the error says when to ask again. Others may be faster then.
    pub fn pass(&mut self, now: Instant) -> Result<(), Instant> {
        let taken = self.bucket.take(self.rate.quota(), self.since_start(now));
        taken.map_err(|at| self.start + at)
    }

    /// When the next job could pass, as far as is known now: `now` or later. Takes nothing.
    pub fn free_at(&self, now: Instant) -> Instant {
        now.max(self.start + self.bucket.next(self.rate.quota()))
    }

    /// When it is worth asking again for who waits: [`Gate::free_at`], or as much later as lets several go
    /// together.
    pub fn worth_asking_at(&self, now: Instant) -> Instant {
        self.free_at(now).max(now + self.rate.stride())
    }

    /// When one job may pass: the next free moment after all promised before. The promise stands.
    pub fn reserve(&mut self, now: Instant) -> Instant {
        let at = self.bucket.reserve(self.rate.quota(), self.since_start(now));
        now.max(self.start + at)
    }

    /// The rate that it keeps.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// Goes on at another rate. The next job passes when it would have passed, so that frequent
    /// changes stop nobody; saved tokens are lost, so that a change grants no burst.
    pub fn change_rate(&mut self, rate: Rate, now: Instant) {
        let next = self.bucket.next(self.rate.quota()).max(self.since_start(now));
        self.bucket = Bucket::with_next(rate.quota(), next);
        self.rate = rate;
    }

    fn since_start(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.start)
    }
}
