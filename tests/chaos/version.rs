//! Which RabbitMQ is measured.

use std::process::Command;

/// The broker's, as its own program says.
pub(crate) fn version() -> String {
    let dir = tempfile::tempdir().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/rabbitmq-node");
    let said = Command::new(script).arg("version").arg(dir.path()).output().unwrap();
    String::from_utf8_lossy(&said.stdout).lines().last().unwrap_or("of no known version").to_owned()
}
