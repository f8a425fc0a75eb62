//! What stories share.

pub mod broker;
pub mod browser;
pub mod certificates;
pub mod cutter;
pub mod load;
pub mod pipeline;
pub mod plugin;
pub mod process;
pub mod prometheus;
pub mod raw_amqp;
pub mod story;
pub mod webhook;
pub mod webhook_sink;
pub mod world;
