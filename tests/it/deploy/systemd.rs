//! deploy/systemd: the unit as systemd reads it, and the program under what it sets.

use super::{check, guest_of, longest_stop, read, well};
use crate::support::broker::Broker;
use crate::support::process::{Program, TOKEN, sandbox};
use chakra_sender::sandbox::SandboxConfig;
use std::process::Command;
use tempfile::tempdir;

/// In tenths, of 100: what `systemd-analyze security` gives for what is left open. Its word for less than 20
/// is "OK", for a service that needs the network it does not get much lower.
const EXPOSURE: &str = "15";

const UNIT: &str = "deploy/systemd/chakra-sender.service";

/// All values of a key of the unit.
fn values(key: &str) -> Vec<String> {
    let unit = read(UNIT);
    let lines = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    lines.map(str::to_owned).collect()
}

fn value(key: &str) -> String {
    let [value] = values(key).try_into().unwrap_or_else(|all| panic!("{key}: {all:?}"));
    value
}

#[test]
fn systemd_takes_the_unit_and_finds_little_left_open() {
    let dir = tempdir().unwrap();
    let file = dir.path().join("chakra-sender.service");
    let unit =
        read(UNIT).replace("/usr/local/bin/chakra-sender", env!("CARGO_BIN_EXE_chakra-sender"));
    std::fs::write(&file, unit).unwrap();
    let (_, warnings) =
        well(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&file));
    assert_eq!(warnings, "");
    let threshold = format!("--threshold={EXPOSURE}");
    let security = ["security", "--no-pager", "--offline=true", &threshold];
    well(Command::new("systemd-analyze").args(security).arg(&file));
}

#[test]
fn a_drain_is_never_cut_short() {
    assert_eq!(value("TimeoutStopSec"), longest_stop().to_string());
}

#[tokio::test]
async fn a_mistake_in_the_settings_is_no_reason_to_start_again() {
    let dir = tempdir().unwrap();
    let exec = value("ExecStart");
    let mut arguments: Vec<&str> = exec.split(' ').skip(1).collect();
    let file = dir.path().join("settings.toml").display().to_string();
    std::fs::write(&file, "[chakra]\ntokn = 'x'").unwrap();
    let at = arguments.iter().position(|argument| argument.ends_with(".toml")).unwrap();
    arguments[at] = &file;
    let ended = Program::new(&arguments).run().await;
    let code = ended.code.unwrap().to_string();
    let stays = value("RestartPreventExitStatus");
    assert!(stays.split(' ').any(|status| status == code), "{code}: {}", ended.said());
}

#[tokio::test]
async fn the_program_takes_the_settings_of_the_unit_and_of_its_file() {
    let (sandbox, broker, dir) = (sandbox(|_| {}).await, Broker::shared(), tempdir().unwrap());
    let here = dir.path().to_str().unwrap();
    for (credential, secret) in values("LoadCredential").iter().zip([TOKEN, "guest", "hmac"]) {
        let (name, file) = credential.split_once(':').unwrap();
        assert_eq!(file, format!("/etc/chakra-sender/secrets/{name}"));
        std::fs::write(dir.path().join(name), secret).unwrap();
    }
    let variable = |set: &String| {
        let (name, value) = set.split_once('=').unwrap();
        (name.to_owned(), value.replace("%d", here).replace("%S", here))
    };
    let mut environment: Vec<_> = values("Environment").iter().map(variable).collect();
    environment.push(("CHAKRA_SENDER__CHAKRA__BASE_URL".to_owned(), sandbox.base_url()));
    let settings = read("deploy/systemd/chakra-sender.toml")
        .replace("00000000-0000-0000-0000-000000000000", &SandboxConfig::default().plugin_id)
        .replace("chakra-worker@rabbitmq.example.com:5672", &guest_of(&broker));
    let checked = check(&dir, &settings, &environment).await;
    assert_eq!(checked.code, Some(0), "{}", checked.said());
}
