//! The demo through a broker: under names of its own, which are deleted at the end.

use super::Gathered;
use crate::cli::parts;
use crate::clock;
use crate::config::Settings;
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::queue::rabbitmq::{
    Accept, Follower, Producer, RabbitQueue, RabbitSettings, delete_everything,
};
use crate::wire::{NumberId, Priority, SendJob};
use crate::worker::Worker;
use anyhow::Context;
use bytes::Bytes;
use secrecy::SecretString;
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The settings through this broker, under a prefix that nobody else uses.
pub(super) fn settings(mut settings: Settings, uri: String) -> Settings {
    settings.rabbitmq.uris = vec![SecretString::from(uri)];
    settings.rabbitmq.prefix = format!("chakra-demo-{:08x}", fastrand::u32(..));
    settings
}

/// Enqueues the lines, works them off and follows the results. Returns how many lines cannot be
/// enqueued at all, since no id can be read.
pub(super) async fn run(
    settings: &Settings,
    lines: &[String],
    gathered: &Gathered,
    stop: CancellationToken,
) -> anyhow::Result<u64> {
    let numbers: Vec<NumberId> =
        settings.numbers.overrides.iter().map(|number| number.id.clone()).collect();
    let worked = work(settings, &numbers, lines, gathered, stop).await;
    let (connection, topology) = (parts::connection(settings), parts::topology(settings));
    delete_everything(&connection, &topology, &numbers)
        .await
        .map_err(anyhow::Error::msg)
        .context("deleting what the demo made in RabbitMQ")?;
    worked
}

async fn work(
    settings: &Settings,
    numbers: &[NumberId],
    lines: &[String],
    gathered: &Gathered,
    stop: CancellationToken,
) -> anyhow::Result<u64> {
    let metrics = Arc::new(Metrics::new()?);
    let rabbit = RabbitSettings {
        connection: parts::connection(settings),
        topology: parts::topology(settings),
        numbers: numbers.to_vec(),
        accept: Accept::Any,
        max_lanes: settings.numbers.max_lanes,
        prefetch: parts::prefetch(settings)?,
        max_held: settings.worker.max_held,
    };
    // The producer makes the exchanges, the follower listens before the first job is out.
    let producer = Producer::connect(&rabbit.connection, &rabbit.topology)
        .await
        .map_err(anyhow::Error::msg)?;
    let mut follower = Follower::connect(&rabbit.connection, &rabbit.topology.prefix, "#")
        .await
        .map_err(anyhow::Error::msg)?;
    let (queue, incoming) =
        RabbitQueue::start(rabbit, Arc::clone(&metrics)).map_err(anyhow::Error::msg)?;
    let worker = Worker::new(
        parts::worker_settings(settings)?,
        parts::client(settings)?,
        Ledger::forgetful(),
        metrics,
        queue.may_send(),
        stop.clone(),
    );
    let mut hall = JoinSet::new();
    hall.spawn(worker.run(incoming));

    let (expected, unreadable) = enqueue(&producer, lines).await?;
    for _ in 0..expected {
        tokio::select! {
            event = follower.next() => gathered.take(&event.map_err(anyhow::Error::msg)?),
            () = stop.cancelled() => break,
        }
    }
    queue.stop_consuming();
    while hall.join_next().await.is_some() {}
    queue.close().await;
    producer.close().await;
    follower.close().await;
    Ok(unreadable)
}

/// Puts every line that names its number and its job on the broker, the unlawful ones too: the
/// worker is to answer them. Returns how many it put, and how many it could not.
async fn enqueue(producer: &Producer, lines: &[String]) -> anyhow::Result<(u64, u64)> {
    let (mut put, mut unreadable) = (0, 0);
    for line in lines {
        let body = Bytes::from(line.clone());
        let (number, id, priority) = match SendJob::parse(&body, None) {
            Ok(job) => (Some(job.phone_number_id), Some(job.id), job.priority),
            Err(invalid) => (invalid.phone_number_id, invalid.id, None),
        };
        let (Some(number), Some(id)) = (number, id) else {
            unreadable += 1;
            continue;
        };
        let lane = (&number, priority.unwrap_or(Priority::Normal));
        producer.put(lane, &id, &body, clock::wall()).await.map_err(anyhow::Error::msg)?;
        put += 1;
    }
    Ok((put, unreadable))
}
