//! What a consumer of the results sees, through all that happens to the broker.

use crate::support::broker::{Broker, Client};
use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Before it connects again.
const PAUSE: Duration = Duration::from_millis(200);

/// The statuses told of each job: one, unless something is wrong.
pub(crate) type Statuses = BTreeMap<String, BTreeSet<String>>;

/// Gathers the results of a scenario. Ends with its value.
#[derive(Debug)]
pub(crate) struct Outcomes {
    seen: watch::Receiver<Statuses>,
    _task: JoinSet<()>,
}

impl Outcomes {
    /// Takes all results of this broker's prefix.
    pub(crate) fn of(broker: &Broker) -> Outcomes {
        let (told, seen) = watch::channel(Statuses::new());
        let (uri, queue) = (broker.uri().to_owned(), broker.names().results());
        let mut task = JoinSet::new();
        task.spawn(async move {
            loop {
                // The queue may not stand yet, the broker may be gone: both pass.
                let _passing = consume(&uri, &queue, &told).await;
                tokio::time::sleep(PAUSE).await;
            }
        });
        Outcomes { seen, _task: task }
    }

    /// What was told until now.
    pub(crate) fn statuses(&self) -> Statuses {
        self.seen.borrow().clone()
    }

    /// How many jobs have a result.
    pub(crate) fn count(&self) -> usize {
        self.seen.borrow().len()
    }

    /// Waits until this many jobs have one.
    pub(crate) async fn reach(&self, count: usize) {
        let mut seen = self.seen.clone();
        seen.wait_for(|seen| seen.len() >= count).await.unwrap();
    }
}

async fn consume(uri: &str, queue: &str, told: &watch::Sender<Statuses>) -> lapin::Result<()> {
    let connection = Connection::connect(uri, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let mut events = channel.basic_consume(queue.into(), "".into(), options, none).await?;
    while let Some(delivery) = events.next().await {
        let delivery = delivery?;
        let event: serde_json::Value = serde_json::from_slice(&delivery.data).unwrap();
        let [id, status] = ["id", "status"].map(|key| event[key].as_str().unwrap().to_owned());
        told.send_modify(|told| {
            told.entry(id).or_default().insert(status);
        });
        delivery.ack(BasicAckOptions::default()).await?;
    }
    Ok(())
}

/// How many messages wait in these queues.
pub(crate) async fn waiting(client: &Client, queues: &[String]) -> u32 {
    let mut sum = 0;
    for queue in queues {
        let passive = lapin::options::QueueDeclareOptions { passive: true, ..Default::default() };
        let (queue, none) = (queue.as_str().into(), FieldTable::default());
        sum += client.channel.queue_declare(queue, passive, none).await.unwrap().message_count();
    }
    sum
}
