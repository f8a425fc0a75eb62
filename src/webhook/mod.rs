//! What became of messages, as ChakraHQ tells it by webhook.

mod envelope;
mod notice;

pub use envelope::{Contents, MAX_MESSAGE_ID_BYTES, NotJson, read};
pub use notice::{Fault, Notice, Subject, Told};
