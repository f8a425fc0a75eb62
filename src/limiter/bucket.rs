//! governor as a function of its arguments. Its limiter owns a state and a clock; we keep the state,
//! eight bytes, and lend it with a clock that stands still for one question. So a bucket can be
//! looked at, rebuilt and swept, no question reads a clock, and a question costs only its arithmetic.
//!
//! Times are durations since the start of the owner's time scale.

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};
use governor::{Quota, RateLimiter};
use std::cell::Cell;
use std::time::Duration;

/// The end of the time scale: a hundred years, far below the overflow of governor's nanoseconds.
const END: Duration = Duration::from_secs(100 * 365 * 86_400);

/// A bucket of tokens, known by the time when it is full again. The default is full from the start.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bucket {
    full_at: Nanos,
}

impl Bucket {
    /// A bucket with its first token at `next` and none before.
    pub(super) fn with_next(quota: Quota, next: Duration) -> Bucket {
        Bucket { full_at: (next.min(END) + tolerance(quota)).into() }
    }

    /// The same bucket under another quota: what is taken at that moment stays taken, token by token.
    pub(super) fn moved(self, from: Quota, to: Quota, at: Duration) -> Bucket {
        let missing = Duration::from(self.full_at).saturating_sub(at);
        let taken = missing.div_duration_f64(from.replenish_interval());
        Bucket { full_at: (at + to.replenish_interval().mul_f64(taken)).min(END).into() }
    }

    /// When its next token is there; this may be past.
    pub(super) fn next(self, quota: Quota) -> Duration {
        Duration::from(self.full_at).saturating_sub(tolerance(quota))
    }

    /// Whether all its tokens are there: then forgetting it changes nothing.
    pub(super) fn is_full(self, now: Duration) -> bool {
        Duration::from(self.full_at) <= now
    }

    /// Takes a token at `now`, or says when one will be there.
    pub(super) fn take(&mut self, quota: Quota, now: Duration) -> Result<(), Duration> {
        let state = LentState(Cell::new(self.full_at));
        let limiter = Limiter::new(quota, state, StillClock(Cell::new(Nanos::default())));
        limiter.clock().0.set(now.min(END).into());
        let answer = limiter.check().map_err(|not_until| not_until.earliest_possible().into());
        self.full_at = limiter.into_state_store().0.get();
        answer
    }

    /// Takes the next token that nobody has taken, and says when it is there: `now` or later.
    pub(super) fn reserve(&mut self, quota: Quota, now: Duration) -> Duration {
        match self.take(quota, now) {
            Ok(()) => now,
            Err(at) => {
                // Refused again only at the end of the time scale, where the bucket stands still.
                self.take(quota, at).unwrap_or_default();
                at
            }
        }
    }
}

/// What a full bucket holds beyond its first token, as time.
fn tolerance(quota: Quota) -> Duration {
    quota.replenish_interval() * (quota.burst_size().get() - 1)
}

type Limiter = RateLimiter<NotKeyed, LentState, StillClock, NoOpMiddleware<Nanos>>;

struct LentState(Cell<Nanos>);

impl StateStore for LentState {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let (answer, full_at) = decide(Some(self.0.get()))?;
        self.0.set(full_at);
        Ok(answer)
    }
}

/// It must show zero when the limiter is made, since the limiter counts from there.
struct StillClock(Cell<Nanos>);

impl Clock for StillClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.get()
    }
}
