//! Settling one delivery: publish what follows, wait for the confirm, only then acknowledge, and
//! look at what the acknowledgement returns.

use super::decode::Original;
use super::fence::Fence;
use super::headers::{self, Travel};
use super::hold::{Hold, Unacknowledged};
use super::publisher::{Outgoing, PublishError, Publisher};
use super::suspect::Touch;
use super::topology::{Names, Step, lane_key, step_for};
use crate::clock;
use crate::crash::{self, Stage};
use crate::metrics::{Acknowledged, Metrics, PublishKind};
use crate::policy::{self, Reschedule, Settlement, Why};
use crate::queue::{Receipt, SettleError};
use crate::wire::{Event, NumberId, Priority, ResultEvent, Status};
use futures_util::TryFutureExt;
use futures_util::future::join;
use lapin::types::ShortString;
use std::sync::Arc;

/// Why a delivery is not ours any more.
const GONE: &str = "its subscription ended";

/// What receipts need, shared by all.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) publisher: Publisher,
    pub(super) names: Arc<Names>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) touch: Touch,
    pub(super) fence: Fence,
}

/// The right to settle one delivery of a job.
#[derive(Debug)]
pub struct RabbitReceipt {
    /// None once it is settled, or is no longer to be.
    unacknowledged: Option<Unacknowledged>,
    hold: Arc<Hold>,
    /// Boxed, since a receipt is moved from hand to hand.
    message: Box<Message>,
    desk: Arc<Desk>,
}

/// What came, as far as settling needs it.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) original: Original,
    pub(super) travel: Travel,
    /// Whose lane it goes back to; none where the routing key cannot be read.
    pub(super) lane: Option<(NumberId, Priority)>,
}

impl Receipt for RabbitReceipt {
    fn is_ours(&self) -> bool {
        let is_usable = Unacknowledged::is_usable;
        self.hold.stands() && self.unacknowledged.as_ref().is_some_and(is_usable)
    }

    async fn settle(
        self,
        settlement: &Settlement,
        until_safe: impl Send,
    ) -> Result<(), SettleError> {
        let recorded = self.record(settlement).await;
        drop(until_safe);
        self.let_go_after(recorded).await
    }
}

impl Drop for RabbitReceipt {
    /// Unsettled: it is given back, so that it comes again.
    fn drop(&mut self) {
        if let Some(delivery) = self.unacknowledged.take() {
            self.hold.give_back(&delivery);
        }
    }
}

impl RabbitReceipt {
    pub(super) fn new(
        unacknowledged: Unacknowledged,
        hold: Arc<Hold>,
        message: Message,
        desk: Arc<Desk>,
    ) -> Self {
        let unacknowledged = Some(unacknowledged);
        RabbitReceipt { unacknowledged, hold, message: Box::new(message), desk }
    }

    /// The hold that it is under.
    pub(super) fn hold(&self) -> &Arc<Hold> {
        &self.hold
    }

    /// What came.
    pub(super) fn message(&self) -> &Message {
        &self.message
    }

    /// Puts it into a wait of this step, whenever it is due, and lets go of it.
    pub(super) async fn put_off(self, step: Step) -> Result<(), SettleError> {
        let travel = Travel { waited_for: Some(Why::HandedBack), ..self.message.travel.clone() };
        let recorded = match self.still_ours() {
            Ok(()) => self.wait_in(step, &travel, None).await,
            lost => lost,
        };
        self.let_go_after(recorded).await
    }

    /// Lets go of a job that has been moved elsewhere, confirmed.
    pub(super) async fn moved(mut self) -> Result<(), SettleError> {
        self.acknowledge().await
    }

    async fn record(&self, settlement: &Settlement) -> Result<(), SettleError> {
        match settlement {
            // Time alone ended it here: whose it is now may have sent it.
            Settlement::Finish(event) if event.status == Status::Expired => {
                self.still_ours()?;
                self.publish_event(event).await
            }
            // An outcome is true whosesoever the delivery is now.
            Settlement::Finish(event) => self.publish_event(event).await,
            Settlement::DeadLetter { event, class, reason, history } => {
                self.still_ours()?;
                let Message { original, travel, .. } = &*self.message;
                let travel = &Travel { history: history.clone(), ..travel.clone() };
                let key = original.routing_key.as_str();
                let (dying, now) = (&original.properties, clock::wall());
                let properties = headers::dead(dying, travel, *class, reason, key, now);
                let queue = self.desk.names.dead_letters();
                let out = self.outgoing("", &queue, properties, PublishKind::DeadLetter)?;
                self.confirmed(out).await?;
                match event {
                    Some(event) => self.publish_event(event).await,
                    None => Ok(()),
                }
            }
            Settlement::Reschedule(wait) => {
                self.still_ours()?;
                self.wait(wait).await
            }
        }
    }

    async fn wait(&self, wait: &Reschedule) -> Result<(), SettleError> {
        let first = match wait.why {
            Why::Retry | Why::Doubt => Some(Priority::Urgent),
            Why::NotBefore | Why::Recipient | Why::Hold | Why::Identical | Why::HandedBack => None,
        };
        let travel = Travel {
            history: wait.history.clone(),
            waited_for: Some(wait.why),
            expires_at: self.message.travel.expires_at,
        };
        let rest = wait.history.due.map(|due| policy::rest(due, clock::wall()));
        self.wait_in(step_for(rest.unwrap_or_default()), &travel, first).await
    }

    /// It returns by the queue of this priority, or by its own.
    async fn wait_in(
        &self,
        step: Step,
        travel: &Travel,
        returns_by: Option<Priority>,
    ) -> Result<(), SettleError> {
        let Some((number, priority)) = &self.message.lane else {
            return Err(SettleError::Unwritten("without a lane it cannot come back".into()));
        };
        let key = lane_key(number, returns_by.unwrap_or(*priority));
        let properties = headers::travelling(&self.message.original.properties, travel);
        let exchange = self.desk.names.wait(step);
        let out = self.outgoing(&exchange, &key, properties, PublishKind::Wait)?;
        // Somebody else has the job once it is not ours: a second copy must not come into the world.
        Ok(self.desk.publisher.until_taken(out, Some(&self.hold)).await?)
    }

    /// To the results, and to the producer's own queue where it named one.
    async fn publish_event(&self, event: &ResultEvent) -> Result<(), SettleError> {
        let body = Event::Result(event)
            .to_json()
            .map_err(|error| SettleError::Unwritten(error.to_string()))?;
        let number = event.phone_number_id.as_ref().map_or("unknown", NumberId::as_str);
        let mut properties = headers::persistent()
            .with_content_type("application/json".into())
            .with_message_id(short(&event.message_id())?);
        let original = &self.message.original.properties;
        if let Some(id) = original.correlation_id() {
            properties = properties.with_correlation_id(id.clone());
        }
        let out = Outgoing {
            exchange: self.desk.names.results().into(),
            routing_key: ["result.", event.status.name(), ".", number].concat().into(),
            body: body.into(),
            properties,
            kind: PublishKind::Result,
        };
        let Some(reply_to) = original.reply_to() else { return self.confirmed(out).await };
        let reply = Outgoing {
            exchange: "".into(),
            routing_key: reply_to.clone(),
            kind: PublishKind::Reply,
            ..out.clone()
        };
        // Boxed: a job that asks for no reply holds no room for it.
        let both = Box::pin(join(self.confirmed(out), self.desk.publisher.publish(reply)));
        let (recorded, replied) = both.await;
        // The results have it: a reply that nobody takes is the asker's loss alone.
        if replied == Err(PublishError::Refused) {
            tracing::debug!(reply_to = reply_to.as_str(), "its queue refused a reply");
        }
        recorded
    }

    /// Publishes until the broker has it. It goes on although the delivery may be lost meanwhile:
    /// what follows has been decided.
    fn confirmed(
        &self,
        outgoing: Outgoing,
    ) -> impl Future<Output = Result<(), SettleError>> + Send + use<'_> {
        self.desk.publisher.until_taken(outgoing, None).err_into()
    }

    /// What was recorded for it is safe now, or is not to be.
    async fn let_go_after(mut self, recorded: Result<(), SettleError>) -> Result<(), SettleError> {
        if let Err(error @ SettleError::Lost(_)) = &recorded {
            self.desk.metrics.acknowledged(Acknowledged::Lost);
            self.unacknowledged = None;
            return Err(error.clone());
        }
        recorded?;
        crash::point(Stage::Confirmed);
        self.acknowledge().await
    }

    async fn acknowledge(&mut self) -> Result<(), SettleError> {
        let Some(delivery) = self.unacknowledged.take() else { return Ok(()) };
        let is_acknowledged = self.hold.acknowledge(delivery).await;
        crash::point(Stage::Acknowledged);
        let (outcome, settled) = match is_acknowledged {
            true => (Acknowledged::Ok, Ok(())),
            false => (Acknowledged::Lost, Err(SettleError::Lost(GONE.into()))),
        };
        self.desk.metrics.acknowledged(outcome);
        settled
    }

    fn still_ours(&self) -> Result<(), SettleError> {
        match self.is_ours() {
            true => Ok(()),
            false => Err(SettleError::Lost(GONE.into())),
        }
    }

    /// The original bytes on their way to somewhere else.
    fn outgoing(
        &self,
        exchange: &str,
        routing_key: &str,
        properties: lapin::BasicProperties,
        kind: PublishKind,
    ) -> Result<Outgoing, SettleError> {
        Ok(Outgoing {
            exchange: short(exchange)?,
            routing_key: short(routing_key)?,
            body: self.message.original.body.clone(),
            properties,
            kind,
        })
    }
}

impl From<PublishError> for SettleError {
    fn from(error: PublishError) -> SettleError {
        match error {
            PublishError::Stopped => SettleError::Stopped,
            PublishError::NotOurs | PublishError::Lost => SettleError::Lost(error.to_string()),
            PublishError::Refused => SettleError::Unwritten(error.to_string()),
        }
    }
}

/// AMQP's short strings have at most 255 bytes.
fn short(text: &str) -> Result<ShortString, SettleError> {
    ShortString::try_new(text).map_err(|error| SettleError::Unwritten(error.to_string()))
}
