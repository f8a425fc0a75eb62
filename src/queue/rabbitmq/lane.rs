//! Consuming one lane: its two queues on one channel, urgent ones first. Subscribes again when the
//! broker ends the subscription; until then nothing that was held is ours any more.

use super::connection::{CLOSED_NORMALLY, LONGEST_PAUSE, Pauses};
use super::declare::{DeclareError, declare};
use super::decode::{Decoded, Original};
use super::headers;
use super::hold::{HEEDED, Hold, Leaving, Unacknowledged};
use super::reason::explain;
use super::receipt::{Desk, Message, RabbitReceipt};
use super::suspect::decode_carefully;
use super::tenures::Tenures;
use super::topology::Topology;
use super::traffic::Traffic;
use crate::clock;
use crate::queue::{Incoming, Tenure};
use crate::wire::{NumberId, Priority};
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Consumer};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

/// After so long without a delivery, while nothing is acknowledged, nothing is on its way.
const QUIET: Duration = Duration::from_millis(100);

/// Going quiet takes no longer than this.
const QUIET_AT_MOST: Duration = Duration::from_secs(1);

/// What a lane's task is told.
#[derive(Clone)]
pub(super) struct Orders {
    /// The process stops, or the lane is to stand: what has not begun goes back at once.
    pub(super) stop: CancellationToken,
    /// The lane is another worker's: take no more, cancel, hand on what has come, keep the channel until it is
    /// settled. Comes with `stop` too.
    pub(super) leave: CancellationToken,
    /// Nothing more will be settled: close the channel.
    pub(super) close: CancellationToken,
    /// Lanes that are opened at once.
    pub(super) opening: Arc<Semaphore>,
}

/// How far a lane is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LaneState {
    /// Not yet.
    Opening,
    /// Its queues stand and are consumed.
    Open,
    /// It could not be opened, or was lost; it is tried again.
    Down,
}

/// One lane's consumer.
pub(super) struct LaneTask {
    pub(super) number: NumberId,
    pub(super) connection: Arc<Connection>,
    pub(super) topology: Topology,
    pub(super) create: bool,
    pub(super) prefetch: u16,
    pub(super) tenures: Tenures,
    pub(super) traffic: Traffic,
    pub(super) desk: Arc<Desk>,
    pub(super) out: mpsc::Sender<Incoming<RabbitReceipt>>,
    pub(super) orders: Orders,
    pub(super) state: watch::Sender<LaneState>,
}

/// The two consumers of a lane, and the time for which they are ours.
struct Subscription {
    channel: Arc<Channel>,
    urgent: Consumer,
    normal: Consumer,
    leaving: Leaving,
    tenure: Tenure,
    ends: EndsWith,
}

/// However a subscription ends: the broker has given back what was held by then, so none of it waits for
/// a turn any longer.
struct EndsWith {
    hold: Weak<Hold>,
    /// Ends the tenure, also by itself when it is time to give back what has not begun.
    over: CancellationToken,
}

impl EndsWith {
    fn end(&self) {
        if let Some(hold) = self.hold.upgrade() {
            hold.end();
        }
        self.over.cancel();
    }
}

impl Drop for EndsWith {
    fn drop(&mut self) {
        self.end();
    }
}

/// What deliveries of one subscription have in common.
struct Claim<'a> {
    hold: &'a Arc<Hold>,
    tenure: &'a Tenure,
}

/// What came by a subscription; none where a consumer ended.
type Came = (Option<lapin::Result<Delivery>>, Priority);

impl Subscription {
    fn claim<'a>(&'a self, hold: &'a Arc<Hold>) -> Claim<'a> {
        Claim { hold, tenure: &self.tenure }
    }

    /// The next that comes, urgent ones first. Cancelled, it loses none.
    async fn next(&mut self) -> Came {
        tokio::select! {
            biased;
            delivery = self.urgent.next() => (delivery, Priority::Urgent),
            delivery = self.normal.next() => (delivery, Priority::Normal),
        }
    }
}

impl LaneTask {
    /// Serves the lane until it is told to stop or its connection is gone. Returns why its queues
    /// cannot be worked with, if so.
    pub(super) async fn run(self) -> Option<String> {
        let mut pauses = Pauses::default();
        while self.connection.status().connected() && !self.orders.leave.is_cancelled() {
            let reason = match self.subscribe().await {
                Ok((mut subscription, hold)) => {
                    let began = clock::monotonic();
                    self.traffic.consumed(&hold, self.prefetch);
                    let lost = self.serve(&mut subscription, &hold).await;
                    self.traffic.left();
                    if began.elapsed() >= LONGEST_PAUSE {
                        pauses.reset();
                    }
                    let Some(reason) = lost else {
                        self.hand_over(subscription, hold).await;
                        return None;
                    };
                    // At once: the broker may have given it to somebody before it told us.
                    hold.end();
                    // Gone already, as a rule; if not, the broker takes back what we hold.
                    let _gone = subscription.channel.close(CLOSED_NORMALLY, "lost".into()).await;
                    reason
                }
                Err(DeclareError::Unfit(reason)) => return Some(reason),
                Err(error @ (DeclareError::Interrupted(_) | DeclareError::Missing(_))) => {
                    error.to_string()
                }
            };
            self.state.send_replace(LaneState::Down);
            tracing::warn!(number = %self.number, %reason, "not consuming this lane");
            let pause = tokio::time::sleep(pauses.next(fastrand::f64()));
            let _left = self.orders.leave.run_until_cancelled(pause).await;
        }
        None
    }

    async fn subscribe(&self) -> Result<(Subscription, Arc<Hold>), DeclareError> {
        // Never closed: it lives as long as its lanes.
        let _turn = self.orders.opening.acquire().await;
        declare(&self.connection, &self.topology, self.create).await?;
        let subscribed = self.consume().await;
        let subscription =
            subscribed.map_err(|error| DeclareError::Interrupted(explain(&error)))?;
        self.state.send_replace(LaneState::Open);
        Ok(subscription)
    }

    async fn consume(&self) -> lapin::Result<(Subscription, Arc<Hold>)> {
        let channel = Arc::new(self.connection.create_channel().await?);
        // For each consumer, and fixed from here on: a later one has no effect.
        channel.basic_qos(self.prefetch, BasicQosOptions { global: false }).await?;
        let consume = async |priority| {
            let queue = self.desk.names.lane(&self.number, priority);
            let options = BasicConsumeOptions::default();
            channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await
        };
        // First: what comes after a standstill is ours, what came before it is not.
        let (hold, way_out) = Hold::new(&self.desk.fence, self.prefetch.saturating_mul(2));
        let leaving = way_out.by(&channel);
        let over = self.orders.stop.child_token();
        let tenure = self.tenures.begin(over.clone());
        let urgent = consume(Priority::Urgent).await?;
        let normal = consume(Priority::Normal).await?;
        let ends = EndsWith { hold: Arc::downgrade(&hold), over };
        Ok((Subscription { channel, urgent, normal, leaving, tenure, ends }, hold))
    }

    /// Hands deliveries on. Returns why the subscription was lost; none when told to stop.
    async fn serve(&self, subscription: &mut Subscription, hold: &Arc<Hold>) -> Option<String> {
        loop {
            let came = tokio::select! {
                biased;
                () = self.orders.leave.cancelled() => return None,
                came = subscription.next() => came,
            };
            if let Err(lost) = self.take(came, &subscription.claim(hold)).await {
                return Some(lost);
            }
        }
    }

    async fn take(&self, (came, priority): Came, claim: &Claim<'_>) -> Result<(), String> {
        match came {
            Some(Ok(delivery)) => self.hand_on(delivery, priority, claim).await,
            Some(Err(error)) => return Err(explain(&error)),
            // Without our doing: the queue was deleted, or is to be consumed elsewhere.
            None => return Err("the broker cancelled the subscription".into()),
        }
        Ok(())
    }

    async fn hand_on(&self, mut delivery: Delivery, priority: Priority, claim: &Claim<'_>) {
        let original = Original::take(&mut delivery);
        let earlier = headers::earlier_deliveries(&original.properties, delivery.redelivered);
        let way = (&self.number, priority);
        let Decoded { job, travel, priority_disagrees } =
            decode_carefully(&self.desk.touch, &original, way, earlier).await;
        if priority_disagrees {
            self.desk.metrics.priority_disagreed(&self.number);
        }
        let lane = Some((self.number.clone(), priority));
        let (history, waited_for) = (travel.history.clone(), travel.waited_for);
        let message = Message { original, travel, lane };
        let unacknowledged = Unacknowledged::new(&delivery);
        let (hold, desk) = (Arc::clone(claim.hold), Arc::clone(&self.desk));
        let receipt = RabbitReceipt::new(unacknowledged, hold, message, desk);
        self.traffic.delivered();
        // Nobody takes jobs any more: dropped, it goes back.
        let Ok(place) = self.out.reserve().await else { return };
        let lane = Some(self.number.clone());
        let token = self.desk.metrics.received(lane.as_ref(), priority);
        let tenure = claim.tenure.clone();
        place.send(Incoming {
            lane,
            job,
            history,
            waited_for,
            priority,
            earlier,
            tenure,
            receipt,
            token,
        });
    }

    /// Cancels, has what has not begun given back, and keeps the channel until all of it is settled.
    ///
    /// What is on its way when a consumer is cancelled finds nobody and is delivered again later. So
    /// nothing is acknowledged for a moment: the prefetch fills up, the broker stops delivering, and
    /// once it is quiet nothing is on its way. Until then the lane goes on, unless it is to stop at once.
    async fn hand_over(self, mut subscription: Subscription, hold: Arc<Hold>) {
        hold.let_go(false);
        let until = clock::monotonic() + QUIET_AT_MOST;
        while clock::monotonic() < until {
            let Ok(came) = tokio::time::timeout(QUIET, subscription.next()).await else { break };
            if self.take(came, &subscription.claim(&hold)).await.is_err() {
                // What has not begun must not go round as a second copy.
                hold.end();
                break;
            }
        }
        subscription.ends.over.cancel();
        let Subscription { channel, urgent, normal, tenure, .. } = &mut subscription;
        let claim = Claim { hold: &hold, tenure };
        for consumer in [&*urgent, &*normal] {
            let cancelled =
                channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await;
            if let Err(error) = cancelled {
                tracing::debug!(number = %self.number, reason = %explain(&error), "not cancelled");
            }
        }
        for (consumer, priority) in [(urgent, Priority::Urgent), (normal, Priority::Normal)] {
            while let Some(Ok(delivery)) = consumer.next().await {
                self.hand_on(delivery, priority, &claim).await;
            }
        }
        hold.let_go(true);
        // No more jobs come from this lane. Who waits for all that is in hand waits for `state` to end.
        let LaneTask { out, orders, state, .. } = self;
        drop(out);
        state.send_replace(LaneState::Down);
        settle(&orders, &mut subscription, hold).await;
        drop(state);
        let _gone = subscription.channel.close(CLOSED_NORMALLY, "done".into()).await;
    }
}

/// Waits until each delivery of a lane that was left is settled, or until none will be any more.
async fn settle(orders: &Orders, subscription: &mut Subscription, hold: Arc<Hold>) {
    // From here on only receipts keep it: with the last one `leaving` ends.
    drop(hold);
    let Subscription { leaving, ends, .. } = subscription;
    let ended = orders.close.run_until_cancelled(leaving.ended()).await;
    let was_acknowledged = match ended {
        Some(was_acknowledged) => was_acknowledged,
        None => {
            ends.end();
            leaving.ended().await
        }
    };
    if was_acknowledged {
        tokio::time::sleep(HEEDED).await;
    }
}
