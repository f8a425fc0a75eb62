//! Jobs without a lane, and jobs that the broker threw out of one. The first are given a lane and
//! moved into it, or told why not; the others get their one outcome here.

use super::connection::{CLOSED_NORMALLY, Pauses, explain};
use super::decode::Original;
use super::directory::{Directory, Verdict};
use super::headers;
use super::inbox::{LaneRequest, NoLane};
use super::lane::give_back;
use super::publisher::{Outgoing, PublishError};
use super::receipt::{Desk, Hold, Message, RabbitReceipt};
use super::suspect::decode_carefully;
use super::topology::{Step, read_lane_key};
use crate::clock;
use crate::metrics::{Departure, PublishKind, Token};
use crate::policy::{self, Failure, History, Settlement};
use crate::queue::{Receipt, SettleError};
use crate::wire::{Class, InvalidJob, NumberId, Priority, ResultEvent, Scope, SendJob};
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Consumer};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Jobs handled at once.
const PREFETCH: u16 = 100;

/// A job that was to wait and found no queue waits here, as long as the shortest step: without it,
/// the job would go round as fast as the broker can.
const ASTRAY_PAUSE: Duration = Step::Second.length();

/// How long a job waits here for its lane to open; then it waits outside.
const LANE_WITHIN: Duration = Duration::from_secs(5);

/// What handling one job needs.
#[derive(Clone)]
pub(super) struct Unrouted {
    pub(super) desk: Desk,
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
    /// It has its settlement.
    Settle(Box<Settlement>),
}

impl Way {
    fn settle(settlement: Settlement) -> Way {
        Way::Settle(Box::new(settlement))
    }
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
        while connection.status().connected() && !stop.is_cancelled() {
            let (channel, consumer) = match self.subscribe(&connection).await {
                Ok(subscribed) => subscribed,
                Err(error) => return Some(explain(&error)),
            };
            let reason = self.session(&channel, consumer, &stop).await;
            let _gone = channel.close(CLOSED_NORMALLY, "done".into()).await;
            tracing::warn!(reason = reason?, "not consuming the unrouted jobs");
            let pause = tokio::time::sleep(pauses.next(fastrand::f64()));
            let _stopped = stop.run_until_cancelled(pause).await;
        }
        None
    }

    /// One subscription. Returns why it was lost; none when told to stop.
    async fn session(
        &self,
        channel: &Channel,
        mut consumer: Consumer,
        stop: &CancellationToken,
    ) -> Option<String> {
        let (hold, mut dropped) = Hold::new(&self.desk.fence, PREFETCH * 2);
        let mut jobs = JoinSet::new();
        let mut order = Order::default();
        let lost = loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break None,
                Some(_) = jobs.join_next() => order.forget_if(jobs.is_empty()),
                Some(acker) = dropped.recv() => give_back(&acker).await,
                delivery = consumer.next() => match delivery {
                    Some(Ok(delivery)) => {
                        let place = order.join(delivery.routing_key.as_str());
                        jobs.spawn(self.clone().handle(delivery, Arc::clone(&hold), place));
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
        lost
    }

    async fn subscribe(&self, connection: &Connection) -> lapin::Result<(Channel, Consumer)> {
        let channel = connection.create_channel().await?;
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let queue = self.desk.names.unrouted();
        let options = BasicConsumeOptions::default();
        let consumer =
            channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await?;
        Ok((channel, consumer))
    }

    async fn handle(self, mut delivery: Delivery, hold: Arc<Hold>, place: Place) {
        let astray = self.desk.names.is_wait(delivery.exchange.as_str());
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
                decode_carefully(&self.desk.touch, &original, way, earlier).await.job
            }
            None => Err(unreadable_key(&original)),
        };
        let message = Message { original, travel, lane };
        let receipt = RabbitReceipt::new(delivery.acker, hold, message, self.desk.clone());
        let number = self.known(receipt.number());
        let token = self.desk.metrics.received(number.as_ref(), receipt.priority());
        let token = VoidIfDropped(Some(token));
        let history = receipt.history().clone();
        if astray {
            tracing::warn!(exchange = %delivery.exchange, "a wait without its queue or binding");
            self.astray.notify_one();
            tokio::time::sleep(ASTRAY_PAUSE).await;
        }
        let way = match (&job, death) {
            (Err(invalid), _) => Way::settle(policy::unreadable(invalid, &history, now)),
            // Its time is over, but it may have been begun: its lane knows.
            (Ok(job), Some(reason)) if reason == "expired" => self.find_lane(job, &history).await,
            (Ok(job), Some(reason)) => Way::settle(outcome_of_death(job, &history, &reason)),
            (Ok(job), None) => self.find_lane(job, &history).await,
        };
        let _place = place.first().await;
        let done = match &way {
            Way::Move => self.move_in(receipt).await,
            Way::Settle(settlement) => {
                receipt.settle(settlement).await.map(|()| settlement.as_ref().into())
            }
        };
        token.leave(done.as_ref().map_or_else(Into::into, |how| *how));
        match (done, way) {
            (Ok(_), Way::Settle(settlement)) => self.note(number.as_ref(), &settlement),
            (Ok(_), Way::Move) | (Err(SettleError::Stopped), _) => {}
            (Err(error), _) => tracing::warn!(%error, "not settled: the job comes again"),
        }
    }

    /// What a stranger took for a number may be a person's: without a lane it is no label.
    fn known(&self, number: Option<NumberId>) -> Option<NumberId> {
        number.filter(|number| self.numbers.borrow().contains(number))
    }

    /// Why the broker threw it out of a lane; none for a job that never was in one. A job that came
    /// back from a wait died there last, by its time: that is its way home.
    fn thrown_out(&self, original: &Original) -> Option<String> {
        let (queue, reason) = headers::last_death(&original.properties)?;
        self.desk.names.is_lane(&queue).then_some(reason)
    }

    async fn find_lane(&self, job: &SendJob, history: &History) -> Way {
        let number = &job.phone_number_id;
        match self.directory.judge(number, clock::monotonic()).await {
            Verdict::Lane => {}
            Verdict::Later => return Way::settle(policy::given_back(history)),
            Verdict::Refuse(reason) => return turned_away(job, history, &reason),
        }
        match tokio::time::timeout(LANE_WITHIN, self.ask_for_lane(number)).await {
            Ok(Some(Ok(()))) => Way::Move,
            Ok(Some(Err(NoLane(reason)))) => turned_away(job, history, &reason),
            // The lane is down, or the connection is going: it comes again, or comes back.
            Ok(None) | Err(_) => Way::settle(policy::given_back(history)),
        }
    }

    /// Until its queues stand; none where nobody answers any more.
    async fn ask_for_lane(&self, number: &NumberId) -> Option<Result<(), NoLane>> {
        let (made, answer) = oneshot::channel();
        self.lanes.send(LaneRequest { number: number.clone(), made }).await.ok()?;
        answer.await.ok()
    }

    /// By its own key, which its lane is bound with by now.
    async fn move_in(&self, receipt: RabbitReceipt) -> Result<Departure, SettleError> {
        let outgoing = Outgoing {
            exchange: self.desk.names.sends().into(),
            routing_key: receipt.original().routing_key.as_str().into(),
            body: receipt.original().body.clone(),
            properties: receipt.travelling_on(),
            kind: PublishKind::Moved,
        };
        match self.desk.publisher.publish_while(receipt.hold(), outgoing).await {
            Ok(()) => receipt.moved().await.map(|()| Departure::Moved),
            Err(error @ (PublishError::Stopped | PublishError::NotOurs)) => Err(error.into()),
            // Its lane is full.
            Err(PublishError::Refused) => {
                let later = policy::given_back(receipt.history());
                receipt.settle(&later).await.map(|()| (&later).into())
            }
        }
    }

    /// Counts and logs a settlement. No reason is logged that may quote a stranger's number.
    fn note(&self, number: Option<&NumberId>, settlement: &Settlement) {
        let metrics = &self.desk.metrics;
        let result = |event: &ResultEvent| {
            metrics.result(number, event.status, event.error.as_ref().map(|error| error.class));
        };
        match settlement {
            Settlement::Finish(event) => result(event),
            Settlement::DeadLetter { event, class, .. } => {
                metrics.dead_letter(*class);
                let job = event.as_ref().map_or("unknown", |event| event.id.as_str());
                tracing::warn!(class = class.name(), job, "dead letter");
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

/// Keys beyond these are looked through for those whose jobs are done: with no more jobs in hand
/// than [`PREFETCH`], at least half of them.
const MOST_KEYS: usize = 2 * PREFETCH as usize;

/// Jobs of one routing key are moved in the order in which they came.
#[derive(Default)]
struct Order(HashMap<String, oneshot::Receiver<()>>);

/// One job's place; dropped, the next is first.
struct Place {
    before: Option<oneshot::Receiver<()>>,
    _next: oneshot::Sender<()>,
}

impl Order {
    fn join(&mut self, key: &str) -> Place {
        if self.0.len() > MOST_KEYS {
            self.0.retain(|_, last| last.try_recv() == Err(TryRecvError::Empty));
        }
        let (next, after) = oneshot::channel();
        Place { before: self.0.insert(key.to_owned(), after), _next: next }
    }

    /// Where no job is in hand, nobody is waited for.
    fn forget_if(&mut self, idle: bool) {
        if idle {
            self.0.clear();
        }
    }
}

impl Place {
    /// Waits for those who came before, and holds the place until it is dropped.
    async fn first(mut self) -> Place {
        if let Some(before) = self.before.take() {
            let _dropped = before.await;
        }
        self
    }
}

fn turned_away(job: &SendJob, history: &History, reason: &str) -> Way {
    let failure = Failure::new(Class::Invalid, reason);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_forgets_keys_whose_jobs_are_done_and_no_others() {
        let mut order = Order::default();
        let _in_hand = order.join("in hand");
        for key in 0..10 * MOST_KEYS {
            drop(order.join(&key.to_string()));
        }
        assert!(order.0.len() <= MOST_KEYS + 1, "{} keys", order.0.len());
        assert!(order.join("in hand").before.unwrap().try_recv() == Err(TryRecvError::Empty));
    }
}
