//! Numbers this process's tenures of lanes, and tells them when the view of workers and lanes has been
//! the same for long enough. Decides nothing: who is here, and which lanes are whose, is `members`'.

use crate::queue::Tenure;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;

/// All tenures of one process, over all its connections; clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Tenures(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    last: AtomicU64,
    /// Cancelled while the view is settled.
    settled: Mutex<CancellationToken>,
}

impl Tenures {
    /// The next tenure, which ends with `over`.
    pub(super) fn begin(&self, over: CancellationToken) -> Tenure {
        let serial = self.0.last.fetch_add(1, Relaxed) + 1;
        Tenure::new(serial, over, self.current().clone())
    }

    /// Workers or lanes changed: a tenure that begins from now on may overlap with another's.
    pub(super) fn unsettle(&self) {
        let mut settled = self.current();
        if settled.is_cancelled() {
            *settled = CancellationToken::new();
        }
    }

    /// Nothing has changed for long enough.
    pub(super) fn settle(&self) {
        self.current().cancel();
    }

    fn current(&self) -> MutexGuard<'_, CancellationToken> {
        self.0.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_begins_after_a_change_is_settled_only_when_the_view_is() {
        let tenures = Tenures::default();
        let first = tenures.begin(CancellationToken::new());
        assert!(!first.is_settled(), "nothing is known yet");
        tenures.settle();
        assert!(first.is_settled());
        let calm = tenures.begin(CancellationToken::new());
        tenures.unsettle();
        let new = tenures.begin(CancellationToken::new());
        assert!(calm.is_settled() && !new.is_settled());
        assert!(first.serial() < calm.serial() && calm.serial() < new.serial());
        tenures.settle();
        assert!(new.is_settled());
    }
}
