//! Which numbers' lanes are this worker's, how much is ready in each, and how many workers share them all, as
//! the hall needs it. The queue fills it in.

use crate::wire::{NumberId, Priority};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use tokio::sync::watch;

/// What this worker serves now; clones are the same. Bounded by the lanes there are.
#[derive(Debug, Clone, Default)]
pub struct Served(watch::Sender<Option<Share>>);

/// One worker's part.
#[derive(Debug)]
struct Share {
    numbers: BTreeSet<NumberId>,
    /// Of those that were counted.
    ready: HashMap<NumberId, Ready>,
    workers: usize,
}

/// Jobs ready in the two queues of a lane, not yet with a worker, when they were counted last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ready {
    /// In the urgent one.
    pub urgent: u32,
    /// In the normal one.
    pub normal: u32,
}

impl Served {
    /// These numbers and no others, of those that so many workers share, this one included.
    pub fn replace(&self, numbers: BTreeSet<NumberId>, workers: usize) {
        self.0.send_modify(|share| {
            let mut ready = share.take().map(|share| share.ready).unwrap_or_default();
            ready.retain(|number, _| numbers.contains(number));
            *share = Some(Share { numbers, ready, workers });
        });
    }

    /// So many jobs are ready in one queue of a lane. Nothing is kept where it is not one of them.
    pub fn counted(&self, number: &NumberId, priority: Priority, jobs: u32) {
        // Nobody waits for a count.
        self.0.send_if_modified(|share| {
            if let Some(share) = share.as_mut().filter(|share| share.numbers.contains(number)) {
                let ready = share.ready.entry(number.clone()).or_default();
                match priority {
                    Priority::Urgent => ready.urgent = jobs,
                    Priority::Normal => ready.normal = jobs,
                }
            }
            false
        });
    }

    /// What is ready of a number; none where it was not counted.
    pub fn ready(&self, number: &NumberId) -> Option<Ready> {
        self.0.borrow().as_ref().and_then(|share| share.ready.get(number).copied())
    }

    /// Whether it is one of them. All are, where the queue shares its numbers with nobody.
    pub fn has(&self, number: &NumberId) -> bool {
        self.0.borrow().as_ref().is_none_or(|share| share.numbers.contains(number))
    }

    /// All of them, where that is known.
    pub fn numbers(&self) -> BTreeSet<NumberId> {
        self.0.borrow().as_ref().map(|share| share.numbers.clone()).unwrap_or_default()
    }

    /// How many workers there are, now and with each change until nobody can change it any more.
    pub fn workers(&self) -> Workers {
        let mut share = self.0.subscribe();
        share.mark_changed();
        Workers(share)
    }
}

/// How many workers share all numbers, as it changes.
pub struct Workers(watch::Receiver<Option<Share>>);

impl Workers {
    /// The next count, which may be the same; the first comes at once.
    pub async fn next(&mut self) -> Option<usize> {
        self.0.changed().await.ok()?;
        Some(self.0.borrow_and_update().as_ref().map_or(1, |share| share.workers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn what_is_ready_is_known_as_long_as_the_number_is_served_and_wakes_nobody() {
        let number = NumberId::parse("1").unwrap();
        let served = Served::default();
        served.counted(&number, Priority::Normal, 9);
        assert_eq!(served.ready(&number), None, "nobody said that it is served");
        let ours = || BTreeSet::from([number.clone()]);
        served.replace(ours(), 1);
        let mut watching = served.workers();
        assert_eq!(watching.next().now_or_never(), Some(Some(1)));
        served.counted(&number, Priority::Normal, 7);
        served.counted(&number, Priority::Urgent, 2);
        assert_eq!(watching.next().now_or_never(), None);
        served.replace(ours(), 2);
        assert_eq!(served.ready(&number), Some(Ready { urgent: 2, normal: 7 }));
        served.replace(BTreeSet::new(), 2);
        served.replace(ours(), 2);
        assert_eq!(served.ready(&number), None);
    }
}
