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

/// A lane is opened anew when it could use so many times more or less than what it was opened with: a
/// prefetch is fixed when subscribing, and opening anew costs a lane a tenth of a second.
const RESIZE_FACTOR: u16 = 2;

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
    leave: CancellationToken,
    state: watch::Receiver<LaneState>,
    /// What it could use when it was opened.
    wanted: u16,
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
    ) -> Option<LaneTask> {
        let out = inbox.out.clone()?;
        let (state, watched) = watch::channel(LaneState::Opening);
        let wanted = (inbox.prefetch)(number);
        let prefetch = share(wanted, inbox.max_held, self.given());
        let leave = self.stop.child_token();
        let lane = OpenLane { leave: leave.clone(), state: watched, wanted, prefetch };
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
                stop: self.stop.clone(),
                leave,
                close: self.close.clone(),
                opening: Arc::clone(&self.opening),
            },
            state,
        })
    }

    /// Hands a lane over. What serves it ends once all that is in hand is settled.
    pub(super) fn leave(&mut self, number: &NumberId) {
        if let Some(lane) = self.lanes.remove(number) {
            lane.leave.cancel();
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

    /// Whether its prefetch no longer fits its pace.
    pub(super) fn is_outgrown(&self, inbox: &Inbox, number: &NumberId) -> bool {
        self.lanes.get(number).is_some_and(|lane| {
            let now = (inbox.prefetch)(number).max(MIN_PREFETCH);
            let then = lane.wanted.max(MIN_PREFETCH);
            now >= then.saturating_mul(RESIZE_FACTOR) || then >= now.saturating_mul(RESIZE_FACTOR)
        })
    }

    /// Waits until each lane is open, or could not be opened at the first try.
    pub(super) async fn all_tried(&mut self) {
        for lane in self.lanes.values_mut() {
            // One whose queues cannot be worked with has ended.
            let _ended = lane.state.wait_for(|state| *state != LaneState::Opening).await;
        }
    }

    fn given(&self) -> usize {
        self.lanes.values().map(|lane| QUEUES * usize::from(lane.prefetch)).sum()
    }
}

/// The prefetch of each queue of a new lane: what it could use, but no more than a quarter of what is
/// left of `max_held` when `given` is given away. Prefetches are fixed when subscribing, and lanes
/// come later: half of the rest stays for them. Beyond `max_held` each lane gets the least.
fn share(wanted: u16, max_held: usize, given: usize) -> u16 {
    let quarter = max_held.saturating_sub(given) / (2 * QUEUES);
    wanted.min(u16::try_from(quarter).unwrap_or(u16::MAX).max(MIN_PREFETCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_gets_what_it_can_use_up_to_half_of_what_is_left_and_never_too_little() {
        for (wanted, max_held, given, gets) in [
            (38, 20_000, 0, 38),
            (1_000, 20_000, 0, 1_000),
            (1_000, 2_000, 0, 500),
            (1_000, 2_000, 1_000, 250),
            (1_000, 2_000, 1_990, 4),
            (1_000, 2_000, 2_000, 4),
            (1_000, 2_000, 9_000, 4),
            (1_000, 1, 0, 4),
            (1, 2_000, 0, 1),
            (u16::MAX, usize::MAX, 0, u16::MAX),
        ] {
            let got = share(wanted, max_held, given);
            assert_eq!(got, gets, "wanted {wanted} of {max_held}, {given} given");
        }
    }

    #[test]
    fn all_lanes_together_hold_no_more_than_they_may_but_for_the_least_of_each() {
        let (max_held, lanes) = (2_000, 500);
        let given = (0..lanes)
            .fold(0, |given, _| given + QUEUES * usize::from(share(1_000, max_held, given)));
        assert!(given <= max_held + lanes * QUEUES * usize::from(MIN_PREFETCH), "{given}");
    }
}
