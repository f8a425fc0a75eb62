//! The worker over files: it goes on where it stopped, and a bad line hurts nobody else.

use crate::support::world::{NUMBER, Sent, World, bounds, job, paced, text};
use chakra_sender::clock;
use chakra_sender::ledger::Ledger;
use chakra_sender::policy::History;
use chakra_sender::queue::file::{Results, beside};
use chakra_sender::wire::{SendJob, Status};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A folder with a results file that several runs share.
struct Files {
    _folder: tempfile::TempDir,
    results: PathBuf,
}

impl Files {
    fn new() -> Files {
        let folder = tempfile::tempdir().unwrap();
        let results = folder.path().join("results.jsonl");
        Files { _folder: folder, results }
    }

    fn ledger(&self) -> Ledger {
        Ledger::open(&beside(&self.results, "ledger"), bounds(), clock::wall()).unwrap()
    }

    async fn send(&self, world: World, lines: &[String]) -> Sent {
        self.send_watched(world, lines, |_| {}).await
    }

    async fn send_watched(
        &self,
        world: World,
        lines: &[String],
        on_result: impl Fn(&chakra_sender::wire::ResultEvent) + Send + Sync + 'static,
    ) -> Sent {
        let results = Results::find(&self.results).unwrap();
        let ledger =
            Ledger::open(&beside(&self.results, "ledger"), bounds(), clock::wall()).unwrap();
        let results = results.open().unwrap();
        world.run(lines, results, ledger, on_result).await
    }

    /// How many results each job has in the file.
    fn counted(&self) -> BTreeMap<String, usize> {
        let mut counted = BTreeMap::new();
        for line in lines(&self.results) {
            *counted.entry(line["id"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        counted
    }
}

fn lines(path: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_run_that_is_stopped_goes_on_where_it_stopped_and_sends_nothing_twice() {
    let files = Files::new();
    let jobs: Vec<String> = (0..60).map(|n| text(&format!("job-{n}"), "x")).collect();

    let mut world = World::new().await;
    world.settings.rates = paced(100.0);
    let stop = world.stop.clone();
    let first = files
        .send_watched(world, &jobs, move |event| {
            if event.id.as_str() == "job-20" {
                stop.cancel();
            }
        })
        .await;
    assert!(first.tally.unfinished > 0, "nothing was left to do");

    let second = files.send(World::new().await, &jobs).await;
    assert_eq!(second.tally.done_before, first.results.len() as u64);
    assert_eq!(first.results.len() + second.results.len(), 60);
    assert!(files.counted().values().all(|count| *count == 1));
    let accepted =
        first.sandbox.record().count_accepted() + second.sandbox.record().count_accepted();
    assert_eq!(accepted, 60);
}

#[tokio::test]
async fn what_a_killed_run_had_begun_is_looked_for_and_not_sent_blindly() {
    let files = Files::new();
    let [left, retried] = ["left", "retried"].map(|id| text(id, id));
    let ledger = files.ledger();
    for (line, answered) in [(&left, false), (&retried, true)] {
        let job = SendJob::parse(&line.clone().into(), None).unwrap();
        let delivery = ledger.receive(&job, None, clock::wall()).unwrap();
        delivery.begin(1, clock::wall()).await.unwrap();
        if answered {
            let history = History { attempts: 1, ..History::fresh(clock::wall()) };
            delivery.answered(&history, clock::wall()).await.unwrap();
        }
    }
    drop(ledger);
    let sent = files.send(World::new().await, &[left, retried, text("new", "x")]).await;
    assert_eq!(sent.outcome("left"), "unknown ambiguous after 1");
    assert_eq!(sent.outcome("retried"), "accepted after 2");
    assert_eq!(sent.outcome("new"), "accepted after 1");
    assert_eq!(sent.sandbox.record().accepted_by_opaque("left"), 0);
}

#[tokio::test]
async fn a_result_that_a_kill_left_torn_is_written_anew() {
    let files = Files::new();
    let jobs = [text("one", "x"), text("two", "x")];
    let first = files.send(World::new().await, &jobs).await;
    let whole = std::fs::read(&files.results).unwrap();
    std::fs::write(&files.results, &whole[..whole.len() - 9]).unwrap();
    let sent = files.send(World::new().await, &jobs).await;
    let [again] = &sent.results[..] else { panic!("not one result") };
    assert_eq!(again.whatsapp_message_id, first.result(again.id.as_str()).whatsapp_message_id);
    assert_eq!(sent.sandbox.record().count_requests(), 0, "the ledger has its outcome");
    assert_eq!(files.counted().values().sum::<usize>(), 2);
}

#[tokio::test]
async fn an_unlawful_line_with_the_id_of_a_lawful_job_does_not_pass_for_its_result() {
    let files = Files::new();
    let invalid =
        r#"{"id":"same","phone_number_id":"NUMBER","message":{}}"#.replace("NUMBER", NUMBER);
    // The first run is stopped before the lawful job, which comes second.
    let first = files.send(World::new().await, std::slice::from_ref(&invalid)).await;
    assert_eq!(first.outcome("same"), "failed invalid after 0");
    let second = files.send(World::new().await, &[invalid, text("same", "x")]).await;
    assert_eq!(second.tally.done_before, 1);
    assert_eq!(second.outcome("same"), "accepted after 1");
}

#[tokio::test]
async fn an_id_that_a_later_line_uses_for_another_message_is_told_so_by_a_resumed_run_too() {
    let files = Files::new();
    let first = text("same", "x");
    let jobs = [first.clone(), text("same", "another"), first];
    // The first run is stopped before the second line.
    files.send(World::new().await, &jobs[..1]).await;
    let second = files.send(World::new().await, &jobs).await;
    assert_eq!((second.tally.done_before, second.tally.repeated), (1, 1));
    assert_eq!(second.outcome("same"), "failed invalid after 0");
    assert_eq!(second.sandbox.record().count_requests(), 0);
    let third = files.send(World::new().await, &jobs).await;
    assert_eq!((third.tally.done_before, third.tally.repeated), (2, 1));
    assert!(third.results.is_empty());
}

#[tokio::test]
async fn two_runs_do_not_share_their_files() {
    let files = Files::new();
    let _first = files.ledger();
    let second = Ledger::open(&beside(&files.results, "ledger"), bounds(), clock::wall());
    assert!(second.unwrap_err().to_string().contains("another process"));
}

#[tokio::test]
async fn a_bad_line_gets_its_answer_and_its_neighbours_go_through() {
    let message = r#"{"messaging_product":"whatsapp","to":"+999000000001","text":{"body":"x"}}"#;
    let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
    let bad = [
        ("no-json", r#"{"id":"no-json","phone_number_id":"#.to_owned()),
        ("shape", r#"["not","a","job"]"#.to_owned()),
        ("unknown-field", job("unknown-field", message, r#","colour":"red""#)),
        ("missing", r#"{"id":"missing","phone_number_id":"1"}"#.to_owned()),
        ("wrong-type", job("wrong-type", message, r#","priority":7"#)),
        (
            "number",
            format!(r#"{{"id":"number","phone_number_id":1027729340496751,"message":{message}}}"#),
        ),
        ("long-id", job(&"x".repeat(200), message, "")),
        (
            "times",
            job(
                "times",
                message,
                r#","not_before":"2030-01-02T00:00:00Z","expires_at":"2030-01-01T00:00:00Z""#,
            ),
        ),
        ("metadata", job("metadata", message, &format!(r#","metadata":"{}""#, "m".repeat(5000)))),
        ("deep", job("deep", message, &format!(r#","metadata":{deep}"#))),
        ("big", job("big", message, &format!(r#","metadata":"{}""#, "m".repeat(300 * 1024)))),
        ("no-recipient", job("no-recipient", r#"{"messaging_product":"whatsapp"}"#, "")),
    ];
    let mut jobs = Vec::new();
    for (index, (_, line)) in bad.iter().enumerate() {
        jobs.push(text(&format!("good-{index}"), "x"));
        jobs.push(line.clone());
    }
    let files = Files::new();
    let sent = files.send(World::new().await, &jobs).await;
    for index in 0..bad.len() {
        assert_eq!(sent.outcome(&format!("good-{index}")), "accepted after 1");
    }
    let without_id = ["no-json", "shape", "long-id"];
    for (id, _) in &bad {
        if !without_id.contains(id) {
            assert_eq!(sent.outcome(id), "failed invalid after 0");
            assert!(!sent.result(id).error.as_ref().unwrap().message.is_empty());
        }
    }
    assert_eq!(sent.tally.unreadable, without_id.len() as u64);
    assert_eq!(sent.results.len(), 2 * bad.len() - without_id.len());
    let dead = lines(&beside(&files.results, "dead-letters"));
    assert_eq!(dead.len(), bad.len());
    assert!(dead.iter().all(|letter| !letter["reason"].as_str().unwrap().is_empty()));
    assert_eq!(dead[1]["original"], bad[1].1);
}

#[tokio::test]
async fn an_id_that_names_two_messages_is_invalid_and_a_repeated_line_is_done_once() {
    let line = text("twice", "x");
    let sent = World::new().await.send(&[line.clone(), line, text("once", "x")]).await;
    assert_eq!(sent.tally.repeated, 1);
    assert_eq!(sent.sandbox.record().accepted_by_opaque("twice"), 1);

    let sent = World::new().await.send(&[text("same", "x"), text("same", "y")]).await;
    assert_eq!(sent.sandbox.record().count_accepted(), 1);
    let mut statuses: Vec<Status> = sent.results.iter().map(|result| result.status).collect();
    statuses.sort_by_key(|status| status.name());
    assert_eq!(statuses, [Status::Accepted, Status::Failed]);
}
