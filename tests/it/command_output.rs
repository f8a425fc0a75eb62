//! What commands print, as scripts and terminals get it.

use crate::support::broker::Broker;
use crate::support::process::{Program, sandbox, write};
use crate::support::world::{NUMBER, text};
use serde_json::Value;
use std::fs::OpenOptions;
use std::process::{Command, Output, Stdio};
use tempfile::tempdir;

/// Data without a broker and an account.
const PRINTING: [&[&str]; 5] =
    [&["schema", "event"], &["check", "--codes"], &["check"], &["completions", "bash"], &["man"]];

fn run(arguments: &[&str], stdout: impl Into<Stdio>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chakra-sender"));
    // Nobody listens there: what is checked is not there.
    command.env_clear().env("CHAKRA_SENDER__RABBITMQ__URI", "amqp://127.0.0.1:1");
    command.args(arguments).stdin(Stdio::null()).stdout(stdout);
    command.stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// What stands on a terminal after this command.
fn on_a_terminal(arguments: &str, environment: &[(&str, &str)]) -> String {
    let line = format!("{} {arguments}", env!("CARGO_BIN_EXE_chakra-sender"));
    let mut script = Command::new("script");
    script.env_clear().env("PATH", "/usr/bin:/bin").env("TERM", "xterm");
    script.env("CHAKRA_SENDER__RABBITMQ__URI", "amqp://127.0.0.1:1");
    script.envs(environment.iter().copied());
    let output = script.args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_reader_that_leaves_ends_a_command_without_a_word() {
    for arguments in PRINTING {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = run(arguments, writer);
        assert_eq!((output.status.code(), said(&output).as_str()), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn data_that_cannot_be_written_is_a_failure_that_says_so() {
    for arguments in PRINTING {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = run(arguments, full);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let said = said(&output);
        assert!(said.starts_with("chakra-sender: writing to stdout: No space left"), "{said}");
    }
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    const COLOUR: char = '\u{1b}';
    let [help, check, mistake] = ["worker --help", "check", "schema nothing"];
    for arguments in [help, check, mistake] {
        let shown = on_a_terminal(arguments, &[]);
        assert!(shown.contains(COLOUR), "{arguments}: {shown}");
        for plain in [("NO_COLOR", "1"), ("TERM", "dumb")] {
            let shown = on_a_terminal(arguments, &[plain]);
            assert!(!shown.is_empty() && !shown.contains(COLOUR), "{arguments} {plain:?}: {shown}");
        }
        let words: Vec<&str> = arguments.split(' ').collect();
        let piped = run(&words, Stdio::piped());
        let all = String::from_utf8([piped.stdout, piped.stderr].concat()).unwrap();
        assert!(!all.is_empty() && !all.contains(COLOUR), "{arguments}: {all}");
    }
}

#[tokio::test]
async fn what_commands_found_and_did_is_there_as_json_too() {
    let (sandbox, broker, dir) = (sandbox(|_| {}).await, Broker::shared(), tempdir().unwrap());
    let of = |arguments: &[&str]| Program::new(arguments).at(&sandbox).on(&broker);
    let json = async |arguments: &[&str]| {
        let ended = of(&[arguments, &["--json"]].concat()).run().await;
        assert_eq!(ended.code, Some(0), "{arguments:?}: {}", ended.said());
        let lines = ended.out.iter().map(|line| serde_json::from_str(line).unwrap());
        lines.collect::<Vec<Value>>()
    };
    let checked = json(&["check"]).await;
    assert_eq!(
        checked[0],
        serde_json::json!({ "is": "in place", "what": "the configuration is lawful" })
    );
    let codes = json(&["check", "--codes"]).await;
    let throttled = codes.iter().find(|row| row["first_code"] == 130_429).unwrap();
    assert_eq!([&throttled["class"], &throttled["scope"]], ["throttled", "number"]);

    let mut worker = Program::worker(&sandbox, &broker).start();
    worker.admin().await.ready().await;
    let paused = json(&["numbers", "pause", NUMBER, "--reason", "a test", "--for", "1h"]).await;
    assert_eq!([&paused[0]["phone_number_id"], &paused[0]["paused"]["reason"]], [NUMBER, "a test"]);
    let resumed = json(&["numbers", "resume", NUMBER]).await;
    assert_eq!(resumed[0]["paused"], Value::Null);

    let (jobs, results) = (write(&dir, "jobs", &[text("a", "x")]), dir.path().join("results"));
    let [jobs, results] = [&jobs, &results].map(|path| path.to_str().unwrap());
    let sent = json(&["send", "--jobs", jobs, "--results", results]).await;
    assert_eq!([&sent[0]["lines"], &sent[0]["results"]["accepted"]], [1, 1]);
    let both = of(&["send", "--jobs", jobs, "--results", "-", "--json"]).run().await;
    assert_eq!((both.code, both.out.len()), (Some(2), 0), "{}", both.said());
}

#[tokio::test]
async fn a_mistake_in_the_sandboxs_file_is_told_once_with_the_files_name() {
    let dir = tempdir().unwrap();
    let file = write(&dir, "faults.toml", &["nonsense = 1".to_owned()]);
    let file = file.to_str().unwrap();
    let ended = Program::new(&["sandbox", "--sandbox-config", file]).run().await;
    assert_eq!(ended.code, Some(2), "{}", ended.said());
    let said = ended.said();
    assert!(said.contains(file) && said.matches("unknown field").count() == 1, "{said}");
    let stranger = Program::new(&["results", "--number", "abc"]).run().await;
    assert_eq!(stranger.code, Some(2), "{}", stranger.said());
}
