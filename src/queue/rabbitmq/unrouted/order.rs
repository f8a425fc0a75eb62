//! Jobs of one routing key are moved in the order in which they came. Moves nothing itself.

use std::collections::HashMap;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

/// Who came last, for each routing key that has jobs in hand.
pub(super) struct Order {
    last: HashMap<String, oneshot::Receiver<()>>,
    /// With more keys than this, those are looked for whose jobs are done.
    most: usize,
}

/// One job's place; dropped, the next is first.
pub(super) struct Place {
    before: Option<oneshot::Receiver<()>>,
    _next: oneshot::Sender<()>,
}

impl Order {
    /// For so many jobs in hand: with twice as many keys at least half of them are done.
    pub(super) fn new(in_hand: u16) -> Order {
        Order { last: HashMap::new(), most: 2 * usize::from(in_hand) }
    }

    /// The place behind all that came by this key.
    pub(super) fn join(&mut self, key: &str) -> Place {
        if self.last.len() > self.most {
            self.last.retain(|_, last| last.try_recv() == Err(TryRecvError::Empty));
        }
        let (next, after) = oneshot::channel();
        Place { before: self.last.insert(key.to_owned(), after), _next: next }
    }

    /// Where no job is in hand, nobody is waited for.
    pub(super) fn forget_if(&mut self, idle: bool) {
        if idle {
            self.last.clear();
        }
    }
}

impl Place {
    /// Waits for those who came before, and holds the place until it is dropped.
    pub(super) async fn first(mut self) -> Place {
        if let Some(before) = self.before.take() {
            let _dropped = before.await;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_forgets_keys_whose_jobs_are_done_and_no_others() {
        let mut order = Order::new(100);
        let _in_hand = order.join("in hand");
        for key in 0..2_000 {
            drop(order.join(&key.to_string()));
        }
        assert!(order.last.len() <= 201, "{} keys", order.last.len());
        assert!(order.join("in hand").before.unwrap().try_recv() == Err(TryRecvError::Empty));
    }
}
