//! Reads the bodies of ChakraHQ's answers, whatever they turn out to be: its own envelope
//! (`_data`, `_errors`), Meta's raw answer, a gateway's page, half of anything. Never fails; what
//! an answer means is decided elsewhere.

use super::redact::code_prefix;
use crate::odd_json;
use serde_json::Value;

/// Where Meta's message id has been seen: ChakraHQ's documented form, Meta's own, Meta's wrapped.
const ID_PLACES: [&[&str]; 3] =
    [&["_data", "whatsappMessageId"], &["messages", "0", "id"], &["data", "messages", "0", "id"]];

/// Where errors have been seen, the surest first.
const ERROR_PLACES: [&[&str]; 4] = [&["_errors"], &["_data", "error"], &["error"], &["errors"]];

/// The fields of an error object that hold its sentence.
const TEXT_FIELDS: [&str; 4] = ["message", "title", "detail", "description"];

/// Meta's ids have up to 128 characters; more is cut here, so that no answer fills our memory.
const MAX_ID_CHARS: usize = 512;

/// Errors of one answer that are looked at, and how deep they may be nested.
const MAX_COMPLAINTS: usize = 16;
const MAX_DEPTH: u8 = 4;

/// What a body is.
#[derive(Debug)]
pub(super) enum Body {
    /// JSON, complete.
    Json(Value),
    /// A line of text, complete.
    Text(String),
    /// Most likely a gateway's page.
    Html,
    /// Nothing.
    Empty,
    /// Cut off, binary or broken JSON; with Meta's `(#code)` where one can be made out.
    Unreadable(Option<u32>),
}

/// An error that an answer names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Complaint {
    /// Its number.
    pub(super) code: Option<u32>,
    /// Whether the number stood as `(#code)`, which only Meta writes. In a `code` field it may be
    /// anyone's.
    pub(super) marked: bool,
    /// The vendor's words, as they came: not yet fit for a log.
    pub(super) text: Option<String>,
}

impl Body {
    /// Looks at what arrived; `whole` is false where the rest is missing.
    pub(super) fn read(bytes: &[u8], whole: bool) -> Body {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii();
        if let Some(json) = json(bytes) {
            return Body::Json(json);
        }
        match (bytes.first(), std::str::from_utf8(bytes)) {
            (None, _) if whole => Body::Empty,
            (Some(b'<'), _) => Body::Html,
            (Some(first), Ok(text)) if whole && !b"{[\"".contains(first) => Body::Text(text.into()),
            _ => Body::Unreadable(any_code(&String::from_utf8_lossy(bytes))),
        }
    }

    /// The JSON, where it is JSON.
    pub(super) fn json(&self) -> Option<&Value> {
        match self {
            Body::Json(json) => Some(json),
            Body::Text(_) | Body::Html | Body::Empty | Body::Unreadable(_) => None,
        }
    }

    /// Meta's id of the message.
    pub(super) fn message_id(&self) -> Option<String> {
        let json = self.json()?;
        let mut ids = ID_PLACES.iter().filter_map(|place| at(json, place)?.as_str());
        let id = ids.find(|id| !id.trim().is_empty())?;
        let end = id.char_indices().nth(MAX_ID_CHARS).map_or(id.len(), |(end, _)| end);
        Some(id[..end].to_owned())
    }

    /// Whether this is a good answer to a call that brings no id: `{"success":true}`, or nothing.
    pub(super) fn is_clean(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Json(json @ Value::Object(fields)) => {
                errors(json, 0).is_empty() && fields.get("success") != Some(&Value::Bool(false))
            }
            Body::Json(_) | Body::Text(_) | Body::Html | Body::Unreadable(_) => false,
        }
    }

    /// What the body complains about; of several errors the first with a code.
    pub(super) fn complaint(&self, status: u16) -> Option<Complaint> {
        match self {
            Body::Json(json) => {
                let found = errors(json, status);
                let coded = found.iter().find(|complaint| complaint.code.is_some());
                coded.or(found.first()).cloned()
            }
            Body::Text(text) => Some(sentence(text)),
            Body::Unreadable(code @ Some(_)) => {
                Some(Complaint { code: *code, marked: true, text: None })
            }
            Body::Html | Body::Empty | Body::Unreadable(None) => None,
        }
    }

    /// A top-level `message`: an error in a refusal, anything at all in a success.
    pub(super) fn remark(&self) -> Option<Complaint> {
        let text = self.json()?.get("message")?.as_str()?;
        (!text.trim().is_empty()).then(|| sentence(text))
    }
}

/// A chat's listing has the words of customers, which may end within an emoji.
fn json(bytes: &[u8]) -> Option<Value> {
    let mended = || serde_json::from_str(&odd_json::mended(str::from_utf8(bytes).ok()?)).ok();
    serde_json::from_slice(bytes).ok().or_else(mended)
}

/// What stands in a place; `serde_json`'s pointers allocate at each step.
fn at<'j>(json: &'j Value, place: &[&str]) -> Option<&'j Value> {
    place.iter().try_fold(json, |value, step| match value {
        Value::Array(entries) => entries.get(step.parse::<usize>().ok()?),
        _ => value.get(step),
    })
}

fn errors(json: &Value, status: u16) -> Vec<Complaint> {
    let mut found = Vec::new();
    for place in ERROR_PLACES.iter().filter_map(|place| at(json, place)) {
        gather(place, status, MAX_DEPTH, &mut found);
    }
    found
}

fn gather(value: &Value, status: u16, depth: u8, found: &mut Vec<Complaint>) {
    if depth == 0 || found.len() >= MAX_COMPLAINTS {
        return;
    }
    match value {
        Value::Null | Value::Bool(false) => {}
        Value::Bool(true) => found.push(Complaint::default()),
        Value::Number(_) => {
            let code = meta_code(value, status);
            found.push(Complaint { code, ..Complaint::default() });
        }
        Value::String(text) if text.trim().is_empty() => {}
        Value::String(text) => found.push(sentence(text)),
        Value::Array(entries) => {
            entries.iter().for_each(|entry| gather(entry, status, depth - 1, found));
        }
        Value::Object(fields) if fields.is_empty() => {}
        Value::Object(fields) => match fields.get("error") {
            Some(inner @ (Value::Object(_) | Value::String(_))) => {
                gather(inner, status, depth - 1, found);
            }
            _ => found.push(described(value, status)),
        },
    }
}

/// `{"message":"(#131009) …","code":131009,"error_data":{"details":"…"}}` and its like.
fn described(object: &Value, status: u16) -> Complaint {
    let text = TEXT_FIELDS
        .iter()
        .filter_map(|field| object.get(field)?.as_str())
        .find(|text| !text.trim().is_empty());
    let in_text = text.and_then(code_prefix).map(|(code, _)| code);
    let in_field = object.get("code").and_then(|code| meta_code(code, status));
    let details = object.pointer("/error_data/details").and_then(Value::as_str);
    let text = match (text, details) {
        (Some(text), Some(details)) => Some(format!("{text}: {details}")),
        (text, details) => text.or(details).map(str::to_owned),
    };
    Complaint { code: in_text.or(in_field), marked: in_text.is_some(), text }
}

fn sentence(text: &str) -> Complaint {
    let code = code_prefix(text).map(|(code, _)| code);
    Complaint { code, marked: code.is_some(), text: Some(text.trim().to_owned()) }
}

/// A `code` field, which may be text. Gateways write the HTTP status there: that is none of Meta's,
/// and must not make a bare 502 look like Meta's own refusal.
fn meta_code(value: &Value, status: u16) -> Option<u32> {
    let code = match value {
        Value::Number(number) => number.as_u64()?.try_into().ok()?,
        Value::String(text) => text.trim().parse().ok()?,
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    (!(400..=599).contains(&code) && code != u32::from(status)).then_some(code)
}

/// The first `(#code)` anywhere in a text.
fn any_code(text: &str) -> Option<u32> {
    text.match_indices("(#").find_map(|(at, _)| code_prefix(&text[at..])).map(|(code, _)| code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_id_is_read_from_three_places() {
        let cases = [
            (json!({"_data": {"whatsappMessageId": "wamid.A"}, "_errors": []}), Some("wamid.A")),
            (
                json!({"messages": [{"id": "wamid.B", "message_status": "accepted"}]}),
                Some("wamid.B"),
            ),
            (json!({"data": {"messages": [{"id": "wamid.C"}]}}), Some("wamid.C")),
            (json!({"_data": {"whatsappMessageId": " "}, "messages": [{"id": "w"}]}), Some("w")),
            (json!({"_data": {"whatsappMessageId": 5}}), None),
            (json!({"_data": {"whatsappMessageId": null}}), None),
            (json!({"_data": [], "messages": []}), None),
            (json!({"_data": {"id": "wamid.D"}}), None),
            (json!(["wamid.E"]), None),
        ];
        for (body, expected) in cases {
            assert_eq!(read(&body).message_id().as_deref(), expected, "{body}");
        }
        let endless = json!({"_data": {"whatsappMessageId": "w".repeat(9000)}});
        assert_eq!(read(&endless).message_id().map(|id| id.len()), Some(MAX_ID_CHARS));
    }

    #[test]
    fn errors_are_read_in_every_shape_that_was_met() {
        let title = "(#131009) Parameter value is not valid";
        let cases = [
            (json!({"_data": [], "_errors": [title]}), Some(131009), Some(title)),
            (json!({"_errors": title}), Some(131009), Some(title)),
            (
                json!({"_errors": [{"message": "Too fast", "code": 130429}]}),
                Some(130429),
                Some("Too fast"),
            ),
            (
                json!({"_errors": [{"message": "Too fast", "code": "130429"}]}),
                Some(130429),
                Some("Too fast"),
            ),
            (json!({"_errors": {"message": title, "code": 100}}), Some(131009), Some(title)),
            (json!({"_errors": ["sorry", title]}), Some(131009), Some(title)),
            (json!({"_errors": [{"error": {"code": 4}}]}), Some(4), None),
            (
                json!({"_errors": [], "_data": {"error": {"code": 190, "message": "x"}}}),
                Some(190),
                Some("x"),
            ),
            (json!({"error": {"message": "y", "code": 368}, "_data": null}), Some(368), Some("y")),
            (
                json!({"error": {"message": "y", "error_data": {"details": "z"}}}),
                None,
                Some("y: z"),
            ),
            (json!({"error": "Unauthorized"}), None, Some("Unauthorized")),
            (json!({"errors": [{"title": "bad"}]}), None, Some("bad")),
            (json!({"error": {"code": 502, "message": "Bad gateway"}}), None, Some("Bad gateway")),
            (json!({"error": {"code": 200, "message": "fine"}}), None, Some("fine")),
            (json!({"error": {"code": -5, "message": 7}}), None, None),
            (json!({"error": true}), None, None),
        ];
        for (body, code, text) in cases {
            let complaint = read(&body).complaint(200).unwrap();
            assert_eq!((complaint.code, complaint.text.as_deref()), (code, text), "{body}");
            assert_eq!(complaint.marked, code == Some(131009), "{body}");
        }
    }

    #[test]
    fn nothing_said_is_no_error() {
        for body in [
            json!({"_errors": []}),
            json!({"_errors": null, "error": "", "errors": {}}),
            json!({"_errors": [null, "", []], "error": false}),
            json!({"message": "all well"}),
            json!({"success": true}),
            json!({}),
        ] {
            assert_eq!(read(&body).complaint(200), None, "{body}");
            assert!(read(&body).is_clean(), "{body}");
        }
        assert!(Body::read(b" \n", true).is_clean());
        assert!(!read(&json!({"success": false})).is_clean());
        assert!(!read(&json!({"error": "no"})).is_clean());
    }

    #[test]
    fn bodies_that_are_no_json_are_told_apart() {
        assert!(matches!(Body::read(b"<html>502</html>", true), Body::Html));
        assert!(matches!(Body::read(b"", true), Body::Empty));
        assert!(matches!(Body::read(b"", false), Body::Unreadable(None)));
        assert!(matches!(Body::read(b"upstream gone", true), Body::Text(_)));
        assert!(matches!(Body::read(b"upstream go", false), Body::Unreadable(None)));
        assert!(matches!(Body::read(b"\xff\xfe\x00", true), Body::Unreadable(None)));
        let cut = br#"{"_data":[],"_errors":["(#131056) Pair rate lim"#;
        assert!(matches!(Body::read(cut, false), Body::Unreadable(Some(131056))));
        assert!(matches!(Body::read(b"\xef\xbb\xbf{}", true), Body::Json(_)));
    }

    #[test]
    fn deep_and_long_bodies_stay_bounded() {
        let deep = format!("{}{}", "[".repeat(50_000), "]".repeat(50_000));
        assert!(matches!(Body::read(deep.as_bytes(), true), Body::Unreadable(None)));
        let many = json!({"_errors": vec!["x"; 5_000]});
        assert_eq!(errors(&many, 400).len(), MAX_COMPLAINTS);
    }

    fn read(body: &Value) -> Body {
        Body::read(body.to_string().as_bytes(), true)
    }
}
