//! What stories share.

pub mod world;
