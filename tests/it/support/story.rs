//! A queue that runs on a real RabbitMQ, and a producer beside it.

use super::broker::{Broker, Client, SOON};
use chakra_sender::clock;
use chakra_sender::metrics::Metrics;
use chakra_sender::policy::{self, Answer, Failure, RetryPolicy, Settlement};
use chakra_sender::queue::Incoming;
use chakra_sender::queue::rabbitmq::{BrokerState, RabbitQueue, RabbitReceipt, RabbitSettings};
use chakra_sender::wire::{Class, NumberId};
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::AMQPValue;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

pub(crate) const NUMBER: &str = "1027";

/// A queue that runs, and a producer beside it.
pub(crate) struct Story {
    pub(crate) broker: Broker,
    pub(crate) client: Client,
    pub(crate) queue: RabbitQueue,
    pub(crate) jobs: mpsc::Receiver<Incoming<RabbitReceipt>>,
}

impl Story {
    /// Starts when the queue is up.
    pub(crate) async fn begin(broker: Broker, change: impl FnOnce(&mut RabbitSettings)) -> Story {
        let (queue, jobs) = start(&broker, change);
        reach(&queue, |state| *state == BrokerState::Up).await;
        let client = broker.client().await;
        Story { broker, client, queue, jobs }
    }

    /// With a lane for [`NUMBER`].
    pub(crate) async fn with_lane() -> Story {
        Story::begin(Broker::shared(), |settings| settings.numbers = vec![number(NUMBER)]).await
    }

    pub(crate) async fn publish(&self, key: &str, body: &Value, properties: BasicProperties) {
        let exchange = self.broker.names().sends();
        let body = serde_json::to_vec(body).unwrap();
        self.client.publish((&exchange, key), &body, properties).await;
    }

    pub(crate) async fn next(&mut self) -> Incoming<RabbitReceipt> {
        let next = tokio::time::timeout(SOON, self.jobs.recv()).await;
        next.expect("no job came").expect("the jobs have ended")
    }

    /// The next event, and how it came.
    pub(crate) async fn result(&self) -> (Value, Delivery) {
        let delivery = self.client.take(&self.broker.names().results()).await;
        (serde_json::from_slice(&delivery.data).unwrap(), delivery)
    }
}

pub(crate) fn start(
    broker: &Broker,
    change: impl FnOnce(&mut RabbitSettings),
) -> (RabbitQueue, mpsc::Receiver<Incoming<RabbitReceipt>>) {
    let mut settings = broker.settings();
    change(&mut settings);
    RabbitQueue::start(settings, Arc::new(Metrics::new().unwrap())).unwrap()
}

pub(crate) async fn reach(
    queue: &RabbitQueue,
    goal: impl FnMut(&BrokerState) -> bool,
) -> BrokerState {
    reach_within(SOON, queue, goal).await
}

/// What is found locks the state: it is looked at a second time only where nothing was.
pub(crate) async fn reach_within(
    within: Duration,
    queue: &RabbitQueue,
    goal: impl FnMut(&BrokerState) -> bool,
) -> BrokerState {
    let mut state = queue.state();
    let reached = tokio::time::timeout(within, state.wait_for(goal)).await;
    reached.unwrap_or_else(|_| panic!("it stays {:?}", queue.state().borrow())).unwrap().clone()
}

/// Waits for what nobody tells.
pub(crate) async fn until(mut done: impl FnMut() -> bool) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, waiting).await.expect("it never happened");
}

pub(crate) fn number(digits: &str) -> NumberId {
    NumberId::parse(digits).unwrap()
}

pub(crate) fn job(id: &str) -> Value {
    job_of(NUMBER, id)
}

pub(crate) fn job_of(number: &str, id: &str) -> Value {
    json!({ "id": id, "phone_number_id": number, "message": {
        "messaging_product": "whatsapp", "to": "+919901258433", "type": "text",
        "text": { "body": "Shipped!" } } })
}

pub(crate) fn plain() -> BasicProperties {
    BasicProperties::default()
}

pub(crate) fn id(incoming: &Incoming<RabbitReceipt>) -> &str {
    incoming.job.as_ref().unwrap().id.as_str()
}

/// What follows for a job that got this answer.
pub(crate) fn after(incoming: &Incoming<RabbitReceipt>, answer: Answer) -> Settlement {
    let retry = RetryPolicy {
        initial: Duration::from_secs(1),
        factor: 2.0,
        max_delay: Duration::from_secs(60),
        max_attempts: 5,
        max_age: Duration::from_secs(3_600),
    };
    let job = incoming.job.as_ref().unwrap();
    policy::conclude(job, &incoming.history, answer, &retry, (clock::wall(), clock::wall()), 0.5)
}

pub(crate) fn accepted(incoming: &Incoming<RabbitReceipt>) -> Settlement {
    after(incoming, Answer::Accepted { whatsapp_message_id: Some("wamid.1".into()) })
}

pub(crate) fn unavailable(incoming: &Incoming<RabbitReceipt>) -> Settlement {
    after(incoming, Answer::Failed(Failure::new(Class::Unavailable, "503")))
}

pub(crate) fn header(delivery: &Delivery, name: &str) -> Option<String> {
    match delivery.properties.headers().as_ref()?.inner().get(name)? {
        AMQPValue::LongString(text) => Some(text.to_string()),
        AMQPValue::LongLongInt(number) => Some(number.to_string()),
        _ => None,
    }
}
