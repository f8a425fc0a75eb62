//! The queue through RabbitMQ: jobs in, outcomes out, waits in between. Knows nothing of gates or
//! HTTP, and decides nothing about a job that has a lane. Reading order: [`topology`] is what stands
//! in the broker, `inbox` the consuming side, `receipt` how a delivery is settled, `publisher` the
//! publishing side.
//!
//! Two connections, since an alarm of the broker blocks one that publishes, and a third one for the
//! statuses that come by webhook, where they are asked for. Each has its own
//! reconnecting, with a new epoch; lapin's is off, because it hides that jobs went to others.

mod assignment;
mod board;
mod cleanup;
mod connection;
mod console;
mod control;
mod dead_letters;
mod declare;
mod decode;
mod definitions;
mod depth;
mod directory;
mod ear;
mod epoch;
mod fence;
mod follower;
mod gather;
mod headers;
mod hold;
mod inbox;
mod inspect;
mod lane;
mod leaving;
mod letter;
mod members;
mod names;
mod opened;
mod presence;
mod producer;
mod publisher;
mod reason;
mod receipt;
mod record;
mod replies;
pub mod retire;
mod share;
mod signs;
mod statuses;
mod suspect;
mod tags;
mod tenures;
pub mod topology;
mod traffic;
mod unrouted;

pub use cleanup::delete_everything;
pub use connection::{ConnectionSettings, TlsIdentity, TlsSettings};
pub use console::{Console, Depth, Depths};
pub use dead_letters::{Cut, DeadLetters, Pass, Replayer};
pub use declare::DeclareError;
pub use definitions::definitions;
pub use directory::Accept;
pub use follower::{Follower, TakenEvent, Taker};
pub use gather::{Gathered, PATIENCE, gather};
pub use inbox::Prefetch;
pub use inspect::{Inspection, inspect};
pub use letter::Letter;
pub use members::{Identity, WorkerId};
pub use presence::{Presence, PresenceLost, Question, ReportOf};
pub use producer::{Producer, Taken};
pub use publisher::{Outgoing, PublishError, Publisher, PublisherState};
pub use receipt::RabbitReceipt;
pub use record::{LONGEST_DROP, MAX_REASON_CHARS, Record};
pub use replies::Replies;
pub use share::share;
pub use statuses::StatusPublisher;
pub use suspect::{Marked, Touch};
pub use topology::{Names, Topology, TopologySettings};

use crate::metrics::{LinkState, Metrics};
use crate::queue::{Heard, Incoming, Notices};
use crate::wire::NumberId;
use board::Board;
use connection::Connector;
use directory::Directory;
use fence::Fence;
use inbox::{Inbox, InboxState};
use publisher::{Publishing, WhenLost};
use receipt::Desk;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tenures::Tenures;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Jobs on their way from the lanes to the worker. What is in hand is bounded by the prefetches.
const INCOMING: usize = 64;

/// Statuses on their way to the worker, which takes each in microseconds.
const HEARD: usize = 64;

/// AMQP's names have at most 255 bytes, ours included.
const MAX_PREFIX_BYTES: usize = 100;

/// How long unconfirmed publishes are waited for at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// What the queue needs to know.
#[derive(Clone)]
pub struct RabbitSettings {
    /// Where the broker is.
    pub connection: ConnectionSettings,
    /// What stands in it.
    pub topology: TopologySettings,
    /// Numbers that have a lane from the start, and whatever the plugin says: those with settings of
    /// their own.
    pub numbers: Vec<NumberId>,
    /// Whose numbers get a lane later.
    pub accept: Accept,
    /// A lane goes when the plugin has not had its number for so long.
    pub retire_after: Duration,
    /// No more lanes than this are made.
    pub max_lanes: usize,
    /// How many deliveries of each of its two queues a lane could use.
    pub prefetch: Prefetch,
    /// All deliveries in hand are to be no more than this; each lane gets a few in any case.
    pub max_held: usize,
    /// Marks what may end the worker while it is read.
    pub touch: Touch,
    /// What this worker says of itself to who asks all of them.
    pub report: ReportOf,
}

impl fmt::Debug for RabbitSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitSettings")
            .field("connection", &self.connection)
            .field("topology", &self.topology)
            .field("numbers", &self.numbers)
            .field("accept", &self.accept)
            .field("max_lanes", &self.max_lanes)
            .field("max_held", &self.max_held)
            .finish_non_exhaustive()
    }
}

/// What the queue is like, both connections taken together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrokerState {
    /// At least one connection is missing; the last failure.
    Connecting(String),
    /// Jobs come in, and outcomes can be recorded.
    Up,
    /// The broker takes nothing right now, and says why: no new send may start.
    Blocked(String),
    /// What stands in the broker cannot be worked with. Final: the worker must stop.
    Broken(String),
}

/// The queue, running.
#[derive(Debug)]
pub struct RabbitQueue {
    publisher: Publisher,
    stop: CancellationToken,
    close: CancellationToken,
    abort: CancellationToken,
    state: watch::Receiver<BrokerState>,
    may_send: watch::Receiver<bool>,
    notices: Notices,
    /// Taken once.
    heard: Option<mpsc::Receiver<Heard>>,
    lanes: watch::Receiver<BTreeSet<NumberId>>,
    names: Arc<Names>,
    /// What a publisher is made of.
    publishing: Publishing,
    tasks: JoinSet<()>,
    /// Ends last: what is held is ours only while it is watched.
    watchdog: JoinSet<()>,
}

impl RabbitQueue {
    /// Starts connecting, and goes on until it succeeds. The error is a sentence about the settings.
    pub fn start(
        settings: RabbitSettings,
        metrics: Arc<Metrics>,
    ) -> Result<(RabbitQueue, mpsc::Receiver<Incoming<RabbitReceipt>>), String> {
        let connector = Connector::new(&settings.connection)?;
        let names = Arc::new(lawful_names(&settings.topology.prefix)?);
        let shared = Arc::new(Topology::shared(&names, &settings.topology));
        let [stop, close, abort] = [(); 3].map(|()| CancellationToken::new());
        let directory = Directory::new(settings.accept, &settings.numbers, settings.retire_after);
        let (fence, notices) = (Fence::new(), Notices::default());
        let watchdog = JoinSet::from_iter([fence.clone().watch()]);
        let publishing = Publishing {
            name: "chakra-sender publish",
            connector: connector.clone(),
            topology: Arc::clone(&shared),
            create: settings.topology.declare,
            when_lost: WhenLost::PublishAgain,
            metrics: Arc::clone(&metrics),
            fence: fence.clone(),
        };
        let (publisher, publish) = Publisher::new(publishing.clone(), abort.clone());
        let ((out, incoming), (hears, heard)) = (mpsc::channel(INCOMING), mpsc::channel(HEARD));
        let (inbox_state, inbox_watched) =
            watch::channel(InboxState::Connecting(publisher::NOT_YET.into()));
        let board = Board::new(notices.operators.clone(), Arc::clone(&metrics));
        let lanes = board.lanes();
        let inbox = Inbox {
            connector,
            shared,
            directory: Arc::new(directory),
            max_lanes: settings.max_lanes,
            prefetch: settings.prefetch,
            max_held: settings.max_held,
            me: Identity::new(WorkerId::new(fastrand::u128(..))),
            report: settings.report,
            tenures: Tenures::default(),
            holds: notices.holds.clone(),
            served: notices.served.clone(),
            listening: notices.listening.clone(),
            heard: hears,
            board,
            settings: settings.topology,
            desk: Arc::new(Desk {
                publisher: publisher.clone(),
                names: Arc::clone(&names),
                metrics: Arc::clone(&metrics),
                touch: settings.touch,
                fence,
            }),
            out: Some(out),
            stop: stop.clone(),
            close: close.clone(),
            state: inbox_state,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(publish);
        tasks.spawn(inbox.run());
        let (state, may_send) = shown(&mut tasks, inbox_watched, publisher.state(), metrics);
        let queue = RabbitQueue {
            publisher,
            stop,
            close,
            abort,
            state,
            may_send,
            notices,
            heard: Some(heard),
            lanes,
            names,
            publishing,
            tasks,
            watchdog,
        };
        Ok((queue, incoming))
    }

    /// The state, as it changes.
    pub fn state(&self) -> watch::Receiver<BrokerState> {
        self.state.clone()
    }

    /// Whether a new send may start: false while its outcome could not be recorded.
    pub fn may_send(&self) -> watch::Receiver<bool> {
        self.may_send.clone()
    }

    /// What it and its worker tell each other beside the jobs: numbers that the worker leaves alone, whose
    /// lanes are not consumed meanwhile; and what operators ordered.
    pub fn notices(&self) -> Notices {
        self.notices.clone()
    }

    /// The publishing side, for what else is to be published.
    pub fn publisher(&self) -> Publisher {
        self.publisher.clone()
    }

    /// The statuses that webhooks bring, to whichever worker: what failed, and all of the numbers that the
    /// worker listens to. For one caller; a second one hears nothing.
    pub fn heard(&mut self) -> mpsc::Receiver<Heard> {
        self.heard.take().unwrap_or_else(|| mpsc::channel(1).1)
    }

    /// The numbers that have a lane, with whatever worker, as they change. None before the record was read.
    pub fn lanes(&self) -> watch::Receiver<BTreeSet<NumberId>> {
        self.lanes.clone()
    }

    /// Publishes what webhooks tell, on a third connection, which is opened now. For one caller, whose
    /// clones of it must be dropped before the queue is closed.
    pub fn statuses(&mut self) -> StatusPublisher {
        let of = Publishing {
            name: statuses::NAME,
            when_lost: WhenLost::TellAsker,
            ..self.publishing.clone()
        };
        let (publisher, publish) = Publisher::new(of, self.abort.clone());
        self.tasks.spawn(publish);
        StatusPublisher::new(publisher, &self.names)
    }

    /// The first step of a drain: all consumers are cancelled, and what they had been given is still
    /// handed on. Then the channel of incoming jobs ends. What is in hand can still be settled.
    pub fn stop_consuming(&self) {
        self.stop.cancel();
    }

    /// The last step: everything that was published is confirmed, or given up after a bounded wait;
    /// channels and connections are closed. What is not settled by now is delivered again.
    pub async fn close(self) {
        let RabbitQueue { publisher, stop, close, abort, mut tasks, mut watchdog, .. } = self;
        stop.cancel();
        close.cancel();
        drop(publisher);
        let finished = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(FLUSH_TIMEOUT, finished).await.is_err() {
            tracing::warn!("the connections to RabbitMQ did not close in time");
            abort.cancel();
            tasks.shutdown().await;
        }
        watchdog.shutdown().await;
    }
}

fn lawful_names(prefix: &str) -> Result<Names, String> {
    match (1..=MAX_PREFIX_BYTES).contains(&prefix.len()) {
        true => Ok(Names::new(prefix)),
        false => Err(format!("rabbitmq.prefix must have 1 to {MAX_PREFIX_BYTES} bytes")),
    }
}

impl From<&BrokerState> for LinkState {
    fn from(state: &BrokerState) -> LinkState {
        match state {
            BrokerState::Up => LinkState::Up,
            BrokerState::Connecting(_) => LinkState::Connecting,
            BrokerState::Blocked(_) => LinkState::Blocked,
            BrokerState::Broken(_) => LinkState::Broken,
        }
    }
}

/// The state of both connections, and whether a new send may start.
fn shown(
    tasks: &mut JoinSet<()>,
    inbox: watch::Receiver<InboxState>,
    publisher: watch::Receiver<PublisherState>,
    metrics: Arc<Metrics>,
) -> (watch::Receiver<BrokerState>, watch::Receiver<bool>) {
    let (state, watched) = watch::channel(BrokerState::Connecting(publisher::NOT_YET.into()));
    let (may_send, may_send_watched) = watch::channel(false);
    tasks.spawn(async move {
        let show = |now: BrokerState| {
            metrics.broker_is(LinkState::from(&now));
            may_send.send_replace(now == BrokerState::Up);
            state.send_replace(now);
        };
        follow(inbox, publisher, show).await;
    });
    (watched, may_send_watched)
}

/// Shows both connections as one, until both have ended.
async fn follow(
    mut inbox: watch::Receiver<InboxState>,
    mut publisher: watch::Receiver<PublisherState>,
    show: impl Fn(BrokerState),
) {
    loop {
        let (consuming, publishing) =
            (inbox.borrow_and_update().clone(), publisher.borrow_and_update().clone());
        show(match (consuming, publishing) {
            (InboxState::Broken(reason), _) => BrokerState::Broken(reason),
            (_, PublisherState::Blocked(reason)) => BrokerState::Blocked(reason),
            (InboxState::Connecting(first), PublisherState::Connecting(reason))
                if first == publisher::NOT_YET =>
            {
                BrokerState::Connecting(reason)
            }
            (InboxState::Connecting(reason), _)
            | (InboxState::Up, PublisherState::Connecting(reason)) => {
                BrokerState::Connecting(reason)
            }
            (InboxState::Up, PublisherState::Up) => BrokerState::Up,
        });
        let changed = tokio::select! {
            changed = inbox.changed() => changed,
            changed = publisher.changed() => changed,
        };
        // Broken stays shown: its inbox has ended.
        if changed.is_err() {
            return;
        }
    }
}
