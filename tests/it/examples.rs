//! The producers and consumers of `docs/examples`, as strangers run them: real processes against a real
//! RabbitMQ, with a worker and the sandbox behind it.

use crate::support::broker::{Broker, Client, SOON};
use crate::support::process::{Process, Program, faults, sandbox};
use crate::support::webhook::{Hook, SECRET};
use crate::support::world::NUMBER;
use chakra_sender::sandbox::{Latency, Webhook};
use futures_util::StreamExt;
use lapin::Consumer;
use lapin::options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::timeout;

/// Someone who is not on WhatsApp.
const NOBODY: &str = "+999000000002";

/// How one language's two programs are started, and where its consumer takes events from.
struct Language {
    producer: fn() -> Program,
    consumer: fn() -> Program,
    has_own_queue: bool,
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples")
}

/// Debian's Python: another one would not have Debian's pika.
fn python(program: &str) -> Program {
    Program::other("/usr/bin/python3").with(&[examples().join("python").join(program)])
}

fn node(program: &str) -> Program {
    assert!(examples().join("node/node_modules").is_dir(), "tests/needs runs npm ci");
    Program::other("node").with(&[examples().join("node").join(program)])
}

/// As Cargo has built it beside the tests.
fn rust(program: &str) -> Program {
    let folder = Path::new(env!("CARGO_BIN_EXE_chakra-sender")).parent().unwrap();
    let path = folder.join("examples").join(program);
    assert!(path.is_file(), "cargo build --examples makes {}", path.display());
    Program::other(path)
}

#[tokio::test]
async fn the_programs_in_python_do_as_they_say() {
    let (producer, consumer) = (|| python("producer.py"), || python("consumer.py"));
    tell(Language { producer, consumer, has_own_queue: false }).await;
}

#[tokio::test]
async fn the_programs_in_node_do_as_they_say() {
    let (producer, consumer) = (|| node("producer.js"), || node("consumer.js"));
    tell(Language { producer, consumer, has_own_queue: true }).await;
}

#[tokio::test]
async fn the_programs_in_rust_do_as_they_say() {
    let (producer, consumer) = (|| rust("producer"), || rust("consumer"));
    tell(Language { producer, consumer, has_own_queue: false }).await;
}

/// Orders are put twice. Each is messaged once, and the consumer, which is stopped in between, tells of each
/// event once.
async fn tell(language: Language) {
    let (sandbox, broker) = (sandbox(|_| {}).await, Broker::shared());
    let refuse = format!("[[faults]]\nto = \"{}\"\nanswer = {{ code = 131026 }}", &NOBODY[1..]);
    sandbox.set_faults(faults(&refuse)).unwrap();
    let worker = Program::worker(&sandbox, &broker).set("webhook.listen", "127.0.0.1:0");
    let mut worker = worker.set("webhook.secret", SECRET).start();
    let admin = worker.admin().await;
    let [soon, late] = [50, 600_000].map(|millis| Latency::fixed(Duration::from_millis(millis)));
    let url = Some(Hook::of(&mut worker).await.url());
    let hook = Webhook { url, secret: Some(SECRET.into()), sent_after: soon, ..Webhook::default() };
    sandbox.set_webhook(Webhook { delivered_after: late, ..hook }).unwrap();
    admin.ready().await;
    let mut events = Events::of(&broker).await;
    let folder = tempfile::tempdir().unwrap();

    let mut consumer = consumer(&language, &broker, folder.path());
    if language.has_own_queue {
        // What is told before its queue is there does not come to it.
        consumer.out.line("following").await;
    }
    let orders = [
        json!({ "order": 1, "to": "+999000000001", "text": "Shipped!" }),
        json!({ "order": 2, "to": NOBODY, "text": "Shipped! «ü»" }),
        json!({ "order": 3, "to": "+999000000003", "text": "Code 1", "urgent": true,
            "expires_at": "2099-01-01T00:00:00Z" }),
    ];
    put(&language, &broker, &orders).await;
    // Three results and two statuses, after a greeting or none.
    let first = consumer.out.count(1).await;
    let greetings = usize::from(first[0].starts_with("following"));
    let mut told = consumer.out.count(5 + greetings).await;
    consumer.signal("TERM");
    let ended = consumer.end().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said());

    let more =
        [&orders[..], &[json!({ "order": 4, "to": "+999000000004", "text": "Shipped!" })]].concat();
    put(&language, &broker, &more).await;
    // Three results and two statuses; then the same three results, and one more of each.
    events.have_been(5 + 5).await;
    let mut consumer = self::consumer(&language, &broker, folder.path());
    consumer.out.line("order-4-shipped: accepted").await;
    consumer.out.line("order-4-shipped: sent").await;
    consumer.signal("TERM");
    let ended = consumer.end().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said());
    told.extend(ended.out);
    told.retain(|line| !line.starts_with("following"));

    let mut lines: BTreeMap<&str, usize> = BTreeMap::new();
    for line in &told {
        *lines.entry(line.as_str()).or_default() += 1;
    }
    let refused = told.iter().find(|line| line.starts_with("order-2-")).unwrap();
    assert!(refused.starts_with("order-2-shipped: failed: refused: "), "{refused}");
    let mut expected = BTreeMap::from([(refused.as_str(), 1)]);
    for line in [
        "order-1-shipped: accepted",
        "order-1-shipped: sent",
        "order-3-shipped: accepted",
        "order-3-shipped: sent",
        "order-4-shipped: accepted",
        "order-4-shipped: sent",
    ] {
        expected.insert(line, 1);
    }
    assert_eq!(lines, expected);
    assert_eq!((sandbox.record().count_accepted(), sandbox.record().duplicates().len()), (3, 0));
    let urgent = format!(r#"jobs_received_total{{number="{NUMBER}",priority="urgent"}} 2"#);
    admin.says("/metrics", 200, &urgent).await;
}

fn consumer(language: &Language, broker: &Broker, folder: &Path) -> Process {
    let own = format!("{}.orders", broker.prefix);
    let program = (language.consumer)().with(&[folder.join("outcomes")]).env("QUEUE", &own);
    program.env("AMQP_URL", broker.uri()).env("CHAKRA_PREFIX", &broker.prefix).start()
}

/// Runs the producer with these orders.
async fn put(language: &Language, broker: &Broker, orders: &[serde_json::Value]) {
    let program = (language.producer)().with(&[NUMBER]).env("AMQP_URL", broker.uri());
    let mut producer = program.env("CHAKRA_PREFIX", &broker.prefix).start();
    for order in orders {
        producer.write(&format!("{order}\n"));
    }
    producer.close_stdin();
    let ended = producer.end().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said());
    let put = |order| format!("order-{order}-shipped: enqueued");
    assert_eq!(ended.out, (1..=orders.len()).map(put).collect::<Vec<_>>());
}

/// Hears every event beside the consumer.
struct Events {
    _client: Client,
    heard: Consumer,
}

impl Events {
    async fn of(broker: &Broker) -> Events {
        let client = broker.client().await;
        let channel = &client.channel;
        let own = QueueDeclareOptions { exclusive: true, ..Default::default() };
        let queue = channel.queue_declare("".into(), own, FieldTable::default()).await.unwrap();
        let (name, results) = (queue.name().clone(), broker.names().results().into());
        let (bind, none) = (QueueBindOptions::default(), FieldTable::default());
        channel.queue_bind(name.clone(), results, "#".into(), bind, none).await.unwrap();
        let (consume, none) =
            (BasicConsumeOptions { no_ack: true, ..Default::default() }, FieldTable::default());
        let heard = channel.basic_consume(name, "".into(), consume, none).await.unwrap();
        Events { _client: client, heard }
    }

    /// Waits for so many.
    async fn have_been(&mut self, count: usize) {
        for _ in 0..count {
            timeout(SOON, self.heard.next()).await.expect("an event").unwrap().unwrap();
        }
    }
}
