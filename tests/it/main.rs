//! Stories, one binary.

mod sandbox;
