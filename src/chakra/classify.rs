//! From one exchange to what it means for a job. Reads no clock and does no I/O.
//!
//! Meta's code decides where there is one, the HTTP status where there is none. A message counts as
//! accepted only with its id, and as not sent only where that is sure; the rest is ambiguous.

use super::codes::{self, Codes, Verdict};
use super::envelope::{Body, Complaint};
use super::exchange::{Exchange, Reply};
use super::redact::{code_prefix, redact};
use super::retry_after;
use crate::policy::{Answer, Failure};
use crate::wire::Class;
use jiff::Timestamp;

/// The longest address of a redirect that is shown, in characters.
const MAX_LOCATION_CHARS: usize = 200;

/// What came of a request to `…/messages`. `expects_id` is false for read receipts and typing
/// indicators. `codes` says what follows from Meta's codes. `tokens` are what must not show in any text.
pub(super) fn classify(
    exchange: &Exchange,
    expects_id: bool,
    codes: &Codes,
    tokens: &str,
    now: Timestamp,
) -> Answer {
    match exchange {
        Exchange::NeverSent(reason) => Answer::Failed(Failure::new(
            Class::Unavailable,
            format!("not sent: {}", redact(reason, tokens)),
        )),
        Exchange::NoAnswer(reason) => Answer::Failed(Failure::new(
            Class::Ambiguous,
            format!("no answer: {}", redact(reason, tokens)),
        )),
        Exchange::Answered(reply) => answered(reply, expects_id, codes, tokens, now),
    }
}

fn answered(
    reply: &Reply,
    expects_id: bool,
    codes: &Codes,
    tokens: &str,
    now: Timestamp,
) -> Answer {
    let body = Body::read(&reply.body, reply.whole);
    let id = body.message_id();
    if reply.is_success() {
        if id.is_some() {
            return Answer::Accepted { whatsapp_message_id: id };
        }
        if !expects_id && reply.whole && body.is_clean() {
            return Answer::Accepted { whatsapp_message_id: None };
        }
    }
    let complaint = complaint(reply, &body, codes);
    let verdict = match complaint.code {
        // A refusal that names a message's id contradicts itself: the message may be on its way.
        _ if id.is_some() => codes::DOUBT,
        Some(code) => codes.verdict(code).unwrap_or_else(|| codes::of_unknown_code(reply.status)),
        None => codes::by_status(reply.status),
    };
    let text = complaint.text.as_deref();
    let hint = retry_after::hint(&reply.retry_after, body.json(), text, now);
    let Verdict { class, scope, wait, max_attempts } = verdict;
    Answer::Failed(Failure {
        scope,
        code: complaint.code,
        http_status: Some(reply.status),
        wait: wait.max(hint),
        max_attempts,
        ..Failure::new(class, sentence(reply, &body, &complaint, tokens))
    })
}

fn complaint(reply: &Reply, body: &Body, codes: &Codes) -> Complaint {
    let found = match (reply.is_success(), body) {
        // Half of a success is no complaint, whatever words it contains.
        (true, Body::Unreadable(_)) => None,
        (true, _) => body.complaint(reply.status),
        (false, _) => body.complaint(reply.status).or_else(|| body.remark()),
    };
    let mut found = found.unwrap_or_default();
    // A number in a `code` field that the built-in table lacks is not surely Meta's, so no proof that
    // Meta refused: the status decides. A row of the configuration is heeded where that leaves nothing
    // open, else a gateway's 502 could be made to repeat what was sent.
    let is_open = codes::by_status(reply.status).class == Class::Ambiguous;
    found.code = found.code.filter(|code| {
        let is_configured = || !is_open && codes.verdict(*code).is_some();
        found.marked || codes::find(*code).is_some() || is_configured()
    });
    found
}

impl Reply {
    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// One sentence for a person: the vendor's own where it has one, and what to look at.
fn sentence(reply: &Reply, body: &Body, complaint: &Complaint, tokens: &str) -> String {
    let text = complaint.text.as_deref().map(|text| redact(text, tokens));
    match (complaint.code, text) {
        (Some(code), Some(text)) if code_prefix(&text).is_none() => format!("(#{code}) {text}"),
        (Some(_), Some(text)) => text,
        (Some(code), None) => match codes::find(code) {
            Some(row) => format!("(#{code}) {}", row.meaning),
            None => format!("(#{code}) without a reason"),
        },
        (None, text) => {
            let advice =
                advice(reply, tokens).map_or(String::new(), |advice| format!(" ({advice})"));
            match text {
                Some(text) => format!("HTTP {}{advice}: {text}", reply.status),
                None => format!("HTTP {}{advice} {}", reply.status, described(reply, body)),
            }
        }
    }
}

fn described(reply: &Reply, body: &Body) -> &'static str {
    match body {
        Body::Html => "with an HTML page",
        Body::Empty => "with an empty body",
        Body::Unreadable(_) if reply.whole => "with an unreadable body",
        Body::Unreadable(_) => "with a body that broke off",
        Body::Json(_) | Body::Text(_) if reply.is_success() => "without a message id",
        Body::Json(_) | Body::Text(_) => "without a reason",
    }
}

/// What an operator should check, where the status points to our own settings.
fn advice(reply: &Reply, tokens: &str) -> Option<String> {
    match reply.status {
        300..=399 => {
            let location = reply.location.as_deref().unwrap_or("nowhere");
            // A query may hold anything.
            let location = location.split(['?', '#']).next().unwrap_or_default();
            let shown: String = redact(location, tokens).chars().take(MAX_LOCATION_CHARS).collect();
            Some(format!("redirected to {shown}: check chakra.base_url"))
        }
        401 | 403 => Some("check chakra.token and its role".into()),
        402 => Some("check the plan at ChakraHQ".into()),
        404 | 405 | 410 => Some("check chakra.plugin_id and phone_number_id".into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chakra::codes::Override;
    use crate::wire::Scope;
    use bytes::Bytes;
    use proptest::prelude::*;
    use std::fmt::Write;
    use std::time::Duration;

    const TOKEN: &str = "sesame-open-4711";

    #[test]
    fn a_message_is_accepted_only_with_its_id() {
        let documented = r#"{"_data":{"whatsappMessageId":"wamid.A"},"_errors":[]}"#;
        assert_eq!(judge(200, documented), accepted("wamid.A"));
        let with_warning = r#"{"_data":{"whatsappMessageId":"wamid.A"},"_errors":["odd"]}"#;
        assert_eq!(judge(200, with_warning), accepted("wamid.A"));
        for body in [r#"{"_data":{}}"#, r#"{"success":true}"#, "", "OK", "<html>", "{\"_data", "[]"]
        {
            assert_eq!(failure(judge(200, body)).class, Class::Ambiguous, "{body}");
        }
    }

    #[test]
    fn a_receipt_is_accepted_with_any_clean_success() {
        for body in ["", r#"{"success":true}"#, r#"{"_data":{},"_errors":[]}"#] {
            let answer = classify(&reply(200, body), false, &Codes::default(), TOKEN, now());
            assert_eq!(answer, Answer::Accepted { whatsapp_message_id: None }, "{body}");
        }
        for body in [r#"{"success":false}"#, "<html>", r#"{"error":"x"}"#] {
            let answer = classify(&reply(200, body), false, &Codes::default(), TOKEN, now());
            assert_eq!(failure(answer).class, Class::Ambiguous, "{body}");
        }
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "most of it is the table as it reads")]
    fn answers_read() {
        let cases = [
            (400, r#"{"_data":[],"_errors":["(#131009) Parameter value is not valid"]}"#),
            (400, r#"{"_errors":[{"code":130429,"message":"Rate limit hit"}]}"#),
            (500, r#"{"error":{"code":131016}}"#),
            (200, r#"{"_errors":["(#131047) Re-engagement message"]}"#),
            (200, r#"{"_errors":["Something went wrong"]}"#),
            (401, r#"{"_errors":["Invalid API key sesame-open-4711"]}"#),
            (402, r#"{"message":"Upgrade your plan"}"#),
            (403, r#"{"_errors":["(#139999) Brand new"]}"#),
            (404, "<!doctype html>"),
            (404, r#"{"_errors":["(#139998) No such thing"]}"#),
            (405, r#"{"message":"Method Not Allowed"}"#),
            (410, ""),
            (408, ""),
            (429, r#"{"message":"retry after 1500 ms"}"#),
            (400, r#"{"_errors":["(#999999) Brand new"]}"#),
            (500, r#"{"_errors":["(#999999) Brand new"]}"#),
            (500, r#"{"error":{"code":1101,"message":"Worker threw"}}"#),
            (401, r#"{"_errors":[{"code":1001,"message":"Unknown key"}]}"#),
            (502, "<html>"),
            (502, r#"{"error":{"code":502,"message":"Bad gateway"}}"#),
            (503, "upstream connect error to 919901258433"),
            (500, r#"{"_data":{"whatsappMessageId":"wamid.A"},"_errors":["(#131016) Down"]}"#),
            (400, r#"{"_errors":["(#131056"#),
            (302, ""),
        ];
        let mut text = String::new();
        for (status, body) in cases {
            let Failure { class, scope, code, http_status, message, wait, max_attempts } =
                failure(judge(status, body));
            assert_eq!(http_status, Some(status));
            let what =
                format!("{} {} {code:?} {wait:?} {max_attempts:?}", class.name(), scope.name());
            writeln!(text, "{status} {body}\n    {what}\n    {message}").unwrap();
        }
        insta::assert_snapshot!(text, @r##"
        400 {"_data":[],"_errors":["(#131009) Parameter value is not valid"]}
            refused message Some(131009) None None
            (#131009) Parameter value is not valid
        400 {"_errors":[{"code":130429,"message":"Rate limit hit"}]}
            throttled number Some(130429) None None
            (#130429) Rate limit hit
        500 {"error":{"code":131016}}
            unavailable message Some(131016) None None
            (#131016) service unavailable
        200 {"_errors":["(#131047) Re-engagement message"]}
            refused message Some(131047) None None
            (#131047) Re-engagement message
        200 {"_errors":["Something went wrong"]}
            ambiguous message None None None
            HTTP 200: Something went wrong
        401 {"_errors":["Invalid API key sesame-open-4711"]}
            blocked account None Some(60s) None
            HTTP 401 (check chakra.token and its role): Invalid API key [token]
        402 {"message":"Upgrade your plan"}
            blocked account None Some(60s) None
            HTTP 402 (check the plan at ChakraHQ): Upgrade your plan
        403 {"_errors":["(#139999) Brand new"]}
            refused message Some(139999) None None
            (#139999) Brand new
        404 <!doctype html>
            blocked number None Some(60s) None
            HTTP 404 (check chakra.plugin_id and phone_number_id) with an HTML page
        404 {"_errors":["(#139998) No such thing"]}
            refused message Some(139998) None None
            (#139998) No such thing
        405 {"message":"Method Not Allowed"}
            blocked number None Some(60s) None
            HTTP 405 (check chakra.plugin_id and phone_number_id): Method Not Allowed
        410 
            blocked number None Some(60s) None
            HTTP 410 (check chakra.plugin_id and phone_number_id) with an empty body
        408 
            ambiguous message None None None
            HTTP 408 with an empty body
        429 {"message":"retry after 1500 ms"}
            throttled account None Some(1.5s) None
            HTTP 429: retry after 1500 ms
        400 {"_errors":["(#999999) Brand new"]}
            refused message Some(999999) None None
            (#999999) Brand new
        500 {"_errors":["(#999999) Brand new"]}
            unavailable message Some(999999) None Some(5)
            (#999999) Brand new
        500 {"error":{"code":1101,"message":"Worker threw"}}
            ambiguous message None None None
            HTTP 500: Worker threw
        401 {"_errors":[{"code":1001,"message":"Unknown key"}]}
            blocked account None Some(60s) None
            HTTP 401 (check chakra.token and its role): Unknown key
        502 <html>
            ambiguous message None None None
            HTTP 502 with an HTML page
        502 {"error":{"code":502,"message":"Bad gateway"}}
            ambiguous message None None None
            HTTP 502: Bad gateway
        503 upstream connect error to 919901258433
            unavailable message None None None
            HTTP 503: upstream connect error to …33
        500 {"_data":{"whatsappMessageId":"wamid.A"},"_errors":["(#131016) Down"]}
            ambiguous message Some(131016) None None
            (#131016) Down
        400 {"_errors":["(#131056
            refused message None None None
            HTTP 400 with an unreadable body
        302 
            blocked account None Some(60s) None
            HTTP 302 (redirected to nowhere: check chakra.base_url) with an empty body
        "##);
    }

    #[test]
    fn a_refusal_that_broke_off_is_read_as_far_as_it_came() {
        let mut cut = reply(400, r#"{"_data":[],"_errors":["(#131056) Pair rate lim"#);
        whole(&mut cut, false);
        let failure = failure(classify(&cut, true, &Codes::default(), TOKEN, now()));
        assert_eq!((failure.class, failure.scope), (Class::Throttled, Scope::Recipient));
        assert_eq!(failure.code, Some(131056));
    }

    #[test]
    fn a_success_that_broke_off_is_no_answer() {
        let mut cut = reply(200, r#"{"_data":{"echo":"(#131009) hi","whatsappMess"#);
        whole(&mut cut, false);
        for expects_id in [true, false] {
            let failure = failure(classify(&cut, expects_id, &Codes::default(), TOKEN, now()));
            assert_eq!((failure.class, failure.code), (Class::Ambiguous, None));
        }
    }

    #[test]
    fn a_wait_is_the_longer_of_the_hint_and_the_table() {
        for (hint, expected) in [("1", 60), ("90", 90), ("86400", 3600)] {
            let mut throttled = reply(429, r#"{"_errors":["(#131057) Maintenance"]}"#);
            if let Exchange::Answered(reply) = &mut throttled {
                reply.retry_after.push(hint.into());
            }
            let failure = failure(classify(&throttled, true, &Codes::default(), TOKEN, now()));
            assert_eq!(failure.wait, Some(Duration::from_secs(expected)));
        }
    }

    #[test]
    fn a_row_of_the_configuration_decides_but_is_no_proof_that_meta_answered() {
        let verdict = Verdict {
            class: Class::Unavailable,
            scope: Scope::Message,
            wait: Some(Duration::from_secs(30)),
            max_attempts: Some(2),
        };
        let rows = [131_026..=131_026, 502..=502, 139_999..=139_999];
        let codes = Codes::new(rows.map(|codes| Override { codes, verdict }).into());
        for (status, body, class) in [
            (400, r#"{"_errors":["(#131026) Undeliverable"]}"#, Class::Unavailable),
            (500, r#"{"error":{"code":131026}}"#, Class::Unavailable),
            (500, r#"{"_errors":["(#139999) Brand new"]}"#, Class::Unavailable),
            (400, r#"{"error":{"code":139999}}"#, Class::Unavailable),
            // These may be anyone's, and the message may have been sent.
            (502, r#"{"error":{"code":502,"message":"Bad gateway"}}"#, Class::Ambiguous),
            (500, r#"{"error":{"code":139999}}"#, Class::Ambiguous),
            (200, r#"{"error":{"code":139999}}"#, Class::Ambiguous),
        ] {
            let failure = failure(classify(&reply(status, body), true, &codes, TOKEN, now()));
            assert_eq!(failure.class, class, "{status} {body}");
            if class == Class::Unavailable {
                assert_eq!((failure.wait, failure.max_attempts), (verdict.wait, Some(2)), "{body}");
            }
        }
    }

    #[test]
    fn silence_is_doubt_and_an_unsent_request_is_not() {
        let never = Exchange::NeverSent("connection refused".into());
        let silent = Exchange::NoAnswer("timed out".into());
        let class =
            |exchange| failure(classify(exchange, true, &Codes::default(), TOKEN, now())).class;
        assert_eq!(class(&never), Class::Unavailable);
        assert_eq!(class(&silent), Class::Ambiguous);
    }

    #[test]
    fn a_redirect_shows_where_to_without_its_query() {
        let mut moved = reply(302, "");
        if let Exchange::Answered(reply) = &mut moved {
            reply.location = Some("https://example.com/login?next=secret".into());
        }
        let failure = failure(classify(&moved, true, &Codes::default(), TOKEN, now()));
        assert_eq!((failure.class, failure.scope), (Class::Blocked, Scope::Account));
        let expected = "HTTP 302 (redirected to https://example.com/login: check chakra.base_url) \
                        with an empty body";
        assert_eq!(failure.message, expected);
    }

    proptest! {
        #[test]
        fn no_bytes_panic_or_count_as_an_id(
            status in 100u16..=999,
            body in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..200),
                "\\PC{0,80}".prop_map(String::into_bytes),
                almost_an_envelope().prop_map(String::into_bytes),
            ],
            whole in any::<bool>(),
            header in "\\PC{0,20}",
        ) {
            let reply = Reply {
                status,
                retry_after: vec![header],
                location: None,
                body: Bytes::from(body),
                whole,
            };
            let has_id = Body::read(&reply.body, whole).message_id().is_some();
            let answer = classify(&Exchange::Answered(reply), true, &Codes::default(), TOKEN, now());
            let id = match &answer {
                Answer::Accepted { whatsapp_message_id } => whatsapp_message_id.is_some(),
                Answer::Failed(_) => true,
            };
            prop_assert!(id);
            let accepted = matches!(answer, Answer::Accepted { .. });
            prop_assert_eq!(accepted, has_id && (200..300).contains(&status));
        }

        #[test]
        fn the_token_never_shows(status in 300u16..=599, form in 0usize..4, pad in "[ a-z]{0,9}") {
            let text = format!("{pad}{TOKEN}{pad}");
            let body = match form {
                0 => serde_json::json!({"_errors": [text]}),
                1 => serde_json::json!({"error": {"code": 190, "message": text}}),
                2 => serde_json::json!({"message": text}),
                _ => serde_json::json!(text),
            };
            let failure = failure(judge(status, &body.to_string()));
            prop_assert!(!failure.message.contains(TOKEN), "{}", failure.message);
        }
    }

    fn almost_an_envelope() -> impl Strategy<Value = String> {
        let value = prop_oneof![
            Just("null"),
            Just("[]"),
            Just("{}"),
            Just("\"\""),
            Just("\"(#131026) x\""),
            Just("{\"error\":{\"code\":\"4\"}}"),
            Just("{\"whatsappMessageId\":\"\"}"),
            Just("{\"whatsappMessageId\":\"wamid.A\"}"),
            Just("[{\"id\":\"wamid.B\"}]"),
            Just("[{\"id\":7}]"),
            Just("131026"),
            Just("{\"messages\":[{\"id\":\"wamid.C\"}]}"),
        ];
        let key = prop_oneof![
            Just("_data"),
            Just("_errors"),
            Just("error"),
            Just("messages"),
            Just("data"),
        ];
        proptest::collection::vec((key, value), 0..4).prop_map(|fields| {
            let fields: Vec<_> = fields.iter().map(|(k, v)| format!("\"{k}\":{v}")).collect();
            format!("{{{}}}", fields.join(","))
        })
    }

    fn judge(status: u16, body: &str) -> Answer {
        classify(&reply(status, body), true, &Codes::default(), TOKEN, now())
    }

    fn reply(status: u16, body: &str) -> Exchange {
        let body = Bytes::copy_from_slice(body.as_bytes());
        Exchange::Answered(Reply { status, retry_after: vec![], location: None, body, whole: true })
    }

    fn whole(exchange: &mut Exchange, whole: bool) {
        if let Exchange::Answered(reply) = exchange {
            reply.whole = whole;
        }
    }

    fn accepted(id: &str) -> Answer {
        Answer::Accepted { whatsapp_message_id: Some(id.into()) }
    }

    fn failure(answer: Answer) -> Failure {
        match answer {
            Answer::Failed(failure) => failure,
            Answer::Accepted { .. } => panic!("accepted: {answer:?}"),
        }
    }

    fn now() -> Timestamp {
        Timestamp::UNIX_EPOCH
    }
}
