//! The table that is in force: the rows of the configuration, over the built-in ones. What makes a row
//! lawful is checked where the configuration is read.

use super::{Row, Verdict, rows};
use std::ops::RangeInclusive;

/// A row of the configuration. It stands in place of all that the built-in table says of its codes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// One code, or a range with the same meaning.
    pub codes: RangeInclusive<u32>,
    /// What follows.
    pub verdict: Verdict,
}

/// The whole table. By default it is the built-in one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Codes {
    /// In ascending order.
    overrides: Vec<Override>,
}

/// One line of the table that is in force.
#[derive(Debug, Clone)]
pub struct Line {
    /// Its meaning is empty where only the configuration knows these codes.
    pub row: Row,
    /// Whether it comes from the configuration.
    pub is_override: bool,
}

impl Codes {
    /// The built-in table under these rows. No code stands in two of them.
    pub fn new(mut overrides: Vec<Override>) -> Codes {
        overrides.sort_by_key(|row| *row.codes.start());
        Codes { overrides }
    }

    /// What follows from a code; none where neither table has it.
    pub(in crate::chakra) fn verdict(&self, code: u32) -> Option<Verdict> {
        let configured = self.overrides.iter().find(|row| row.codes.contains(&code));
        configured.map(|row| row.verdict).or_else(|| Some(super::find(code)?.verdict))
    }

    /// The rows of the configuration, in ascending order.
    pub fn overrides(&self) -> &[Override] {
        &self.overrides
    }

    /// All lines, in ascending order, without overlap.
    pub fn lines(&self) -> Vec<Line> {
        let built_in = rows().iter().flat_map(|row| {
            let rest = self.not_overridden(row).into_iter();
            rest.map(|codes| Line { row: Row { codes, ..row.clone() }, is_override: false })
        });
        let overrides = self.overrides.iter().map(|Override { codes, verdict }| Line {
            row: Row { codes: codes.clone(), verdict: *verdict, meaning: meaning(codes) },
            is_override: true,
        });
        let mut lines: Vec<Line> = built_in.chain(overrides).collect();
        lines.sort_by_key(|line| *line.row.codes.start());
        lines
    }

    /// The parts of a built-in row for which it still holds.
    fn not_overridden(&self, row: &Row) -> Vec<RangeInclusive<u32>> {
        let (mut next, last) = (*row.codes.start(), *row.codes.end());
        let mut parts = Vec::new();
        for Override { codes, .. } in &self.overrides {
            if *codes.end() < next || *codes.start() > last {
                continue;
            }
            if *codes.start() > next {
                parts.push(next..=*codes.start() - 1);
            }
            next = codes.end().saturating_add(1);
        }
        if next <= last {
            parts.push(next..=last);
        }
        parts
    }
}

/// What the built-in table says that these codes mean, where they are part of one of its rows.
fn meaning(codes: &RangeInclusive<u32>) -> &'static str {
    let row = super::find(*codes.start()).filter(|row| row.codes.contains(codes.end()));
    row.map_or("", |row| row.meaning)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Class, Scope};
    use std::time::Duration;

    const LATER: Verdict = Verdict {
        class: Class::Unavailable,
        scope: Scope::Message,
        wait: Some(Duration::from_secs(30)),
        max_attempts: Some(2),
    };

    fn codes(overrides: &[RangeInclusive<u32>]) -> Codes {
        let row = |codes: &RangeInclusive<u32>| Override { codes: codes.clone(), verdict: LATER };
        Codes::new(overrides.iter().map(row).collect())
    }

    #[test]
    fn a_row_of_the_configuration_wins_and_the_others_stay() {
        let codes = codes(&[131_026..=131_026, 139_000..=139_999]);
        assert_eq!(codes.verdict(131_026), Some(LATER));
        assert_eq!(codes.verdict(139_500), Some(LATER));
        for code in [4, 130_429, 131_047] {
            assert_eq!(codes.verdict(code), Codes::default().verdict(code), "{code}");
        }
        assert_eq!(codes.verdict(999_999), None);
    }

    #[test]
    fn the_lines_are_the_built_in_rows_but_for_what_is_overridden() {
        let built_in = Codes::default().lines();
        assert!(built_in.iter().all(|line| !line.is_override));
        assert_eq!(built_in.len(), rows().len());

        let lines = codes(&[250..=259, 195..=209, 131_000..=131_999]).lines();
        let shown: Vec<_> = lines
            .iter()
            .filter(|line| (190..132_000).contains(line.row.codes.start()))
            .map(|line| (line.row.codes.clone(), line.is_override, line.row.meaning))
            .collect();
        let permission = "permission missing or revoked";
        assert_eq!(
            shown[..5],
            [
                (190..=190, false, "access token expired"),
                (195..=209, true, ""),
                (210..=249, false, permission),
                (250..=259, true, permission),
                (260..=299, false, permission),
            ]
        );
        assert_eq!(shown.last(), Some(&(131_000..=131_999, true, "")));
    }
}
