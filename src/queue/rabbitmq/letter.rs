//! What a dead letter says, and what it becomes when it is replayed. Values in, values out: no I/O,
//! no clock, and nothing that a stranger put into the queue makes it panic.

use super::decode::Original;
use super::headers::{
    ATTEMPTS, CLASS, DIED_AT, EXPIRES_AT, FIRST_ATTEMPT, FIRST_RECEIVED, LAST_ERROR, REASON,
    REPLAY, ROUTING_KEY, carried, count, millis, moment, text,
};
use super::topology::read_lane_key;
use crate::wire::{Class, JobId, NumberId, Priority, SendJob};
use bytes::Bytes;
use jiff::Timestamp;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// An original in the dead letters. What cannot be read of it is none.
#[derive(Debug)]
pub struct Letter {
    /// The job.
    pub id: Option<JobId>,
    /// How often it had been replayed when it died; none: never.
    pub replay: Option<u32>,
    /// Why it died (`x-class`).
    pub class: Option<Class>,
    /// Meta's code, where its last error has one (`x-last-error`).
    pub code: Option<u32>,
    /// Its lane (`x-routing-key`).
    pub lane: Option<(NumberId, Priority)>,
    /// Why it died, as a sentence (`x-reason`).
    pub reason: Option<String>,
    /// Requests made (`x-attempts`).
    pub attempts: Option<u32>,
    /// When a worker first saw it (`x-first-received`).
    pub first_received: Option<Timestamp>,
    /// When it was first refused (`x-first-attempt`).
    pub first_attempt: Option<Timestamp>,
    /// When it died (`x-died-at`).
    pub died_at: Option<Timestamp>,
    /// Byte for byte as it came. A person's content: shown only to who asks for this letter.
    pub body: Bytes,
    properties: BasicProperties,
}

impl Letter {
    pub(super) fn read(original: Original) -> Letter {
        let Original { body, properties, routing_key: _ } = original;
        let empty = FieldTable::default();
        let headers = properties.headers().as_ref().unwrap_or(&empty);
        let class = text(headers, CLASS).as_deref().and_then(Class::from_name);
        let last_error = text(headers, LAST_ERROR);
        let message_id = properties.message_id().as_ref().map(|id| id.as_str());
        Letter {
            id: match SendJob::parse(&body, message_id) {
                Ok(job) => Some(job.id),
                Err(invalid) => invalid.id,
            },
            replay: count(headers, REPLAY),
            class,
            code: class.zip(last_error).and_then(|(class, error)| code(class, &error)),
            lane: text(headers, ROUTING_KEY).as_deref().and_then(read_lane_key),
            reason: text(headers, REASON),
            attempts: count(headers, ATTEMPTS),
            first_received: moment(headers, FIRST_RECEIVED),
            first_attempt: moment(headers, FIRST_ATTEMPT),
            died_at: moment(headers, DIED_AT),
            body,
            properties,
        }
    }

    /// The `x-replay` of the next replay.
    pub fn next_replay(&self) -> u32 {
        self.replay.unwrap_or(0).saturating_add(1)
    }

    /// The properties of the job that is sent again: a fresh one, without our headers of its past.
    /// Its end stays, since it is its producer's wish.
    pub(super) fn replayed(&self) -> BasicProperties {
        let mut own = BTreeMap::from([(REPLAY, AMQPValue::LongLongInt(self.next_replay().into()))]);
        let headers = self.properties.headers().as_ref();
        if let Some(end) = headers.and_then(|headers| moment(headers, EXPIRES_AT)) {
            own.insert(EXPIRES_AT, millis(end));
        }
        carried(&self.properties, own)
    }

    /// Its AMQP properties and headers, for a person.
    pub fn properties(&self) -> (Map<String, Value>, Map<String, Value>) {
        let all = &self.properties;
        let texts = [
            ("message_id", all.message_id()),
            ("correlation_id", all.correlation_id()),
            ("reply_to", all.reply_to()),
            ("type", all.kind()),
            ("app_id", all.app_id()),
            ("content_type", all.content_type()),
            ("content_encoding", all.content_encoding()),
        ];
        let texts = texts.into_iter().filter_map(|(name, text)| {
            Some((name.to_owned(), Value::from(text.as_ref()?.as_str())))
        });
        let timestamp = all.timestamp().map(|seconds| ("timestamp".to_owned(), seconds.into()));
        let headers = all.headers().iter().flat_map(FieldTable::inner);
        let headers = headers.map(|(name, value)| (name.to_string(), shown(value)));
        (texts.chain(timestamp).collect(), headers.collect())
    }
}

/// The code of `throttled 130429`; none of another class's error, which was not the last word.
fn code(class: Class, last_error: &str) -> Option<u32> {
    let (word, code) = last_error.split_once(' ')?;
    (word == class.name()).then(|| code.parse().ok())?
}

fn shown(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::Boolean(flag) => (*flag).into(),
        AMQPValue::ShortShortInt(number) => (*number).into(),
        AMQPValue::ShortShortUInt(number) => (*number).into(),
        AMQPValue::ShortInt(number) => (*number).into(),
        AMQPValue::ShortUInt(number) => (*number).into(),
        AMQPValue::LongInt(number) => (*number).into(),
        AMQPValue::LongUInt(number) => (*number).into(),
        AMQPValue::LongLongInt(number) => (*number).into(),
        AMQPValue::Timestamp(number) => (*number).into(),
        AMQPValue::Float(number) => (*number).into(),
        AMQPValue::Double(number) => (*number).into(),
        AMQPValue::DecimalValue(decimal) => format!("{}e-{}", decimal.value, decimal.scale).into(),
        AMQPValue::ShortString(text) => text.as_str().into(),
        AMQPValue::LongString(text) => String::from_utf8_lossy(text.as_bytes()).into(),
        AMQPValue::ByteArray(bytes) => String::from_utf8_lossy(bytes.as_slice()).into(),
        AMQPValue::FieldArray(items) => items.as_slice().iter().map(shown).collect(),
        AMQPValue::FieldTable(table) => {
            let entries = table.inner().iter();
            Value::Object(entries.map(|(name, value)| (name.to_string(), shown(value))).collect())
        }
        AMQPValue::Void => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Doubt, History, Strength};
    use crate::queue::rabbitmq::headers::{self, Travel};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn original(body: &'static str, properties: BasicProperties) -> Original {
        let body = Bytes::from_static(body.as_bytes());
        Original { body, properties, routing_key: "the queue's name".into() }
    }

    /// As the worker writes it: with all that can travel with a job.
    fn died(before: &BasicProperties, replay: Option<u32>) -> Letter {
        let history = History {
            attempts: 12,
            free_attempts: 3,
            first_attempt: Some(at(2)),
            last_error: Some("throttled 130429".into()),
            due: Some(at(3)),
            doubt: Some(Doubt { strength: Strength::Weak, since: at(4), looks: 5 }),
            replay,
            ..History::fresh(at(1))
        };
        let travel = Travel { history, waited_for: None, expires_at: Some(at(9)) };
        let (class, key) = (Class::Throttled, "1027.urgent");
        let dead = headers::dead(before, &travel, class, "too fast", key, at(7));
        Letter::read(original(r#"{"id":"a"}"#, dead))
    }

    #[test]
    fn a_letter_is_read_as_it_was_written() {
        let letter = died(&BasicProperties::default(), None);
        let number = NumberId::parse("1027").unwrap();
        assert_eq!(letter.id.as_ref().map(JobId::as_str), Some("a"));
        assert_eq!((letter.class, letter.code), (Some(Class::Throttled), Some(130_429)));
        assert_eq!(letter.lane, Some((number, Priority::Urgent)));
        assert_eq!(letter.reason.as_deref(), Some("too fast"));
        assert_eq!((letter.attempts, letter.replay), (Some(12), None));
        assert_eq!((letter.first_received, letter.first_attempt), (Some(at(1)), Some(at(2))));
        assert_eq!(letter.died_at, Some(at(7)));
    }

    #[test]
    fn a_replayed_job_is_fresh_but_for_its_number_of_replays_and_its_end() {
        let mut foreign = FieldTable::default();
        foreign.insert("traceparent".into(), AMQPValue::LongString("00-1-2-01".into()));
        foreign.insert("x-delivery-count".into(), AMQPValue::LongLongInt(4));
        let before = BasicProperties::default()
            .with_headers(foreign)
            .with_message_id("a".into())
            .with_reply_to("answers".into())
            .with_timestamp(5);
        for (had, becomes) in [(None, 1), (Some(1), 2), (Some(u32::MAX), u32::MAX)] {
            let again = died(&before, had).replayed();
            let travel = headers::read(&again, at(8));
            let fresh = History {
                replay: Some(becomes),
                enqueued_at: Some(at(5)),
                ..History::fresh(at(8))
            };
            assert_eq!(travel.history, fresh);
            assert_eq!((travel.waited_for, travel.expires_at), (None, Some(at(9))));
            let names: Vec<&str> = again
                .headers()
                .as_ref()
                .unwrap()
                .inner()
                .keys()
                .map(|name| name.as_str())
                .collect();
            assert_eq!(names, ["traceparent", EXPIRES_AT, REPLAY]);
            assert_eq!(again.message_id(), before.message_id());
            assert_eq!(again.reply_to(), before.reply_to());
        }
    }

    #[test]
    fn a_strangers_message_is_a_letter_of_which_nothing_is_known() {
        let letter = Letter::read(original("no job", BasicProperties::default()));
        assert_eq!((letter.id, letter.class, letter.code, letter.lane), (None, None, None, None));
        assert_eq!((letter.died_at, letter.reason), (None, None));
    }

    #[test]
    fn a_code_is_that_of_the_class_it_died_of() {
        for (class, error, expected) in [
            (Class::Throttled, "throttled 130429", Some(130_429)),
            (Class::Unavailable, "unavailable http 503", None),
            (Class::Unavailable, "unavailable", None),
            (Class::Invalid, "throttled 130429", None),
        ] {
            assert_eq!(code(class, error), expected, "{error}");
        }
    }
}
