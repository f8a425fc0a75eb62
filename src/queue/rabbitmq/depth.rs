//! How many jobs wait in each lane, by asking the broker, and whether the queues that all share are
//! still there. Passive declarations need no plugin and are up to date, unlike the management API,
//! which lags by seconds.

use super::declare::{DeclareError, declare};
use super::receipt::Desk;
use super::topology::Topology;
use crate::wire::{NumberId, Priority};
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Channel, Connection};
use std::time::Duration;
use tokio::sync::watch;

/// Every lane is asked once in this time, spread over it.
const ROUND: Duration = Duration::from_secs(10);

/// Asks as long as the connection stands. Returns the reason when a queue that all share is gone and
/// is not to be made again (`create`), or cannot be: the epoch must end.
pub(super) async fn watch_queues(
    connection: &Connection,
    desk: &Desk,
    shared: &Topology,
    create: bool,
    numbers: watch::Receiver<Vec<NumberId>>,
) -> String {
    let mut channel = None;
    let queues = Topology { queues: shared.queues.clone(), ..Topology::default() };
    loop {
        if let Err(DeclareError::Missing(gone)) = declare(connection, &queues, false).await {
            let reason = format!("gone from the broker: {}", gone.join(", "));
            tracing::warn!(reason, "somebody deleted what all lanes share");
            // In place: an epoch's end would void all that is in hand.
            if !create || declare(connection, shared, true).await.is_err() {
                return reason;
            }
        }
        let round: Vec<NumberId> = numbers.borrow().clone();
        let share = u32::try_from(round.len()).unwrap_or(u32::MAX).max(1);
        for number in &round {
            for priority in [Priority::Normal, Priority::Urgent] {
                let name = desk.names.lane(number, priority);
                if let Some(jobs) = depth(connection, &mut channel, &name).await {
                    desk.metrics.lane_ready(number, priority, jobs);
                }
            }
            tokio::time::sleep(ROUND / share).await;
        }
        if round.is_empty() {
            tokio::time::sleep(ROUND).await;
        }
    }
}

/// The ready jobs of a queue; none where it is not there. A queue that is missing costs the channel.
async fn depth(connection: &Connection, channel: &mut Option<Channel>, queue: &str) -> Option<u32> {
    let open = match channel.take() {
        Some(channel) => channel,
        None => connection.create_channel().await.ok()?,
    };
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let declared = open.queue_declare(queue.into(), options, FieldTable::default()).await.ok()?;
    *channel = Some(open);
    Some(declared.message_count())
}
