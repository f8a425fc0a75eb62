//! How long a server asks us to wait, in every form that was met: the `Retry-After` header in
//! seconds or as a date, fields of the body, words in the error text. Anything else is no hint.

use jiff::Timestamp;
use jiff::fmt::strtime;
use serde_json::Value;
use std::time::Duration;

/// No hint is obeyed beyond this: a mistaken one must not hold an account for days.
pub(super) const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// The three forms of a date that RFC 9110 section 5.6.7 wants understood. All are in GMT.
const HTTP_DATES: [&str; 3] =
    ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"];

/// The longest hint that an answer gives, by header, body and error text. None where there is none,
/// or where it is over.
pub(super) fn hint(
    headers: &[String],
    body: Option<&Value>,
    text: Option<&str>,
    now: Timestamp,
) -> Option<Duration> {
    let header = headers.iter().filter_map(|value| from_header(value, now)).max();
    let body = body.and_then(from_body);
    let text = text.and_then(from_text);
    header.max(body).max(text).filter(|wait| !wait.is_zero())
}

fn from_header(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if let Some(wait) = seconds(value, 1.0) {
        return Some(wait);
    }
    let date = HTTP_DATES.iter().find_map(|form| strtime::parse(form, value).ok())?;
    let at = date.to_datetime().ok()?.in_tz("UTC").ok()?.timestamp();
    // A date that has passed is no wait.
    let wait = Duration::try_from(at.duration_since(now)).ok()?;
    Some(wait.min(MAX_RETRY_AFTER))
}

fn from_body(body: &Value) -> Option<Duration> {
    [Some(body), body.get("_data"), body.get("error")]
        .into_iter()
        .flatten()
        .filter_map(|place| {
            let millis = place.get("retry_after_ms").and_then(|value| number(value, 0.001));
            millis.max(place.get("retry_after").and_then(|value| number(value, 1.0)))
        })
        .max()
}

/// `retry after 1500ms`, `Retry after 2 seconds`.
fn from_text(text: &str) -> Option<Duration> {
    const WORDS: &str = "retry after ";
    let text = text.to_ascii_lowercase();
    let rest = text[text.find(WORDS)? + WORDS.len()..].trim_start();
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (amount, rest) = rest.split_at(end);
    let rest = rest.trim_start();
    let unit = rest.find(|c: char| !c.is_ascii_alphabetic()).map_or(rest, |end| &rest[..end]);
    match unit {
        "ms" | "millisecond" | "milliseconds" => seconds(amount, 0.001),
        "s" | "sec" | "secs" | "second" | "seconds" => seconds(amount, 1.0),
        "m" | "min" | "mins" | "minute" | "minutes" => seconds(amount, 60.0),
        // Without a unit it could be either.
        _ => None,
    }
}

fn number(value: &Value, unit: f64) -> Option<Duration> {
    match value {
        Value::Number(number) => bounded(number.as_f64()?, unit),
        Value::String(text) => seconds(text.trim(), unit),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

fn seconds(text: &str, unit: f64) -> Option<Duration> {
    bounded(text.parse().ok()?, unit)
}

fn bounded(amount: f64, unit: f64) -> Option<Duration> {
    let most = MAX_RETRY_AFTER.as_secs_f64();
    let lawful = amount.is_finite() && amount >= 0.0;
    lawful.then(|| Duration::from_secs_f64((amount * unit).min(most)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn now() -> Timestamp {
        "1994-11-06T08:49:00Z".parse().unwrap()
    }

    fn millis(wait: Option<Duration>) -> Option<u128> {
        wait.map(|wait| wait.as_millis())
    }

    #[test]
    fn headers_are_seconds_or_dates() {
        let cases = [
            ("120", Some(120_000)),
            (" 1.5 ", Some(1_500)),
            ("999999999999999999999", Some(3_600_000)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(37_000)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(37_000)),
            ("Sun Nov  6 08:49:37 1994", Some(37_000)),
            ("Sun, 06 Nov 2044 08:49:37 GMT", Some(3_600_000)),
            ("Sun, 06 Nov 1994 08:48:59 GMT", None),
            ("0", None),
            ("-5", None),
            ("inf", None),
            ("NaN", None),
            ("soon", None),
            ("", None),
        ];
        for (header, expected) in cases {
            assert_eq!(millis(hint(&[header.into()], None, None, now())), expected, "{header}");
        }
    }

    #[test]
    fn bodies_say_it_in_three_places_as_numbers_or_text() {
        let cases = [
            (json!({"retry_after_ms": 1500}), Some(1_500)),
            (json!({"retry_after": 2}), Some(2_000)),
            (json!({"retry_after": "2.5"}), Some(2_500)),
            (json!({"_data": {"retry_after_ms": "700"}}), Some(700)),
            (json!({"error": {"retry_after": 3}}), Some(3_000)),
            (json!({"retry_after": 1, "error": {"retry_after": 9}}), Some(9_000)),
            (json!({"retry_after": 1e300}), Some(3_600_000)),
            (json!({"retry_after": -1, "_data": [], "error": "x"}), None),
            (json!({"retry_after": {"seconds": 1}}), None),
            (json!([1, 2]), None),
        ];
        for (body, expected) in cases {
            assert_eq!(millis(hint(&[], Some(&body), None, now())), expected, "{body}");
        }
    }

    #[test]
    fn texts_need_a_unit() {
        let cases = [
            ("Too fast, retry after 1500 ms.", Some(1_500)),
            ("Retry after 2s", Some(2_000)),
            ("RETRY AFTER 2.5 Seconds please", Some(2_500)),
            ("retry after 1 minute", Some(60_000)),
            ("retry after 30", None),
            ("retry after 30 ", None),
            ("retry after a while", None),
            ("retry after 1.2.3 s", None),
        ];
        for (text, expected) in cases {
            assert_eq!(millis(hint(&[], None, Some(text), now())), expected, "{text}");
        }
    }

    #[test]
    fn the_longest_hint_counts() {
        let body = json!({"retry_after": 2});
        let wait = hint(&["1".into(), "x".into()], Some(&body), Some("retry after 500 ms"), now());
        assert_eq!(wait, Some(Duration::from_secs(2)));
    }

    proptest! {
        #[test]
        fn no_text_panics_or_exceeds_the_bound(text in "(retry after |[0-9.]|ms| |\\PC){0,12}") {
            let body = json!({"retry_after": text, "retry_after_ms": text});
            let wait = hint(std::slice::from_ref(&text), Some(&body), Some(&text), now());
            prop_assert!(wait <= Some(MAX_RETRY_AFTER));
        }
    }
}
