//! The consuming connection and its epochs. In each: declare, read which lanes there are, consume
//! them all and the unrouted jobs, follow the record. When the connection goes, so does the epoch:
//! nothing held from it is ours any more, and the next begins.

use super::board::Board;
use super::connection::{self, Connector, Pauses, explain};
use super::control::{Control, append};
use super::declare::{DeclareError, declare};
use super::depth::{Shared, watch_queues};
use super::directory::Directory;
use super::lane::{LaneState, LaneTask, Orders};
use super::receipt::{Desk, RabbitReceipt};
use super::record::{Change, Entry};
use super::tenures::Tenures;
use super::topology::{Topology, TopologySettings};
use super::unrouted::Unrouted;
use crate::clock;
use crate::queue::{Holds, Incoming};
use crate::wire::NumberId;
use futures_util::StreamExt;
use lapin::{Connection, Event};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Lanes opened at once: a thousand open in seconds, and the broker's other work goes on.
const OPENING_AT_ONCE: usize = 16;

/// Requests for lanes on their way to the inbox.
const REQUESTS: usize = 16;

/// Each queue of a lane has at least so many deliveries in hand where it can use them: with fewer it
/// would not keep its pace.
const MIN_PREFETCH: u16 = 4;

/// A lane has an urgent and a normal queue, each with its own prefetch.
const QUEUES: usize = 2;

/// How many deliveries of each queue of a lane could be used; what it gets is less where the whole
/// would exceed `max_held`.
pub type Prefetch = Arc<dyn Fn(&NumberId) -> u16 + Send + Sync>;

/// Somebody needs a lane for this number.
pub(super) struct LaneRequest {
    pub(super) number: NumberId,
    /// Answered when its queues stand.
    pub(super) made: oneshot::Sender<Result<(), NoLane>>,
}

/// The number gets no lane, and this is why.
#[derive(Debug)]
pub(super) struct NoLane(pub(super) String);

/// What the consuming connection is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum InboxState {
    /// There is none; the last failure.
    Connecting(String),
    /// It stands, and the lanes are consumed.
    Up,
    /// What stands in the broker cannot be worked with: the worker must stop.
    Broken(String),
}

/// The consuming side.
pub(super) struct Inbox {
    pub(super) connector: Connector,
    pub(super) settings: TopologySettings,
    pub(super) shared: Arc<Topology>,
    /// These have a lane from the start.
    pub(super) numbers: Vec<NumberId>,
    pub(super) max_lanes: usize,
    pub(super) prefetch: Prefetch,
    pub(super) max_held: usize,
    pub(super) directory: Arc<Directory>,
    pub(super) tenures: Tenures,
    pub(super) holds: Holds,
    pub(super) board: Board,
    pub(super) desk: Desk,
    /// Taken when no more jobs are to come.
    pub(super) out: Option<mpsc::Sender<Incoming<RabbitReceipt>>>,
    pub(super) stop: CancellationToken,
    pub(super) close: CancellationToken,
    pub(super) state: watch::Sender<InboxState>,
}

/// How an epoch, or a task in it, ended.
enum End {
    Stopped,
    Lost(String),
    Broken(String),
}

impl From<DeclareError> for End {
    fn from(error: DeclareError) -> End {
        match error {
            DeclareError::Interrupted(_) | DeclareError::Missing(_) => End::Lost(error.to_string()),
            DeclareError::Unfit(reason) => End::Broken(reason),
        }
    }
}

impl Inbox {
    /// Consumes until told to stop, then keeps what must stay until told to close.
    pub(super) async fn run(mut self) {
        let mut pauses = Pauses::default();
        let stop = self.stop.clone();
        while !stop.is_cancelled() {
            let connecting = self.connector.connect("chakra-sender consume");
            let reason = match stop.run_until_cancelled(connecting).await {
                None => return,
                Some(Err(reason)) => reason,
                Some(Ok(connection)) => {
                    let connection = Arc::new(connection);
                    let end = self.epoch(&connection, &mut pauses).await;
                    connection::close(&connection).await;
                    match end {
                        End::Stopped => return,
                        End::Lost(reason) => reason,
                        End::Broken(reason) => {
                            tracing::error!(%reason, "the worker cannot work with this broker");
                            self.state.send_replace(InboxState::Broken(reason));
                            return;
                        }
                    }
                }
            };
            tracing::warn!(%reason, "the consuming connection is down");
            self.state.send_replace(InboxState::Connecting(reason));
            let pause = tokio::time::sleep(pauses.next(fastrand::f64()));
            let _stopped = stop.run_until_cancelled(pause).await;
        }
    }

    async fn epoch(&mut self, connection: &Arc<Connection>, pauses: &mut Pauses) -> End {
        let mut events = connection.events_listener().boxed();
        let fence = self.desk.fence.clone();
        fence.heed(connection.configuration().heartbeat());
        let lost = async {
            while let Some(event) = events.next().await {
                // A channel's error is here too, and is its user's.
                if let Event::Error(error) = event
                    && !error.is_amqp_soft_error()
                {
                    return explain(&error);
                }
            }
            "it has ended".to_owned()
        };
        let stop = self.stop.clone();
        // Its tasks end with it: what they held is not ours any more.
        let mut epoch = Epoch::new(connection, &stop, self.close.clone());
        let end = tokio::select! {
            biased;
            reason = lost => End::Lost(reason),
            reason = fence.falls() => End::Lost(reason),
            end = epoch.work(self, pauses) => end,
        };
        if let End::Stopped = end {
            self.out = None;
            // Who still waits for a lane gets none.
            epoch.asked.clear();
            // The lanes keep their channels until what they handed on is settled.
            while epoch.tasks.join_next().await.is_some() {}
            self.close.cancelled().await;
        }
        epoch.tasks.shutdown().await;
        self.desk.metrics.lanes_owned(0);
        end
    }
}

/// One connection's life.
struct Epoch {
    connection: Arc<Connection>,
    orders: Orders,
    lanes: HashMap<NumberId, watch::Receiver<LaneState>>,
    /// All prefetches together.
    given: usize,
    /// Waiting for lanes that are being recorded.
    asked: HashMap<NumberId, Vec<oneshot::Sender<Result<(), NoLane>>>>,
    numbers: watch::Sender<Vec<NumberId>>,
    tasks: JoinSet<End>,
}

impl Epoch {
    fn new(
        connection: &Arc<Connection>,
        stop: &CancellationToken,
        close: CancellationToken,
    ) -> Epoch {
        let opening = Arc::new(Semaphore::new(OPENING_AT_ONCE));
        Epoch {
            connection: Arc::clone(connection),
            orders: Orders { stop: stop.clone(), close, opening },
            lanes: HashMap::new(),
            given: 0,
            asked: HashMap::new(),
            numbers: watch::Sender::new(Vec::new()),
            tasks: JoinSet::new(),
        }
    }

    async fn work(&mut self, inbox: &Inbox, pauses: &mut Pauses) -> End {
        let mut control = match inbox.stop.run_until_cancelled(self.begin(inbox)).await {
            None => return End::Stopped,
            Some(Err(end)) => return end,
            Some(Ok(control)) => control,
        };
        let (requests, mut asking) = mpsc::channel(REQUESTS);
        let astray = Arc::new(Notify::new());
        let unrouted = Unrouted {
            desk: inbox.desk.clone(),
            directory: Arc::clone(&inbox.directory),
            lanes: requests,
            numbers: self.numbers.subscribe(),
            astray: Arc::clone(&astray),
        };
        let (connection, stop) = (Arc::clone(&self.connection), inbox.stop.clone());
        self.tasks.spawn(async move {
            match unrouted.run(connection, stop).await {
                Some(reason) => End::Lost(reason),
                None => End::Stopped,
            }
        });
        let (connection, desk) = (Arc::clone(&self.connection), inbox.desk.clone());
        let (numbers, stop) = (self.numbers.subscribe(), inbox.stop.clone());
        let (topology, create) = (Arc::clone(&inbox.shared), inbox.settings.declare);
        let shared = Shared { topology, create, astray };
        self.tasks.spawn(async move {
            let watching = watch_queues(&connection, &desk, &shared, numbers);
            stop.run_until_cancelled(watching).await.map_or(End::Stopped, End::Lost)
        });
        inbox.tenures.settle();
        pauses.reset();
        inbox.state.send_replace(InboxState::Up);
        loop {
            tokio::select! {
                () = inbox.stop.cancelled() => return End::Stopped,
                change = control.next() => match change {
                    Ok(Change::LaneMade(number)) => self.open(inbox, &number),
                    // Served as long as this connection stands.
                    Ok(Change::LaneGone(_)) => {}
                    Ok(Change::Pause(_) | Change::Drop(_)) => {
                        inbox.board.show(control.record(), clock::wall());
                    }
                    Err(lost) => return End::Lost(lost.to_string()),
                },
                Some(request) = asking.recv() => self.ask(inbox, request),
                Some(ended) = self.tasks.join_next() => match ended {
                    Ok(End::Stopped) => {}
                    Ok(end) => return end,
                    Err(panic) => return End::Lost(format!("a defect of the worker: {panic}")),
                }
            }
        }
    }

    /// Declares what all share, and opens the lanes that stand in the record.
    async fn begin(&mut self, inbox: &Inbox) -> Result<Control, End> {
        let Inbox { desk, settings, .. } = inbox;
        declare(&self.connection, &inbox.shared, settings.declare).await?;
        let lost = |error: &dyn std::error::Error| End::Lost(error.to_string());
        let control = Control::open(&self.connection, &desk.publisher, &desk.names)
            .await
            .map_err(|error| lost(&error))?;
        // Before the first job comes.
        inbox.board.show(control.record(), clock::wall());
        let mut lanes = control.record().lanes().clone();
        let in_record = lanes.len();
        let new = inbox.numbers.iter().filter(|number| !lanes.contains(*number)).count();
        if in_record + new > inbox.max_lanes {
            let max_lanes = inbox.max_lanes;
            tracing::warn!(
                in_record,
                new,
                max_lanes,
                "more lanes than numbers.max_lanes: all served"
            );
        }
        for number in &inbox.numbers {
            if lanes.insert(number.clone()) {
                let made = Entry::LaneMade { number: number.clone(), at: clock::wall() };
                let recorded = append(&desk.publisher, &desk.names, &made).await;
                recorded.map_err(|error| lost(&error))?;
            }
        }
        for number in &lanes {
            self.open(inbox, number);
        }
        for state in self.lanes.values_mut() {
            // One whose queues cannot be worked with has ended.
            let _ended = state.wait_for(|state| *state != LaneState::Opening).await;
        }
        Ok(control)
    }

    /// Starts consuming a recorded lane.
    fn open(&mut self, inbox: &Inbox, number: &NumberId) {
        if !self.lanes.contains_key(number)
            && let Some(out) = inbox.out.clone()
        {
            let (state, watched) = watch::channel(LaneState::Opening);
            let prefetch = share((inbox.prefetch)(number), inbox.max_held, self.given);
            self.given += QUEUES * usize::from(prefetch);
            let lane = LaneTask {
                number: number.clone(),
                connection: Arc::clone(&self.connection),
                topology: Topology::lane(&inbox.desk.names, &inbox.settings, number),
                create: inbox.settings.declare,
                prefetch,
                tenures: inbox.tenures.clone(),
                desk: inbox.desk.clone(),
                out,
                orders: self.orders.clone(),
                state,
            };
            self.tasks.spawn(async move {
                match lane.run().await {
                    Some(unfit) => End::Broken(unfit),
                    None => End::Stopped,
                }
            });
            self.lanes.insert(number.clone(), watched);
            self.numbers.send_modify(|numbers| numbers.push(number.clone()));
            inbox.desk.metrics.lanes_owned(self.lanes.len());
        }
        for made in self.asked.remove(number).unwrap_or_default() {
            self.answer(number, made);
        }
    }

    /// Only the record makes a lane: it is written there, and opened when it is read from there.
    fn ask(&mut self, inbox: &Inbox, LaneRequest { number, made }: LaneRequest) {
        if self.lanes.contains_key(&number) {
            return self.answer(&number, made);
        }
        if let Some(others) = self.asked.get_mut(&number) {
            others.retain(|made| !made.is_closed());
            return others.push(made);
        }
        let refusal = match self.lanes.len() + self.asked.len() >= inbox.max_lanes {
            true => Some("its number would need one more lane than numbers.max_lanes allows"),
            false if !inbox.settings.declare => {
                Some("its number has no lane, and rabbitmq.declare is false")
            }
            false => None,
        };
        if let Some(reason) = refusal {
            // Who asked may be gone.
            let _nobody = made.send(Err(NoLane(reason.into())));
            return;
        }
        self.asked.insert(number.clone(), vec![made]);
        let desk = inbox.desk.clone();
        self.tasks.spawn(async move {
            let made = Entry::LaneMade { number, at: clock::wall() };
            match append(&desk.publisher, &desk.names, &made).await {
                Ok(()) => End::Stopped,
                Err(error) => End::Lost(error.to_string()),
            }
        });
    }

    /// Answers when the lane's queues stand, unless nobody waits for it any more.
    fn answer(&mut self, number: &NumberId, mut made: oneshot::Sender<Result<(), NoLane>>) {
        let Some(mut state) = self.lanes.get(number).cloned() else { return };
        self.tasks.spawn(async move {
            let open = tokio::select! {
                () = made.closed() => false,
                open = state.wait_for(|state| *state == LaneState::Open) => open.is_ok(),
            };
            if open {
                let _nobody = made.send(Ok(()));
            }
            End::Stopped
        });
    }
}

/// The prefetch of each queue of a new lane: what it could use, but no more than a quarter of what is
/// left of `max_held` when `given` is given away. Prefetches are fixed when subscribing, and lanes
/// come later: half of the rest stays for them. Beyond `max_held` each lane gets the least.
fn share(wanted: u16, max_held: usize, given: usize) -> u16 {
    let quarter = max_held.saturating_sub(given) / (2 * QUEUES);
    wanted.min(u16::try_from(quarter).unwrap_or(u16::MAX).max(MIN_PREFETCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_gets_what_it_can_use_up_to_half_of_what_is_left_and_never_too_little() {
        for (wanted, max_held, given, gets) in [
            (38, 20_000, 0, 38),
            (1_000, 20_000, 0, 1_000),
            (1_000, 2_000, 0, 500),
            (1_000, 2_000, 1_000, 250),
            (1_000, 2_000, 1_990, 4),
            (1_000, 2_000, 2_000, 4),
            (1_000, 2_000, 9_000, 4),
            (1_000, 1, 0, 4),
            (1, 2_000, 0, 1),
            (u16::MAX, usize::MAX, 0, u16::MAX),
        ] {
            let got = share(wanted, max_held, given);
            assert_eq!(got, gets, "wanted {wanted} of {max_held}, {given} given");
        }
    }

    #[test]
    fn all_lanes_together_hold_no_more_than_they_may_but_for_the_least_of_each() {
        let (max_held, lanes) = (2_000, 500);
        let given = (0..lanes)
            .fold(0, |given, _| given + QUEUES * usize::from(share(1_000, max_held, given)));
        assert!(given <= max_held + lanes * QUEUES * usize::from(MIN_PREFETCH), "{given}");
    }
}
