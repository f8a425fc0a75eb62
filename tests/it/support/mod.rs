//! What stories share.

pub mod broker;
pub mod cutter;
pub mod pipeline;
pub mod raw_amqp;
pub mod story;
pub mod world;
