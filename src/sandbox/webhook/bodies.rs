//! The bodies of webhooks in both shapes, and their signature.
//!
//! Builds values, from Meta's documented samples and what is known of ChakraHQ's. `conversation` is
//! left out, as from v24.0.

use hmac::{Hmac, Mac};
use serde_json::{Map, Value, json};
use sha2::Sha256;

use super::{
    super::{answers::title, listings::uuid, plugin::ACCOUNT},
    course::{Accepted, Event, Form, Notice},
};

/// Where Meta's errors point to.
const ERROR_PAGE: &str =
    "https://developers.facebook.com/docs/whatsapp/cloud-api/support/error-codes/";
/// What the events of another kind say.
const WORDS: &str = "Thank you";

/// One webhook's body. ChakraHQ's own shape holds one event: the first.
pub(super) fn body(form: Form, notices: &[Notice], opaque_on_failed: bool) -> String {
    match form {
        Form::PassThrough => pass_through(notices, opaque_on_failed).to_string(),
        Form::Chakra => notices.first().map(chakra).unwrap_or_default().to_string(),
    }
}

/// The value of `X-Chakra-Signature-256`: the lower-case hex HMAC-SHA256 of the raw body.
pub(super) fn signature(secret: &str, body: &[u8]) -> String {
    #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length");
    mac.update(body);
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Meta's envelope: a change for each number and for each event of another kind.
fn pass_through(notices: &[Notice], opaque_on_failed: bool) -> Value {
    let mut changes: Vec<(&str, Value)> = Vec::new();
    for notice in notices {
        if !notice.event.is_status() {
            changes.push(("", other(notice)));
            continue;
        }
        let number = notice.of.number.as_str();
        let status = status(notice, opaque_on_failed);
        let of_number = changes.iter_mut().find(|(of, _)| *of == number);
        let statuses = of_number.and_then(|(_, change)| change["value"]["statuses"].as_array_mut());
        match statuses {
            Some(statuses) => statuses.push(status),
            None => changes.push((number, change("messages", &notice.of, "statuses", status))),
        }
    }
    let changes: Vec<Value> = changes.into_iter().map(|(_, change)| change).collect();
    json!({
        "object": "whatsapp_business_account",
        "entry": [{"id": ACCOUNT, "changes": changes}],
    })
}

fn change(field: &str, of: &Accepted, list: &str, item: Value) -> Value {
    json!({
        "value": {
            "messaging_product": "whatsapp",
            "metadata": {
                "display_phone_number": digits(&of.display_phone_number),
                "phone_number_id": of.number,
            },
            list: [item],
        },
        "field": field,
    })
}

fn status(notice: &Notice, opaque_on_failed: bool) -> Value {
    let Notice { event, of, .. } = notice;
    let mut status = Map::new();
    let mut put = |key: &str, value: Value| status.insert(key.to_owned(), value);
    put("id", of.wamid.as_str().into());
    put("status", event.name().into());
    put("timestamp", seconds(notice.at_ms).into());
    let to = Value::from(of.to.as_str());
    match (is_phone(&of.to), of.is_group) {
        (_, true) => {
            put("recipient_id", to);
            put("recipient_type", "group".into());
            put("recipient_participant_id", "15550000001".into());
        }
        (true, false) => drop(put("recipient_id", to)),
        (false, false) => drop(put("recipient_user_id", to)),
    }
    match event {
        Event::Sent | Event::Delivered => drop(put("pricing", pricing(&of.kind))),
        Event::Failed(code) => drop(put("errors", json!([error(*code)]))),
        Event::Read | Event::Played | Event::Reply | Event::Echo => {}
    }
    let carries_opaque = opaque_on_failed || !matches!(event, Event::Failed(_));
    if let Some(opaque) = of.opaque.as_deref().filter(|_| carries_opaque) {
        put("biz_opaque_callback_data", opaque.into());
    }
    status.into()
}

/// Templates are billed as marketing here, all else is free.
fn pricing(kind: &str) -> Value {
    let (billable, price, category) = match kind {
        "template" => (true, "regular", "marketing"),
        _ => (false, "free_customer_service", "service"),
    };
    json!({"billable": billable, "pricing_model": "PMP", "type": price, "category": category})
}

/// No `(#code)` stands before the title here, unlike in an answer.
fn error(code: u32) -> Value {
    let title = title(code);
    json!({
        "code": code, "title": title, "message": title,
        "error_data": {"details": title}, "href": ERROR_PAGE,
    })
}

/// A reply of the recipient, or a message from the number's phone.
fn other(notice: &Notice) -> Value {
    let of = &notice.of;
    if notice.event == Event::Echo {
        return change("smb_message_echoes", of, "message_echoes", message(notice));
    }
    let mut change = change("messages", of, "messages", message(notice));
    change["value"]["contacts"] = contacts(of);
    change
}

fn message(notice: &Notice) -> Value {
    let of = &notice.of;
    let number = digits(&of.display_phone_number);
    let from = if notice.event == Event::Echo { &number } else { &of.to };
    let mut message = json!({
        "from": from, "id": other_id(notice), "timestamp": seconds(notice.at_ms),
        "type": "text", "text": {"body": WORDS},
    });
    if notice.event == Event::Echo {
        message["to"] = of.to.as_str().into();
    }
    message
}

fn contacts(of: &Accepted) -> Value {
    json!([{"profile": {"name": "Sandbox"}, "wa_id": of.to}])
}

/// The id of the message that an event of another kind is about.
fn other_id(notice: &Notice) -> String {
    format!("{}{}", notice.of.wamid, notice.event.name().to_uppercase())
}

/// ChakraHQ's own shape. It has neither the sending number nor the sender's opaque data.
fn chakra(notice: &Notice) -> Value {
    if !notice.event.is_status() {
        let echo = notice.event == Event::Echo;
        let id = other_id(notice);
        return json!({
            "event": if echo { "smb_message_echo" } else { "message" },
            "payload": {
                "wabaId": ACCOUNT, "externalId": id, "messageId": uuid("message", &id),
                "timestamp": notice.at_ms, "message": message(notice),
                "contacts": contacts(&notice.of),
            },
        });
    }
    let id = uuid("message", &notice.of.wamid);
    let mut payload = json!({
        "id": id, "messageId": id, "externalId": notice.of.wamid,
        "deliveryStatus": notice.event.name().to_uppercase(), "timestamp": notice.at_ms,
    });
    if let Event::Failed(code) = notice.event {
        let title = title(code);
        let provider = json!({"code": code, "title": title, "message": title});
        payload["errorContext"] = json!({"message": title, "providerPayload": provider});
    }
    json!({"event": "status", "payload": payload})
}

/// Unix seconds as a string.
fn seconds(ms: i64) -> String {
    (ms / 1_000).to_string()
}

fn digits(text: &str) -> String {
    text.chars().filter(char::is_ascii_digit).collect()
}

fn is_phone(to: &str) -> bool {
    to.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn of(number: &str, to: &str) -> Arc<Accepted> {
        Arc::new(Accepted {
            wamid: "wamid.1".into(),
            number: number.into(),
            display_phone_number: "+91 99012 58400".into(),
            to: to.into(),
            is_group: false,
            kind: "template".into(),
            opaque: Some("job \"1\"".into()),
        })
    }

    fn notice(event: Event, of: &Arc<Accepted>) -> Notice {
        Notice { event, at_ms: 1_750_030_073_999, of: of.clone() }
    }

    fn parsed(form: Form, notices: &[Notice]) -> Value {
        serde_json::from_str(&body(form, notices, true)).unwrap()
    }

    #[test]
    fn a_status_is_metas_documented_sample_with_the_opaque_data() {
        let body = parsed(Form::PassThrough, &[notice(Event::Sent, &of("1027", "16505551234"))]);
        let status = json!({
            "id": "wamid.1", "status": "sent", "timestamp": "1750030073",
            "recipient_id": "16505551234", "biz_opaque_callback_data": "job \"1\"",
            "pricing": {
                "billable": true, "pricing_model": "PMP", "type": "regular", "category": "marketing",
            },
        });
        let value = json!({
            "messaging_product": "whatsapp",
            "metadata": {"display_phone_number": "919901258400", "phone_number_id": "1027"},
            "statuses": [status],
        });
        let changes = json!([{"value": value, "field": "messages"}]);
        let entry = json!([{"id": ACCOUNT, "changes": changes}]);
        assert_eq!(body, json!({"object": "whatsapp_business_account", "entry": entry}));
    }

    #[test]
    fn a_failure_names_its_code_and_may_leave_the_opaque_data_out() {
        let notice = notice(Event::Failed(131_026), &of("1027", "49"));
        let at = |opaque| {
            let body = body(Form::PassThrough, std::slice::from_ref(&notice), opaque);
            let body: Value = serde_json::from_str(&body).unwrap();
            body["entry"][0]["changes"][0]["value"]["statuses"][0].clone()
        };
        let title = "Message undeliverable";
        let error = json!({
            "code": 131_026, "title": title, "message": title,
            "error_data": {"details": title}, "href": ERROR_PAGE,
        });
        assert_eq!(at(true)["errors"], json!([error]));
        assert_eq!(at(true)["biz_opaque_callback_data"], "job \"1\"");
        assert_eq!(at(false)["biz_opaque_callback_data"], Value::Null);
        let provider = json!({"code": 131_026, "title": title, "message": title});
        let chakra = &parsed(Form::Chakra, &[notice])["payload"];
        assert_eq!(chakra["deliveryStatus"], "FAILED");
        let context = json!({"message": title, "providerPayload": provider});
        assert_eq!(chakra["errorContext"], context);
    }

    #[test]
    fn chakras_own_status_names_the_message_alone() {
        let body = parsed(Form::Chakra, &[notice(Event::Delivered, &of("1027", "49"))]);
        let id = uuid("message", "wamid.1");
        let payload = json!({
            "id": id, "messageId": id, "externalId": "wamid.1", "deliveryStatus": "DELIVERED",
            "timestamp": 1_750_030_073_999_i64,
        });
        assert_eq!(body, json!({"event": "status", "payload": payload}));
    }

    #[test]
    fn a_batch_has_one_change_for_each_number() {
        let (one, other) = (of("1", "49"), of("2", "49"));
        let notices = [
            notice(Event::Sent, &one),
            notice(Event::Sent, &other),
            notice(Event::Reply, &one),
            notice(Event::Delivered, &one),
        ];
        let body = parsed(Form::PassThrough, &notices);
        let counts = body["entry"][0]["changes"].as_array().unwrap().iter().map(|change| {
            let count = |list: &str| change["value"][list].as_array().map_or(0, Vec::len);
            (count("statuses"), count("messages"))
        });
        assert_eq!(counts.collect::<Vec<_>>(), [(2, 0), (1, 0), (0, 1)]);
    }

    #[test]
    fn groups_and_users_without_a_number_are_named_in_their_own_fields() {
        let at = |of: Accepted| status(&notice(Event::Read, &Arc::new(of)), true);
        let user = at(Accepted { to: "US.134".into(), ..Accepted::default() });
        assert_eq!(
            (&user["recipient_user_id"], &user["recipient_id"]),
            (&json!("US.134"), &Value::Null)
        );
        let group = at(Accepted { to: "Y2FwaQ".into(), is_group: true, ..Accepted::default() });
        assert_eq!(
            (&group["recipient_id"], &group["recipient_type"]),
            (&json!("Y2FwaQ"), &json!("group"))
        );
    }

    #[test]
    fn events_of_another_kind_have_their_own_fields() {
        let of = of("1", "49");
        let fields = [Event::Reply, Event::Echo].map(|event| {
            let meta = parsed(Form::PassThrough, &[notice(event, &of)]);
            let chakra = parsed(Form::Chakra, &[notice(event, &of)]);
            (meta["entry"][0]["changes"][0]["field"].clone(), chakra["event"].clone())
        });
        assert_eq!(fields[0], (json!("messages"), json!("message")));
        assert_eq!(fields[1], (json!("smb_message_echoes"), json!("smb_message_echo")));
    }

    #[test]
    fn the_signature_is_the_published_one() {
        // RFC 4231, test case 2.
        let signed = signature("Jefe", b"what do ya want for nothing?");
        assert_eq!(signed, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }
}
