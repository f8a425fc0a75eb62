//! The program as operators run it: real processes, a real RabbitMQ, real signals.

use crate::support::broker::Broker;
use crate::support::cutter::Cutter;
use crate::support::process::{IN_TIME, Process, Program, faults, sandbox, write};
use crate::support::world::{NUMBER, text};
use chakra_sender::clock;
use chakra_sender::sandbox::{Latency, Record, Sandbox};
use futures_util::StreamExt;
use lapin::BasicProperties;
use lapin::options::{BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(5);

/// This many jobs, `job-0` and on, each to a recipient of its own.
fn jobs(count: usize) -> Vec<String> {
    (0..count).map(|n| text(&format!("job-{n}"), "x")).collect()
}

async fn ready_worker(program: Program) -> Process {
    let mut worker = program.start();
    worker.admin().await.ready().await;
    worker
}

async fn enqueue(broker: &Broker, dir: &tempfile::TempDir, lines: &[String]) {
    let file = write(dir, "jobs.jsonl", lines);
    let ended = Program::new(&["enqueue", file.to_str().unwrap()]).on(broker).run().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said());
}

async fn wait_for(sandbox: &Sandbox, reached: impl FnMut(&Record) -> bool) {
    let record = sandbox.record();
    let waited = timeout(IN_TIME, record.wait_for(reached)).await;
    assert!(waited.is_ok(), "the sandbox saw no more than {:?}", record.summary());
}

/// The status of each job by its id, with how often each stands there.
fn outcomes(results: &[String]) -> BTreeMap<String, Vec<String>> {
    let mut outcomes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in results {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        let [id, status] = ["id", "status"].map(|key| event[key].as_str().unwrap().to_owned());
        outcomes.entry(id).or_default().push(status);
    }
    outcomes
}

async fn kept_results(broker: &Broker) -> Vec<String> {
    let ended = Program::new(&["results", "--take"]).on(broker).run().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said());
    ended.out
}

#[tokio::test]
async fn a_worker_sends_what_is_enqueued_and_a_follower_sees_each_result() {
    let (sandbox, broker, dir) =
        (sandbox(|_| {}).await, Broker::shared(), tempfile::tempdir().unwrap());
    let mut worker = Program::worker(&sandbox, &broker).start();
    let admin = worker.admin().await;
    admin.ready().await;
    let mut follower = Program::new(&["results"]).on(&broker).start();
    follower.err.line("following").await;

    let mut four = jobs(3);
    four.insert(1, "{\"id\":\"bad\"}".into());
    let file = write(&dir, "jobs.jsonl", &four);
    let put = Program::new(&["enqueue", file.to_str().unwrap()]).on(&broker).run().await;
    assert_eq!(put.code, Some(1), "an invalid line is not all well");
    let [refused, closing] = &put.err[..] else { panic!("{}", put.said()) };
    assert!(refused.starts_with("line 2: not enqueued: "), "{refused}");
    assert!(closing.starts_with("3 enqueued and confirmed, 1 invalid, "), "{closing}");

    let seen = outcomes(&follower.out.count(3).await);
    let accepted = |n: usize| (format!("job-{n}"), vec!["accepted".to_owned()]);
    assert_eq!(seen, (0..3).map(accepted).collect());
    // A result is seen by others before its job is counted here.
    for line in [
        format!(
            r#"chakra_sender_results_total{{class="none",number="{NUMBER}",status="accepted"}} 3"#
        ),
        format!(r#"chakra_sender_jobs_received_total{{number="{NUMBER}",priority="normal"}} 3"#),
        "chakra_sender_broker_up 1".to_owned(),
        "chakra_sender_held_jobs 0".to_owned(),
    ] {
        admin.says("/metrics", 200, &line).await;
    }
    assert_eq!(admin.get("/livez").await.unwrap().0, 200);
    follower.signal("INT");
    assert_eq!(follower.end().await.code, Some(0));
}

#[tokio::test]
async fn a_worker_without_a_broker_lives_says_so_and_works_once_the_broker_is_there() {
    let (sandbox, broker) = (sandbox(|_| {}).await, Broker::shared());
    let (host, vhost) = broker.uri().split_once('@').unwrap().1.split_once('/').unwrap();
    let line = Cutter::to(host.rsplit(':').next().unwrap().parse().unwrap()).await;
    line.cut();
    let place = format!("127.0.0.1:{}", line.port);
    let uri = format!("amqp://guest:guest@{place}/{vhost}");
    let mut worker = Program::worker(&sandbox, &broker).set("rabbitmq.uri", &uri).start();
    let admin = worker.admin().await;
    let why = admin.says("/readyz", 503, &place).await;
    assert!(why.starts_with("rabbitmq: connecting: ") && !why.contains("guest"), "{why}");
    assert_eq!(admin.get("/livez").await.unwrap().0, 200);
    line.mend();
    admin.ready().await;
    worker.signal("TERM");
    let ended = worker.end().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said());
}

#[tokio::test]
async fn a_closed_port_is_named_without_the_password() {
    let (sandbox, broker) = (sandbox(|_| {}).await, Broker::shared());
    let uri = "amqp://someone:hidden-password@127.0.0.1:1/%2f";
    let mut worker = Program::worker(&sandbox, &broker).set("rabbitmq.uri", uri).start();
    let why = worker.admin().await.says("/readyz", 503, "127.0.0.1:1: ").await;
    assert!(why.contains("refused"), "{why}");
    worker.signal("TERM");
    let ended = worker.end().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said());
    assert!(!ended.said().contains("hidden-password") && !why.contains("hidden-password"));
}

/// A worker under load that has taken a SIGTERM: 200/s, answers after 200 ms.
async fn stopped_under_load(count: usize) -> (Sandbox, Broker) {
    let dir = tempfile::tempdir().unwrap();
    let latency = Latency::fixed(Duration::from_millis(200));
    let (sandbox, broker) = (sandbox(|config| config.latency = latency).await, Broker::shared());
    let program = Program::worker(&sandbox, &broker).set("limits.number.rate", "200");
    let worker = ready_worker(program).await;
    enqueue(&broker, &dir, &jobs(count)).await;
    wait_for(&sandbox, |record| record.count_accepted() >= 300).await;
    let asked = clock::monotonic();
    worker.signal("TERM");
    let ended = worker.end().await;
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
    assert_eq!(ended.code, Some(0), "{}", ended.said());
    for phase in ["finish the jobs in hand", "close the connections", "stop the admin listener"] {
        let told = |line: &String| line.contains(phase) && line.contains("drain: finished");
        assert!(ended.err.iter().any(told), "{phase} is not in\n{}", ended.said());
    }
    let balance = ended.err.iter().find(|line| line.contains("drained received=")).unwrap();
    assert!(balance.contains("held=0 gap=0") && balance.contains("INFO"), "{balance}");
    (sandbox, broker)
}

#[tokio::test]
async fn a_stop_under_load_is_soon_and_leaves_nothing_to_be_redelivered() {
    let (sandbox, broker) = stopped_under_load(1_500).await;
    let sent = usize::try_from(sandbox.record().count_accepted()).unwrap();
    let done = outcomes(&kept_results(&broker).await);
    assert_eq!(done.len(), sent, "each call has its result");
    let client = broker.client().await;
    let lane = format!("{}.sends.{NUMBER}", broker.prefix);
    let (options, none) =
        (BasicConsumeOptions { no_ack: true, ..Default::default() }, FieldTable::default());
    let mut rest =
        client.channel.basic_consume(lane.into(), "".into(), options, none).await.unwrap();
    // What was put back waits for a second: this comes behind all of it.
    let last = BasicProperties::default().with_message_id("last".into());
    client.publish((&format!("{}.wait.1s", broker.prefix), NUMBER), b"{}", last).await;
    let (mut ids, mut wrong) = (BTreeSet::new(), Vec::new());
    while !ids.contains("last") {
        let next = timeout(IN_TIME, rest.next()).await;
        let delivery = next.unwrap_or_else(|_| panic!("only {} came", ids.len())).unwrap().unwrap();
        let id = delivery.properties.message_id().clone().unwrap().to_string();
        // Redelivered alone says little: the broker takes back what was on the line at the cancel.
        if done.contains_key(&id) || !ids.insert(id.clone()) {
            wrong.push(id);
        }
    }
    assert_eq!(wrong, Vec::<String>::new(), "answered or put back, and yet there again");
    assert_eq!(ids.len(), 1 + 1_500 - sent);
}

#[tokio::test]
async fn a_second_worker_finishes_what_a_stop_has_left_and_nothing_is_sent_twice() {
    let (sandbox, broker) = stopped_under_load(3_000).await;
    let _second = ready_worker(Program::worker(&sandbox, &broker)).await;
    wait_for(&sandbox, |record| record.count_accepted() >= 3_000).await;
    assert_eq!(sandbox.record().duplicates(), BTreeMap::new());
    assert_eq!(sandbox.record().count_requests(), 3_000);
}

#[tokio::test]
async fn a_second_signal_leaves_at_once_although_a_call_hangs() {
    for (first, second) in [("TERM", "TERM"), ("INT", "TERM"), ("TERM", "INT")] {
        let (sandbox, broker) = (sandbox(|_| {}).await, Broker::shared());
        sandbox.set_faults(faults("[[faults]]\nhang = true\naccept = true")).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut worker = ready_worker(Program::worker(&sandbox, &broker)).await;
        enqueue(&broker, &dir, &jobs(1)).await;
        wait_for(&sandbox, |record| record.count_requests() == 1).await;
        worker.signal(first);
        worker.err.line("once more leaves at once").await;
        let asked = clock::monotonic();
        worker.signal(second);
        let ended = worker.end().await;
        assert_eq!(ended.code, Some(130), "{first}, {second}: {}", ended.said());
        assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    }
}

#[tokio::test]
async fn a_kill_under_load_loses_no_job_and_sends_none_twice() {
    let (sandbox, broker, dir) =
        (sandbox(|_| {}).await, Broker::shared(), tempfile::tempdir().unwrap());
    sandbox.set_latency(Latency::fixed(Duration::from_millis(100))).unwrap();
    let ledger = dir.path().join("ledger").display().to_string();
    let worker = || Program::worker(&sandbox, &broker).set("ledger.path", &ledger);
    let first = ready_worker(worker()).await;
    enqueue(&broker, &dir, &jobs(1_000)).await;
    wait_for(&sandbox, |record| record.count_accepted() >= 200).await;
    assert_eq!(first.kill().await.signal, Some(9));

    let mut results = Program::new(&["results"]).on(&broker).start();
    results.err.line("following").await;
    let mut seen = outcomes(&kept_results(&broker).await);
    let _second = ready_worker(worker()).await;
    let mut read = 0;
    while seen.len() < 1_000 {
        let lines = results.out.count(read + 1).await;
        for (id, statuses) in outcomes(&lines[read..]) {
            seen.entry(id).or_default().extend(statuses);
        }
        read = lines.len();
    }
    assert!(seen.values().flatten().all(|status| status == "accepted" || status == "unknown"));
    assert_eq!(sandbox.record().duplicates(), BTreeMap::new());
}

#[tokio::test]
async fn a_worker_that_waits_for_chakrahq_at_its_start_can_be_stopped() {
    let (sandbox, broker) = (sandbox(|_| {}).await, Broker::shared());
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", silent.local_addr().unwrap());
    let worker = Program::worker(&sandbox, &broker).set("chakra.base_url", &base).start();
    let _asking = timeout(IN_TIME, silent.accept()).await.unwrap().unwrap();
    let asked = clock::monotonic();
    worker.signal("TERM");
    let ended = worker.end().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said());
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
}

#[tokio::test]
async fn a_queue_that_cannot_be_worked_with_ends_the_worker_with_its_name() {
    let (sandbox, broker) = (sandbox(|_| {}).await, Broker::shared());
    let lane = format!("{}.sends.{NUMBER}", broker.prefix);
    let (options, none) = (QueueDeclareOptions::default(), FieldTable::default());
    let client = broker.client().await;
    client.channel.queue_declare(lane.as_str().into(), options, none).await.unwrap();
    let ended = Program::worker(&sandbox, &broker).run().await;
    assert_eq!(ended.code, Some(1), "{}", ended.said());
    let last = ended.err.last().unwrap();
    assert!(last.starts_with("chakra-sender: ") && last.contains(&lane), "{last}");
}

#[tokio::test]
async fn an_admin_address_that_is_taken_is_named() {
    let (sandbox, broker) = (sandbox(|_| {}).await, Broker::shared());
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended = Program::worker(&sandbox, &broker).set("admin.listen", &address).run().await;
    assert_eq!(ended.code, Some(1), "{}", ended.said());
    let said = format!("chakra-sender: admin.listen = {address}: ");
    assert!(ended.err.last().unwrap().starts_with(&said), "{}", ended.said());
}
