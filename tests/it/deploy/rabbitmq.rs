//! deploy/rabbitmq: the definitions are those of this version, and the rights are enough for each kind of
//! user and no more than it needs.

use super::read;
use crate::support::broker::Broker;
use crate::support::process::{AdminPage, Ended, Process, Program, sandbox, write};
use crate::support::world::{NUMBER, text};
use chakra_sender::sandbox::Sandbox;
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use serde_json::{Value, json};
use tempfile::tempdir;

const PASSWORD: &str = "the-password-of-a-story";

#[tokio::test]
async fn the_definitions_are_current() {
    let printed = Program::new(&["check", "--definitions"]).run().await;
    assert_eq!(printed.code, Some(0), "{}", printed.said());
    assert!(
        read("deploy/rabbitmq/definitions.json").lines().eq(&printed.out),
        "deploy/rabbitmq/definitions.json is stale: \
         cargo run -- check --definitions > deploy/rabbitmq/definitions.json"
    );
}

/// A user and its three patterns: configure, write and read.
type Rights = (String, [String; 3]);

/// What permissions.md tells an administrator to type.
fn rights() -> Vec<Rights> {
    let text = read("deploy/rabbitmq/permissions.md");
    let commands =
        text.lines().filter_map(|line| line.strip_prefix("rabbitmqctl set_permissions -p / "));
    let rights = commands.map(|command| {
        let (user, patterns) = command.split_once(' ').unwrap();
        let patterns: Vec<String> =
            patterns.split(' ').map(|pattern| pattern.trim_matches('\'').to_owned()).collect();
        (user.to_owned(), patterns.try_into().unwrap())
    });
    rights.collect()
}

#[test]
fn the_users_of_compose_have_these_rights() {
    let users: Value = serde_json::from_str(&read("deploy/compose/users.json")).unwrap();
    let rights = rights();
    for given in users["permissions"].as_array().unwrap() {
        let patterns =
            ["configure", "write", "read"].map(|of| given[of].as_str().unwrap().to_owned());
        let user = given["user"].as_str().unwrap().to_owned();
        assert!(rights.contains(&(user, patterns)), "{given}");
    }
    assert_eq!(
        users["permissions"].as_array().unwrap().len(),
        users["users"].as_array().unwrap().len()
    );
}

/// A node with the users of permissions.md, and the default prefix.
fn broker() -> Broker {
    let mut broker = Broker::private();
    broker.prefix = "chakra".to_owned();
    let (users, permissions): (Vec<Value>, Vec<Value>) = rights()
        .into_iter()
        .map(|(user, [configure, write, read])| {
            let rights = json!({ "user": user, "vhost": "/", "configure": configure, "write": write, "read": read });
            (json!({ "name": user, "password": PASSWORD, "tags": "" }), rights)
        })
        .unzip();
    // At once: each call of rabbitmqctl takes a second of a processor.
    let file = broker.node().dir().join("users.json");
    let users = json!({ "users": users, "permissions": permissions });
    std::fs::write(&file, users.to_string()).unwrap();
    broker.node().ctl(&["import_definitions", file.to_str().unwrap()]);
    broker
}

fn uri(broker: &Broker, user: &str) -> String {
    format!("amqp://{user}:{PASSWORD}@127.0.0.1:{}/%2f", broker.node().port)
}

/// A command of this user, which declares nothing.
async fn command(broker: &Broker, user: &str, arguments: &[&str]) -> Ended {
    let program = Program::new(arguments).set("rabbitmq.uri", &uri(broker, user));
    program.set("rabbitmq.declare", "false").run().await
}

async fn worker(
    sandbox: &Sandbox,
    broker: &Broker,
    user: &str,
    declare: &str,
) -> (Process, AdminPage) {
    let program = Program::worker(sandbox, broker).set("rabbitmq.uri", &uri(broker, user));
    let mut worker = program.set("rabbitmq.declare", declare).start();
    let admin = worker.admin().await;
    admin.ready().await;
    (worker, admin)
}

/// Stops it: nothing was refused to it.
async fn leave(worker: Process) {
    worker.signal("TERM");
    let ended = worker.end().await;
    let refused = |line: &&String| line.contains("ACCESS_REFUSED") || line.contains("not heard");
    assert_eq!((ended.code, ended.err.iter().find(refused)), (Some(0), None));
}

#[tokio::test]
async fn each_user_can_do_its_part() {
    let (sandbox, broker, dir) = (sandbox(|_| {}).await, broker(), tempdir().unwrap());
    let (working, admin) = worker(&sandbox, &broker, "chakra-worker", "true").await;
    let mut following =
        Program::new(&["results"]).set("rabbitmq.uri", &uri(&broker, "chakra-reader")).start();
    following.err.line("following").await;

    let jobs = write(&dir, "jobs", &[text("one", "x")]).display().to_string();
    let put = command(&broker, "chakra-producer", &["enqueue", &jobs]).await;
    assert_eq!(put.code, Some(0), "{}", put.said());
    following.out.line(r#""status":"accepted""#).await;
    let taken = command(&broker, "chakra-consumer", &["results", "--take"]).await;
    assert_eq!((taken.code, taken.out.len()), (Some(0), 1), "{}", taken.said());

    let with_replies = Client::of(&broker, "chakra-producer-with-replies").await;
    with_replies.try_to(Deed::Own).await.unwrap();
    let wait = ["enqueue", &jobs, "--wait"];
    let waited = command(&broker, "chakra-producer-with-replies", &wait).await;
    assert!(waited.err.contains(&"results: 1 accepted".to_owned()), "{}", waited.said());
    let producer = Client::of(&broker, "chakra-producer").await;
    producer.try_to(Deed::Publish("chakra.sends", NUMBER)).await.unwrap();
    admin.says("/metrics", 200, r#"dead_letters_total{class="invalid"} 1"#).await;
    for (arguments, part) in [
        (&["numbers", "list"][..], NUMBER),
        (&["numbers", "pause", NUMBER, "--for", "1h", "--reason", "a story"], ""),
        (&["numbers", "resume", NUMBER], ""),
        (&["numbers", "drop", NUMBER, "--yes"], ""),
        (&["why", "one"], "accepted"),
        (&["dead-letters", "list"], "invalid"),
        (&["dead-letters", "replay", "--class", "invalid"], ""),
    ] {
        let ended = command(&broker, "chakra-operator", arguments).await;
        assert_eq!(ended.code, Some(0), "{arguments:?}: {}", ended.said());
        assert!(ended.said().contains(part), "{arguments:?}: {}", ended.said());
    }
    // It looks into the dead letters as well.
    let nobody = command(&broker, "chakra-operator", &["why", "nobody-has-it"]).await;
    assert!(nobody.said().contains("no worker knows nobody-has-it"), "{}", nobody.said());
    assert!(!nobody.said().contains("ACCESS_REFUSED"), "{}", nobody.said());
    leave(working).await;

    let other = worker(&sandbox, &broker, "chakra-worker-that-declares-nothing", "false").await;
    let jobs = write(&dir, "jobs", &[text("two", "x")]).display().to_string();
    let put = command(&broker, "chakra-producer", &["enqueue", &jobs]).await;
    assert_eq!(put.code, Some(0), "{}", put.said());
    other.1.says("/metrics", 200, r#"status="accepted"} 1"#).await;
    leave(other.0).await;
}

/// What a client of the broker may try.
#[derive(Debug, Clone, Copy)]
enum Deed {
    /// Takes a message out of a queue.
    Take(&'static str),
    /// Publishes by an exchange with a key.
    Publish(&'static str, &'static str),
    /// Makes a queue.
    Make(&'static str),
    /// Makes a queue that the broker names, and takes out of it.
    Own,
    /// Makes a queue that the broker names, and has it filled by an exchange.
    Follow(&'static str),
}

struct Client(Connection);

impl Client {
    async fn of(broker: &Broker, user: &str) -> Client {
        let uri = uri(broker, user);
        Client(Connection::connect(&uri, ConnectionProperties::default()).await.unwrap())
    }

    /// On a channel of its own: a refusal closes it.
    async fn try_to(&self, deed: Deed) -> lapin::Result<()> {
        let channel = self.0.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let own = QueueDeclareOptions { exclusive: true, ..Default::default() };
        let none = FieldTable::default();
        match deed {
            Deed::Take(queue) => {
                channel.basic_get(queue.into(), BasicGetOptions::default()).await?;
            }
            Deed::Publish(exchange, key) => {
                let (options, properties) =
                    (BasicPublishOptions::default(), BasicProperties::default());
                let (exchange, key) = (exchange.into(), key.into());
                channel.basic_publish(exchange, key, options, b"no job", properties).await?.await?;
            }
            Deed::Make(queue) => {
                channel.queue_declare(queue.into(), own, none).await?;
            }
            Deed::Own => {
                let queue = channel.queue_declare("".into(), own, none).await?;
                channel.basic_get(queue.name().clone(), BasicGetOptions::default()).await?;
            }
            Deed::Follow(exchange) => {
                let queue = channel.queue_declare("".into(), own, none.clone()).await?;
                let (name, exchange) = (queue.name().clone(), exchange.into());
                let bind = QueueBindOptions::default();
                channel.queue_bind(name, exchange, "#".into(), bind, none).await?;
            }
        }
        Ok(())
    }
}

#[tokio::test]
async fn no_user_can_do_more() {
    let (sandbox, broker) = (sandbox(|_| {}).await, broker());
    let (working, _) = worker(&sandbox, &broker, "chakra-worker", "true").await;
    const LANE: &str = "chakra.sends.1027729340496751";
    use Deed::{Follow, Make, Own, Publish, Take};
    for (user, deeds) in [
        (
            "chakra-producer",
            &[
                Take(LANE),
                Take("chakra.results"),
                Take("chakra.dead-letters"),
                Publish("chakra.results", "result.accepted.1"),
                Publish("chakra.wait.1h", NUMBER),
                Publish("", LANE),
                Make("chakra.mine"),
                Own,
            ][..],
        ),
        (
            "chakra-producer-with-replies",
            &[Take(LANE), Take("chakra.results"), Publish("", LANE), Follow("chakra.results")],
        ),
        (
            "chakra-consumer",
            &[Take(LANE), Take("chakra.dead-letters"), Publish("chakra.sends", NUMBER), Own],
        ),
        (
            "chakra-reader",
            &[
                Take(LANE),
                Take("chakra.dead-letters"),
                Publish("chakra.sends", NUMBER),
                Publish("", LANE),
                Make("chakra.mine"),
                Follow("chakra.sends"),
                Follow("chakra.presence"),
            ],
        ),
        (
            "chakra-operator",
            &[
                Take(LANE),
                Publish("chakra.results", "result.accepted.1"),
                Make("chakra.mine"),
                Follow("chakra.sends"),
            ],
        ),
        ("chakra-worker", &[Make("mine"), Take("foreign"), Publish("amq.topic", "x")]),
        ("chakra-worker-that-declares-nothing", &[Make("chakra.mine"), Make(LANE)]),
    ] {
        let client = Client::of(&broker, user).await;
        for &deed in deeds {
            let tried = client.try_to(deed).await;
            let refused =
                tried.as_ref().is_err_and(|error| error.to_string().contains("ACCESS_REFUSED"));
            assert!(refused, "{user}, {deed:?}: {tried:?}");
        }
    }
    leave(working).await;
}
