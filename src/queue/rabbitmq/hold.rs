//! One subscription's hold on its deliveries, and the one task by which they leave it: acknowledged, several
//! with one frame, or given back.
//!
//! Each acknowledgement is a frame, a command to a quorum queue, and what that delivers in exchange. One by one
//! the broker took 136 us a job, in groups 108, and the worker 128 and 118 (16 lanes, RabbitMQ 3.10, in turns).

use super::fence::{Fence, Generation};
use super::reason::explain;
use super::tags::{Frame, Tags};
use crate::clock;
use futures_util::future::try_join_all;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicNackOptions};
use lapin::types::DeliveryTag;
use lapin::{Acker, Channel};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::sleep_until;
use tokio_util::future::FutureExt;
use tokio_util::sync::CancellationToken;

/// After an acknowledgement the next one waits so long for others; one alone goes at once. A worker that is
/// killed leaves so much more that is done and comes again. 20 ms were no better for 16 lanes, and worse for one:
/// its deliveries came in gusts.
const GATHER: Duration = Duration::from_millis(5);

/// Where fewer may be in hand none waits for others: the broker would deliver nothing meanwhile.
const FEW: usize = 64;

/// A busy quorum queue takes acknowledgements in batches, and forgets those that it has not taken
/// when their channel closes (RabbitMQ 3.10): a job that was sent would be delivered again.
pub(super) const HEEDED: Duration = Duration::from_millis(500);

/// One subscription's hold on its deliveries.
#[derive(Debug)]
pub(super) struct Hold {
    /// Cancelled when the broker has given every delivery back.
    over: CancellationToken,
    /// What came before this process last stood still is not ours, whatever the broker says.
    fence: (Fence, Generation),
    /// Whether deliveries leave right now.
    letting_go: watch::Sender<bool>,
    through: mpsc::Sender<Through>,
}

/// A delivery that is no longer in hand.
#[derive(Debug)]
enum Through {
    /// It is to be acknowledged, and somebody told when that is written.
    Done(DeliveryTag, oneshot::Sender<()>),
    /// Dropped unsettled, it is to come again.
    Dropped(DeliveryTag),
}

impl Hold {
    /// A hold that begins now, and how deliveries leave it. `most` is the greatest number of deliveries
    /// in hand.
    pub(super) fn new(fence: &Fence, most: u16) -> (Arc<Hold>, WayOut) {
        let (through, leaving) = mpsc::channel(usize::from(most).max(1));
        let (letting_go, allowed) = watch::channel(true);
        let over = CancellationToken::new();
        let way_out = WayOut { over: over.clone(), through: leaving, allowed };
        let fence = (fence.clone(), fence.generation());
        (Arc::new(Hold { over, fence, letting_go, through }), way_out)
    }

    /// Whether the deliveries are still ours.
    pub(super) fn stands(&self) -> bool {
        let (fence, generation) = &self.fence;
        !self.over.is_cancelled() && fence.stands(*generation)
    }

    /// The broker has given every delivery back.
    pub(super) fn end(&self) {
        self.over.cancel();
    }

    /// Lets no delivery leave for now (false), so that the prefetch fills up and the broker delivers no
    /// more, or does so again (true).
    pub(super) fn let_go(&self, now: bool) {
        self.letting_go.send_replace(now);
    }

    /// Acknowledges; returns when it is written, false where the delivery was not ours any more.
    pub(super) async fn acknowledge(&self, delivery: Unacknowledged) -> bool {
        if !delivery.is_usable() {
            return false;
        }
        let (written, is_written) = oneshot::channel();
        let leaves = async {
            self.through.send(Through::Done(delivery.tag, written)).await.is_ok()
                && is_written.await.is_ok()
        };
        // Written is not heeded: where the subscription ended first, the broker has given it back.
        leaves.with_cancellation_token(&self.over).await == Some(true) && self.stands()
    }

    /// Gives a delivery back that was dropped unsettled.
    pub(super) fn give_back(&self, delivery: &Unacknowledged) {
        if self.stands() {
            // Full or closed only when the subscription is gone, and with it the delivery.
            let _gone = self.through.try_send(Through::Dropped(delivery.tag));
        }
    }
}

/// A delivery that the broker still counts as unacknowledged.
#[derive(Debug)]
pub(super) struct Unacknowledged {
    tag: DeliveryTag,
    acker: Acker,
}

impl Unacknowledged {
    pub(super) fn new(delivery: &Delivery) -> Unacknowledged {
        Unacknowledged { tag: delivery.delivery_tag, acker: delivery.acker.clone() }
    }

    /// Whether its channel stands.
    pub(super) fn is_usable(&self) -> bool {
        self.acker.usable()
    }
}

/// The way out of a hold.
pub(super) struct WayOut {
    over: CancellationToken,
    through: mpsc::Receiver<Through>,
    allowed: watch::Receiver<bool>,
}

impl WayOut {
    /// Lets deliveries of this channel leave until none is in hand and nobody has the hold any more, or until
    /// it is over; a channel that fails ends it.
    pub(super) fn by(self, channel: &Arc<Channel>) -> Leaving {
        let channel = Arc::clone(channel);
        let WayOut { over, through, allowed } = self;
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut acknowledged = false;
            let leave = leave(&channel, through, allowed, &mut acknowledged);
            // lapin 4.12.3 never answers what meets the end of its connection.
            if let Some(Err(error)) = over.run_until_cancelled(leave).await {
                tracing::debug!(reason = %explain(&error), "deliveries went with their channel");
                over.cancel();
            }
            acknowledged
        });
        Leaving(task)
    }
}

/// Deliveries are let leave while this lives.
pub(super) struct Leaving(JoinSet<bool>);

impl Leaving {
    /// Returns once all have left, or the hold is over: whether any was acknowledged.
    pub(super) async fn ended(&mut self) -> bool {
        matches!(self.0.join_next().await, Some(Ok(true)))
    }
}

async fn leave(
    channel: &Channel,
    mut through: mpsc::Receiver<Through>,
    mut allowed: watch::Receiver<bool>,
    acknowledged: &mut bool,
) -> lapin::Result<()> {
    let gather = if through.max_capacity() < FEW { Duration::ZERO } else { GATHER };
    let (mut tags, mut next) = (Tags::default(), clock::monotonic());
    while let Some(first) = through.recv().await {
        if next > clock::monotonic() {
            sleep_until(next).await;
        }
        // Its sender goes with the last who could forbid it.
        drop(allowed.wait_for(|now| *now).await);
        let mut batch = Batch::default();
        batch.add(first);
        while let Ok(another) = through.try_recv() {
            batch.add(another);
        }
        *acknowledged |= !batch.done.is_empty();
        batch.write(channel, &mut tags).await?;
        next = clock::monotonic() + gather;
    }
    Ok(())
}

/// What leaves together.
#[derive(Default)]
struct Batch {
    done: Vec<DeliveryTag>,
    dropped: Vec<DeliveryTag>,
    askers: Vec<oneshot::Sender<()>>,
}

impl Batch {
    fn add(&mut self, through: Through) {
        match through {
            Through::Done(tag, asker) => {
                self.done.push(tag);
                self.askers.push(asker);
            }
            Through::Dropped(tag) => self.dropped.push(tag),
        }
    }

    /// All of a kind at once: each waits for the client's own thread. By the channel, not by an `Acker`, which
    /// lapin 4.12.3 gives a task of its own.
    async fn write(self, channel: &Channel, tags: &mut Tags) -> lapin::Result<()> {
        let back = BasicNackOptions { requeue: true, multiple: false };
        try_join_all(self.dropped.iter().map(|tag| channel.basic_nack(*tag, back))).await?;
        for tag in self.dropped {
            tags.through(tag);
        }
        let frames = tags.acknowledge(&self.done).into_iter();
        let write = |Frame { tag, multiple }| channel.basic_ack(tag, BasicAckOptions { multiple });
        try_join_all(frames.map(write)).await?;
        for asker in self.askers {
            // Nobody waits any more where the asking task was dropped.
            let _nobody = asker.send(());
        }
        Ok(())
    }
}
