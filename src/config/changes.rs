//! What differs between two configurations, key by key, and which of it a running worker takes over. It
//! reads nothing and applies nothing.

use super::Settings;
use super::keys::is_within;
use secrecy::{ExposeSecret, SecretString};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What a worker takes over while it runs: these keys and all below them. [`Settings::retuned`] says the
/// same by types.
pub const LIVE: [&str; 6] =
    ["numbers.override", "limits", "retry", "doubt", "chakra.code", "log.level"];

/// Every value as it was given, by its key: text, numbers and flags as one text. A table of a list is
/// named by what it is about: `numbers.override[1027729340496751].rate`.
#[derive(Debug, Clone, Default)]
pub(super) struct Given(pub(super) BTreeMap<String, Value>);

/// One value.
#[derive(Debug, Clone)]
pub(super) struct Value {
    /// For comparing, never shown.
    pub(super) text: SecretString,
    /// For a person; `(hidden)` where it may be a secret.
    pub(super) shown: String,
}

/// One key whose value is another one now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The dotted key.
    pub key: String,
    /// None where it was unset. Secrets are hidden.
    pub old: Option<String>,
    /// None where it is unset now.
    pub new: Option<String>,
}

/// What differs between two configurations, in the order of the keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// A running worker takes these over.
    pub live: Vec<Change>,
    /// These take effect at the next start.
    pub at_restart: Vec<Change>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "unset".into());
        write!(f, "{}: {} -> {}", self.key, shown(&self.old), shown(&self.new))
    }
}

/// What changed from `old` to `new`, as they were read. What stands in the files that they name is not
/// compared.
pub fn diff(old: &Settings, new: &Settings) -> Changes {
    let (old, new) = (&old.given.0, &new.given.0);
    let mut changes = Changes::default();
    for key in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
        let (old, new) = (old.get(key), new.get(key));
        let text = |value: Option<&Value>| value.map(|value| value.text.expose_secret().to_owned());
        if text(old) == text(new) {
            continue;
        }
        let shown = |value: Option<&Value>| value.map(|value| value.shown.clone());
        let change = Change { key: key.clone(), old: shown(old), new: shown(new) };
        match is_live(key) {
            true => changes.live.push(change),
            false => changes.at_restart.push(change),
        }
    }
    changes
}

impl Given {
    /// These values with the live ones of `new`.
    pub(super) fn retuned(&self, new: &Given) -> Given {
        let kept = self.0.iter().filter(|(key, _)| !is_live(key));
        let live = new.0.iter().filter(|(key, _)| is_live(key));
        Given(kept.chain(live).map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}

fn is_live(key: &str) -> bool {
    let below = |live: &str| {
        is_within(key, live) || key.strip_prefix(live).is_some_and(|rest| rest.starts_with('['))
    };
    LIVE.iter().any(|live| key == *live || below(live))
}
