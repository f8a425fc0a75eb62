//! What an administrator of RabbitMQ sets up, each on a node of its own: definitions, certificates,
//! and that nothing is left behind.

use crate::support::broker::Broker;
use crate::support::certificates::{PASSWORD, require_tls};
use crate::support::process::{Ended, Program, sandbox, use_both_lanes, write};
use crate::support::world::{NUMBER, OTHER, text};
use chakra_sender::sandbox::Sandbox;
use serde_json::Value;
use std::collections::BTreeSet;
use tempfile::{TempDir, tempdir};

/// A configuration that gives both numbers settings of their own.
fn overrides(dir: &TempDir) -> String {
    let number = |id| format!("[[numbers.override]]\nid = \"{id}\"\nrate = 100.0");
    write(dir, "settings.toml", &[NUMBER, OTHER].map(number)).display().to_string()
}

#[tokio::test]
async fn a_worker_that_may_not_declare_works_with_the_imported_definitions() {
    let (sandbox, broker, dir) = (sandbox(|_| {}).await, Broker::private(), tempdir().unwrap());
    let settings = overrides(&dir);
    let arguments = ["check", "--definitions", "--config", &settings];
    let printed = Program::new(&arguments).at(&sandbox).on(&broker).run().await;
    assert_eq!((printed.code, printed.err.len()), (Some(0), 0), "{}", printed.said());
    let file = write(&dir, "definitions.json", &printed.out);

    let mut worker = Program::worker(&sandbox, &broker).set("rabbitmq.declare", "false").start();
    let admin = worker.admin().await;
    let missing = admin.says("/readyz", 503, "missing").await;
    for name in ["sends", "results", "unrouted", "control", "wait.1s", "dead-letters"] {
        let name = format!("{}.{name}", broker.prefix);
        assert!(missing.contains(&name), "{name} is not in {missing:?}");
    }
    broker.node().ctl(&["import_definitions", file.to_str().unwrap()]);
    admin.ready().await;
    let jobs = write(&dir, "jobs", &[text("one", "x")]);
    let put = Program::new(&["enqueue", jobs.to_str().unwrap()])
        .on(&broker)
        .set("rabbitmq.declare", "false")
        .run()
        .await;
    assert_eq!(put.code, Some(0), "{}", put.said());
    admin.says("/metrics", 200, r#"status="accepted"} 1"#).await;
    let all = Program::new(&["check", "--config", &settings])
        .at(&sandbox)
        .on(&broker)
        .set("rabbitmq.declare", "false")
        .run()
        .await;
    assert_eq!(all.code, Some(0), "{}", all.said());
}

#[tokio::test]
async fn the_definitions_are_what_a_worker_declares() {
    let (sandbox, broker, dir) = (sandbox(|_| {}).await, Broker::private(), tempdir().unwrap());
    let arguments = ["check", "--definitions", "--config", &overrides(&dir)];
    let printed = Program::new(&arguments).at(&sandbox).on(&broker).run().await;
    let printed: Value = serde_json::from_str(&printed.out.join("\n")).unwrap();
    let mut worker = Program::worker(&sandbox, &broker).start();
    let admin = worker.admin().await;
    admin.ready().await;
    use_both_lanes(&broker, &admin).await;

    let file = dir.path().join("made.json").display().to_string();
    broker.node().ctl(&["export_definitions", &file]);
    let made: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    // What a broker's export says of them differs by its version; these it always says.
    for (what, keys) in [
        ("exchanges", &["name", "type", "durable", "arguments"][..]),
        ("queues", &["name", "durable", "arguments"]),
        ("bindings", &["source", "destination", "destination_type", "routing_key", "arguments"]),
    ] {
        let all = |definitions: &Value| -> BTreeSet<String> {
            let line = |one: &serde_json::Value| -> String {
                keys.iter().map(|key| one[key].to_string()).collect::<Vec<_>>().join(" ")
            };
            let of = definitions[what].as_array().unwrap().iter().map(line);
            // Each worker's own queues by which it hears the others go with its connection.
            let own = |line: &String| line.contains(".presence.") || line.contains(".statuses.");
            of.filter(|line| !own(line)).collect()
        };
        let (told, made) = (all(&printed), all(&made));
        assert_eq!(made.difference(&told).collect::<Vec<_>>(), Vec::<&String>::new(), "{what}");
        assert_eq!(told.difference(&made).collect::<Vec<_>>(), Vec::<&String>::new(), "{what}");
    }
}

#[tokio::test]
async fn the_demo_through_a_broker_leaves_nothing_behind() {
    let broker = Broker::private();
    let ended = Program::new(&["demo", "--json", "--rabbitmq", broker.uri()]).run().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said());
    let told: Value = serde_json::from_str(&ended.out.concat()).unwrap();
    assert_eq!(told["sent_twice"], 0, "{told}");
    for status in ["sent", "delivered", "read"] {
        assert!(told["statuses"][status].as_u64() > Some(0), "{told}");
    }
    let numbers = told["numbers"].as_array().unwrap();
    let is_paced = |number: &Value| number["busiest_second"].as_u64() <= number["ceiling"].as_u64();
    assert!(numbers.len() == 3 && numbers.iter().all(is_paced), "{told}");
    for list in ["list_queues", "list_exchanges"] {
        let left = broker.node().ctl(&[list, "--quiet", "name"]);
        assert!(!left.contains("chakra-demo"), "{left}");
    }
}

/// `check` over TLS, with these keys set.
async fn check_tls(sandbox: &Sandbox, broker: &Broker, keys: &[(&str, String)]) -> Ended {
    let uri = format!("amqps://guest:guest@127.0.0.1:{}/%2f", broker.node().tls_port);
    let check = Program::new(&["check"]).at(sandbox).on(broker).set("rabbitmq.uri", &uri);
    keys.iter().fold(check, |check, (key, value)| check.set(key, value)).run().await
}

#[tokio::test]
async fn a_client_certificate_opens_a_broker_that_wants_one() {
    let (sandbox, broker) = (sandbox(|_| {}).await, Broker::prepared(require_tls));
    let file = |name: &str| broker.node().dir().join(name).display().to_string();
    let ca = ("rabbitmq.ca_file", file("ca.pem"));
    let pem = [
        ca.clone(),
        ("rabbitmq.client_cert_file", file("client.pem")),
        ("rabbitmq.client_key_file", file("client.key")),
    ];
    let archive = [
        ca,
        ("rabbitmq.client_p12_file", file("client.p12")),
        ("rabbitmq.client_p12_password", PASSWORD.to_owned()),
    ];
    for keys in [pem, archive] {
        let ended = check_tls(&sandbox, &broker, &keys).await;
        assert_eq!(ended.code, Some(0), "{}", ended.said());
    }
}

#[tokio::test]
async fn a_broker_that_is_not_trusted_or_does_not_trust_is_told_in_one_line() {
    let (sandbox, broker) = (sandbox(|_| {}).await, Broker::prepared(require_tls));
    let ca = broker.node().dir().join("ca.pem").display().to_string();
    // Without a certificate of ours some brokers just hang up: the remedy has to name it.
    for (keys, why) in [(vec![], "UnknownIssuer"), (vec![("rabbitmq.ca_file", ca)], "")] {
        let ended = check_tls(&sandbox, &broker, &keys).await;
        assert_eq!(ended.code, Some(1), "{}", ended.said());
        let place = format!("✗ RabbitMQ at 127.0.0.1:{}: ", broker.node().tls_port);
        let at = ended.out.iter().position(|line| line.starts_with(&place) && line.contains(why));
        let at = at.unwrap_or_else(|| panic!("no {place} {why}: {}", ended.said()));
        for key in ["rabbitmq.ca_file", "rabbitmq.client_cert_file"] {
            assert!(ended.out[at + 1].contains(key), "{}", ended.said());
        }
    }
}
