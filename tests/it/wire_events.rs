//! Events as other programs read them.

use bytes::Bytes;
use chakra_sender::wire::{
    Class, DeliveryStatus, ErrorBody, Event, JobId, NumberId, RawJson, ResultEvent, Scope, Status,
    StatusEvent, event_schema, job_schema,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn accepted() -> ResultEvent {
    ResultEvent {
        id: JobId::parse("order-8812-shipped").unwrap(),
        phone_number_id: Some(NumberId::parse("1027729340496751").unwrap()),
        status: Status::Accepted,
        whatsapp_message_id: Some("wamid.HBgM".into()),
        attempts: 1,
        error: None,
        metadata: Some(RawJson::parse(Bytes::from_static(b"{\"z\":1.0, \"a\":1e2}")).unwrap()),
        enqueued_at: None,
        received_at: "2026-11-20T10:00:00.1234567Z".parse().unwrap(),
        finished_at: "2026-11-20T10:00:01Z".parse().unwrap(),
        replay: None,
    }
}

fn delivered() -> StatusEvent {
    StatusEvent {
        id: None,
        phone_number_id: None,
        status: DeliveryStatus::Delivered,
        whatsapp_message_id: "wamid.HBgM".into(),
        at: "2026-11-20T10:00:00Z".parse().unwrap(),
        opaque: None,
        error: None,
        metadata: None,
    }
}

#[test]
fn a_result_has_every_key_and_times_with_milliseconds() {
    insta::assert_snapshot!(serde_json::to_string(&Event::Result(&accepted())).unwrap(), @r#"{"event":"result","id":"order-8812-shipped","phone_number_id":"1027729340496751","status":"accepted","whatsapp_message_id":"wamid.HBgM","attempts":1,"error":null,"metadata":{"z":1.0, "a":1e2},"enqueued_at":null,"received_at":"2026-11-20T10:00:00.123Z","finished_at":"2026-11-20T10:00:01.000Z","replay":null}"#);
}

#[test]
fn a_failed_result_says_why() {
    let failed = ResultEvent {
        status: Status::Failed,
        whatsapp_message_id: None,
        error: Some(ErrorBody {
            class: Class::Refused,
            scope: Scope::Message,
            code: Some(131_047),
            http_status: Some(400),
            message: "the service window is closed".into(),
        }),
        metadata: None,
        enqueued_at: Some("2026-11-20T09:59:59Z".parse().unwrap()),
        replay: Some(2),
        ..accepted()
    };
    assert_eq!(failed.message_id(), "order-8812-shipped:2:result");
    insta::assert_snapshot!(serde_json::to_string(&Event::Result(&failed)).unwrap(), @r#"{"event":"result","id":"order-8812-shipped","phone_number_id":"1027729340496751","status":"failed","whatsapp_message_id":null,"attempts":1,"error":{"class":"refused","scope":"message","code":131047,"http_status":400,"message":"the service window is closed"},"metadata":null,"enqueued_at":"2026-11-20T09:59:59.000Z","received_at":"2026-11-20T10:00:00.123Z","finished_at":"2026-11-20T10:00:01.000Z","replay":2}"#);
}

#[test]
fn a_status_has_every_key() {
    insta::assert_snapshot!(serde_json::to_string(&Event::Status(&delivered())).unwrap(), @r#"{"event":"status","id":null,"phone_number_id":null,"status":"delivered","whatsapp_message_id":"wamid.HBgM","at":"2026-11-20T10:00:00.000Z","opaque":null,"error":null,"metadata":null}"#);
}

#[test]
fn the_same_outcome_has_the_same_message_id() {
    assert_eq!(accepted().message_id(), "order-8812-shipped:result");
    assert_eq!(delivered().message_id(), "wamid.HBgM:delivered");
}

#[test]
fn the_job_schema_names_each_field_and_allows_no_other() {
    let schema = job_schema();
    let fields = [
        "id",
        "phone_number_id",
        "message",
        "priority",
        "not_before",
        "expires_at",
        "on_doubt",
        "metadata",
    ];
    assert_eq!(keys(&schema["properties"]), BTreeSet::from(fields.map(String::from)));
    assert_eq!(schema["required"], json!(["phone_number_id", "message"]));
    assert_eq!(schema["additionalProperties"], json!(false));
    assert_eq!(schema["properties"]["message"]["type"], json!("object"));
    assert_eq!(words(&schema["$defs"]["Priority"]), ["normal", "urgent"]);
    assert_eq!(words(&schema["$defs"]["OnDoubt"]), ["report", "resend"]);
}

#[test]
fn the_event_schema_requires_just_the_keys_that_are_written() {
    let schema = event_schema();
    let events = [
        ("result", "ResultEvent", Event::Result(&accepted())),
        ("status", "StatusEvent", Event::Status(&delivered())),
    ];
    for (index, (tag, name, event)) in events.into_iter().enumerate() {
        let variant = &schema["oneOf"][index];
        assert_eq!(variant["properties"]["event"]["const"], json!(tag));
        assert_eq!(variant["$ref"], json!(format!("#/$defs/{name}")));
        let mut written = keys(&serde_json::to_value(event).unwrap());
        written.remove("event");
        let body = &schema["$defs"][name];
        assert_eq!(keys(&body["properties"]), written);
        let required: BTreeSet<String> = serde_json::from_value(body["required"].clone()).unwrap();
        assert_eq!(required, written);
    }
    assert_eq!(words(&schema["$defs"]["Status"]), ["accepted", "failed", "expired", "unknown"]);
    let later = ["sent", "delivered", "read", "played", "failed"];
    assert_eq!(words(&schema["$defs"]["DeliveryStatus"]), later);
}

fn keys(object: &Value) -> BTreeSet<String> {
    object.as_object().unwrap().keys().cloned().collect()
}

fn words(schema: &Value) -> Vec<&str> {
    let options = schema["oneOf"].as_array().unwrap();
    options.iter().map(|option| option["const"].as_str().unwrap()).collect()
}
