//! When a job is tried again: exponential, jittered, bounded. The only place that names the
//! `backoff` crate, and only for the schedule's arithmetic (docs/decisions/0002-backoff.md).

use backoff::ExponentialBackoffBuilder;
use backoff::backoff::Backoff;
use std::time::Duration;

/// A delay is spread by this part of itself to either side, so that jobs which failed together do
/// not come back together.
const JITTER: f64 = 0.25;

/// Beyond this many steps every schedule has reached its `max_delay`.
const MAX_STEPS: u32 = 64;

/// The schedule of `[retry]`.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// The delay after the first attempt.
    pub initial: Duration,
    /// What each further delay is multiplied by; at least 1.
    pub factor: f64,
    /// No delay is longer.
    pub max_delay: Duration,
    /// Attempts that count, the first included.
    pub max_attempts: u32,
    /// No retry starts later after the first refused attempt.
    pub max_age: Duration,
}

impl RetryPolicy {
    /// The delay after attempt number `attempt` (from 1), without jitter.
    pub fn delay(&self, attempt: u32) -> Duration {
        let mut schedule = ExponentialBackoffBuilder::new()
            .with_initial_interval(self.initial)
            .with_multiplier(self.factor)
            .with_max_interval(self.max_delay)
            .with_randomization_factor(0.0)
            .with_max_elapsed_time(None)
            .build();
        let mut delay = self.initial;
        for _ in 0..attempt.clamp(1, MAX_STEPS) {
            delay = schedule.next_backoff().unwrap_or(self.max_delay);
        }
        delay.min(self.max_delay)
    }

    /// The same, spread by `chance` (0 to 1), and never shorter than `at_least`.
    pub fn jittered(&self, attempt: u32, at_least: Option<Duration>, chance: f64) -> Duration {
        let spread = 1.0 + JITTER * (2.0 * chance.clamp(0.0, 1.0) - 1.0);
        let delay = self.delay(attempt).mul_f64(spread);
        match at_least {
            // A hint is a lower bound: jitter only ever adds to it.
            Some(hint) => delay.max(hint.mul_f64(1.0 + JITTER * chance.clamp(0.0, 1.0))),
            None => delay,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policy() -> RetryPolicy {
        RetryPolicy {
            initial: Duration::from_secs(1),
            factor: 4.0,
            max_delay: Duration::from_secs(3600),
            max_attempts: 12,
            max_age: Duration::from_secs(86_400),
        }
    }

    #[test]
    fn delays_grow_by_the_factor_up_to_the_greatest() {
        let seconds: Vec<u64> = (1..=8).map(|n| policy().delay(n).as_secs()).collect();
        assert_eq!(seconds, [1, 4, 16, 64, 256, 1024, 3600, 3600]);
    }

    #[test]
    fn a_hint_is_never_undercut() {
        let hint = Duration::from_secs(60);
        assert_eq!(policy().jittered(1, Some(hint), 0.0), hint);
        assert_eq!(policy().jittered(1, Some(hint), 1.0), Duration::from_secs(75));
    }

    proptest! {
        #[test]
        fn jitter_stays_within_a_quarter(attempt in 0u32..1000, chance in 0.0f64..=1.0) {
            let plain = policy().delay(attempt).as_secs_f64();
            let delay = policy().jittered(attempt, None, chance).as_secs_f64();
            prop_assert!(delay >= plain * 0.7499 && delay <= plain * 1.2501);
        }
    }
}
