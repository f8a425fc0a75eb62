//! `dead-letters` as operators run it: real processes against a real RabbitMQ.

use crate::support::broker::{Broker, Client, SOON};
use crate::support::pipeline::Plan;
use crate::support::process::{Ended, Program};
use crate::support::world::{NUMBER, OTHER, text};
use chakra_sender::queue::rabbitmq::{DeadLetters, Producer, Taken};
use futures_util::StreamExt;
use futures_util::future::join_all;
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions};
use lapin::types::{AMQPValue, FieldTable};
use serde_json::Value;
use std::collections::BTreeSet;

/// A broker whose names are declared, and nobody who consumes: what is replayed ends in the queue of
/// unrouted jobs.
struct Morgue {
    broker: Broker,
    client: Client,
}

impl Morgue {
    async fn open(broker: Broker) -> Morgue {
        let settings = broker.settings();
        let producer = Producer::connect(&settings.connection, &settings.topology).await;
        producer.unwrap().close().await;
        let client = broker.client().await;
        Morgue { broker, client }
    }

    /// As a worker leaves a letter.
    async fn bury(&self, letter: &Grave<'_>) {
        let queue = self.broker.names().dead_letters();
        self.client.publish(("", &queue), letter.body().as_bytes(), letter.properties()).await;
    }

    async fn bury_many(&self, letters: &[Grave<'_>]) {
        let queue = self.broker.names().dead_letters();
        let mut confirms = Vec::new();
        for letter in letters {
            let (options, body) = (BasicPublishOptions::default(), letter.body());
            let key = queue.as_str().into();
            let channel = &self.client.channel;
            let properties = letter.properties();
            let written =
                channel.basic_publish("".into(), key, options, body.as_bytes(), properties).await;
            confirms.push(written.unwrap());
        }
        for confirm in join_all(confirms).await {
            assert!(confirm.unwrap().is_ack());
        }
    }

    async fn run(&self, arguments: &[&str]) -> Ended {
        let all = [&["dead-letters"], arguments].concat();
        Program::new(&all).on(&self.broker).run().await
    }

    /// The next job that was replayed, taken out.
    async fn replayed(&self) -> Delivery {
        self.client.take(&self.broker.names().unrouted()).await
    }

    /// The ids of all that stands in a queue, in its order; they are taken out.
    async fn ids(&self, queue: &str, count: usize) -> Vec<String> {
        let client = self.broker.client().await;
        let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
        let mut all =
            client.channel.basic_consume(queue.into(), "".into(), options, none).await.unwrap();
        let mut ids = Vec::new();
        while ids.len() < count {
            let next = tokio::time::timeout(SOON, all.next()).await;
            let next = next.unwrap_or_else(|_| panic!("{} of {count} came", ids.len()));
            let delivery = next.unwrap().unwrap();
            delivery.ack(BasicAckOptions::default()).await.unwrap();
            let body: Value = serde_json::from_slice(&delivery.data).unwrap();
            ids.push(body["id"].as_str().unwrap().to_owned());
        }
        assert_eq!(self.depth(queue).await, 0);
        ids
    }

    async fn letters(&self, count: usize) -> Vec<String> {
        self.ids(&self.broker.names().dead_letters(), count).await
    }

    async fn depth(&self, queue: &str) -> u32 {
        self.client.depth(queue).await
    }

    async fn depths(&self) -> (u32, u32) {
        let names = self.broker.names();
        (self.depth(&names.dead_letters()).await, self.depth(&names.unrouted()).await)
    }
}

#[derive(Clone)]
struct Grave<'a> {
    id: &'a str,
    class: &'a str,
    last_error: &'a str,
    key: &'a str,
    died_at: &'a str,
    replay: Option<i64>,
}

impl Grave<'_> {
    fn throttled(id: &str) -> Grave<'_> {
        let died_at = "2026-11-20T10:00:00.000Z";
        let (class, last_error) = ("throttled", "throttled 130429");
        Grave { id, class, last_error, key: NUMBER, died_at, replay: None }
    }

    /// Unusual spacing, and an escape: only bytes that are not read and written again keep it.
    fn body(&self) -> String {
        text(self.id, "caf\\u00e9").replace(r#"","phone"#, r#"" ,  "phone"#)
    }

    fn properties(&self) -> BasicProperties {
        let mut headers = FieldTable::default();
        let texts = [
            ("x-class", self.class),
            ("x-last-error", self.last_error),
            ("x-reason", "the retries ran out"),
            ("x-routing-key", self.key),
            ("x-died-at", self.died_at),
            ("x-first-received", "2026-11-19T10:00:00.000Z"),
            ("x-first-attempt", "2026-11-19T10:00:01.000Z"),
            ("x-due", "2026-11-19T10:00:02.000Z"),
            ("x-doubt", "strong"),
            ("traceparent", "00-1-2-01"),
        ];
        for (name, text) in texts {
            headers.insert(name.into(), AMQPValue::LongString(text.into()));
        }
        headers.insert("x-attempts".into(), AMQPValue::LongLongInt(12));
        if let Some(replay) = self.replay {
            headers.insert("x-replay".into(), AMQPValue::LongLongInt(replay));
        }
        BasicProperties::default()
            .with_delivery_mode(2)
            .with_headers(headers)
            .with_message_id(self.id.into())
            .with_correlation_id("c-1".into())
            .with_reply_to("answers".into())
            .with_type("order".into())
            .with_app_id("shop".into())
            .with_timestamp(1_800_000_000)
    }
}

fn header(delivery: &Delivery, name: &str) -> Option<AMQPValue> {
    delivery.properties.headers().as_ref()?.inner().get(name).cloned()
}

fn json(lines: &[String]) -> Vec<Value> {
    lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn list_groups_letters_and_takes_nothing() {
    let morgue = Morgue::open(Broker::shared()).await;
    let later = "2026-11-20T12:00:00.000Z";
    let unavailable = Grave {
        class: "unavailable",
        last_error: "unavailable http 503",
        key: "1027729340496752.urgent",
        ..Grave::throttled("c")
    };
    let letters = [
        Grave::throttled("a"),
        Grave { died_at: later, ..Grave::throttled("b") },
        unavailable,
        Grave { last_error: "throttled 131056", ..Grave::throttled("d") },
    ];
    morgue.bury_many(&letters).await;
    let listed = morgue.run(&["list", "--json"]).await;
    assert_eq!(listed.code, Some(0), "{}", listed.said());
    let groups = json(&listed.out);
    let seen: Vec<_> = groups
        .iter()
        .map(|group| {
            let part = |name: &str| group[name].to_string().replace('"', "");
            [part("class"), part("code"), part("phone_number_id"), part("letters")].join(" ")
        })
        .collect();
    let expected = [
        format!("throttled 130429 {NUMBER} 2"),
        format!("throttled 131056 {NUMBER} 1"),
        format!("unavailable null {OTHER} 1"),
    ];
    assert_eq!(seen, expected);
    assert_eq!(groups[0]["first_died_at"], "2026-11-20T10:00:00.000Z");
    assert_eq!(groups[0]["last_died_at"], later);
    assert_eq!(groups[0]["sample"]["id"], "a");
    assert_eq!(groups[0]["sample"]["reason"], "the retries ran out");

    let table = morgue.run(&["list", "--class", "unavailable"]).await;
    assert_eq!(table.out.len(), 2, "{}", table.said());
    assert!(table.out[1].contains("c: the retries ran out"), "{}", table.said());
    assert_eq!(morgue.letters(4).await, ["a", "b", "c", "d"]);
    let empty = morgue.run(&["list"]).await;
    assert_eq!((empty.code, empty.out.len()), (Some(0), 0), "{}", empty.said());
    assert_eq!(empty.err, ["no dead letters"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_letters_are_read_and_stay_in_their_order() {
    const LETTERS: usize = 3_000;
    let morgue = Morgue::open(Broker::shared()).await;
    let ids: Vec<String> = (0..LETTERS).map(|n| format!("letter-{n}")).collect();
    let letters: Vec<Grave<'_>> = ids.iter().map(|id| Grave::throttled(id)).collect();
    morgue.bury_many(&letters).await;
    for _ in 0..2 {
        let listed = morgue.run(&["list", "--json"]).await;
        assert_eq!(json(&listed.out)[0]["letters"], LETTERS, "{}", listed.said());
    }
    // From the middle, far behind the first prefetch.
    let picked = ["letter-100", "letter-1500", "letter-2999"];
    let some = [&["discard", "--yes", "--id"], &picked[..]].concat();
    let discarded = morgue.run(&some).await;
    assert_eq!(discarded.err, ["3 discarded"]);
    let rest: Vec<String> = ids.into_iter().filter(|id| !picked.contains(&id.as_str())).collect();
    let left = morgue.letters(LETTERS - 3).await;
    let moved = left.iter().zip(&rest).find(|(left, rest)| left != rest);
    assert_eq!(moved, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_keeps_bytes_and_properties_and_drops_the_past() {
    let morgue = Morgue::open(Broker::shared()).await;
    let urgent = format!("{NUMBER}.urgent");
    for (had, becomes) in [(None, 1), (Some(1), 2)] {
        let letter = Grave { key: &urgent, replay: had, ..Grave::throttled("a") };
        let body = letter.body();
        let queue = morgue.broker.names().dead_letters();
        morgue.client.publish(("", &queue), body.as_bytes(), letter.properties()).await;
        let done = morgue.run(&["replay", "--id", "a", "--json"]).await;
        assert_eq!(done.code, Some(0), "{}", done.said());
        assert_eq!(done.err, ["1 replayed"]);
        assert_eq!(json(&done.out)[0]["replayed"], 1);

        let job = morgue.replayed().await;
        assert_eq!(String::from_utf8_lossy(&job.data), body);
        assert_eq!(job.routing_key.as_str(), urgent);
        assert_eq!(header(&job, "x-replay"), Some(AMQPValue::LongLongInt(becomes)));
        assert_eq!(header(&job, "traceparent"), Some(AMQPValue::LongString("00-1-2-01".into())));
        let (now, before) = (&job.properties, letter.properties());
        assert_eq!(now.message_id(), before.message_id());
        assert_eq!(now.correlation_id(), before.correlation_id());
        assert_eq!(now.reply_to(), before.reply_to());
        assert_eq!((now.kind(), now.app_id()), (before.kind(), before.app_id()));
        assert_eq!((now.timestamp(), now.delivery_mode()), (before.timestamp(), &Some(2)));
        let headers = now.headers().as_ref().unwrap().inner();
        let ours: Vec<&str> = headers
            .keys()
            .map(|name| name.as_str())
            .filter(|name| name.starts_with("x-"))
            .collect();
        assert_eq!(ours, ["x-replay"]);
        assert_eq!(morgue.depths().await, (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_have_been_sent_what_is_invalid_and_what_has_no_lane_stays_unless_it_is_named() {
    let morgue = Morgue::open(Broker::shared()).await;
    let ambiguous = Grave { class: "ambiguous", last_error: "ambiguous", ..Grave::throttled("a") };
    let strange = Grave { class: "sideways", ..Grave::throttled("s") };
    let invalid = Grave { class: "invalid", ..Grave::throttled("i") };
    let no_lane = Grave { key: "nowhere", ..Grave::throttled("n") };
    morgue.bury_many(&[ambiguous, strange, invalid, no_lane, Grave::throttled("t")]).await;
    let dry = morgue.run(&["replay", "--all", "--dry-run"]).await;
    let left = "2 left: may have been sent (--unknown); \
        1 left: invalid, would fail again (--class invalid); 1 left: without a lane";
    assert_eq!(dry.err.last().unwrap(), &format!("1 would be replayed; {left}"));
    assert_eq!(morgue.depths().await, (5, 0), "a dry run changes nothing");

    let all = morgue.run(&["replay", "--all"]).await;
    assert_eq!(all.code, Some(1), "a letter without a lane is not well: {}", all.said());
    assert!(all.err[0].starts_with("n: skipped"), "{}", all.said());
    assert_eq!(all.err[1], format!("1 replayed; {left}"));
    assert_eq!(morgue.replayed().await.properties.message_id().as_ref().unwrap().as_str(), "t");

    let named = morgue.run(&["replay", "--id", "a"]).await;
    assert_eq!(named.code, Some(1), "{}", named.said());
    assert_eq!(named.err[1], "a: no letter of it was replayed");
    let bold = morgue.run(&["replay", "--id", "a", "--unknown"]).await;
    assert_eq!(bold.code, Some(0), "{}", bold.said());
    let invalid = morgue.run(&["replay", "--class", "invalid"]).await;
    assert_eq!(invalid.err, ["1 replayed"]);
    let unrouted = morgue.broker.names().unrouted();
    assert_eq!(morgue.ids(&unrouted, 2).await, ["a", "i"]);
    assert_eq!(morgue.letters(2).await, ["s", "n"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn discard_needs_a_yes_and_drops_what_was_picked_alone() {
    let morgue = Morgue::open(Broker::shared()).await;
    let other = Grave { last_error: "throttled 131056", ..Grave::throttled("b") };
    let letters = [Grave::throttled("a"), other, Grave::throttled("c"), Grave::throttled("d")];
    morgue.bury_many(&letters).await;
    let unasked = morgue.run(&["discard", "--all"]).await;
    assert_eq!(unasked.code, Some(2), "{}", unasked.said());
    assert!(unasked.err[0].contains("--yes"), "{}", unasked.said());
    for vague in [&["discard", "--yes"][..], &["replay"], &["replay", "--all", "--id", "a"]] {
        let ended = morgue.run(vague).await;
        assert_eq!(ended.code, Some(2), "{vague:?}: {}", ended.said());
    }
    let done = morgue.run(&["discard", "--code", "130429", "--number", NUMBER, "--yes"]).await;
    assert_eq!((done.code, &done.err[..]), (Some(0), &["3 discarded".to_owned()][..]));
    assert_eq!(morgue.letters(1).await, ["b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn show_prints_all_about_the_letters_of_one_job_and_takes_nothing() {
    let morgue = Morgue::open(Broker::shared()).await;
    let letter = Grave { replay: Some(2), ..Grave::throttled("b") };
    morgue.bury_many(&[Grave::throttled("a"), Grave::throttled("b"), letter]).await;
    let shown = morgue.run(&["show", "b", "--replay", "2", "--json"]).await;
    assert_eq!((shown.code, shown.out.len()), (Some(0), 1), "{}", shown.said());
    let letter = &json(&shown.out)[0];
    assert_eq!((&letter["id"], &letter["replay"]), (&"b".into(), &2.into()));
    assert_eq!((&letter["class"], &letter["code"]), (&"throttled".into(), &130_429.into()));
    assert_eq!(letter["died_at"], "2026-11-20T10:00:00.000Z");
    assert_eq!(letter["headers"]["traceparent"], "00-1-2-01");
    assert_eq!(letter["properties"]["reply_to"], "answers");
    assert!(letter["body"].as_str().unwrap().contains(r#""id":"b" ,  "phone"#), "{letter}");

    let both = morgue.run(&["show", "b"]).await;
    let bodies = both.out.iter().filter(|line| line.contains(r#""id":"b" ,  "phone"#));
    assert_eq!(bodies.count(), 2, "{}", both.said());
    assert!(both.out.contains(&"reason: the retries ran out".to_owned()), "{}", both.said());
    let none = morgue.run(&["show", "nobody"]).await;
    assert_eq!((none.code, none.out.len()), (Some(1), 0), "{}", none.said());
    assert_eq!(morgue.letters(3).await, ["a", "b", "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_operators_at_once_replay_each_letter_once() {
    const LETTERS: usize = 450;
    let morgue = Morgue::open(Broker::shared()).await;
    let ids: Vec<String> = (0..LETTERS).map(|n| format!("letter-{n}")).collect();
    let letters: Vec<Grave<'_>> = ids.iter().map(|id| Grave::throttled(id)).collect();
    morgue.bury_many(&letters).await;
    let all = ["replay", "--all", "--rate", "1000"];
    let (one, other) = tokio::join!(morgue.run(&all), morgue.run(&all));
    for ended in [one, other] {
        assert_eq!(ended.code, Some(0), "{}", ended.said());
    }
    // What one held and gave back may have come too late for the other.
    let rest = morgue.run(&all).await;
    assert_eq!(rest.code, Some(0), "{}", rest.said());
    let replayed = morgue.ids(&morgue.broker.names().unrouted(), LETTERS).await;
    assert_eq!(replayed.iter().collect::<BTreeSet<_>>().len(), LETTERS);
    assert_eq!(morgue.depths().await, (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_stops_a_replay_between_two_letters() {
    let morgue = Morgue::open(Broker::shared()).await;
    morgue.bury_many(&["a", "b", "c"].map(Grave::throttled)).await;
    // The second letter would go 5 s later.
    let slow = ["dead-letters", "replay", "--all", "--rate", "0.2"];
    let replay = Program::new(&slow).on(&morgue.broker).start();
    assert_eq!(morgue.replayed().await.properties.message_id().as_ref().unwrap().as_str(), "a");
    replay.signal("INT");
    let ended = replay.end().await;
    assert_eq!(ended.code, Some(1), "{}", ended.said());
    assert_eq!(ended.err.last().unwrap(), "1 replayed", "{}", ended.said());
    assert_eq!(morgue.letters(2).await, ["b", "c"]);
    assert_eq!(morgue.depths().await, (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_ends_between_publish_and_let_go_leaves_the_letter_for_the_same_replay() {
    let morgue = Morgue::open(Broker::private()).await;
    morgue.bury(&Grave::throttled("a")).await;
    let settings = morgue.broker.settings().connection;
    let letters = DeadLetters::connect(&settings, &morgue.broker.prefix).await.unwrap();
    let (mut pass, mut replayer) =
        (letters.pass().await.unwrap(), letters.replayer().await.unwrap());
    let letter = pass.next().await.unwrap().unwrap();
    let lane = letter.lane.clone().unwrap();
    assert_eq!(replayer.put(&letter, &lane).await, Ok(Taken::Confirmed));
    morgue.broker.node().stop();
    assert!(pass.let_go().await.is_err() || pass.close().await.is_err(), "it must be told");
    morgue.broker.node().restart();

    let morgue = Morgue { client: morgue.broker.client().await, ..morgue };
    assert_eq!(morgue.depths().await, (1, 1));
    let again = morgue.run(&["replay", "--all"]).await;
    assert_eq!(again.err, ["1 replayed"]);
    // Two copies under one key: a worker sends one.
    for _ in 0..2 {
        let copy = morgue.replayed().await;
        assert_eq!(header(&copy, "x-replay"), Some(AMQPValue::LongLongInt(1)));
    }
    assert_eq!(morgue.depths().await, (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_result_of_a_replayed_job_refers_to_the_original() {
    let plan = Plan::on(Broker::shared()).worker(|worker| worker.retry.max_attempts = 1);
    let story = plan.start().await;
    story.world.faults("[[faults]]\nanswer = { status = 503 }");
    let job = text("order", "Shipped!");
    story.publish(NUMBER, job.as_bytes(), BasicProperties::default()).await;
    let first = story.result("order").await;
    assert_eq!((first.message_id.as_str(), &first.event["replay"]), ("order:result", &Value::Null));
    assert_eq!(first.event["status"], "failed");

    let listed = Program::new(&["dead-letters", "list", "--json"]).on(story.broker()).run().await;
    let group = &json(&listed.out)[0];
    assert_eq!((&group["class"], &group["letters"]), (&"unavailable".into(), &1.into()));
    assert!(group["last_died_at"].is_string(), "{group}");

    story.world.faults("");
    let replay = ["dead-letters", "replay", "--class", "unavailable"];
    let done = Program::new(&replay).on(story.broker()).run().await;
    assert_eq!(done.err, ["1 replayed"]);
    let told = story.told("no result of the replay", |all| all.len() > 1).await;
    assert_eq!((told[1].id(), told[1].message_id.as_str()), ("order", "order:1:result"));
    assert_eq!(told[1].event["replay"], 1);
    assert_eq!(told[1].outcome(), "accepted after 1");
    assert_eq!(story.record().count_requests(), 2);
    assert_eq!(story.depth(&story.broker().names().dead_letters()).await, 0);
}
