//! A pause as the workers obey it: real processes, a real RabbitMQ.

use crate::support::broker::Broker;
use crate::support::process::{
    AdminPage, IN_TIME, Process, Program, sandbox, use_both_lanes, write,
};
use crate::support::world::{NUMBER, OTHER, text};
use chakra_sender::clock;
use chakra_sender::sandbox::{Record, Sandbox};
use lapin::BasicProperties;
use std::time::Duration;
use tokio::time::timeout;

/// All workers obey a pause within this (DESIGN 4).
const OBEYED: Duration = Duration::from_secs(2);

/// A worker that serves two lanes, and a backlog of one of them that takes a while.
struct Desk {
    sandbox: Sandbox,
    broker: Broker,
    worker: Process,
    admin: AdminPage,
}

impl Desk {
    async fn open(rate: &str) -> Desk {
        let (sandbox, broker) = (sandbox(|_| {}).await, Broker::shared());
        let mut worker = start(&sandbox, &broker, rate);
        let admin = worker.admin().await;
        admin.ready().await;
        use_both_lanes(&broker, &admin).await;
        Desk { sandbox, broker, worker, admin }
    }

    async fn numbers(&self, arguments: &[&str]) {
        let ended = Program::new(&[&["numbers"], arguments].concat()).on(&self.broker).run().await;
        assert_eq!(ended.code, Some(0), "{arguments:?}: {}", ended.said());
    }

    async fn enqueue(&self, lines: &[String]) {
        let dir = tempfile::tempdir().unwrap();
        let file = write(&dir, "jobs.jsonl", lines).display().to_string();
        let ended = Program::new(&["enqueue", &file]).on(&self.broker).run().await;
        assert_eq!(ended.code, Some(0), "{}", ended.said());
    }

    async fn sent(&self, reached: impl FnMut(&Record) -> bool) {
        let record = self.sandbox.record();
        let waited = timeout(IN_TIME, record.wait_for(reached)).await;
        assert!(waited.is_ok(), "the sandbox saw no more than {:?}", record.summary());
    }
}

fn start(sandbox: &Sandbox, broker: &Broker, rate: &str) -> Process {
    Program::worker(sandbox, broker).set("limits.number.rate", rate).start()
}

/// This many jobs of a number, each to a recipient of its own.
fn jobs(name: &str, of: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| text(&format!("{name}-{n}"), "x").replace(NUMBER, of)).collect()
}

fn accepted(record: &Record, number: &str) -> usize {
    record.summary().numbers.get(number).map_or(0, |number| number.accepted)
}

#[tokio::test]
async fn a_paused_number_sends_nothing_the_others_go_on_and_resumed_it_loses_nothing() {
    let desk = Desk::open("20").await;
    let record = desk.sandbox.record();
    desk.enqueue(&jobs("backlog", NUMBER, 100)).await;
    desk.sent(|record| accepted(record, NUMBER) >= 10).await;
    desk.numbers(&["pause", NUMBER, "--reason", "the wrong list"]).await;
    let told = clock::monotonic();
    desk.admin
        .says("/metrics", 200, &format!(r#"paused{{number="{NUMBER}",reason="operator"}} 1"#))
        .await;
    assert!(told.elapsed() < OBEYED, "{:?}", told.elapsed());
    // It is shown before what has begun is answered.
    tokio::time::sleep_until(told + OBEYED).await;
    let when_paused = accepted(&record, NUMBER);
    desk.enqueue(&jobs("other", OTHER, 60)).await;
    desk.sent(|record| accepted(record, OTHER) > 60).await;
    assert_eq!(accepted(&record, NUMBER), when_paused, "sent although it is paused");

    desk.numbers(&["resume", NUMBER]).await;
    desk.sent(|record| accepted(record, NUMBER) > 100).await;
    assert_eq!(record.duplicates().len(), 0);
    desk.worker.signal("TERM");
    let ended = desk.worker.end().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said());
}

#[tokio::test]
async fn a_pause_is_obeyed_at_once_although_jobs_keep_coming() {
    let desk = Desk::open("200").await;
    let (record, client) = (desk.sandbox.record(), desk.broker.client().await);
    let sends = format!("{}.sends", desk.broker.prefix);
    let steady = jobs("steady", NUMBER, 150);
    let producer = async {
        for job in &steady {
            client.publish((&sends, NUMBER), job.as_bytes(), BasicProperties::default()).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let operator = async {
        desk.sent(|record| accepted(record, NUMBER) >= 10).await;
        desk.numbers(&["pause", NUMBER, "--reason", "the wrong list"]).await;
        let paused = format!(r#"paused{{number="{NUMBER}",reason="operator"}} 1"#);
        desk.admin.says("/metrics", 200, &paused).await;
        accepted(&record, NUMBER)
    };
    let ((), when_paused) = tokio::join!(producer, operator);
    let after = accepted(&record, NUMBER) - when_paused;
    assert!(when_paused < 100, "too late to tell: {when_paused}");
    assert!(after <= 5, "{after} were sent after the pause was read");

    desk.numbers(&["resume", NUMBER]).await;
    desk.sent(|record| accepted(record, NUMBER) > steady.len()).await;
    assert_eq!(record.duplicates().len(), 0);
}

#[tokio::test]
async fn a_pause_survives_the_restart_of_all_workers_and_ends_by_itself() {
    let desk = Desk::open("200").await;
    desk.numbers(&["pause", NUMBER, "--for", "6s", "--reason", "a short rest"]).await;
    let paused = clock::monotonic();
    desk.worker.signal("TERM");
    assert_eq!(desk.worker.end().await.code, Some(0));
    let mut again = start(&desk.sandbox, &desk.broker, "200");
    again.admin().await.ready().await;
    let dir = tempfile::tempdir().unwrap();
    let both = [jobs("paused", NUMBER, 3), jobs("other", OTHER, 3)].concat();
    let file = write(&dir, "jobs.jsonl", &both).display().to_string();
    let put = Program::new(&["enqueue", &file]).on(&desk.broker).run().await;
    assert_eq!(put.code, Some(0), "{}", put.said());
    let record = desk.sandbox.record();
    let all = |number: &'static str| move |record: &Record| accepted(record, number) == 4;
    timeout(IN_TIME, record.wait_for(all(OTHER))).await.expect("the other number is not paused");
    timeout(IN_TIME, record.wait_for(all(NUMBER))).await.expect("the pause never ended");
    assert!(paused.elapsed() >= Duration::from_secs(5), "{:?}", paused.elapsed());
}
