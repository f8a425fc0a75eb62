//! The status page for people: one file, no outside requests, fed by `/numbers` and `/readyz`. It shows texts
//! of operators as text, and its policy lets nothing run but what stands in the file.

use axum::http::header;
use axum::response::{Html, IntoResponse, Response};

/// The whole page.
const PAGE: &str = include_str!("status.html");

/// What a browser may do with it: run its one script and use its one style, by their digests, and ask
/// where it came from. A test says what to write here when the page has changed.
const POLICY: &str = "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'; \
     script-src 'sha256-3CNUYIfwqQ+pP5MgXBps8kbPKobIoxxWNeI5ZyAazDk='; \
     style-src 'sha256-QtMl56PBS3tktTRpHmPovAaAaDRIzj+BgWQIU8ePUYY='";

pub(super) async fn page() -> Response {
    let headers = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, Html(PAGE)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    /// A phone on a bad line is served in a moment.
    const MAX_BYTES: usize = 30 * 1024;

    fn between<'a>(open: &str, close: &str) -> &'a str {
        let (_, rest) = PAGE.split_once(open).unwrap();
        rest.split_once(close).unwrap().0
    }

    fn base64(bytes: &[u8]) -> String {
        const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let letter = |bits: u32| char::from(LETTERS[(bits & 63) as usize]);
        let groups = bytes.chunks(3).map(|group| {
            let all = group.iter().chain([&0, &0]).take(3);
            let bits = all.fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
            let text: String = [18, 12, 6, 0].map(|by| letter(bits >> by)).iter().collect();
            format!("{:=<4}", &text[..=group.len()])
        });
        groups.collect()
    }

    #[test]
    fn the_policy_lets_exactly_this_script_and_this_style_be_used() {
        assert_eq!(base64(b"light w"), "bGlnaHQgdw==");
        for (kind, text) in [
            ("script", between("<script>", "</script>")),
            ("style", between("<style>", "</style>")),
        ] {
            let rule = format!("{kind}-src 'sha256-{}'", base64(&Sha256::digest(text)));
            assert!(POLICY.contains(&rule), "the page has changed: put {rule} into POLICY");
        }
    }

    #[test]
    fn the_page_is_small_and_names_no_other_place() {
        assert!(PAGE.len() < MAX_BYTES, "{} bytes", PAGE.len());
        let outside =
            ["http:", "https:", "\"//", "'//", "url(", "@import", " src=", "innerHTML", "eval("];
        for part in outside {
            assert!(!PAGE.contains(part), "{part}");
        }
    }
}
