//! The lanes that this worker consumes on one connection: opening and leaving them, and how much each may
//! hold. Which lanes those are to be is `assignment`'s to say.

use super::inbox::Inbox;
use super::lane::{LaneState, LaneTask, Orders};
use super::topology::Topology;
use super::traffic::Traffic;
use crate::wire::NumberId;
use lapin::Connection;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

/// Lanes opened at once: a thousand open in seconds, and the broker's other work goes on.
const OPENING_AT_ONCE: usize = 16;

/// Each queue of a lane has at least so many deliveries in hand where it can use them: with fewer it
/// would not keep its pace.
const MIN_PREFETCH: u16 = 4;

/// A lane has an urgent and a normal queue, each with its own prefetch.
const QUEUES: usize = 2;

/// A lane is opened anew when its part is so many times more or less than what it was opened with: a
/// prefetch is fixed when subscribing, and opening anew costs a lane a tenth of a second.
const RESIZE_FACTOR: u16 = 2;

/// How much lanes may hold, so that all together stay within `worker.max_held`: each a part in proportion to
/// what it could use. Half of it is given away, since a lane keeps up to [`RESIZE_FACTOR`] times its part
/// while others come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts {
    wanted: usize,
    to_give: usize,
}

impl Parts {
    /// Among lanes that could use so many deliveries of each of their queues.
    pub(super) fn among(wanted: impl Iterator<Item = u16>, max_held: usize) -> Parts {
        let wanted = wanted.map(usize::from).sum();
        Parts { wanted, to_give: max_held / usize::from(RESIZE_FACTOR) / QUEUES }
    }

    /// Of each queue of a lane that could use so many: never too little.
    fn of(self, wanted: u16) -> u16 {
        let part = usize::from(wanted).saturating_mul(self.to_give) / self.wanted.max(1);
        wanted.min(u16::try_from(part).unwrap_or(u16::MAX).max(MIN_PREFETCH))
    }
}

/// The lanes of one connection.
pub(super) struct Opened {
    connection: Arc<Connection>,
    stop: CancellationToken,
    close: CancellationToken,
    opening: Arc<Semaphore>,
    lanes: HashMap<NumberId, OpenLane>,
    /// Those that were left, while something is in hand of them.
    left: Vec<(NumberId, watch::Receiver<LaneState>)>,
}

struct OpenLane {
    stop: CancellationToken,
    leave: CancellationToken,
    state: watch::Receiver<LaneState>,
    /// What it got of each queue.
    prefetch: u16,
}

impl Opened {
    pub(super) fn new(
        connection: &Arc<Connection>,
        stop: &CancellationToken,
        close: CancellationToken,
    ) -> Opened {
        Opened {
            connection: Arc::clone(connection),
            stop: stop.clone(),
            close,
            opening: Arc::new(Semaphore::new(OPENING_AT_ONCE)),
            lanes: HashMap::new(),
            left: Vec::new(),
        }
    }

    /// Begins to consume a lane that is not open. What is returned serves it.
    pub(super) fn open(
        &mut self,
        inbox: &Inbox,
        number: &NumberId,
        traffic: Traffic,
        parts: Parts,
    ) -> Option<LaneTask> {
        let out = inbox.out.clone()?;
        let (state, watched) = watch::channel(LaneState::Opening);
        let prefetch = parts.of((inbox.prefetch)(number));
        let stop = self.stop.child_token();
        let leave = stop.child_token();
        let lane = OpenLane { stop: stop.clone(), leave: leave.clone(), state: watched, prefetch };
        self.lanes.insert(number.clone(), lane);
        Some(LaneTask {
            number: number.clone(),
            connection: Arc::clone(&self.connection),
            topology: Topology::lane(&inbox.desk.names, &inbox.settings, number),
            create: inbox.settings.declare,
            prefetch,
            tenures: inbox.tenures.clone(),
            traffic,
            desk: Arc::clone(&inbox.desk),
            out,
            orders: Orders {
                stop,
                leave,
                close: self.close.clone(),
                opening: Arc::clone(&self.opening),
            },
            state,
        })
    }

    /// Hands a lane over. What serves it ends once all that is in hand is settled.
    pub(super) fn leave(&mut self, number: &NumberId) {
        self.end(number, |lane| &lane.leave);
    }

    /// Leaves a lane that is to stand: nothing more of it begins.
    pub(super) fn stand(&mut self, number: &NumberId) {
        self.end(number, |lane| &lane.stop);
    }

    fn end(&mut self, number: &NumberId, how: impl Fn(&OpenLane) -> &CancellationToken) {
        if let Some(lane) = self.lanes.remove(number) {
            how(&lane).cancel();
            self.left.retain(|(_, state)| state.has_changed().is_ok());
            self.left.push((number.clone(), lane.state));
        }
    }

    /// Comes once all is settled that was in hand of a lane which was left.
    pub(super) fn settled(&self, number: &NumberId) -> impl Future<Output = ()> + use<> {
        let left = self.left.iter().filter(|(left, _)| left == number);
        let states: Vec<_> = left.map(|(_, state)| state.clone()).collect();
        async move {
            for mut state in states {
                // It ends with who serves the lane.
                while state.changed().await.is_ok() {}
            }
        }
    }

    /// Whether it is open, or is being opened.
    pub(super) fn has(&self, number: &NumberId) -> bool {
        self.lanes.contains_key(number)
    }

    /// Comes when a lane that is open here, or being opened, is consumed; none where it goes elsewhere first.
    pub(super) fn when_open(
        &self,
        number: &NumberId,
    ) -> Option<impl Future<Output = Option<()>> + use<>> {
        let mut state = self.lanes.get(number)?.state.clone();
        Some(async move {
            state.wait_for(|state| *state == LaneState::Open).await.ok()?;
            Some(())
        })
    }

    /// Those that are open or being opened.
    pub(super) fn numbers(&self) -> impl Iterator<Item = &NumberId> {
        self.lanes.keys()
    }

    /// Whether its prefetch no longer fits its pace, or its part among the lanes of now.
    pub(super) fn is_outgrown(&self, inbox: &Inbox, number: &NumberId, parts: Parts) -> bool {
        self.lanes
            .get(number)
            .is_some_and(|lane| is_far_from(parts.of((inbox.prefetch)(number)), lane.prefetch))
    }

    /// Waits until each lane is open, or could not be opened at the first try.
    pub(super) async fn all_tried(&mut self) {
        for lane in self.lanes.values_mut() {
            // One whose queues cannot be worked with has ended.
            let _ended = lane.state.wait_for(|state| *state != LaneState::Opening).await;
        }
    }
}

/// Whether one prefetch is no longer good enough for the other. All below the least are alike.
fn is_far_from(now: u16, then: u16) -> bool {
    let (now, then) = (now.max(MIN_PREFETCH), then.max(MIN_PREFETCH));
    now >= then.saturating_mul(RESIZE_FACTOR) || then >= now.saturating_mul(RESIZE_FACTOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_gets_what_it_can_use_or_its_part_and_never_too_little() {
        for (wanted, others, max_held, gets) in [
            (38, 0, 20_000, 38),
            (1_000, 4_000, 20_000, 1_000),
            (1_000, 9_000, 20_000, 500),
            (100, 9_900, 20_000, 50),
            (157, 99 * 157, 20_000, 50),
            (1_000, 999_000, 20_000, 5),
            (1_000, 999_000, 2_000, 4),
            (1, 999_000, 2_000, 1),
            (1_000, 0, 1, 4),
            (u16::MAX, 0, usize::MAX, u16::MAX),
        ] {
            let others = std::iter::repeat_n(1, others);
            let parts = Parts::among(others.chain([wanted]), max_held);
            assert_eq!(parts.of(wanted), gets, "{wanted} wanted of {max_held}");
        }
    }

    /// Lanes that keep what they got while others come are opened anew before there is too much of it.
    #[test]
    fn all_lanes_together_hold_no_more_than_they_may_but_for_the_least_of_each() {
        let (max_held, wanted) = (2_000, 1_000);
        let mut lanes: Vec<u16> = Vec::new();
        for count in 1..=500 {
            let parts = Parts::among(std::iter::repeat_n(wanted, count), max_held);
            lanes.push(parts.of(wanted));
            for lane in &mut lanes {
                if is_far_from(parts.of(wanted), *lane) {
                    *lane = parts.of(wanted);
                }
            }
            let given: usize = lanes.iter().map(|lane| QUEUES * usize::from(*lane)).sum();
            assert!(given <= max_held + count * QUEUES * usize::from(MIN_PREFETCH), "{given}");
        }
    }
}
