//! Which numbers' lanes are this worker's, and how many workers share them all, as the hall needs it. The
//! queue fills it in.

use crate::wire::NumberId;
use std::collections::BTreeSet;
use tokio::sync::watch;

/// What this worker serves now; clones are the same. Bounded by the lanes there are.
#[derive(Debug, Clone, Default)]
pub struct Served(watch::Sender<Option<Share>>);

/// One worker's part.
#[derive(Debug)]
struct Share {
    numbers: BTreeSet<NumberId>,
    workers: usize,
}

impl Served {
    /// These numbers and no others, of those that so many workers share, this one included.
    pub fn replace(&self, numbers: BTreeSet<NumberId>, workers: usize) {
        self.0.send_replace(Some(Share { numbers, workers }));
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
