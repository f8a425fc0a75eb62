//! Reads the merged layers key by key and remembers every problem on the way, so that a person can
//! mend all of them at once. What was given and never asked for, or in another shape, is a problem
//! too. Knows no key by name: that is `sections`.

use super::changes::{self, Given};
use super::file::{read_bytes, read_text};
use super::keys::without_indexes;
use super::layers::{Leaf, Leaves};
use super::names::Names;
use super::units::{duration, show_duration, show_size, size};
use super::{ConfigError, Place, Problem};
use config::ValueKind;
use secrecy::SecretString;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// A value is shown up to this many characters.
const SHOWN: usize = 80;

/// Stands for a value that may be a secret.
const HIDDEN: &str = "(hidden)";

/// What tells the tables of a list apart.
const NAMES: [&str; 3] = ["id", "code", "codes"];

/// The merged layers, and what was wrong with them.
///
/// Every reading method answers `None` both for a key that is unset and for one with a problem: the
/// problem is remembered, and [`Reader::finish`] gives no settings when there is one.
pub(super) struct Reader {
    leaves: Leaves,
    /// What was asked for.
    pub(super) names: Names,
    /// Those of them whose value is never shown.
    secrets: BTreeSet<String>,
    problems: Vec<Problem>,
}

impl Reader {
    pub(super) fn new(leaves: Leaves, problems: Vec<Problem>) -> Reader {
        Reader { leaves, names: Names::default(), secrets: BTreeSet::new(), problems }
    }

    /// The settings and what they were read from, if there was no problem.
    pub(super) fn finish<T>(mut self, settings: Option<T>) -> Result<(T, Given), ConfigError> {
        let mut told = BTreeSet::new();
        for (key, leaf) in &self.leaves {
            let Some((name, reason)) = self.names.fault(key, leaf) else { continue };
            if told.insert((name.clone(), leaf.place.clone())) {
                let problem = Problem { place: leaf.place.clone(), ..Problem::new(name, reason) };
                self.problems.push(problem);
            }
        }
        let given = self.given();
        ConfigError::check(self.problems)?;
        let settings =
            settings.expect("a key that is needed has the reference's value or a problem");
        Ok((settings, given))
    }

    fn given(&self) -> Given {
        let value = |(key, leaf): (&String, &Leaf)| {
            let text = plain(&leaf.kind)?;
            let is_secret = self.secrets.contains(&without_indexes(key));
            let shown = if is_secret { None } else { show(&leaf.kind) };
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
        match (names.and_then(|leaf| plain(&leaf.kind)), table.split_once('[')) {
            (Some(name), Some((list, _))) => format!("{list}[{name}].{field}"),
            _ => key.to_owned(),
        }
    }

    /// Remembers a problem with this key, with its value where that may be shown.
    pub(super) fn problem(&mut self, key: &str, reason: impl Into<String>) {
        let name = without_indexes(key);
        let value = self.leaves.get(key).map(|leaf| {
            let shown = if self.secrets.contains(&name) { None } else { show(&leaf.kind) };
            shown.unwrap_or_else(|| HIDDEN.into())
        });
        let place = self.place(key);
        self.problems.push(Problem { value, place, ..Problem::new(key.to_owned(), reason) });
    }

    /// Where a key was given: one that is missing in a table of a list, or the list itself, where that was.
    fn place(&self, key: &str) -> Place {
        let beside = key.rfind(']').map_or_else(|| format!("{key}["), |end| key[..=end].to_owned());
        let beside =
            || self.leaves.range(beside.clone()..).next().filter(|(k, _)| k.starts_with(&beside));
        let leaf = self.leaves.get(key).or_else(|| beside().map(|(_, leaf)| leaf));
        leaf.map(|leaf| leaf.place.clone()).unwrap_or_default()
    }

    /// The name of everything that was given.
    #[cfg(test)]
    pub(super) fn given_names(&self) -> BTreeSet<String> {
        self.leaves.keys().map(|key| without_indexes(key)).collect()
    }

    /// Whether anything was given for this key.
    pub(super) fn is_given(&self, key: &str) -> bool {
        self.leaves.contains_key(key)
    }

    /// How many tables the list under this key has; `fields` are the keys that each may hold.
    pub(super) fn entries(&mut self, key: &str, fields: &[&str]) -> usize {
        self.names.lists.insert(key.to_owned());
        self.names.values.extend(fields.iter().map(|field| format!("{key}.{field}")));
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
            self.names.values.extend([key.to_owned(), twin.clone()]);
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
        self.names.values.insert(without_indexes(key));
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
