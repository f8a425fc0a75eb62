//! How many jobs wait in each lane and in the queues that all share, by asking the broker, and whether
//! those are still there. Passive declarations need no plugin and are up to date, unlike the management API,
//! which lags by seconds.

use super::declare::declare;
use super::names::Names;
use super::reason::soft;
use super::receipt::Desk;
use super::topology::{Step, Topology};
use super::traffic::Traffic;
use crate::metrics::SharedQueue;
use crate::queue::Served;
use crate::wire::{NumberId, Priority};
use futures_util::FutureExt;
use lapin::options::QueueDeclareOptions;
use lapin::protocol::AMQPSoftError;
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

/// What is ready in each queue by its name; none of one that is missing.
type Counts = BTreeMap<String, Option<u32>>;

impl Shared {
    /// Looks once. Nothing where the connection went meanwhile.
    async fn look(&self, connection: &Connection, channel: &mut Option<Channel>) -> Counts {
        let mut counts = Counts::new();
        for queue in &self.topology.queues {
            match depth(connection, channel, &queue.name).await {
                Ok(ready) => counts.insert(queue.name.clone(), ready),
                Err(_) => return Counts::new(),
            };
        }
        counts
    }

    /// Makes again what is missing. The error is the reason to end the epoch.
    async fn mend(&self, connection: &Connection, counts: &Counts) -> Result<(), String> {
        let astray = self.astray.notified().now_or_never().is_some();
        let missing = counts.iter().filter(|(_, ready)| ready.is_none());
        let gone: Vec<String> = missing.map(|(name, _)| format!("queue {name}")).collect();
        let reason = match gone.is_empty() {
            false => format!("gone from the broker: {}", gone.join(", ")),
            // No declaration shows whether a binding is there.
            true if self.create && astray => "a wait exchange has no binding".to_owned(),
            true => return Ok(()),
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
        let counts = shared.look(connection, &mut channel).await;
        for (queue, ready) in ready(&desk.names, &counts) {
            desk.metrics.queue_ready(queue, ready);
        }
        if let Err(reason) = shared.mend(connection, &counts).await {
            return reason;
        }
        let round = lanes.borrow().clone();
        let share = u32::try_from(round.len()).unwrap_or(u32::MAX).max(1);
        waiting.retain(|number| round.contains_key(number));
        for (number, traffic) in &round {
            // Where something waited it may wait still; where nothing can, nobody is asked.
            if traffic.may_wait() || waiting.contains(number) {
                let mut some = false;
                for priority in [Priority::Normal, Priority::Urgent] {
                    let name = desk.names.lane(number, priority);
                    if let Ok(Some(jobs)) = depth(connection, &mut channel, &name).await {
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

/// What is ready in the queues that all lanes share; none where one of them is missing or was not asked.
fn ready(names: &Names, counts: &Counts) -> [(SharedQueue, Option<u64>); 4] {
    let count = |name: String| counts.get(&name).copied().flatten().map(u64::from);
    [
        (SharedQueue::DeadLetters, count(names.dead_letters())),
        (SharedQueue::Unrouted, count(names.unrouted())),
        (SharedQueue::Results, count(names.results())),
        (SharedQueue::Wait, Step::ALL.into_iter().map(|step| count(names.wait(step))).sum()),
    ]
}

/// The ready jobs of a queue; none where it is missing, which costs the channel.
async fn depth(
    connection: &Connection,
    channel: &mut Option<Channel>,
    queue: &str,
) -> lapin::Result<Option<u32>> {
    let open = match channel.take() {
        Some(channel) => channel,
        None => connection.create_channel().await?,
    };
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    match open.queue_declare(queue.into(), options, FieldTable::default()).await {
        Ok(declared) => {
            *channel = Some(open);
            Ok(Some(declared.message_count()))
        }
        Err(error) if soft(&error) == Some(&AMQPSoftError::NOTFOUND) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_not_counted_and_all_else_is() {
        let names = Names::new("chakra");
        let mut counts: Counts = Step::ALL.map(|step| (names.wait(step), Some(2))).into();
        counts.extend([(names.dead_letters(), None), (names.results(), Some(7))]);
        let shown = |counts: &Counts| ready(&names, counts).map(|(_, ready)| ready);
        let waiting = 2 * Step::ALL.len() as u64;
        assert_eq!(shown(&counts), [None, None, Some(7), Some(waiting)]);
        counts.insert(names.wait(Step::Second), None);
        assert_eq!(shown(&counts)[3], None, "a sum without one of them would be another");
        assert_eq!(shown(&Counts::new()), [None; 4]);
    }
}
