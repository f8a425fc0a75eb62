//! Jobs of one recipient go one after the other, in the order in which they arrived here. Quiet but
//! for the wake-up: it sends nothing and knows no time.

use crate::fast_map::FastMap;
use crate::wire::Recipient;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

/// The lines of one number, one for each recipient with a job in hand. Bounded by the jobs held.
#[derive(Debug, Clone, Default)]
pub(super) struct Lines(Arc<Mutex<FastMap<Recipient, VecDeque<oneshot::Sender<()>>>>>);

impl Lines {
    /// Takes the last place of the recipient's line. Called in the order of arrival.
    pub(super) fn join(&self, recipient: &Recipient) -> Place {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = match lines.get_mut(recipient) {
            None => {
                lines.insert(recipient.clone(), VecDeque::new());
                None
            }
            Some(line) => {
                let (call, turn) = oneshot::channel();
                line.push_back(call);
                Some(turn)
            }
        };
        Place { lines: self.clone(), recipient: recipient.clone(), turn }
    }

    fn leave(&self, recipient: &Recipient) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(line) = lines.get_mut(recipient) else { return };
        // Whoever has given up waiting is passed over.
        while let Some(next) = line.pop_front() {
            if next.send(()).is_ok() {
                return;
            }
        }
        lines.remove(recipient);
    }
}

/// A place in a line. Dropping it lets the next one forward.
#[derive(Debug)]
pub(super) struct Place {
    lines: Lines,
    recipient: Recipient,
    /// None once this place is the first.
    turn: Option<oneshot::Receiver<()>>,
}

impl Place {
    /// Waits until all earlier jobs of the recipient have been settled.
    pub(super) async fn first(&mut self) {
        if let Some(turn) = &mut self.turn {
            // An error cannot happen: a line keeps its senders until they are called.
            let called = turn.await;
            debug_assert!(called.is_ok(), "a line forgot a place");
            self.turn = None;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        match &mut self.turn {
            None => self.lines.leave(&self.recipient),
            // Called but never told: the call must go on to the next.
            Some(turn) => {
                turn.close();
                if turn.try_recv().is_ok() {
                    self.lines.leave(&self.recipient);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn to(digits: &str) -> Recipient {
        Recipient::from_to(digits)
    }

    #[test]
    fn the_first_goes_at_once_and_the_others_in_their_order() {
        let lines = Lines::default();
        let mut places: Vec<Place> = (0..3).map(|_| lines.join(&to("91990"))).collect();
        for _ in 0..3 {
            let mut first = places.remove(0);
            assert!(first.first().now_or_never().is_some());
            assert!(places.iter_mut().all(|place| place.first().now_or_never().is_none()));
            drop(first);
        }
    }

    #[test]
    fn recipients_do_not_wait_for_each_other() {
        let lines = Lines::default();
        let (mut one, mut other) = (lines.join(&to("1")), lines.join(&to("2")));
        assert!(one.first().now_or_never().is_some() && other.first().now_or_never().is_some());
    }

    #[test]
    fn whoever_leaves_the_line_holds_up_nobody() {
        let lines = Lines::default();
        let first = lines.join(&to("1"));
        let second = lines.join(&to("1"));
        let third = lines.join(&to("1"));
        let mut fourth = lines.join(&to("1"));
        drop(second);
        drop(first); // calls the third, which leaves without having looked
        drop(third);
        assert!(fourth.first().now_or_never().is_some());
        drop(fourth);
        assert!(lines.0.lock().unwrap().is_empty(), "a line outlived its jobs");
    }
}
