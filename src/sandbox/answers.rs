//! The bodies that ChakraHQ answers with, good and bad.
//!
//! Builds values. It decides nothing about a message.

use bytes::Bytes;
use hyper::{
    Response, StatusCode,
    header::{CONTENT_TYPE, HeaderName, HeaderValue},
};
use serde_json::{Value, json};

use super::faults::{Answer, Shape};

const JSON: &str = "application/json; charset=utf-8";
const HTML: &str = "text/html";
const GATEWAY_PAGE: &str = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>502 Bad Gateway</body>\r\n</html>";
const NOT_UTF8: &[u8] = b"{\"_data\":[],\"_errors\":[\"\xff\xfe\xc3\x28\"]}";

/// One answer, before it is sent.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) body: Bytes,
}

impl Reply {
    fn new(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status, content_type, headers: Vec::new(), body: body.into() }
    }

    /// 200 with this JSON.
    pub(super) fn json(value: &Value) -> Self {
        Self::new(200, JSON, value.to_string())
    }

    /// A failure of ChakraHQ itself, in its envelope.
    pub(super) fn error(status: u16, text: &str) -> Self {
        Self::new(status, JSON, json!({"_data": [], "_errors": [text]}).to_string())
    }

    /// 401. The real body is unknown; this is the least.
    pub(super) fn unauthorized() -> Self {
        Self::new(401, JSON, r#"{"_errors":["Unauthorized"]}"#)
    }

    /// A gateway's page, with no word from Meta.
    pub(super) fn gateway(status: u16) -> Self {
        Self::new(status, HTML, GATEWAY_PAGE)
    }

    /// 200 with the first half of this JSON.
    pub(super) fn half(value: &Value) -> Self {
        let mut text = value.to_string();
        text.truncate(text.floor_char_boundary(text.len() / 2));
        Self::new(200, JSON, text)
    }

    /// Meta took the message in: the documented success.
    pub(super) fn accepted(wamid: &str) -> Self {
        Self::new(200, JSON, format!(r#"{{"_data":{{"whatsappMessageId":"{wamid}"}}}}"#))
    }

    /// A message was marked as read. ChakraHQ's real form is unknown.
    pub(super) fn marked() -> Self {
        Self::new(200, JSON, r#"{"_data":{"success":true}}"#)
    }

    /// Meta's refusal, as it was captured: always 400, the code only as a prefix of the text.
    pub(super) fn refused(code: u32) -> Self {
        Self::error(400, &prefixed(code, title(code)))
    }

    /// What a fault says. `wamid` names the message in the shapes of success, `to` its recipient.
    pub(super) fn faulty(answer: &Answer, wamid: &str, to: &str) -> Self {
        let ok =
            matches!(answer.shape, Shape::OkWithoutId | Shape::RawMetaOk | Shape::WrappedMetaOk);
        let status = answer.status.unwrap_or(if ok { 200 } else { 400 });
        let mut reply = match &answer.body {
            Some(body) => Self::new(status, JSON, body.clone()),
            None => shaped(status, answer, wamid, to),
        };
        reply.headers = (answer.headers.iter())
            .filter_map(|(name, value)| Some((name.try_into().ok()?, value.try_into().ok()?)))
            .collect();
        reply
    }

    pub(super) fn into_response<B>(self, body: impl FnOnce(Bytes) -> B) -> Response<B> {
        let mut response = Response::new(body(self.body));
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        response.headers_mut().extend(self.headers);
        response
    }
}

fn shaped(status: u16, answer: &Answer, wamid: &str, to: &str) -> Reply {
    let title = answer.text.as_deref().or(answer.code.map(title)).unwrap_or("Request failed");
    let message = answer.code.map_or_else(|| title.to_owned(), |code| prefixed(code, title));
    let raw_ok = || {
        json!({
            "messaging_product": "whatsapp",
            "contacts": [{"input": to, "wa_id": to}],
            "messages": [{"id": wamid, "message_status": "accepted"}],
        })
    };
    let body = match answer.shape {
        Shape::Chakra => json!({"_data": [], "_errors": [message]}),
        Shape::Objects => {
            json!({"_data": [], "_errors": [{"message": message, "code": answer.code}]})
        }
        Shape::Meta => json!({"error": {
            "message": message, "type": "OAuthException", "code": answer.code,
            "error_data": {"messaging_product": "whatsapp", "details": title},
            "fbtrace_id": "AsandboxTraceId",
        }}),
        Shape::Nested => json!({"_data": {"error": {
            "message": message, "type": "OAuthException", "code": answer.code,
            "fbtrace_id": "AsandboxTraceId",
        }}}),
        Shape::Html => return Reply::gateway(status),
        Shape::Empty => return Reply::new(status, JSON, Bytes::new()),
        Shape::NotUtf8 => return Reply::new(status, JSON, NOT_UTF8),
        Shape::OkWithoutId => json!({"_data": {}}),
        Shape::RawMetaOk => raw_ok(),
        Shape::WrappedMetaOk => json!({"data": raw_ok()}),
    };
    Reply::new(status, JSON, body.to_string())
}

/// Meta documents `error.message` as code plus title.
fn prefixed(code: u32, title: &str) -> String {
    format!("(#{code}) {title}")
}

/// Meta's titles of the codes that the sandbox itself gives and of those that stories need most.
pub(super) fn title(code: u32) -> &'static str {
    match code {
        0 => "AuthException",
        4 => "Application request limit reached",
        100 => "Invalid parameter",
        190 => "Access token has expired",
        130_429 => "Rate limit hit",
        131_000 => "Something went wrong",
        131_008 => "Required parameter is missing",
        131_009 => "Parameter value is not valid",
        131_016 => "Service unavailable",
        131_026 => "Message undeliverable",
        131_031 => "Account has been locked",
        131_042 => "Business eligibility payment issue",
        131_047 => "Re-engagement message",
        131_048 => "Spam rate limit hit",
        131_049 => "This message was not delivered to maintain healthy ecosystem engagement.",
        131_051 => "Unsupported message type",
        131_056 => "(Business Account, Consumer Account) pair rate limit hit",
        131_053 => "Media upload error",
        131_057 => "Account in maintenance mode",
        132_001 => "Template does not exist",
        132_015 => "Template is paused",
        133_010 => "Phone number not registered",
        _ => "Request refused",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(shape: Shape) -> String {
        let answer = Answer { code: Some(131_047), shape, ..Answer::default() };
        let reply = Reply::faulty(&answer, "wamid.1", "4915");
        String::from_utf8_lossy(&reply.body).into_owned()
    }

    #[test]
    fn a_refusal_is_the_captured_answer_byte_for_byte() {
        let reply = Reply::refused(131_009);
        assert_eq!(reply.status, 400);
        let captured = r##"{"_data":[],"_errors":["(#131009) Parameter value is not valid"]}"##;
        assert_eq!(reply.body, captured);
    }

    #[test]
    fn the_documented_success_is_the_documented_success() {
        let documented = r#"{"_data":{"whatsappMessageId":"wamid.1"}}"#;
        assert_eq!(Reply::accepted("wamid.1").body, documented);
    }

    #[test]
    fn each_shape_carries_the_code_where_its_clients_look_for_it() {
        let at = |shape, pointer: &str| {
            let value: Value = serde_json::from_str(&body(shape)).unwrap();
            value.pointer(pointer).cloned().unwrap_or_default()
        };
        let text = json!("(#131047) Re-engagement message");
        assert_eq!(at(Shape::Chakra, "/_errors/0"), text);
        assert_eq!(at(Shape::Objects, "/_errors/0/message"), text);
        assert_eq!(at(Shape::Objects, "/_errors/0/code"), 131_047);
        assert_eq!(at(Shape::Meta, "/error/code"), 131_047);
        assert_eq!(at(Shape::Nested, "/_data/error/code"), 131_047);
        assert_eq!(at(Shape::RawMetaOk, "/messages/0/id"), "wamid.1");
        assert_eq!(at(Shape::WrappedMetaOk, "/data/messages/0/id"), "wamid.1");
        assert_eq!(at(Shape::OkWithoutId, "/_data"), json!({}));
        assert!(body(Shape::Html).starts_with("<html>"));
        assert!(body(Shape::Empty).is_empty());
        assert!(body(Shape::NotUtf8).contains(char::REPLACEMENT_CHARACTER));
    }
}
