//! Stories, one binary.

mod configuration;
