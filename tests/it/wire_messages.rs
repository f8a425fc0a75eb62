//! Meta's message object: what passes, what is refused, and that it goes out as it came.

use bytes::Bytes;
use chakra_sender::wire::{JobId, Kind, Message, RawJson};
use proptest::prelude::*;
use serde_json::Value;
use serde_json::value::RawValue;

/// Reads a message as it stands in a job.
fn parse(message: &str) -> Result<Message, String> {
    let body = Bytes::copy_from_slice(message.as_bytes());
    let raw: &RawValue = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    Message::parse(RawJson::slice_of(&body, raw))
}

/// A message of these fields to a lawful recipient.
fn message(fields: &str) -> String {
    format!(r#"{{"messaging_product":"whatsapp","to":"+919901258433",{fields}}}"#)
}

fn interactive(kind: &str, fields: &str) -> String {
    message(&format!(
        r#""type":"interactive","interactive":{{"type":"{kind}","body":{{"text":"b"}},{fields}}}"#
    ))
}

fn list(sections: &str) -> String {
    interactive("list", &format!(r#""action":{{"button":"Open","sections":[{sections}]}}"#))
}

fn repeat(count: usize, entry: &str) -> String {
    vec![entry; count].join(",")
}

const REPLY: &str = r#"{"type":"reply","reply":{"id":"1","title":"Yes"}}"#;
const ROW: &str = r#"{"id":"1","title":"Row"}"#;
const LONG: &str = "éééééééééé";

#[test]
fn every_lawful_form_passes() {
    let text = |count| "é".repeat(count);
    let lawful = [
        message(r#""text":{"body":"Hi"}"#),
        message(r#""text":{"body":"\"}}]\\"},"later":"[[{""#),
        message(&format!(r#""type":"text","text":{{"body":"{}","preview_url":true}}"#, text(4096))),
        message(r#""type":"text","text":{"body":"Hi"},"image":null,"context":{"message_id":"wamid.1"}"#),
        message(r#""type":"image","image":{"id":"1","caption":"c"}"#),
        message(r#""type":"video","video":{"link":"https://example.com/v.mp4","id":null}"#),
        message(r#""type":"audio","audio":{"id":"1","voice":true}"#),
        message(r#""type":"document","document":{"id":"1","filename":"f.pdf"}"#),
        message(r#""type":"sticker","sticker":{"id":"1"}"#),
        message(r#""type":"location","location":{"latitude":-37.5,"longitude":"180"}"#),
        message(r#""type":"contacts","contacts":[{"name":{"formatted_name":"A B"}}]"#),
        message(r#""type":"reaction","reaction":{"message_id":"wamid.1","emoji":""}"#),
        message(r#""type":"template","template":{"name":"hello","language":{"code":"en"},"components":[]}"#),
        message(r#""type":"hologram","hologram":7"#),
        interactive("button", &format!(r#""action":{{"buttons":[{}]}}"#, repeat(3, REPLY))),
        interactive("cta_url", r#""action":{"parameters":{"display_text":"Go","url":"https://example.com"}}"#),
        interactive("carousel", r#""action":{"cards":[{},{}]}"#),
        interactive("flow", r#""action":{}"#),
        list(&repeat(2, &format!(r#"{{"title":"t","rows":[{}]}}"#, repeat(5, ROW)))),
        r#"{"messaging_product":"whatsapp","recipient":"IN.1349","text":{"body":"Hi"}}"#.into(),
        r#"{"messaging_product":"whatsapp","recipient_type":"group","to":"Y2FwaV9n","text":{"body":"Hi"}}"#.into(),
        r#"{"messaging_product":"whatsapp","status":"read","message_id":"wamid.1"}"#.into(),
        r#"{"messaging_product":"whatsapp","status":"read","message_id":"wamid.1","typing_indicator":{"type":"text"}}"#.into(),
    ];
    for message in lawful {
        if let Err(reason) = parse(&message) {
            panic!("{message} was refused: {reason}");
        }
    }
}

/// Each unlawful message with its reason. No reason shows content.
#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn each_unlawful_message_is_refused_with_the_way_to_the_fault() {
    let long = LONG.repeat(500);
    let product = r#""messaging_product":"whatsapp""#;
    let unlawful = [
        "[]".into(),
        "{}".into(),
        r#"{"messaging_product":"sms"}"#.into(),
        format!("{{{product},\"text\":{{\"body\":\"Hi\"}}}}"),
        format!(r#"{{{product},"to":"","text":{{"body":"Hi"}}}}"#),
        format!(r#"{{{product},"to":919901258433,"text":{{"body":"Hi"}}}}"#),
        format!(r#"{{{product},"to":"1234","text":{{"body":"Hi"}}}}"#),
        format!(r#"{{{product},"to":"{}","text":{{"body":"Hi"}}}}"#, "1".repeat(21)),
        format!(r#"{{{product},"to":"Y2FwaV9n","text":{{"body":"Hi"}}}}"#),
        format!(r#"{{{product},"to":"{long}","text":{{"body":"Hi"}}}}"#),
        format!(r#"{{{product},"to":"+919901258433","to":"+1","text":{{"body":"Hi"}}}}"#),
        message(r#""recipient_type":"channel","text":{"body":"Hi"}"#),
        message(r#""type":"""#),
        message(r#""type":"plain text""#),
        message(r#""type":7"#),
        message(r#""type":"image","text":{"body":"Hi"}"#),
        message(r#""image":{"id":"1"}"#),
        message(r#""text":{"body":""}"#),
        message(&format!(r#""text":{{"body":"{long}"}}"#)),
        message(r#""text":{"body":["secret"]}"#),
        message(r#""text":{"body":"\ud800"}"#),
        message(r#""text":["secret"]"#),
        message(r#""text":{"body":"a","body":"b"}"#),
        message(r#""text":{"body":"Hi","preview_url":"yes"}"#),
        message(r#""text":{"body":"Hi"},"context":{}"#),
        message(r#""text":{"body":"Hi"},"biz_opaque_callback_data":null"#),
        message(r#""text":{"body":"Hi"},"biz_opaque_callback_data":{"a":1}"#),
        message(&format!(
            r#""text":{{"body":"Hi"}},"biz_opaque_callback_data":"{}""#,
            "x".repeat(513)
        )),
        message(r#""type":"image","image":{}"#),
        message(r#""type":"image","image":{"id":"1","link":"https://example.com"}"#),
        message(r#""type":"image","image":{"id":7}"#),
        message(r#""type":"audio","audio":{"id":"1","caption":"secret"}"#),
        message(r#""type":"location","location":{"latitude":1}"#),
        message(r#""type":"location","location":{"latitude":1,"longitude":181}"#),
        message(r#""type":"location","location":{"latitude":"north","longitude":1}"#),
        message(r#""type":"contacts","contacts":[]"#),
        message(r#""type":"contacts","contacts":{}"#),
        message(r#""type":"contacts","contacts":[{"name":{"formatted_name":"A"}},{"name":{}}]"#),
        message(r#""type":"reaction","reaction":{"message_id":"wamid.1"}"#),
        message(r#""type":"template","template":{"language":{"code":"en"}}"#),
        message(r#""type":"template","template":{"name":"hello"}"#),
        message(
            r#""type":"template","template":{"name":"hello","language":{"code":"en"},"components":{}}"#,
        ),
        message(r#""type":"interactive","interactive":{"body":{"text":"b"}}"#),
        interactive("button", r#""action":{"buttons":[]}"#),
        interactive("button", &format!(r#""action":{{"buttons":[{}]}}"#, repeat(4, REPLY))),
        interactive(
            "button",
            r#""action":{"buttons":[{"reply":{"id":"1","title":"123456789012345678901"}}]}"#,
        ),
        interactive("button", &format!(r#""footer":{{"text":"{}"}},"action":{{}}"#, &long[..122])),
        interactive(
            "cta_url",
            r#""action":{"parameters":{"display_text":"123456789012345678901"}}"#,
        ),
        interactive("carousel", r#""action":{"cards":[{}]}"#),
        list(""),
        list(&repeat(11, &format!(r#"{{"rows":[{ROW}]}}"#))),
        list(&repeat(2, &format!(r#"{{"rows":[{}]}}"#, repeat(6, ROW)))),
        list(r#"{"title":"1234567890123456789012345","rows":[]}"#),
        list(r#"{"rows":[{"id":"1","title":""}]}"#),
        format!(
            r#"{{{product},"recipient_type":"group","to":"g","type":"interactive","interactive":{{}}}}"#
        ),
        format!(r#"{{{product},"recipient_type":"group","status":"read","message_id":"wamid.1"}}"#),
        format!(r#"{{{product},"status":"delivered","message_id":"wamid.1"}}"#),
        format!(r#"{{{product},"status":"read"}}"#),
        format!(r#"{{{product},"status":"read","message_id":"wamid.1","to":"+919901258433"}}"#),
    ];
    let reasons: String =
        unlawful.iter().map(|message| parse(message).unwrap_err() + "\n").collect();
    assert!(!reasons.contains("secret"));
    insta::assert_snapshot!(reasons, @r#"
    message must be an object, not an array
    message.messaging_product is missing
    message.messaging_product must be "whatsapp"
    message.to is missing
    message.to is empty
    message.to must be a string, not a number
    message.to must be a phone number of 5 to 20 digits, or a group id together with recipient_type group
    message.to must be a phone number of 5 to 20 digits, or a group id together with recipient_type group
    message.to must be a phone number of 5 to 20 digits, or a group id together with recipient_type group
    message.to has 5000 characters, at most 256
    message has the key `to` twice
    message.recipient_type must be individual or group
    message.type is empty
    message.type must be a word such as text or template
    message.type must be a string, not a number
    message.image is missing
    message.text is missing
    message.text.body is empty
    message.text.body has 5000 characters, at most 4096
    message.text.body must be a string, not an array
    message.text.body is no lawful string: unexpected end of hex escape at line 1 column 8
    message.text must be an object, not an array
    message.text has the key `body` twice
    message.text.preview_url must be a boolean, not a string
    message.context.message_id is missing
    message.biz_opaque_callback_data must be a string, not null
    message.biz_opaque_callback_data must be a string, not an object
    message.biz_opaque_callback_data has 513 characters, at most 512
    message.image.id or link is missing
    message.image.id and link exclude each other: leave one out
    message.image.id must be a string, not a number
    message.audio.caption does not exist for this type
    message.location.longitude is missing
    message.location.longitude must be from -180 to 180
    message.location.latitude must be a number
    message.contacts is empty
    message.contacts must be an array, not an object
    message.contacts[1].name.formatted_name is missing
    message.reaction.emoji is missing
    message.template.name is missing
    message.template.language is missing
    message.template.components must be an array, not an object
    message.interactive.type is missing
    message.interactive.action.buttons is empty
    message.interactive.action.buttons has 4 entries, at most 3
    message.interactive.action.buttons[0].reply.title has 21 characters, at most 20
    message.interactive.footer.text has 61 characters, at most 60
    message.interactive.action.parameters.display_text has 21 characters, at most 20
    message.interactive.action.cards has 1 entries, at least 2
    message.interactive.action.sections is empty
    message.interactive.action.sections has 11 entries, at most 10
    message.interactive.action.sections has 12 rows in all, at most 10
    message.interactive.action.sections[0].title has 25 characters, at most 24
    message.interactive.action.sections[0].rows[0].title is empty
    message.type: groups take no interactive messages
    message.status: groups have no read receipts
    message.status must be "read": only a read receipt has a status
    message.message_id is missing
    message.to does not belong in a read receipt
    "#);
}

#[test]
fn the_job_id_is_inserted_only_where_the_producer_set_nothing() {
    let id = JobId::parse(r#"a"b\c"#).unwrap();
    let request = |message: &str| String::from_utf8(parse(message).unwrap().to_request(&id).into());
    let plain = " {\n \"messaging_product\": \"whatsapp\", \"to\":\"+919901258433\",\"text\":{\"body\":\"\\u0048i\"}} ";
    assert_eq!(
        request(plain).unwrap(),
        plain.trim().replacen('{', r#"{"biz_opaque_callback_data":"a\"b\\c","#, 1)
    );
    for untouched in [
        message(r#""text":{"body":"Hi"},"biz_opaque_callback_data":"mine""#),
        message(r#""text":{"body":"Hi"},"biz_opaque_callback_data":"""#),
        r#"{"messaging_product":"whatsapp","status":"read","message_id":"wamid.1"}"#.into(),
    ] {
        assert_eq!(request(&untouched).unwrap(), untouched);
    }
}

#[test]
fn a_receipt_has_no_recipient_and_a_user_id_is_one() {
    let receipt =
        parse(r#"{"messaging_product":"whatsapp","status":"read","message_id":"w"}"#).unwrap();
    assert_eq!((receipt.kind(), receipt.recipient()), (&Kind::Receipt, None));
    let both = parse(&message(r#""recipient":"IN.1349","text":{"body":"Hi"}"#)).unwrap();
    assert_eq!(both.recipient().unwrap().key(), "919901258433");
}

#[test]
fn a_template_has_a_name_and_a_language_and_other_types_have_none() {
    let fields = r#""type":"template","template":{"components":[],"language":{"code":"en_US"},"name":"sa\u006ce"}"#;
    let message_object = parse(&message(fields)).unwrap();
    let template = message_object.template().unwrap();
    assert_eq!((&*template.name, &*template.language), ("sale", "en_US"));
    let text = parse(&message(r#""text":{"body":"x"}"#)).unwrap();
    assert_eq!(text.template(), None);
}

fn space() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["", " ", "\n\t", "\r\n  "])
}

/// Lawful messages in any order, spacing and spelling.
fn lawful() -> impl Strategy<Value = String> {
    let number =
        prop::sample::select(vec!["1.0", "1e5", "-0", "1E+2", "0.10", "12345678901234567890123"]);
    let body = "\\PC{1,50}".prop_map(|text| Value::from(text).to_string());
    let fields = (number, body).prop_map(|(number, body)| {
        vec![
            r#""messaging_product":"whatsapp""#.to_owned(),
            r#""to":"+91 (99) 0125-8433""#.to_owned(),
            r#""type":"text""#.to_owned(),
            format!(r#""text":{{"body":{body},"later":{number}}}"#),
            format!(r#""a_later_field":[{number},{{"z":1,"a":2}},null]"#),
        ]
    });
    (fields.prop_shuffle(), prop::collection::vec(space(), 8)).prop_map(|(fields, spaces)| {
        let separator = format!("{},{}", spaces[0], spaces[1]);
        let inner = fields.join(&separator);
        format!("{}{{{}{inner}{}}}{}", spaces[2], spaces[3], spaces[4], spaces[5])
    })
}

proptest! {
    #[test]
    fn a_request_is_the_producers_bytes_and_the_job_id(message in lawful(), id in "[!-~]{1,128}") {
        let id = JobId::parse(&id).unwrap();
        let request = parse(&message).unwrap().to_request(&id);
        let sent: Value = serde_json::from_slice(&request).unwrap();
        prop_assert_eq!(&sent["biz_opaque_callback_data"], id.as_str());
        let inserted = format!("\"biz_opaque_callback_data\":{},", Value::from(id.as_str()));
        let request = String::from_utf8(request.into()).unwrap();
        prop_assert_eq!(request.replacen(&inserted, "", 1), message.trim());
    }

    #[test]
    fn any_json_is_read_or_refused(message in "[{}\\[\\]\":,a-z0-9 ]{0,60}") {
        prop_assert!(parse(&message).is_err());
    }
}
