//! Takes a recipient out of what people are shown of their job, wherever and however it stands there.

use crate::wire::Recipient;

/// A value shorter than this is not taken for a part of a recipient's number.
const LEAST_PART: usize = 4;

/// The text with the recipient masked: as one of the cells that filled it, whole or a greater part, as it stands
/// within other text, and as digits with marks and blanks between them.
pub(super) fn masked<'c>(
    text: &str,
    recipient: &Recipient,
    cells: impl Iterator<Item = &'c str>,
) -> String {
    let key = recipient.key();
    let mut shown = match key.bytes().all(|byte| byte.is_ascii_digit()) {
        true => without_number(text, recipient),
        false => text.replace(key, &recipient.to_string()),
    };
    let mut parts: Vec<&str> = cells.filter(|cell| is_part(cell, recipient)).collect();
    // A part of a part would leave the rest of it.
    parts.sort_unstable_by_key(|part| std::cmp::Reverse(part.len()));
    for part in parts {
        shown = shown.replace(part, &Recipient::from_to(part).to_string());
    }
    shown
}

/// Whether a cell is the recipient, or the greater part of a number without its country's code.
fn is_part(cell: &str, recipient: &Recipient) -> bool {
    let part = Recipient::from_to(cell);
    part.key().len() >= LEAST_PART && recipient.key().contains(part.key())
}

/// Masks each run of digits that has the whole number in it, whatever marks stand between them.
fn without_number(text: &str, recipient: &Recipient) -> String {
    let is_mark = |letter: char| " -().+/\u{a0}".contains(letter);
    let (mut shown, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(start) = rest.find(|letter: char| letter.is_ascii_digit()) {
        let (before, from) = rest.split_at(start);
        let end = from.find(|letter: char| !letter.is_ascii_digit() && !is_mark(letter));
        let run = &from[..end.unwrap_or(from.len())];
        let run = run.trim_end_matches(is_mark);
        let digits: String = run.chars().filter(char::is_ascii_digit).collect();
        match digits.contains(recipient.key()) {
            true => {
                shown.push_str(before.trim_end_matches(['+', '(']));
                shown.push_str(&recipient.to_string());
            }
            false => shown.extend([before, run]),
        }
        rest = &from[run.len()..];
    }
    shown + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, cells: &[&str]) -> String {
        masked(text, &Recipient::from_to("+91 99012-58433"), cells.iter().copied())
    }

    #[test]
    fn a_number_is_masked_wherever_it_stands_and_however_it_is_written() {
        for (text, safe) in [
            (r#"{"to":"+919901258433"}"#, r#"{"to":"…33"}"#),
            ("nov-919901258433", "nov-…33"),
            ("Tel (91) 99012 58433, from 9 to 5", "Tel …33, from 9 to 5"),
            ("0091/9901258433", "…33"),
            ("2026-11-23 and 9,000", "2026-11-23 and 9,000"),
            ("", ""),
        ] {
            assert_eq!(shown(text, &[]), safe);
        }
    }

    #[test]
    fn a_cell_that_is_a_part_of_the_number_is_masked_and_a_short_one_is_not() {
        assert_eq!(shown("to 9901258433, 901 258", &["9901258433"]), "to …33, 901 258");
        assert_eq!(shown("919901258433", &["91", "9901258433"]), "…33");
        assert_eq!(shown("91 of 100", &["91"]), "91 of 100");
    }

    #[test]
    fn an_id_that_is_no_number_is_masked_as_it_is() {
        let person = Recipient::from_user_id("IN.A1b2C3");
        let shown = masked("to IN.A1b2C3, 12345", &person, std::iter::empty());
        assert_eq!(shown, format!("to {person}, 12345"));
    }
}
