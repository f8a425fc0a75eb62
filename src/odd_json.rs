//! JSON that serde_json refuses although RFC 8259 allows it: a text with half of a surrogate pair (section
//! 8.2), which JavaScript writes for a name or a message that was cut within an emoji, and a number beyond
//! an `f64` (section 6). Whoever reads what strangers have a part in mends such a document and reads again.

/// Stands for half of a pair: U+FFFD, as long as what it replaces.
const REPLACEMENT: &[u8] = br"\uFFFD";

/// Bytes of `\u` and its four digits.
const ESCAPE: usize = 6;

/// The document with U+FFFD for each half of a surrogate pair and 0 for each number beyond an `f64`. All else
/// is as it was, what is no JSON included.
pub(crate) fn mended(document: &str) -> String {
    let mut bytes = document.as_bytes().to_vec();
    let (mut at, mut in_text) = (0, false);
    while let Some(byte) = bytes.get(at) {
        at += match byte {
            b'\\' if in_text => mend_escape(&mut bytes[at..]),
            b'"' => {
                in_text = !in_text;
                1
            }
            b'-' | b'0'..=b'9' if !in_text => mend_number(&mut bytes[at..]),
            _ => 1,
        };
    }
    // Only whole ASCII was replaced, and by ASCII.
    String::from_utf8(bytes).unwrap_or_default()
}

/// Returns the bytes of the escape that it begins with, both halves of a pair together.
fn mend_escape(text: &mut [u8]) -> usize {
    match (unit(text), text.get(ESCAPE..).and_then(unit)) {
        (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => 2 * ESCAPE,
        (Some(0xD800..=0xDFFF), _) => {
            text[..ESCAPE].copy_from_slice(REPLACEMENT);
            ESCAPE
        }
        (Some(_), _) => ESCAPE,
        // Of another kind, or none: what is escaped opens and closes nothing.
        (None, _) => 2,
    }
}

/// The UTF-16 unit that the text begins with as `\uXXXX`.
fn unit(text: &[u8]) -> Option<u16> {
    let digits = text.get(..ESCAPE)?.strip_prefix(br"\u")?;
    let digits = digits.iter().all(u8::is_ascii_hexdigit).then_some(digits)?;
    u16::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
}

/// Returns the bytes of the number that it begins with.
fn mend_number(text: &mut [u8]) -> usize {
    let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
    let length = text.iter().position(|byte| !is_part(byte)).unwrap_or(text.len());
    let number = &mut text[..length];
    let value = str::from_utf8(number).ok().and_then(|number| number.parse::<f64>().ok());
    if value.is_some_and(f64::is_infinite) {
        number.fill(b' ');
        number[0] = b'0';
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn read(document: &str) -> Value {
        serde_json::from_str(&mended(document)).unwrap()
    }

    #[test]
    fn half_of_a_pair_is_replaced_and_a_whole_one_stays() {
        let halves =
            r#"["\ud83d", "\uDE00!", "\ud83d\n", "\ud83d\ud83d\ude00", "\\ud83d", "\"\ude00"]"#;
        let read = read(halves);
        let mended =
            json!(["\u{FFFD}", "\u{FFFD}!", "\u{FFFD}\n", "\u{FFFD}😀", r"\ud83d", "\"\u{FFFD}"]);
        assert_eq!(read, mended);
    }

    #[test]
    fn a_number_beyond_all_bounds_is_nought() {
        let huge = format!(r#"{{"a":1e999,"b":[-1E+400,{}],"c":"1e999"}}"#, "9".repeat(400));
        assert_eq!(read(&huge), json!({"a": 0, "b": [0, 0], "c": "1e999"}));
    }

    #[test]
    fn what_is_no_json_is_none_afterwards() {
        for text in [
            "",
            "{",
            "\"",
            r#""\"#,
            r#""\u"#,
            r#""\ud83d"#,
            r#"["\ud8"]"#,
            "[1e999",
            "-",
            "nan",
            "é\\ud83d",
        ] {
            assert!(serde_json::from_str::<Value>(&mended(text)).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_can_be_read_is_left_as_it_is(texts in any::<Vec<(String, f64, i64)>>()) {
            let document = json!(texts).to_string();
            prop_assert_eq!(mended(&document), document);
        }

        #[test]
        fn any_units_make_a_text_that_can_be_read(units in any::<Vec<u16>>(), plain in "[a-z]{0,2}") {
            let escaped = units.iter().map(|unit| format!(r"\u{unit:04x}{plain}")).collect::<String>();
            let expected = units.iter().flat_map(|unit| [*unit].into_iter().chain(plain.encode_utf16()));
            let expected = String::from_utf16_lossy(&expected.collect::<Vec<u16>>());
            prop_assert_eq!(read(&format!("[\"{escaped}\"]")), json!([expected]));
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>()) {
            prop_assert_eq!(mended(&text).len(), text.len());
        }
    }
}
