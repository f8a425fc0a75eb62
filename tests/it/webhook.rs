//! What became of messages: from ChakraHQ's webhooks, by real HTTP, to events in a real RabbitMQ.

use crate::support::broker::Broker;
use crate::support::cutter::Cutter;
use crate::support::process::{AdminPage, IN_TIME, Process, Program, sandbox, write};
use crate::support::webhook::{Answer, Hook, SECRET, events, of_meta, signature, status};
use crate::support::world::{NUMBER, text};
use chakra_sender::clock;
use chakra_sender::sandbox::{Latency, Sandbox, Webhook};
use lapin::message::Delivery;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What stands in front of the metrics of this room.
const WEBHOOKS: &str = "chakra_sender_webhooks_total";

/// A worker that hears webhooks and is ready.
struct Hearing {
    worker: Process,
    hook: Hook,
    admin: AdminPage,
    broker: Broker,
    sandbox: Sandbox,
}

impl Hearing {
    async fn begin(change: impl FnOnce(Program) -> Program) -> Hearing {
        let (sandbox, broker) = (sandbox(|_| {}).await, Broker::shared());
        let program = Program::worker(&sandbox, &broker).set("webhook.listen", "127.0.0.1:0");
        let mut worker = change(program).start();
        let admin = worker.admin().await;
        admin.says("/metrics", 200, "chakra_sender_lanes_owned 2").await;
        admin.ready().await;
        let hook = Hook::of(&mut worker).await;
        Hearing { worker, hook, admin, broker, sandbox }
    }

    async fn signed() -> Hearing {
        Hearing::begin(|program| program.set("webhook.secret", SECRET)).await
    }

    /// Repeats a webhook until it is taken, as its sender does. How often it was refused.
    async fn insist(&self, body: &Value) -> usize {
        let insisting = async {
            let mut refused = 0;
            loop {
                let answer = self.hook.post(body).await;
                match answer.status {
                    200 => return refused,
                    503 => refused += 1,
                    _ => panic!("{answer:?}"),
                }
            }
        };
        let insisted = tokio::time::timeout(IN_TIME, insisting).await;
        insisted.expect("a webhook was never taken")
    }

    async fn counted(&self, series: &str) {
        self.admin.says("/metrics", 200, series).await;
    }
}

/// The routing key and the content of an event.
fn read(event: &Delivery) -> (String, Value) {
    (event.routing_key.to_string(), serde_json::from_slice(&event.data).unwrap())
}

fn message_id(event: &Delivery) -> String {
    event.properties.message_id().as_ref().unwrap().to_string()
}

#[tokio::test]
async fn statuses_of_both_shapes_become_events() {
    let story = Hearing::signed().await;
    let failed = json!({ "id": "wamid.2", "status": "failed", "timestamp": "1795168801",
        "errors": [{ "code": 131_049, "title": "Not sent to 919901258433" }] });
    let foreign = json!({ "id": "wamid.3", "status": "read", "timestamp": "1795168802",
        "biz_opaque_callback_data": "campaign 12" });
    story.insist(&of_meta(NUMBER, &[status("wamid.1", "sent"), failed])).await;
    story.insist(&of_meta("555", &[foreign])).await;
    story
        .insist(&json!({ "event": "status", "payload": { "externalId": "wamid.1",
            "deliveryStatus": "DELIVERED", "timestamp": 1_795_168_803_123_i64 } }))
        .await;

    let events = events(&story.broker).await;
    let [sent, failed, foreign, delivered] = &events[..] else { panic!("{events:?}") };
    let expected = json!({ "event": "status", "id": "job-of-wamid.1", "phone_number_id": NUMBER,
        "status": "sent", "whatsapp_message_id": "wamid.1", "at": "2026-11-20T10:00:00.000Z",
        "opaque": null, "error": null, "metadata": null });
    assert_eq!(read(sent), (format!("status.sent.{NUMBER}"), expected));
    assert_eq!(message_id(sent), "wamid.1:sent");
    assert_eq!(sent.properties.delivery_mode(), &Some(2));
    assert_eq!(sent.properties.content_type().as_ref().unwrap().as_str(), "application/json");
    let (key, event) = read(failed);
    assert_eq!((key, &event["id"]), (format!("status.failed.{NUMBER}"), &json!(null)));
    let error = json!({ "class": "refused", "scope": "recipient", "code": 131_049,
        "http_status": null, "message": "(#131049) Not sent to …33" });
    assert_eq!(event["error"], error);
    let (key, event) = read(foreign);
    assert_eq!((key.as_str(), &event["opaque"]), ("status.read.555", &json!("campaign 12")));
    let (key, event) = read(delivered);
    assert_eq!(
        (key.as_str(), &event["at"]),
        ("status.delivered.unknown", &json!("2026-11-20T10:00:03.123Z"))
    );
    for series in [
        &format!(r#"statuses_total{{number="{NUMBER}",status="sent"}} 1"#),
        r#"statuses_total{number="unknown",status="read"} 1"#,
        r#"statuses_total{number="unknown",status="delivered"} 1"#,
        r#"publishes_total{kind="status",outcome="confirmed"} 4"#,
    ] {
        story.counted(series).await;
    }
}

#[tokio::test]
async fn a_status_may_come_before_the_result_of_its_own_job() {
    let story = Hearing::signed().await;
    story.insist(&of_meta(NUMBER, &[status("wamid.1", "sent")])).await;
    let dir = tempfile::tempdir().unwrap();
    let file = write(&dir, "jobs.jsonl", &[text("job-of-wamid.1", "x")]).display().to_string();
    let ended = Program::new(&["enqueue", &file]).on(&story.broker).run().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said());
    story.counted(&format!(r#"number="{NUMBER}",status="accepted"}} 1"#)).await;
    let events: Vec<Value> =
        events(&story.broker).await.iter().map(|event| read(event).1).collect();
    let told: Vec<[&str; 2]> = events
        .iter()
        .map(|event| ["id", "status"].map(|key| event[key].as_str().unwrap()))
        .collect();
    assert_eq!(told, [["job-of-wamid.1", "sent"], ["job-of-wamid.1", "accepted"]]);
}

#[tokio::test]
async fn a_producer_learns_what_became_of_each_job() {
    const JOBS: usize = 5;
    let story = Hearing::signed().await;
    let soon = Latency::fixed(Duration::from_millis(100));
    let webhook = Webhook {
        url: Some(story.hook.url()),
        secret: Some(SECRET.into()),
        sent_after: soon,
        delivered_after: soon,
        read_after: soon,
        read: 1.0,
        retries: 20,
        backoff: Duration::from_millis(50),
        ..Webhook::default()
    };
    story.sandbox.set_webhook(webhook).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let jobs: Vec<String> = (0..JOBS).map(|n| text(&format!("job-{n}"), "x")).collect();
    let file = write(&dir, "jobs.jsonl", &jobs).display().to_string();
    let ended = Program::new(&["enqueue", &file]).on(&story.broker).run().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said());
    story.counted(&format!(r#"statuses_total{{number="{NUMBER}",status="read"}} {JOBS}"#)).await;
    let mut told: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for event in events(&story.broker).await {
        let (_, event) = read(&event);
        let [id, status] = ["id", "status"].map(|key| event[key].as_str().unwrap().to_owned());
        told.entry(id).or_default().insert(status);
    }
    let all = BTreeSet::from(["accepted", "sent", "delivered", "read"].map(str::to_owned));
    assert_eq!(told, (0..JOBS).map(|n| (format!("job-{n}"), all.clone())).collect());
}

#[tokio::test]
async fn repeats_and_steps_back_are_acknowledged_and_told_to_nobody() {
    let story = Hearing::signed().await;
    for word in ["sent", "delivered", "delivered", "sent", "failed", "read", "read"] {
        story.insist(&of_meta(NUMBER, &[status("wamid.1", word)])).await;
    }
    let told: Vec<String> = events(&story.broker).await.iter().map(message_id).collect();
    assert_eq!(told, ["wamid.1:sent", "wamid.1:delivered", "wamid.1:read"]);
    story.counted(r#"passed_over_total{why="repeat"} 2"#).await;
    story.counted(r#"passed_over_total{why="step-back"} 2"#).await;
}

#[tokio::test]
async fn other_events_are_acknowledged_and_counted() {
    let story = Hearing::signed().await;
    let message =
        json!({ "event": "message", "payload": { "message": { "from": "919901258433" } } });
    for body in [message, of_meta(NUMBER, &[status("wamid.1", "warning"), json!(7)])] {
        assert_eq!(story.hook.post(&body).await.status, 200);
    }
    for why in ["other", "unknown-status", "strange"] {
        story.counted(&format!(r#"passed_over_total{{why="{why}"}} 1"#)).await;
    }
    assert!(events(&story.broker).await.is_empty());
}

#[tokio::test]
async fn bad_input_is_refused_counted_and_never_shown() {
    let story = Hearing::signed().await;
    let body =
        of_meta(NUMBER, &[json!({ "id": "wamid.secret-body", "status": "sent" })]).to_string();
    let body = body.as_bytes();
    let announced = "POST /webhook HTTP/1.1\r\ncontent-length: 3145729\r\n";
    let (hook, good) = (&story.hook, signature(body));
    let cases: [(&str, u16, Answer); 7] = [
        ("wrong-signature", 401, hook.send("POST /webhook", &signature(b"other"), body).await),
        ("wrong-signature", 401, hook.send("POST /webhook", "", body).await),
        (
            "not-json",
            400,
            hook.send("POST /webhook", &signature(b"secret-body"), b"secret-body").await,
        ),
        ("too-large", 413, hook.write(&format!("{announced}{good}"), b"secret-body").await),
        ("wrong-path", 404, hook.send("POST /secret-body", &good, body).await),
        ("wrong-method", 405, hook.send("PUT /webhook", &good, body).await),
        ("wrong-token", 403, hook.send("GET /webhook?hub.verify_token=secret-body", "", b"").await),
    ];
    for (reason, status, answer) in cases {
        assert_eq!((answer.status, answer.body.trim_end()), (status, reason));
        let count = if status == 401 { 2 } else { 1 };
        story.counted(&format!(r#"{WEBHOOKS}{{outcome="{reason}"}} {count}"#)).await;
    }
    assert!(events(&story.broker).await.is_empty());
    story.worker.signal("TERM");
    let ended = story.worker.end().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said());
    let warnings = ended.err.iter().filter(|line| line.contains("a webhook was refused"));
    assert_eq!(warnings.count(), 6, "one for each kind");
    for hidden in ["secret-body", SECRET] {
        assert!(!ended.said().contains(hidden), "{}", ended.said());
    }
}

#[tokio::test]
async fn a_path_with_a_secret_segment_needs_no_signature_and_is_not_shown() {
    let segment = "segment-0123456789";
    let story = Hearing::begin(|program| program.set("webhook.path_secret", segment)).await;
    let body = of_meta(NUMBER, &[status("wamid.1", "sent")]).to_string();
    let post =
        async |path: &str| story.hook.send(&format!("POST {path}"), "", body.as_bytes()).await;
    assert_eq!(post("/webhook").await.status, 404);
    assert_eq!(post("/webhook/segment-0123456780").await.status, 404);
    assert_eq!(post(&format!("/webhook/{segment}")).await.status, 200);
    assert_eq!(events(&story.broker).await.len(), 1);
    let ended = story.worker.kill().await;
    assert!(!ended.said().contains("segment-"), "{}", ended.said());
}

#[tokio::test]
async fn metas_challenge_is_answered_to_who_knows_the_token() {
    let change = |program: Program| {
        program.set("webhook.secret", SECRET).set("webhook.verify_token", "sesame")
    };
    let story = Hearing::begin(change).await;
    let ask = async |token: &str| {
        let query = format!("hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token={token}");
        story.hook.send(&format!("GET /webhook?{query}"), "", b"").await
    };
    let answer = ask("sesame").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "1158201444"));
    assert!(answer.head.contains("content-type: text/plain"), "{}", answer.head);
    assert_eq!(ask("sesam").await.status, 403);
    story.counted(&format!(r#"{WEBHOOKS}{{outcome="challenge"}} 1"#)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_broker_is_away_webhooks_are_refused_and_nothing_that_was_taken_is_lost() {
    const STATUSES: usize = 60;
    let broker = Broker::shared();
    let port: u16 = broker.uri().rsplit([':', '/']).nth(1).unwrap().parse().unwrap();
    let line = Cutter::to(port).await;
    let through = broker.uri().replace(&port.to_string(), &line.port.to_string());
    let story = Hearing::begin(|program| {
        let program = program.set("webhook.secret", SECRET);
        program.set("rabbitmq.prefix", &broker.prefix).set("rabbitmq.uri", &through)
    })
    .await;
    let body = |n: usize| of_meta(NUMBER, &[status(&format!("wamid.{n}"), "sent")]);
    let mut refused = 0;
    for n in 0..STATUSES {
        if n == STATUSES / 3 {
            line.cut();
            let begun = clock::monotonic();
            let answer = story.hook.post(&body(n)).await;
            let took = begun.elapsed();
            assert_eq!(answer.status, 503);
            assert!(answer.head.contains("retry-after: 1"), "{}", answer.head);
            assert!(took < Duration::from_secs(2), "it took {took:?}");
            line.mend();
        }
        refused += story.insist(&body(n)).await;
    }
    let told: BTreeSet<String> = events(&broker).await.iter().map(message_id).collect();
    let sent: BTreeSet<String> = (0..STATUSES).map(|n| format!("wamid.{n}:sent")).collect();
    assert_eq!(told, sent);
    println!("refused meanwhile: {refused}");
    story.counted(&format!(r#"{WEBHOOKS}{{outcome="taken"}} {STATUSES}"#)).await;
}

#[tokio::test]
async fn a_listener_that_anybody_could_write_to_is_refused() {
    let (sandbox, broker) = (sandbox(|_| {}).await, Broker::shared());
    let program = Program::worker(&sandbox, &broker).set("webhook.listen", "127.0.0.1:0");
    let ended = program.run().await;
    assert_eq!(ended.code, Some(2));
    assert!(ended.said().contains("webhook.listen = \"127.0.0.1:0\""), "{}", ended.said());
    assert!(ended.said().contains("needs webhook.secret"), "{}", ended.said());
}
