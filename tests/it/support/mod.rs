//! What the stories need around the product: a real broker, a line that can be cut.

pub(crate) mod broker;
pub(crate) mod cutter;
pub(crate) mod story;
