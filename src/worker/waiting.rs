//! Jobs that are ready and wait for their number's turn, by rank. Knows no time and no pace.

use std::collections::VecDeque;
use tokio::sync::oneshot;

/// Who goes before whom within a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rank {
    /// Urgent, for the first time.
    Urgent,
    /// Back from a wait after an attempt.
    Returned,
    /// All others.
    Normal,
}

/// Who waits for a `T`. Bounded by the jobs held.
#[derive(Debug)]
pub(super) struct Waiting<T> {
    urgent: VecDeque<oneshot::Sender<T>>,
    returned: VecDeque<oneshot::Sender<T>>,
    normal: VecDeque<oneshot::Sender<T>>,
}

impl<T> Default for Waiting<T> {
    fn default() -> Waiting<T> {
        let [urgent, returned, normal] = [const { VecDeque::new() }; 3];
        Waiting { urgent, returned, normal }
    }
}

impl<T> Waiting<T> {
    /// Takes the last place of a rank.
    pub(super) fn join(&mut self, rank: Rank) -> oneshot::Receiver<T> {
        let (call, turn) = oneshot::channel();
        let line = match rank {
            Rank::Urgent => &mut self.urgent,
            Rank::Returned => &mut self.returned,
            Rank::Normal => &mut self.normal,
        };
        line.push_back(call);
        turn
    }

    /// The next one that still waits.
    pub(super) fn pop(&mut self) -> Option<oneshot::Sender<T>> {
        self.drop_leavers();
        self.lines().into_iter().find_map(VecDeque::pop_front)
    }

    pub(super) fn is_empty(&mut self) -> bool {
        self.drop_leavers();
        self.lines().into_iter().all(|line| line.is_empty())
    }

    /// Whoever has given up waiting leaves when he comes to the front, so that nothing is searched.
    fn drop_leavers(&mut self) {
        for line in self.lines() {
            while line.front().is_some_and(oneshot::Sender::is_closed) {
                line.pop_front();
            }
        }
    }

    /// In the order of ranks.
    fn lines(&mut self) -> [&mut VecDeque<oneshot::Sender<T>>; 3] {
        [&mut self.urgent, &mut self.returned, &mut self.normal]
    }
}
