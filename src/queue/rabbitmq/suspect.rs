//! Reading a message that was delivered suspiciously often: it may be what ends the worker. It is
//! marked while it is read, and one that has ended the worker too often is not read at all.

use super::decode::{Decoded, Original, decode};
use super::headers;
use crate::clock;
use crate::wire::{InvalidJob, JobId, NumberId, Priority};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// Deliveries beyond which a message is suspect. A count alone proves nothing: each kill of the worker
/// raises it for everything that was in hand.
const SUSPECT_AFTER: u32 = 3;

/// Whatever is dropped when a message has been read.
pub type Marked = Box<dyn Any + Send>;

type MarkMessage = dyn Fn(Bytes, Option<u32>) -> BoxFuture<'static, Option<Marked>> + Send + Sync;

/// Marks a message while it is read.
#[derive(Clone)]
pub struct Touch(Arc<MarkMessage>);

impl Touch {
    /// `mark` gets a message's body and replay; it answers none where the message has ended the worker
    /// too often.
    pub fn new(
        mark: impl Fn(Bytes, Option<u32>) -> BoxFuture<'static, Option<Marked>> + Send + Sync + 'static,
    ) -> Touch {
        Touch(Arc::new(mark))
    }

    /// Marks nothing.
    pub fn unmarked() -> Touch {
        Touch::new(|_, _| Box::pin(async { Some(Box::new(()) as Marked) }))
    }
}

impl fmt::Debug for Touch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Touch")
    }
}

/// Reads a message. `earlier` are its deliveries before this one.
pub(super) async fn decode_carefully(
    touch: &Touch,
    original: &Original,
    (number, priority): (&NumberId, Priority),
    earlier: u32,
) -> Decoded {
    let now = clock::wall();
    if earlier <= SUSPECT_AFTER {
        return decode(original, number, priority, now);
    }
    let travel = headers::read(&original.properties, now);
    match (touch.0)(original.body.clone(), travel.history.replay).await {
        Some(_mark) => decode(original, number, priority, now),
        None => {
            let message_id = original.properties.message_id().as_ref().map(|id| id.as_str());
            let job = Err(InvalidJob {
                reason: "the worker ended each time that it was read: it is not read any more"
                    .into(),
                id: message_id.and_then(|id| JobId::parse(id).ok()),
                phone_number_id: Some(number.clone()),
                metadata: None,
            });
            Decoded { job, travel, priority_disagrees: false }
        }
    }
}
