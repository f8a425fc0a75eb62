//! Meta's message object: read as far as it must be checked, kept byte for byte.

use super::ids::is_dialled;
use super::object::{ANY, Object, SOME};
use super::{JobId, RawJson, Recipient, content};
use bytes::Bytes;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The field that Meta gives back in status webhooks.
const OPAQUE: &str = "biz_opaque_callback_data";

/// Meta's limit for it, in characters.
const MAX_OPAQUE: usize = 512;

/// The greatest length of `to` or `recipient` in characters: our own bound, since they become keys.
/// Meta's longest, a user id, has 128 and a country code.
const MAX_RECIPIENT: usize = 256;

/// The greatest length of `type`: our own bound, since errors show it.
const MAX_KIND: usize = 64;

/// What a body asks Meta to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A message of this `type` (`text` where none is written).
    Message(String),
    /// A read receipt or typing indicator: no recipient, and no message id comes back.
    Receipt,
}

/// Which template a message uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template<'m> {
    /// Its name.
    pub name: Cow<'m, str>,
    /// The code of its language, such as `en_US`.
    pub language: Cow<'m, str>,
}

/// A checked message object.
#[derive(Debug, Clone)]
pub struct Message {
    raw: RawJson,
    kind: Kind,
    recipient: Option<Recipient>,
    has_opaque: bool,
}

impl Message {
    /// Reads and checks a message object; the error is a sentence for the producer, with the way to
    /// the fault and without any content.
    pub fn parse(raw: RawJson) -> Result<Message, String> {
        raw.check_depth().map_err(|error| format!("message is {error}"))?;
        let message = Object::read("message".into(), raw.text())?;
        if message.need_text("messaging_product", ANY)? != "whatsapp" {
            return Err("message.messaging_product must be \"whatsapp\"".into());
        }
        let has_opaque = check_opaque(&message)?;
        let addressee = match &*message.text("recipient_type", ANY)?.unwrap_or("individual".into())
        {
            "individual" => Addressee::Individual,
            "group" => Addressee::Group,
            _ => return Err("message.recipient_type must be individual or group".into()),
        };
        let (kind, recipient) = match message.has("status") {
            true => {
                check_receipt(&message, addressee)?;
                (Kind::Receipt, None)
            }
            false => {
                let recipient = read_recipient(&message, addressee)?;
                (Kind::Message(check_content(&message, addressee)?), Some(recipient))
            }
        };
        Ok(Message { raw, kind, recipient, has_opaque })
    }

    /// The object as the producer wrote it.
    pub fn bytes(&self) -> &[u8] {
        self.raw.bytes()
    }

    /// The object of its type, as JSON; none for a receipt.
    pub fn content(&self) -> Option<&str> {
        let Kind::Message(kind) = &self.kind else { return None };
        let fields: BTreeMap<Cow<'_, str>, &RawValue> =
            serde_json::from_str(self.raw.text()).ok()?;
        fields.get(kind.as_str()).map(|content| content.get())
    }

    /// Whether it uses a template.
    pub fn has_template(&self) -> bool {
        matches!(&self.kind, Kind::Message(kind) if kind == "template")
    }

    /// The template that it uses; none for any other type.
    pub fn template(&self) -> Option<Template<'_>> {
        #[derive(serde::Deserialize)]
        struct Content<'m> {
            #[serde(borrow)]
            name: Cow<'m, str>,
            #[serde(borrow)]
            language: Language<'m>,
        }
        #[derive(serde::Deserialize)]
        struct Language<'m> {
            #[serde(borrow)]
            code: Cow<'m, str>,
        }
        if !self.has_template() {
            return None;
        }
        let Content { name, language } = serde_json::from_str(self.content()?).ok()?;
        Some(Template { name, language: language.code })
    }

    /// Whether its recipient's number is written with its country code for sure: with a plus.
    pub fn has_full_number(&self) -> bool {
        #[derive(serde::Deserialize)]
        struct To<'a> {
            #[serde(borrow)]
            to: Cow<'a, str>,
        }
        let to: Option<To<'_>> = serde_json::from_str(self.raw.text()).ok();
        to.is_some_and(|message| message.to.trim_start().starts_with('+'))
    }

    /// What it asks for.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Whom it goes to; none for a receipt.
    pub fn recipient(&self) -> Option<&Recipient> {
        self.recipient.as_ref()
    }

    /// Whether its request carries the job's id, which its statuses give back then.
    pub fn carries_id(&self) -> bool {
        !self.has_opaque && self.kind != Kind::Receipt
    }

    /// The HTTP body: the producer's bytes, with the job's id as `biz_opaque_callback_data` where it
    /// set none. A receipt goes out untouched.
    pub fn to_request(&self, id: &JobId) -> Bytes {
        let bytes = self.raw.bytes();
        if !self.carries_id() {
            return bytes.clone();
        }
        let after_brace = 1 + bytes.iter().take_while(|byte| **byte != b'{').count();
        // At least `messaging_product` follows, so the comma is always right. An id may hold quotes.
        let mut request = Vec::with_capacity(bytes.len() + 2 * (OPAQUE.len() + id.as_str().len()));
        for part in [&bytes[..after_brace], b"\"", OPAQUE.as_bytes(), b"\":"] {
            request.extend_from_slice(part);
        }
        serde_json::to_writer(&mut request, id).expect("a vector takes all that is written");
        request.push(b',');
        request.extend_from_slice(&bytes[after_brace..]);
        request.into()
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Addressee {
    Individual,
    Group,
}

/// Whether the producer set the field. Null would be a second key beside ours.
fn check_opaque(message: &Object) -> Result<bool, String> {
    match (message.writes(OPAQUE), message.text(OPAQUE, 0..=MAX_OPAQUE)?) {
        (true, None) => Err(format!("{} must be a string, not null", message.at(OPAQUE))),
        (written, _) => Ok(written),
    }
}

/// The form that marks a message as read and may show a typing indicator.
fn check_receipt(message: &Object, addressee: Addressee) -> Result<(), String> {
    if message.need_text("status", ANY)? != "read" {
        return Err("message.status must be \"read\": only a read receipt has a status".into());
    }
    if let Some(key) = ["to", "recipient", "type"].into_iter().find(|key| message.has(key)) {
        return Err(format!("{} does not belong in a read receipt", message.at(key)));
    }
    if addressee == Addressee::Group {
        return Err("message.status: groups have no read receipts".into());
    }
    message.need_text("message_id", SOME)?;
    match message.object("typing_indicator")? {
        Some(indicator) => indicator.need_text("type", SOME).map(drop),
        None => Ok(()),
    }
}

/// `to` wins where both are given, as at Meta.
fn read_recipient(message: &Object, addressee: Addressee) -> Result<Recipient, String> {
    let to = message.text("to", 1..=MAX_RECIPIENT)?;
    let user_id = message.text("recipient", 1..=MAX_RECIPIENT)?;
    match (to, user_id) {
        (Some(to), _) if addressee == Addressee::Group || is_phone_number(&to) => {
            Ok(Recipient::from_to(&to))
        }
        (Some(_), _) => Err("message.to must be a phone number of 5 to 20 digits, \
             or a group id together with recipient_type group"
            .into()),
        (None, Some(user_id)) => Ok(Recipient::from_user_id(&user_id)),
        (None, None) => Err("message.to is missing".into()),
    }
}

fn is_phone_number(to: &str) -> bool {
    let digits = to.bytes().filter(u8::is_ascii_digit).count();
    (5..=20).contains(&digits) && is_dialled(to)
}

/// The message's type, its content checked.
fn check_content(message: &Object, addressee: Addressee) -> Result<String, String> {
    let kind = message.text("type", 1..=MAX_KIND)?.unwrap_or("text".into());
    if !kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Err("message.type must be a word such as text or template".into());
    }
    if addressee == Addressee::Group && kind == "interactive" {
        return Err("message.type: groups take no interactive messages".into());
    }
    if let Some(context) = message.object("context")? {
        context.need_text("message_id", SOME)?;
    }
    content::check(&kind, message)?;
    Ok(kind.into_owned())
}
