//! What workers say to each other, as JSON, and the queue by which they hear it. Who says what when is
//! `presence`'s.

use super::connection::CLOSED_NORMALLY;
use super::members::WorkerId;
use super::topology::Names;
use lapin::options::{
    BasicCancelOptions, BasicConsumeOptions, BasicPublishOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, Consumer};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A larger message is not read: a sign has under 100 bytes, a report about 200 for each lane.
pub(super) const MAX_BODY: usize = 1 << 20;

/// What waits in a reader's queue while it does not read; beyond, the oldest is dropped.
const MAX_WAITING: i64 = 10_000;

/// A message between workers; those of a later version are passed over.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(super) enum Message {
    /// A sign of life.
    Here { worker: WorkerId, sequence: u64 },
    /// The first sign; all answer with theirs.
    Hello { worker: WorkerId, sequence: u64 },
    /// The last sign.
    Bye { worker: WorkerId, sequence: u64 },
    /// All report into this queue. Who asks is no worker.
    Ask { reply: String },
    /// All report what they know of this job into this queue.
    #[serde(rename = "ask-job")]
    AskJob { reply: String, job: String },
    /// The answer, to the asker alone.
    Report { worker: WorkerId, report: Value },
    #[serde(other)]
    Unknown,
}

impl Message {
    /// None where it is too large or cannot be read.
    pub(super) fn read(body: &[u8]) -> Option<Message> {
        let fits = body.len() <= MAX_BODY;
        fits.then(|| serde_json::from_slice(body).ok()).flatten()
    }

    pub(super) fn write(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// How a message between workers is published: it is worth nothing after a restart of the broker.
pub(super) fn transient() -> BasicProperties {
    const TRANSIENT: u8 = 1;
    BasicProperties::default()
        .with_delivery_mode(TRANSIENT)
        .with_content_type("application/json".into())
}

/// A queue of our own behind the exchange; it ends with its consumer or its connection.
pub(super) struct Subscription {
    channel: Channel,
    pub(super) consumer: Consumer,
    /// The queue's name.
    pub(super) queue: String,
}

impl Subscription {
    /// The queue has a new name each time: one of a lost connection may still be there.
    pub(super) async fn bind(
        connection: &Connection,
        names: &Names,
    ) -> lapin::Result<Subscription> {
        let channel = connection.create_channel().await?;
        let queue = names.presence_queue(fastrand::u128(..));
        let own = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
        let mut arguments = FieldTable::default();
        // Named, since the default type of the virtual host may be another.
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(MAX_WAITING));
        channel.queue_declare(queue.as_str().into(), own, arguments).await?;
        let (exchange, key) = (names.presence().into(), "".into());
        let (bind, none) = (QueueBindOptions::default(), FieldTable::default());
        channel.queue_bind(queue.as_str().into(), exchange, key, bind, none).await?;
        let consume = BasicConsumeOptions { no_ack: true, ..Default::default() };
        let none = FieldTable::default();
        let consumer =
            channel.basic_consume(queue.as_str().into(), "".into(), consume, none).await?;
        Ok(Subscription { channel, consumer, queue })
    }

    /// Publishes by the same channel, without a confirm.
    pub(super) async fn publish(&self, exchange: String, message: &Message) -> lapin::Result<()> {
        let options = BasicPublishOptions::default();
        let (key, body) = ("".into(), message.write());
        let written =
            self.channel.basic_publish(exchange.into(), key, options, &body, transient()).await;
        written.map(|_| ())
    }

    /// Closed already where it was lost.
    pub(super) async fn close(self) {
        let Subscription { channel, consumer, .. } = self;
        let _gone = channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await;
        let _gone = channel.close(CLOSED_NORMALLY, "left".into()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_json_with_its_kind() {
        let worker = WorkerId::new(1);
        for (message, json) in [
            (
                Message::Here { worker, sequence: 7 },
                r#"{"kind":"here","worker":"00000000000000000000000000000001","sequence":7}"#,
            ),
            (
                Message::Ask { reply: "chakra.presence.1".into() },
                r#"{"kind":"ask","reply":"chakra.presence.1"}"#,
            ),
            (
                Message::AskJob { reply: "chakra.presence.1".into(), job: "order-1".into() },
                r#"{"kind":"ask-job","reply":"chakra.presence.1","job":"order-1"}"#,
            ),
            (
                Message::Report { worker, report: serde_json::json!([1]) },
                r#"{"kind":"report","worker":"00000000000000000000000000000001","report":[1]}"#,
            ),
        ] {
            assert_eq!(String::from_utf8(message.write()).unwrap(), json);
            assert_eq!(Message::read(json.as_bytes()), Some(message));
        }
    }

    #[test]
    fn what_cannot_be_read_or_is_too_large_is_no_message() {
        let later = br#"{"kind":"later","worker":"x"}"#;
        assert_eq!(Message::read(later), Some(Message::Unknown));
        let mut large = Message::Ask { reply: "q".into() }.write();
        large.resize(MAX_BODY + 1, b' ');
        assert_eq!(Message::read(&large), None);
        assert_eq!(Message::read(&large[..MAX_BODY]), Some(Message::Ask { reply: "q".into() }));
        assert_eq!(Message::read(br#"{"kind":"here","worker":"1","sequence":1}"#), None);
    }
}
