//! How soon the next letter may go. Takes `now` as an argument.

use std::time::Duration;
use tokio::time::Instant;

/// Letters a second, without bursts: a pause that was not used is not made up for.
#[derive(Debug)]
pub(super) struct Pace {
    every: Duration,
    next: Option<Instant>,
}

impl Pace {
    /// `rate` is letters a second, above 0.
    pub(super) fn new(rate: f64) -> Pace {
        Pace { every: Duration::from_secs_f64(1.0 / rate), next: None }
    }

    /// How long to wait before the next letter goes. It counts as gone then.
    pub(super) fn wait(&mut self, now: Instant) -> Duration {
        let goes = self.next.map_or(now, |next| next.max(now));
        self.next = Some(goes + self.every);
        goes - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_go_one_by_one_and_a_late_one_is_not_made_up_for() {
        let start = crate::clock::monotonic();
        let mut pace = Pace::new(10.0);
        let millis = |pace: &mut Pace, at| pace.wait(start + Duration::from_millis(at)).as_millis();
        // One after the other as fast as they come, then late, then fast again.
        let waits = [0, 0, 0, 250, 1_000, 1_000, 1_040].map(|at| millis(&mut pace, at));
        assert_eq!(waits, [0, 100, 200, 50, 0, 100, 160]);
    }
}
