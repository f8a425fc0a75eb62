//! What webhooks told of messages, as each worker hears it from the queue, whichever worker they came to.
//! Decides nothing.

use crate::wire::{JobId, NumberId};
use jiff::Timestamp;
use std::collections::BTreeSet;
use tokio::sync::watch;

/// One status of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// The job, where it can be told.
    pub job: Option<JobId>,
    /// The sender, where it was told.
    pub number: Option<NumberId>,
    /// Meta's id of the message: it has taken the message in, whatever became of it later.
    pub message_id: String,
    /// When it happened, by Meta's clock.
    pub at: Timestamp,
    /// Meta's code and sentence, where the message failed and a code was given.
    pub fault: Option<(u32, String)>,
}

/// The numbers of which the worker wants to hear every status, for it has jobs in doubt of them; clones are
/// the same. Of all other numbers it hears what failed.
#[derive(Debug, Clone, Default)]
pub struct Listening(watch::Sender<BTreeSet<NumberId>>);

impl Listening {
    /// To this one as well.
    pub fn add(&self, number: &NumberId) {
        self.0.send_if_modified(|numbers| {
            let is_new = !numbers.contains(number);
            if is_new {
                numbers.insert(number.clone());
            }
            is_new
        });
    }

    /// To these, and no others.
    pub fn replace(&self, numbers: BTreeSet<NumberId>) {
        self.0.send_if_modified(|now| {
            let is_new = *now != numbers;
            if is_new {
                *now = numbers;
            }
            is_new
        });
    }

    /// The numbers, as they change.
    pub fn watch(&self) -> watch::Receiver<BTreeSet<NumberId>> {
        self.0.subscribe()
    }
}
