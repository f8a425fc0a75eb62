//! What workers make of statuses: real processes, a real RabbitMQ, and the sandbox's webhooks, which all
//! come to one of the workers.

use crate::support::broker::Broker;
use crate::support::process::{AdminPage, IN_TIME, Process, Program, faults, sandbox, write};
use crate::support::webhook::{Hook, SECRET, events};
use crate::support::world::{NUMBER, OTHER, job, text};
use chakra_sender::sandbox::{Failure, Latency, Record, Sandbox, Webhook, WebhookShape};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A worker, and its admin listener.
struct Worker {
    _process: Process,
    admin: AdminPage,
}

/// Workers that share two numbers. The first one hears webhooks.
struct Story {
    sandbox: Sandbox,
    broker: Broker,
    url: String,
    workers: Vec<Worker>,
}

impl Story {
    /// With so many workers, and webhooks like these.
    async fn begin(workers: usize, webhook: Webhook) -> Story {
        let (sandbox, broker) = (sandbox(|_| {}).await, Broker::shared());
        let mut story = Story { sandbox, broker, url: String::new(), workers: Vec::new() };
        let program = |story: &Story| {
            let program = Program::worker(&story.sandbox, &story.broker);
            let program = program.set("chakra.timeout", "3s").set("chakra.connect_timeout", "1s");
            program.set("webhook.listen", "127.0.0.1:0").set("webhook.secret", SECRET)
        };
        story.url = story.join(program(&story)).await.url();
        story.tell(webhook);
        for _ in 1..workers {
            story.join(program(&story)).await;
        }
        for worker in &story.workers {
            let share = format!("chakra_sender_lanes_owned {}", 2 / workers);
            worker.admin.says("/metrics", 200, &share).await;
        }
        story
    }

    /// From now on webhooks are like these.
    fn tell(&self, webhook: Webhook) {
        let url = Some(self.url.clone());
        self.sandbox.set_webhook(Webhook { url, ..webhook }).unwrap();
    }

    async fn join(&mut self, program: Program) -> Hook {
        let mut process = program.start();
        let admin = process.admin().await;
        admin.ready().await;
        let hook = Hook::of(&mut process).await;
        self.workers.push(Worker { _process: process, admin });
        hook
    }

    /// Sends a job by each of these numbers.
    async fn send(&self, numbers: &[&str]) {
        let job = |number: &&str| text(&format!("job-{number}"), "x").replace(NUMBER, number);
        self.enqueue(&numbers.iter().map(job).collect::<Vec<_>>()).await;
    }

    async fn enqueue(&self, jobs: &[String]) {
        let dir = tempfile::tempdir().unwrap();
        let file = write(&dir, "jobs.jsonl", jobs).display().to_string();
        let put = Program::new(&["enqueue", &file]).on(&self.broker).run().await;
        assert_eq!(put.code, Some(0), "{}", put.said());
    }

    /// Waits until a worker's metrics say so.
    async fn says(&self, worker: usize, series: &str) -> String {
        self.workers[worker].admin.says("/metrics", 200, series).await
    }

    /// Waits until one of two workers says so; which one, and what the other says then.
    async fn one_says(&self, series: &str) -> (usize, String) {
        let one = tokio::select! {
            _ = self.says(0, series) => 0,
            _ = self.says(1, series) => 1,
        };
        (one, self.says(1 - one, "chakra_sender").await)
    }

    /// Waits until the sandbox's book says so.
    async fn book(&self, is_so: impl Fn(&Record) -> bool) {
        let record = self.sandbox.record();
        let waited = tokio::time::timeout(IN_TIME, record.wait_for(is_so)).await;
        waited.unwrap_or_else(|_| panic!("{:?}", record.webhook_counts()));
    }

    /// Everything that was told of jobs and messages so far.
    async fn told(&self) -> Vec<Value> {
        let events = events(&self.broker).await;
        events.iter().map(|event| serde_json::from_slice(&event.data).unwrap()).collect()
    }
}

/// Signed webhooks, of which the first comes after this and the second much later.
fn only_sent(after: u64) -> Webhook {
    Webhook {
        secret: Some(SECRET.into()),
        sent_after: Latency::fixed(Duration::from_millis(after)),
        delivered_after: Latency::fixed(Duration::from_secs(600)),
        retries: 20,
        ..Webhook::default()
    }
}

/// Signed webhooks of messages that are sent on, and fail a moment later.
fn failing(code: u32) -> Webhook {
    let soon = Latency::fixed(Duration::from_millis(50));
    let failed = vec![Failure { code, share: 1.0 }];
    Webhook { delivered_after: soon, failed, ..only_sent(50) }
}

/// What stands in the metrics of a worker that knew of a job in doubt by a status.
const SETTLED: &str = "chakra_sender_doubts_settled_by_status_total 1";

/// How often was looked at a chat, by a page of metrics.
fn looks(page: &str) -> u64 {
    let series = page.lines().filter(|line| line.starts_with("chakra_sender_looks_total{"));
    series.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[tokio::test]
async fn an_answer_that_was_cut_off_is_settled_by_the_status_before_any_look() {
    let story = Story::begin(1, only_sent(300)).await;
    story.sandbox.set_faults(faults("[[faults]]\nfirst = 1\ncut = 'after'")).unwrap();
    story.send(&[NUMBER]).await;
    let page = story.says(0, SETTLED).await;
    assert_eq!(looks(&page), 0, "{page}");
    story.says(0, &format!(r#"number="{NUMBER}",status="accepted"}} 1"#)).await;
    let told = story.told().await;
    let [sent, result] = &told[..] else { panic!("{told:?}") };
    assert_eq!((&sent["status"], &result["status"]), (&"sent".into(), &"accepted".into()));
    assert_eq!(sent["whatsapp_message_id"], result["whatsapp_message_id"]);
    assert_eq!((&result["id"], &result["attempts"]), (&format!("job-{NUMBER}").into(), &1.into()));
    assert_eq!(story.sandbox.record().count_requests(), 1);
}

#[tokio::test]
async fn a_status_that_comes_while_the_call_hangs_settles_the_doubt_that_follows() {
    let story = Story::begin(1, only_sent(1_500)).await;
    story.sandbox.set_faults(faults("[[faults]]\nfirst = 1\nhang = true\naccept = true")).unwrap();
    story.send(&[NUMBER]).await;
    let page = story.says(0, SETTLED).await;
    assert_eq!(looks(&page), 0, "{page}");
    assert_eq!(story.sandbox.record().count_requests(), 1);
}

#[tokio::test]
async fn the_doubts_of_a_worker_are_settled_by_webhooks_that_another_one_gets() {
    let story = Story::begin(2, only_sent(300)).await;
    story.sandbox.set_faults(faults("[[faults]]\nfirst = 2\ncut = 'after'")).unwrap();
    story.send(&[NUMBER, OTHER]).await;
    for worker in [0, 1] {
        let page = story.says(worker, SETTLED).await;
        assert_eq!(looks(&page), 0, "{page}");
    }
    story.says(0, r#"statuses_total{number="1027729340496751",status="sent"} 1"#).await;
    story.says(0, r#"statuses_total{number="1027729340496752",status="sent"} 1"#).await;
    assert_eq!(story.sandbox.record().count_requests(), 2);
}

#[tokio::test]
async fn a_failure_that_is_the_numbers_pauses_it_at_its_own_worker_alone() {
    let story = Story::begin(2, failing(131_048)).await;
    story.send(&[NUMBER]).await;
    let paused = format!(r#"paused{{number="{NUMBER}",reason="blocked"}} 1"#);
    let (_, other) = story.one_says(&paused).await;
    assert!(!other.contains("chakra_sender_paused{"), "{other}");
    assert!(other.contains("chakra_sender_brake 0"), "{other}");
}

#[tokio::test]
async fn a_failure_that_is_the_accounts_puts_the_brake_on_at_every_worker() {
    let story = Story::begin(2, failing(131_042)).await;
    story.send(&[NUMBER]).await;
    for worker in [0, 1] {
        story.says(worker, "chakra_sender_brake 1").await;
    }
    story.one_says(&format!(r#"paused{{number="{NUMBER}",reason="account"}} 1"#)).await;
}

#[tokio::test]
async fn a_failure_of_one_message_stops_nobody() {
    let story = Story::begin(1, failing(131_026)).await;
    story.send(&[NUMBER]).await;
    story.says(0, &format!(r#"statuses_total{{number="{NUMBER}",status="failed"}} 1"#)).await;
    story.says(0, r#"status_failures_total{code="131026"} 1"#).await;
    // What is heard later is heeded later.
    story.tell(failing(131_048));
    story.send(&[OTHER]).await;
    let page = story.says(0, &format!(r#"paused{{number="{OTHER}",reason="blocked"}} 1"#)).await;
    assert!(!page.contains(&format!(r#"paused{{number="{NUMBER}""#)), "{page}");
    assert!(page.contains("chakra_sender_brake 0"), "{page}");
}

#[tokio::test]
async fn the_time_to_delivery_is_measured_from_the_acceptance() {
    let after = Latency::fixed(Duration::from_millis(100));
    let story = Story::begin(1, Webhook { delivered_after: after, ..only_sent(100) }).await;
    story.send(&[NUMBER, OTHER]).await;
    story.says(0, "chakra_sender_delivery_seconds_count 2").await;
}

#[tokio::test]
async fn data_of_the_producers_own_is_carried_beside_the_job_that_the_message_id_tells() {
    // It looks like an id, and is none.
    const OPAQUE: &str = "campaign-12";
    let story = Story::begin(1, only_sent(300)).await;
    let message = format!(
        r#"{{"messaging_product":"whatsapp","to":"+919901258433","type":"text",
            "text":{{"body":"x"}},"biz_opaque_callback_data":"{OPAQUE}"}}"#
    );
    story.enqueue(&[job("order-1", &message, "").replace('\n', "")]).await;
    story.says(0, &format!(r#"statuses_total{{number="{NUMBER}",status="sent"}} 1"#)).await;
    let told = story.told().await;
    let sent = told.iter().find(|event| event["status"] == "sent").unwrap();
    assert_eq!((&sent["id"], &sent["opaque"]), (&"order-1".into(), &OPAQUE.into()));
}

#[tokio::test]
async fn events_of_chakras_own_shape_are_refused_until_the_secret_is_right_and_find_their_job() {
    let wrong = Some("another-hmac-key".to_owned());
    let webhook = |secret| Webhook { shape: WebhookShape::Chakra, secret, ..only_sent(50) };
    let story = Story::begin(1, webhook(wrong)).await;
    story.send(&[NUMBER]).await;
    story.book(|book| book.webhook_counts().answered_by_status.contains_key(&401)).await;
    story.says(0, r#"webhooks_total{outcome="wrong-signature"}"#).await;
    story.says(0, &format!(r#"number="{NUMBER}",status="accepted"}} 1"#)).await;
    let told = story.told().await;
    assert!(matches!(&told[..], [result] if result["event"] == "result"), "{told:?}");

    story.tell(webhook(Some(SECRET.into())));
    story.says(0, r#"statuses_total{number="unknown",status="sent"} 1"#).await;
    let told = story.told().await;
    let [sent] = &told[..] else { panic!("{told:?}") };
    // The shape has neither: the job is that of the message id.
    assert_eq!((&sent["phone_number_id"], &sent["opaque"]), (&Value::Null, &Value::Null));
    assert_eq!(sent["id"], format!("job-{NUMBER}"));
}

#[tokio::test]
async fn statuses_before_the_result_twice_and_out_of_order_are_told_in_order_and_once() {
    const JOBS: usize = 20;
    const ORDER: [&str; 3] = ["sent", "delivered", "read"];
    let story = Story::begin(1, only_sent(50)).await;
    // Then the way of statuses is open, and none is asked for twice since it was not.
    story.send(&[OTHER]).await;
    story.says(0, &format!(r#"statuses_total{{number="{OTHER}",status="sent"}} 1"#)).await;
    story.told().await;
    let soon = Latency::fixed(Duration::from_millis(20));
    let webhook = Webhook { delivered_after: soon, read_after: soon, ..only_sent(20) };
    let trouble = Webhook { early: 1.0, shuffled: 1.0, repeat: 1.0, repeat_after: soon, ..webhook };
    // One post at a time: of two that come at the same time both may pass.
    story.tell(Webhook { read: 1.0, concurrency: 1, ..trouble });
    let jobs: Vec<String> = (0..JOBS).map(|n| text(&format!("job-{n}"), "x")).collect();
    story.enqueue(&jobs).await;
    let accepted = format!(r#"number="{NUMBER}",status="accepted"}} {JOBS}"#);
    story.says(0, &accepted).await;
    // What waits is the `delivered` of the first message alone, which comes much later.
    let planned = (JOBS * ORDER.len() * 2) as u64;
    story.book(|book| book.webhook_counts().acknowledged == planned + 1).await;

    let mut told: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for event in story.told().await {
        let [id, status] = ["id", "status"].map(|key| event[key].as_str().unwrap().to_owned());
        told.entry(id).or_default().push(status);
    }
    assert_eq!(told.len(), JOBS);
    for (job, told) in told {
        let results = told.iter().filter(|status| *status == "accepted").count();
        assert_eq!((results, told[0] == "accepted"), (1, false), "{job}: {told:?}");
        let rank = |status: &String| ORDER.iter().position(|word| word == status);
        let ranks: Vec<usize> = told.iter().filter_map(rank).collect();
        assert!(ranks.is_sorted_by(|one, next| one < next), "{job}: {told:?}");
        assert_eq!(ranks.last(), Some(&2), "{job}: {told:?}");
    }
}

#[tokio::test]
async fn statuses_that_never_come_change_no_result() {
    const JOBS: usize = 10;
    let story = Story::begin(1, Webhook { loss: 1.0, ..only_sent(50) }).await;
    story.sandbox.set_faults(faults("[[faults]]\nfirst = 2\ncut = 'after'")).unwrap();
    let jobs: Vec<String> = (0..JOBS).map(|n| text(&format!("job-{n}"), "x")).collect();
    story.enqueue(&jobs).await;
    let page = story.says(0, &format!(r#"number="{NUMBER}",status="accepted"}} {JOBS}"#)).await;
    assert!(!page.contains("statuses_total{"), "{page}");
    let told = story.told().await;
    let ids: BTreeSet<&str> = told.iter().map(|result| result["id"].as_str().unwrap()).collect();
    assert_eq!((told.len(), ids.len()), (JOBS, JOBS), "{told:?}");
    let record = story.sandbox.record();
    assert_eq!((record.webhook_counts().planned, record.duplicates().len()), (0, 0));
    assert!(record.webhook_counts().lost > 0);
}

#[tokio::test]
async fn a_check_compares_the_plugins_webhooks_with_the_public_address() {
    const PUBLIC: &str = "http://127.0.0.1:9/webhook";
    let (sandbox, broker) = (sandbox(|_| {}).await, Broker::shared());
    sandbox.set_webhook(Webhook { url: Some(PUBLIC.into()), ..Webhook::default() }).unwrap();
    let check = Program::new(&["check"]).at(&sandbox).on(&broker);
    let check = check.set("webhook.listen", "127.0.0.1:0").set("webhook.secret", SECRET);
    let right = check.set("webhook.public_url", PUBLIC).run().await;
    assert_eq!(right.code, Some(0), "{}", right.said());
    let tick = "✓ the plugin's pass-through webhook comes to webhook.public_url".to_owned();
    assert!(right.out.contains(&tick), "{}", right.said());

    let check = Program::new(&["check"]).at(&sandbox).on(&broker);
    let check = check.set("webhook.listen", "127.0.0.1:0").set("webhook.secret", SECRET);
    let wrong = check.set("webhook.public_url", "https://other.example/webhook").run().await;
    assert_eq!(wrong.code, Some(1), "{}", wrong.said());
    let at = wrong.out.iter().position(|line| line.starts_with("✗ no webhook of the plugin"));
    let remedy = &wrong.out[at.unwrap() + 1];
    assert!(
        remedy.contains("/update-config: set passThroughWebhookUrl to https://other"),
        "{remedy}"
    );
}
