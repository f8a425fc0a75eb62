//! Which jobs an operator's drop ends, and how. It does not know whether a job may have been sent:
//! nobody could say of such a one that it failed, so its caller does not ask.

use super::conclude::{after, failed};
use super::{Failure, History, Settlement};
use crate::wire::{Class, NumberId, RawJson, Scope, SendJob};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::time::Duration;

/// A job is spared that was enqueued later than this after the drop began: so far producers' clocks and
/// the operator's may be apart.
const ENQUEUED_AFTER: Duration = Duration::from_secs(1);

/// A drop that begins later than this from now was written by a clock that is wrong: it drops nothing.
const CLOCKS_APART: Duration = Duration::from_secs(60);

/// An operator's word that jobs of a number are not to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropRule {
    /// Its own name.
    pub id: String,
    /// Whose jobs.
    pub number: NumberId,
    /// Which of them; none: all.
    pub metadata: Option<MetadataFilter>,
    /// Why, for the results.
    pub reason: String,
    /// Jobs that were enqueued after this are spared.
    pub from: Timestamp,
    /// Jobs that are first received after this are spared.
    pub until: Timestamp,
}

/// A key at the top of a job's metadata, and its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetadataFilter {
    /// The key.
    pub key: String,
    /// The text of the value; of a number or a boolean, as the producer wrote it.
    pub value: String,
}

/// Whether the rule ends a job that has this past. One without an AMQP timestamp counts as enqueued
/// before the drop.
pub fn drops(rule: &DropRule, job: &SendJob, history: &History, now: Timestamp) -> bool {
    let stood = history.enqueued_at.is_none_or(|at| at <= after(rule.from, ENQUEUED_AFTER));
    rule.number == job.phone_number_id
        && rule.from <= after(now, CLOCKS_APART)
        && (now < rule.until || history.first_received < rule.until)
        && stood
        && rule.metadata.as_ref().is_none_or(|filter| filter.fits(job.metadata.as_ref()))
}

/// What a job comes to that the rule ends. Its original is no dead letter: it is not to be repaired.
pub fn dropped(rule: &DropRule, job: &SendJob, history: &History, now: Timestamp) -> Settlement {
    let message = format!("{DROPPED}{}", rule.reason);
    let failure = Failure { scope: Scope::Number, ..Failure::new(Class::Blocked, message) };
    Settlement::Finish(failed(job, history, &failure, now))
}

/// The error messages of dropped jobs begin with this; the operator's reason follows.
pub const DROPPED: &str = "dropped by an operator: ";

impl MetadataFilter {
    fn fits(&self, metadata: Option<&RawJson>) -> bool {
        // Anything but an object has no keys.
        let Some(Ok(fields)) =
            metadata.map(|raw| serde_json::from_slice::<BTreeMap<String, &RawValue>>(raw.bytes()))
        else {
            return false;
        };
        let Some(value) = fields.get(&self.key).map(|raw| raw.get()) else { return false };
        match value.as_bytes().first() {
            Some(b'"') => {
                serde_json::from_str::<String>(value).is_ok_and(|text| text == self.value)
            }
            Some(b'{' | b'[' | b'n') | None => false,
            Some(_) => value == self.value,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Status;
    use bytes::Bytes;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn job(metadata: &str) -> SendJob {
        let body = format!(
            r#"{{"id":"order-1","phone_number_id":"1","metadata":{metadata},
            "message":{{"messaging_product":"whatsapp","to":"+919901258433","text":{{"body":"x"}}}}}}"#
        );
        SendJob::parse(&Bytes::from(body), None).unwrap()
    }

    /// Of number 1, from second 0 to second 100.
    fn rule(metadata: Option<(&str, &str)>) -> DropRule {
        let filter =
            |(key, value): (&str, &str)| MetadataFilter { key: key.into(), value: value.into() };
        DropRule {
            id: "d".into(),
            number: NumberId::parse("1").unwrap(),
            metadata: metadata.map(filter),
            reason: "the wrong list".into(),
            from: at(0),
            until: at(100),
        }
    }

    fn enqueued(seconds: i64) -> History {
        History { enqueued_at: Some(at(seconds)), ..History::fresh(at(5)) }
    }

    #[test]
    fn what_stood_when_the_drop_began_is_dropped_and_what_came_later_is_not() {
        let drops = |history, now| drops(&rule(None), &job("null"), &history, at(now));
        assert!(drops(enqueued(-9), 10) && drops(enqueued(1), 10));
        assert!(!drops(enqueued(2), 10));
        assert!(drops(History::fresh(at(10)), 10), "it does not say when it was enqueued");
    }

    #[test]
    fn after_its_end_a_drop_reaches_only_what_comes_back_from_a_wait() {
        let drops = |received, now| {
            let history = History { first_received: at(received), ..enqueued(-9) };
            drops(&rule(None), &job("null"), &history, at(now))
        };
        assert!(drops(99, 99) && drops(99, 100) && drops(-500, 90_000));
        assert!(!drops(100, 100));
    }

    #[test]
    fn a_drop_of_another_number_or_from_a_clock_far_ahead_drops_nothing() {
        let other = DropRule { number: NumberId::parse("2").unwrap(), ..rule(None) };
        assert!(!drops(&other, &job("null"), &enqueued(-9), at(10)));
        assert!(drops(&rule(None), &job("null"), &enqueued(-90), at(-60)));
        assert!(!drops(&rule(None), &job("null"), &enqueued(-90), at(-61)));
    }

    #[test]
    fn metadata_is_compared_by_one_key_at_the_top_and_the_text_of_its_value() {
        for (metadata, fits) in [
            (r#"{"campaign":"summer"}"#, true),
            (r#"{ "campaign" : "s\u0075mmer", "order":1 }"#, true),
            (r#"{"campaign":"winter"}"#, false),
            (r#"{"nested":{"campaign":"summer"}}"#, false),
            (r#"{"campaign":["summer"]}"#, false),
            (r#"["campaign","summer"]"#, false),
            (r#""summer""#, false),
            ("null", false),
        ] {
            let rule = rule(Some(("campaign", "summer")));
            assert_eq!(drops(&rule, &job(metadata), &enqueued(0), at(1)), fits, "{metadata}");
        }
        for (value, metadata, fits) in [
            ("8812", r#"{"campaign":8812}"#, true),
            ("8812", r#"{"campaign":"8812"}"#, true),
            ("8812", r#"{"campaign":8812.0}"#, false),
            ("true", r#"{"campaign":true}"#, true),
            ("null", r#"{"campaign":null}"#, false),
            ("[1]", r#"{"campaign":[1]}"#, false),
        ] {
            let rule = rule(Some(("campaign", value)));
            assert_eq!(drops(&rule, &job(metadata), &enqueued(0), at(1)), fits, "{metadata}");
        }
    }

    #[test]
    fn a_dropped_job_has_failed_because_its_number_was_barred_to_it() {
        let settlement = dropped(&rule(None), &job("7"), &enqueued(-9), at(10));
        let Settlement::Finish(event) = settlement else { panic!("{settlement:?}") };
        let error = event.error.unwrap();
        assert_eq!(
            (event.status, error.class, error.scope),
            (Status::Failed, Class::Blocked, Scope::Number)
        );
        assert_eq!(error.message, "dropped by an operator: the wrong list");
        assert!(event.metadata.is_some() && error.code.is_none());
    }
}
