//! The JSON that other programs rely on: send jobs in, events out. Nothing else: no I/O, no clock,
//! no decision about what follows.

mod content;
mod event;
mod ids;
mod job;
mod message;
mod object;
mod raw;
mod schema;

pub use event::{Class, DeliveryStatus, ErrorBody, Event, ResultEvent, Scope, Status, StatusEvent};
pub use ids::{JobId, NumberId, Recipient};
pub use job::{InvalidJob, MAX_BODY_BYTES, OnDoubt, Priority, SendJob};
pub use message::{Kind, Message, Template};
pub use raw::RawJson;
pub use schema::{event_schema, job_schema};
