//! What the worker tells its queue: which numbers, or the whole account, are to be left alone, and until
//! when. The queue does not consume their lanes meanwhile. Decides nothing.

use crate::wire::NumberId;
use std::collections::HashMap;
use tokio::sync::watch;
use tokio::time::Instant;

/// Holds of numbers and of the account; clones are the same holds. Bounded by the lanes there are.
#[derive(Debug, Clone, Default)]
pub struct Holds(watch::Sender<Held>);

/// What is held, and until when.
#[derive(Debug, Default)]
struct Held {
    numbers: HashMap<NumberId, Instant>,
    account: Option<Instant>,
}

impl Holds {
    /// Leaves a number alone until then; an earlier hold of it is replaced.
    pub fn hold(&self, number: &NumberId, until: Instant) {
        self.0.send_modify(|held| {
            held.numbers.insert(number.clone(), until);
        });
    }

    /// Ends a number's hold.
    pub fn release(&self, number: &NumberId) {
        self.0.send_if_modified(|held| held.numbers.remove(number).is_some());
    }

    /// Leaves all numbers alone until then, or no longer (none).
    pub fn hold_account(&self, until: Option<Instant>) {
        self.0.send_if_modified(|held| std::mem::replace(&mut held.account, until) != until);
    }

    /// Until when a number is to be left alone, by its own hold or the account's; none where it may go.
    pub fn until(&self, number: &NumberId, now: Instant) -> Option<Instant> {
        let held = self.0.borrow();
        let own = held.numbers.get(number).copied();
        own.max(held.account).filter(|until| *until > now)
    }

    /// Comes with each change; look at `until` then.
    pub fn watch(&self) -> HoldsChanged {
        HoldsChanged(self.0.subscribe())
    }
}

/// Tells of changes.
#[derive(Debug)]
pub struct HoldsChanged(watch::Receiver<Held>);

impl HoldsChanged {
    /// The next change; none when no worker can hold anything any more. Cancelled, it misses none.
    pub async fn next(&mut self) -> Option<()> {
        self.0.changed().await.ok()
    }
}
