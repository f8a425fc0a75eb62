//! What failed lately, by number and by what the failure was, for people who look at a page. Quiet: time
//! comes as an argument. Counts requests, not jobs.

use super::step::Fault;
use crate::wire::NumberId;
use jiff::Timestamp;
use std::collections::HashMap;

/// What is older is not told.
pub(super) const WINDOW_MINUTES: usize = 15;

/// Kinds of failures kept of one number; of more, the one that was seen longest ago goes.
const MOST_KINDS: usize = 16;

/// Numbers with failures at once: as many as a worker can have lanes.
const MOST_NUMBERS: usize = 2_048;

/// All failures of the last minutes.
#[derive(Debug, Default)]
pub(super) struct Failures(HashMap<NumberId, Vec<Kind>>);

/// One kind of failure of one number.
#[derive(Debug)]
struct Kind {
    fault: Fault,
    last: Timestamp,
    /// By the minute of Unix time, modulo the window.
    minutes: [u32; WINDOW_MINUTES],
}

/// How often something failed lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recent {
    /// What.
    pub fault: Fault,
    /// How often in the last 15 minutes.
    pub count: u64,
    /// When last.
    pub last: Timestamp,
}

impl Failures {
    /// A request of the number failed.
    pub(super) fn note(&mut self, number: &NumberId, fault: Fault, now: Timestamp) {
        if self.0.len() >= MOST_NUMBERS && !self.0.contains_key(number) {
            self.0.retain(|_, kinds| kinds.iter().any(|kind| age(kind.last, now) < WINDOW_MINUTES));
            if self.0.len() >= MOST_NUMBERS {
                return;
            }
        }
        let kinds = self.0.entry(number.clone()).or_default();
        if let Some(kind) = kinds.iter_mut().find(|kind| kind.fault == fault) {
            return kind.count(now);
        }
        if kinds.len() >= MOST_KINDS
            && let Some(oldest) = (0..kinds.len()).min_by_key(|at| kinds[*at].last)
        {
            kinds.swap_remove(oldest);
        }
        let mut kind = Kind { fault, last: now, minutes: [0; WINDOW_MINUTES] };
        kind.count(now);
        kinds.push(kind);
    }

    /// What failed of the number lately, the most frequent first.
    pub(super) fn recent(&self, number: &NumberId, now: Timestamp) -> Vec<Recent> {
        let kinds = self.0.get(number).map(Vec::as_slice).unwrap_or_default();
        let mut recent: Vec<Recent> = kinds.iter().filter_map(|kind| kind.recent(now)).collect();
        recent.sort_by_key(|recent| (std::cmp::Reverse(recent.count), recent.fault.code));
        recent
    }
}

impl Kind {
    fn count(&mut self, now: Timestamp) {
        self.forget(now);
        let count = &mut self.minutes[slot(minute(now))];
        *count = count.saturating_add(1);
        self.last = self.last.max(now);
    }

    /// Empties the minutes that have passed since it was counted last: they hold what is a window older.
    fn forget(&mut self, now: Timestamp) {
        for passed in 0..age(self.last, now).min(WINDOW_MINUTES) {
            self.minutes[slot(minute(now).saturating_sub_unsigned(passed as u64))] = 0;
        }
    }

    fn recent(&self, now: Timestamp) -> Option<Recent> {
        let passed = age(self.last, now);
        let kept = WINDOW_MINUTES.checked_sub(passed).filter(|kept| *kept > 0)?;
        let minute = minute(self.last);
        let counts =
            (0..kept).map(|back| self.minutes[slot(minute.saturating_sub_unsigned(back as u64))]);
        let count = counts.map(u64::from).sum();
        Some(Recent { fault: self.fault, count, last: self.last })
    }
}

fn minute(at: Timestamp) -> i64 {
    at.as_second().div_euclid(60)
}

/// Whole minutes of the clock from one moment to a later one.
fn age(then: Timestamp, now: Timestamp) -> usize {
    usize::try_from(minute(now) - minute(then)).unwrap_or(0)
}

fn slot(minute: i64) -> usize {
    usize::try_from(minute.rem_euclid(WINDOW_MINUTES as i64)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Class, Scope};

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + 60 * minute).unwrap()
    }

    fn fault(code: u32) -> Fault {
        let (class, scope) = (Class::Refused, Scope::Message);
        Fault { class, scope, code: Some(code), http_status: Some(400) }
    }

    fn number(digits: &str) -> NumberId {
        NumberId::parse(digits).unwrap()
    }

    /// Codes and counts.
    fn told(failures: &Failures, minute: i64) -> Vec<(u32, u64)> {
        let recent = failures.recent(&number("1"), at(minute));
        recent.iter().map(|recent| (recent.fault.code.unwrap(), recent.count)).collect()
    }

    #[test]
    fn failures_are_counted_by_their_kind_the_most_frequent_first() {
        let mut failures = Failures::default();
        for code in [7, 9, 9] {
            failures.note(&number("1"), fault(code), at(0));
        }
        failures.note(&number("2"), fault(9), at(0));
        assert_eq!(told(&failures, 0), [(9, 2), (7, 1)]);
    }

    #[test]
    fn what_is_older_than_the_window_is_not_told_and_not_counted_again() {
        let mut failures = Failures::default();
        for minute in [0, 0, 10] {
            failures.note(&number("1"), fault(9), at(minute));
        }
        assert_eq!(told(&failures, 14), [(9, 3)]);
        assert_eq!(told(&failures, 15), [(9, 1)]);
        assert_eq!(told(&failures, 25), []);
        failures.note(&number("1"), fault(9), at(100));
        assert_eq!(told(&failures, 100), [(9, 1)]);
        failures.note(&number("1"), fault(9), at(99));
        assert_eq!(told(&failures, 100), [(9, 2)], "a clock that is set back harms nothing");
    }

    #[test]
    fn kinds_and_numbers_are_bounded() {
        let mut failures = Failures::default();
        for code in 0..100 {
            failures.note(&number("1"), fault(code), at(code.into()));
        }
        assert_eq!(failures.0[&number("1")].len(), MOST_KINDS);
        for n in 0..=MOST_NUMBERS {
            failures.note(&number(&format!("1{n}")), fault(1), at(200));
        }
        assert_eq!(failures.0.len(), MOST_NUMBERS);
        assert!(!failures.0.contains_key(&number("1")), "the stale one has made room");
    }
}
