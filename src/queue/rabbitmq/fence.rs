//! The staleness fence. A process that stood still (SIGSTOP, swap, a paused container) must not send
//! on waking what the broker has given to another meanwhile: so everything that it held is void, and
//! its connections are closed, which makes the broker deliver all of it again. Knows no deliveries:
//! those remember the generation under which they came (`hold::Hold`).
//!
//! What notices: the monotonic clock goes on while a process is stopped, frozen by its cgroup or
//! swapped out; the wall clock goes on while the whole system sleeps, and leaps where a virtual
//! machine's clock is set right after a pause. What does not: a virtual machine that was paused and
//! whose clocks nobody has set right yet. Then only the lost connection tells, once it is noticed.

use crate::clock;
use jiff::Timestamp;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Between two looks at the clocks. Small beside the bound, so that what is measured is the standstill.
const TICK: Duration = Duration::from_millis(100);

/// No shorter gap counts, or a busy machine would pass for a frozen one. It is below the patience of
/// any broker: that ends two heartbeats after our last sign of life, and we give one every half.
const SHORTEST: Duration = Duration::from_secs(1);

/// A longer gap always counts, however long the heartbeat or where there is none: a connection can
/// also be lost by other means while nobody looks.
const LONGEST: Duration = Duration::from_secs(5);

/// One for both connections and for everything that came by them; clones are the same fence.
#[derive(Debug, Clone)]
pub(super) struct Fence(watch::Sender<Watched>);

/// When a delivery came, as the fence counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Generation(u64);

/// What the clocks say.
#[derive(Debug, Clone, Copy)]
struct Moment {
    monotonic: Instant,
    wall: Timestamp,
}

/// What has been seen of the clocks.
#[derive(Debug, Clone, Copy)]
struct Watched {
    last: Moment,
    /// A longer gap is a standstill.
    bound: Duration,
    generation: Generation,
    /// How long the last standstill was.
    stood_still: Duration,
}

impl Fence {
    /// With the shortest patience, until a heartbeat is known.
    pub(super) fn new() -> Fence {
        Fence(watch::Sender::new(Watched {
            last: Moment::now(),
            bound: SHORTEST,
            generation: Generation(0),
            stood_still: Duration::ZERO,
        }))
    }

    /// The heartbeat that was agreed on with the broker, in seconds; 0: none.
    pub(super) fn heed(&self, heartbeat: u16) {
        self.0.send_if_modified(|watched| {
            watched.bound = bound(heartbeat);
            false
        });
    }

    /// What comes from now on is of this generation.
    pub(super) fn generation(&self) -> Generation {
        self.0.borrow().generation
    }

    /// Whether what came under this generation may still be ours. Right after a standstill a job's
    /// task may run before the watchdog does, so this looks at the clocks itself.
    pub(super) fn stands(&self, generation: Generation) -> bool {
        let now = Moment::now();
        if self.0.borrow().gap(now).is_some() {
            self.tick(now);
        }
        self.0.borrow().generation == generation
    }

    /// Looks at the clocks for ever. Dropped, everything is void a moment later.
    pub(super) async fn watch(self) {
        loop {
            self.tick(Moment::now());
            tokio::time::sleep(TICK).await;
        }
    }

    /// Ends when everything held is void, and says why.
    pub(super) async fn falls(&self) -> String {
        let generation = self.generation();
        let mut watched = self.0.subscribe();
        let fallen = watched.wait_for(|watched| watched.generation != generation).await;
        // Its sender is here: it does not end.
        let stood_still = fallen.map_or(Duration::ZERO, |watched| watched.stood_still);
        format!("this process stood still for {:.1} s", stood_still.as_secs_f64())
    }

    /// Told once for each standstill, whoever notices it first.
    fn tick(&self, now: Moment) {
        let mut stood_still = None;
        self.0.send_if_modified(|watched| {
            stood_still = watched.tick(now);
            stood_still.is_some()
        });
        if let Some(gap) = stood_still {
            let seconds = gap.as_secs_f64();
            tracing::warn!(seconds, "this process stood still: what it held is void");
        }
    }
}

impl Moment {
    fn now() -> Moment {
        Moment { monotonic: clock::monotonic(), wall: clock::wall() }
    }

    /// By the clock that went on for longer; a clock that was set back says nothing.
    fn since(self, earlier: Moment) -> Duration {
        let wall = Duration::try_from(self.wall.duration_since(earlier.wall)).unwrap_or_default();
        self.monotonic.saturating_duration_since(earlier.monotonic).max(wall)
    }
}

impl Watched {
    /// The standstill that ends now, if there was one.
    fn gap(&self, now: Moment) -> Option<Duration> {
        let gap = now.since(self.last);
        (gap > self.bound).then_some(gap)
    }

    /// Looks once; after a standstill a new generation begins.
    fn tick(&mut self, now: Moment) -> Option<Duration> {
        let gap = self.gap(now);
        self.last = now;
        if let Some(gap) = gap {
            self.generation.0 += 1;
            self.stood_still = gap;
        }
        gap
    }
}

/// Half the heartbeat. A broker gives the jobs of a silent connection to another after two.
fn bound(heartbeat: u16) -> Duration {
    match heartbeat {
        0 => LONGEST,
        _ => (Duration::from_secs(heartbeat.into()) / 2).clamp(SHORTEST, LONGEST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::task::JoinSet;

    const SECOND: Duration = Duration::from_secs(1);

    fn watched(start: Moment) -> Watched {
        let generation = Generation(0);
        Watched { last: start, bound: bound(4), generation, stood_still: Duration::ZERO }
    }

    /// Later by the monotonic clock and by the wall clock.
    fn later(moment: Moment, monotonic: Duration, wall: i64) -> Moment {
        Moment {
            monotonic: moment.monotonic + monotonic,
            wall: moment.wall + jiff::SignedDuration::from_secs(wall),
        }
    }

    #[test]
    fn half_a_heartbeat_of_silence_is_a_standstill_within_bounds() {
        for (heartbeat, seconds) in [(0, 5), (1, 1), (2, 1), (4, 2), (10, 5), (60, 5)] {
            assert_eq!(bound(heartbeat), Duration::from_secs(seconds), "heartbeat {heartbeat}");
        }
    }

    #[test]
    fn a_tick_that_load_makes_late_voids_nothing() {
        let start = Moment::now();
        let mut watched = watched(start);
        for tick in 1..=50 {
            let now = later(start, tick * 2 * SECOND, i64::from(tick) * 2);
            assert_eq!(watched.tick(now), None);
        }
        assert_eq!(watched.generation, Generation(0));
    }

    #[test]
    fn after_a_standstill_a_new_generation_begins_and_lasts() {
        let start = Moment::now();
        let mut watched = watched(start);
        let woken = later(start, 3 * SECOND, 3);
        assert_eq!(watched.tick(woken), Some(3 * SECOND));
        assert_eq!(watched.tick(later(woken, TICK, 0)), None);
        assert_eq!((watched.generation, watched.stood_still), (Generation(1), 3 * SECOND));
    }

    #[test]
    fn a_system_that_slept_is_noticed_by_the_wall_clock_alone() {
        let start = Moment::now();
        assert_eq!(watched(start).tick(later(start, TICK, 60)), Some(60 * SECOND));
    }

    #[test]
    fn a_wall_clock_that_is_set_back_voids_nothing() {
        let start = Moment::now();
        assert_eq!(watched(start).tick(later(start, TICK, -3_600)), None);
    }

    /// As after SIGCONT, when the watchdog has not run yet.
    #[tokio::test(start_paused = true)]
    async fn who_asks_before_the_watchdog_is_told_so_and_ends_both_connections() {
        let fence = Fence::new();
        fence.heed(2);
        let before = fence.generation();
        assert!(fence.stands(before));
        let mut falls = JoinSet::new();
        let waiting = fence.clone();
        falls.spawn(async move { waiting.falls().await });
        tokio::task::yield_now().await;
        tokio::time::advance(SECOND + TICK).await;
        assert!(!fence.stands(before));
        assert!(fence.stands(fence.generation()));
        let why = falls.join_next().await.unwrap().unwrap();
        assert_eq!(why, "this process stood still for 1.1 s");
    }

    #[tokio::test(start_paused = true)]
    async fn while_it_is_watched_everything_stands() {
        let fence = Fence::new();
        fence.heed(2);
        let mut watching = JoinSet::new();
        watching.spawn(fence.clone().watch());
        let before = fence.generation();
        tokio::time::sleep(60 * SECOND).await;
        assert!(fence.stands(before));
    }
}
