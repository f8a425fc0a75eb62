//! The demo through a broker: under names of its own, which are deleted at the end.

use super::Gathered;
use crate::cli::parts;
use crate::cli::webhook::{Bound, Outlet};
use crate::clock;
use crate::config::Settings;
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::queue::rabbitmq::{
    Accept, BrokerState, Follower, Producer, RabbitQueue, RabbitSettings, Touch, delete_everything,
};
use crate::wire::{JobId, NumberId, Priority, SendJob};
use crate::worker::Worker;
use anyhow::{Context, anyhow};
use bytes::Bytes;
use secrecy::SecretString;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// A broker that is not ready for so long will not be while a person watches.
const READY_AT_MOST: Duration = Duration::from_secs(15);

/// What is in hand at the end is waited for so long: all of it is deleted anyway.
const FINISH_AT_MOST: Duration = Duration::from_secs(10);

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
    bound: Bound,
    lines: &[String],
    gathered: &Gathered,
    stop: CancellationToken,
) -> anyhow::Result<u64> {
    let numbers: Vec<NumberId> =
        settings.numbers.overrides.iter().map(|number| number.id.clone()).collect();
    let worked = work(settings, bound, &numbers, lines, gathered, stop).await;
    let (connection, topology) = (parts::connection(settings), parts::topology(settings));
    let deleted = delete_everything(&connection, &topology, &numbers)
        .await
        .map_err(anyhow::Error::msg)
        .context("deleting what the demo made in RabbitMQ");
    // What went wrong first says more than what went wrong after it.
    let unreadable = worked?;
    deleted.map(|()| unreadable)
}

async fn work(
    settings: &Settings,
    bound: Bound,
    numbers: &[NumberId],
    lines: &[String],
    gathered: &Gathered,
    stop: CancellationToken,
) -> anyhow::Result<u64> {
    let (jobs, unreadable) = addressed(lines);
    let (_same, rates) = watch::channel(parts::rates(settings)?);
    let rabbit = RabbitSettings {
        connection: parts::connection(settings),
        topology: parts::topology(settings),
        numbers: numbers.to_vec(),
        accept: Accept::Any,
        max_lanes: settings.numbers.max_lanes,
        retire_after: settings.numbers.retire_after,
        prefetch: parts::prefetch(rates),
        max_held: settings.worker.max_held,
        touch: Touch::unmarked(),
        report: Arc::new(|_| serde_json::Value::Null),
    };
    let Some(ends) = stop.run_until_cancelled(connect(&rabbit)).await else {
        return Ok(unreadable);
    };
    let (producer, mut follower) = ends?;
    let metrics = Arc::new(Metrics::new()?);
    let (mut queue, incoming) =
        RabbitQueue::start(rabbit, Arc::clone(&metrics)).map_err(anyhow::Error::msg)?;
    let drain = stop.child_token();
    let (client, ledger) = (parts::client(settings)?, Ledger::in_memory(settings.ledger.bounds));
    let outlet = || gathered.expecting(Outlet::of(&mut queue));
    let webhook = bound.answer_into(outlet, client.clone(), ledger.clone(), Arc::clone(&metrics));
    let worker = Worker::new(
        parts::worker_settings(settings)?,
        client,
        ledger,
        metrics,
        queue.may_send(),
        queue.notices(),
        drain.clone(),
    );
    let mut hall = JoinSet::new();
    hall.spawn(worker.hearing(queue.heard()).run(incoming));

    let mut state = queue.state();
    let told = tokio::select! {
        biased;
        () = stop.cancelled() => Ok(()),
        reason = useless(&mut state) => Err(anyhow!(reason)),
        told = tell(&producer, &jobs, &mut follower, gathered) => told,
    };
    drain.cancel();
    queue.stop_consuming();
    let finish = async { while hall.join_next().await.is_some() {} };
    if tokio::time::timeout(FINISH_AT_MOST, finish).await.is_err() {
        tracing::warn!("the demo's worker does not finish in time: abandoned");
        hall.shutdown().await;
    }
    webhook.stop().await;
    queue.close().await;
    producer.close().await;
    follower.close().await;
    told.map(|()| unreadable)
}

/// The producer makes the exchanges, the follower listens before the first job is out.
async fn connect(rabbit: &RabbitSettings) -> anyhow::Result<(Producer, Follower)> {
    let producer = Producer::connect(&rabbit.connection, &rabbit.topology)
        .await
        .map_err(anyhow::Error::msg)?;
    let follower = Follower::connect(&rabbit.connection, &rabbit.topology.prefix, "#")
        .await
        .map_err(anyhow::Error::msg)?;
    Ok((producer, follower))
}

/// Enqueues the jobs, and hears meanwhile what came of each, and of its message.
async fn tell(
    producer: &Producer,
    jobs: &[Addressed],
    follower: &mut Follower,
    gathered: &Gathered,
) -> anyhow::Result<()> {
    let put = async {
        for Addressed { number, priority, id, body } in jobs {
            let lane = (number, *priority);
            producer.put(lane, id, body, clock::wall()).await.map_err(anyhow::Error::msg)?;
        }
        anyhow::Ok(())
    };
    let hear = async {
        loop {
            gathered.take(&follower.next().await.map_err(anyhow::Error::msg)?);
        }
    };
    let all = async {
        put.await?;
        gathered.results(jobs.len()).await;
        gathered.last_status().await;
        Ok(())
    };
    tokio::select! {
        all = all => all,
        deaf = hear => deaf,
    }
}

/// Ends when the broker is of no use: it cannot be worked with, or is not ready for too long.
async fn useless(state: &mut watch::Receiver<BrokerState>) -> String {
    let settled = |state: &BrokerState| matches!(state, BrokerState::Up | BrokerState::Broken(_));
    loop {
        let waited = tokio::time::timeout(READY_AT_MOST, state.wait_for(settled)).await;
        let waited = waited.map(|seen| seen.map(|state| state.clone()));
        let changed = match waited {
            Ok(Ok(BrokerState::Broken(reason))) => return reason,
            Ok(Ok(_)) => state.wait_for(|now| *now != BrokerState::Up).await.map(drop),
            Ok(Err(closed)) => Err(closed),
            Err(_) => return not_ready(&state.borrow()),
        };
        if changed.is_err() {
            return "the queue ended by itself".to_owned();
        }
    }
}

fn not_ready(state: &BrokerState) -> String {
    let why = match state {
        BrokerState::Up => "it came up too late",
        BrokerState::Connecting(reason)
        | BrokerState::Blocked(reason)
        | BrokerState::Broken(reason) => reason,
    };
    format!("RabbitMQ is not ready within {} s: {why}", READY_AT_MOST.as_secs())
}

/// A line that names its number and its job.
struct Addressed {
    number: NumberId,
    priority: Priority,
    id: JobId,
    body: Bytes,
}

/// What can be put on the broker, the unlawful lines too: the worker is to answer them. And how many
/// lines cannot.
fn addressed(lines: &[String]) -> (Vec<Addressed>, u64) {
    let (mut jobs, mut unreadable) = (Vec::new(), 0);
    for line in lines {
        let body = Bytes::from(line.clone());
        let (number, id, priority) = match SendJob::parse(&body, None) {
            Ok(job) => (Some(job.phone_number_id), Some(job.id), job.priority),
            Err(invalid) => (invalid.phone_number_id, invalid.id, None),
        };
        match (number, id) {
            (Some(number), Some(id)) => {
                let priority = priority.unwrap_or(Priority::Normal);
                jobs.push(Addressed { number, priority, id, body });
            }
            _ => unreadable += 1,
        }
    }
    (jobs, unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connecting() -> BrokerState {
        BrokerState::Connecting("connection refused".into())
    }

    #[tokio::test(start_paused = true)]
    async fn a_broker_that_does_not_come_up_is_given_up_with_its_last_reason() {
        let (_queue, mut state) = watch::channel(connecting());
        let reason = useless(&mut state).await;
        assert_eq!(reason, "RabbitMQ is not ready within 15 s: connection refused");
    }

    #[tokio::test(start_paused = true)]
    async fn a_broken_queue_is_given_up_at_once() {
        let (queue, mut state) = watch::channel(connecting());
        let start = clock::monotonic();
        let tell = async { queue.send_replace(BrokerState::Broken("no streams".into())) };
        let (reason, _) = tokio::join!(useless(&mut state), tell);
        assert_eq!(reason, "no streams");
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_broker_that_is_up_has_all_the_time_and_one_that_went_away_has_not() {
        let (queue, mut state) = watch::channel(BrokerState::Up);
        let hour = tokio::time::timeout(Duration::from_secs(3600), useless(&mut state));
        assert!(hour.await.is_err());
        queue.send_replace(connecting());
        assert!(useless(&mut state).await.ends_with("connection refused"));
    }
}
