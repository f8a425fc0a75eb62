//! Publishing with confirms, on a connection of its own: an alarm of the broker blocks a connection
//! that publishes, acknowledgements included, so those go elsewhere.
//!
//! One task owns the one channel. lapin 4.12 gives a confirm to the wrong publish when two tasks
//! publish on clones of one channel (654 of 400,000, measured), so a rejected publish would pass for
//! a confirmed one. It also attaches a returned message to the next confirm, whosesoever: nothing is
//! published as mandatory, and nothing is decided by `Confirmation::Ack(Some(_))`.
//!
//! What was not confirmed when a connection went is published again on the next, at least once; or its
//! asker is told, where that one repeats it by itself.

use super::connection::{self, Connector, Pauses, Told};
use super::declare::{DeclareError, declare};
use super::fence::Fence;
use super::hold::Hold;
use super::reason::{explain, soft};
use super::topology::Topology;
use crate::clock;
use crate::crash::{self, Stage};
use crate::metrics::{Metrics, PublishKind, PublishOutcome};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, FuturesUnordered};
use futures_util::{FutureExt, StreamExt};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::protocol::AMQPSoftError;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation, Connection, Event};
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Publishes under way: as many as there are calls by default (`chakra.max_in_flight`), whose results wait
/// here. A smaller window makes smaller groups of the broker's confirms, which cost it more: 144 to 159 us
/// a job with 256, 122 to 133 with this, 16 lanes and all else equal.
const WINDOW: usize = 1_024;

/// Publishes waiting for a place in the window.
const WAITING: usize = 256;

/// How soon a refused publish is tried again.
const REFUSED_PAUSE: Duration = Duration::from_millis(200);

/// The reason shown before the first attempt.
pub(super) const NOT_YET: &str = "not yet connected";

/// A message on its way out.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Empty: the default exchange, whose key is a queue's name.
    pub exchange: ShortString,
    /// Where to.
    pub routing_key: ShortString,
    /// The content.
    pub body: Bytes,
    /// Persistent ones (`headers::persistent`).
    pub properties: BasicProperties,
    /// For the metrics.
    pub kind: PublishKind,
}

/// Why a message was not published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// A queue that it went to is full.
    #[error("the broker refused it")]
    Refused,
    /// The publisher ended before the confirm came: the broker may or may not have it.
    #[error("the publisher has stopped")]
    Stopped,
    /// The connection went before the confirm came, and its asker repeats it by itself: the broker may or
    /// may not have it.
    #[error("the connection to the broker is down")]
    Lost,
    /// The delivery that it came by ended first, so it was not written: the broker has given the job
    /// to somebody, and a second copy must not come into the world.
    #[error("its delivery is no longer ours")]
    NotOurs,
}

/// What the publishing connection is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublisherState {
    /// There is none; the last failure.
    Connecting(String),
    /// It stands.
    Up,
    /// The broker takes nothing right now (an alarm), and says why.
    Blocked(String),
}

/// What becomes of a publish that is not confirmed when the connection goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WhenLost {
    /// It is published again on the next connection.
    PublishAgain,
    /// Its asker is told, and may repeat it. What nobody waits for any more is not written.
    TellAsker,
}

/// What a publisher is made of.
#[derive(Debug, Clone)]
pub(super) struct Publishing {
    /// Its connection's name, in the broker's list of connections.
    pub(super) name: &'static str,
    pub(super) connector: Connector,
    /// Declared again when an exchange is gone.
    pub(super) topology: Arc<Topology>,
    pub(super) create: bool,
    pub(super) when_lost: WhenLost,
    pub(super) metrics: Arc<Metrics>,
    pub(super) fence: Fence,
}

/// Publishes; cheap to clone.
#[derive(Debug, Clone)]
pub struct Publisher {
    requests: mpsc::Sender<Request>,
    state: watch::Receiver<PublisherState>,
}

#[derive(Debug)]
struct Request {
    /// Shared by who asks, to ask again, and by who writes, to write again.
    outgoing: Arc<Outgoing>,
    /// To be written only while this stands.
    hold: Option<Arc<Hold>>,
    done: oneshot::Sender<Result<(), PublishError>>,
}

impl Request {
    /// Whether it may be written. One that may not is answered.
    fn stands(self, when_lost: WhenLost) -> Option<Request> {
        if when_lost == WhenLost::TellAsker && self.done.is_closed() {
            return None;
        }
        if self.hold.as_ref().is_none_or(|hold| hold.stands()) {
            return Some(self);
        }
        let _nobody = self.done.send(Err(PublishError::NotOurs));
        None
    }
}

impl Publisher {
    /// The handle, and the task behind it, which ends when every handle is dropped and all is
    /// confirmed, or when `stop` is cancelled.
    pub(super) fn new(
        of: Publishing,
        stop: CancellationToken,
    ) -> (Publisher, impl Future<Output = ()> + Send) {
        let (requests, incoming) = mpsc::channel(WAITING);
        let (state, watched) = watch::channel(PublisherState::Connecting(NOT_YET.into()));
        let task = PublisherTask {
            of,
            requests: incoming,
            unconfirmed: BTreeMap::new(),
            next: 0,
            ended: false,
            state,
        };
        let run = async move {
            let _stopped = stop.run_until_cancelled_owned(task.run()).await;
        };
        (Publisher { requests, state: watched }, run)
    }

    /// Publishes and waits until the broker has it. Returns across lost connections: only a refusal
    /// or the end of the publisher is an error; so is a lost connection where the asker is told.
    pub fn publish(
        &self,
        outgoing: Outgoing,
    ) -> impl Future<Output = Result<(), PublishError>> + Send + use<'_> {
        self.request(Arc::new(outgoing), None)
    }

    /// Hands in a job that goes on, and returns when its place is sure: what is handed in earlier is
    /// written earlier. It is written, and written again after a lost connection, only while its
    /// delivery is ours.
    pub(super) async fn hand_in(
        &self,
        hold: &Arc<Hold>,
        outgoing: Outgoing,
    ) -> Result<HandedIn, PublishError> {
        self.enqueue(Arc::new(outgoing), Some(Arc::clone(hold))).await
    }

    /// Publishes again what a full queue refused, until the broker has it; with a hold, only while
    /// that stands.
    pub(super) fn until_taken<'a>(
        &'a self,
        outgoing: Outgoing,
        hold: Option<&'a Arc<Hold>>,
    ) -> impl Future<Output = Result<(), PublishError>> + Send + use<'a> {
        let outgoing = Arc::new(outgoing);
        async move {
            loop {
                match self.request(Arc::clone(&outgoing), hold.cloned()).await {
                    Err(PublishError::Refused) => tokio::time::sleep(REFUSED_PAUSE).await,
                    done => return done,
                }
            }
        }
    }

    async fn request(
        &self,
        outgoing: Arc<Outgoing>,
        hold: Option<Arc<Hold>>,
    ) -> Result<(), PublishError> {
        self.enqueue(outgoing, hold).await?.taken().await
    }

    async fn enqueue(
        &self,
        outgoing: Arc<Outgoing>,
        hold: Option<Arc<Hold>>,
    ) -> Result<HandedIn, PublishError> {
        let (done, outcome) = oneshot::channel();
        let sent = self.requests.send(Request { outgoing, hold, done }).await;
        sent.map_err(|_| PublishError::Stopped)?;
        Ok(HandedIn(outcome))
    }

    /// The connection's state, as it changes.
    pub fn state(&self) -> watch::Receiver<PublisherState> {
        self.state.clone()
    }
}

/// A message that the publisher has.
#[derive(Debug)]
pub(super) struct HandedIn(oneshot::Receiver<Result<(), PublishError>>);

impl HandedIn {
    /// Waits until the broker has it, as [`Publisher::publish`] does.
    pub(super) async fn taken(self) -> Result<(), PublishError> {
        self.0.await.unwrap_or(Err(PublishError::Stopped))
    }
}

struct PublisherTask {
    of: Publishing,
    requests: mpsc::Receiver<Request>,
    /// By order of arrival; kept here until its confirm, so that no lost connection can lose it.
    unconfirmed: BTreeMap<u64, Request>,
    next: u64,
    /// Every handle is gone.
    ended: bool,
    state: watch::Sender<PublisherState>,
}

/// Why serving a connection ended.
enum End {
    /// Nothing is left to do.
    Finished,
    /// The connection or its channel is of no use any more.
    Lost { reason: String, exchange_missing: bool },
}

type Confirms = FuturesUnordered<BoxFuture<'static, (u64, lapin::Result<Confirmation>)>>;

impl PublisherTask {
    async fn run(mut self) {
        let (mut pauses, mut told) = (Pauses::default(), Told::default());
        let mut redeclare = false;
        while !(self.unconfirmed.is_empty() && self.requests.is_closed()) {
            let reason = match self.of.connector.connect(self.of.name).await {
                Err(reason) => reason,
                Ok(connection) => {
                    told = Told::default();
                    let end = self.with(&connection, redeclare, &mut pauses).await;
                    connection::close(&connection).await;
                    let End::Lost { reason, exchange_missing } = end else { return };
                    redeclare = exchange_missing;
                    reason
                }
            };
            if told.is_news(&reason, clock::monotonic()) {
                tracing::warn!(
                    reason,
                    connection = self.of.name,
                    "a publishing connection is down"
                );
            }
            self.set(PublisherState::Connecting(reason));
            tokio::time::sleep(pauses.next(fastrand::f64())).await;
        }
    }

    async fn with(&mut self, connection: &Connection, redeclare: bool, pauses: &mut Pauses) -> End {
        if redeclare
            && let Err(error) = declare(connection, &self.of.topology, self.of.create).await
        {
            let exchange_missing = !matches!(error, DeclareError::Interrupted(_));
            return End::Lost { reason: error.to_string(), exchange_missing };
        }
        match open(connection).await {
            Ok(channel) => self.serve(connection, &Arc::new(channel), pauses).await,
            Err(error) => End::Lost { reason: explain(&error), exchange_missing: false },
        }
    }

    async fn serve(
        &mut self,
        connection: &Connection,
        channel: &Arc<Channel>,
        pauses: &mut Pauses,
    ) -> End {
        let mut events: BoxStream<'_, Event> = connection.events_listener().boxed();
        let fence = self.of.fence.clone();
        let mut falls = pin!(fence.falls());
        let mut confirms = Confirms::new();
        let unconfirmed = std::mem::take(&mut self.unconfirmed).into_iter();
        self.unconfirmed = unconfirmed
            .filter_map(|(id, request)| Some((id, request.stands(self.of.when_lost)?)))
            .collect();
        for (id, request) in &self.unconfirmed {
            confirms.push(publish(Arc::clone(channel), *id, Arc::clone(&request.outgoing)));
        }
        self.set(PublisherState::Up);
        loop {
            if self.ended && self.unconfirmed.is_empty() {
                return End::Finished;
            }
            tokio::select! {
                Some((id, outcome)) = confirms.next() => {
                    if let Err(error) = self.settle(id, outcome) {
                        return self.lost(&error);
                    }
                    pauses.reset();
                }
                request = self.requests.recv(), if !self.ended && confirms.len() < WINDOW => {
                    let Some(request) = request else {
                        self.ended = true;
                        continue;
                    };
                    let Some(request) = request.stands(self.of.when_lost) else { continue };
                    let outgoing = Arc::clone(&request.outgoing);
                    confirms.push(publish(Arc::clone(channel), self.next, outgoing));
                    self.unconfirmed.insert(self.next, request);
                    self.next += 1;
                }
                Some(event) = events.next() => match event {
                    Event::ConnectionBlocked(reason) => self.set(PublisherState::Blocked(reason)),
                    Event::ConnectionUnblocked => self.set(PublisherState::Up),
                    Event::Error(error) => return self.lost(&error),
                    _ => {}
                },
                // What was written for a job that is void now must not be written again.
                reason = &mut falls => return self.lost_by(reason, false),
            }
        }
    }

    /// Ends one publish; the error is the connection's.
    fn settle(&mut self, id: u64, outcome: lapin::Result<Confirmation>) -> lapin::Result<()> {
        let (outcome, answer) = match outcome? {
            Confirmation::Ack(_) => (PublishOutcome::Confirmed, Ok(())),
            // Confirms are on: `NotRequested` does not come, and would prove nothing.
            Confirmation::Nack(_) | Confirmation::NotRequested => {
                (PublishOutcome::Refused, Err(PublishError::Refused))
            }
        };
        if let Some(request) = self.unconfirmed.remove(&id) {
            self.of.metrics.published(request.outgoing.kind, outcome);
            // Nobody waits any more where the asking task was dropped.
            let _nobody = request.done.send(answer);
        }
        Ok(())
    }

    fn lost(&mut self, error: &lapin::Error) -> End {
        self.lost_by(explain(error), soft(error) == Some(&AMQPSoftError::NOTFOUND))
    }

    fn lost_by(&mut self, reason: String, exchange_missing: bool) -> End {
        for request in self.unconfirmed.values() {
            self.of.metrics.published(request.outgoing.kind, PublishOutcome::Lost);
        }
        if self.of.when_lost == WhenLost::TellAsker {
            for (_, request) in std::mem::take(&mut self.unconfirmed) {
                let _nobody = request.done.send(Err(PublishError::Lost));
            }
        }
        End::Lost { reason, exchange_missing }
    }

    fn set(&self, state: PublisherState) {
        self.state.send_replace(state);
    }
}

async fn open(connection: &Connection) -> lapin::Result<Channel> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(channel)
}

/// Writes the frames at its first poll and waits for the confirm. All are polled by one task, so
/// tags and frames have the same order.
fn publish(
    channel: Arc<Channel>,
    id: u64,
    outgoing: Arc<Outgoing>,
) -> BoxFuture<'static, (u64, lapin::Result<Confirmation>)> {
    async move {
        let Outgoing { exchange, routing_key, body, properties, kind } = &*outgoing;
        let (to, key, options) =
            (exchange.clone(), routing_key.clone(), BasicPublishOptions::default());
        // Boxed by itself: it needs seven times the room of all else here, and ends with the writing.
        let written = channel.basic_publish(to, key, options, body, properties.clone());
        let written = Box::pin(written).await;
        if *kind == PublishKind::Result {
            crash::point(Stage::Published);
        }
        let outcome = match written {
            Ok(confirm) => confirm.await,
            Err(error) => Err(error),
        };
        (id, outcome)
    }
    .boxed()
}
