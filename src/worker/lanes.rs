//! One lane for each number: who goes next, and when. A single task a lane hands out the turns that are
//! waited for; one that is free is taken at once, by the same gates. It knows nothing of what is sent.

use super::account::{self, Account};
use super::lag::{InLine, Lag};
use super::limits::Limits;
use super::lock;
use super::order::Lines;
use super::step::Word;
use super::views::LaneView;
use super::waiting::{Rank, Waiting};
use crate::clock;
use crate::limiter::{Probe, Rate, Source, Wait};
use crate::metrics::{Limit, Metrics, PauseReason};
use crate::policy::{Answer, Failure};
use crate::queue::{Holds, Ready, Tenure};
use crate::wire::{NumberId, Priority};
use jiff::Timestamp;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

/// A moment of the account's pace that is used later than this is void: had many lanes waited for a
/// free call with such a moment in hand, they would all go at once.
const MOMENT_LASTS: Duration = Duration::from_millis(100);

/// The right to make one request now. Dropping it gives the place among the calls in flight back, and
/// the places as a probe to others.
#[derive(Debug)]
pub(super) struct Turn {
    calls: Calls,
    of_account: account::Pass,
    of_number: Pass,
}

/// Of the number's calls, and of the process's.
type Calls = (OwnedSemaphorePermit, Call);

/// A place among the process's calls. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Call {
    _permit: OwnedSemaphorePermit,
}

impl Turn {
    /// Its request starts now: what came before may have taken a while.
    pub(super) fn starts(&mut self, now: Instant) {
        self.of_account.starts(now);
        self.of_number.starts(now);
    }

    /// What came of the request. The place among the process's calls is still taken.
    pub(super) fn ended(self, answer: &Answer) -> Call {
        self.of_account.ended(answer);
        self.of_number.ended(answer);
        let (_of_the_number, of_the_process) = self.calls;
        of_the_process
    }
}

/// The right to one request of a number. Dropped without an answer it is given back.
#[derive(Debug)]
struct Pass {
    lane: Arc<Lane>,
    probe: Option<Probe>,
    /// When it was given; once its request starts, when that was.
    sent: Instant,
    has_started: bool,
}

impl Pass {
    fn starts(&mut self, now: Instant) {
        (self.sent, self.has_started) = (now, true);
        lock(&self.lane.limits).started(now);
    }

    fn ended(mut self, answer: &Answer) {
        self.lane.ended(self.probe.take(), Some(answer), self.sent);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if !self.has_started {
            lock(&self.lane.limits).dropped();
        }
        if let Some(probe) = self.probe.take() {
            self.lane.ended(Some(probe), None, self.sent);
        }
    }
}

/// One number's lane.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) number: NumberId,
    /// One line for each of its recipients.
    pub(super) lines: Lines,
    limits: Mutex<Limits>,
    /// Somebody who waits for the limits should ask again.
    changed: Notify,
    waiting: Mutex<Waiting<Turn>>,
    lag: Mutex<Lag>,
    arrived: Notify,
    is_closed: AtomicBool,
    calls: Arc<Semaphore>,
    max_calls: usize,
    shared: Arc<Shared>,
}

/// What all lanes of a process share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Calls of the whole process, in flight or with an answer that is not safe yet.
    pub(super) calls: Arc<Semaphore>,
    /// The account's pace and its brake.
    pub(super) account: Arc<Account>,
    /// False while no result could be recorded: then no new request starts.
    pub(super) may_send: watch::Receiver<bool>,
    /// What operators see.
    pub(super) metrics: Arc<Metrics>,
    /// What the queue is told to leave alone.
    pub(super) holds: Holds,
}

impl Lane {
    pub(super) fn new(
        number: NumberId,
        rate: (Rate, Source),
        max_calls: usize,
        shared: Arc<Shared>,
    ) -> Lane {
        let (metrics, holds) = (Arc::clone(&shared.metrics), shared.holds.clone());
        let limits = Limits::new(number.clone(), rate, metrics, holds, clock::monotonic());
        Lane {
            number,
            lines: Lines::default(),
            limits: Mutex::new(limits),
            changed: Notify::new(),
            waiting: Mutex::default(),
            lag: Mutex::new(Lag::new(clock::wall())),
            arrived: Notify::new(),
            is_closed: AtomicBool::new(false),
            calls: Arc::new(Semaphore::new(max_calls)),
            max_calls,
            shared,
        }
    }

    /// A job came in this tenure.
    pub(super) fn begin(&self, tenure: &Tenure) {
        lock(&self.limits).begin(tenure, clock::monotonic());
    }

    /// Goes on at another configured or known rate.
    pub(super) fn retune(&self, rate: (Rate, Source)) {
        lock(&self.limits).retune(rate, clock::monotonic());
    }

    /// Waits for a turn with a job that came by this queue, ready since then. Dropping the future gives the
    /// place in the lane up.
    pub(super) async fn turn(
        self: &Arc<Self>,
        rank: Rank,
        (priority, ready_since): (Priority, Timestamp),
    ) -> Option<Turn> {
        let place = InLine::join(&self.lag, priority);
        let turn = match self.free_turn() {
            Some(turn) => turn,
            None => {
                let turn = lock(&self.waiting).join(rank);
                self.arrived.notify_one();
                turn.await.ok()?
            }
        };
        place.taken_up(ready_since);
        Some(turn)
    }

    /// A turn that nobody waits for and nothing holds back. Without it each job of a number below its pace
    /// would wake the task that hands out turns, and be woken by it.
    fn free_turn(self: &Arc<Self>) -> Option<Turn> {
        let Shared { account, calls, may_send, .. } = &*self.shared;
        let is_free = lock(&self.waiting).is_empty()
            && *may_send.borrow()
            && !account.is_paced()
            && lock(&self.limits).ask(clock::monotonic()).is_ok();
        if !is_free {
            return None;
        }
        let of_the_number = Arc::clone(&self.calls).try_acquire_owned().ok()?;
        let of_the_process = Call { _permit: Arc::clone(calls).try_acquire_owned().ok()? };
        self.turn_with((of_the_number, of_the_process))
    }

    /// The turn, if brake and limits let a request go now.
    fn turn_with(self: &Arc<Self>, calls: Calls) -> Option<Turn> {
        let of_account = self.shared.account.pass()?;
        let sent = clock::monotonic();
        let probe = lock(&self.limits).pass(sent)?;
        let of_number = Pass { lane: Arc::clone(self), probe, sent, has_started: false };
        Some(Turn { calls, of_account, of_number })
    }

    /// Goes on with what was known of the lane's head before it had a job here.
    pub(super) fn follow(&self, lag: Lag) {
        *lock(&self.lag) = lag;
    }

    /// How long the job at its head has been ready, with so many ready in the broker.
    pub(super) fn oldest(&self, ready: Option<Ready>, now: Timestamp) -> Duration {
        lock(&self.lag).oldest(ready.unwrap_or_default(), now)
    }

    /// Nobody joins it any more: who hands out turns ends, once nobody waits.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Relaxed);
        self.arrived.notify_one();
    }

    /// A message failed after it had been accepted, for a reason that is the number's.
    pub(super) fn heard(&self, failure: Failure, at: Instant) {
        self.ended(None, Some(&Answer::Failed(failure)), at);
    }

    /// Whether an answer asked to leave the number alone.
    pub(super) fn is_held(&self, now: Instant) -> bool {
        lock(&self.limits).belief(now).held.is_some()
    }

    /// Hands out turns, until the lane is closed or the process is over. What is only waited for comes first and what is
    /// paid comes last, so that a lane which waits for its pace or for the brake holds no call, and no
    /// pace is paid while a lane stands.
    pub(super) async fn pace(self: Arc<Self>) {
        let account = &self.shared.account;
        let mut may_send = self.shared.may_send.clone();
        // Whether the pace held back this line, which goes together then.
        let mut is_behind = false;
        loop {
            while lock(&self.waiting).is_empty() {
                is_behind = false;
                if self.is_closed.load(Relaxed) {
                    return;
                }
                self.arrived.notified().await;
            }
            if may_send.wait_for(|allowed| *allowed).await.is_err() {
                return;
            }
            is_behind = lock(&self.limits).count_delay(is_behind, clock::monotonic());
            wait_out(&self.changed, |now| lock(&self.limits).ask(now)).await;
            account.unbraked().await;
            let Some(calls) = self.take_calls().await else { return };
            if !*may_send.borrow() {
                continue;
            }
            if let Some(turn) = self.turn_with(calls) {
                self.grant(turn);
            }
        }
    }

    /// A moment of the account's pace, and a place among the calls in flight.
    async fn take_calls(&self) -> Option<Calls> {
        let Shared { account, calls, metrics, .. } = &*self.shared;
        let mut moment = account.reserve();
        if moment > clock::monotonic() {
            metrics.limit_delayed(&self.number, Limit::Account);
        }
        loop {
            sleep_until(moment).await;
            let of_the_number = Arc::clone(&self.calls).acquire_owned().await.ok()?;
            let of_the_process = Call { _permit: Arc::clone(calls).acquire_owned().await.ok()? };
            let waited = clock::monotonic().saturating_duration_since(moment);
            if waited <= MOMENT_LASTS || !account.is_paced() {
                return Some((of_the_number, of_the_process));
            }
            moment = account.reserve();
        }
    }

    /// As operators see it, with so many ready in the broker.
    pub(super) fn view(&self, ready: Option<Ready>, (now, wall): (Instant, Timestamp)) -> LaneView {
        let belief = lock(&self.limits).belief(now);
        let held = belief.held.or_else(|| {
            self.shared.account.held_until(now).map(|until| (until, PauseReason::Account))
        });
        // Its own statement: a guard in the literal below would be held to its end.
        let waiting = lock(&self.lag).in_line();
        LaneView {
            number: self.number.clone(),
            rate: belief.rate,
            source: belief.source.name().to_owned(),
            waiting,
            in_flight: self.max_calls.saturating_sub(self.calls.available_permits()),
            held_until: held.map(|(until, _)| wall + until.saturating_duration_since(now)),
            held_for: held.map(|(_, reason)| reason.name().to_owned()),
            ready,
            oldest_seconds: Some(self.oldest(ready, wall).as_secs_f64()),
        }
    }

    /// What its next turn waits for, as far as can be told, in the order in which turns wait: a closed
    /// word, and until when where that is known.
    pub(super) fn waits_for(&self, (now, wall): (Instant, Timestamp)) -> (Word, Option<Timestamp>) {
        let Shared { calls, account, may_send, .. } = &*self.shared;
        let at = |until: Instant| Some(wall + until.saturating_duration_since(now));
        if !*may_send.borrow() {
            return ("recording".into(), None);
        }
        if let Some((until, reason)) = lock(&self.limits).belief(now).held {
            return (reason.name().into(), at(until));
        }
        if let Some(until) = account.held_until(now) {
            return (PauseReason::Account.name().into(), at(until));
        }
        if self.calls.available_permits() == 0 || calls.available_permits() == 0 {
            return ("calls".into(), None);
        }
        ("pace".into(), None)
    }

    /// Shows it to operators, where it has changed.
    pub(super) fn show(&self, now: Instant, is_account_paused: bool) {
        let mut limits = lock(&self.limits);
        limits.heed_account(is_account_paused);
        limits.show(now);
    }

    fn ended(&self, probe: Option<Probe>, answer: Option<&Answer>, sent: Instant) {
        if lock(&self.limits).ended(probe, answer, sent, clock::monotonic()) {
            self.changed.notify_waiters();
        }
    }

    /// To the first one that still waits.
    fn grant(&self, mut turn: Turn) {
        while let Some(next) = lock(&self.waiting).pop() {
            match next.send(turn) {
                Ok(()) => return,
                Err(unused) => turn = unused,
            }
        }
    }
}

/// Asks until the answer is yes: when it said to, and with each change.
pub(super) async fn wait_out(changed: &Notify, mut ask: impl FnMut(Instant) -> Result<(), Wait>) {
    loop {
        // Made before the look, so that no change between look and wait is missed.
        let changed = changed.notified();
        match ask(clock::monotonic()) {
            Ok(()) => return,
            Err(Wait::ForProbe) => changed.await,
            Err(Wait::Until(until)) => tokio::select! {
                () = changed => {}
                () = sleep_until(until) => {}
            },
        }
    }
}

/// A timer takes up to a millisecond even when it is due already.
pub(super) async fn sleep_until(at: Instant) {
    if at > clock::monotonic() {
        tokio::time::sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::pin::pin;

    /// A lane with a burst of two, saved up, and one call at once. Nobody hands out turns of it.
    async fn lane(may_send: bool) -> (Arc<Lane>, watch::Sender<bool>) {
        let (metrics, holds) = (Arc::new(Metrics::new().unwrap()), Holds::default());
        let now = clock::monotonic();
        let account = Account::new(None, holds.clone(), Arc::clone(&metrics), now);
        let (told, may_send) = watch::channel(may_send);
        let calls = Arc::new(Semaphore::new(1));
        let shared = Shared { calls, account: Arc::new(account), may_send, metrics, holds };
        let rate = (Rate::new(0.1, Some(2)).unwrap(), Source::Configured);
        let number = NumberId::parse("1027").unwrap();
        let lane = Arc::new(Lane::new(number, rate, 1, Arc::new(shared)));
        tokio::time::advance(Duration::from_secs(20)).await;
        (lane, told)
    }

    /// The turn that is had without waiting.
    fn at_once(lane: &Arc<Lane>) -> Option<Turn> {
        lane.turn(Rank::Normal, (Priority::Normal, clock::wall())).now_or_never().flatten()
    }

    #[tokio::test(start_paused = true)]
    async fn a_free_turn_is_had_at_once_by_pace_and_calls() {
        let (lane, _told) = lane(true).await;
        let first = at_once(&lane);
        assert!(first.is_some() && at_once(&lane).is_none(), "one call at once");
        drop(first);
        assert!(at_once(&lane).is_some(), "the burst is two");
        assert!(at_once(&lane).is_none(), "the pace is spent");
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(at_once(&lane).is_some(), "nobody waits for those that did not start");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_goes_before_who_waits_or_while_nothing_can_be_recorded() {
        let (lane, told) = lane(false).await;
        let mut waits = pin!(lane.turn(Rank::Normal, (Priority::Normal, clock::wall())));
        assert!(waits.as_mut().now_or_never().is_none());
        told.send_replace(true);
        assert!(at_once(&lane).is_none(), "somebody waits");
        lane.grant(lane.turn_with(lane.take_calls().now_or_never().unwrap().unwrap()).unwrap());
        assert!(waits.now_or_never().flatten().is_some());
        assert!(at_once(&lane).is_some(), "nobody waits");
    }

    #[tokio::test(start_paused = true)]
    async fn who_starts_late_counts_from_then_and_who_is_dropped_does_not_count() {
        let (lane, _told) = lane(true).await;
        let pass = || lock(&lane.limits).pass(clock::monotonic());
        let mut late = lane.turn_with(lane.take_calls().await.unwrap()).unwrap();
        let dropped = pass();
        assert!(dropped.is_some(), "the burst");
        tokio::time::advance(Duration::from_secs(30)).await;
        assert!(pass().is_none(), "both may still start");
        late.starts(clock::monotonic());
        assert!(pass().is_none(), "one just did");
        drop(late);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(pass().is_some() && pass().is_none());
        lock(&lane.limits).dropped();
        assert!(pass().is_some());
    }
}
