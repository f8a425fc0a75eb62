//! Jobs without a lane, and jobs that the broker threw out of one. The first are given a lane and
//! moved into it, or told why not; the others get their one outcome here.
//!
//! All numbers share this one queue, so no job may stay in hand for long: many are under way at once,
//! only moves of one number go one after the other, and who must wait for anything waits outside.

mod doors;
mod order;

use super::connection::{CLOSED_NORMALLY, Pauses};
use super::decode::Original;
use super::directory::{self, Directory, Verdict};
use super::headers;
use super::hold::{HEEDED, Hold, Unacknowledged};
use super::inbox::{LaneRequest, NoLane};
use super::publisher::{Outgoing, PublishError};
use super::reason::explain;
use super::receipt::{Desk, Message, RabbitReceipt};
use super::suspect::decode_carefully;
use super::topology::{Step, read_lane_key};
use crate::clock;
use crate::metrics::{Departure, PublishKind, Token};
use crate::policy::{self, Failure, History, Settlement};
use crate::queue::{Receipt, SettleError};
use crate::wire::{Class, InvalidJob, NumberId, Priority, ResultEvent, Scope, SendJob};
use doors::{Door, Doors};
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Consumer};
use order::{Order, Place};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Jobs handled at once: as many as the publisher has under way. Of the largest bodies (256 KiB) these
/// are 64 MiB.
const PREFETCH: u16 = 256;

/// A job that was to wait and found no queue waits here, as long as the shortest step: without it,
/// the job would go round as fast as the broker can.
const ASTRAY_PAUSE: Duration = Step::Second.length();

/// How long a job waits here for its lane to open; then it and those that follow it wait outside. A lane
/// that can open takes a few round trips.
const LANE_WITHIN: Duration = Duration::from_secs(1);

/// What handling one job needs.
#[derive(Clone)]
pub(super) struct Unrouted {
    pub(super) desk: Arc<Desk>,
    pub(super) directory: Arc<Directory>,
    /// To the inbox, which makes lanes.
    pub(super) lanes: mpsc::Sender<LaneRequest>,
    /// Told of a job that found no queue behind a wait exchange.
    pub(super) astray: Arc<Notify>,
    /// Those that have a lane.
    pub(super) numbers: watch::Receiver<BTreeSet<NumberId>>,
}

/// What becomes of a job without a lane.
enum Way {
    /// Into its lane, which is there now.
    Move,
    /// Outside, and back here: there may be news of its number after this.
    Later(Duration),
    /// It has its settlement.
    Settle(Box<Settlement>),
}

impl Way {
    fn settle(settlement: Settlement) -> Way {
        Way::Settle(Box::new(settlement))
    }
}

/// One connection's handling of them.
struct Office {
    unrouted: Unrouted,
    doors: Mutex<Doors>,
}

impl Unrouted {
    /// Consumes until told to stop or until the connection is gone. Returns the reason where its
    /// queue is gone: all must be declared again.
    pub(super) async fn run(
        self,
        connection: Arc<Connection>,
        stop: CancellationToken,
    ) -> Option<String> {
        let mut pauses = Pauses::default();
        let office = Arc::new(Office { unrouted: self, doors: Mutex::default() });
        while connection.status().connected() && !stop.is_cancelled() {
            let (channel, consumer) = match office.unrouted.subscribe(&connection).await {
                Ok(subscribed) => subscribed,
                Err(error) => return Some(explain(&error)),
            };
            let reason = office.session(&channel, consumer, &stop).await;
            let _gone = channel.close(CLOSED_NORMALLY, "done".into()).await;
            tracing::warn!(reason = reason?, "not consuming the unrouted jobs");
            let pause = tokio::time::sleep(pauses.next(fastrand::f64()));
            let _stopped = stop.run_until_cancelled(pause).await;
        }
        None
    }

    async fn subscribe(&self, connection: &Connection) -> lapin::Result<(Arc<Channel>, Consumer)> {
        let channel = Arc::new(connection.create_channel().await?);
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let queue = self.desk.names.unrouted();
        let options = BasicConsumeOptions::default();
        let consumer =
            channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await?;
        Ok((channel, consumer))
    }
}

impl Office {
    /// One subscription. Returns why it was lost; none when told to stop.
    async fn session(
        self: &Arc<Self>,
        channel: &Arc<Channel>,
        mut consumer: Consumer,
        stop: &CancellationToken,
    ) -> Option<String> {
        let (hold, way_out) = Hold::new(&self.unrouted.desk.fence, PREFETCH * 2);
        let mut leaving = way_out.by(channel);
        let mut jobs = JoinSet::new();
        let mut order = Order::new(PREFETCH);
        let lost = loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break None,
                Some(_) = jobs.join_next() => order.forget_if(jobs.is_empty()),
                delivery = consumer.next() => match delivery {
                    Some(Ok(delivery)) => {
                        let place = order.join(delivery.routing_key.as_str());
                        let held = (Unacknowledged::new(&delivery), Arc::clone(&hold));
                        jobs.spawn(Arc::clone(self).handle(delivery, held, place));
                    }
                    Some(Err(error)) => break Some(explain(&error)),
                    None => break Some("the broker cancelled the subscription".into()),
                }
            }
        };
        if lost.is_none() {
            let _gone = channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await;
            // What has come and is not begun goes back with the channel.
            while jobs.join_next().await.is_some() {}
        }
        hold.end();
        if leaving.ended().await && lost.is_none() {
            tokio::time::sleep(HEEDED).await;
        }
        lost
    }

    async fn handle(
        self: Arc<Self>,
        mut delivery: Delivery,
        (unacknowledged, hold): (Unacknowledged, Arc<Hold>),
        place: Place,
    ) {
        let Unrouted { desk, astray, .. } = &self.unrouted;
        let is_astray = desk.names.is_wait(delivery.exchange.as_str());
        let original = Original::take(&mut delivery);
        let earlier = headers::earlier_deliveries(&original.properties, delivery.redelivered);
        let lane = read_lane_key(&original.routing_key);
        let now = clock::wall();
        let death = self.thrown_out(&original);
        let mut travel = headers::read(&original.properties, now);
        if death.as_deref() == Some("expired") {
            // The broker takes the property away with the death.
            travel.expires_at = Some(now);
        }
        let job = match &lane {
            Some((number, priority)) => {
                let way = (number, *priority);
                decode_carefully(&desk.touch, &original, way, earlier).await.job
            }
            None => Err(unreadable_key(&original)),
        };
        let message = Message { original, travel, lane };
        let receipt = RabbitReceipt::new(unacknowledged, hold, message, Arc::clone(desk));
        let number = self.known(receipt.number());
        let token = desk.metrics.received(number.as_ref(), receipt.priority());
        let token = VoidIfDropped(Some(token));
        let history = receipt.history().clone();
        if is_astray {
            tracing::warn!(exchange = %delivery.exchange, "a wait without its queue or binding");
            astray.notify_one();
            tokio::time::sleep(ASTRAY_PAUSE).await;
        }
        let way = match (&job, death) {
            (Err(invalid), _) => Way::settle(policy::unreadable(invalid, &history, now)),
            // Its time is over, but it may have been begun: its lane knows.
            (Ok(job), Some(reason)) if reason == "expired" => self.find_lane(job, &history).await,
            (Ok(job), Some(reason)) => Way::settle(outcome_of_death(job, &history, &reason)),
            (Ok(job), None) => self.find_lane(job, &history).await,
        };
        let done = self.carry_out(&way, receipt, place).await;
        token.leave(done.as_ref().map_or_else(Into::into, |how| *how));
        match (done, way) {
            (Ok(_), Way::Settle(settlement)) => self.note(number.as_ref(), &settlement),
            (Ok(_), Way::Move | Way::Later(_)) | (Err(SettleError::Stopped), _) => {}
            (Err(error), _) => tracing::warn!(%error, "not settled: the job comes again"),
        }
    }

    /// Only what is moved keeps its place among its number's jobs; who comes behind it waits for those
    /// before it all the same.
    async fn carry_out(
        &self,
        way: &Way,
        receipt: RabbitReceipt,
        place: Place,
    ) -> Result<Departure, SettleError> {
        let passed = async |place: Place| drop(place.first().await);
        match way {
            Way::Move => self.move_in(receipt, place).await,
            Way::Later(news) => tokio::join!(put_off(receipt, *news), passed(place)).0,
            Way::Settle(settlement) => {
                let (settled, ()) = tokio::join!(receipt.settle(settlement, ()), passed(place));
                settled.map(|()| settlement.as_ref().into())
            }
        }
    }

    /// What a stranger took for a number may be a person's: without a lane it is no label.
    fn known(&self, number: Option<NumberId>) -> Option<NumberId> {
        number.filter(|number| self.unrouted.numbers.borrow().contains(number))
    }

    /// Why the broker threw it out of a lane; none for a job that never was in one. A job that came
    /// back from a wait died there last, by its time: that is its way home.
    fn thrown_out(&self, original: &Original) -> Option<String> {
        let (queue, reason) = headers::last_death(&original.properties)?;
        self.unrouted.desk.names.is_lane(&queue).then_some(reason)
    }

    async fn find_lane(&self, job: &SendJob, history: &History) -> Way {
        let number = &job.phone_number_id;
        match self.unrouted.directory.judge(number, history.first_received).await {
            Verdict::Lane => {}
            Verdict::Later(news) => return Way::Later(news),
            Verdict::Refuse(reason) => return turned_away(job, history, &reason),
        }
        let now = clock::monotonic();
        let door = self.doors().look(number, now);
        match door {
            Some(Door::Shut) => return Way::Later(Duration::ZERO),
            // Known as long as the lane is served.
            Some(Door::Open) if self.unrouted.numbers.borrow().contains(number) => {
                return Way::Move;
            }
            Some(Door::Open) | None => {}
        }
        match tokio::time::timeout(LANE_WITHIN, self.ask_for_lane(number)).await {
            Ok(Some(Ok(()))) => {
                self.doors().note(number, Door::Open, now);
                Way::Move
            }
            Ok(Some(Err(NoLane(reason)))) => {
                turned_away(job, history, &format!("phone number {number} has no lane: {reason}"))
            }
            // The lane is down, or the connection is going: it comes again, or comes back.
            Ok(None) | Err(_) => {
                self.doors().note(number, Door::Shut, clock::monotonic());
                Way::Later(Duration::ZERO)
            }
        }
    }

    fn doors(&self) -> MutexGuard<'_, Doors> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until its queues stand; none where nobody answers any more.
    async fn ask_for_lane(&self, number: &NumberId) -> Option<Result<(), NoLane>> {
        let (made, answer) = oneshot::channel();
        let request = LaneRequest { number: number.clone(), made };
        self.unrouted.lanes.send(request).await.ok()?;
        answer.await.ok()
    }

    /// By its own key, which its lane is bound with by now.
    async fn move_in(
        &self,
        receipt: RabbitReceipt,
        place: Place,
    ) -> Result<Departure, SettleError> {
        let Desk { publisher, names, .. } = &*self.unrouted.desk;
        let outgoing = Outgoing {
            exchange: names.sends().into(),
            routing_key: receipt.original().routing_key.as_str().into(),
            body: receipt.original().body.clone(),
            properties: receipt.travelling_on(),
            kind: PublishKind::Moved,
        };
        let place = place.first().await;
        let handed_in = publisher.hand_in(receipt.hold(), outgoing).await?;
        drop(place);
        match handed_in.taken().await {
            Ok(()) => receipt.moved().await.map(|()| Departure::Moved),
            Err(error @ (PublishError::Stopped | PublishError::NotOurs | PublishError::Lost)) => {
                Err(error.into())
            }
            // Its lane is full.
            Err(PublishError::Refused) => put_off(receipt, Duration::ZERO).await,
        }
    }

    /// Counts and logs a settlement. No reason is logged that may quote a stranger's number.
    fn note(&self, number: Option<&NumberId>, settlement: &Settlement) {
        let metrics = &self.unrouted.desk.metrics;
        let result = |event: &ResultEvent| {
            metrics.result(number, event.status, event.error.as_ref().map(|error| error.class));
        };
        match settlement {
            Settlement::Finish(event) => result(event),
            Settlement::DeadLetter { event, class, .. } => {
                metrics.dead_letter(*class);
                let job = event.as_ref().map_or("unknown", |event| event.id.as_str());
                // A producer's mistakes are counted, and may be thousands a second.
                if *class == Class::Invalid {
                    tracing::debug!(class = class.name(), job, "dead letter");
                } else {
                    tracing::warn!(class = class.name(), job, "dead letter");
                }
                event.iter().for_each(result);
            }
            Settlement::Reschedule(_) => {}
        }
    }
}

/// Handling ends where it stands when the connection goes: then its delivery is void.
struct VoidIfDropped(Option<Token>);

impl VoidIfDropped {
    fn leave(mut self, how: Departure) {
        if let Some(token) = self.0.take() {
            token.leave(how);
        }
    }
}

impl Drop for VoidIfDropped {
    fn drop(&mut self) {
        if let Some(token) = self.0.take() {
            token.leave(Departure::Void);
        }
    }
}

async fn put_off(receipt: RabbitReceipt, news: Duration) -> Result<Departure, SettleError> {
    let age = policy::rest(clock::wall(), receipt.history().first_received);
    let step = directory::wait(age, news);
    receipt.put_off(step).await.map(|()| Departure::Returned)
}

/// One that may have been sent, when it still had a lane, has not surely failed.
fn turned_away(job: &SendJob, history: &History, reason: &str) -> Way {
    let failure = match history.doubt {
        None => Failure::new(Class::Invalid, reason),
        Some(_) => Failure::new(Class::Ambiguous, format!("it may have been sent, but {reason}")),
    };
    Way::settle(policy::turned_away(job, history, &failure, clock::wall()))
}

/// The reasons are RabbitMQ's words for why it dead-lettered a message.
fn outcome_of_death(job: &SendJob, history: &History, reason: &str) -> Settlement {
    let now = clock::wall();
    let failure = match reason {
        "maxlen" => Failure {
            scope: Scope::Number,
            ..Failure::new(Class::Throttled, "the broker dropped it: its number's queue was full")
        },
        "delivery_limit" => Failure::new(
            Class::Ambiguous,
            "the broker gave it up after too many deliveries: it may have been sent",
        ),
        other => Failure::new(
            Class::Ambiguous,
            format!("the broker took it out of its queue ({other}): it may have been sent"),
        ),
    };
    policy::turned_away(job, history, &failure, now)
}

fn unreadable_key(original: &Original) -> InvalidJob {
    // Cut: a routing key is a stranger's text.
    let key: String = original.routing_key.chars().take(64).collect();
    let reason =
        format!("routing key {key:?} is neither <phone_number_id> nor <phone_number_id>.urgent");
    let message_id = original.properties.message_id().as_ref().map(|id| id.as_str());
    match SendJob::parse(&original.body, message_id) {
        Ok(job) => InvalidJob {
            reason,
            id: Some(job.id),
            phone_number_id: Some(job.phone_number_id),
            metadata: job.metadata,
        },
        Err(invalid) => InvalidJob { reason, ..invalid },
    }
}

impl RabbitReceipt {
    fn number(&self) -> Option<NumberId> {
        self.message().lane.as_ref().map(|(number, _)| number.clone())
    }

    fn priority(&self) -> Priority {
        self.message().lane.as_ref().map_or(Priority::Normal, |(_, priority)| *priority)
    }

    fn history(&self) -> &History {
        &self.message().travel.history
    }

    fn original(&self) -> &Original {
        &self.message().original
    }

    fn travelling_on(&self) -> lapin::BasicProperties {
        headers::travelling(&self.original().properties, &self.message().travel)
    }
}
