//! `docs/asyncapi.yaml` and `docs/schema`: the same as the code, and true of real messages.

use crate::support::broker::{Broker, Client};
use crate::support::process::{Program, faults, sandbox};
use crate::support::webhook::{Hook, SECRET};
use crate::support::world::{NUMBER, text_to};
use bytes::Bytes;
use chakra_sender::queue::rabbitmq::topology::{Kind, Names, Topology, lane_key};
use chakra_sender::sandbox::{Latency, Webhook};
use chakra_sender::wire::{Class, DeliveryStatus, NumberId, Priority, SendJob};
use chakra_sender::wire::{event_schema, job_schema};
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::options::{QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The document, after these messages, its own examples and its references were held against it.
pub(crate) fn checked(messages: &[Value]) -> Value {
    let mut command = Command::new("/usr/bin/python3");
    command.arg(path("tests/asyncapi.py")).arg(path("docs/asyncapi.yaml"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("tests/needs installs Python");
    let messages = serde_json::to_vec(messages).unwrap();
    child.stdin.take().unwrap().write_all(&messages).unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap()
}

#[test]
fn the_schemas_of_the_documents_are_those_of_the_code() {
    for (name, schema) in [("job", job_schema()), ("event", event_schema())] {
        let file = std::fs::read(path(&format!("docs/schema/{name}.json"))).unwrap();
        let written: Value = serde_json::from_slice(&file).unwrap();
        let mend = format!("mend it: chakra-sender schema {name} > docs/schema/{name}.json");
        assert!(written == schema, "docs/schema/{name}.json is out of date; {mend}");
    }
}

#[test]
fn every_name_in_the_asyncapi_document_is_one_of_the_topologys() {
    let document = checked(&[]);
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let (names, broker) = (Names::new("chakra"), Broker::shared().settings().topology);
    let shared = Topology::shared(&names, &broker);
    let kind = |name: &str| {
        let exchange = shared.exchanges.iter().find(|exchange| exchange.name == name)?;
        Some(match exchange.kind {
            Kind::Direct => "direct",
            Kind::Fanout => "fanout",
            Kind::Topic => "topic",
        })
    };
    let channels = document["channels"].as_object().unwrap();
    for (name, channel) in channels {
        let binding = &channel["bindings"]["amqp"];
        match binding["is"].as_str() {
            Some("routingKey") => {
                let exchange = binding["exchange"]["name"].as_str().unwrap();
                assert_eq!(kind(exchange), binding["exchange"]["type"].as_str(), "{name}");
            }
            Some("queue") => {
                let queue = binding["queue"]["name"].as_str().unwrap();
                assert!(shared.queues.iter().any(|own| own.name == queue), "{name}: {queue}");
                assert_eq!(channel["address"], queue);
            }
            _ => assert_eq!((name.as_str(), &channel["address"]), ("replies", &Value::Null)),
        }
    }
    let exchange = |name: &str| &channels[name]["bindings"]["amqp"]["exchange"]["name"];
    assert_eq!(exchange("jobs"), &json!(names.sends()));
    assert_eq!([exchange("results"), exchange("statuses")], [&json!(names.results()); 2]);
    let number = NumberId::parse(NUMBER).unwrap();
    let lanes = [Priority::Normal, Priority::Urgent].map(|of| lane_key(&number, of));
    assert_eq!(channels["jobs"]["parameters"]["lane"]["examples"], json!(lanes));
    let statuses = DeliveryStatus::ALL.map(DeliveryStatus::name);
    assert_eq!(channels["statuses"]["parameters"]["status"]["enum"], json!(statuses));
    for example in document["components"]["messages"]["job"]["examples"].as_array().unwrap() {
        let body = Bytes::from(example["payload"].to_string());
        SendJob::parse(&body, example["headers"]["message_id"].as_str()).unwrap();
    }
}

/// A message as the document describes it: AMQP's properties beside the headers.
fn shown(name: &str, delivery: &Delivery) -> Value {
    let mut headers = serde_json::Map::new();
    let properties = &delivery.properties;
    for (name, value) in [
        ("message_id", properties.message_id()),
        ("content_type", properties.content_type()),
        ("reply_to", properties.reply_to()),
        ("correlation_id", properties.correlation_id()),
    ] {
        headers.extend(value.as_ref().map(|value| (name.to_owned(), json!(value.as_str()))));
    }
    headers.extend(properties.timestamp().map(|at| ("timestamp".into(), json!(at))));
    headers.extend(properties.delivery_mode().map(|mode| ("delivery_mode".into(), json!(mode))));
    for (name, value) in properties.headers().iter().flat_map(FieldTable::inner) {
        let value = match value {
            AMQPValue::LongString(text) => json!(text.to_string()),
            AMQPValue::LongLongInt(number) => json!(number),
            other => panic!("{name}: {other:?}"),
        };
        headers.insert(name.to_string(), value);
    }
    let payload = serde_json::from_slice(&delivery.data).unwrap_or(Value::Null);
    json!({ "message": name, "payload": payload, "headers": headers })
}

/// A queue of the story's own.
async fn declare(client: &Client, queue: &str) {
    let options = QueueDeclareOptions::default();
    client.channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap();
}

#[tokio::test]
async fn jobs_events_replies_and_dead_letters_are_as_the_document_says() {
    let (sandbox, broker) = (sandbox(|_| {}).await, Broker::shared());
    let refuse = "[[faults]]\nto = \"999000000002\"\nanswer = { code = 131026 }";
    sandbox.set_faults(faults(refuse)).unwrap();
    let program = Program::worker(&sandbox, &broker).set("webhook.listen", "127.0.0.1:0");
    let mut worker = program.set("webhook.secret", SECRET).start();
    let admin = worker.admin().await;
    let url = Some(Hook::of(&mut worker).await.url());
    let [soon, late] = [50, 600_000].map(|millis| Latency::fixed(Duration::from_millis(millis)));
    let hook = Webhook { url, secret: Some(SECRET.into()), sent_after: soon, ..Webhook::default() };
    sandbox.set_webhook(Webhook { delivered_after: late, ..hook }).unwrap();
    admin.ready().await;

    let (client, names) = (broker.client().await, broker.names());
    let [jobs, answers] = ["jobs", "answers"].map(|end| format!("{}.{end}", broker.prefix));
    declare(&client, &answers).await;
    declare(&client, &jobs).await;
    let (bind, none) = (QueueBindOptions::default(), FieldTable::default());
    let (copies, sends) = (jobs.as_str().into(), names.sends().into());
    client.channel.queue_bind(copies, sends, NUMBER.into(), bind, none).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let lines = [("one", "+999000000001"), ("two", "+999000000002")];
    let lines = lines.map(|(id, to)| text_to(id, to, "x"));
    let file = crate::support::process::write(&dir, "jobs.jsonl", &lines).display().to_string();
    let put = Program::new(&["enqueue", &file]).on(&broker).run().await;
    assert_eq!(put.code, Some(0), "{}", put.said());
    let mut seen = Vec::new();
    for _ in 0..2 {
        seen.push(shown("job", &client.take(&jobs).await));
    }
    let answered = BasicProperties::default()
        .with_message_id("three".into())
        .with_reply_to(answers.as_str().into())
        .with_correlation_id("c-3".into());
    client.publish((&names.sends(), NUMBER), b"no job", answered).await;

    let mut statuses = 0;
    // Three results and one status, in whatever order.
    for _ in 0..4 {
        let event = client.take(&names.results()).await;
        let name =
            if event.routing_key.as_str().starts_with("status.") { "status" } else { "result" };
        statuses += usize::from(name == "status");
        seen.push(shown(name, &event));
    }
    assert_eq!(statuses, 1);
    let dead = shown("deadLetter", &client.take(&names.dead_letters()).await);
    assert_eq!(dead["headers"]["x-class"], Class::Invalid.name());
    seen.push(dead);
    let reply = shown("result", &client.take(&answers).await);
    let headers = json!({ "message_id": "three:result", "correlation_id": "c-3", "delivery_mode": 2,
        "content_type": "application/json" });
    assert_eq!(reply["headers"], headers);
    seen.push(reply);
    checked(&seen);
}
