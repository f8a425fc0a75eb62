//! How many jobs wait in each lane and in the queues that all share, by asking the broker, and whether
//! those are still there. Passive declarations need no plugin and are up to date, unlike the management API,
//! which lags by seconds.

use super::declare::{DeclareError, declare};
use super::receipt::Desk;
use super::topology::{Step, Topology};
use super::traffic::Traffic;
use crate::metrics::SharedQueue;
use crate::queue::Served;
use crate::wire::{NumberId, Priority};
use futures_util::FutureExt;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Channel, Connection};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// Every lane is asked once in this time, spread over it.
const ROUND: Duration = Duration::from_secs(10);

/// But no more than 50 lanes a second, each of two queues: with a thousand that wait, a round takes 20 s,
/// and counting does not cost what sending does.
const APART: Duration = Duration::from_millis(20);

/// A thousand lanes are asked in turns: between them no shorter pause is worth a timer.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);

/// What all lanes share, watched.
pub(super) struct Shared {
    pub(super) topology: Arc<Topology>,
    /// Make again what is gone; else the epoch must end.
    pub(super) create: bool,
    /// A job found no queue behind a wait exchange: its queue or its binding is gone.
    pub(super) astray: Arc<Notify>,
    /// Told what is ready in each lane.
    pub(super) served: Served,
}

impl Shared {
    /// Looks once. The error is the reason to end the epoch.
    async fn look(&self, connection: &Connection) -> Result<(), String> {
        let queues = Topology { queues: self.topology.queues.clone(), ..Topology::default() };
        let astray = self.astray.notified().now_or_never().is_some();
        let reason = match declare(connection, &queues, false).await {
            Err(DeclareError::Missing(gone)) => {
                format!("gone from the broker: {}", gone.join(", "))
            }
            // No declaration shows whether a binding is there.
            _ if self.create && astray => "a wait exchange has no binding".to_owned(),
            _ => return Ok(()),
        };
        tracing::warn!(reason, "somebody deleted what all lanes share");
        // In place: an epoch's end would void all that is in hand.
        match self.create && declare(connection, &self.topology, true).await.is_ok() {
            true => Ok(()),
            false => Err(reason),
        }
    }
}

/// Asks as long as the connection stands, and returns the reason when the epoch must end.
pub(super) async fn watch_queues(
    connection: &Connection,
    desk: &Desk,
    shared: &Shared,
    lanes: watch::Receiver<BTreeMap<NumberId, Traffic>>,
) -> String {
    let mut channel = None;
    // Lanes in which something waited when the broker was asked last.
    let mut waiting = BTreeSet::new();
    let mut pauses = Duration::ZERO;
    loop {
        if let Err(reason) = shared.look(connection).await {
            return reason;
        }
        count_shared(connection, &mut channel, desk).await;
        let round = lanes.borrow().clone();
        let share = u32::try_from(round.len()).unwrap_or(u32::MAX).max(1);
        waiting.retain(|number| round.contains_key(number));
        for (number, traffic) in &round {
            // Where something waited it may wait still; where nothing can, nobody is asked.
            if traffic.may_wait() || waiting.contains(number) {
                let mut some = false;
                for priority in [Priority::Normal, Priority::Urgent] {
                    let name = desk.names.lane(number, priority);
                    if let Some(jobs) = depth(connection, &mut channel, &name).await {
                        some |= jobs > 0;
                        // It may have gone elsewhere meanwhile, and is another worker's to show.
                        if lanes.borrow().contains_key(number) {
                            desk.metrics.lane_ready(number, priority, jobs);
                            shared.served.counted(number, priority, jobs);
                        }
                    }
                }
                match some {
                    true => waiting.insert(number.clone()),
                    false => waiting.remove(number),
                };
            }
            pauses += (ROUND / share).max(APART);
            if pauses >= SHORTEST_PAUSE {
                tokio::time::sleep(std::mem::take(&mut pauses)).await;
            }
        }
        if round.is_empty() {
            tokio::time::sleep(ROUND).await;
        }
    }
}

/// What is ready in the queues that all lanes share.
async fn count_shared(connection: &Connection, channel: &mut Option<Channel>, desk: &Desk) {
    let names = &desk.names;
    let all = [
        (SharedQueue::DeadLetters, vec![names.dead_letters()]),
        (SharedQueue::Unrouted, vec![names.unrouted()]),
        (SharedQueue::Results, vec![names.results()]),
        (SharedQueue::Wait, Step::ALL.map(|step| names.wait(step)).to_vec()),
    ];
    for (queue, names) in all {
        let mut ready = 0;
        for name in &names {
            let Some(messages) = depth(connection, channel, name).await else { return };
            ready += u64::from(messages);
        }
        desk.metrics.queue_ready(queue, ready);
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
