//! Jobs from a file.
