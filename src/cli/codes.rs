//! The code table for a person's eyes.

use crate::chakra::{Codes, Line, Override, Verdict};
use crate::config::show_duration;
use serde_json::{Value, json};
use std::fmt::Write;
use std::ops::RangeInclusive;

/// All lines of the table; those of the configuration have a mark.
pub(super) fn render(codes: &Codes) -> String {
    let mut text = format!(
        "  {:<15} {:<11} {:<9} {:<5} {:<8} meaning\n",
        "code", "class", "scope", "wait", "attempts"
    );
    for Line { row, is_override } in codes.lines() {
        let mark = if is_override { '*' } else { ' ' };
        let Verdict { class, scope, wait, max_attempts } = row.verdict;
        let wait = wait.map_or("-".to_owned(), show_duration);
        let most = max_attempts.map_or("-".to_owned(), |most| most.to_string());
        let (codes, class, scope) = (shown(&row.codes), class.name(), scope.name());
        let line = format!("{mark} {codes:<15} {class:<11} {scope:<9} {wait:<5} {most:<8} ");
        // Writing into a String cannot fail.
        writeln!(text, "{}", (line + row.meaning).trim_end()).unwrap_or_default();
    }
    text
}

/// The same for programs.
pub(super) fn to_json(codes: &Codes) -> impl Iterator<Item = Value> {
    codes.lines().into_iter().map(|Line { row, is_override }| {
        let Verdict { class, scope, wait, max_attempts } = row.verdict;
        json!({
            "first_code": row.codes.start(), "last_code": row.codes.end(), "class": class.name(),
            "scope": scope.name(), "wait": wait.map(show_duration), "max_attempts": max_attempts,
            "meaning": row.meaning, "overridden": is_override,
        })
    })
}

/// One line for the rows of the configuration; none where there are none.
pub(super) fn overridden(codes: &Codes) -> Option<String> {
    let row = |Override { codes, verdict }: &Override| {
        format!("{} {} {}", shown(codes), verdict.class.name(), verdict.scope.name())
    };
    let rows: Vec<String> = codes.overrides().iter().map(row).collect();
    let what = match rows.len() {
        0 => return None,
        1 => "1 row of the code table is".to_owned(),
        count => format!("{count} rows of the code table are"),
    };
    Some(format!("{what} overridden: {}", rows.join(", ")))
}

fn shown(codes: &RangeInclusive<u32>) -> String {
    match codes.start() == codes.end() {
        true => codes.start().to_string(),
        false => format!("{}-{}", codes.start(), codes.end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Class, Scope};
    use std::time::Duration;

    fn codes() -> Codes {
        let wait = Some(Duration::from_secs(6 * 3_600));
        let (class, scope) = (Class::Unavailable, Scope::Recipient);
        let verdict = Verdict { class, scope, wait, max_attempts: Some(2) };
        let rows = [131_049..=131_049, 139_000..=139_009];
        Codes::new(rows.map(|codes| Override { codes, verdict }).into())
    }

    #[test]
    fn rows_of_the_configuration_have_a_mark_in_the_table() {
        let table = render(&codes());
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[0], "  code            class       scope     wait  attempts meaning");
        assert_eq!(
            lines[1],
            "  0               blocked     account   1m    -        authentication failed"
        );
        let marked: Vec<&&str> = lines.iter().filter(|line| line.starts_with('*')).collect();
        assert_eq!(
            marked,
            [
                &"* 131049          unavailable recipient 6h    2        not sent, to keep engagement \
                  healthy; not again within 24 h",
                &"* 139000-139009   unavailable recipient 6h    2",
            ]
        );
    }

    #[test]
    fn what_is_overridden_is_told_in_one_line() {
        assert_eq!(overridden(&Codes::default()), None);
        assert_eq!(
            overridden(&codes()).unwrap(),
            "2 rows of the code table are overridden: 131049 unavailable recipient, 139000-139009 \
             unavailable recipient"
        );
    }
}
