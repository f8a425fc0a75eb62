//! Which numbers' lanes are this worker's, as the hall needs it. The queue fills it in.

use crate::wire::NumberId;
use std::collections::BTreeSet;
use tokio::sync::watch;

/// The numbers that this worker serves now; clones are the same. Bounded by the lanes there are.
#[derive(Debug, Clone, Default)]
pub struct Served(watch::Sender<Option<BTreeSet<NumberId>>>);

impl Served {
    /// These, and no others.
    pub fn replace(&self, numbers: BTreeSet<NumberId>) {
        self.0.send_replace(Some(numbers));
    }

    /// Whether it is one of them. All are, where the queue shares its numbers with nobody.
    pub fn has(&self, number: &NumberId) -> bool {
        self.0.borrow().as_ref().is_none_or(|served| served.contains(number))
    }

    /// All of them, where that is known.
    pub fn numbers(&self) -> BTreeSet<NumberId> {
        self.0.borrow().clone().unwrap_or_default()
    }
}
