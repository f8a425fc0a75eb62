//! Taking a lane away whose number is gone, step by step: unbind its queues, let them be consumed until
//! nothing is left, delete them. Decides nothing: whose lane goes is the directory's to say, and its
//! consumer and the record are the epoch's. A lane comes as what stands in the broker for it
//! ([`Topology::lane`]).
//!
//! What is published for the number after the unbinding, or comes back from a wait, finds no binding and
//! goes to the unrouted jobs. Quorum queues do not know deleting only where empty or unused
//! (NOT_IMPLEMENTED), so that is looked at first.

use super::connection::CLOSED_NORMALLY;
use super::reason::soft;
use super::topology::{Binding, Topology};
use lapin::Connection;
use lapin::options::{QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::protocol::AMQPSoftError;
use lapin::types::FieldTable;
use std::ops::Add;
use std::time::Duration;

/// Between two looks before the deletion: a job that was routed just before the unbinding has arrived,
/// and one that the broker throws out of the queue has been confirmed elsewhere.
const SETTLES: Duration = Duration::from_secs(1);

/// What is left in a lane's two queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Left {
    /// Jobs that are ready. Those with a consumer are not among them.
    pub jobs: u32,
    /// Consumers that the broker counts: of those that wait for a single active one's end, none.
    pub consumers: u32,
}

impl Left {
    /// Neither a job nor somebody who may hold one.
    fn is_nothing(self) -> bool {
        self == Left::default()
    }
}

impl Add for Left {
    type Output = Left;

    fn add(self, other: Left) -> Left {
        let jobs = self.jobs.saturating_add(other.jobs);
        Left { jobs, consumers: self.consumers.saturating_add(other.consumers) }
    }
}

/// Takes both queues of a lane out of the routing, and tells what is left in them. To be repeated while
/// the lane is consumed: whoever declares it meanwhile, such as a worker that starts, binds it again.
pub async fn unbind(connection: &Connection, lane: &Topology) -> lapin::Result<Left> {
    let mut all = Left::default();
    for queue in &lane.queues {
        // One that is missing costs its channel, and hides nothing of the other.
        all = all
            + match unbind_one(connection, lane, &queue.name).await {
                Err(error) if soft(&error) == Some(&AMQPSoftError::NOTFOUND) => Left::default(),
                left => left?,
            };
    }
    Ok(all)
}

async fn unbind_one(connection: &Connection, lane: &Topology, name: &str) -> lapin::Result<Left> {
    let channel = connection.create_channel().await?;
    for Binding { exchange, key, .. } in lane.bindings.iter().filter(|to| to.queue == name) {
        let (exchange, key) = (exchange.as_str().into(), key.as_str().into());
        channel.queue_unbind(name.into(), exchange, key, FieldTable::default()).await?;
    }
    // Up to date, unlike the management API.
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare(name.into(), options, FieldTable::default()).await?;
    channel.close(CLOSED_NORMALLY, "unbound".into()).await?;
    Ok(Left { jobs: queue.message_count(), consumers: queue.consumer_count() })
}

/// Puts them back, where the number has returned before its queues were deleted.
pub async fn bind(connection: &Connection, lane: &Topology) -> lapin::Result<()> {
    let channel = connection.create_channel().await?;
    for Binding { exchange, queue, key } in &lane.bindings {
        let (queue, exchange, key) = (queue.as_str(), exchange.as_str(), key.as_str());
        let (queue, exchange, key) = (queue.into(), exchange.into(), key.into());
        let options = QueueBindOptions::default();
        channel.queue_bind(queue, exchange, key, options, FieldTable::default()).await?;
    }
    channel.close(CLOSED_NORMALLY, "bound".into()).await
}

/// Deletes both queues of a lane that was unbound and that nobody consumes any more. False where
/// something is left in them: then it is to be consumed again. They are gone when this is true, by
/// whomsoever: only then may the record say so.
pub async fn delete_if_empty(connection: &Connection, lane: &Topology) -> lapin::Result<bool> {
    if !unbind(connection, lane).await?.is_nothing() {
        return Ok(false);
    }
    tokio::time::sleep(SETTLES).await;
    if !unbind(connection, lane).await?.is_nothing() {
        return Ok(false);
    }
    let channel = connection.create_channel().await?;
    for queue in &lane.queues {
        // Deleting what does not exist is no error to RabbitMQ.
        let name = queue.name.as_str();
        let jobs = channel.queue_delete(name.into(), QueueDeleteOptions::default()).await?;
        if jobs > 0 {
            // Somebody bound it again since the last look.
            tracing::error!(queue = name, jobs, "deleted with jobs in it: they are lost");
        }
    }
    channel.close(CLOSED_NORMALLY, "deleted".into()).await?;
    Ok(true)
}
