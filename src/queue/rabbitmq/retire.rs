//! Taking a lane away whose number is gone, step by step: unbind its queues, let them be consumed until
//! nothing is left, delete them. Decides nothing: whose lane goes is the directory's to say, and its
//! consumer and the record are the inbox's.
//!
//! What is published for the number after the unbinding, or comes back from a wait, finds no binding and
//! goes to the unrouted jobs. Quorum queues do not know deleting only where empty or unused
//! (NOT_IMPLEMENTED), so that is looked at first.

use super::connection::CLOSED_NORMALLY;
use super::declare::soft;
use super::topology::{Binding, Names, lane_bindings};
use crate::wire::NumberId;
use lapin::options::{QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::protocol::AMQPSoftError;
use lapin::types::FieldTable;
use lapin::{Channel, Connection};
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
pub async fn unbind(
    connection: &Connection,
    names: &Names,
    number: &NumberId,
) -> lapin::Result<Left> {
    let channel = connection.create_channel().await?;
    for Binding { exchange, queue, key } in lane_bindings(names, number) {
        let (queue, exchange, key) = (queue.into(), exchange.into(), key.into());
        channel.queue_unbind(queue, exchange, key, FieldTable::default()).await?;
    }
    let left = left(&channel, names, number).await?;
    channel.close(CLOSED_NORMALLY, "unbound".into()).await?;
    Ok(left)
}

/// Puts them back, where the number has returned before its queues were deleted.
pub async fn bind(connection: &Connection, names: &Names, number: &NumberId) -> lapin::Result<()> {
    let channel = connection.create_channel().await?;
    for Binding { exchange, queue, key } in lane_bindings(names, number) {
        let (queue, exchange, key) = (queue.into(), exchange.into(), key.into());
        let options = QueueBindOptions::default();
        channel.queue_bind(queue, exchange, key, options, FieldTable::default()).await?;
    }
    channel.close(CLOSED_NORMALLY, "bound".into()).await
}

/// Deletes both queues of a lane that was unbound and that nobody consumes any more. False where
/// something is left in them: then it is to be consumed again. They are gone when this is true, by
/// whomsoever: only then may the record say so.
pub async fn delete_if_empty(
    connection: &Connection,
    names: &Names,
    number: &NumberId,
) -> lapin::Result<bool> {
    for look in 0..2 {
        if look > 0 {
            tokio::time::sleep(SETTLES).await;
        }
        match unbind(connection, names, number).await {
            Ok(left) if left.is_nothing() => {}
            Ok(_) => return Ok(false),
            Err(error) if soft(&error) == Some(&AMQPSoftError::NOTFOUND) => break,
            Err(error) => return Err(error),
        }
    }
    let channel = connection.create_channel().await?;
    for Binding { queue, .. } in lane_bindings(names, number) {
        // Deleting what does not exist is no error to RabbitMQ.
        channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await?;
    }
    channel.close(CLOSED_NORMALLY, "deleted".into()).await?;
    Ok(true)
}

/// Passive declarations are up to date, unlike the management API.
async fn left(channel: &Channel, names: &Names, number: &NumberId) -> lapin::Result<Left> {
    let mut all = Left::default();
    for Binding { queue, .. } in lane_bindings(names, number) {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = channel.queue_declare(queue.into(), options, FieldTable::default()).await?;
        all = all + Left { jobs: queue.message_count(), consumers: queue.consumer_count() };
    }
    Ok(all)
}
