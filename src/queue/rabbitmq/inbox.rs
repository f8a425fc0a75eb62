//! The consuming connection: connects again and again, and runs one epoch on each connection.
//! What happens within an epoch stands in `epoch.rs`.

use super::board::Board;
use super::connection::{self, Connector, Pauses, Told};
use super::declare::DeclareError;
use super::directory::Directory;
use super::epoch::Epoch;
use super::members::Identity;
use super::presence::ReportOf;
use super::reason::explain;
use super::receipt::{Desk, RabbitReceipt};
use super::tenures::Tenures;
use super::topology::{Topology, TopologySettings};
use crate::clock;
use crate::queue::{Heard, Holds, Incoming, Listening, Served};
use crate::wire::NumberId;
use futures_util::StreamExt;
use lapin::{Connection, Event};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

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
    pub(super) max_lanes: usize,
    pub(super) prefetch: Prefetch,
    pub(super) max_held: usize,
    pub(super) directory: Arc<Directory>,
    /// This worker, over all its connections.
    pub(super) me: Identity,
    /// What it reports of itself to who asks.
    pub(super) report: ReportOf,
    pub(super) tenures: Tenures,
    pub(super) holds: Holds,
    pub(super) served: Served,
    pub(super) listening: Listening,
    pub(super) heard: mpsc::Sender<Heard>,
    pub(super) board: Board,
    pub(super) desk: Arc<Desk>,
    /// Taken when no more jobs are to come.
    pub(super) out: Option<mpsc::Sender<Incoming<RabbitReceipt>>>,
    pub(super) stop: CancellationToken,
    pub(super) close: CancellationToken,
    pub(super) state: watch::Sender<InboxState>,
}

/// How an epoch, or a task in it, ended.
pub(super) enum End {
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
        let (mut pauses, mut told) = (Pauses::default(), Told::default());
        let stop = self.stop.clone();
        while !stop.is_cancelled() {
            let connecting = self.connector.connect("chakra-sender consume");
            let reason = match stop.run_until_cancelled(connecting).await {
                None => return,
                Some(Err(reason)) => reason,
                Some(Ok(connection)) => {
                    told = Told::default();
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
            if told.is_news(&reason, clock::monotonic()) {
                tracing::warn!(reason, "the consuming connection is down");
            }
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
            epoch.finish().await;
            self.close.cancelled().await;
        }
        epoch.end().await;
        self.desk.metrics.lanes(0);
        self.desk.metrics.lanes_owned(0);
        self.desk.metrics.workers_seen(0);
        end
    }
}
