//! Meta's message object: read as far as it must be checked, kept byte for byte.

use super::{JobId, RawJson, Recipient};
use bytes::Bytes;

/// What a body asks Meta to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A message of this `type` (`text` where none is written).
    Message(String),
    /// A read receipt or typing indicator: no recipient, and no message id comes back.
    Receipt,
}

/// A checked message object.
#[derive(Debug, Clone)]
pub struct Message {
    raw: RawJson,
    kind: Kind,
    recipient: Option<Recipient>,
    has_opaque: bool,
}

impl Message {
    /// Reads and checks a message object; the error is a sentence for the producer.
    pub fn parse(_raw: RawJson) -> Result<Message, String> {
        todo!()
    }

    /// What it asks for.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Whom it goes to; none for a receipt.
    pub fn recipient(&self) -> Option<&Recipient> {
        self.recipient.as_ref()
    }

    /// The HTTP body: the producer's bytes, with the job's id as `biz_opaque_callback_data` where it
    /// set none. A receipt goes out untouched.
    pub fn to_request(&self, _id: &JobId) -> Bytes {
        let _ = (&self.raw, self.has_opaque);
        todo!()
    }
}
