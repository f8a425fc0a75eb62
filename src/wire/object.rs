//! One level of a JSON object, read by key, with errors that say where: `message.text.body is
//! missing`. It shows keys and sizes, never a value, and reads no deeper than it is asked to.

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::ops::RangeInclusive;

/// A string of any length, the empty one too.
pub(super) const ANY: RangeInclusive<usize> = 0..=usize::MAX;

/// A string or array that is not empty.
pub(super) const SOME: RangeInclusive<usize> = 1..=usize::MAX;

/// Characters of a key that an error shows.
const MAX_SHOWN_KEY: usize = 64;

/// The keys of one object with their values still unread. A key with the value null counts as left
/// out, except for [`Object::writes`].
pub(super) struct Object<'j> {
    path: String,
    fields: BTreeMap<Cow<'j, str>, &'j RawValue>,
}

impl<'j> Object<'j> {
    /// Reads the keys of `json`. `path` leads to it, from the top of what the producer wrote.
    pub(super) fn read(path: String, json: &'j str) -> Result<Object<'j>, String> {
        if kind(json) != "an object" {
            return Err(format!("{path} must be an object, not {}", kind(json)));
        }
        let read: Fields =
            serde_json::from_str(json).map_err(|error| format!("{path}: {error}"))?;
        match read.twice {
            // Readers differ in which of the two they believe: what we check could not be what Meta reads.
            Some(key) => {
                let key: String = key.chars().take(MAX_SHOWN_KEY).collect();
                Err(format!("{path} has the key `{key}` twice"))
            }
            None => Ok(Object { path, fields: read.by_key }),
        }
    }

    /// Whether the key is written, be its value null.
    pub(super) fn writes(&self, key: &str) -> bool {
        self.fields.contains_key(key)
    }

    /// Whether the key has a value.
    pub(super) fn has(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    /// The key's string, with a number of characters within `limits`.
    pub(super) fn text(
        &self,
        key: &str,
        limits: RangeInclusive<usize>,
    ) -> Result<Option<Cow<'j, str>>, String> {
        let Some(json) = self.value(key) else { return Ok(None) };
        if kind(json) != "a string" {
            return Err(self.must_be(key, "a string", json));
        }
        let Text(text) = serde_json::from_str(json)
            .map_err(|error| format!("{} is no lawful string: {error}", self.at(key)))?;
        self.within(key, text.chars().count(), "characters", &limits)?;
        Ok(Some(text))
    }

    /// The same for a string that must be there.
    pub(super) fn need_text(
        &self,
        key: &str,
        limits: RangeInclusive<usize>,
    ) -> Result<Cow<'j, str>, String> {
        self.text(key, limits)?.ok_or_else(|| self.missing(key))
    }

    /// The key's object.
    pub(super) fn object(&self, key: &str) -> Result<Option<Object<'j>>, String> {
        self.value(key).map(|json| Object::read(self.at(key), json)).transpose()
    }

    /// The same for an object that must be there.
    pub(super) fn need_object(&self, key: &str) -> Result<Object<'j>, String> {
        self.object(key)?.ok_or_else(|| self.missing(key))
    }

    /// The key's array, which must be there, with a number of entries within `limits`; the entries
    /// must be objects.
    pub(super) fn need_objects(
        &self,
        key: &str,
        limits: RangeInclusive<usize>,
    ) -> Result<impl Iterator<Item = Result<Object<'j>, String>>, String> {
        let json = self.value(key).ok_or_else(|| self.missing(key))?;
        if kind(json) != "an array" {
            return Err(self.must_be(key, "an array", json));
        }
        let path = self.at(key);
        let entries: Vec<&'j RawValue> =
            serde_json::from_str(json).map_err(|error| format!("{path}: {error}"))?;
        self.within(key, entries.len(), "entries", &limits)?;
        let objects = entries.into_iter().enumerate();
        Ok(objects.map(move |(index, entry)| Object::read(format!("{path}[{index}]"), entry.get())))
    }

    /// The key's value, where it is written, must be an array; of what, is not read.
    pub(super) fn may_be_array(&self, key: &str) -> Result<(), String> {
        match self.value(key) {
            Some(json) if kind(json) != "an array" => Err(self.must_be(key, "an array", json)),
            _ => Ok(()),
        }
    }

    /// The key's value, where it is written, must be true or false.
    pub(super) fn may_be_flag(&self, key: &str) -> Result<(), String> {
        match self.value(key) {
            Some(json) if kind(json) != "a boolean" => Err(self.must_be(key, "a boolean", json)),
            _ => Ok(()),
        }
    }

    /// The key's number, which must be there: written as a number or as a string of one.
    pub(super) fn need_number(&self, key: &str) -> Result<f64, String> {
        let json = self.value(key).ok_or_else(|| self.missing(key))?;
        match json.trim_matches('"').parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(number),
            _ => Err(format!("{} must be a number", self.at(key))),
        }
    }

    /// The way to a key, for errors.
    pub(super) fn at(&self, key: &str) -> String {
        [&self.path, ".", key].concat()
    }

    /// The error of a key that must be there.
    pub(super) fn missing(&self, key: &str) -> String {
        format!("{} is missing", self.at(key))
    }

    fn value(&self, key: &str) -> Option<&'j str> {
        self.fields.get(key).map(|raw| raw.get()).filter(|json| *json != "null")
    }

    fn must_be(&self, key: &str, wanted: &str, json: &str) -> String {
        format!("{} must be {wanted}, not {}", self.at(key), kind(json))
    }

    fn within(
        &self,
        key: &str,
        count: usize,
        unit: &str,
        limits: &RangeInclusive<usize>,
    ) -> Result<(), String> {
        if limits.contains(&count) {
            return Ok(());
        }
        let at = self.at(key);
        Err(match count {
            0 => format!("{at} is empty"),
            _ if count < *limits.start() => {
                format!("{at} has {count} {unit}, at least {}", limits.start())
            }
            _ => format!("{at} has {count} {unit}, at most {}", limits.end()),
        })
    }
}

/// What a piece of valid JSON is, by its first byte.
fn kind(json: &str) -> &'static str {
    match json.trim_ascii_start().as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// A string that is borrowed where it holds no escapes.
#[derive(Deserialize)]
struct Text<'j>(#[serde(borrow)] Cow<'j, str>);

struct Fields<'j> {
    by_key: BTreeMap<Cow<'j, str>, &'j RawValue>,
    twice: Option<String>,
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Fields { by_key: BTreeMap::new(), twice: None };
        while let Some((Text(key), value)) = map.next_entry::<Text, &RawValue>()? {
            match fields.by_key.entry(key) {
                Entry::Vacant(free) => {
                    free.insert(value);
                }
                Entry::Occupied(taken) => {
                    fields.twice.get_or_insert_with(|| taken.key().to_string());
                }
            }
        }
        Ok(fields)
    }
}
