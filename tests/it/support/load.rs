//! Load that does not end by itself, and what becomes of it: jobs, replies, webhooks.

use super::broker::{Broker, Client};
use super::webhook::Hook;
use super::world::{NUMBER, text};
use chakra_sender::sandbox::{Latency, Webhook};
use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use std::time::Duration;

/// A producer of jobs for the workers of one prefix.
pub(crate) struct Producer {
    client: Client,
    exchange: String,
}

impl Producer {
    pub(crate) async fn of(broker: &Broker, prefix: &str) -> Producer {
        Producer { client: broker.client().await, exchange: format!("{prefix}.sends") }
    }

    /// Puts so many jobs of a number on the exchange.
    pub(crate) async fn put(&self, number: &str, jobs: usize, properties: &BasicProperties) {
        for _ in 0..jobs {
            let job = text(&format!("job-{:016x}", fastrand::u64(..)), "x").replace(NUMBER, number);
            let (exchange, key) = (self.exchange.as_str().into(), number.into());
            let (options, channel) = (BasicPublishOptions::default(), &self.client.channel);
            let properties = properties.clone();
            // The story sees in the end whether it came: no confirm is waited for.
            drop(channel.basic_publish(exchange, key, options, job.as_bytes(), properties).await);
        }
    }

    /// One job of each number, twenty times a second.
    pub(crate) async fn feed(self, numbers: &'static [&'static str], properties: BasicProperties) {
        let mut pace = tokio::time::interval(Duration::from_millis(50));
        loop {
            pace.tick().await;
            for number in numbers {
                self.put(number, 1, &properties).await;
            }
        }
    }
}

/// A producer's queue that has no room for replies.
pub(crate) async fn full_queue(broker: &Broker) -> BasicProperties {
    let client = broker.client().await;
    let name = format!("{}.full", broker.prefix);
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    client.channel.queue_declare(name.as_str().into(), options, arguments).await.unwrap();
    BasicProperties::default().with_reply_to(name.as_str().into())
}

/// Signed webhooks to this listener, soon after each send.
pub(crate) fn webhooks(hook: &Hook, secret: &str) -> Webhook {
    let soon = Latency::fixed(Duration::from_millis(50));
    Webhook {
        url: Some(hook.url()),
        secret: Some(secret.into()),
        sent_after: soon,
        delivered_after: soon,
        ..Webhook::default()
    }
}
