//! Makes a vendor's text fit for events and logs: our tokens and phone numbers leave, control
//! characters become spaces. It does not shorten: that is done where a text becomes a `Failure`.

/// A run of this many digits may be a phone number. Meta's longest code has seven too, but stands
/// in the `(#code)` prefix, which is kept.
const PHONE_DIGITS: usize = 7;

/// The digits of a masked number that stay, so that a person can tell two of them apart.
const KEPT_DIGITS: usize = 2;

/// The text without our tokens, without phone numbers, on one line. `tokens` are separated by spaces,
/// which no token holds.
pub(super) fn redact(text: &str, tokens: &str) -> String {
    let mut tokens: Vec<&str> = tokens.split_ascii_whitespace().collect();
    // The longest first: one can be the beginning of another.
    tokens.sort_unstable_by_key(|token| std::cmp::Reverse(token.len()));
    let hide = |text: String, token| text.replace(token, "[token]");
    let text = tokens.into_iter().fold(text.to_owned(), hide);
    let line = text.split(|c: char| c.is_control() || c == ' ').filter(|word| !word.is_empty());
    let line = line.collect::<Vec<_>>().join(" ");
    let (prefix, rest) = line.split_at(code_prefix(&line).map_or(0, |(_, length)| length));
    format!("{prefix}{}", mask_numbers(rest))
}

/// Meta's `(#131009) ` at the start of a text: the code, and how many bytes it takes.
pub(super) fn code_prefix(text: &str) -> Option<(u32, usize)> {
    let inner = text.trim_start().strip_prefix("(#")?;
    let (digits, rest) = inner.split_at(inner.find(|c: char| !c.is_ascii_digit())?);
    let (rest, code) = (rest.strip_prefix(')')?, digits.parse().ok()?);
    Some((code, text.len() - rest.len()))
}

/// Hides all but the end of each long run of digits. After a `+` a run may have the separators that
/// people write into phone numbers.
fn mask_numbers(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, from) = rest.split_at(start);
        let spaced = before.ends_with('+');
        let inside = |c: char| c.is_ascii_digit() || spaced && " -.()".contains(c);
        let end = from.find(|c: char| !inside(c)).unwrap_or(from.len());
        let run = from[..end].trim_end_matches(|c: char| !c.is_ascii_digit());
        let digits: Vec<char> = run.chars().filter(char::is_ascii_digit).collect();
        masked.push_str(before);
        match digits.len() < PHONE_DIGITS {
            true => masked.push_str(run),
            false => {
                masked.push('…');
                masked.extend(&digits[digits.len() - KEPT_DIGITS..]);
            }
        }
        rest = &from[run.len()..];
    }
    masked.push_str(rest);
    masked
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_and_the_token_leave_and_codes_stay() {
        let cases = [
            ("(#131009) Parameter value is not valid", "(#131009) Parameter value is not valid"),
            ("(#2388023) no 919901258433 there", "(#2388023) no …33 there"),
            ("to +91 99012-58433, please", "to +…33, please"),
            ("to +919901258433.", "to +…33."),
            ("params: 0 of 3, see 123456", "params: 0 of 3, see 123456"),
            ("Bearer sesame-key was wrong", "Bearer [token] was wrong"),
            ("two\r\nlines\u{1b}[31m", "two lines [31m"),
            ("a (#2388023) later", "a (#…23) later"),
            ("+1 2", "+1 2"),
            ("", ""),
        ];
        for (text, expected) in cases {
            assert_eq!(redact(text, "sesame-key"), expected);
        }
    }

    #[test]
    fn an_old_token_leaves_as_well_and_a_longer_one_leaves_whole() {
        for tokens in ["sesame sesame-open", "sesame-open sesame"] {
            assert_eq!(redact("sesame-open or sesame", tokens), "[token] or [token]");
        }
    }

    #[test]
    fn a_prefix_is_a_code_only_when_it_is_a_number() {
        assert_eq!(code_prefix(" (#100) x"), Some((100, 7)));
        for text in ["", "(#)", "(#1a) x", "(#+1) x", "(#99999999999) x", "(#100", "x (#100) y"] {
            assert_eq!(code_prefix(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_long_run_of_digits_stays_behind_a_prefix(text in "[a+ é0-9().#-]{0,60}") {
            let redacted = redact(&text, "");
            let rest = &redacted[code_prefix(&redacted).map_or(0, |(_, length)| length)..];
            let longest = rest.split(|c: char| !c.is_ascii_digit()).map(str::len).max();
            prop_assert!(longest < Some(PHONE_DIGITS), "{redacted}");
        }
    }
}
