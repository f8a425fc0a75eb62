//! The life of the process: the signals that end it or change its settings, and the order and the bounds
//! of its end. Does not know what it ends or changes.

use crate::clock;
use std::io;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// The exit code of a process that its operator told to stop twice: 128 + SIGINT, as shells expect.
pub const EXIT_INTERRUPTED: u8 = 130;

/// SIGTERM and SIGINT, caught from the moment this is made.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Catches the signals: from here on they do not end the process by themselves.
    pub fn catch() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Cancels `drain` at the first signal and ends at the second: then the process should leave at
    /// once, with [`EXIT_INTERRUPTED`].
    pub async fn second_signal(mut self, drain: CancellationToken) {
        second_signal(async || self.next().await, drain).await;
    }

    async fn next(&mut self) -> &'static str {
        // Signal::recv ends with None only when no more signals can come, which is never.
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// SIGHUP, caught from the moment this is made: from here on it does not end the process. One that comes
/// before anybody waits for it is not lost; several that come at once are one.
#[derive(Debug)]
pub struct Hangups(Signal);

impl Hangups {
    /// Catches the signal.
    pub fn catch() -> io::Result<Hangups> {
        Ok(Hangups(signal(SignalKind::hangup())?))
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        // It ends with None only when no more signals can come, which is never.
        self.0.recv().await;
    }
}

async fn second_signal(mut next: impl AsyncFnMut() -> &'static str, drain: CancellationToken) {
    let first = next().await;
    tracing::info!(
        signal = first,
        "stopping: finishing what is under way; once more leaves at once"
    );
    drain.cancel();
    let second = next().await;
    tracing::warn!(signal = second, "leaving at once: what is under way is abandoned");
}

/// The end of the process: phases one after the other, each with a bound of its own, all of them
/// with one together.
#[derive(Debug, Clone, Copy)]
pub struct Drain {
    deadline: Instant,
}

/// How a phase ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase<T> {
    /// It came to its end.
    Done(T),
    /// Its time was over: its future was dropped where it stood.
    TimedOut,
}

impl Drain {
    /// Begins now; all phases together take at most this.
    pub fn begin(at_most: Duration) -> Drain {
        Drain { deadline: clock::monotonic() + at_most }
    }

    /// What is left for the phases to come.
    pub fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(clock::monotonic())
    }

    /// Runs one phase, for at most this and at most what is left. `name` says in the log what was
    /// finished or abandoned: "calls under way".
    pub async fn phase<T>(
        &self,
        name: &'static str,
        at_most: Duration,
        work: impl Future<Output = T>,
    ) -> Phase<T> {
        let start = clock::monotonic();
        let end = self.deadline.min(start + at_most);
        let ended = timeout_at(end, work).await;
        let took = start.elapsed();
        match ended {
            Ok(value) => {
                tracing::info!(phase = name, ?took, "drain: finished");
                Phase::Done(value)
            }
            Err(_) => {
                tracing::warn!(phase = name, ?took, "drain: out of time, abandoned");
                Phase::TimedOut
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::future::{pending, ready};
    use tokio::time::sleep;

    const SECOND: Duration = Duration::from_secs(1);

    /// These signals, then none.
    fn signals(names: &[&'static str]) -> impl AsyncFnMut() -> &'static str {
        let mut names: VecDeque<_> = names.iter().copied().collect();
        async move || match names.pop_front() {
            Some(name) => name,
            None => pending().await,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_signal_asks_for_a_drain_and_no_more() {
        let drain = CancellationToken::new();
        let leave =
            tokio::time::timeout(SECOND, second_signal(signals(&["SIGTERM"]), drain.clone()));
        assert!(leave.await.is_err(), "one signal does not make the process leave");
        assert!(drain.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_signal_makes_the_process_leave() {
        let drain = CancellationToken::new();
        second_signal(signals(&["SIGTERM", "SIGINT"]), drain.clone()).await;
        assert!(drain.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_signal_nothing_drains() {
        let drain = CancellationToken::new();
        let waiting = second_signal(signals(&[]), drain.clone());
        assert!(tokio::time::timeout(SECOND, waiting).await.is_err());
        assert!(!drain.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_phase_gives_back_what_it_made() {
        let drain = Drain::begin(10 * SECOND);
        assert_eq!(drain.phase("calls under way", SECOND, ready(7)).await, Phase::Done(7));
    }

    #[tokio::test(start_paused = true)]
    async fn a_phase_that_hangs_leaves_the_others_their_time() {
        let drain = Drain::begin(10 * SECOND);
        assert_eq!(drain.phase("hangs", 3 * SECOND, pending::<()>()).await, Phase::TimedOut);
        assert_eq!(drain.left(), 7 * SECOND);
        assert_eq!(drain.phase("next", 5 * SECOND, sleep(4 * SECOND)).await, Phase::Done(()));
    }

    #[tokio::test(start_paused = true)]
    async fn all_phases_together_have_a_bound() {
        let drain = Drain::begin(5 * SECOND);
        assert_eq!(drain.phase("hangs", 60 * SECOND, pending::<()>()).await, Phase::TimedOut);
        assert_eq!(drain.left(), Duration::ZERO);
        // What is ready at once is still done: closing must not be skipped.
        assert_eq!(drain.phase("close", SECOND, ready(())).await, Phase::Done(()));
    }
}
