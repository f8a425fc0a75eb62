//! Stories, one binary.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a story that cannot go on fails there")]

mod rabbitmq;
mod rabbitmq_outages;
mod support;
