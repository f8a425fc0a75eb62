//! Stories, one binary.
