//! Webhooks: what became of accepted messages, posted as ChakraHQ and Meta post it.
//!
//! `course` makes up what is told of a message and when, `bodies` writes it, `outbox` holds it until
//! it is due, `post` sends it, `load` makes messages up. What was sent and answered stands in the record.
//! Plain HTTP alone.

mod bodies;
mod course;
mod load;
mod outbox;
mod post;
mod settings;

pub(super) use self::{
    course::{Accepted, Course, Timing, course},
    load::make_up,
    outbox::Outbox,
    post::run,
};
pub use self::{
    course::{Event, Form},
    settings::{Failure, Webhook, WebhookShape},
};
