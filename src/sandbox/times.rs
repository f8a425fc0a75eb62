//! Instants of one number, and what is asked of a pace.
//!
//! Computes. It reads no clock.

use std::time::Duration;

use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

/// Instants in order of time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Times(Vec<Instant>);

impl Times {
    /// The book may hold them slightly out of order.
    pub(super) fn of(times: &[Instant]) -> Self {
        let mut sorted = times.to_vec();
        sorted.sort_unstable();
        Self(sorted)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The earliest.
    pub fn first(&self) -> Option<Instant> {
        self.0.first().copied()
    }

    /// The latest.
    pub fn last(&self) -> Option<Instant> {
        self.0.last().copied()
    }

    /// The earliest that is not before `from`.
    pub fn next(&self, from: Instant) -> Option<Instant> {
        self.0.get(self.before(from)).copied()
    }

    /// How many lie in `[from, to)`.
    pub fn between(&self, from: Instant, to: Instant) -> usize {
        self.before(to).saturating_sub(self.before(from))
    }

    /// Most in any second `[t, t + 1 s)`.
    pub fn highest_second(&self) -> usize {
        let mut first = 0;
        let mut most = 0;
        for (last, at) in self.0.iter().enumerate() {
            while *at - self.0[first] >= SECOND {
                first += 1;
            }
            most = most.max(last - first + 1);
        }
        most
    }

    /// The longest time within `[from, to)` in which there was none, its edges included.
    pub fn longest_gap(&self, from: Instant, to: Instant) -> Duration {
        let within = &self.0[self.before(from)..self.before(to).max(self.before(from))];
        let edges = [from].into_iter().chain(within.iter().copied());
        let next = within.iter().copied().chain([to]);
        edges.zip(next).map(|(one, other)| other.duration_since(one)).max().unwrap_or_default()
    }

    fn before(&self, at: Instant) -> usize {
        self.0.partition_point(|time| *time < at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, offsets: &[u64]) -> Times {
        let times: Vec<_> = offsets.iter().map(|ms| start + Duration::from_millis(*ms)).collect();
        Times::of(&times)
    }

    #[test]
    fn the_highest_second_is_found_wherever_it_lies() {
        let start = Instant::now();
        for (offsets, expected) in [
            (&[][..], 0),
            (&[0], 1),
            (&[0, 999], 2),
            (&[0, 1_000], 1),
            (&[0, 900, 1_000, 1_800, 1_899], 4),
            (&[1_899, 0, 1_800, 900, 1_000], 4),
        ] {
            assert_eq!(at(start, offsets).highest_second(), expected, "{offsets:?}");
        }
    }

    #[test]
    fn a_window_has_its_beginning_and_not_its_end() {
        let start = Instant::now();
        let times = at(start, &[0, 100, 200, 300]);
        let ms = |ms| start + Duration::from_millis(ms);
        assert_eq!(times.between(ms(100), ms(300)), 2);
        assert_eq!(times.between(ms(300), ms(100)), 0);
        assert_eq!(times.next(ms(101)), Some(ms(200)));
        assert_eq!((times.first(), times.last()), (Some(ms(0)), Some(ms(300))));
        assert_eq!(times.next(ms(301)), None);
    }

    #[test]
    fn a_gap_may_lie_at_the_edges_of_its_window() {
        let start = Instant::now();
        let ms = |ms| start + Duration::from_millis(ms);
        for (offsets, window, expected) in [
            (&[][..], (0, 500), 500),
            (&[10, 20, 400], (0, 410), 380),
            (&[300, 310], (0, 400), 300),
            (&[10, 100], (0, 1_000), 900),
            (&[10, 900], (100, 200), 100),
        ] {
            let gap = at(start, offsets).longest_gap(ms(window.0), ms(window.1));
            assert_eq!(gap, Duration::from_millis(expected), "{offsets:?} in {window:?}");
        }
    }
}
