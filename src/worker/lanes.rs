//! One lane for each number: who goes next, and when. A single task a lane hands out turns, so the
//! pace of a number is decided in one place. It knows nothing of what is sent.

use super::account::{Account, Pass};
use super::lock;
use super::order::Lines;
use super::views::LaneView;
use crate::clock;
use crate::limiter::{Gate, Rate, Source};
use crate::policy::Answer;
use crate::wire::NumberId;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::Instant;

/// A hold of a number is never longer than this at a time: then the next job tries.
/// Longer waits are the job's own, outside the worker.
const MAX_HOLD: Duration = Duration::from_secs(60);

/// A moment of the account's pace that is used later than this is void: had many lanes waited for a
/// free call with such a moment in hand, they would all go at once.
const MOMENT_LASTS: Duration = Duration::from_millis(100);

/// Who goes before whom within a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rank {
    /// Urgent, for the first time.
    Urgent,
    /// Back from a wait after an attempt.
    Returned,
    /// All others.
    Normal,
}

/// The right to make one request now. Dropping it gives the place among the calls in flight back, and
/// the place as the brake's probe to another.
#[derive(Debug)]
pub(super) struct Turn {
    calls: Calls,
    pass: Pass,
}

/// Of the number's calls, and of the process's.
type Calls = [OwnedSemaphorePermit; 2];

impl Turn {
    /// What came of the request.
    pub(super) fn ended(self, answer: &Answer) {
        self.pass.ended(answer);
        drop(self.calls);
    }
}

/// One number's lane.
#[derive(Debug)]
pub(super) struct Lane {
    /// One line for each of its recipients.
    pub(super) lines: Lines,
    gate: Mutex<Gate>,
    waiting: Mutex<Waiting>,
    arrived: Notify,
    calls: Arc<Semaphore>,
    max_calls: usize,
    source: Source,
}

/// Jobs that are ready and wait for their number's pace. Bounded by the jobs held.
#[derive(Debug, Default)]
struct Waiting {
    urgent: VecDeque<oneshot::Sender<Turn>>,
    returned: VecDeque<oneshot::Sender<Turn>>,
    normal: VecDeque<oneshot::Sender<Turn>>,
}

impl Waiting {
    fn line(&mut self, rank: Rank) -> &mut VecDeque<oneshot::Sender<Turn>> {
        match rank {
            Rank::Urgent => &mut self.urgent,
            Rank::Returned => &mut self.returned,
            Rank::Normal => &mut self.normal,
        }
    }

    /// The next one that still waits.
    fn pop(&mut self) -> Option<oneshot::Sender<Turn>> {
        self.drop_leavers();
        let lines = [&mut self.urgent, &mut self.returned, &mut self.normal];
        lines.into_iter().find_map(VecDeque::pop_front)
    }

    fn len(&self) -> usize {
        self.urgent.len() + self.returned.len() + self.normal.len()
    }

    fn is_empty(&mut self) -> bool {
        self.drop_leavers();
        self.urgent.is_empty() && self.returned.is_empty() && self.normal.is_empty()
    }

    /// Whoever has given up waiting leaves when he comes to the front, so that nothing is searched.
    fn drop_leavers(&mut self) {
        for line in [&mut self.urgent, &mut self.returned, &mut self.normal] {
            while line.front().is_some_and(oneshot::Sender::is_closed) {
                line.pop_front();
            }
        }
    }
}

/// What all lanes of a process share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Calls in flight of the whole process.
    pub(super) calls: Arc<Semaphore>,
    /// The account's pace and its brake.
    pub(super) account: Arc<Account>,
    /// False while no result could be recorded: then no new request starts.
    pub(super) may_send: watch::Receiver<bool>,
}

impl Lane {
    pub(super) fn new(rate: Rate, source: Source, max_calls: usize) -> Lane {
        Lane {
            lines: Lines::default(),
            gate: Mutex::new(Gate::new(rate, clock::monotonic())),
            waiting: Mutex::default(),
            arrived: Notify::new(),
            calls: Arc::new(Semaphore::new(max_calls)),
            max_calls,
            source,
        }
    }

    /// Waits for a turn. Dropping the future gives the place in the lane up.
    pub(super) async fn turn(&self, rank: Rank) -> Option<Turn> {
        let (grant, turn) = oneshot::channel();
        lock(&self.waiting).line(rank).push_back(grant);
        self.arrived.notify_one();
        turn.await.ok()
    }

    /// The service asked to leave this number alone for `wait`.
    pub(super) fn hold(&self, wait: Duration) {
        lock(&self.gate).hold(clock::monotonic() + wait.min(MAX_HOLD));
    }

    /// Hands out turns, until the process is over. What is only waited for comes first and what is
    /// paid comes last, so that a lane which waits for its pace or for the brake holds no call, and no
    /// pace is paid while a lane stands.
    pub(super) async fn pace(self: Arc<Self>, shared: Arc<Shared>) {
        let mut may_send = shared.may_send.clone();
        loop {
            while lock(&self.waiting).is_empty() {
                self.arrived.notified().await;
            }
            if may_send.wait_for(|allowed| *allowed).await.is_err() {
                return;
            }
            let free = lock(&self.gate).free_at(clock::monotonic());
            sleep_until(free).await;
            shared.account.unbraked().await;
            let Some(calls) = self.take_calls(&shared).await else { return };
            if !*may_send.borrow() {
                continue;
            }
            let Some(pass) = shared.account.pass() else { continue };
            if lock(&self.gate).pass(clock::monotonic()).is_ok() {
                self.grant(Turn { calls, pass });
            }
        }
    }

    /// A moment of the account's pace, and a place among the calls in flight.
    async fn take_calls(&self, shared: &Shared) -> Option<Calls> {
        loop {
            let moment = shared.account.reserve();
            sleep_until(moment).await;
            let of_the_number = Arc::clone(&self.calls).acquire_owned().await.ok()?;
            let of_the_process = Arc::clone(&shared.calls).acquire_owned().await.ok()?;
            let waited = clock::monotonic().saturating_duration_since(moment);
            if waited <= MOMENT_LASTS || !shared.account.is_paced() {
                return Some([of_the_number, of_the_process]);
            }
        }
    }

    /// As operators see it.
    pub(super) fn view(&self, number: &NumberId) -> LaneView {
        let rate = lock(&self.gate).rate();
        LaneView {
            number: number.clone(),
            rate: rate.per_second(),
            source: self.source.name().to_owned(),
            waiting: lock(&self.waiting).len(),
            in_flight: self.max_calls.saturating_sub(self.calls.available_permits()),
            held_until: None,
            held_for: None,
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

/// A timer takes up to a millisecond even when it is due already.
pub(super) async fn sleep_until(at: Instant) {
    if at > clock::monotonic() {
        tokio::time::sleep_until(at).await;
    }
}
