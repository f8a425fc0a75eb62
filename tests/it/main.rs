//! Stories, one binary.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a story that cannot go on fails there")]

mod limiter;
mod sandbox;
mod tidy;
mod wire_events;
mod wire_jobs;
mod wire_messages;
