//! What a consumer of the results sees, through all that happens to the broker.

use crate::support::broker::{Broker, Client};
use chakra_sender::clock;
use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Before it connects again.
const PAUSE: Duration = Duration::from_millis(200);

/// The statuses told of each job: one, unless something is wrong.
pub(crate) type Statuses = BTreeMap<String, BTreeSet<String>>;

#[derive(Debug, Default)]
struct Seen {
    statuses: Statuses,
    /// When each job's first result came.
    times: Vec<Instant>,
}

impl Seen {
    fn tell(&mut self, id: String, status: String) {
        let now = clock::monotonic();
        self.statuses
            .entry(id)
            .or_insert_with(|| {
                self.times.push(now);
                BTreeSet::new()
            })
            .insert(status);
    }
}

/// Gathers the results of a scenario. Ends with its value.
#[derive(Debug)]
pub(crate) struct Outcomes {
    seen: watch::Receiver<Seen>,
    _task: JoinSet<()>,
}

impl Outcomes {
    /// Takes all results of this broker's prefix.
    pub(crate) fn of(broker: &Broker) -> Outcomes {
        let (told, seen) = watch::channel(Seen::default());
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
        self.seen.borrow().statuses.clone()
    }

    /// How many jobs have a result.
    pub(crate) fn count(&self) -> usize {
        self.seen.borrow().times.len()
    }

    /// Waits until this many jobs have one; when the last of them came.
    pub(crate) async fn reach(&self, count: usize) -> Option<Instant> {
        let mut seen = self.seen.clone();
        let seen = seen.wait_for(|seen| seen.times.len() >= count).await.unwrap();
        count.checked_sub(1).map(|last| seen.times[last])
    }
}

async fn consume(uri: &str, queue: &str, told: &watch::Sender<Seen>) -> lapin::Result<()> {
    let connection = Connection::connect(uri, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let mut events = channel.basic_consume(queue.into(), "".into(), options, none).await?;
    while let Some(delivery) = events.next().await {
        let delivery = delivery?;
        let event: serde_json::Value = serde_json::from_slice(&delivery.data).unwrap();
        let [id, status] = ["id", "status"].map(|key| event[key].as_str().unwrap().to_owned());
        told.send_modify(|told| told.tell(id, status));
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
