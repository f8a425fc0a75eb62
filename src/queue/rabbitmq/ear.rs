//! How a worker hears the statuses that webhooks brought, to whichever worker they came: by a queue of its
//! own behind the results exchange. It always hears what failed, which may be about a number or the account;
//! of the numbers with jobs in doubt it hears all.
//!
//! A convenience: who hears nothing looks at chats, and meets refusals in answers. So what goes wrong here
//! is told once and tried again, and harms no lane. What came before the binding stood is not heard.

use super::connection::CLOSED_NORMALLY;
use super::reason::explain;
use super::topology::Names;
use crate::queue::Heard;
use crate::wire::{ErrorBody, JobId, NumberId};
use futures_util::StreamExt;
use jiff::Timestamp;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Connection, Consumer};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// What failed, of any number. Number by number it would be a binding for each lane, on each worker.
const FAILED: &str = "status.failed.*";

/// Statuses on the way at once.
const PREFETCH: u16 = 500;

/// What waits while the worker is busy; beyond, the oldest is dropped. About 10 MB in the broker.
const MAX_WAITING: i64 = 10_000;

/// A larger body is not read: a status has under 1 KB, the longest texts included 8.
const MAX_BODY: usize = 64 << 10;

/// After a failure that is not the connection's (a right that is missing, for one) it is tried again.
const AGAIN: Duration = Duration::from_secs(30);

/// Hears on one connection.
pub(super) struct Ear {
    pub(super) names: Arc<Names>,
    /// The numbers of which all is heard.
    pub(super) numbers: watch::Receiver<BTreeSet<NumberId>>,
    pub(super) out: mpsc::Sender<Heard>,
}

/// Why nothing is heard.
struct Deaf(String);

impl From<lapin::Error> for Deaf {
    fn from(error: lapin::Error) -> Deaf {
        Deaf(explain(&error))
    }
}

/// A status event, as far as it matters here.
#[derive(Deserialize)]
struct Status {
    id: Option<String>,
    phone_number_id: Option<NumberId>,
    whatsapp_message_id: String,
    at: Timestamp,
    error: Option<ErrorBody>,
}

impl Ear {
    /// Until nobody listens any more.
    pub(super) async fn run(mut self, connection: Arc<Connection>) {
        let mut is_told = false;
        while let Err(Deaf(reason)) = self.hear(&connection).await {
            // A connection that is gone is told elsewhere, and ends this task.
            if connection.status().connected() && !std::mem::replace(&mut is_told, true) {
                let (read, own) = (self.names.results(), self.names.statuses_queue(0));
                tracing::warn!(
                    reason,
                    "statuses are not heard: the user needs to read {read}, and to configure, write and \
                     read queues such as {own}"
                );
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn hear(&mut self, connection: &Connection) -> Result<(), Deaf> {
        let channel = connection.create_channel().await?;
        let (queue, mut consumer) = self.open(&channel).await?;
        let mut bound = BTreeSet::new();
        // Those of now as well.
        self.numbers.mark_changed();
        loop {
            tokio::select! {
                changed = self.numbers.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    let numbers = self.numbers.borrow_and_update().clone();
                    self.bind(&channel, &queue, &bound, &numbers).await?;
                    bound = numbers;
                }
                status = consumer.next() => {
                    let status =
                        status.ok_or_else(|| Deaf("its consumer was cancelled".into()))??;
                    if let Some(heard) = read(&status.data)
                        && self.out.send(heard).await.is_err()
                    {
                        break;
                    }
                    status.acker.ack(BasicAckOptions::default()).await?;
                }
            }
        }
        Ok(channel.close(CLOSED_NORMALLY, "unheard".into()).await?)
    }

    /// The queue has a new name each time: one of a lost connection may still be there.
    async fn open(&self, channel: &Channel) -> lapin::Result<(ShortString, Consumer)> {
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let queue: ShortString = self.names.statuses_queue(fastrand::u128(..)).into();
        let own = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
        let mut arguments = FieldTable::default();
        // Named, since the default type of the virtual host may be another.
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(MAX_WAITING));
        channel.queue_declare(queue.clone(), own, arguments).await?;
        let (results, none) = (self.names.results().into(), FieldTable::default());
        let bind = QueueBindOptions::default();
        channel.queue_bind(queue.clone(), results, FAILED.into(), bind, none).await?;
        let (consume, none) = (BasicConsumeOptions::default(), FieldTable::default());
        let consumer = channel.basic_consume(queue.clone(), "".into(), consume, none).await?;
        Ok((queue, consumer))
    }

    async fn bind(
        &self,
        channel: &Channel,
        queue: &ShortString,
        before: &BTreeSet<NumberId>,
        now: &BTreeSet<NumberId>,
    ) -> lapin::Result<()> {
        let results: ShortString = self.names.results().into();
        for number in before.difference(now) {
            let (key, none) = (all_of(number), FieldTable::default());
            channel.queue_unbind(queue.clone(), results.clone(), key, none).await?;
        }
        for number in now.difference(before) {
            let (bind, none) = (QueueBindOptions::default(), FieldTable::default());
            channel.queue_bind(queue.clone(), results.clone(), all_of(number), bind, none).await?;
        }
        Ok(())
    }
}

fn all_of(number: &NumberId) -> ShortString {
    format!("status.*.{number}").into()
}

/// None for what is no status.
fn read(body: &[u8]) -> Option<Heard> {
    if body.len() > MAX_BODY {
        return None;
    }
    let Status { id, phone_number_id, whatsapp_message_id, at, error } =
        serde_json::from_slice(body).ok()?;
    Some(Heard {
        job: id.and_then(|id| JobId::parse(&id).ok()),
        number: phone_number_id,
        message_id: whatsapp_message_id,
        at,
        fault: error.and_then(|error| Some((error.code?, error.message))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Class, DeliveryStatus, Event, Scope, StatusEvent};

    fn event() -> StatusEvent {
        StatusEvent {
            id: Some(JobId::parse("order-1").unwrap()),
            phone_number_id: Some(NumberId::parse("1027").unwrap()),
            status: DeliveryStatus::Failed,
            whatsapp_message_id: "wamid.1".into(),
            at: Timestamp::from_second(1_800_000_000).unwrap(),
            opaque: None,
            error: Some(ErrorBody {
                class: Class::Blocked,
                scope: Scope::Number,
                code: Some(131_048),
                http_status: None,
                message: "(#131048) spam".into(),
            }),
            metadata: None,
        }
    }

    fn heard(event: StatusEvent) -> Option<Heard> {
        read(&serde_json::to_vec(&Event::Status(&event)).unwrap())
    }

    #[test]
    fn an_event_is_heard_as_it_was_told() {
        let expected = Heard {
            job: Some(JobId::parse("order-1").unwrap()),
            number: event().phone_number_id,
            message_id: "wamid.1".into(),
            at: event().at,
            fault: Some((131_048, "(#131048) spam".into())),
        };
        assert_eq!(heard(event()), Some(expected));
        let of_nobody = heard(StatusEvent { id: None, error: None, ..event() }).unwrap();
        assert_eq!((of_nobody.job, of_nobody.fault), (None, None));
    }

    #[test]
    fn what_is_no_status_or_too_large_is_not_heard() {
        assert_eq!(heard(StatusEvent { opaque: Some("x".repeat(MAX_BODY)), ..event() }), None);
        assert_eq!(read(b"{}"), None);
    }
}
