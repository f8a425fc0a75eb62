//! When a backlog will be done, if all goes on as it does. Values in, values out.

use crate::policy::rest;
use jiff::Timestamp;
use std::time::Duration;

/// What waits for one number, and what it waits for.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::cli) struct Backlog {
    /// Jobs in the broker and in hand.
    pub(in crate::cli) jobs: u64,
    /// Jobs a second; none where no worker tells.
    pub(in crate::cli) rate: Option<f64>,
    /// Until when an answer asked to leave the number alone.
    pub(in crate::cli) held_until: Option<Timestamp>,
    /// An operator's pause, and until when where it ends by itself.
    pub(in crate::cli) paused: Option<Option<Timestamp>>,
}

/// What is to be expected of a backlog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Forecast {
    /// Nothing waits.
    Empty,
    /// It is done at this moment.
    Done(Timestamp),
    /// It stands until an operator resumes the number.
    Never,
    /// No rate is known.
    Unknown,
}

impl Backlog {
    /// All that waits goes at the believed rate, from now or from the end of what holds it. What comes later
    /// and what is refused is not known, so it is the earliest that can be promised.
    pub(in crate::cli) fn forecast(&self, now: Timestamp) -> Forecast {
        let Backlog { jobs, rate, held_until, paused } = *self;
        if jobs == 0 {
            return Forecast::Empty;
        }
        if paused == Some(None) {
            return Forecast::Never;
        }
        let Some(rate) = rate.filter(|rate| *rate > 0.0) else { return Forecast::Unknown };
        let starts = [held_until, paused.flatten()].into_iter().flatten();
        let start = starts.fold(now, Timestamp::max);
        #[expect(clippy::cast_precision_loss, reason = "a forecast")]
        let takes = Duration::try_from_secs_f64(jobs as f64 / rate).unwrap_or(Duration::MAX);
        Forecast::Done(start.checked_add(takes).unwrap_or(Timestamp::MAX))
    }
}

impl Forecast {
    /// How long until it is done; none where that is never or not known.
    pub(in crate::cli) fn done_in(self, now: Timestamp) -> Option<Duration> {
        match self {
            Forecast::Empty => Some(Duration::ZERO),
            Forecast::Done(at) => Some(rest(at, now)),
            Forecast::Never | Forecast::Unknown => None,
        }
    }

    /// The word for programs.
    pub(in crate::cli) fn name(self) -> &'static str {
        match self {
            Forecast::Empty => "empty",
            Forecast::Done(_) => "done",
            Forecast::Never => "never",
            Forecast::Unknown => "unknown",
        }
    }

    /// For a person.
    pub(in crate::cli) fn words(self, now: Timestamp) -> String {
        match self {
            Forecast::Empty => "-".to_owned(),
            Forecast::Done(at) => about(rest(at, now)),
            Forecast::Never => "never while paused".to_owned(),
            Forecast::Unknown => "not known".to_owned(),
        }
    }
}

/// In the greatest unit of which there are two.
pub(in crate::cli) fn about(length: Duration) -> String {
    match length.as_secs() {
        seconds @ 0..120 => format!("{} s", seconds.max(1)),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    /// 720 jobs at 10 a second.
    fn backlog() -> Backlog {
        Backlog { jobs: 720, rate: Some(10.0), held_until: None, paused: None }
    }

    #[test]
    fn a_backlog_is_done_when_all_of_it_has_gone_at_the_believed_rate() {
        assert_eq!(backlog().forecast(at(0)), Forecast::Done(at(72)));
        assert_eq!(Backlog { jobs: 0, ..backlog() }.forecast(at(0)), Forecast::Empty);
        assert_eq!(backlog().forecast(at(0)).done_in(at(0)), Some(Duration::from_secs(72)));
    }

    #[test]
    fn what_stands_begins_at_the_end_of_what_holds_it_and_the_later_end_counts() {
        let held = Backlog { held_until: Some(at(60)), ..backlog() };
        assert_eq!(held.forecast(at(0)), Forecast::Done(at(132)));
        let both = Backlog { paused: Some(Some(at(100))), ..held };
        assert_eq!(both.forecast(at(0)), Forecast::Done(at(172)));
        assert_eq!(both.forecast(at(200)), Forecast::Done(at(272)), "both are over");
    }

    #[test]
    fn a_pause_without_an_end_is_never_done_but_for_nothing() {
        let paused = Backlog { paused: Some(None), held_until: Some(at(9)), ..backlog() };
        assert_eq!(paused.forecast(at(0)), Forecast::Never);
        assert_eq!(paused.forecast(at(0)).words(at(0)), "never while paused");
        assert_eq!(Backlog { rate: None, ..paused }.forecast(at(0)), Forecast::Never);
        assert_eq!(Backlog { jobs: 0, ..paused }.forecast(at(0)), Forecast::Empty);
    }

    #[test]
    fn without_a_rate_nothing_is_forecast_and_no_rate_overflows() {
        for rate in [None, Some(0.0), Some(-1.0), Some(f64::NAN)] {
            assert_eq!(Backlog { rate, ..backlog() }.forecast(at(0)), Forecast::Unknown);
        }
        let slow = Backlog { jobs: u64::MAX, rate: Some(1e-9), ..backlog() };
        assert_eq!(slow.forecast(at(0)), Forecast::Done(Timestamp::MAX));
    }

    #[test]
    fn a_forecast_is_rough() {
        let words =
            [1, 119, 120, 7_199, 7_200, 172_799, 172_800].map(|s| about(Duration::from_secs(s)));
        assert_eq!(words, ["1 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 days"]);
    }
}
