//! The whole way of what producers get wrong, and of AMQP properties that bite.

use crate::support::broker::Broker;
use crate::support::pipeline::{Dead, Plan, text_of_other};
use crate::support::world::{NUMBER, OTHER, job, paced, text};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};

const MESSAGE: &str =
    r#"{"messaging_product":"whatsapp","to":"+999000000001","text":{"body":"x"}}"#;

fn plain() -> BasicProperties {
    BasicProperties::default()
}

/// Something that is no lawful job.
struct Bad {
    /// By which a result must come; none where no id can be read.
    id: Option<&'static str>,
    /// A part of the reason.
    reason: &'static str,
    key: &'static str,
    body: Vec<u8>,
    message_id: Option<&'static str>,
}

/// With an id in the body.
fn bad(id: &'static str, reason: &'static str, body: String) -> Bad {
    Bad { id: Some(id), reason, key: NUMBER, body: body.into(), message_id: None }
}

fn nameless(reason: &'static str, body: impl Into<Vec<u8>>) -> Bad {
    Bad { id: None, reason, key: NUMBER, body: body.into(), message_id: None }
}

fn everything_bad() -> Vec<Bad> {
    let more = |id, more: &str| job(id, MESSAGE, more);
    let deep = format!(r#"{{"text":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let metadata = format!(r#","metadata":"{}""#, "m".repeat(4_096));
    let backwards = r#","not_before":"2100-01-01T00:00:00Z","expires_at":"2099-01-01T00:00:00Z""#;
    let numeric = text("numeric", "x").replace(&format!("\"{NUMBER}\""), NUMBER);
    vec![
        nameless("not a send job", "{\"id\": \"lost\", this is not JSON"),
        nameless("no JSON object", "[1, 2, 3]"),
        nameless("not a send job", b"{\"id\":\"\xff\xfe\"}".as_slice()),
        nameless("1 to 128 characters", text(&"i".repeat(200), "x")),
        nameless("order", r#"{"order":{"number":8812}}"#),
        bad("", "the body is empty", String::new()).named("empty"),
        bad("", "no JSON object", "Shipped!".into()).named("words"),
        bad("too-large", "longer than 262144 bytes", text("too-large", &"x".repeat(300 * 1024))),
        bad("unknown-field", "mesage", more("unknown-field", r#","mesage":{}"#)),
        bad(
            "no-message",
            "`message`",
            format!(r#"{{"id":"no-message","phone_number_id":"{NUMBER}"}}"#),
        ),
        bad("message-is-5", "message", job("message-is-5", "5", "")),
        bad("end-is-5", "not a send job", more("end-is-5", r#","expires_at":5"#)),
        bad("no-such-priority", "high", more("no-such-priority", r#","priority":"high""#)),
        bad("numeric", "expected a string", numeric),
        bad("backwards", "is after expires_at", more("backwards", backwards)),
        bad("much-metadata", "metadata has 4098 bytes", more("much-metadata", &metadata)),
        bad("deep", "", job("deep", &deep, "")),
        bad("astray", OTHER, text("astray", "x")).by(OTHER),
        bad("astray-urgent", "routing key", text("astray-urgent", "x"))
            .by("1027729340496752.urgent"),
        bad("two-names", "different", text("two-names", "x")).with_message_id("another"),
        bad("hello", "\"hello\"", text("hello", "x")).by("hello"),
        bad("keyless", "\"\"", text("keyless", "x")).by(""),
    ]
}

impl Bad {
    fn with_message_id(self, message_id: &'static str) -> Bad {
        Bad { message_id: Some(message_id), ..self }
    }

    /// Named by the AMQP property alone.
    fn named(self, id: &'static str) -> Bad {
        Bad { id: Some(id), ..self }.with_message_id(id)
    }

    fn by(self, key: &'static str) -> Bad {
        Bad { key, ..self }
    }

    fn name(&self) -> String {
        self.id.map_or_else(|| String::from_utf8_lossy(&self.body).into_owned(), str::to_owned)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bad_input_gets_one_answer_with_a_reason_and_harms_no_neighbour() {
    let mut story = Plan::on(Broker::shared()).start().await;
    let all = everything_bad();
    for (n, bad) in all.iter().enumerate() {
        let properties = match bad.message_id {
            Some(id) => plain().with_message_id(id.into()),
            None => plain(),
        };
        story.publish(bad.key, &bad.body, properties).await;
        story.publish(NUMBER, text(&format!("good-{n}"), "x").as_bytes(), plain()).await;
        story.publish(OTHER, text_of_other(&format!("other-{n}")).as_bytes(), plain()).await;
    }
    let mut dead: Vec<Dead> = Vec::new();
    for _ in &all {
        dead.push(story.dead_letter().await);
    }
    let named = all.iter().filter(|bad| bad.id.is_some()).count();
    story.results(named + 2 * all.len()).await;
    story.drain().await;
    let told = story.everything_told().await;
    assert_eq!(told.len(), named + 2 * all.len(), "a result came twice");
    for bad in &all {
        let name = bad.name();
        let kept = dead.iter().position(|dead| dead.body == bad.body);
        let kept = dead.remove(kept.unwrap_or_else(|| panic!("{name:.100}: the original is gone")));
        let reason = kept.header("x-reason").unwrap_or_default();
        assert!(!reason.is_empty() && reason.contains(bad.reason), "{name:.100}: {reason}");
        let Some(id) = bad.id else { continue };
        let own = told.iter().find(|told| told.id() == id);
        let own = own.unwrap_or_else(|| panic!("{name}: no result"));
        assert_eq!(own.outcome(), "failed invalid after 0", "{name}");
        let message = own.event["error"]["message"].as_str().unwrap();
        assert!(!message.is_empty() && message.contains(bad.reason), "{name}: {message}");
    }
    let good = told.iter().filter(|told| told.outcome() == "accepted after 1").count();
    assert_eq!(good, 2 * all.len());
    assert_eq!(story.record().count_requests(), good as u64);
    assert_eq!(story.backlog().await, 0);
}

/// Headers that the broker obeys: copies to the job's own lane, open and hidden.
fn copies() -> FieldTable {
    let own_lane = || AMQPValue::FieldArray(vec![AMQPValue::LongString(NUMBER.into())].into());
    let mut headers = FieldTable::default();
    headers.insert("CC".into(), own_lane());
    headers.insert("BCC".into(), own_lane());
    headers.insert("traceparent".into(), AMQPValue::LongString("00-1-2-01".into()));
    headers
}

fn biting() -> BasicProperties {
    plain()
        .with_headers(copies())
        .with_user_id("guest".into())
        .with_priority(9)
        .with_content_encoding("identity".into())
        .with_expiration("60000".into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retried_job_is_neither_multiplied_nor_stopped_by_its_amqp_properties() {
    let plan = Plan::on(Broker::shared()).worker(|worker| worker.retry.max_attempts = 2);
    let mut story = plan.start().await;
    story.world.faults(
        r#"
        [[faults]]
        text_contains = "busy once"
        first = 1
        answer = { status = 503 }
        [[faults]]
        text_contains = "busy for ever"
        answer = { status = 503 }
        "#,
    );
    story.publish(NUMBER, text("once", "busy once").as_bytes(), biting()).await;
    let ever = text("ever", "busy for ever");
    story.publish(NUMBER, ever.as_bytes(), biting()).await;
    assert_eq!(story.result("once").await.outcome(), "accepted after 2");
    assert_eq!(story.result("ever").await.outcome(), "failed unavailable after 2");

    let dead = story.dead_letter().await;
    assert_eq!(dead.body, ever.as_bytes());
    assert_eq!(dead.header("traceparent").unwrap(), "00-1-2-01");
    let headers = dead.properties.headers().as_ref().unwrap();
    assert!(!headers.contains_key("CC") && !headers.contains_key("BCC"));
    assert_eq!(dead.properties.content_encoding().as_ref().unwrap().as_str(), "identity");
    assert_eq!((dead.properties.user_id(), dead.properties.priority()), (&None, &None));

    story.drain().await;
    assert_eq!(story.everything_told().await.len(), 2);
    assert_eq!(story.record().count_requests(), 4);
    assert_eq!(story.record().count_accepted(), 1);
    assert_eq!(story.backlog().await, 0, "a copy is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expiration_that_passes_behind_a_slow_lane_ends_the_job_as_expired_once() {
    const JOBS: usize = 20;
    let plan = Plan::on(Broker::shared()).worker(|worker| worker.rates = paced(2.0));
    let mut story = plan.start().await;
    for n in 0..JOBS {
        let second = plain().with_expiration("1000".into());
        story.publish(NUMBER, text(&format!("job-{n}"), "x").as_bytes(), second).await;
    }
    story.results(JOBS).await;
    story.drain().await;
    let told = story.everything_told().await;
    assert_eq!(told.len(), JOBS);
    let count = |outcome| told.iter().filter(|told| told.outcome() == outcome).count();
    let (accepted, expired) = (count("accepted after 1"), count("expired after 0"));
    assert_eq!(accepted + expired, JOBS, "{told:?}");
    assert!(expired >= JOBS / 2, "only {expired} expired");
    assert_eq!(story.record().count_accepted(), accepted as u64);
}
