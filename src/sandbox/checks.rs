//! Whether Meta would take a message: the limits that its documentation states for certain.
//!
//! Looks at one body. Disputed limits (captions, the text of a list) are not checked, and whether a
//! template or a media id exists is not asked.

use serde_json::Value;

/// A parameter of no use. Meta's code.
pub(super) const INVALID_PARAMETER: u32 = 100;
/// A required parameter is missing. Meta's code.
pub(super) const MISSING: u32 = 131_008;
/// A parameter's value is not valid, the phone number id in the path included. Meta's code.
pub(super) const INVALID_VALUE: u32 = 131_009;
/// The type is unknown. Meta's code.
pub(super) const UNSUPPORTED_TYPE: u32 = 131_051;

/// What a body asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// Mark a message as read, or show that one types.
    Mark,
    /// Send a message.
    Send,
}

/// What the sandbox needs of a message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Message {
    /// The recipient: digits, or as given for a group or a business-scoped user id.
    pub(super) to: String,
    pub(super) is_group: bool,
    pub(super) kind: String,
    /// The body of a text, else empty.
    pub(super) text: String,
    pub(super) opaque: Option<String>,
}

/// What of a message can be read, lawful or not: for the record.
pub(super) fn outline(body: &Value) -> Message {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let to = if body["to"].is_string() { digits_of(body) } else { text(&body["recipient"]) };
    let kind = match &body["type"] {
        Value::Null if body["status"].is_string() => String::new(),
        Value::Null => "text".to_owned(),
        kind => text(kind),
    };
    let opaque = body["biz_opaque_callback_data"].as_str().map(str::to_owned);
    let is_group = body["recipient_type"] == "group";
    Message { to, is_group, kind, text: text(&body["text"]["body"]), opaque }
}

/// Checks a body.
///
/// # Errors
/// Meta's code of the refusal.
pub(super) fn check(body: &Value) -> Result<Asked, u32> {
    if body["messaging_product"] != "whatsapp" {
        return Err(INVALID_PARAMETER);
    }
    if body["status"] == "read" {
        return check_mark(body).map(|()| Asked::Mark);
    }
    let group = match body["recipient_type"].as_str().unwrap_or("individual") {
        "individual" => false,
        "group" => true,
        _ => return Err(INVALID_VALUE),
    };
    check_recipient(body, group)?;
    if !body["biz_opaque_callback_data"].is_null() {
        text(&body["biz_opaque_callback_data"], 512)?;
    }
    let kind = match &body["type"] {
        Value::Null => "text",
        kind => kind.as_str().ok_or(INVALID_VALUE)?,
    };
    check_content(kind, &body[kind]).map(|()| Asked::Send)
}

/// A phone number with `+`, spaces, hyphens and brackets, in digits; a group's id as it is.
fn digits_of(body: &Value) -> String {
    let to = body["to"].as_str().unwrap_or_default();
    if body["recipient_type"] == "group" {
        return to.to_owned();
    }
    to.chars().filter(|c| !matches!(c, '+' | ' ' | '-' | '(' | ')')).collect()
}

fn check_recipient(body: &Value, group: bool) -> Result<(), u32> {
    if body["to"].is_null() {
        // A business-scoped user id may stand in its own field.
        return text(&body["recipient"], 256).map_err(|_| INVALID_PARAMETER);
    }
    let to = digits_of(body);
    // E.164 has at most 15 digits.
    let phone = (1..=15).contains(&to.len()) && to.bytes().all(|b| b.is_ascii_digit());
    if phone || group && !to.is_empty() { Ok(()) } else { Err(INVALID_VALUE) }
}

fn check_mark(body: &Value) -> Result<(), u32> {
    text(&body["message_id"], usize::MAX)?;
    match &body["typing_indicator"] {
        Value::Null => Ok(()),
        typing if typing["type"] == "text" => Ok(()),
        _ => Err(INVALID_VALUE),
    }
}

fn check_content(kind: &str, content: &Value) -> Result<(), u32> {
    match kind {
        "text" => text(&object(content)?["body"], 4096),
        "image" | "video" | "audio" | "document" | "sticker" => check_media(object(content)?),
        "location" => present(object(content)?, &["latitude", "longitude"]),
        "contacts" => check_contacts(content),
        "reaction" => present(object(content)?, &["message_id", "emoji"]),
        "template" => {
            text(&object(content)?["name"], 512)?;
            text(&content["language"]["code"], 16)
        }
        "interactive" => check_interactive(object(content)?),
        _ => Err(UNSUPPORTED_TYPE),
    }
}

fn check_media(media: &Value) -> Result<(), u32> {
    match (media["id"].is_string(), media["link"].is_string()) {
        (true, false) | (false, true) => Ok(()),
        (true, true) => Err(INVALID_VALUE),
        (false, false) => Err(MISSING),
    }
}

fn check_contacts(contacts: &Value) -> Result<(), u32> {
    let contacts = array(contacts)?;
    within(contacts.len(), usize::MAX)?;
    contacts.iter().try_for_each(|contact| text(&contact["name"]["formatted_name"], usize::MAX))
}

fn check_interactive(interactive: &Value) -> Result<(), u32> {
    let action = &interactive["action"];
    match interactive["type"].as_str().ok_or(MISSING)? {
        "button" => check_buttons(object(action)?),
        "list" => check_list(object(action)?),
        "cta_url"
        | "flow"
        | "product"
        | "product_list"
        | "catalog_message"
        | "location_request_message"
        | "address_message"
        | "call_permission_request"
        | "voice_call"
        | "carousel"
        | "contact_request" => object(action).map(|_| ()),
        _ => Err(INVALID_VALUE),
    }
}

fn check_buttons(action: &Value) -> Result<(), u32> {
    let buttons = array(&action["buttons"])?;
    within(buttons.len(), 3)?;
    buttons.iter().try_for_each(|button| {
        text(&button["reply"]["title"], 20)?;
        text(&button["reply"]["id"], 256)
    })
}

fn check_list(action: &Value) -> Result<(), u32> {
    text(&action["button"], 20)?;
    let sections = array(&action["sections"])?;
    within(sections.len(), 10)?;
    let mut rows_in_all = 0;
    for section in sections {
        let rows = array(&section["rows"])?;
        rows_in_all += rows.len();
        for row in rows {
            text(&row["title"], 24)?;
            text(&row["id"], 200)?;
        }
    }
    within(rows_in_all, 10)
}

fn object(value: &Value) -> Result<&Value, u32> {
    match value {
        Value::Null => Err(MISSING),
        Value::Object(_) => Ok(value),
        _ => Err(INVALID_VALUE),
    }
}

fn array(value: &Value) -> Result<&Vec<Value>, u32> {
    match value {
        Value::Null => Err(MISSING),
        _ => value.as_array().ok_or(INVALID_VALUE),
    }
}

/// A text of 1 to `most` characters.
fn text(value: &Value, most: usize) -> Result<(), u32> {
    match value {
        Value::Null => Err(MISSING),
        Value::String(text) => within(text.chars().count(), most),
        _ => Err(INVALID_VALUE),
    }
}

fn within(count: usize, most: usize) -> Result<(), u32> {
    if (1..=most).contains(&count) { Ok(()) } else { Err(INVALID_VALUE) }
}

fn present(object: &Value, keys: &[&str]) -> Result<(), u32> {
    if keys.iter().all(|key| !object[*key].is_null()) { Ok(()) } else { Err(MISSING) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Checks a message to a lawful recipient with these further keys.
    fn checked(further: Value) -> Result<Asked, u32> {
        let mut body = json!({"messaging_product": "whatsapp", "to": "+49 (151) 1-2"});
        for (key, value) in further.as_object().unwrap() {
            body[key] = value.clone();
        }
        check(&body)
    }

    fn refusal(further: Value) -> Option<u32> {
        checked(further).err()
    }

    fn buttons(count: usize) -> Value {
        let button = json!({"type": "reply", "reply": {"id": "a", "title": "A"}});
        json!({"type": "interactive", "interactive": {
            "type": "button", "body": {"text": "?"}, "action": {"buttons": vec![button; count]},
        }})
    }

    fn list(sections: usize, rows: usize) -> Value {
        let section = json!({"rows": vec![json!({"id": "a", "title": "A"}); rows]});
        json!({"type": "interactive", "interactive": {
            "type": "list", "action": {"button": "Open", "sections": vec![section; sections]},
        }})
    }

    #[test]
    fn the_recipient_is_known_by_digits() {
        let body = json!({
            "to": "+49 (151) 1-2", "text": {"body": "Hi"}, "biz_opaque_callback_data": "job-1",
        });
        let message = Message {
            is_group: false,
            to: "4915112".into(),
            kind: "text".into(),
            text: "Hi".into(),
            opaque: Some("job-1".into()),
        };
        assert_eq!(outline(&body), message);
    }

    #[test]
    fn lawful_messages_pass() {
        for further in [
            json!({"text": {"body": "the type defaults to text"}}),
            json!({"text": {"body": "ß".repeat(4096)}}),
            json!({"type": "image", "image": {"link": "https://example.org/a.png"}}),
            json!({"type": "location", "location": {"latitude": 1.5, "longitude": 2}}),
            json!({"type": "contacts", "contacts": [{"name": {"formatted_name": "A B"}}]}),
            json!({"type": "reaction", "reaction": {"message_id": "wamid.1", "emoji": ""}}),
            json!({"type": "template", "template": {"name": "a", "language": {"code": "de"}}}),
            buttons(3),
            list(2, 5),
            json!({"to": null, "recipient": "DE.123", "text": {"body": "by user id"}}),
            json!({"to": "Y2FwaV9n", "recipient_type": "group", "text": {"body": "Hi"}}),
        ] {
            assert_eq!(refusal(further.clone()), None, "{further}");
        }
    }

    #[test]
    fn unlawful_messages_are_refused_with_the_code_of_their_fault() {
        for (further, code) in [
            (json!({"messaging_product": "x", "text": {"body": "Hi"}}), INVALID_PARAMETER),
            (json!({"to": null, "text": {"body": "Hi"}}), INVALID_PARAMETER),
            (json!({"to": "someone", "text": {"body": "Hi"}}), INVALID_VALUE),
            (json!({"recipient_type": "world", "text": {"body": "Hi"}}), INVALID_VALUE),
            (json!({"type": "text"}), MISSING),
            (json!({"text": {}}), MISSING),
            (json!({"text": {"body": ""}}), INVALID_VALUE),
            (json!({"text": {"body": "ß".repeat(4097)}}), INVALID_VALUE),
            (json!({"type": "image", "image": {"id": "1", "link": "x"}}), INVALID_VALUE),
            (json!({"type": "image", "image": {}}), MISSING),
            (json!({"type": "contacts", "contacts": []}), INVALID_VALUE),
            (json!({"type": "template", "template": {"name": "a"}}), MISSING),
            (buttons(4), INVALID_VALUE),
            (buttons(0), INVALID_VALUE),
            (list(11, 1), INVALID_VALUE),
            (list(2, 6), INVALID_VALUE),
            (json!({"type": "hologram", "hologram": {}}), UNSUPPORTED_TYPE),
            (
                json!({"text": {"body": "Hi"}, "biz_opaque_callback_data": "x".repeat(513)}),
                INVALID_VALUE,
            ),
        ] {
            assert_eq!(refusal(further.clone()), Some(code), "{further}");
        }
        assert_eq!(check(&json!([])), Err(INVALID_PARAMETER));
        assert_eq!(check(&Value::Null), Err(INVALID_PARAMETER));
    }

    #[test]
    fn a_read_mark_needs_a_message_and_no_recipient() {
        let mark = |further: Value| {
            let mut body = json!({"messaging_product": "whatsapp", "status": "read"});
            body.as_object_mut().unwrap().extend(further.as_object().unwrap().clone());
            check(&body)
        };
        assert_eq!(mark(json!({"message_id": "wamid.1"})), Ok(Asked::Mark));
        let typing = |kind| json!({"message_id": "wamid.1", "typing_indicator": {"type": kind}});
        assert_eq!(mark(typing("text")), Ok(Asked::Mark));
        assert_eq!(mark(typing("song")), Err(INVALID_VALUE));
        assert_eq!(mark(json!({})), Err(MISSING));
    }
}
