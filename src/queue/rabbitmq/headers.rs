//! A job's past, read from AMQP properties and headers, and written back when the job travels on.
//! Values in, values out: no I/O, no clock, and no header of any type or content makes it panic.

use crate::policy::{Doubt, History, Strength, Why};
use crate::wire::Class;
use jiff::Timestamp;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use std::collections::BTreeMap;
use std::time::Duration;

pub(super) const ATTEMPTS: &str = "x-attempts";
const ATTEMPTS_FREE: &str = "x-attempts-free";
pub(super) const FIRST_RECEIVED: &str = "x-first-received";
pub(super) const FIRST_ATTEMPT: &str = "x-first-attempt";
pub(super) const LAST_ERROR: &str = "x-last-error";
const DUE: &str = "x-due";
const DOUBT: &str = "x-doubt";
const DOUBT_SINCE: &str = "x-doubt-since";
const DOUBT_LOOKS: &str = "x-doubt-looks";
pub(super) const REPLAY: &str = "x-replay";
/// What it waits for; in the dead letters a sentence.
pub(super) const REASON: &str = "x-reason";
/// In the dead letters: the class of its failure.
pub(super) const CLASS: &str = "x-class";
/// In the dead letters: the key that brings it back.
pub(super) const ROUTING_KEY: &str = "x-routing-key";
/// In the dead letters: when it got there.
pub(super) const DIED_AT: &str = "x-died-at";
/// The property `expiration` as a moment: the property itself would make the broker throw the job
/// out of a wait queue.
pub(super) const EXPIRES_AT: &str = "x-expires-at";

/// Written by us alone: what stood there before is replaced or dropped.
const OURS: [&str; 15] = [
    ATTEMPTS,
    ATTEMPTS_FREE,
    FIRST_RECEIVED,
    FIRST_ATTEMPT,
    LAST_ERROR,
    DUE,
    DOUBT,
    DOUBT_SINCE,
    DOUBT_LOOKS,
    REPLAY,
    REASON,
    CLASS,
    ROUTING_KEY,
    DIED_AT,
    EXPIRES_AT,
];

const DELIVERY_COUNT: &str = "x-delivery-count";
const ACQUIRED_COUNT: &str = "x-acquired-count";

/// Written by the broker, or obeyed by it in a way that breaks a republished job (`CC`: copies).
const BROKERS: [&str; 5] = ["CC", "BCC", "x-death", DELIVERY_COUNT, ACQUIRED_COUNT];
const BROKERS_BEGIN: [&str; 2] = ["x-first-death-", "x-last-death-"];

/// Foreign headers are carried on up to this many bytes, roughly counted. All headers must fit into
/// one frame (128 KiB by default), ours included: a larger one would end the connection.
const MAX_FOREIGN_BYTES: usize = 64 * 1024;

/// The longest text of ours, in characters.
const MAX_TEXT_CHARS: usize = 500;

/// AMQP timestamps are seconds. Larger ones than this (the year 5138) are a producer's milliseconds.
const MAX_SECONDS: u64 = 100_000_000_000;

/// What an AMQP timestamp may lack of the true time.
const TIMESTAMP_CUT: Duration = Duration::from_secs(1);

/// What travels with a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Travel {
    /// Its past.
    pub(super) history: History,
    /// What it waited for, where it comes back from a wait.
    pub(super) waited_for: Option<Why>,
    /// The property `expiration` as a moment.
    pub(super) expires_at: Option<Timestamp>,
}

/// Reads what travelled with a job. `now` is its arrival.
pub(super) fn read(properties: &BasicProperties, now: Timestamp) -> Travel {
    let empty = FieldTable::default();
    let headers = properties.headers().as_ref().unwrap_or(&empty);
    let enqueued_at = properties.timestamp().and_then(from_amqp);
    let history = History {
        attempts: count(headers, ATTEMPTS).unwrap_or(0),
        free_attempts: count(headers, ATTEMPTS_FREE).unwrap_or(0),
        first_received: moment(headers, FIRST_RECEIVED).unwrap_or(now),
        first_attempt: moment(headers, FIRST_ATTEMPT),
        last_error: text(headers, LAST_ERROR),
        due: moment(headers, DUE),
        doubt: doubt(headers, now),
        replay: count(headers, REPLAY),
        enqueued_at,
    };
    let lifetime = properties.expiration().as_ref().and_then(|text| text.as_str().parse().ok());
    let expires = lifetime.map(|millis| {
        let from = enqueued_at.map_or(now, |stamped| published_by(stamped, now));
        from.checked_add(Duration::from_millis(millis)).unwrap_or(Timestamp::MAX)
    });
    Travel {
        waited_for: text(headers, REASON).as_deref().and_then(Why::from_name),
        expires_at: moment(headers, EXPIRES_AT).or(expires),
        history,
    }
}

/// How often the broker has delivered a message before. Its own counts differ: a quorum queue of 4.3
/// counts what was given back as acquired alone, and other queues only tell that it was delivered.
pub(super) fn earlier_deliveries(properties: &BasicProperties, redelivered: bool) -> u32 {
    let empty = FieldTable::default();
    let headers = properties.headers().as_ref().unwrap_or(&empty);
    let counts = [DELIVERY_COUNT, ACQUIRED_COUNT].map(|name| count(headers, name).unwrap_or(0));
    counts.into_iter().fold(redelivered.into(), u32::max)
}

/// A doubt that cannot be read is a strong one of now: it is never weakened on the way.
fn doubt(headers: &FieldTable, now: Timestamp) -> Option<Doubt> {
    headers.inner().get(DOUBT)?;
    let strength = text(headers, DOUBT).as_deref().and_then(Strength::from_name);
    Some(Doubt {
        strength: strength.unwrap_or(Strength::Strong),
        since: moment(headers, DOUBT_SINCE).unwrap_or(now),
        looks: count(headers, DOUBT_LOOKS).unwrap_or(0),
    })
}

/// When a job was published at the latest. AMQP cuts its timestamp to whole seconds: a job that is
/// given 500 ms must not be over before it is there.
fn published_by(stamped: Timestamp, now: Timestamp) -> Timestamp {
    let latest = stamped.checked_add(TIMESTAMP_CUT).unwrap_or(Timestamp::MAX);
    latest.min(now).max(stamped)
}

/// The properties of a job that goes on to a wait queue or to its lane.
pub(super) fn travelling(original: &BasicProperties, travel: &Travel) -> BasicProperties {
    carried(original, own(travel, travel.waited_for.map(Why::name)))
}

/// The properties of an original in the dead letters.
pub(super) fn dead(
    original: &BasicProperties,
    travel: &Travel,
    class: Class,
    reason: &str,
    routing_key: &str,
    died_at: Timestamp,
) -> BasicProperties {
    let mut own = own(travel, Some(reason));
    own.insert(CLASS, string(class.name()));
    own.insert(ROUTING_KEY, string(routing_key));
    own.insert(DIED_AT, millis(died_at));
    carried(original, own)
}

/// The last death that the broker noted: (queue, reason). RabbitMQ puts the latest one first.
pub(super) fn last_death(properties: &BasicProperties) -> Option<(String, String)> {
    let deaths = properties.headers().as_ref()?.inner().get("x-death")?;
    let AMQPValue::FieldArray(deaths) = deaths else { return None };
    let AMQPValue::FieldTable(last) = deaths.as_slice().first()? else { return None };
    Some((text(last, "queue")?, text(last, "reason")?))
}

fn own(travel: &Travel, reason: Option<&str>) -> BTreeMap<&'static str, AMQPValue> {
    let history = &travel.history;
    let mut own = BTreeMap::new();
    own.insert(ATTEMPTS, AMQPValue::LongLongInt(history.attempts.into()));
    own.insert(ATTEMPTS_FREE, AMQPValue::LongLongInt(history.free_attempts.into()));
    own.insert(FIRST_RECEIVED, millis(history.first_received));
    let mut add = |name, value: Option<AMQPValue>| value.map(|value| own.insert(name, value));
    add(FIRST_ATTEMPT, history.first_attempt.map(millis));
    add(LAST_ERROR, history.last_error.as_deref().map(string));
    add(DUE, history.due.map(millis));
    add(DOUBT, history.doubt.map(|doubt| string(doubt.strength.name())));
    add(DOUBT_SINCE, history.doubt.map(|doubt| millis(doubt.since)));
    add(DOUBT_LOOKS, history.doubt.map(|doubt| AMQPValue::LongLongInt(doubt.looks.into())));
    add(REPLAY, history.replay.map(|replay| AMQPValue::LongLongInt(replay.into())));
    add(EXPIRES_AT, travel.expires_at.map(millis));
    add(REASON, reason.map(string));
    own
}

/// What a producer set and is safe to publish again: not `expiration`, `user_id` (the broker refuses
/// another user's) and `priority`.
pub(super) fn carried(
    original: &BasicProperties,
    own: BTreeMap<&'static str, AMQPValue>,
) -> BasicProperties {
    let mut headers = FieldTable::default();
    let mut bytes = 0;
    for (name, value) in original.headers().iter().flat_map(FieldTable::inner) {
        bytes += name.as_str().len() + weight(value);
        if is_foreign(name.as_str()) && bytes <= MAX_FOREIGN_BYTES {
            headers.insert(name.clone(), value.clone());
        }
    }
    for (name, value) in own {
        headers.insert(name.into(), value);
    }
    type Set = fn(BasicProperties, ShortString) -> BasicProperties;
    let texts: [(&Option<ShortString>, Set); 7] = [
        (original.message_id(), BasicProperties::with_message_id),
        (original.correlation_id(), BasicProperties::with_correlation_id),
        (original.reply_to(), BasicProperties::with_reply_to),
        (original.kind(), BasicProperties::with_type),
        (original.app_id(), BasicProperties::with_app_id),
        (original.content_type(), BasicProperties::with_content_type),
        (original.content_encoding(), BasicProperties::with_content_encoding),
    ];
    let mut carried = persistent().with_headers(headers);
    for (value, set) in texts {
        if let Some(value) = value {
            carried = set(carried, value.clone());
        }
    }
    match original.timestamp() {
        Some(timestamp) => carried.with_timestamp(*timestamp),
        None => carried,
    }
}

/// The properties of a message that survives the broker's restart.
pub(super) fn persistent() -> BasicProperties {
    BasicProperties::default().with_delivery_mode(2)
}

fn is_foreign(name: &str) -> bool {
    let brokers = BROKERS.contains(&name) || BROKERS_BEGIN.iter().any(|b| name.starts_with(b));
    !brokers && !OURS.contains(&name)
}

/// Roughly the bytes of a value in a frame, and never fewer.
fn weight(value: &AMQPValue) -> usize {
    const FIXED: usize = 16;
    FIXED
        + match value {
            AMQPValue::ShortString(text) => text.as_str().len(),
            AMQPValue::LongString(text) => text.len(),
            AMQPValue::ByteArray(bytes) => bytes.len(),
            AMQPValue::FieldArray(array) => array.as_slice().iter().map(weight).sum(),
            AMQPValue::FieldTable(table) => {
                table.inner().iter().map(|(name, value)| name.as_str().len() + weight(value)).sum()
            }
            AMQPValue::Boolean(_)
            | AMQPValue::ShortShortInt(_)
            | AMQPValue::ShortShortUInt(_)
            | AMQPValue::ShortInt(_)
            | AMQPValue::ShortUInt(_)
            | AMQPValue::LongInt(_)
            | AMQPValue::LongUInt(_)
            | AMQPValue::LongLongInt(_)
            | AMQPValue::Float(_)
            | AMQPValue::Double(_)
            | AMQPValue::DecimalValue(_)
            | AMQPValue::Timestamp(_)
            | AMQPValue::Void => 0,
        }
}

fn string(text: &str) -> AMQPValue {
    let text: String = text.chars().take(MAX_TEXT_CHARS).collect();
    AMQPValue::LongString(text.into())
}

pub(super) fn millis(at: Timestamp) -> AMQPValue {
    AMQPValue::LongString(format!("{at:.3}").into())
}

pub(super) fn text(headers: &FieldTable, name: &str) -> Option<String> {
    let text = match headers.inner().get(name)? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok()?,
        AMQPValue::ShortString(text) => text.as_str(),
        _ => return None,
    };
    Some(text.chars().take(MAX_TEXT_CHARS).collect())
}

fn integer(headers: &FieldTable, name: &str) -> Option<i64> {
    Some(match headers.inner().get(name)? {
        AMQPValue::ShortShortInt(number) => (*number).into(),
        AMQPValue::ShortShortUInt(number) => (*number).into(),
        AMQPValue::ShortInt(number) => (*number).into(),
        AMQPValue::ShortUInt(number) => (*number).into(),
        AMQPValue::LongInt(number) => (*number).into(),
        AMQPValue::LongUInt(number) => (*number).into(),
        AMQPValue::LongLongInt(number) => *number,
        AMQPValue::Timestamp(seconds) => i64::try_from(*seconds).ok()?,
        _ => return text(headers, name)?.parse().ok(),
    })
}

pub(super) fn count(headers: &FieldTable, name: &str) -> Option<u32> {
    u32::try_from(integer(headers, name)?).ok()
}

pub(super) fn moment(headers: &FieldTable, name: &str) -> Option<Timestamp> {
    match integer(headers, name) {
        Some(number) => from_amqp(u64::try_from(number).ok()?),
        None => text(headers, name)?.parse().ok(),
    }
}

fn from_amqp(number: u64) -> Option<Timestamp> {
    match number {
        0..=MAX_SECONDS => Timestamp::from_second(i64::try_from(number).ok()?).ok(),
        _ => Timestamp::from_millisecond(i64::try_from(number).ok()?).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::types::{DecimalValue, FieldArray};
    use proptest::prelude::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(millis).unwrap()
    }

    fn now() -> Timestamp {
        at(1_800_000_000_000)
    }

    fn with_header(name: &str, value: AMQPValue) -> BasicProperties {
        let mut headers = FieldTable::default();
        headers.insert(name.into(), value);
        BasicProperties::default().with_headers(headers)
    }

    fn moments() -> impl Strategy<Value = Timestamp> {
        (0i64..4_000_000_000_000).prop_map(at)
    }

    fn travels() -> impl Strategy<Value = Travel> {
        use proptest::option::of;
        let whys = prop::sample::select(Why::ALL.to_vec());
        let doubts = (any::<bool>(), moments(), any::<u32>()).prop_map(|(strong, since, looks)| {
            let strength = if strong { Strength::Strong } else { Strength::Weak };
            Doubt { strength, since, looks }
        });
        let counts = (any::<u32>(), any::<u32>(), of(any::<u32>()));
        let times = (moments(), of(moments()), of(moments()), of(moments()));
        (counts, times, of("[a-z]{1,9} [0-9]{3}"), of(whys), of(doubts)).prop_map(
            |((attempts, free_attempts, replay), times, last_error, waited_for, doubt)| Travel {
                history: History {
                    attempts,
                    free_attempts,
                    first_received: times.0,
                    first_attempt: times.1,
                    last_error,
                    due: times.2,
                    doubt,
                    replay,
                    enqueued_at: None,
                },
                waited_for,
                expires_at: times.3,
            },
        )
    }

    fn values() -> impl Strategy<Value = AMQPValue> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(AMQPValue::Boolean),
            any::<i8>().prop_map(AMQPValue::ShortShortInt),
            any::<u8>().prop_map(AMQPValue::ShortShortUInt),
            any::<i16>().prop_map(AMQPValue::ShortInt),
            any::<u16>().prop_map(AMQPValue::ShortUInt),
            any::<i32>().prop_map(AMQPValue::LongInt),
            any::<u32>().prop_map(AMQPValue::LongUInt),
            any::<i64>().prop_map(AMQPValue::LongLongInt),
            any::<f32>().prop_map(AMQPValue::Float),
            any::<f64>().prop_map(AMQPValue::Double),
            any::<u32>()
                .prop_map(|value| AMQPValue::DecimalValue(DecimalValue { scale: 2, value })),
            "\\PC{0,40}".prop_map(|text: String| AMQPValue::ShortString(text.as_str().into())),
            prop::collection::vec(any::<u8>(), 0..80)
                .prop_map(|bytes| AMQPValue::LongString(bytes.into())),
            any::<u64>().prop_map(AMQPValue::Timestamp),
            prop::collection::vec(any::<u8>(), 0..20)
                .prop_map(|bytes| AMQPValue::ByteArray(bytes.into())),
            Just(AMQPValue::Void),
        ];
        leaf.prop_recursive(2, 8, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3)
                    .prop_map(|items| AMQPValue::FieldArray(FieldArray::from(items))),
                prop::collection::btree_map("[a-z]{0,4}", inner, 0..3).prop_map(|map| {
                    let map: BTreeMap<ShortString, AMQPValue> =
                        map.into_iter().map(|(name, value)| (name.into(), value)).collect();
                    AMQPValue::FieldTable(map.into())
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(travel in travels()) {
            let written = travelling(&BasicProperties::default(), &travel);
            prop_assert_eq!(read(&written, now()), travel);
        }

        #[test]
        fn no_header_of_any_type_makes_it_panic(
            name in prop::sample::select([&OURS[..], &["x-death", "traceparent"]].concat()),
            value in values(),
            timestamp in any::<u64>(),
            expiration in "\\PC{0,20}",
        ) {
            let properties = with_header(name, value)
                .with_timestamp(timestamp)
                .with_expiration(expiration.as_str().into());
            let travel = read(&properties, now());
            let _ = last_death(&properties);
            let again = dead(&properties, &travel, Class::Invalid, "why", "1", now());
            prop_assert_eq!(read(&again, now()).history.attempts, travel.history.attempts);
        }
    }

    #[test]
    fn an_expiration_counts_from_the_timestamp_and_survives_as_a_moment() {
        let properties =
            BasicProperties::default().with_timestamp(1_800_000_000).with_expiration("2500".into());
        let travel = read(&properties, at(0));
        assert_eq!(travel.expires_at, Some(at(1_800_000_002_500)));
        let again = travelling(&properties, &travel);
        assert_eq!(again.expiration(), &None);
        assert_eq!(read(&again, at(0)).expires_at, travel.expires_at);
        let bare = BasicProperties::default().with_expiration("2500".into());
        assert_eq!(read(&bare, at(7)).expires_at, Some(at(2507)));
    }

    #[test]
    fn an_expiration_gives_the_second_back_that_a_timestamp_lacks() {
        let stamped = 1_800_000_000_000;
        // Arrival and end, both after the timestamp; 500 ms are given.
        for (arrival, end) in [(-5_000, 500), (0, 500), (300, 800), (1_000, 1_500), (60_000, 1_500)]
        {
            let properties = BasicProperties::default()
                .with_timestamp(1_800_000_000)
                .with_expiration("500".into());
            let travel = read(&properties, at(stamped + arrival));
            assert_eq!(travel.expires_at, Some(at(stamped + end)), "arrived after {arrival} ms");
        }
    }

    #[test]
    fn times_may_be_text_timestamps_or_numbers() {
        for value in [
            AMQPValue::LongString("2027-01-15T08:00:00Z".into()),
            AMQPValue::Timestamp(1_800_000_000),
            AMQPValue::LongLongInt(1_800_000_000_000),
        ] {
            assert_eq!(read(&with_header(DUE, value), at(0)).history.due, Some(now()));
        }
    }

    #[test]
    fn what_breaks_a_republished_job_is_left_behind_and_the_rest_is_carried() {
        let mut headers = FieldTable::default();
        for name in ["CC", "BCC", "x-death", "x-first-death-queue", "x-last-death-reason"] {
            headers.insert(name.into(), AMQPValue::LongString("other".into()));
        }
        headers.insert("traceparent".into(), AMQPValue::LongString("00-1-2-01".into()));
        let original = BasicProperties::default()
            .with_headers(headers)
            .with_user_id("somebody".into())
            .with_priority(9)
            .with_delivery_mode(1)
            .with_reply_to("answers".into())
            .with_correlation_id("c-1".into())
            .with_timestamp(5);
        let travel = read(&original, now());
        let carried = travelling(&original, &travel);
        assert_eq!((carried.user_id(), carried.priority()), (&None, &None));
        assert_eq!(carried.delivery_mode(), &Some(2));
        assert_eq!(carried.reply_to().as_ref().unwrap().as_str(), "answers");
        assert_eq!(carried.timestamp(), &Some(5));
        let names: Vec<&str> =
            carried.headers().as_ref().unwrap().inner().keys().map(ShortString::as_str).collect();
        assert_eq!(names, ["traceparent", ATTEMPTS, ATTEMPTS_FREE, FIRST_RECEIVED]);
    }

    #[test]
    fn headers_that_would_not_fit_into_a_frame_are_left_behind() {
        let huge = with_header("huge", AMQPValue::LongString(vec![b'x'; 100_000].into()));
        let carried = travelling(&huge, &read(&huge, now()));
        assert!(!carried.headers().as_ref().unwrap().contains_key("huge"));
    }
}
