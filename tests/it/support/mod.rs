//! What stories share.

pub(crate) mod broker;
pub(crate) mod certificates;
pub(crate) mod cutter;
pub(crate) mod process;
pub(crate) mod world;
