//! What the worker tells the world: one result for each job and, later, statuses from webhooks.
//! Every key is always present, null where unknown; times are RFC 3339 UTC with milliseconds.

use super::{JobId, NumberId, RawJson};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

/// Room for most events without growing.
const USUAL_BYTES: usize = 512;

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Meta took the message in. Not: delivered.
    Accepted,
    /// It was not sent, and will not be.
    Failed,
    /// Its `expires_at` passed before it could be sent.
    Expired,
    /// It may have been sent; nothing known decides it.
    Unknown,
}

impl Status {
    /// The word on the wire, in routing keys and in labels.
    pub fn name(self) -> &'static str {
        match self {
            Status::Accepted => "accepted",
            Status::Failed => "failed",
            Status::Expired => "expired",
            Status::Unknown => "unknown",
        }
    }
}

/// Why a job or an attempt failed.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// We refused it: the job is not lawful.
    Invalid,
    /// Meta refused it for good.
    Refused,
    /// Too fast for some limit; later it may pass.
    Throttled,
    /// The service could not take it now; surely not sent.
    Unavailable,
    /// It may have been sent: no usable answer came.
    Ambiguous,
    /// The number or the account may not send.
    Blocked,
}

impl Class {
    /// Each of them.
    pub const ALL: [Class; 6] = [
        Class::Invalid,
        Class::Refused,
        Class::Throttled,
        Class::Unavailable,
        Class::Ambiguous,
        Class::Blocked,
    ];

    /// Reads the word.
    pub fn from_name(name: &str) -> Option<Class> {
        Class::ALL.into_iter().find(|class| class.name() == name)
    }

    /// The word on the wire, in headers and in labels.
    pub fn name(self) -> &'static str {
        match self {
            Class::Invalid => "invalid",
            Class::Refused => "refused",
            Class::Throttled => "throttled",
            Class::Unavailable => "unavailable",
            Class::Ambiguous => "ambiguous",
            Class::Blocked => "blocked",
        }
    }
}

/// What a failure is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// This message alone.
    Message,
    /// This recipient, from this number.
    Recipient,
    /// This template.
    Template,
    /// This phone number.
    Number,
    /// The account, its key or its plugin.
    Account,
}

impl Scope {
    /// The word on the wire and in labels.
    pub fn name(self) -> &'static str {
        match self {
            Scope::Message => "message",
            Scope::Recipient => "recipient",
            Scope::Template => "template",
            Scope::Number => "number",
            Scope::Account => "account",
        }
    }
}

/// The error of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorBody {
    /// Why.
    pub class: Class,
    /// About what.
    pub scope: Scope,
    /// Meta's code, where one was given.
    pub code: Option<u32>,
    /// The HTTP status of the answer, where one came.
    pub http_status: Option<u16>,
    /// A sentence for a person.
    pub message: String,
}

/// The one outcome of a job.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ResultEvent {
    /// The job.
    #[schemars(with = "String")]
    pub id: JobId,
    /// Its sender, null where it could not be read.
    #[schemars(with = "Option<String>")]
    pub phone_number_id: Option<NumberId>,
    /// How it ended.
    pub status: Status,
    /// Meta's id of the message (`wamid.…`), once accepted.
    pub whatsapp_message_id: Option<String>,
    /// Requests made.
    pub attempts: u32,
    /// Why it was not accepted.
    pub error: Option<ErrorBody>,
    /// As the producer gave it.
    #[schemars(with = "Option<serde_json::Value>")]
    pub metadata: Option<RawJson>,
    /// The AMQP timestamp, where the producer set one.
    #[serde(serialize_with = "option_millis")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub enqueued_at: Option<Timestamp>,
    /// When a worker first saw it.
    #[serde(serialize_with = "millis")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub received_at: Timestamp,
    /// When it ended.
    #[serde(serialize_with = "millis")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub finished_at: Timestamp,
    /// How many times it had been replayed from the dead letters, null if never.
    pub replay: Option<u32>,
}

impl ResultEvent {
    /// The AMQP `message_id` of this event, the same however often it is delivered.
    pub fn message_id(&self) -> String {
        match self.replay {
            None => [self.id.as_str(), ":result"].concat(),
            Some(n) => format!("{}:{n}:result", self.id),
        }
    }
}

/// What became of a message that Meta took in, as a webhook tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryStatus {
    /// Meta has sent it on.
    Sent,
    /// It is on the recipient's device.
    Delivered,
    /// The recipient has seen it.
    Read,
    /// The recipient has listened to it: a voice message.
    Played,
    /// It was not delivered, and will not be.
    Failed,
}

impl DeliveryStatus {
    /// Each of them.
    pub const ALL: [DeliveryStatus; 5] = [
        DeliveryStatus::Sent,
        DeliveryStatus::Delivered,
        DeliveryStatus::Read,
        DeliveryStatus::Played,
        DeliveryStatus::Failed,
    ];

    /// Reads the word, in small or capital letters.
    pub fn from_name(name: &str) -> Option<DeliveryStatus> {
        DeliveryStatus::ALL.into_iter().find(|status| status.name().eq_ignore_ascii_case(name))
    }

    /// The word on the wire, in routing keys and in labels.
    pub fn name(self) -> &'static str {
        match self {
            DeliveryStatus::Sent => "sent",
            DeliveryStatus::Delivered => "delivered",
            DeliveryStatus::Read => "read",
            DeliveryStatus::Played => "played",
            DeliveryStatus::Failed => "failed",
        }
    }
}

/// What became of an accepted message, from a webhook.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct StatusEvent {
    /// The job, null where it cannot be told.
    #[schemars(with = "Option<String>")]
    pub id: Option<JobId>,
    /// The sender.
    #[schemars(with = "Option<String>")]
    pub phone_number_id: Option<NumberId>,
    /// How far it came.
    pub status: DeliveryStatus,
    /// Meta's id of the message.
    pub whatsapp_message_id: String,
    /// When it happened.
    #[serde(serialize_with = "millis")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub at: Timestamp,
    /// The producer's own `biz_opaque_callback_data`, where it set one.
    pub opaque: Option<String>,
    /// Why it failed.
    pub error: Option<ErrorBody>,
    /// As the producer gave it, where it is known.
    #[schemars(with = "Option<serde_json::Value>")]
    pub metadata: Option<RawJson>,
}

impl StatusEvent {
    /// The AMQP `message_id` of this event, the same however often the webhook is repeated.
    pub fn message_id(&self) -> String {
        format!("{}:{}", self.whatsapp_message_id, self.status.name())
    }
}

/// An event out.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(tag = "event", rename_all = "lowercase")]
#[schemars(title = "chakra-sender event")]
pub enum Event<'e> {
    /// A job's outcome.
    Result(&'e ResultEvent),
    /// A message's later status.
    Status(&'e StatusEvent),
}

impl Event<'_> {
    /// The body that it is published with. An error would be a defect.
    pub fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        let mut json = Vec::with_capacity(USUAL_BYTES);
        serde_json::to_writer(&mut json, self)?;
        Ok(json)
    }
}

fn millis<S: Serializer>(at: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{at:.3}"))
}

#[expect(clippy::ref_option, reason = "the signature that serde asks for")]
fn option_millis<S: Serializer>(at: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => millis(at, to),
        None => to.serialize_none(),
    }
}
