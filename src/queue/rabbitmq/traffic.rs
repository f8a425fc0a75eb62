//! What is known of a lane's backlog without asking the broker: where a lane is consumed and its prefetch
//! was not full, nothing waits. Asking costs, and a thousand idle lanes must cost nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// One lane's, told by who consumes it; clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Traffic(Arc<State>);

#[derive(Debug)]
struct State {
    is_consumed: AtomicBool,
    was_full: AtomicBool,
}

impl Default for State {
    /// What stood in it before is not known.
    fn default() -> State {
        State { is_consumed: AtomicBool::new(false), was_full: AtomicBool::new(true) }
    }
}

impl Traffic {
    /// Whether its consumers stand.
    pub(super) fn consumed(&self, is_consumed: bool) {
        self.0.is_consumed.store(is_consumed, Relaxed);
    }

    /// As many deliveries are in hand as one queue gives: more may wait.
    pub(super) fn full(&self) {
        self.0.was_full.store(true, Relaxed);
    }

    /// Whether something may wait in the broker; asked since the last time.
    pub(super) fn may_wait(&self) -> bool {
        let was_full = self.0.was_full.swap(false, Relaxed);
        was_full || !self.0.is_consumed.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn something_may_wait_where_nobody_consumes_or_where_the_prefetch_was_full_since_the_last_look()
    {
        let traffic = Traffic::default();
        assert!(traffic.may_wait(), "nobody consumes it yet");
        traffic.consumed(true);
        assert!(!traffic.may_wait());
        traffic.full();
        assert!(traffic.may_wait() && !traffic.may_wait());
        traffic.consumed(false);
        assert!(traffic.may_wait());
    }
}
