//! Reads the merged layers key by key and remembers every problem on the way, so that a person can
//! mend all of them at once. What was given and never asked for is an unknown key. Knows no key by
//! name: that is `sections`.

use super::changes::{self, Given};
use super::file::{read_bytes, read_text};
use super::keys::{distance, flatten, is_within, without_indexes};
use super::units::{duration, show_duration, show_size, size};
use super::{ConfigError, Problem};
use config::{Map, Value, ValueKind};
use secrecy::SecretString;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// What the `config` crate names as the origin of a value that came from a variable.
const ENVIRONMENT: &str = "the environment";

/// A value is shown up to this many characters.
const SHOWN: usize = 80;

/// Stands for a value that may be a secret.
const HIDDEN: &str = "(hidden)";

/// What tells the tables of a list apart.
const NAMES: [&str; 3] = ["id", "code", "codes"];

/// An unknown key is taken for a misspelt one up to this many wrong characters.
const MISSPELT: usize = 3;

/// The merged layers, and what was wrong with them.
///
/// Every reading method answers `None` both for a key that is unset and for one with a problem: the
/// problem is remembered, and [`Reader::finish`] gives no settings when there is one.
pub(super) struct Reader {
    /// Each value by its dotted key, `numbers.override[0].id`.
    leaves: BTreeMap<String, Value>,
    /// Each key that was asked for, without indexes.
    pub(super) known: BTreeSet<String>,
    /// Those of them whose value is never shown.
    secrets: BTreeSet<String>,
    problems: Vec<Problem>,
}

impl Reader {
    pub(super) fn new(layers: Map<String, Value>, problems: Vec<Problem>) -> Reader {
        let mut leaves = BTreeMap::new();
        for (key, value) in layers {
            flatten(key, value, &mut leaves);
        }
        Reader { leaves, known: BTreeSet::new(), secrets: BTreeSet::new(), problems }
    }

    /// The settings and what they were read from, if there was no problem and no unknown key.
    pub(super) fn finish<T>(mut self, settings: Option<T>) -> Result<(T, Given), ConfigError> {
        let unknown = self.leaves.iter().filter(|(key, value)| self.is_unknown(key, value));
        for key in unknown.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            let reason = self.why_unknown(&key);
            self.problem(&key, reason);
        }
        match settings {
            Some(settings) if self.problems.is_empty() => Ok((settings, self.given())),
            _ => Err(ConfigError { problems: self.problems }),
        }
    }

    fn given(&self) -> Given {
        let value = |(key, value): (&String, &Value)| {
            let text = plain(&value.kind)?;
            let is_secret = self.secrets.contains(&without_indexes(key));
            let shown = if is_secret { None } else { show(&value.kind) };
            let shown = shown.unwrap_or_else(|| HIDDEN.into());
            Some((self.named(key), changes::Value { text: SecretString::from(text), shown }))
        };
        Given(self.leaves.iter().filter_map(value).collect())
    }

    /// `numbers.override[0].rate` as `numbers.override[1027729340496751].rate`: a table keeps its name
    /// when another one is put before it.
    fn named(&self, key: &str) -> String {
        let Some((table, field)) = key.split_once("].") else { return key.to_owned() };
        let names = NAMES.iter().find_map(|name| self.leaves.get(&format!("{table}].{name}")));
        match (names.and_then(|value| plain(&value.kind)), table.split_once('[')) {
            (Some(name), Some((list, _))) => format!("{list}[{name}].{field}"),
            _ => key.to_owned(),
        }
    }

    /// Remembers a problem with this key, with its value where that may be shown.
    pub(super) fn problem(&mut self, key: &str, reason: impl Into<String>) {
        let name = without_indexes(key);
        let given = self.leaves.get(key);
        // The value of an unknown key may be a misplaced secret.
        let value = given.filter(|_| self.known.contains(&name)).map(|value| {
            let shown = if self.secrets.contains(&name) { None } else { show(&value.kind) };
            shown.unwrap_or_else(|| HIDDEN.into())
        });
        let in_environment = given.is_some_and(|value| value.origin() == Some(ENVIRONMENT));
        self.problems.push(Problem {
            key: key.into(),
            value,
            in_environment,
            reason: reason.into(),
        });
    }

    fn is_unknown(&self, key: &str, value: &Value) -> bool {
        let name = without_indexes(key);
        let is_empty_section = plain(&value.kind).is_none() && self.is_section(&name);
        !self.known.contains(&name) && !is_empty_section
    }

    fn is_section(&self, name: &str) -> bool {
        self.known.iter().any(|known| is_within(known, name))
    }

    fn why_unknown(&self, key: &str) -> String {
        let name = without_indexes(key);
        if self.is_section(&name) {
            return "holds further keys and has no value of its own".into();
        }
        if let Some(known) = self.known.iter().find(|known| is_within(&name, known)) {
            return format!("unknown key: {known} is a value and holds no further keys");
        }
        let closeness = |known: &&String| distance(known, &name);
        let close =
            self.known.iter().min_by_key(closeness).filter(|k| distance(k, &name) <= MISSPELT);
        let without_section =
            || self.known.iter().find(|known| known.ends_with(&format!(".{name}")));
        match close.or_else(without_section) {
            Some(known) => format!("unknown key; the nearest known one is {known}"),
            None => "unknown key".into(),
        }
    }

    /// The name of everything that was given.
    #[cfg(test)]
    pub(super) fn names(&self) -> BTreeSet<String> {
        self.leaves.keys().map(|key| without_indexes(key)).collect()
    }

    /// Whether anything was given for this key.
    pub(super) fn is_given(&self, key: &str) -> bool {
        self.leaves.contains_key(key)
    }

    /// How many tables the list under this key has; `fields` are the keys that each may hold.
    pub(super) fn entries(&mut self, key: &str, fields: &[&str]) -> usize {
        self.known.extend(fields.iter().map(|field| format!("{key}.{field}")));
        let index = |leaf: &String| {
            let (index, _) = leaf.strip_prefix(key)?.strip_prefix('[')?.split_once(']')?;
            index.parse::<usize>().ok()
        };
        self.leaves.keys().filter_map(index).max().map_or(0, |last| last + 1)
    }

    /// Text, as `parse` understands it; it says what is lawful where it does not.
    pub(super) fn text<T>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.read(key, |kind| match kind {
            ValueKind::String(text) => parse(text),
            _ => Err("must be text, in quotes".into()),
        })
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        self.text(key, |text| {
            let words: Vec<String> = choices.iter().map(|(word, _)| format!("{word:?}")).collect();
            let found = choices.iter().find(|(word, _)| *word == text);
            found.map(|(_, choice)| *choice).ok_or(format!("must be {}", words.join(" or ")))
        })
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, key: &str) -> Option<bool> {
        self.scalar(key, |text| text.parse().map_err(|_| "must be true or false".into()))
    }

    /// A whole number.
    pub(super) fn integer<T>(&mut self, key: &str, range: RangeInclusive<T>) -> Option<T>
    where
        T: FromStr + PartialOrd + Display,
    {
        self.number(key, range, "a whole number")
    }

    /// A number.
    pub(super) fn float(&mut self, key: &str, range: RangeInclusive<f64>) -> Option<f64> {
        self.number(key, range, "a number")
    }

    fn number<T>(&mut self, key: &str, range: RangeInclusive<T>, what: &str) -> Option<T>
    where
        T: FromStr + PartialOrd + Display,
    {
        self.scalar(key, |text| {
            let number = text.parse().ok().filter(|number| range.contains(number));
            number
                .ok_or_else(|| format!("must be {what} from {} to {}", range.start(), range.end()))
        })
    }

    /// A duration, written `"5s"`.
    pub(super) fn duration(
        &mut self,
        key: &str,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let (from, to) = (show_duration(*range.start()), show_duration(*range.end()));
        self.scalar(key, |text| {
            duration(text).filter(|duration| range.contains(duration)).ok_or_else(|| {
                format!("must be a duration from {from} to {to}, written like \"250ms\" or \"5s\"")
            })
        })
    }

    /// Bytes, written `4096` or `"64MiB"`.
    pub(super) fn size(&mut self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let (from, to) = (show_size(*range.start()), show_size(*range.end()));
        self.scalar(key, |text| {
            size(text).filter(|size| range.contains(size)).ok_or_else(|| {
                format!("must be a size from {from} to {to}, written like \"64MiB\"")
            })
        })
    }

    /// The path of a file that can be read.
    pub(super) fn file(&mut self, key: &str) -> Option<PathBuf> {
        self.text(key, |path| {
            read_bytes(Path::new(path)).map_err(|error| format!("cannot be read: {error}"))?;
            Ok(PathBuf::from(path))
        })
    }

    /// A secret, given under its key or as the file that `<key>_file` names. No reason that `parse`
    /// gives may hold a part of it.
    pub(super) fn secret<T>(
        &mut self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.secrets.insert(key.to_owned());
        let twin = format!("{key}_file");
        if self.is_given(key) && self.is_given(&twin) {
            self.known.extend([key.to_owned(), twin.clone()]);
            self.problem(key, format!("is given, and so is {twin}: keep one"));
            return None;
        }
        let given = self.text(key, &parse);
        let read = self.text(&twin, |path| {
            let text = read_text(Path::new(path));
            let text = text.map_err(|error| format!("cannot be read: {error}"))?;
            parse(without_newline(&text))
                .map_err(|reason| format!("names a file whose text {reason}"))
        });
        given.or(read)
    }

    /// The path of the file that a secret is read from, where it is given so.
    pub(super) fn secret_file(&mut self, key: &str) -> Option<PathBuf> {
        self.text(&format!("{key}_file"), |path| Ok(PathBuf::from(path)))
    }

    fn scalar<T>(&mut self, key: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        self.read(key, |kind| parse(&plain(kind).unwrap_or_default()))
    }

    fn read<T>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&ValueKind) -> Result<T, String>,
    ) -> Option<T> {
        self.known.insert(without_indexes(key));
        match parse(&self.leaves.get(key)?.kind) {
            Ok(value) => Some(value),
            Err(reason) => {
                self.problem(key, reason);
                None
            }
        }
    }
}

/// A single value as text; none for a table or a list.
fn plain(kind: &ValueKind) -> Option<String> {
    match kind {
        ValueKind::Boolean(flag) => Some(flag.to_string()),
        ValueKind::I64(number) => Some(number.to_string()),
        ValueKind::I128(number) => Some(number.to_string()),
        ValueKind::U64(number) => Some(number.to_string()),
        ValueKind::U128(number) => Some(number.to_string()),
        ValueKind::Float(number) => Some(number.to_string()),
        ValueKind::String(text) => Some(text.clone()),
        ValueKind::Nil | ValueKind::Table(_) | ValueKind::Array(_) => None,
    }
}

/// A value for a person's eyes; none where it must not be seen.
fn show(kind: &ValueKind) -> Option<String> {
    match (kind, plain(kind)) {
        // What stands before the @ of a URL may be a password.
        (_, Some(text)) if text.contains('@') => None,
        (ValueKind::String(_), Some(text)) if text.chars().count() > SHOWN => {
            Some(format!("{:?}…", text.chars().take(SHOWN).collect::<String>()))
        }
        (ValueKind::String(_), Some(text)) => Some(format!("{text:?}")),
        (_, Some(text)) => Some(text),
        (ValueKind::Array(_), None) => Some("[]".into()),
        (_, None) => Some("{}".into()),
    }
}

/// A secret's file may end with one newline, which is not part of the secret.
pub fn without_newline(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}
