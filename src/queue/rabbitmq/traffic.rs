//! What is known of a lane's backlog without asking the broker: where a lane is consumed and its prefetch
//! was not full, nothing waits. Asking costs, and a thousand idle lanes must cost nothing.

use super::hold::Hold;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// One lane's, told by who consumes it; clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Traffic(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// What is in hand by the present subscription, and how much of one queue may be; none while nobody
    /// consumes.
    subscription: Option<(Weak<Hold>, u16)>,
    was_full: bool,
}

impl Default for State {
    /// What stood in it before is not known.
    fn default() -> State {
        State { subscription: None, was_full: true }
    }
}

impl State {
    /// As many deliveries are in hand as one queue gives: more may wait.
    fn is_full(&self) -> bool {
        // Deliveries hold it, and so does who consumes.
        self.subscription
            .as_ref()
            .is_some_and(|(hold, prefetch)| hold.strong_count() > usize::from(*prefetch))
    }
}

impl Traffic {
    /// Its consumers stand.
    pub(super) fn consumed(&self, hold: &Arc<Hold>, prefetch: u16) {
        self.state().subscription = Some((Arc::downgrade(hold), prefetch));
    }

    /// They do not any more.
    pub(super) fn left(&self) {
        self.state().subscription = None;
    }

    /// A delivery came.
    pub(super) fn delivered(&self) {
        let mut state = self.state();
        state.was_full |= state.is_full();
    }

    /// Whether something may wait in the broker; asked since the last time.
    pub(super) fn may_wait(&self) -> bool {
        let mut state = self.state();
        let was_full = std::mem::replace(&mut state.was_full, false);
        was_full || state.subscription.is_none() || state.is_full()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fence::Fence;
    use super::*;

    #[test]
    fn something_may_wait_where_nobody_consumes_or_where_the_prefetch_is_full_or_was_since_the_last_look()
     {
        let traffic = Traffic::default();
        assert!(traffic.may_wait(), "nobody consumes it yet");
        let (hold, _way_out) = Hold::new(&Fence::new(), 4);
        traffic.consumed(&hold, 2);
        assert!(!traffic.may_wait());
        let mut in_hand = Vec::new();
        for is_full in [false, true] {
            in_hand.push(Arc::clone(&hold));
            traffic.delivered();
            assert_eq!(traffic.may_wait(), is_full);
        }
        assert!(traffic.may_wait(), "no delivery comes any more, and something may wait");
        traffic.delivered();
        in_hand.clear();
        assert!(traffic.may_wait() && !traffic.may_wait(), "it was full in between");
        traffic.left();
        assert!(traffic.may_wait());
    }
}
