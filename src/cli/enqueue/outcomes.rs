//! What became of the jobs, for `--wait`: which are still open, how the others ended. Reads events; it
//! hears none itself.

use super::ids::Ids;
use crate::cli::fail_on::FailOn;
use crate::wire::{Class, JobId, Status};
use indicatif::HumanCount;
use serde::Deserialize;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Jobs that are waited for at once, of 36 bytes each. Beyond that, reading waits for outcomes.
const MOST_OPEN: usize = 1_000_000;

/// Kinds of failure that are told one by one, the most frequent first.
const MOST_KINDS: usize = 10;

const EACH: [Status; 4] = [Status::Accepted, Status::Failed, Status::Expired, Status::Unknown];

/// The outcomes of the jobs of this command.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    open: Ids,
    /// By the words of [`EACH`].
    ended: BTreeMap<&'static str, u64>,
    failures: BTreeMap<(Class, Option<u32>), u64>,
}

/// An event, as far as this needs it.
#[derive(Debug, Deserialize)]
struct Told<'e> {
    #[serde(borrow)]
    id: Cow<'e, str>,
    status: Status,
    error: Option<Why>,
}

#[derive(Debug, Deserialize)]
struct Why {
    class: Class,
    code: Option<u32>,
}

impl Outcomes {
    /// Whether another job may be waited for.
    pub(super) fn have_room(&self) -> bool {
        self.open.len() < MOST_OPEN
    }

    /// A job is about to be put.
    pub(super) fn expect(&mut self, id: &JobId) {
        self.open.insert(id.as_str());
    }

    /// The broker did not take it.
    pub(super) fn forget(&mut self, id: &JobId) {
        self.open.remove(id.as_str());
    }

    /// Takes an event. False where it ends none of the open jobs: events may come twice.
    pub(super) fn take(&mut self, event: &[u8]) -> bool {
        let told: Told = match serde_json::from_slice(event) {
            Ok(told) => told,
            Err(error) => {
                tracing::error!(%error, "an event that its own consumer cannot read");
                return false;
            }
        };
        if !self.open.remove(&told.id) {
            return false;
        }
        *self.ended.entry(told.status.name()).or_default() += 1;
        if let Some(Why { class, code }) = told.error {
            *self.failures.entry((class, code)).or_default() += 1;
        }
        true
    }

    /// Jobs without an outcome yet.
    pub(super) fn open(&self) -> usize {
        self.open.len()
    }

    /// Jobs with one.
    pub(super) fn ended(&self) -> u64 {
        self.ended.values().sum()
    }

    /// Whether each job has one that nobody minds.
    pub(super) fn are_well(&self, fail_on: &[FailOn]) -> bool {
        let minded = |on: &FailOn| self.ended.contains_key(on.status().name());
        self.open.len() == 0 && !fail_on.iter().any(minded)
    }

    /// For a person.
    pub(super) fn lines(&self) -> Vec<String> {
        let counts = EACH.iter().filter_map(|status| self.ended.get_key_value(status.name()));
        let counts: Vec<String> =
            counts.map(|(status, count)| format!("{} {status}", HumanCount(*count))).collect();
        let mut lines = vec![match counts.is_empty() {
            true => "no results".to_owned(),
            false => format!("results: {}", counts.join(", ")),
        }];
        lines.extend(self.kinds().take(MOST_KINDS).map(|((class, code), count)| {
            let code = code.map(|code| format!(" {code}")).unwrap_or_default();
            format!("  {} {}{code}", HumanCount(count), class.name())
        }));
        if self.open.len() > 0 {
            lines.push(format!(
                "without a result yet: {}, which the worker goes on with",
                HumanCount(self.open.len() as u64)
            ));
        }
        lines
    }

    /// For a program.
    pub(super) fn to_json(&self) -> Value {
        let counts = EACH.map(|status| {
            let count = self.ended.get(status.name()).copied().unwrap_or_default();
            (status.name().to_owned(), json!(count))
        });
        let kinds = self.kinds().map(
            |((class, code), count)| json!({ "class": class.name(), "code": code, "count": count }),
        );
        let mut all = serde_json::Map::from_iter(counts);
        all.insert("open".into(), json!(self.open.len()));
        all.insert("errors".into(), kinds.collect());
        all.into()
    }

    fn kinds(&self) -> impl Iterator<Item = ((Class, Option<u32>), u64)> {
        let mut kinds: Vec<_> = self.failures.iter().map(|(kind, count)| (*kind, *count)).collect();
        kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        kinds.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ids: &[&str]) -> Outcomes {
        let mut outcomes = Outcomes::default();
        for id in ids {
            outcomes.expect(&JobId::parse(id).unwrap());
        }
        outcomes
    }

    fn event(id: &str, status: &str, error: Value) -> Vec<u8> {
        json!({ "event": "result", "id": id, "status": status, "error": error }).to_string().into()
    }

    #[test]
    fn an_outcome_counts_once_however_often_it_is_told() {
        let mut outcomes = of(&["1", "2"]);
        let accepted = event("1", "accepted", Value::Null);
        assert!(outcomes.take(&accepted) && !outcomes.take(&accepted));
        assert!(!outcomes.take(&event("other", "failed", Value::Null)));
        assert!(!outcomes.take(b"no event"));
        assert_eq!((outcomes.ended(), outcomes.open()), (1, 1));
        outcomes.forget(&JobId::parse("2").unwrap());
        assert!(outcomes.are_well(&[FailOn::Failed]));
    }

    #[test]
    fn a_summary_tells_how_they_ended_and_why() {
        let mut outcomes = of(&["1", "2", "3", "4", "5"]);
        let refused = json!({ "class": "refused", "scope": "message", "code": 131_026 });
        let doubt = json!({ "class": "ambiguous", "scope": "message", "code": null });
        outcomes.take(&event("1", "accepted", Value::Null));
        outcomes.take(&event("2", "unknown", doubt));
        for id in ["3", "4"] {
            outcomes.take(&event(id, "failed", refused.clone()));
        }
        let lines = [
            "results: 1 accepted, 2 failed, 1 unknown",
            "  2 refused 131026",
            "  1 ambiguous",
            "without a result yet: 1, which the worker goes on with",
        ];
        assert_eq!(outcomes.lines(), lines);
        assert_eq!(
            outcomes.to_json(),
            json!({ "accepted": 1, "failed": 2, "expired": 0, "unknown": 1, "open": 1, "errors": [
                { "class": "refused", "code": 131_026, "count": 2 },
                { "class": "ambiguous", "code": null, "count": 1 },
            ] })
        );
        assert!(!outcomes.are_well(&[]), "one is open");
        outcomes.take(&event("5", "expired", Value::Null));
        assert!(outcomes.are_well(&[]));
        for minded in [FailOn::Failed, FailOn::Expired, FailOn::Unknown] {
            assert!(!outcomes.are_well(&[minded]));
        }
    }
}
