//! A send job: what a producer asks for.

use super::message::Message;
use super::{JobId, NumberId, RawJson};
use bytes::Bytes;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The largest lawful body, in bytes.
pub const MAX_BODY_BYTES: usize = 256 * 1024;

/// The largest lawful `metadata`, in bytes as written.
const MAX_METADATA_BYTES: usize = 4 * 1024;

/// Beyond this an unlawful body is not searched for its id: the search costs memory.
const MAX_SALVAGE_BYTES: usize = 4 * MAX_BODY_BYTES;

/// The longest reason in characters: it travels in headers and events, and may quote a long key.
const MAX_REASON: usize = 500;

/// Which of a number's two queues a job goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// In its turn.
    Normal,
    /// Before all normal ones of its number.
    Urgent,
}

impl Priority {
    /// The word on the wire and in labels.
    pub fn name(self) -> &'static str {
        match self {
            Priority::Normal => "normal",
            Priority::Urgent => "urgent",
        }
    }
}

/// What follows when a job is in doubt and the looking finds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnDoubt {
    /// The result is `unknown`.
    Report,
    /// It is sent again.
    Resend,
}

/// A lawful job.
#[derive(Debug, Clone)]
pub struct SendJob {
    /// Chosen by the producer; with the number the deduplication key.
    pub id: JobId,
    /// The sender.
    pub phone_number_id: NumberId,
    /// Meta's message object, as the producer wrote it.
    pub message: Message,
    /// What the body says. Through RabbitMQ the routing key decides.
    pub priority: Option<Priority>,
    /// Never sent before.
    pub not_before: Option<Timestamp>,
    /// Never sent after.
    pub expires_at: Option<Timestamp>,
    /// Overrides the configured policy.
    pub on_doubt: Option<OnDoubt>,
    /// Returned on every event.
    pub metadata: Option<RawJson>,
}

/// A body that is no lawful job, with what could still be read of it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{reason}")]
pub struct InvalidJob {
    /// What is wrong, for a stranger.
    pub reason: String,
    /// Its id, where one could be read: then a result can be given.
    pub id: Option<JobId>,
    /// Its sender, where it could be read.
    pub phone_number_id: Option<NumberId>,
    /// Its metadata, where it is lawful.
    pub metadata: Option<RawJson>,
}

/// The body as it is written. Its field comments are the JSON Schema's descriptions.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "chakra-sender send job", description = "What a producer asks for.")]
pub(super) struct Document<'a> {
    /// 1 to 128 visible ASCII characters, chosen by the producer; with the number the deduplication
    /// key. May be left out where the AMQP message_id carries it.
    #[schemars(length(min = 1, max = 128), regex(pattern = "^[!-~]+$"))]
    id: Option<String>,
    /// Meta's phone number ID of the sender: digits.
    #[schemars(regex(pattern = "^[0-9]{1,32}$"))]
    phone_number_id: String,
    /// Meta's own message object, forwarded byte for byte.
    #[serde(borrow)]
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    message: &'a RawValue,
    /// `normal` (default) or `urgent`. Through RabbitMQ the routing key decides.
    priority: Option<Priority>,
    /// RFC 3339. Never sent before.
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    not_before: Option<Timestamp>,
    /// RFC 3339. Never sent after: the result is then `expired`.
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    expires_at: Option<Timestamp>,
    /// What follows when a doubt finds no evidence: `report` or `resend`; default by configuration.
    on_doubt: Option<OnDoubt>,
    /// Any JSON up to 4 KiB, returned on every event of the job.
    #[serde(borrow)]
    #[schemars(with = "Option<serde_json::Value>")]
    metadata: Option<&'a RawValue>,
}

impl SendJob {
    /// Reads a body. `message_id` is the AMQP property: it names the job where the body does not.
    pub fn parse(body: &Bytes, message_id: Option<&str>) -> Result<SendJob, InvalidJob> {
        read(body, message_id).map_err(|reason| salvage(body, message_id, reason))
    }
}

fn read(body: &Bytes, message_id: Option<&str>) -> Result<SendJob, String> {
    match body.len() {
        0 => return Err("the body is empty".into()),
        1..=MAX_BODY_BYTES => {}
        // Who reads lines cuts the longest ones, so its size is not known here.
        _ => return Err(format!("the body is longer than {MAX_BODY_BYTES} bytes")),
    }
    if !opens_object(body) {
        return Err("the body is no JSON object".into());
    }
    let document: Document =
        serde_json::from_slice(body).map_err(|error| format!("not a send job: {error}"))?;
    let metadata = document.metadata.map(|raw| check_metadata(body, raw)).transpose()?;
    if let (Some(not_before), Some(expires_at)) = (document.not_before, document.expires_at)
        && not_before > expires_at
    {
        return Err(format!("not_before {not_before} is after expires_at {expires_at}"));
    }
    Ok(SendJob {
        id: agree_on_id(document.id.as_deref(), message_id)?,
        phone_number_id: NumberId::parse(&document.phone_number_id)?,
        message: Message::parse(RawJson::slice_of(body, document.message))?,
        priority: document.priority,
        not_before: document.not_before,
        expires_at: document.expires_at,
        on_doubt: document.on_doubt,
        metadata,
    })
}

fn agree_on_id(in_body: Option<&str>, message_id: Option<&str>) -> Result<JobId, String> {
    match (in_body, message_id) {
        (Some(body), Some(property)) if body != property => Err(format!(
            "the body's id {body:?} and the AMQP message_id {property:?} are different: leave one out"
        )),
        (Some(id), _) | (None, Some(id)) => JobId::parse(id),
        (None, None) => Err("missing field `id`, and no AMQP message_id either".into()),
    }
}

fn check_metadata(body: &Bytes, raw: &RawValue) -> Result<RawJson, String> {
    let size = raw.get().len();
    if size > MAX_METADATA_BYTES {
        return Err(format!("metadata has {size} bytes, at most {MAX_METADATA_BYTES}"));
    }
    // Consumers must be able to read the event that it comes back in.
    RawJson::parse(body.slice_ref(raw.get().as_bytes()))
        .map_err(|error| format!("metadata cannot be given back: {error}"))
}

/// Serde would take an array of the fields' values for the object.
fn opens_object(body: &[u8]) -> bool {
    body.trim_ascii_start().first() == Some(&b'{')
}

/// What can still be read of an unlawful body, so that its producer gets an answer. Each value stays
/// unread: one of a wrong type does not hide the others.
#[derive(Deserialize)]
struct Remains<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    phone_number_id: Option<&'a RawValue>,
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
}

fn salvage(body: &Bytes, message_id: Option<&str>, reason: String) -> InvalidJob {
    let remains = match body.len() {
        0..=MAX_SALVAGE_BYTES if opens_object(body) => serde_json::from_slice::<Remains>(body).ok(),
        _ => None,
    };
    let text = |raw: Option<&RawValue>| serde_json::from_str::<String>(raw?.get()).ok();
    let id = remains.as_ref().and_then(|remains| text(remains.id));
    let number = remains.as_ref().and_then(|remains| text(remains.phone_number_id));
    let ids = [id.as_deref(), message_id];
    InvalidJob {
        reason: reason.chars().take(MAX_REASON).collect(),
        id: ids.into_iter().flatten().find_map(|id| JobId::parse(id).ok()),
        phone_number_id: number.and_then(|number| NumberId::parse(&number).ok()),
        metadata: remains.and_then(|r| r.metadata).and_then(|raw| check_metadata(body, raw).ok()),
    }
}
