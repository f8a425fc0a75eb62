//! ChakraHQ's list of the messages of a chat, and which of them could be a job's. Quiet.
//!
//! A listing names neither the sending number nor our own data, so a message is known by its type and
//! content. The service may trim a text, add fields and leave defaults out; it adds nothing to what it
//! keeps, so every field of ours must be there.

use super::envelope::Body;
use super::exchange::{Exchange, Reply};
use super::redact::redact;
use crate::wire::{Kind, Message};
use jiff::Timestamp;
use serde_json::Value;

/// Why a chat could not be looked at, for a person. It shows no content and no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LookError(pub String);

/// What is looked for.
#[derive(Debug)]
pub(super) struct Wanted {
    kind: String,
    content: Value,
}

/// One message of a page.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) id: Option<String>,
    pub(super) at: Option<Timestamp>,
    pub(super) chat: Option<String>,
    outbound: bool,
    kind: Option<String>,
    content: Option<Value>,
}

impl Wanted {
    /// None for a receipt: it shows in no chat.
    pub(super) fn of(message: &Message) -> Option<Wanted> {
        let Kind::Message(kind) = message.kind() else { return None };
        let content = serde_json::from_str(message.content()?).ok()?;
        Some(Wanted { kind: kind.clone(), content })
    }

    /// Whether this could be the message.
    pub(super) fn is(&self, listed: &Listed) -> bool {
        listed.outbound
            && listed.kind.as_deref().is_some_and(|kind| kind.eq_ignore_ascii_case(&self.kind))
            && listed.content.as_ref().is_some_and(|content| keeps(&self.content, content))
    }
}

/// A page of messages, newest first. An answer that cannot be read is an error, never an empty page.
pub(super) fn read_page(exchange: Exchange, token: &str) -> Result<Vec<Listed>, LookError> {
    let reply = match exchange {
        Exchange::NeverSent(reason) | Exchange::NoAnswer(reason) => {
            return Err(LookError(format!("no answer: {}", redact(&reason, token))));
        }
        Exchange::Answered(reply) => reply,
    };
    let body = Body::read(&reply.body, reply.whole);
    if !reply.is_success() || !body.is_clean() {
        return Err(refused(&reply, &body, token));
    }
    let list = body.json().and_then(|json| match json {
        Value::Array(list) => Some(list),
        json => json.get("_data")?.as_array(),
    });
    match list {
        Some(list) => Ok(list.iter().map(listed).collect()),
        None => Err(LookError(format!("HTTP {} without a list of messages", reply.status))),
    }
}

fn refused(reply: &Reply, body: &Body, token: &str) -> LookError {
    let complaint = body.complaint(reply.status).and_then(|complaint| complaint.text);
    LookError(match complaint {
        Some(text) => format!("HTTP {}: {}", reply.status, redact(&text, token)),
        None => format!("HTTP {}", reply.status),
    })
}

fn listed(entry: &Value) -> Listed {
    let text = |name: &str| entry.get(name)?.as_str().map(str::to_owned);
    let kind = text("dataType").or_else(|| Some(entry.pointer("/body/type")?.as_str()?.to_owned()));
    let of_kind = kind.as_deref().and_then(|kind| entry.get("body")?.get(kind)).cloned();
    let plain = || text("text").map(|text| serde_json::json!({ "body": text }));
    let content = of_kind.or_else(|| plain().filter(|_| kind.as_deref() == Some("text")));
    Listed {
        id: text("externalId").filter(|id| !id.is_empty()),
        at: ["timestamp", "createdAt"].into_iter().find_map(|name| moment(entry.get(name)?)),
        chat: text("chat"),
        outbound: text("direction").is_some_and(|way| way.eq_ignore_ascii_case("OUTBOUND")),
        kind,
        content,
    }
}

/// Milliseconds of Unix time.
fn moment(value: &Value) -> Option<Timestamp> {
    let millis = value.as_i64().or_else(|| value.as_str()?.parse().ok())?;
    Timestamp::from_millisecond(millis).ok()
}

/// Whether everything of ours is in theirs.
fn keeps(ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => ours.iter().all(|(name, ours)| {
            theirs.get(name).map_or_else(|| says_nothing(ours), |theirs| keeps(ours, theirs))
        }),
        (Value::Array(ours), Value::Array(theirs)) => {
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| keeps(a, b))
        }
        (Value::String(ours), Value::String(theirs)) => ours.trim() == theirs.trim(),
        (Value::Number(ours), Value::Number(theirs)) => ours.as_f64() == theirs.as_f64(),
        (ours, theirs) => ours == theirs,
    }
}

/// A field that means the same as none.
fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.trim().is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Bool(true) | Value::Number(_) | Value::Object(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::RawJson;
    use serde_json::json;

    fn wanted(message: &Value) -> Wanted {
        let raw = RawJson::parse(message.to_string().into()).unwrap();
        Wanted::of(&Message::parse(raw).unwrap()).unwrap()
    }

    fn text(body: &str) -> Wanted {
        wanted(&json!({ "messaging_product": "whatsapp", "to": "+4915123456", "type": "text",
            "text": { "body": body, "preview_url": false } }))
    }

    fn entry(more: Value) -> Listed {
        let mut entry = json!({ "externalId": "wamid.1", "dataType": "text", "direction": "OUTBOUND",
            "timestamp": 1_800_000_000_000_i64, "chat": "c-1",
            "body": { "type": "text", "text": { "body": "hello" } } });
        for (name, value) in more.as_object().unwrap() {
            entry[name] = value.clone();
        }
        listed(&entry)
    }

    #[test]
    fn a_message_is_known_by_its_direction_type_and_content() {
        let ours = text("hello");
        for (more, expected) in [
            (json!({}), true),
            (json!({ "direction": "INBOUND" }), false),
            (json!({ "dataType": "image" }), false),
            (json!({ "body": { "text": { "body": "hello " , "preview_url": true } } }), false),
            (json!({ "body": { "text": { "body": " hello\n", "extra": 1 } } }), true),
            (json!({ "body": { "text": { "body": "hello2" } } }), false),
            (json!({ "body": null, "text": "hello" }), true),
            (json!({ "body": null, "text": null }), false),
        ] {
            assert_eq!(ours.is(&entry(more.clone())), expected, "{more}");
        }
    }

    #[test]
    fn every_field_of_a_template_must_be_there() {
        let template = json!({ "name": "shipped", "language": { "code": "en" },
            "components": [{ "type": "body", "parameters": [{ "type": "text", "text": "8812" }] }] });
        let ours = wanted(&json!({ "messaging_product": "whatsapp", "to": "+4915123456",
            "type": "template", "template": template.clone() }));
        let shown = |template: Value| {
            entry(json!({ "dataType": "template", "body": { "template": template } }))
        };
        assert!(ours.is(&shown(template.clone())));
        let mut other = template.clone();
        other["components"][0]["parameters"][0]["text"] = "8813".into();
        assert!(!ours.is(&shown(other)));
        assert!(!ours.is(&shown(json!({ "name": "shipped" }))));
    }

    fn page(status: u16, body: &str) -> Result<usize, LookError> {
        let reply = Reply {
            status,
            retry_after: Vec::new(),
            location: None,
            body: body.to_owned().into(),
            whole: true,
        };
        read_page(Exchange::Answered(reply), "secret").map(|page| page.len())
    }

    #[test]
    fn only_a_list_is_a_page() {
        assert_eq!(page(200, r#"{"_data":[{},{}],"_errors":[]}"#), Ok(2));
        assert_eq!(page(200, r#"{"_data":[]}"#), Ok(0));
        let cut_within_an_emoji = r#"{"_data":[{"text":"see you \ud83d"},{}]}"#;
        assert_eq!(page(200, cut_within_an_emoji), Ok(2));
        for (status, body) in [
            (200, ""),
            (200, "<html>"),
            (200, "{}"),
            (200, r#"{"_data":{}}"#),
            (200, r#"{"_data":[],"_errors":["no"]}"#),
            (403, r#"{"_data":[]}"#),
            (500, ""),
        ] {
            assert!(page(status, body).is_err(), "{status} {body}");
        }
        let told = page(403, r#"{"_errors":["secret is not allowed"]}"#).unwrap_err().to_string();
        assert!(told.starts_with("HTTP 403: ") && !told.contains("secret"), "{told}");
    }
}
