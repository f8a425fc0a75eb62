//! What the stories need around the product: a real broker, a line that can be cut.

pub mod broker;
pub mod cutter;
