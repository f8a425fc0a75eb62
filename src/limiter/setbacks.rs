//! Pairs of number and recipient that Meta refused (code 131056): each refusal in a row makes the next
//! wait four times as long, for all jobs of the pair. Meta's advice: 4^X seconds, X from 0.

use crate::fast_map::FastMap;
use std::time::Duration;

/// Pairs that are remembered. Our own pace of a pair is below Meta's, so few are ever refused; one that
/// finds no room waits by its job's own hint.
const MAX_PAIRS: usize = 10_000;

/// The wait after the first refusal.
const FIRST: Duration = Duration::from_secs(1);

/// With each further one the wait is so many times longer.
const FACTOR: u32 = 4;

/// It grows to this: Meta lets 600 messages an hour through, so after an hour there is room.
const LONGEST: Duration = Duration::from_secs(3_600);

/// A pair that was left in peace for so long after its wait begins anew.
const QUIET: Duration = Duration::from_secs(3_600);

/// The pairs that wait. Times are since the start of the owner's time scale.
#[derive(Debug, Default)]
pub(super) struct Setbacks {
    pairs: FastMap<u64, Setback>,
}

#[derive(Debug, Clone, Copy)]
struct Setback {
    /// The last wait.
    wait: Duration,
    until: Duration,
}

impl Setbacks {
    /// Whether no pair waits.
    pub(super) fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Until when a pair waits, as long as it does.
    pub(super) fn until(&self, pair: u64, now: Duration) -> Option<Duration> {
        self.pairs.get(&pair).map(|setback| setback.until).filter(|until| *until > now)
    }

    /// The pair was refused: how long it waits now, not less than `at_least`.
    pub(super) fn refused(&mut self, pair: u64, at_least: Duration, now: Duration) -> Duration {
        let grown = match self.pairs.get(&pair) {
            // Sent before the last refusal was known.
            Some(last) if now < last.until => return (last.until - now).max(at_least),
            Some(last) if now < last.until + QUIET => (last.wait * FACTOR).min(LONGEST),
            Some(_) | None => FIRST,
        };
        if self.pairs.len() >= MAX_PAIRS {
            self.pairs.retain(|_, setback| now < setback.until);
        }
        let wait = grown.max(at_least);
        if self.pairs.len() < MAX_PAIRS || self.pairs.contains_key(&pair) {
            self.pairs.insert(pair, Setback { wait, until: now + wait });
        }
        wait
    }

    /// A message of the pair was accepted.
    pub(super) fn accepted(&mut self, pair: u64) {
        self.pairs.remove(&pair);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn each_refusal_in_a_row_makes_the_wait_four_times_as_long_up_to_an_hour() {
        let (mut setbacks, mut now) = (Setbacks::default(), seconds(100));
        for wait in [1, 4, 16, 64, 256, 1_024, 3_600, 3_600] {
            assert_eq!(setbacks.refused(7, Duration::ZERO, now), seconds(wait));
            assert_eq!(setbacks.until(7, now), Some(now + seconds(wait)));
            now += seconds(wait);
            assert_eq!(setbacks.until(7, now), None);
        }
    }

    #[test]
    fn a_success_or_a_quiet_hour_forgets_the_refusals() {
        let mut setbacks = Setbacks::default();
        setbacks.refused(7, Duration::ZERO, seconds(0));
        setbacks.accepted(7);
        assert_eq!(setbacks.refused(7, Duration::ZERO, seconds(5)), seconds(1));
        assert_eq!(setbacks.refused(7, Duration::ZERO, seconds(3_605)), seconds(4));
        assert_eq!(setbacks.refused(7, Duration::ZERO, seconds(3_609 + 3_600)), seconds(1));
    }

    #[test]
    fn a_hint_is_the_least_of_a_wait() {
        let mut setbacks = Setbacks::default();
        assert_eq!(setbacks.refused(7, seconds(10), seconds(0)), seconds(10));
        assert_eq!(setbacks.refused(7, seconds(10), seconds(10)), seconds(40));
    }

    #[test]
    fn a_refusal_during_a_wait_was_sent_before_and_grows_nothing() {
        let mut setbacks = Setbacks::default();
        setbacks.refused(7, seconds(10), seconds(0));
        assert_eq!(setbacks.refused(7, Duration::ZERO, seconds(4)), seconds(6));
        assert_eq!(setbacks.until(7, seconds(4)), Some(seconds(10)));
    }

    #[test]
    fn a_full_map_remembers_no_more_until_some_are_over() {
        let mut setbacks = Setbacks::default();
        for pair in 0..=MAX_PAIRS as u64 {
            assert_eq!(setbacks.refused(pair, Duration::ZERO, seconds(0)), seconds(1));
        }
        assert_eq!(setbacks.pairs.len(), MAX_PAIRS);
        assert_eq!(setbacks.until(MAX_PAIRS as u64, seconds(0)), None);
        setbacks.refused(MAX_PAIRS as u64, Duration::ZERO, seconds(1));
        assert_eq!(setbacks.pairs.len(), 1);
    }
}
