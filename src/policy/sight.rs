//! Whether looking is to be believed: only where it has been seen to work. For each form of message it
//! is known when an accepted one was last found in its chat, and how long that took at most. Messages
//! have one form when they have the same type and the same fields, and when their recipients are
//! numbers of one kind: what shows of one may be hidden or changed of another.

use crate::wire::{Kind, Message};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// A proof is good for so long.
const PROOF_LASTS: Duration = Duration::from_secs(3_600);

/// With traffic, it is proven anew after this.
const PROVE_AGAIN: Duration = Duration::from_secs(60);

/// The longest description of a form.
const MAX_FORM_CHARS: usize = 300;

/// Forms that are remembered. Meta has about fifteen types, with a few variants each.
const MAX_FORMS: usize = 500;

/// The form of a message.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Form(String);

impl Form {
    /// None for what shows in no chat of a phone number.
    pub fn of(message: &Message) -> Option<Form> {
        let (Kind::Message(kind), Some(recipient)) = (message.kind(), message.recipient()) else {
            return None;
        };
        let numbers = match recipient.chat_numbers().len() {
            0 => return None,
            // Without a plus Meta may put a country code before it.
            1 if message.has_full_number() => "",
            1 => "bare",
            // Filed under another number than the one that was dialled.
            _ => "rewritten",
        };
        let content: Value = serde_json::from_str(message.content()?).ok()?;
        let mut fields = String::new();
        describe(&content, &mut fields);
        Some(Form(format!("{kind} {numbers} {fields}")))
    }
}

/// The names of all fields, in their order, and the values that say what kind of thing it is.
fn describe(value: &Value, fields: &mut String) {
    match value {
        Value::Object(object) => {
            fields.push('{');
            for (name, value) in object {
                fields.push_str(name);
                match value.as_str() {
                    Some(text) if name == "type" => fields.extend([":", text]),
                    _ => describe(value, fields),
                }
                fields.push(',');
            }
            fields.push('}');
        }
        Value::Array(items) => {
            fields.push('[');
            items.iter().for_each(|item| describe(item, fields));
            fields.push(']');
        }
        Value::Bool(flag) => fields.push_str(if *flag { "=yes" } else { "=no" }),
        Value::Null | Value::Number(_) | Value::String(_) => {}
    }
    // A stranger's field names make no long key.
    if let Some((end, _)) = fields.char_indices().nth(MAX_FORM_CHARS) {
        fields.truncate(end);
    }
}

/// What is known of looking, over all types.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sight(BTreeMap<Form, Proof>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Proof {
    /// When a message was last seen; none: the last one was not.
    seen: Option<Timestamp>,
    /// The longest time that one took.
    lag: Duration,
    /// When it was last tried.
    tried: Timestamp,
}

impl Sight {
    /// How long a message of this form takes until it shows; none where it is not known to show.
    pub fn lag(&self, form: &Form, now: Timestamp) -> Option<Duration> {
        let proof = self.0.get(form)?;
        let seen = proof.seen?;
        (since(seen, now) <= PROOF_LASTS).then_some(proof.lag)
    }

    /// Whether an accepted message is to be looked for now; then that counts as tried.
    pub fn takes(&mut self, form: &Form, now: Timestamp) -> bool {
        let full = self.0.len() >= MAX_FORMS;
        match self.0.get_mut(form) {
            Some(proof) if since(proof.tried, now) < PROVE_AGAIN => false,
            Some(proof) => {
                proof.tried = now;
                true
            }
            None if full => false,
            None => {
                self.0.insert(form.clone(), Proof { seen: None, lag: Duration::ZERO, tried: now });
                true
            }
        }
    }

    /// A message that was accepted then shows by now.
    pub fn saw(&mut self, form: &Form, accepted: Timestamp, now: Timestamp) {
        if let Some(proof) = self.0.get_mut(form) {
            proof.seen = Some(now);
            proof.lag = proof.lag.max(since(accepted, now));
        }
    }

    /// A message does not show, after all that time: what was proven is proven no more.
    pub fn missed(&mut self, form: &Form) {
        if let Some(proof) = self.0.get_mut(form) {
            proof.seen = None;
        }
    }
}

fn since(then: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::RawJson;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn form(to: &str, kind: &str, content: &str) -> Form {
        let message = format!(
            r#"{{"messaging_product":"whatsapp","to":"{to}","type":"{kind}","{kind}":{content}}}"#
        );
        Form::of(&Message::parse(RawJson::parse(message.into()).unwrap()).unwrap()).unwrap()
    }

    fn text() -> Form {
        form("+4915123456789", "text", r#"{"body":"x"}"#)
    }

    #[test]
    fn a_form_is_type_fields_and_kind_of_number() {
        let other = form("+4915123456780", "text", r#"{"body":"another"}"#);
        assert_eq!(text(), other);
        for different in [
            form("+4915123456789", "text", r#"{"body":"x","preview_url":true}"#),
            form("+4915123456789", "image", r#"{"id":"1"}"#),
            form("4915123456789", "text", r#"{"body":"x"}"#),
            form("+5215512345678", "text", r#"{"body":"x"}"#),
        ] {
            assert_ne!(text(), different);
        }
    }

    #[test]
    fn nothing_is_believed_until_one_message_was_seen() {
        let mut sight = Sight::default();
        assert_eq!(sight.lag(&text(), at(0)), None);
        assert!(sight.takes(&text(), at(0)));
        assert_eq!(sight.lag(&text(), at(1)), None);
        sight.saw(&text(), at(0), at(5));
        assert_eq!(sight.lag(&text(), at(6)), Some(Duration::from_secs(5)));
        let mexican = form("+5215512345678", "text", r#"{"body":"x"}"#);
        assert_eq!(sight.lag(&mexican, at(6)), None, "filed in another way");
    }

    #[test]
    fn the_longest_lag_counts() {
        let mut sight = Sight::default();
        for (accepted, seen) in [(0, 2), (100, 120), (200, 201)] {
            assert!(sight.takes(&text(), at(accepted)));
            sight.saw(&text(), at(accepted), at(seen));
        }
        assert_eq!(sight.lag(&text(), at(202)), Some(Duration::from_secs(20)));
    }

    #[test]
    fn a_proof_is_renewed_once_in_a_minute_and_lapses_after_an_hour() {
        let mut sight = Sight::default();
        assert!(sight.takes(&text(), at(0)));
        sight.saw(&text(), at(0), at(1));
        assert!(!sight.takes(&text(), at(59)));
        assert!(sight.takes(&text(), at(60)));
        assert!(sight.lag(&text(), at(3_601)).is_some());
        assert!(sight.lag(&text(), at(3_602)).is_none());
    }

    #[test]
    fn one_message_that_does_not_show_ends_the_proof() {
        let mut sight = Sight::default();
        assert!(sight.takes(&text(), at(0)));
        sight.saw(&text(), at(0), at(1));
        sight.missed(&text());
        assert_eq!(sight.lag(&text(), at(2)), None);
    }

    #[test]
    fn it_is_written_and_read_back() {
        let mut sight = Sight::default();
        assert!(sight.takes(&text(), at(0)));
        sight.saw(&text(), at(0), at(1));
        let written = serde_json::to_vec(&sight).unwrap();
        assert_eq!(serde_json::from_slice::<Sight>(&written).unwrap(), sight);
    }
}
