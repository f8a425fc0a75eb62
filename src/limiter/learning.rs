//! What a ceiling seems to be, from what is accepted and what is refused for going too fast. Decides
//! nothing about a job, and does not pace: it says how fast to go.

use std::time::Duration;
use tokio::time::Instant;

/// A refusal leaves this part of what was accepted in the last second. The rest is for the jitter of
/// requests on their way, which already holds a number that is paced evenly about 8% below its ceiling
/// (`tests/it/learning.rs`): a deeper cut would only cost more of it.
const CUT: f64 = 0.98;

/// One cut takes no more than this part of the rate, and a little: a second with few requests proves
/// little.
const AT_LEAST: f64 = 0.5;

/// The service judges a second as a whole, so what is sent less than a second after a cut is judged
/// together with what went before it: its refusal tells nothing of the new rate. So a cut follows on
/// another after a second and an answer's way at the earliest.
const JUDGED_TOGETHER: Duration = Duration::from_secs(1);

/// The rate stays as it is for so long after a cut.
const QUIET: Duration = Duration::from_secs(10);

/// Then it climbs by this part of itself in the first second, by three times as much in the second
/// one, by five times in the third: slowly near the ceiling that was met, and to the double in 48 s
/// where that ceiling is gone. A steady 0.2% a second would take six minutes for that.
const CLIMB: f64 = 0.000_3;

/// Requests a second: no rate is learned below, so that a number is never given up.
const SLOWEST: f64 = 1.0;

/// What has no other limit is taken to do what it did in its busiest second, and so many a second at
/// least: the lowest ceiling that Meta gives to one number. A refusal among few must not stop it.
const AT_LEAST_DOES: f64 = 20.0;

/// It has no limit again once it has climbed to so many times that.
const FREE_ABOVE: f64 = 2.0;

/// Learns one ceiling, in under 300 bytes and a few instructions for each answer.
#[derive(Debug, Clone, Default)]
pub struct Learning {
    seen: Seen,
    learned: Option<Learned>,
}

#[derive(Debug, Clone, Copy)]
struct Learned {
    /// Requests a second, right after the cut.
    rate: f64,
    /// When that was.
    cut: Instant,
    /// Climbed to this, it is forgotten where there is no other limit.
    free_above: f64,
}

impl Learning {
    /// A request was accepted.
    pub fn accepted(&mut self, now: Instant) {
        self.seen.slot(now).accepted += 1;
    }

    /// A request that was sent then was refused for going too fast. Returns the new rate in requests a
    /// second, where that changes. `limit` is the rate that holds where nothing is learned.
    pub fn refused(&mut self, sent: Instant, limit: Option<f64>, now: Instant) -> Option<f64> {
        self.seen.slot(now).refused += 1;
        if self.learned.is_some_and(|last| sent < last.cut + JUDGED_TOGETHER) {
            return None;
        }
        let (accepted, refused) = self.seen.last_second(now);
        let bound = self.rate(limit, now).or(limit);
        let current = bound.unwrap_or(self.seen.busiest.max(accepted).max(AT_LEAST_DOES));
        // The share counts where the last second was not a full one.
        let share = accepted / (accepted + refused);
        let passes = accepted.max(current * share.max(AT_LEAST)).min(current);
        let rate = (CUT * passes).max(SLOWEST.min(current));
        let free_above = match self.learned {
            Some(last) if bound.is_some() => last.free_above,
            _ => FREE_ABOVE * current,
        };
        self.learned = Some(Learned { rate, cut: now, free_above });
        Some(rate)
    }

    /// The rate that was learned, in requests a second; none where `limit`, or none, holds. It changes
    /// once a second at most.
    pub fn rate(&self, limit: Option<f64>, now: Instant) -> Option<f64> {
        let Learned { rate, cut, free_above } = self.learned?;
        let quiet = now.saturating_duration_since(cut).saturating_sub(QUIET);
        // Whole seconds: a gate loses what it saved with each change.
        let climbed = quiet.as_secs_f64().floor();
        let rate = rate * (CLIMB * climbed * climbed).exp();
        (rate < limit.unwrap_or(free_above)).then_some(rate)
    }
}

/// Slots of a tenth of a second: with the present one they are the last second.
const SLOTS: usize = 10;

/// What came back in the last second, by tenths of it.
#[derive(Debug, Clone, Default)]
struct Seen {
    /// The first answer: slots are numbered from here.
    start: Option<Instant>,
    slots: [Slot; SLOTS],
    /// The most that was accepted in a second.
    busiest: f64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    number: u64,
    accepted: u32,
    refused: u32,
}

impl Seen {
    /// Where an answer of this moment is counted.
    fn slot(&mut self, now: Instant) -> &mut Slot {
        self.start.get_or_insert(now);
        let (number, _) = self.place(now);
        let index = usize::try_from(number % SLOTS as u64).expect("one of ten");
        if self.slots[index].number != number {
            self.busiest = self.busiest.max(self.last_second(now).0);
            self.slots[index] = Slot { number, ..Slot::default() };
        }
        &mut self.slots[index]
    }

    /// What was accepted and what was refused, each in a second. The present slot is not over, so a
    /// little less than a second is seen, and stands for a whole one.
    fn last_second(&self, now: Instant) -> (f64, f64) {
        let (number, into_slot) = self.place(now);
        let recent =
            self.slots.iter().filter(|slot| number - slot.number.min(number) < SLOTS as u64);
        let (accepted, refused) = recent.fold((0.0, 0.0), |(accepted, refused), slot| {
            (accepted + f64::from(slot.accepted), refused + f64::from(slot.refused))
        });
        let seconds = 0.9 + 0.1 * into_slot;
        (accepted / seconds, refused / seconds)
    }

    /// The slot of a moment, and how much of it has passed, 0 to 1.
    fn place(&self, now: Instant) -> (u64, f64) {
        let since = self.start.map_or(Duration::ZERO, |start| now.saturating_duration_since(start));
        let tenths = 10.0 * since.as_secs_f64();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "not below zero"
        )]
        let number = tenths as u64;
        (number, tenths.fract())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A learner, and a clock in milliseconds.
    struct Story {
        learning: Learning,
        start: Instant,
    }

    impl Story {
        fn begin() -> Story {
            Story { learning: Learning::default(), start: Instant::now() }
        }

        fn at(&self, millis: u64) -> Instant {
            self.start + Duration::from_millis(millis)
        }

        /// So many a second are accepted, evenly.
        fn accepted(&mut self, a_second: u64, millis: std::ops::Range<u64>) {
            for nth in 0..a_second * (millis.end - millis.start) / 1_000 {
                let at = self.at(millis.start + nth * 1_000 / a_second);
                self.learning.accepted(at);
            }
        }

        /// Refused 100 ms after it was sent.
        fn refused(&mut self, limit: Option<f64>, millis: u64) -> Option<f64> {
            let (sent, now) = (self.at(millis - 100), self.at(millis));
            self.learning.refused(sent, limit, now)
        }

        fn rate(&self, limit: Option<f64>, millis: u64) -> Option<f64> {
            self.learning.rate(limit, self.at(millis))
        }
    }

    fn near(rate: Option<f64>, expected: f64) -> bool {
        rate.is_some_and(|rate| (rate / expected - 1.0).abs() < 0.05)
    }

    #[test]
    fn a_refusal_leaves_a_little_less_than_what_was_accepted() {
        let mut story = Story::begin();
        assert_eq!(story.rate(Some(70.0), 0), None);
        story.accepted(40, 0..2_000);
        // As many refused as one would expect.
        (0..30).for_each(|nth| story.learning.seen.slot(story.at(1_000 + nth * 33)).refused += 1);
        let rate = story.refused(Some(70.0), 2_000);
        assert!(near(rate, 0.98 * 40.0), "{rate:?}");
        assert_eq!(story.rate(Some(70.0), 2_000), rate);
    }

    #[test]
    fn a_refusal_among_few_requests_leaves_half_the_rate() {
        for limit in [Some(70.0), Some(1_000.0)] {
            let mut story = Story::begin();
            let rate = story.refused(limit, 500);
            assert!(near(rate, 0.49 * limit.unwrap()), "{rate:?}");
        }
        // After a long idle time as well.
        let mut story = Story::begin();
        story.accepted(40, 0..2_000);
        let rate = story.refused(Some(70.0), 3_600_000);
        assert!(near(rate, 0.49 * 70.0), "{rate:?}");
    }

    #[test]
    fn one_refusal_among_many_cuts_little() {
        let mut story = Story::begin();
        story.accepted(69, 0..2_000);
        let rate = story.refused(Some(70.0), 2_000).unwrap();
        assert!((66.0..=0.98 * 70.0).contains(&rate), "{rate}");
    }

    #[test]
    fn what_was_sent_before_a_cut_or_in_the_second_after_it_cuts_no_more() {
        let mut story = Story::begin();
        story.accepted(70, 0..1_000);
        let rate = story.refused(Some(70.0), 1_000);
        for millis in [1_010, 1_500, 2_000, 2_099] {
            assert_eq!(story.refused(Some(70.0), millis), None);
        }
        let late = story.learning.refused(story.at(999), Some(70.0), story.at(25_000));
        assert_eq!((late, story.rate(Some(70.0), 10_900)), (None, rate));
        assert!(story.refused(Some(70.0), 26_200) < rate.map(|rate| rate * 1.1));
    }

    #[test]
    fn it_climbs_after_ten_seconds_ever_faster_until_the_limit_holds_again() {
        let mut story = Story::begin();
        story.refused(Some(80.0), 1_000).unwrap();
        let after = |seconds: u64| story.rate(Some(80.0), 1_000 + seconds * 1_000);
        let first = after(0).unwrap();
        let of_first = |seconds| after(seconds).map(|rate| (1_000.0 * rate / first).round());
        let seconds = [0, 10, 11, 12, 13, 20, 30, 40];
        let climbed = [1_000, 1_000, 1_000, 1_001, 1_003, 1_030, 1_127, 1_310].map(f64::from);
        assert_eq!(seconds.map(of_first), climbed.map(Some));
        assert_eq!(after(11), story.rate(Some(80.0), 12_999));
        assert_eq!((after(60), after(1_000_000)), (None, None));
    }

    #[test]
    fn a_lower_limit_holds_and_a_higher_one_does_not_undo_what_was_learned() {
        let mut story = Story::begin();
        story.accepted(40, 0..1_000);
        let rate = story.refused(Some(80.0), 1_000).unwrap();
        assert_eq!(story.rate(Some(10.0), 2_000), None);
        assert_eq!(story.rate(Some(1_000.0), 2_000), Some(rate));
    }

    #[test]
    fn no_refusal_leaves_less_than_one_a_second_or_the_limit() {
        for (limit, slowest) in [(Some(70.0), 1.0), (Some(0.2), 0.2), (None, 1.0)] {
            let mut story = Story::begin();
            let last = (1..60).filter_map(|nth| story.refused(limit, nth * 1_200)).last();
            assert_eq!(last, Some(slowest));
        }
    }

    #[test]
    fn without_a_limit_nothing_holds_until_a_refusal_and_again_at_the_double_of_it() {
        let mut story = Story::begin();
        story.accepted(300, 0..2_000);
        assert_eq!(story.rate(None, 2_000), None);
        let rate = story.refused(None, 2_000);
        assert!(near(rate, 0.98 * 300.0), "{rate:?}");
        assert!(story.rate(None, 50_000).unwrap() < 600.0);
        assert_eq!(story.rate(None, 62_000), None);
        // Long after that it is still known to do that much.
        let rate = story.refused(None, 3_600_000);
        assert!(near(rate, 0.49 * 300.0), "{rate:?}");
    }

    #[test]
    fn a_refusal_of_one_that_did_nothing_yet_leaves_it_some_pace() {
        let rate = Story::begin().refused(None, 1_000);
        assert!(near(rate, 0.49 * 20.0), "{rate:?}");
    }

    #[test]
    fn a_clock_that_goes_back_is_no_accident() {
        let mut story = Story::begin();
        story.start += Duration::from_secs(10);
        story.accepted(40, 0..3_000);
        story.learning.accepted(story.start - Duration::from_secs(5));
        story.refused(Some(70.0), 500);
        story.learning.rate(None, story.start - Duration::from_secs(5));
    }
}
