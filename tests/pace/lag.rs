//! The evidence that the machine was slow, and not a worker: how late it wakes whoever sleeps, and for how
//! long it lets those wait who could run.

use chakra_sender::clock;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Between two wakings.
const TICK: Duration = Duration::from_millis(5);

/// Later than this is a stall: the shortest pause that costs a number its pace (a burst of 1%).
const STALL: Duration = Duration::from_millis(10);

/// Stalls remembered; far more than a run has.
const KEPT: usize = 100_000;

/// A thread that does nothing but sleep. It ends with its last value.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lag(Arc<Mutex<Vec<(Instant, Duration)>>>);

impl Lag {
    /// Starts looking.
    pub(crate) fn watch() -> Lag {
        let lag = Lag::default();
        let stalls = Arc::downgrade(&lag.0);
        std::thread::spawn(move || {
            loop {
                let before = clock::monotonic();
                #[expect(
                    clippy::disallowed_methods,
                    reason = "the machine, not the runtime, is watched"
                )]
                std::thread::sleep(TICK);
                let late = before.elapsed().saturating_sub(TICK);
                let Some(stalls) = stalls.upgrade() else { return };
                let mut stalls = stalls.lock().unwrap_or_else(PoisonError::into_inner);
                if late > STALL && stalls.len() < KEPT {
                    stalls.push((before, late));
                }
            }
        });
        lag
    }

    /// For how long the machine stood within a span of time.
    pub(crate) fn stalled(&self, from: Instant, to: Instant) -> Duration {
        let stalls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let within = |(at, late): &(Instant, Duration)| {
            (*at + *late).min(to).saturating_duration_since((*at).max(from))
        };
        stalls.iter().map(within).sum()
    }
}

/// For how long each thread of some processes has waited for a processor, as the kernel counts it.
#[derive(Debug)]
pub(crate) struct Queued(HashMap<PathBuf, Duration>);

impl Queued {
    /// Until now. A process that is gone has none.
    pub(crate) fn of(processes: impl Iterator<Item = u32>) -> Queued {
        let threads = processes.flat_map(|id| {
            let threads = std::fs::read_dir(format!("/proc/{id}/task"));
            threads.into_iter().flatten().filter_map(|thread| Some(thread.ok()?.path()))
        });
        let queued = |thread: PathBuf| {
            // Time on a processor, time in its queue (both in nanoseconds), how often.
            let stat = std::fs::read_to_string(thread.join("schedstat")).ok()?;
            let nanoseconds = stat.split_whitespace().nth(1)?.parse().ok()?;
            Some((thread, Duration::from_nanos(nanoseconds)))
        };
        Queued(threads.filter_map(queued).collect())
    }

    /// What was added to the thread that had to wait most.
    pub(crate) fn since(&self, earlier: &Queued) -> Duration {
        let added = self
            .0
            .iter()
            .filter_map(|(thread, queued)| Some(queued.saturating_sub(*earlier.0.get(thread)?)));
        added.max().unwrap_or_default()
    }
}
