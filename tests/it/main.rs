//! Stories, one binary.

mod chakra_client;
