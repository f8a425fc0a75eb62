//! The jobs of a scenario: put into the broker as fast as it confirms, and what is left taken out again.

use crate::support::broker::{Broker, Client};
use chakra_sender::queue::rabbitmq::topology::{Names, Step, lane_key};
use chakra_sender::wire::{NumberId, Priority};
use futures_util::StreamExt;
use lapin::BasicProperties;
use lapin::PublisherConfirm;
use lapin::message::Delivery;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicPublishOptions};
use lapin::types::FieldTable;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Publishes whose confirm is not there yet.
const UNCONFIRMED: usize = 500;

/// A queue that gives nothing for so long has nothing.
const SILENCE: Duration = Duration::from_millis(100);

/// What was expiring while the wait queues were looked at is in its lane by then.
const EXPIRING: Duration = Duration::from_millis(200);

/// Nothing is left when so many rounds found nothing.
const SILENT_ROUNDS: usize = 2;

/// What is special about jobs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Special {
    /// They go to so many recipients in turn; none: each to one of its own.
    pub(crate) recipients: Option<usize>,
    /// Where their results go too.
    pub(crate) reply_to: Option<String>,
}

/// A producer, and the one who clears up.
pub(crate) struct Stock {
    client: Client,
    names: Names,
    jobs: usize,
}

impl Stock {
    pub(crate) async fn of(broker: &Broker) -> Stock {
        Stock { client: broker.client().await, names: broker.names(), jobs: 0 }
    }

    /// The id of a job by its place.
    pub(crate) fn id(job: usize) -> String {
        format!("job-{job}")
    }

    /// A job's body.
    pub(crate) fn body(number: &NumberId, job: usize, recipient: usize) -> String {
        let id = Stock::id(job);
        format!(
            r#"{{"id":"{id}","phone_number_id":"{number}","message":{{"messaging_product":"whatsapp","to":"+9990{recipient:08}","type":"text","text":{{"body":"message {job}"}}}}}}"#
        )
    }

    /// How many there are.
    pub(crate) fn jobs(&self) -> usize {
        self.jobs
    }

    /// The id of the last one.
    pub(crate) fn last(&self) -> String {
        Stock::id(self.jobs - 1)
    }

    /// Publishes so many, each to a recipient of its own, and waits until each is confirmed.
    pub(crate) async fn put(&mut self, number: &NumberId, priority: Priority, count: usize) {
        let key = (number.clone(), lane_key(number, priority));
        self.put_in_turn(&[key], count, &Special::default()).await;
    }

    /// The same, by numbers and their routing keys in turn.
    pub(crate) async fn put_in_turn(
        &mut self,
        keys: &[(NumberId, String)],
        count: usize,
        special: &Special,
    ) {
        let sends = self.names.sends();
        let options = BasicPublishOptions::default();
        let mut unconfirmed: VecDeque<PublisherConfirm> = VecDeque::new();
        for job in self.jobs..self.jobs + count {
            let (number, key) = &keys[job % keys.len()];
            let recipient = special.recipients.map_or(job, |recipients| job % recipients);
            let body = Stock::body(number, job, recipient);
            let mut properties = BasicProperties::default().with_delivery_mode(2);
            if let Some(reply_to) = &special.reply_to {
                let (reply_to, id) = (reply_to.as_str().into(), Stock::id(job).into());
                properties = properties.with_reply_to(reply_to).with_correlation_id(id);
            }
            let publish = self.client.channel.basic_publish(
                sends.as_str().into(),
                key.as_str().into(),
                options,
                body.as_bytes(),
                properties,
            );
            unconfirmed.push_back(publish.await.unwrap());
            if unconfirmed.len() > UNCONFIRMED {
                confirmed(unconfirmed.pop_front().unwrap()).await;
            }
        }
        for confirm in unconfirmed {
            confirmed(confirm).await;
        }
        self.jobs += count;
    }

    /// Takes every job out of every queue, once no worker is left; their ids.
    pub(crate) async fn take_all(&self, numbers: &[NumberId]) -> BTreeSet<String> {
        let waits = Step::ALL.map(|step| self.names.wait(step));
        let lanes = numbers.iter().flat_map(|number| {
            [Priority::Urgent, Priority::Normal].map(|priority| self.names.lane(number, priority))
        });
        let queues: Vec<String> =
            waits.into_iter().chain([self.names.unrouted()]).chain(lanes).collect();
        let mut ids = BTreeSet::new();
        let mut silent = 0;
        while silent < SILENT_ROUNDS {
            let before = ids.len();
            for queue in &queues {
                self.take(queue, &mut ids).await;
            }
            silent = if ids.len() == before { silent + 1 } else { 0 };
            sleep(EXPIRING).await;
        }
        ids
    }

    async fn take(&self, queue: &str, ids: &mut BTreeSet<String>) {
        if crate::outcomes::waiting(&self.client, &[queue.to_owned()]).await == 0 {
            return;
        }
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        let consuming = self.client.channel.basic_consume(
            queue.into(),
            "".into(),
            options,
            FieldTable::default(),
        );
        let mut deliveries = consuming.await.unwrap();
        let mut read = |delivery: Delivery| {
            let job: serde_json::Value = serde_json::from_slice(&delivery.data).unwrap();
            ids.insert(job["id"].as_str().unwrap().to_owned());
        };
        while let Ok(Some(delivery)) = timeout(SILENCE, deliveries.next()).await {
            read(delivery.unwrap());
        }
        let options = BasicCancelOptions::default();
        self.client.channel.basic_cancel(deliveries.tag(), options).await.unwrap();
        // What came while it was cancelled.
        while let Some(delivery) = deliveries.next().await {
            read(delivery.unwrap());
        }
    }
}

async fn confirmed(confirm: PublisherConfirm) {
    assert!(confirm.await.unwrap().is_ack(), "the broker refused a job");
}
