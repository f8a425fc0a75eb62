//! Send jobs, lawful and not.

use bytes::Bytes;
use chakra_sender::wire::{InvalidJob, Kind, MAX_BODY_BYTES, OnDoubt, Priority, SendJob};
use proptest::prelude::*;

const EXAMPLE: &str = r#"{ "id": "order-8812-shipped", "phone_number_id": "1027729340496751",
  "message": { "messaging_product": "whatsapp", "recipient_type": "individual", "to": "+919901258433", "type": "text", "text": { "body": "Shipped!" } },
  "priority": "urgent", "not_before": "2026-11-20T10:00:00Z", "expires_at": "2026-11-20T10:05:00Z", "on_doubt": "resend",
  "metadata": { "order": 8812 } }"#;

const MESSAGE: &str =
    r#"{"messaging_product":"whatsapp","to":"+919901258433","type":"text","text":{"body":"Hi"}}"#;

fn parse(body: impl Into<Bytes>) -> Result<SendJob, InvalidJob> {
    SendJob::parse(&body.into(), None)
}

/// A job of these fields, with a lawful message unless `fields` has one.
fn job(fields: &str) -> String {
    match fields.contains("\"message\"") {
        true => format!("{{{fields}}}"),
        false => format!("{{{fields},\"message\":{MESSAGE}}}"),
    }
}

const NAMED: &str = r#""id":"a","phone_number_id":"1""#;

#[test]
fn the_example_of_the_contract_is_read() {
    let job = parse(EXAMPLE).unwrap();
    assert_eq!(job.id.as_str(), "order-8812-shipped");
    assert_eq!(job.phone_number_id.as_str(), "1027729340496751");
    assert_eq!(job.message.kind(), &Kind::Message("text".into()));
    assert_eq!(job.message.recipient().unwrap().key(), "919901258433");
    assert_eq!(job.priority, Some(Priority::Urgent));
    assert_eq!(job.not_before, Some("2026-11-20T10:00:00Z".parse().unwrap()));
    assert_eq!(job.expires_at, Some("2026-11-20T10:05:00Z".parse().unwrap()));
    assert_eq!(job.on_doubt, Some(OnDoubt::Resend));
    assert_eq!(job.metadata.unwrap().text(), r#"{ "order": 8812 }"#);
}

#[test]
fn the_amqp_message_id_names_a_job_that_does_not_name_itself() {
    let unnamed = Bytes::from(job(r#""phone_number_id":"1""#));
    assert_eq!(SendJob::parse(&unnamed, Some("m-1")).unwrap().id.as_str(), "m-1");
    assert!(SendJob::parse(&unnamed, None).unwrap_err().reason.contains("missing field `id`"));
    let named = Bytes::from(job(NAMED));
    assert_eq!(SendJob::parse(&named, Some("a")).unwrap().id.as_str(), "a");
    let refused = SendJob::parse(&named, Some("b")).unwrap_err();
    assert!(refused.reason.contains("different"));
    assert_eq!(refused.id.unwrap().as_str(), "a");
}

#[test]
fn a_body_of_just_the_limit_is_lawful() {
    let mut body = job(NAMED);
    body.push_str(&" ".repeat(MAX_BODY_BYTES - body.len()));
    assert!(parse(body.clone()).is_ok());
    body.push(' ');
    assert_eq!(parse(body).unwrap_err().reason, "the body is longer than 262144 bytes");
}

#[test]
fn metadata_comes_back_as_it_was_written() {
    for metadata in ["1e2", "\"x\"", "[]", "{\"z\":[-0, 1.50], \"a\":1}", "true"] {
        let job = parse(job(&format!("{NAMED},\"metadata\":{metadata}"))).unwrap();
        assert_eq!(job.metadata.unwrap().text(), metadata);
    }
    assert!(parse(job(&format!("{NAMED},\"metadata\":null"))).unwrap().metadata.is_none());
}

/// Each unlawful body with its reason, the id and number that could be saved.
#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn each_unlawful_body_is_refused_with_its_reason() {
    let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let deep_text = |levels| {
        format!(
            r#""message":{{"messaging_product":"whatsapp","to":"+9190000","text":{{"body":{}}}}}"#,
            deep(levels)
        )
    };
    let bodies = [
        ("empty", String::new()),
        ("no JSON", "hello".into()),
        ("cut off", EXAMPLE[..200].into()),
        ("two values", format!("{} {{}}", job(NAMED))),
        ("300 KiB", format!("{}{}", job(NAMED), " ".repeat(300 * 1024))),
        ("an array of the values", format!(r#"["a","1",{MESSAGE},null,null,null,null,null]"#)),
        ("a string", "\"job\"".into()),
        ("another shape", r#"{"to":"+919901258433","text":"Hi"}"#.into()),
        ("unknown field", job(&format!("{NAMED},\"prioritty\":\"urgent\""))),
        ("field twice", job(&format!("{NAMED},\"id\":\"b\""))),
        ("no number", job(r#""id":"a""#)),
        ("no message", format!("{{{NAMED}}}")),
        ("number as a number", job(r#""id":"a","phone_number_id":1027729340496751"#)),
        ("number as a phone number", job(r#""id":"a","phone_number_id":"+919901258433""#)),
        ("id as a number", job(r#""id":8812,"phone_number_id":"1""#)),
        ("long id", job(&format!(r#""id":"{}","phone_number_id":"1""#, "x".repeat(200)))),
        ("id with a space", job(r#""id":"a b","phone_number_id":"1""#)),
        ("message as a string", job(&format!("{NAMED},\"message\":\"Hi\""))),
        ("unknown priority", job(&format!("{NAMED},\"priority\":\"high\""))),
        ("no time", job(&format!("{NAMED},\"not_before\":\"tomorrow\""))),
        ("time as a number", job(&format!("{NAMED},\"expires_at\":1763632800"))),
        (
            "lifeless",
            job(&format!(
                r#"{NAMED},"not_before":"2026-11-20T10:00:01Z","expires_at":"2026-11-20T10:00:00Z""#
            )),
        ),
        ("large metadata", job(&format!("{NAMED},\"metadata\":\"{}\"", "x".repeat(4095)))),
        ("deep metadata", job(&format!("{NAMED},\"metadata\":{}", deep(1_000)))),
        ("deep metadata in an event", job(&format!("{NAMED},\"metadata\":{}", deep(127)))),
        ("metadata out of range", job(&format!("{NAMED},\"metadata\":1e999"))),
        ("very deep metadata", job(&format!("{NAMED},\"metadata\":{}", deep(100_000)))),
        ("deep message", job(&format!("{NAMED},{}", deep_text(125)))),
        ("very deep message", job(&format!("{NAMED},{}", deep_text(100_000)))),
        ("very deep id", job(&format!(r#""id":{},"phone_number_id":"1""#, deep(100_000)))),
        ("very deep unknown field", job(&format!("{NAMED},\"x\":{}", deep(100_000)))),
        ("very deep everything", deep(100_000)),
    ];
    let table: String = bodies
        .into_iter()
        .map(|(what, body)| {
            let refused = parse(body).unwrap_err();
            let id = refused.id.as_ref().map_or("-", |id| id.as_str());
            let number = refused.phone_number_id.as_ref().map_or("-", |number| number.as_str());
            format!("{what} [{id} {number}]: {}\n", refused.reason)
        })
        .collect();
    insta::assert_snapshot!(table, @r#"
    empty [- -]: the body is empty
    no JSON [- -]: the body is no JSON object
    cut off [- -]: not a send job: EOF while parsing a string at line 2 column 131
    two values [- -]: not a send job: trailing characters at line 1 column 133
    300 KiB [a 1]: the body is longer than 262144 bytes
    an array of the values [- -]: the body is no JSON object
    a string [- -]: the body is no JSON object
    another shape [- -]: not a send job: unknown field `to`, expected one of `id`, `phone_number_id`, `message`, `priority`, `not_before`, `expires_at`, `on_doubt`, `metadata` at line 1 column 5
    unknown field [a 1]: not a send job: unknown field `prioritty`, expected one of `id`, `phone_number_id`, `message`, `priority`, `not_before`, `expires_at`, `on_doubt`, `metadata` at line 1 column 43
    field twice [- -]: not a send job: duplicate field `id` at line 1 column 36
    no number [a -]: not a send job: missing field `phone_number_id` at line 1 column 109
    no message [a 1]: not a send job: missing field `message` at line 1 column 32
    number as a number [a -]: not a send job: invalid type: integer `1027729340496751`, expected a string at line 1 column 44
    number as a phone number [a -]: phone_number_id must be Meta's phone number ID: 1 to 32 digits
    id as a number [- 1]: not a send job: invalid type: integer `8812`, expected a string at line 1 column 10
    long id [- 1]: id must have 1 to 128 characters, not 200
    id with a space [- 1]: id must be visible ASCII characters without spaces
    message as a string [a 1]: message must be an object, not a string
    unknown priority [a 1]: not a send job: unknown variant `high`, expected `normal` or `urgent` at line 1 column 49
    no time [a 1]: not a send job: failed to parse four digit integer as year: invalid digit, expected 0-9 but got t at line 1 column 55
    time as a number [a 1]: not a send job: invalid type: integer `1763632800`, expected a timestamp string at line 1 column 55
    lifeless [a 1]: not_before 2026-11-20T10:00:01Z is after expires_at 2026-11-20T10:00:00Z
    large metadata [a 1]: metadata has 4097 bytes, at most 4096
    deep metadata [a 1]: metadata cannot be given back: recursion limit exceeded at line 1 column 128
    deep metadata in an event [a 1]: metadata cannot be given back: it is nested deeper than 126 levels
    metadata out of range [a 1]: metadata cannot be given back: number out of range at line 1 column 5
    very deep metadata [a 1]: metadata has 200000 bytes, at most 4096
    deep message [a 1]: message is nested deeper than 126 levels
    very deep message [a 1]: message is nested deeper than 126 levels
    very deep id [- 1]: not a send job: invalid type: sequence, expected a string at line 1 column 6
    very deep unknown field [a 1]: not a send job: unknown field `x`, expected one of `id`, `phone_number_id`, `message`, `priority`, `not_before`, `expires_at`, `on_doubt`, `metadata` at line 1 column 35
    very deep everything [- -]: the body is no JSON object
    "#);
}

#[test]
fn what_is_lawful_of_an_unlawful_body_is_saved() {
    let body = r#"{"metadata":{"order":1},"id":"a","phone_number_id":5,"priority":"high"}"#;
    let refused = parse(body).unwrap_err();
    assert_eq!(refused.id.unwrap().as_str(), "a");
    assert!(refused.phone_number_id.is_none());
    assert_eq!(refused.metadata.unwrap().text(), r#"{"order":1}"#);
    let refused = SendJob::parse(&Bytes::from_static(b"hello"), Some("m-1")).unwrap_err();
    assert_eq!(refused.id.unwrap().as_str(), "m-1");
}

#[test]
fn a_job_can_be_logged_without_its_content_and_recipient() {
    let logged = format!("{:?}", parse(EXAMPLE).unwrap());
    assert!(logged.contains("order-8812-shipped"));
    for secret in ["Shipped!", "9901258433", "8812 }"] {
        assert!(!logged.contains(secret));
    }
}

#[test]
fn a_reason_stays_short() {
    let body = job(&format!("{NAMED},\"{}\":1", "x".repeat(100_000)));
    assert_eq!(parse(body).unwrap_err().reason.chars().count(), 500);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(parse(body).is_err());
    }

    #[test]
    fn a_damaged_job_is_read_or_refused(
        at in 0..EXAMPLE.len(),
        cut in 0..20usize,
        put in "[\\[\\]{}\",:a-z0-9\\\\ \u{e9}]{0,10}",
    ) {
        let mut body = EXAMPLE.as_bytes().to_vec();
        let end = (at + cut).min(body.len());
        body.splice(at..end, put.into_bytes());
        match parse(body) {
            Ok(job) => prop_assert!(!job.id.as_str().is_empty()),
            Err(refused) => prop_assert!(!refused.reason.is_empty()),
        }
    }
}

#[test]
fn every_example_job_is_lawful() {
    let examples = include_str!("../../config/jobs.example.jsonl");
    for line in examples.lines() {
        SendJob::parse(&Bytes::from_static(line.as_bytes()), None).unwrap();
    }
    assert!(examples.lines().count() > 3);
}
