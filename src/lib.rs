//! WhatsApp send jobs in, through ChakraHQ, exactly one result each out.
//!
//! Layout, in reading order: [`worker`] is the hall, its `handle.rs` one job's way from arrival to
//! settlement. [`wire`] is the JSON that others rely on, [`policy`] the decisions, [`limiter`] the
//! gates: these are quiet, they take time and chance as arguments. [`chakra`] speaks HTTP to the
//! vendor, [`queue`] AMQP or files, [`admin`] HTTP to operators: these are loud and decide nothing.
//! [`sandbox`] is a fake ChakraHQ that shares nothing with the rest. `ARCHITECTURE.md` has the rest.

pub mod admin;
pub mod chakra;
pub mod cli;
pub mod clock;
pub mod config;
pub mod crash;
mod fast_map;
pub mod ledger;
pub mod limiter;
pub mod listener;
pub mod metrics;
mod odd_json;
pub mod policy;
pub mod queue;
pub mod readiness;
pub mod sandbox;
pub mod supervisor;
pub mod telemetry;
pub mod webhook;
pub mod wire;
pub mod worker;
