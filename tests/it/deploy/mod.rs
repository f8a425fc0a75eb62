//! What stands under deploy/: each file is held against the real rules of what reads it, as far as these can
//! be had without a cluster or a container engine, and each setting in it is read by the real program.

mod compose;
mod image;
mod kubernetes;
mod rabbitmq;
mod systemd;

use crate::support::broker::Broker;
use crate::support::process::{Ended, Program};
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a stop may take beyond `worker.drain_timeout`.
const BEYOND_THE_DRAIN: u64 = 60;

/// A file or folder of the repository.
fn path(of: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(of)
}

fn read(of: &str) -> String {
    std::fs::read_to_string(path(of)).unwrap_or_else(|error| panic!("{of}: {error}"))
}

/// One of the programs of tests/deploy-tools.txt.
fn tool(name: &str) -> Command {
    let program = path("target/deploy-tools/bin").join(name);
    assert!(program.exists(), "{} is missing: tests/deploy-tools installs it", program.display());
    Command::new(program)
}

/// Runs a program that must find nothing wrong; gives what it printed on stdout and on stderr.
fn well(command: &mut Command) -> (String, String) {
    let done = command.stdin(Stdio::null()).output();
    let done = done.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(done.stdout), text(done.stderr));
    assert!(done.status.success(), "{command:?}:\n{out}{err}");
    (out, err)
}

/// The documents of a YAML text.
fn yaml(text: &str) -> Vec<Value> {
    const TO_JSON: &str =
        "import json, sys, yaml; json.dump(list(yaml.safe_load_all(sys.stdin)), sys.stdout)";
    let mut python = tool("python3");
    python.args(["-c", TO_JSON]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut python = python.spawn().unwrap();
    python.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let done = python.wait_with_output().unwrap();
    assert!(done.status.success(), "not YAML:\n{text}");
    serde_json::from_slice(&done.stdout).unwrap()
}

/// The texts of a list.
fn texts(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

/// The longest that a stop may take by the settings that all of these have, in seconds.
fn longest_stop() -> u64 {
    let settings = chakra_sender::config::load(None, std::iter::empty()).unwrap();
    settings.worker.drain_timeout.as_secs() + BEYOND_THE_DRAIN
}

/// The image that is run: of this version.
fn image() -> String {
    format!("chakra-sender:{}", env!("CARGO_PKG_VERSION"))
}

/// User and address of a broker, as a URI without its password has them.
fn guest_of(broker: &Broker) -> String {
    let with_password = broker.uri().strip_prefix("amqp://guest:guest@").unwrap();
    format!("guest@{}", with_password.strip_suffix("/%2f").unwrap())
}

/// `check` with settings of such a file.
async fn check(dir: &tempfile::TempDir, settings: &str, environment: &[(String, String)]) -> Ended {
    let file = dir.path().join("chakra-sender.toml");
    std::fs::write(&file, settings).unwrap();
    let check = Program::new(&["check", "--config", file.to_str().unwrap()]);
    environment.iter().fold(check, |check, (name, value)| check.env(name, value)).run().await
}
