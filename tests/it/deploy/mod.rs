//! What stands under deploy/: each file is held against the real rules of what reads it.

mod rabbitmq;

use std::path::Path;

fn read(of: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(of);
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{of}: {error}"))
}
