//! `why` as operators run it: real workers against a real RabbitMQ.

use crate::support::broker::Broker;
use crate::support::process::{AdminPage, Ended, Process, Program, faults, sandbox, write};
use crate::support::world::{NUMBER, OTHER, text, text_to};
use chakra_sender::clock;
use chakra_sender::queue::rabbitmq::WorkerId;
use chakra_sender::sandbox::Sandbox;
use fjall::KeyspaceCreateOptions;
use jiff::ToSpan;
use lapin::BasicProperties;
use serde_json::{Value, json};
use std::path::Path;
use tokio::task::JoinSet;

/// The words that no `why` may say.
const SECRET: &str = "the text of the message";

/// A recipient whose number no `why` may say in full.
const TO: &str = "+999000000033";

struct Desk {
    sandbox: Sandbox,
    broker: Broker,
}

impl Desk {
    async fn open() -> Desk {
        Desk { sandbox: sandbox(|_| {}).await, broker: Broker::shared() }
    }

    /// A worker that is ready, at this pace for each number.
    async fn worker(&self, rate: &str) -> (Process, AdminPage) {
        let program = Program::worker(&self.sandbox, &self.broker);
        let mut worker = program.set("limits.number.rate", rate).start();
        let admin = worker.admin().await;
        admin.ready().await;
        (worker, admin)
    }

    async fn enqueue(&self, lines: &[String]) {
        let dir = tempfile::tempdir().unwrap();
        let file = write(&dir, "jobs.jsonl", lines).display().to_string();
        let ended = Program::new(&["enqueue", &file]).on(&self.broker).run().await;
        assert_eq!(ended.code, Some(0), "{}", ended.said());
    }

    async fn why(&self, arguments: &[&str]) -> Ended {
        let ended = Program::new(&[&["why"], arguments].concat()).on(&self.broker).run().await;
        tells_no_secret(&ended.said());
        ended
    }

    /// The one life that `why --json` tells.
    async fn life(&self, id: &str) -> Value {
        let ended = self.why(&[id, "--json"]).await;
        assert_eq!((ended.code, ended.out.len()), (Some(0), 1), "{}", ended.said());
        serde_json::from_str(&ended.out[0]).unwrap()
    }

    /// The same for a person.
    async fn told(&self, id: &str) -> String {
        let ended = self.why(&[id]).await;
        assert_eq!(ended.code, Some(0), "{}", ended.said());
        ended.out.join("\n")
    }
}

/// Meta's id of a message has the recipient's phone number in it, in Base64.
fn tells_no_secret(said: &str) {
    for secret in [SECRET, &TO[1..], "wamid"] {
        assert!(!said.contains(secret), "{secret:?} is told:\n{said}");
    }
}

fn secret(id: &str) -> String {
    text_to(id, TO, SECRET)
}

/// Makes the finished records of a ledger unreadable, as damage on its disk does.
fn spoil(ledger: &Path) {
    let database = fjall::Database::builder(ledger.join("database")).open().unwrap();
    for name in database.list_keyspace_names() {
        let records = database.keyspace(&name, KeyspaceCreateOptions::default).unwrap();
        let keys: Vec<_> = records.prefix(b"f").map(|record| record.key().unwrap()).collect();
        for key in keys {
            records.insert(key, b"").unwrap();
        }
    }
}

fn steps(life: &Value) -> Vec<&str> {
    let steps = life["steps"].as_array().unwrap();
    steps.iter().map(|step| step["step"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn what_a_job_in_hand_waits_for_is_told_by_the_worker_that_has_it() {
    let desk = Desk::open().await;
    let workers = [desk.worker("0.1").await, desk.worker("0.1").await];
    for (_, admin) in &workers {
        admin.says("/metrics", 200, "chakra_sender_lanes_owned 1\n").await;
    }
    // The second goes after the first, the others are other numbers' and recipients'.
    let other = text("other", SECRET).replace(NUMBER, OTHER);
    desk.enqueue(&[secret("first"), secret("second"), other]).await;
    let mut owners = Vec::new();
    for (_, admin) in &workers {
        let page = admin.says("/metrics", 200, "chakra_sender_jobs_received_total{").await;
        owners.push(page.contains(&format!(r#"received_total{{number="{NUMBER}""#)));
    }
    assert!(owners[0] != owners[1], "each has one number: {owners:?}");

    let first = desk.life("first").await;
    let stands = &first["stands"];
    assert_eq!(
        (&stands["is"], &stands["at"], &stands["because"], &stands["waiting"]),
        (&json!("in-hand"), &json!("lane"), &json!("pace"), &json!(1)),
        "{first}"
    );
    assert_eq!((&first["phone_number_id"], &first["recipient"]), (&json!(NUMBER), &json!("…33")));
    assert_eq!(steps(&first), ["received"]);
    let second = desk.life("second").await;
    assert_eq!(
        (&second["stands"]["at"], &second["stands"]["behind"]),
        (&json!("line"), &json!("first"))
    );
    let other = desk.life("other").await;
    assert_eq!(other["phone_number_id"], OTHER);
    assert_ne!(other["worker"], first["worker"]);

    let told = desk.told("first").await;
    for part in [&format!("job first, number {NUMBER}, to …33"), "its pace of 0.1/s", "received"]
    {
        assert!(told.contains(part), "{part:?} is missing:\n{told}");
    }
    let told = desk.told("second").await;
    assert!(told.contains("an earlier job to the same recipient, first"), "{told}");
    let owner = if owners[0] { &workers[0].1 } else { &workers[1].1 };
    owner.says("/jobs/first", 200, r#""is":"in-hand""#).await;
}

#[tokio::test]
async fn attempts_waits_and_the_outcome_are_told_also_after_the_end() {
    let desk = Desk::open().await;
    let dir = tempfile::tempdir().unwrap();
    let program = Program::worker(&desk.sandbox, &desk.broker);
    let mut worker = program.set("ledger.path", &dir.path().display().to_string()).start();
    let admin = worker.admin().await;
    admin.ready().await;
    desk.sandbox
        .set_faults(faults(&format!(
            "[[faults]]\nto = '{}'\nfirst = 1\nanswer = {{ code = 131056 }}",
            &TO[1..]
        )))
        .unwrap();
    let tomorrow = clock::wall() + 24.hours();
    let later = text("later", SECRET)
        .replace(r#""message""#, &format!(r#""not_before":"{tomorrow}","message""#));
    desk.enqueue(&[secret("refused"), later]).await;
    admin.says("/metrics", 200, r#"how="rescheduled"} 2"#).await;
    let later = desk.life("later").await;
    let stands = &later["stands"];
    assert_eq!(
        (&stands["is"], &stands["why"]),
        (&json!("put-off"), &json!("not-before")),
        "{later}"
    );
    assert_eq!(stands["due"], format!("{tomorrow:.3}"));
    let told = desk.told("later").await;
    assert!(
        told.contains("in a wait queue for its not_before") && told.contains("(23 h)"),
        "{told}"
    );

    admin.says("/metrics", 200, r#"status="accepted"} 1"#).await;
    let life = desk.life("refused").await;
    let stands = &life["stands"];
    assert_eq!(
        (&stands["is"], &stands["status"], &stands["attempts"]),
        (&json!("over"), &json!("accepted"), &json!(2)),
        "{life}"
    );
    assert_eq!(steps(&life), ["received", "attempted", "put-off", "received", "ended"]);
    let fault = &life["steps"][1]["fault"];
    let of = (&fault["class"], &fault["scope"], &fault["code"]);
    assert_eq!(of, (&json!("throttled"), &json!("recipient"), &json!(131_056)));
    let told = desk.told("refused").await;
    for part in ["accepted", "code 131056", "about the recipient", "its next attempt"] {
        assert!(told.contains(part), "{part:?} is missing:\n{told}");
    }
    tells_no_secret(&admin.says("/jobs/refused", 200, r#""status":"accepted""#).await);

    // What the worker forgets at its end its ledger has.
    worker.signal("TERM");
    assert_eq!(worker.end().await.code, Some(0));
    let program = Program::worker(&desk.sandbox, &desk.broker);
    let mut worker = program.set("ledger.path", &dir.path().display().to_string()).start();
    worker.admin().await.ready().await;
    let life = desk.life("refused").await;
    assert_eq!((&life["stands"]["is"], &life["phone_number_id"]), (&json!("over"), &Value::Null));
    assert_eq!(life["stands"]["status"], "accepted");

    // A worker that cannot read its ledger does not say that it knows nothing.
    worker.signal("TERM");
    assert_eq!(worker.end().await.code, Some(0));
    spoil(dir.path());
    let program = Program::worker(&desk.sandbox, &desk.broker);
    let mut worker = program.set("ledger.path", &dir.path().display().to_string()).start();
    let admin = worker.admin().await;
    admin.ready().await;
    let unread = desk.why(&["refused"]).await;
    assert_eq!((unread.code, unread.out.len()), (Some(1), 0), "{}", unread.said());
    assert!(unread.said().contains("cannot read its ledger"), "{}", unread.said());
    assert!(!unread.said().contains("no worker knows"), "{}", unread.said());
    admin.says("/jobs/refused", 200, r#""ledger_unread":true"#).await;
    admin.says("/jobs/another", 200, r#""ledger_unread":false"#).await;
}

#[tokio::test]
async fn a_job_that_nobody_knows_may_be_in_its_lane_and_what_died_is_found_in_the_dead_letters() {
    let desk = Desk::open().await;
    let (worker, admin) = desk.worker("1000").await;
    admin.says("/metrics", 200, "chakra_sender_lanes_owned 2\n").await;
    let unlawful = secret("unlawful").replace(r#""message""#, r#""mesage""#);
    let client = desk.broker.client().await;
    let to = desk.broker.names().sends();
    client.publish((&to, NUMBER), unlawful.as_bytes(), BasicProperties::default()).await;
    admin.says("/metrics", 200, r#"dead_letters_total{class="invalid"} 1"#).await;
    let pause = ["numbers", "pause", NUMBER, "--reason", "a test"];
    assert_eq!(Program::new(&pause).on(&desk.broker).run().await.code, Some(0));
    desk.broker.left(NUMBER).await;
    desk.enqueue(&[secret("waits"), text("too", "x")]).await;

    let dead = desk.life("unlawful").await;
    assert_eq!(
        (&dead["stands"]["is"], &dead["stands"]["class"], &dead["phone_number_id"]),
        (&json!("dead-letter"), &json!("invalid"), &json!(NUMBER))
    );
    let told = desk.told("unlawful").await;
    assert!(told.contains("dead-letters show unlawful"), "{told}");

    let nobody = desk.why(&["waits"]).await;
    assert_eq!((nobody.code, nobody.out.len()), (Some(1), 0), "{}", nobody.said());
    assert_eq!(nobody.err[0], "no worker knows waits");
    let lane = format!("behind others: {NUMBER} (2, paused until it is resumed)");
    assert!(nobody.said().contains(&lane), "{}", nobody.said());
    assert!(nobody.said().contains("never enqueued"), "{}", nobody.said());
    let elsewhere = desk.why(&["waits", "--number", OTHER]).await;
    assert!(!elsewhere.said().contains("behind others"), "{}", elsewhere.said());

    worker.signal("TERM");
    assert_eq!(worker.end().await.code, Some(0));
    let alone = desk.why(&["waits"]).await;
    assert_eq!(alone.code, Some(1));
    assert!(alone.said().contains("no worker answers: start one"), "{}", alone.said());
    for wrong in [&["two words"][..], &[], &["x", "--number", "y"]] {
        assert_eq!(desk.why(wrong).await.code, Some(2), "{wrong:?}");
    }
}

#[tokio::test]
async fn a_worker_of_an_older_version_is_said_to_be_silent() {
    let desk = Desk::open().await;
    let (_worker, _admin) = desk.worker("1000").await;
    let (client, exchange) = (desk.broker.client().await, desk.broker.names().presence());
    let old = WorkerId::new(7);
    let mut signs = JoinSet::new();
    signs.spawn(async move {
        for sequence in 1_u64.. {
            let sign = json!({ "kind": "here", "worker": old, "sequence": sequence }).to_string();
            client.publish((&exchange, ""), sign.as_bytes(), BasicProperties::default()).await;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    });
    let ended = desk.why(&["anything"]).await;
    assert!(ended.said().contains("workers that do not answer: 1"), "{}", ended.said());
}
