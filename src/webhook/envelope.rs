//! What stands in the body of a webhook, in both shapes that ChakraHQ relays: Meta's own
//! (`entry[].changes[].value.statuses[]`, the pass-through) and ChakraHQ's (`event`, `payload`).
//!
//! Of the second one only parts are documented, and Meta adds fields at any time: so what cannot be
//! understood is counted and passed over. Only what is no JSON at all, or nested deeper than 127 levels, is
//! an error. Values in, values out: no I/O, no clock, and no body makes it panic.

use super::json::Json;
use super::notice::{Fault, Notice};
use crate::odd_json;
use crate::wire::{DeliveryStatus, NumberId};
use jiff::Timestamp;
use std::borrow::Cow;

/// Meta's ids have some 60 characters. With the status it becomes an AMQP `message_id`, which has at
/// most 255 bytes.
pub const MAX_MESSAGE_ID_BYTES: usize = 200;

/// Meta's own bound on `biz_opaque_callback_data`, in characters. Longer data did not pass Meta.
const MAX_OPAQUE_CHARS: usize = 512;

/// Timestamps are seconds in Meta's shape and milliseconds in ChakraHQ's. Above this (the year 5138)
/// they are milliseconds.
const MAX_SECONDS: i64 = 100_000_000_000;

/// Stands where a failure gives no reason.
const NO_REASON: &str = "no reason was given";

/// What stood in one body.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Statuses, in their order.
    pub notices: Vec<Notice>,
    /// Events of other kinds: messages of customers, changes of the account.
    pub others: u64,
    /// Statuses whose word is none that we know.
    pub unknown: u64,
    /// What had not the shape that its place asks for.
    pub strange: u64,
}

/// It cannot be read at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body is no JSON")]
pub struct NotJson;

/// Reads a body. `now` is the time of a status that tells none.
pub fn read(body: &[u8], now: Timestamp) -> Result<Contents, NotJson> {
    // Seen as a whole to be UTF-8: text by text costs a fifth more.
    let body = str::from_utf8(body).map_err(|_| NotJson)?;
    let mended;
    let body: Json<'_> = match serde_json::from_str(body) {
        Ok(json) => json,
        Err(_) => {
            mended = odd_json::mended(body);
            serde_json::from_str(&mended).map_err(|_| NotJson)?
        }
    };
    let mut contents = Contents::default();
    match (body.get("entry"), body["event"].text()) {
        (Some(entries), _) => contents.entries(entries, now),
        (None, Some("status")) => contents.payload(&body["payload"], now),
        (None, Some(_) | None) => contents.others += 1,
    }
    Ok(contents)
}

/// Why a status was not read.
enum Unread {
    UnknownStatus,
    Strange,
}

impl Contents {
    /// Meta's shape.
    fn entries(&mut self, entries: &Json<'_>, now: Timestamp) {
        for entry in self.list(entries) {
            for change in self.list(&entry["changes"]) {
                let value = &change["value"];
                let Some(statuses) = value.get("statuses") else {
                    self.others += 1;
                    continue;
                };
                let number = number(&value["metadata"]["phone_number_id"]);
                for status in self.list(statuses) {
                    self.add(of_meta(status, number.clone(), now));
                }
            }
        }
    }

    /// ChakraHQ's shape.
    fn payload(&mut self, payload: &Json<'_>, now: Timestamp) {
        self.add(of_chakra(payload, now));
    }

    fn add(&mut self, read: Result<Notice, Unread>) {
        match read {
            Ok(notice) => self.notices.push(notice),
            Err(Unread::UnknownStatus) => self.unknown += 1,
            Err(Unread::Strange) => self.strange += 1,
        }
    }

    /// The items of a list; none, and counted, where it is no list.
    fn list<'a, 'b>(&mut self, list: &'a Json<'b>) -> &'a [Json<'b>] {
        list.list().unwrap_or_else(|| {
            self.strange += 1;
            &[]
        })
    }
}

fn of_meta(told: &Json<'_>, number: Option<NumberId>, now: Timestamp) -> Result<Notice, Unread> {
    let status = status(&told["status"])?;
    Ok(Notice {
        number,
        message_id: message_id(&told["id"])?,
        status,
        at: moment(&told["timestamp"]).unwrap_or(now),
        opaque: opaque(&told["biz_opaque_callback_data"]),
        fault: (status == DeliveryStatus::Failed)
            .then(|| fault(first(&told["errors"]), &Json::Nothing)),
    })
}

fn of_chakra(told: &Json<'_>, now: Timestamp) -> Result<Notice, Unread> {
    let status = status(&told["deliveryStatus"])?;
    let error = &told["errorContext"];
    Ok(Notice {
        // Not documented for this shape: the name that ChakraHQ's other calls have.
        number: number(&told["whatsappPhoneNumberId"]),
        message_id: message_id(&told["externalId"])?,
        status,
        at: moment(&told["timestamp"]).unwrap_or(now),
        opaque: None,
        fault: (status == DeliveryStatus::Failed)
            .then(|| fault(&error["providerPayload"], &error["message"])),
    })
}

fn status(word: &Json<'_>) -> Result<DeliveryStatus, Unread> {
    let word = word.text().ok_or(Unread::Strange)?;
    DeliveryStatus::from_name(word).ok_or(Unread::UnknownStatus)
}

fn message_id(id: &Json<'_>) -> Result<String, Unread> {
    let id = id.text().ok_or(Unread::Strange)?;
    let is_lawful = (1..=MAX_MESSAGE_ID_BYTES).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_graphic());
    if is_lawful { Ok(id.to_owned()) } else { Err(Unread::Strange) }
}

fn number(id: &Json<'_>) -> Option<NumberId> {
    NumberId::parse(&plain(id)?).ok()
}

fn opaque(data: &Json<'_>) -> Option<String> {
    let is_lawful =
        |data: &Cow<'_, str>| !data.is_empty() && data.chars().count() <= MAX_OPAQUE_CHARS;
    plain(data).filter(is_lawful).map(Cow::into_owned)
}

fn moment(told: &Json<'_>) -> Option<Timestamp> {
    let told = plain(told)?;
    match told.parse::<i64>() {
        Ok(number @ ..=MAX_SECONDS) => Timestamp::from_second(number).ok(),
        Ok(number) => Timestamp::from_millisecond(number).ok(),
        Err(_) => told.parse().ok(),
    }
}

/// Meta's error, or what stands in for its sentence.
fn fault(error: &Json<'_>, otherwise: &Json<'_>) -> Fault {
    let text = |value: &Json<'_>| value.text().filter(|text| !text.is_empty()).map(str::to_owned);
    let short = text(&error["message"]).or_else(|| text(&error["title"]));
    let long = text(&error["error_data"]["details"]);
    let message = match (short, long) {
        (Some(short), Some(long)) if short != long => Some(format!("{short}: {long}")),
        (short, long) => short.or(long),
    };
    Fault {
        code: plain(&error["code"]).and_then(|code| code.parse().ok()),
        message: message.or_else(|| text(otherwise)).unwrap_or_else(|| NO_REASON.into()),
    }
}

/// The first item, or nothing.
fn first<'a, 'b>(list: &'a Json<'b>) -> &'a Json<'b> {
    list.list().and_then(<[Json<'b>]>::first).unwrap_or(&Json::Nothing)
}

/// A text, or a number as text: senders disagree on which of them an id or a time is.
fn plain<'a>(value: &'a Json<'_>) -> Option<Cow<'a, str>> {
    match value {
        Json::Text(text) => Some(text.as_ref().into()),
        Json::Number(number) => Some(number.to_string().into()),
        Json::Nothing | Json::List(_) | Json::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn now() -> Timestamp {
        "2026-11-20T12:00:00Z".parse().unwrap()
    }

    fn contents(body: &Value) -> Contents {
        read(body.to_string().as_bytes(), now()).unwrap()
    }

    fn meta(statuses: &Value) -> Value {
        json!({ "object": "whatsapp_business_account", "entry": [{ "id": "8", "changes": [{
            "field": "messages", "value": { "messaging_product": "whatsapp",
                "metadata": { "display_phone_number": "15550783881", "phone_number_id": "1027" },
                "statuses": statuses } }] }] })
    }

    fn notice(status: DeliveryStatus) -> Notice {
        Notice {
            number: Some(NumberId::parse("1027").unwrap()),
            message_id: "wamid.HBgM".into(),
            status,
            at: "2026-11-20T10:00:00Z".parse().unwrap(),
            opaque: None,
            fault: None,
        }
    }

    #[test]
    fn metas_shape_is_read() {
        let statuses = json!([
            { "id": "wamid.HBgM", "status": "sent", "timestamp": "1795168800",
              "recipient_id": "919901258433", "biz_opaque_callback_data": "order-1",
              "pricing": { "billable": true, "pricing_model": "PMP", "category": "utility" } },
            { "id": "wamid.HBgM", "status": "played", "timestamp": 1_795_168_800 },
            { "id": "wamid.HBgM", "status": "failed", "timestamp": "1795168800", "errors": [{
                "code": 131_026, "title": "Message undeliverable",
                "message": "Message undeliverable",
                "error_data": { "details": "Message Undeliverable." } }] },
        ]);
        let sent = Notice { opaque: Some("order-1".into()), ..notice(DeliveryStatus::Sent) };
        let message = "Message undeliverable: Message Undeliverable.".into();
        let fault = Some(Fault { code: Some(131_026), message });
        let failed = Notice { fault, ..notice(DeliveryStatus::Failed) };
        let notices = vec![sent, notice(DeliveryStatus::Played), failed];
        assert_eq!(contents(&meta(&statuses)), Contents { notices, ..Contents::default() });
    }

    #[test]
    fn chakras_shape_is_read() {
        let delivered = json!({ "event": "status", "payload": {
            "id": "9b2c", "messageId": "9b2c", "externalId": "wamid.HBgM",
            "deliveryStatus": "DELIVERED", "timestamp": 1_795_168_800_000_i64 } });
        let expected = Notice { number: None, ..notice(DeliveryStatus::Delivered) };
        assert_eq!(contents(&delivered).notices, [expected]);
        let failed = json!({ "event": "status", "payload": { "externalId": "wamid.HBgM",
            "whatsappPhoneNumberId": 1027, "deliveryStatus": "FAILED",
            "timestamp": "2026-11-20T10:00:00.000Z", "errorContext": { "message": "Failed",
                "providerPayload": { "code": "131049", "title": "Not delivered" } } } });
        let fault = Some(Fault { code: Some(131_049), message: "Not delivered".into() });
        assert_eq!(contents(&failed).notices, [Notice { fault, ..notice(DeliveryStatus::Failed) }]);
    }

    #[test]
    fn a_failure_always_has_a_reason_and_nothing_else_has_one() {
        let reason = |status: Value| contents(&meta(&json!([status]))).notices[0].fault.clone();
        let of = |code, message: &str| Some(Fault { code, message: message.into() });
        let failed = |errors: Value| json!({ "id": "w", "status": "failed", "errors": errors });
        assert_eq!(reason(failed(json!(null))), of(None, NO_REASON));
        assert_eq!(reason(failed(json!([]))), of(None, NO_REASON));
        assert_eq!(reason(failed(json!([{ "code": -1, "title": "T" }]))), of(None, "T"));
        assert_eq!(reason(json!({ "id": "w", "status": "read", "errors": [{}] })), None);
        let told = json!({ "event": "status", "payload": { "externalId": "w",
            "deliveryStatus": "FAILED", "errorContext": { "message": "Failed" } } });
        assert_eq!(contents(&told).notices[0].fault, of(None, "Failed"));
    }

    #[test]
    fn what_is_no_status_is_passed_over_and_counted() {
        let message = json!({ "entry": [{ "changes": [{ "field": "messages",
            "value": { "messages": [{ "from": "919901258433" }] } }] }] });
        let others = [json!({ "event": "message", "payload": {} }), message, json!({}), json!(7)];
        for other in others {
            assert_eq!(contents(&other), Contents { others: 1, ..Contents::default() }, "{other}");
        }
        let unknown = meta(&json!([{ "id": "w", "status": "warning" }]));
        assert_eq!(contents(&unknown), Contents { unknown: 1, ..Contents::default() });
    }

    #[test]
    fn one_strange_entry_takes_nothing_from_its_neighbours() {
        let long = "w".repeat(MAX_MESSAGE_ID_BYTES + 1);
        let statuses = json!([
            null, { "status": "sent" }, { "id": 7, "status": "sent" }, { "id": "w" },
            { "id": "", "status": "sent" }, { "id": "a b", "status": "sent" },
            { "id": long, "status": "sent" }, { "id": "wamid.HBgM", "status": "read" },
        ]);
        let read = contents(&meta(&statuses));
        assert_eq!(read.notices, [Notice { at: now(), ..notice(DeliveryStatus::Read) }]);
        assert_eq!(read.strange, 7);
        let mut body = meta(&json!([{ "id": "wamid.HBgM", "status": "read" }]));
        let entries = body["entry"].as_array_mut().unwrap();
        entries.splice(
            0..0,
            [json!(3), json!({ "changes": {} }), meta(&json!({}))["entry"][0].take()],
        );
        let read = contents(&body);
        assert_eq!((read.notices.len(), read.strange), (1, 3));
    }

    #[test]
    fn an_unreadable_number_or_time_costs_no_status() {
        let mut body = meta(&json!([{ "id": "w", "status": "sent", "timestamp": "soon" }]));
        body["entry"][0]["changes"][0]["value"]["metadata"]["phone_number_id"] = json!("+49 1");
        let read = &contents(&body).notices[0];
        assert_eq!((&read.number, read.at), (&None, now()));
    }

    #[test]
    fn data_beyond_metas_bound_is_not_carried() {
        for (length, kept) in [(MAX_OPAQUE_CHARS, true), (MAX_OPAQUE_CHARS + 1, false)] {
            let data = "é".repeat(length);
            let status = json!({ "id": "w", "status": "sent", "biz_opaque_callback_data": data });
            assert_eq!(contents(&meta(&json!([status]))).notices[0].opaque.is_some(), kept);
        }
    }

    #[test]
    fn only_what_is_no_json_is_an_error() {
        for body in [&b""[..], b"{", b"status=sent", b"\xff\xfe", b"{} {}", &[b'['; 10_000]] {
            assert_eq!(read(body, now()), Err(NotJson));
        }
    }

    #[test]
    fn a_status_is_read_beside_half_an_emoji_and_a_number_beyond_all_bounds() {
        let body =
            meta(&json!([{ "id": "wamid.HBgM", "status": "sent", "timestamp": "1795168800" }]));
        let odd = r#"{"profile":"Zo\ud83d","cost":1e999,"entry""#;
        let body = body.to_string().replace(r#"{"entry""#, odd);
        assert!(body.contains("1e999"));
        assert_eq!(
            read(body.as_bytes(), now()).unwrap().notices,
            [Notice {
                at: "2026-11-20T10:00:00Z".parse().unwrap(),
                ..notice(DeliveryStatus::Sent)
            }]
        );
    }

    /// JSON whose keys are those that are looked for, in any place and with any value.
    fn odd() -> impl Strategy<Value = Value> {
        const WORDS: [&str; 8] =
            ["sent", "FAILED", "status", "wamid.1", "1795168800", "-1", "", "1027"];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            prop::sample::select(&WORDS[..]).prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        let keys = [
            "entry",
            "changes",
            "value",
            "statuses",
            "metadata",
            "phone_number_id",
            "id",
            "status",
            "timestamp",
            "errors",
            "code",
            "message",
            "error_data",
            "details",
            "event",
            "payload",
            "externalId",
            "deliveryStatus",
            "errorContext",
            "providerPayload",
            "biz_opaque_callback_data",
        ];
        leaf.prop_recursive(8, 64, 6, move |inner| {
            let key = prop::sample::select(keys.to_vec()).prop_map(str::to_owned);
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map(key, inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(read(&body, now()));
        }

        #[test]
        fn whatever_is_json_is_read_and_each_notice_is_lawful(body in odd()) {
            for notice in contents(&body).notices {
                prop_assert!((1..=MAX_MESSAGE_ID_BYTES).contains(&notice.message_id.len()));
                prop_assert_eq!(notice.fault.is_some(), notice.status == DeliveryStatus::Failed);
            }
        }
    }
}
