//! Meta's two limits as they are enforced: messages a second of a number, and the pair of a number
//! and a recipient.
//!
//! Decides from the instants it is given. It reads no clock. Only messages that are let through
//! count; whether Meta counts refused ones is unknown.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use super::config::Pair;

const SECOND: Duration = Duration::from_secs(1);

/// Most pairs remembered. Beyond it, while none has refilled, new pairs are let through.
const PAIRS_KEPT: usize = 500_000;

/// Which limit refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    Number,
    Pair,
}

impl Over {
    /// Meta's code for it.
    pub(super) fn code(self) -> u32 {
        match self {
            Self::Number => 130_429,
            Self::Pair => 131_056,
        }
    }
}

/// The state of all limits.
#[derive(Debug)]
pub(super) struct Limits {
    pair: Pair,
    numbers: HashMap<String, VecDeque<Instant>>,
    pairs: HashMap<String, HashMap<String, Instant>>,
    pairs_held: usize,
    next_sweep: Option<Instant>,
}

impl Limits {
    pub(super) fn new(pair: Pair) -> Self {
        let (numbers, pairs) = (HashMap::new(), HashMap::new());
        Self { pair, numbers, pairs, pairs_held: 0, next_sweep: None }
    }

    /// Lets one message through, or says which limit it is over. A refusal takes nothing.
    ///
    /// `ceiling` is the number's in messages a second; none lets all through. The callers pass only
    /// numbers of a bounded set.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        number: &str,
        to: &str,
        ceiling: Option<u32>,
    ) -> Result<(), Over> {
        let room = ceiling.is_none_or(|ceiling| self.room(now, number, ceiling));
        if !room {
            return Err(Over::Number);
        }
        if self.pair.enabled && !self.take_pair(now, number, to) {
            return Err(Over::Pair);
        }
        if ceiling.is_some() {
            self.window(number).push_back(now);
        }
        Ok(())
    }

    /// Whether the window of one second that ends now has room. Exact as long as `now` never steps
    /// back from call to call.
    fn room(&mut self, now: Instant, number: &str, ceiling: u32) -> bool {
        let window = self.window(number);
        while window.front().is_some_and(|first| now.saturating_duration_since(*first) >= SECOND) {
            window.pop_front();
        }
        window.len() < ceiling as usize
    }

    fn window(&mut self, number: &str) -> &mut VecDeque<Instant> {
        self.numbers.entry(number.to_owned()).or_default()
    }

    /// A bucket kept as one instant: when it will be full again.
    fn take_pair(&mut self, now: Instant, number: &str, to: &str) -> bool {
        let depth = self.pair.every * self.pair.burst;
        let every = self.pair.every;
        if let Some(full_at) = self.pairs.get_mut(number).and_then(|of| of.get_mut(to)) {
            let after = (*full_at).max(now) + every;
            let fits = after <= now + depth;
            if fits {
                *full_at = after;
            }
            return fits;
        }
        self.sweep(now);
        if self.pairs_held < PAIRS_KEPT {
            self.pairs.entry(number.to_owned()).or_default().insert(to.to_owned(), now + every);
            self.pairs_held += 1;
        }
        true
    }

    /// Forgets full buckets when the room is used up, at most once in a refill.
    fn sweep(&mut self, now: Instant) {
        if self.pairs_held < PAIRS_KEPT || self.next_sweep.is_some_and(|at| now < at) {
            return;
        }
        self.pairs.values_mut().for_each(|of| of.retain(|_, full_at| *full_at > now));
        self.pairs_held = self.pairs.values().map(HashMap::len).sum();
        self.next_sweep = Some(now + self.pair.every);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(pair: Pair) -> Limits {
        Limits::new(pair)
    }

    fn no_pair() -> Pair {
        Pair { enabled: false, ..Pair::default() }
    }

    #[test]
    fn no_window_of_a_second_holds_more_than_the_ceiling() {
        let start = Instant::now();
        let mut limits = limits(no_pair());
        let mut passed: Vec<Instant> = Vec::new();
        for step in 0..2_000_u64 {
            // Bursts and gaps: a burst of ten each 37 ms.
            let now = start + Duration::from_millis((step / 10) * 37);
            if limits.admit(now, "1", "49", Some(20)).is_ok() {
                passed.push(now);
            }
        }
        for (index, first) in passed.iter().enumerate() {
            let within = passed[index..].iter().filter(|at| **at - *first < SECOND).count();
            assert!(within <= 20, "{within} in the second after {first:?}");
        }
        assert!(passed.len() >= 20 * 7, "the ceiling is used: {}", passed.len());
    }

    #[test]
    fn numbers_do_not_share_a_ceiling() {
        let now = Instant::now();
        let mut limits = limits(no_pair());
        assert_eq!(limits.admit(now, "1", "49", Some(1)), Ok(()));
        assert_eq!(limits.admit(now, "1", "49", Some(1)), Err(Over::Number));
        assert_eq!(limits.admit(now, "2", "49", Some(1)), Ok(()));
        assert_eq!(limits.admit(now, "3", "49", None), Ok(()));
    }

    #[test]
    fn a_pair_has_forty_five_at_once_then_one_in_six_seconds() {
        let start = Instant::now();
        let mut limits = limits(Pair::default());
        let mut admit =
            |seconds, to| limits.admit(start + Duration::from_secs(seconds), "1", to, None);
        for _ in 0..45 {
            assert_eq!(admit(0, "49"), Ok(()));
        }
        assert_eq!(admit(0, "49"), Err(Over::Pair));
        assert_eq!(admit(0, "50"), Ok(()), "another recipient is free");
        assert_eq!(admit(5, "49"), Err(Over::Pair));
        assert_eq!(admit(6, "49"), Ok(()));
        assert_eq!(admit(6, "49"), Err(Over::Pair));
        assert_eq!(admit(18, "49"), Ok(()));
        assert_eq!(admit(18, "49"), Ok(()));
        assert_eq!(admit(18, "49"), Err(Over::Pair));
    }

    #[test]
    fn a_refusal_takes_nothing_from_the_number() {
        let now = Instant::now();
        let mut limits = limits(Pair { burst: 1, ..Pair::default() });
        assert_eq!(limits.admit(now, "1", "49", Some(2)), Ok(()));
        assert_eq!(limits.admit(now, "1", "49", Some(2)), Err(Over::Pair));
        assert_eq!(limits.admit(now, "1", "50", Some(2)), Ok(()));
        assert_eq!(limits.admit(now, "1", "51", Some(2)), Err(Over::Number));
    }
}
