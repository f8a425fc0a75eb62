//! The names in a job, as types that exist only when they are lawful.

use std::fmt;
use std::sync::Arc;

/// A job's id: 1 to 128 visible ASCII characters, chosen by the producer.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(Arc<str>);

impl JobId {
    /// Reads an id, or says what is wrong with it.
    pub fn parse(text: &str) -> Result<JobId, String> {
        if text.is_empty() || text.len() > 128 {
            return Err(format!("id must have 1 to 128 characters, not {}", text.chars().count()));
        }
        match text.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(JobId(text.into())),
            false => Err("id must be visible ASCII characters without spaces".into()),
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Meta's phone number ID of a sender: 1 to 32 digits. Not a phone number: safe in logs and labels.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NumberId(Arc<str>);

impl NumberId {
    /// Reads a phone number ID, or says what is wrong with it.
    pub fn parse(text: &str) -> Result<NumberId, String> {
        let lawful = (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        match lawful {
            true => Ok(NumberId(text.into())),
            false => Err("phone_number_id must be Meta's phone number ID: 1 to 32 digits".into()),
        }
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whom a message goes to, as a key: the digits of `to`, or `recipient` as it stands.
/// It never shows more than the last two characters.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Recipient(Arc<str>);

impl Recipient {
    /// The key for `to`: a phone number in any spelling becomes its digits, a group id stays.
    pub fn from_to(to: &str) -> Recipient {
        match is_dialled(to) {
            true => Recipient(to.replace(|c: char| !c.is_ascii_digit(), "").into()),
            false => Recipient(to.into()),
        }
    }

    /// The key for `recipient`, a business-scoped user id.
    pub fn from_user_id(id: &str) -> Recipient {
        Recipient(id.into())
    }

    /// The numbers, in digits, under which a chat with it may be filed; none where it is no phone
    /// number. Meta files mobile numbers of some countries with or without a digit that they are
    /// dialled with: Mexico's 1, Brazil's 9, Argentina's 9.
    pub fn chat_numbers(&self) -> Vec<String> {
        let digits = &*self.0;
        // E.164 has at most 15 digits: more of them are a group's id.
        let is_number = (1..=15).contains(&digits.len());
        if !is_number || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Vec::new();
        }
        let without = |at: usize| Some(format!("{}{}", &digits[..at], &digits[at + 1..]));
        let with =
            |at: usize, digit: &str| Some(format!("{}{digit}{}", &digits[..at], &digits[at..]));
        let other = match (&digits.as_bytes()[..digits.len().min(5)], digits.len()) {
            ([b'5', b'2', b'1', ..], 13) => without(2),
            ([b'5', b'2', ..], 12) => with(2, "1"),
            ([b'5', b'5', _, _, b'9'], 13) => without(4),
            ([b'5', b'5', ..], 12) => with(4, "9"),
            ([b'5', b'4', b'9', ..], 13) => without(2),
            ([b'5', b'4', ..], 12) => with(2, "9"),
            _ => None,
        };
        std::iter::once(digits.to_owned()).chain(other).collect()
    }

    /// The whole key: for maps and requests, never for logs.
    pub fn key(&self) -> &str {
        &self.0
    }
}

/// Whether it is digits alone, with the marks between them that Meta allows.
pub(super) fn is_dialled(to: &str) -> bool {
    to.bytes().all(|byte| byte.is_ascii_digit() || b"+ -().".contains(&byte))
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = self.0.chars().count().saturating_sub(2);
        let shown: String = self.0.chars().skip(hidden).collect();
        write!(f, "…{shown}")
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

macro_rules! shows_its_text {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{:?}", &*self.0) }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(&self.0)
            }
        }
    )*};
}
shows_its_text!(JobId, NumberId);

impl<'de> serde::Deserialize<'de> for NumberId {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<NumberId, D::Error> {
        let text = String::deserialize(from)?;
        NumberId::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_looked_for_under_every_form_in_which_it_may_be_filed() {
        for (to, filed) in [
            ("+91 99012-58433", &["919901258433"][..]),
            ("+5215512345678", &["5215512345678", "525512345678"]),
            ("+525512345678", &["525512345678", "5215512345678"]),
            ("+5511987654321", &["5511987654321", "551187654321"]),
            ("+551187654321", &["551187654321", "5511987654321"]),
            ("+5491112345678", &["5491112345678", "541112345678"]),
            ("+541112345678", &["541112345678", "5491112345678"]),
            ("a-group-id", &[]),
            ("120363025246125486", &[]),
        ] {
            assert_eq!(Recipient::from_to(to).chat_numbers(), filed, "{to}");
        }
    }
}
