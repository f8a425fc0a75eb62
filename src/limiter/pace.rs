//! The pace that holds now: what is configured or known, or less where less was learned, and half of it
//! while another worker may be sending as well. A change of any of these grants no burst.

use super::starts::Starts;
use super::{Gate, Learning, Rate};
use tokio::time::Instant;

/// How fast one number may send, or the whole account.
#[derive(Debug)]
pub struct Pace {
    /// What holds where nothing is learned; none is no limit.
    limit: Option<Rate>,
    learning: Learning,
    is_half: bool,
    /// None while nothing limits.
    gate: Option<Gate>,
    /// They outlive a tenure: what passed in it may start after it.
    starts: Starts,
}

impl Pace {
    /// Begins with an empty bucket.
    pub fn new(limit: Option<Rate>, now: Instant) -> Pace {
        let gate = limit.map(|rate| Gate::new(rate, now));
        let (learning, starts) = (Learning::default(), Starts::new(now));
        Pace { limit, learning, is_half: false, gate, starts }
    }

    /// Begins anew with an empty bucket, since whoever had the number in between may just have spent
    /// the burst; at half the pace until it is settled that nobody else has it. What was learned stays.
    pub fn begin(&mut self, is_settled: bool, now: Instant) {
        self.is_half = !is_settled;
        self.gate = self.rate(now).map(|rate| Gate::new(rate, now));
    }

    /// The number is surely ours alone.
    pub fn settle(&mut self, now: Instant) {
        self.is_half = false;
        self.follow(now);
    }

    /// Whether half the pace is left to another.
    pub fn is_half(&self) -> bool {
        self.is_half
    }

    /// Goes on with another limit; what was learned below it stays.
    pub fn retune(&mut self, limit: Option<Rate>, now: Instant) {
        self.limit = limit;
        self.follow(now);
    }

    /// A request was accepted.
    pub fn accepted(&mut self, now: Instant) {
        self.learning.accepted(now);
    }

    /// A request that was sent then was refused for going too fast. Whether the pace was cut.
    pub fn refused(&mut self, sent: Instant, now: Instant) -> bool {
        let limit = self.limit.map(Rate::per_second);
        let is_cut = self.learning.refused(sent, limit, now).is_some();
        self.follow(now);
        is_cut
    }

    /// When the next request could pass: `now` or later. Takes nothing.
    pub fn free_at(&mut self, now: Instant) -> Instant {
        self.free(now, Gate::free_at)
    }

    /// When it is worth asking again for requests that wait: then several may pass together where the pace
    /// is fast.
    pub fn worth_asking_at(&mut self, now: Instant) -> Instant {
        self.free(now, Gate::worth_asking_at)
    }

    /// One request passes now, or the error says when to ask again. Say when it starts ([`Pace::started`]) or
    /// that it will not ([`Pace::dropped`]).
    pub fn pass(&mut self, now: Instant) -> Result<(), Instant> {
        let free = self.free_at(now);
        if free > now {
            return Err(free);
        }
        if let Some(gate) = &mut self.gate {
            gate.pass(now)?;
        }
        self.starts.passed();
        Ok(())
    }

    /// A request that passed starts now. Where several start late, others wait, so that the pace is kept by
    /// what starts.
    pub fn started(&mut self, now: Instant) {
        self.starts.started(now);
    }

    /// A request that passed will not start. Its moment stays spent.
    pub fn dropped(&mut self) {
        self.starts.dropped();
    }

    /// When one request may pass; the moment is taken. When it starts is not asked.
    pub fn reserve(&mut self, now: Instant) -> Instant {
        self.follow(now).map_or(now, |gate| gate.reserve(now))
    }

    /// The rate that holds; none is no limit.
    pub fn rate(&self, now: Instant) -> Option<Rate> {
        let rate = match (self.limit, self.learned(now)) {
            (Some(limit), Some(learned)) => limit.at_most(learned),
            (None, Some(learned)) => Rate::new(learned, None).ok()?,
            (limit, None) => limit?,
        };
        Some(self.part(rate))
    }

    fn part(&self, rate: Rate) -> Rate {
        if self.is_half { rate.half() } else { rate }
    }

    /// Whether it was learned.
    pub fn is_learned(&self, now: Instant) -> bool {
        self.learned(now).is_some()
    }

    fn learned(&self, now: Instant) -> Option<f64> {
        self.learning.rate(self.limit.map(Rate::per_second), now)
    }

    /// By the gate, and by what started lately or will. That is held to the limit alone: a cut by what is
    /// learned does not wait for what went before it.
    fn free(&mut self, now: Instant, by_gate: impl FnOnce(&Gate, Instant) -> Instant) -> Instant {
        let by_gate = self.follow(now).map_or(now, |gate| by_gate(gate, now));
        let limit = self.limit.map(|limit| self.part(limit));
        limit.map_or(by_gate, |limit| by_gate.max(self.starts.free_at(limit, now)))
    }

    /// The gate, at the rate that holds now.
    fn follow(&mut self, now: Instant) -> Option<&mut Gate> {
        let rate = self.rate(now);
        match (rate, &mut self.gate) {
            (None, gate) => *gate = None,
            (Some(rate), None) => self.gate = Some(Gate::new(rate, now)),
            (Some(rate), Some(gate)) if gate.rate() != rate => gate.change_rate(rate, now),
            (Some(_), Some(_)) => {}
        }
        self.gate.as_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn rate(per_second: f64, burst: u32) -> Rate {
        Rate::new(per_second, Some(burst)).unwrap()
    }

    /// How many pass by then, asked each millisecond.
    fn passed(pace: &mut Pace, from: Instant, millis: u64) -> usize {
        let moments = (0..millis).map(|nth| from + Duration::from_millis(nth));
        moments.map(|now| pace.pass_all(now)).sum()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn who_waits_for_a_fast_pace_goes_with_others_and_none_of_the_pace_is_lost() {
        // The pace, its burst, and how many wake-ups a second there are.
        for (per_second, burst, woken) in
            [(1_000.0, 10, 200), (875.0, 9, 219), (1_000.0, 3, 1_000), (70.0, 2, 70), (17.0, 2, 17)]
        {
            let start = Instant::now();
            let mut pace = Pace::new(Some(rate(per_second, burst)), start);
            let (mut now, mut passed, mut wakes) = (start, 0.0, 0_i32);
            while now < start + 10 * SECOND {
                now = pace.worth_asking_at(now);
                wakes += 1;
                passed += pace.pass_all(now) as f64;
            }
            assert!((passed - 10.0 * per_second).abs() <= f64::from(burst), "{passed} in 10 s");
            assert!((wakes - 10 * woken).abs() <= woken / 10, "{wakes} wake-ups in 10 s");
        }
    }

    #[test]
    fn a_new_tenure_begins_with_nothing_at_half_the_pace_and_gets_the_rest_without_a_burst() {
        let start = Instant::now();
        let mut pace = Pace::new(Some(rate(100.0, 20)), start);
        // Idle for an hour: its burst is there.
        let later = start + 3_600 * SECOND;
        assert_eq!(pace.clone_for_test().pass_all(later), 20);
        pace.begin(false, later);
        assert_eq!(pace.free_at(later), later + Duration::from_millis(20));
        assert_eq!(pace.rate(later), Some(rate(50.0, 10)));
        assert!((49..=50).contains(&passed(&mut pace, later, 1_001)));
        // Idle again, and settled then.
        let settled = later + 60 * SECOND;
        pace.settle(settled);
        assert_eq!(pace.rate(settled), Some(rate(100.0, 20)));
        assert_eq!(pace.pass_all(settled), 1);
        assert!((98..=100).contains(&passed(&mut pace, settled, 1_000)));
    }

    impl Pace {
        fn clone_for_test(&self) -> Pace {
            let (limit, gate, starts) = (self.limit, self.gate.clone(), self.starts.clone());
            Pace { limit, gate, starts, learning: self.learning.clone(), is_half: self.is_half }
        }

        /// As many as may go start at once.
        fn pass_all(&mut self, now: Instant) -> usize {
            let passed = self.passed_at(now);
            (0..passed).for_each(|_| self.started(now));
            passed
        }

        /// As many as may go, none of which starts.
        fn passed_at(&mut self, now: Instant) -> usize {
            std::iter::from_fn(|| self.pass(now).ok()).count()
        }
    }

    #[test]
    fn what_was_learned_outlives_a_tenure_and_another_limit() {
        let start = Instant::now();
        let mut pace = Pace::new(Some(rate(80.0, 8)), start);
        assert!(pace.refused(start, start + SECOND));
        let learned = pace.rate(start + SECOND).unwrap();
        assert!(learned.per_second() < 40.0 && learned.burst() == 3, "{learned:?}");
        pace.begin(true, start + 2 * SECOND);
        pace.retune(Some(rate(200.0, 20)), start + 2 * SECOND);
        let now = pace.rate(start + 2 * SECOND).unwrap();
        assert_eq!(now.per_second(), learned.per_second());
        pace.retune(Some(rate(10.0, 2)), start + 2 * SECOND);
        assert_eq!(pace.rate(start + 2 * SECOND), Some(rate(10.0, 2)));
        assert!(!pace.is_learned(start + 2 * SECOND));
    }

    #[test]
    fn without_a_limit_all_pass_until_a_refusal() {
        let start = Instant::now();
        let mut pace = Pace::new(None, start);
        (0..500).for_each(|_| pace.accepted(start));
        assert_eq!((pace.reserve(start), pace.rate(start)), (start, None));
        assert!(pace.refused(start, start));
        assert!(pace.reserve(start) > start);
        assert_eq!(pace.reserve(start + 60 * SECOND), start + 60 * SECOND);
        assert_eq!(pace.rate(start + 90 * SECOND), None);
    }

    #[test]
    fn another_limit_keeps_the_debt() {
        let start = Instant::now();
        let mut pace = Pace::new(Some(rate(1.0, 1)), start);
        for _ in 0..5 {
            pace.reserve(start);
        }
        pace.retune(Some(rate(1_000.0, 100)), start);
        assert!(pace.free_at(start) >= start + 5 * SECOND);
    }

    #[test]
    fn what_passed_in_one_tenure_counts_in_the_next() {
        let start = Instant::now();
        let mut pace = Pace::new(Some(rate(10.0, 10)), start);
        let later = start + 60 * SECOND;
        assert_eq!(pace.passed_at(later), 10);
        pace.begin(true, later);
        assert_eq!(pace.passed_at(later + 10 * SECOND), 10, "20 in any second");
        assert_eq!(pace.passed_at(later + 60 * SECOND), 0, "none of which has started");
        (0..5).for_each(|_| pace.dropped());
        assert_eq!(pace.passed_at(later + 60 * SECOND), 5);
    }
}
