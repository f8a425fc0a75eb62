//! `numbers` as operators run it: real processes against a real RabbitMQ.

use crate::support::broker::{Broker, Client};
use crate::support::pipeline::Plan;
use crate::support::process::{
    AdminPage, Ended, IN_TIME, Process, Program, sandbox, use_both_lanes, write,
};
use crate::support::world::{NUMBER, OTHER, job, text};
use chakra_sender::clock;
use chakra_sender::policy::DropRule;
use chakra_sender::queue::rabbitmq::topology::Step;
use chakra_sender::queue::rabbitmq::{Console, LONGEST_DROP};
use chakra_sender::sandbox::{Record, Sandbox};
use chakra_sender::wire::NumberId;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tokio::time::timeout;

/// A broker on which both lanes stand, with no worker left.
struct Desk {
    sandbox: Sandbox,
    broker: Broker,
}

impl Desk {
    async fn open() -> Desk {
        let desk = Desk { sandbox: sandbox(|_| {}).await, broker: Broker::shared() };
        let (worker, admin) = desk.worker().await;
        use_both_lanes(&desk.broker, &admin).await;
        worker.signal("TERM");
        assert_eq!(worker.end().await.code, Some(0));
        desk.kept_results().await;
        desk
    }

    async fn worker(&self) -> (Process, AdminPage) {
        let mut worker = Program::worker(&self.sandbox, &self.broker).start();
        let admin = worker.admin().await;
        admin.ready().await;
        (worker, admin)
    }

    fn numbers(&self, arguments: &[&str]) -> Program {
        Program::new(&[&["numbers"], arguments].concat()).on(&self.broker)
    }

    async fn run(&self, arguments: &[&str]) -> Ended {
        self.numbers(arguments).run().await
    }

    async fn done(&self, arguments: &[&str]) -> Ended {
        let ended = self.run(arguments).await;
        assert_eq!(ended.code, Some(0), "{arguments:?}: {}", ended.said());
        ended
    }

    /// What `numbers list --json` says of each number.
    async fn list(&self) -> BTreeMap<String, Value> {
        let listed = self.done(&["list", "--json"]).await;
        let rows = listed.out.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
        rows.map(|row| (row["phone_number_id"].as_str().unwrap().to_owned(), row)).collect()
    }

    async fn enqueue(&self, lines: &[String]) {
        let dir = tempfile::tempdir().unwrap();
        let file = write(&dir, "jobs.jsonl", lines).display().to_string();
        let ended = Program::new(&["enqueue", &file]).on(&self.broker).run().await;
        assert_eq!(ended.code, Some(0), "{}", ended.said());
    }

    /// Status, class, scope and message of each result that is kept, by the job's id.
    async fn kept_results(&self) -> BTreeMap<String, [String; 4]> {
        let ended = Program::new(&["results", "--take"]).on(&self.broker).run().await;
        assert_eq!(ended.code, Some(0), "{}", ended.said());
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let events = ended.out.iter().map(|line| {
            let event: Value = serde_json::from_str(line).unwrap();
            let error = &event["error"];
            let of = [&event["status"], &error["class"], &error["scope"], &error["message"]];
            (text(&event["id"]), of.map(text))
        });
        events.collect()
    }

    async fn sent(&self, reached: impl FnMut(&Record) -> bool) {
        let record = self.sandbox.record();
        let waited = timeout(IN_TIME, record.wait_for(reached)).await;
        assert!(waited.is_ok(), "the sandbox saw no more than {:?}", record.summary());
    }

    async fn depth(&self, client: &Client, queue: &str) -> u32 {
        client.depth(queue).await
    }
}

/// Jobs of a campaign, `<campaign>-0` and on.
fn campaign(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| of_campaign(&format!("{name}-{n}"), name)).collect()
}

fn of_campaign(id: &str, name: &str) -> String {
    let to = format!("+9990{:08}", fastrand::u32(..100_000_000));
    let message = json!({ "messaging_product": "whatsapp", "to": to, "text": { "body": "Sale!" } });
    job(id, &message.to_string(), &format!(r#","metadata":{{"campaign":"{name}"}}"#))
}

fn dropped() -> [String; 4] {
    ["failed", "blocked", "number", "dropped by an operator: wrong list"].map(str::to_owned)
}

const DROP: [&str; 7] =
    ["drop", NUMBER, "--metadata", "campaign=a", "--reason", "wrong list", "--yes"];

#[tokio::test]
async fn a_pause_outlives_all_workers_and_shows_wherever_operators_look() {
    let desk = Desk::open().await;
    let (mut worker, admin) = desk.worker().await;
    let paused = desk.done(&["pause", NUMBER, "--for", "2h", "--reason", "the wrong list"]).await;
    assert!(paused.err[0].contains("is paused until 20"), "{}", paused.said());
    let gauge = format!(r#"chakra_sender_paused{{number="{NUMBER}",reason="operator"}} 1"#);
    admin.says("/metrics", 200, &gauge).await;
    let line = worker.err.line("an operator pauses the number").await;
    assert!(line.contains("the wrong list") && line.contains(NUMBER), "{line}");
    worker.kill().await;

    let (mut worker, admin) = desk.worker().await;
    let page: Value = serde_json::from_str(&admin.says("/numbers", 200, "list").await).unwrap();
    assert_eq!(
        (&page[0]["number"], &page[0]["paused"]["reason"]),
        (&json!(NUMBER), &json!("the wrong list"))
    );
    admin.says("/metrics", 200, &gauge).await;
    let listed = desk.list().await;
    assert_eq!(listed[NUMBER]["paused"]["reason"], "the wrong list");
    assert_eq!(listed[OTHER]["paused"], Value::Null);

    let resumed = desk.done(&["resume", NUMBER]).await;
    assert_eq!(resumed.err, [format!("{NUMBER} is resumed")]);
    worker.err.line("an operator resumes the number").await;
    assert!(!admin.get("/metrics").await.unwrap().1.contains("chakra_sender_paused{"));
    assert_eq!(desk.list().await[NUMBER]["paused"], Value::Null);
    let again = desk.done(&["resume", NUMBER]).await;
    assert_eq!(again.err, [format!("{NUMBER} was not paused")]);
}

#[tokio::test]
async fn a_pause_ends_by_itself() {
    let desk = Desk::open().await;
    let (mut worker, _admin) = desk.worker().await;
    desk.done(&["pause", NUMBER, "--for", "1s", "--reason", "a moment"]).await;
    worker.err.line("an operator pauses the number").await;
    worker.err.line("the operator's pause of the number is over").await;
    assert_eq!(desk.list().await[NUMBER]["paused"], Value::Null);
}

#[tokio::test]
async fn a_list_shows_what_waits_in_the_broker_also_when_no_worker_runs() {
    let desk = Desk::open().await;
    let urgent = text("u", "x").replace(r#""message""#, r#""priority":"urgent","message""#);
    desk.enqueue(&[campaign("a", 3), vec![urgent]].concat()).await;
    let listed = desk.list().await;
    assert_eq!(listed.keys().collect::<Vec<_>>(), [NUMBER, OTHER]);
    let row = &listed[NUMBER];
    assert_eq!(row["ready"], json!({ "normal": 3, "urgent": 1 }));
    assert_eq!((&row["has_lane"], &row["is_read"]), (&json!(true), &json!(false)));
    assert_eq!(listed[OTHER]["ready"], json!({ "normal": 0, "urgent": 0 }));

    let table = desk.done(&["list"]).await;
    assert_eq!(table.out.len(), 3, "{}", table.said());
    assert!(table.out[1].starts_with(NUMBER) && table.out[1].ends_with("no worker reads it"));
    assert!(table.err[0].starts_with("no worker answers"), "{}", table.said());
}

#[tokio::test]
async fn a_number_without_a_lane_can_be_paused_and_what_makes_no_sense_is_refused() {
    let desk = Desk::open().await;
    let ended = desk.done(&["pause", "4711", "--reason", "not yet"]).await;
    assert!(ended.err[0].contains("has no lane yet"), "{}", ended.said());
    let row = &desk.list().await["4711"];
    assert_eq!((&row["has_lane"], &row["paused"]["until"]), (&json!(false), &Value::Null));
    assert_eq!((&row["ready"], &row["paused"]["reason"]), (&Value::Null, &json!("not yet")));

    for wrong in [
        &["pause", "no-number", "--reason", "x"][..],
        &["pause", NUMBER],
        &["pause", NUMBER, "--reason", "a\u{1b}[2J"],
        &["pause", NUMBER, "--reason", "x", "--for", "soon"],
        &["drop", NUMBER],
        &["drop", NUMBER, "--yes", "--metadata", "campaign"],
    ] {
        let ended = desk.run(wrong).await;
        assert_eq!(ended.code, Some(2), "{wrong:?}: {}", ended.said());
    }
    let nothing = desk.run(&["drop", "4712", "--yes"]).await;
    assert_eq!(nothing.code, Some(1), "{}", nothing.said());
    assert!(nothing.err[0].contains("4712 has no lane"), "{}", nothing.said());
    let elsewhere = desk.numbers(&["list"]).set("rabbitmq.prefix", "nobody").run().await;
    assert_eq!(elsewhere.code, Some(1), "{}", elsewhere.said());
    assert!(elsewhere.said().contains("is rabbitmq.prefix right"), "{}", elsewhere.said());
}

#[tokio::test]
async fn a_drop_ends_what_it_names_and_spares_the_rest_and_what_comes_later() {
    let desk = Desk::open().await;
    let before = desk.sandbox.record().count_requests();
    desk.enqueue(&[campaign("a", 30), campaign("b", 5)].concat()).await;
    let mut drop = desk.numbers(&DROP).start();
    drop.err.line("has 35 normal and 0 urgent jobs waiting").await;
    drop.err.line("no worker reads the lane").await;
    // Enqueued while the drop runs.
    let later = u64::try_from(clock::wall().as_second() + 5).unwrap();
    let properties = BasicProperties::default().with_timestamp(later);
    let (client, job) = (desk.broker.client().await, of_campaign("late", "a"));
    let to = desk.broker.names().sends();
    client.publish((&to, NUMBER), job.as_bytes(), properties).await;

    let (_worker, admin) = desk.worker().await;
    let ended = drop.end().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said());
    assert!(ended.err.contains(&"30 dropped".to_owned()), "{}", ended.said());
    desk.sent(|record| record.count_accepted() >= before + 6).await;
    admin.says("/metrics", 200, r#"status="failed"} 30"#).await;
    admin.says("/metrics", 200, "chakra_sender_held_jobs 0").await;
    let results = desk.kept_results().await;
    for (id, of) in &results {
        match id.starts_with("a-") {
            true => assert_eq!(*of, dropped(), "{id}"),
            false => assert_eq!(of[0], "accepted", "{id}"),
        }
    }
    assert_eq!((results.len(), desk.sandbox.record().count_requests()), (36, before + 6));
    assert_eq!(desk.depth(&client, &desk.broker.names().dead_letters()).await, 0);
}

#[tokio::test]
async fn a_drop_on_a_paused_number_sends_nothing_of_it() {
    let desk = Desk::open().await;
    let before = desk.sandbox.record().count_requests();
    desk.enqueue(&[campaign("a", 10), campaign("b", 5)].concat()).await;
    desk.done(&["pause", NUMBER, "--reason", "wrong list"]).await;
    let mut drop = desk.numbers(&DROP).start();
    drop.err.line("no worker reads the lane").await;
    assert_eq!(desk.list().await[NUMBER]["is_dropping"], true);
    let (_worker, admin) = desk.worker().await;
    let ended = drop.end().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said());
    assert!(ended.err.contains(&"10 dropped".to_owned()), "{}", ended.said());
    admin.says("/metrics", 200, "chakra_sender_held_jobs 0").await;
    let client = desk.broker.client().await;
    let waiting = desk.broker.names().wait(Step::Minutes2);
    assert_eq!(desk.depth(&client, &waiting).await, 5, "they come back in two minutes");
    assert_eq!(desk.sandbox.record().count_requests(), before);
    assert_eq!(desk.list().await[NUMBER]["is_dropping"], false);
}

#[tokio::test]
async fn a_drop_that_is_stopped_leaves_what_nobody_has_read() {
    let desk = Desk::open().await;
    desk.enqueue(&campaign("a", 5)).await;
    let mut drop = desk.numbers(&DROP).start();
    drop.err.line("no worker reads the lane").await;
    drop.signal("INT");
    let ended = drop.end().await;
    assert_eq!(ended.code, Some(1), "{}", ended.said());
    assert!(ended.said().contains("0 dropped") && ended.said().contains("stopped: "));
    let (_worker, admin) = desk.worker().await;
    admin.says("/metrics", 200, r#"status="accepted"} 5"#).await;
    assert!(desk.kept_results().await.values().all(|of| of[0] == "accepted"));
}

#[tokio::test]
async fn a_job_that_comes_back_from_a_wait_is_dropped_after_the_drop_too() {
    let desk = Desk::open().await;
    let before = clock::wall();
    let (_worker, admin) = desk.worker().await;
    let ended = desk.done(&DROP).await;
    assert!(ended.err.contains(&"0 dropped".to_owned()), "{}", ended.said());
    let (client, names) = (desk.broker.client().await, desk.broker.names());
    let mut headers = FieldTable::default();
    let received = AMQPValue::LongString(before.to_string().into());
    headers.insert("x-first-received".into(), received);
    let waited = BasicProperties::default().with_headers(headers);
    let old = of_campaign("a-0", "a");
    client.publish((&names.wait(Step::Second), NUMBER), old.as_bytes(), waited).await;
    let new = of_campaign("a-1", "a");
    client.publish((&names.sends(), NUMBER), new.as_bytes(), BasicProperties::default()).await;
    admin.says("/metrics", 200, r#"status="accepted"} 1"#).await;
    admin.says("/metrics", 200, r#"class="blocked","#).await;
    let results = desk.kept_results().await;
    assert_eq!((&results["a-0"], results["a-1"][0].as_str()), (&dropped(), "accepted"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_may_have_been_sent_is_looked_for_and_not_dropped() {
    let story = Plan::on(Broker::shared()).start().await;
    let connection = story.broker().settings().connection;
    let mut console = Console::connect(&connection, &story.broker().prefix).await.unwrap();
    let from = clock::wall();
    let rule = DropRule {
        id: "all".into(),
        number: NumberId::parse(NUMBER).unwrap(),
        metadata: None,
        reason: "wrong list".into(),
        from,
        until: from + LONGEST_DROP,
    };
    console.begin_drop(&rule).await.unwrap();
    let plain = of_campaign("unsent", "a");
    story.publish(NUMBER, plain.as_bytes(), BasicProperties::default()).await;
    assert_eq!(story.result("unsent").await.outcome(), "failed blocked after 0");
    let mut headers = FieldTable::default();
    headers.insert("x-attempts".into(), AMQPValue::LongLongInt(1));
    let tried = BasicProperties::default().with_headers(headers);
    let doubtful = text("tried", "x").replace(r#""message""#, r#""on_doubt":"resend","message""#);
    story.publish(NUMBER, doubtful.as_bytes(), tried).await;
    assert_eq!(story.result("tried").await.outcome(), "accepted after 2");
    console.close().await;
}
