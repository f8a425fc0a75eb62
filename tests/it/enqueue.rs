//! `enqueue` as a process of its own, fed by a pipe.

use crate::support::broker::Broker;
use crate::support::process::Program;
use crate::support::world::text;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use tokio::task::block_in_place;

/// The process; its pipe stays open until the story ends.
fn enqueue_stdin(broker: &Broker) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chakra-sender"));
    command.args(["enqueue", "-"]).env_clear();
    command.env("CHAKRA_SENDER__RABBITMQ__URI", broker.uri());
    command.env("CHAKRA_SENDER__RABBITMQ__PREFIX", &broker.prefix);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_an_open_pipe_is_enqueued_and_ctrl_c_tells_where_to_go_on() {
    let broker = Broker::shared();
    let client = broker.client().await;
    let mut enqueue = enqueue_stdin(&broker);
    let mut pipe = enqueue.stdin.take().unwrap();
    writeln!(pipe, "{}", text("first", "x")).unwrap();
    // A queue that was just made answers to its name before it can be consumed.
    while !holds_a_job(&broker).await {
        assert!(enqueue.try_wait().unwrap().is_none(), "it ended");
        tokio::task::yield_now().await;
    }
    let job = client.take(&broker.names().unrouted()).await;
    assert!(String::from_utf8_lossy(&job.data).contains(r#""id":"first""#));
    let interrupt = Command::new("kill").args(["-INT", &enqueue.id().to_string()]).status();
    assert!(interrupt.unwrap().success());
    let ended = block_in_place(|| enqueue.wait_with_output()).unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("1 enqueued and confirmed, 0 invalid"), "{said}");
    assert!(
        said.contains("stopped after line 1: enqueue the same again, or go on from line 2"),
        "{said}"
    );
    drop(pipe);
}

/// A connection of its own: asking for a queue that is missing closes the channel.
async fn holds_a_job(broker: &Broker) -> bool {
    let declared = broker.client().await.ask(&broker.names().unrouted()).await;
    declared.is_ok_and(|queue| queue.message_count() > 0)
}

#[tokio::test]
async fn who_gives_it_no_jobs_is_told_what_it_takes() {
    let (broker, dir) = (Broker::shared(), tempfile::tempdir().unwrap());
    let job: serde_json::Value = serde_json::from_str(&text("a", "x")).unwrap();
    let indented = serde_json::to_string_pretty(&job).unwrap();
    let of_one_line = format!("\u{feff}{job}\r\n{}\n", "x".repeat(2 * 1024 * 1024));
    let hint = "no line is a job: a job is a JSON object on one line, in UTF-8";
    for (given, is_hinted, part) in [
        ("phone,name\n+999000000001,Ann\n", true, "a table in CSV needs --template"),
        (&indented, true, "0 enqueued and confirmed"),
        // The first is one: a byte order mark is no part of it.
        (&of_one_line, false, "line 2: not enqueued: the body is longer than 262144 bytes"),
    ] {
        let file = dir.path().join("jobs");
        std::fs::write(&file, given).unwrap();
        let program = Program::new(&["enqueue", file.to_str().unwrap()]).on(&broker);
        let ended = program.run().await;
        assert_eq!(ended.code, Some(1), "{}", ended.said());
        assert_eq!(ended.said().contains(hint), is_hinted, "{}", ended.said());
        assert!(ended.said().contains(part), "{part}\n{}", ended.said());
    }
}
