//! What a job costs, recorded and measured, in instructions: reads what the counter wrote, compares, and says
//! what to do then. It runs nothing, and looks at no file.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A cost that is off the recorded one by more than so many percent is told of; one that grew fails.
pub(crate) const BOUND: u64 = 10;

/// The first lines of a record.
const HEAD: &str = "\
# What a job costs, in instructions of the worker: written by `make cost ACCEPT=1`, not by hand. `make cost`,
# a part of CI, fails where a row has grown by more than 10%: CONTRIBUTING.md, \"What a job costs\".

";

/// The costs that were accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    /// By row.
    instructions_a_job: BTreeMap<String, u64>,
    /// What decides about counts beside our own code.
    made_with: BTreeMap<String, String>,
}

/// What was measured of one kind of work.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    name: String,
    /// Instructions a job, ascending; one or more.
    rounds: Vec<u64>,
}

/// What came of a comparison.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Judgement {
    pub(crate) passes: bool,
    pub(crate) text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Within,
    Grew,
    Shrank,
    NotRecorded,
}

impl Record {
    /// Of these rows, all of them.
    pub(crate) fn of(made_with: BTreeMap<String, String>, rows: &[Row]) -> Record {
        let costs = rows.iter().map(|row| (row.name.clone(), row.median()));
        Record { instructions_a_job: costs.collect(), made_with }
    }

    /// Reads it as it was written.
    pub(crate) fn read(text: &str) -> Result<Record, toml::de::Error> {
        toml::from_str(text)
    }

    /// As it stands in a file.
    pub(crate) fn written(&self) -> Result<String, toml::ser::Error> {
        Ok(HEAD.to_owned() + &toml::to_string(self)?)
    }

    /// Holds against this record what was measured, and with what. `accept` is the command that writes a record anew.
    pub(crate) fn judge(
        &self,
        made_with: &BTreeMap<String, String>,
        rows: &[Row],
        accept: &str,
    ) -> Judgement {
        let verdicts: Vec<Verdict> = rows.iter().map(|row| self.verdict(row)).collect();
        let any = |wanted: Verdict| verdicts.contains(&wanted);
        let mut text = self.table(rows, &verdicts);
        let passes = !any(Verdict::Grew) && !any(Verdict::NotRecorded);
        if !passes {
            text += &format!(
                "\nA job costs over {BOUND}% more than recorded, or has no record: the rows in capitals. Counted are \
                 instructions, not\nseconds: a busy machine moves them by a few percent at most, as the rounds show.\n  \
                 where it went: valgrind --tool=callgrind, then callgrind_annotate\n  \
                 to accept it:  {accept}, and commit the record with the change and its reason\n"
            );
        } else if any(Verdict::Shrank) {
            text += &format!(
                "\nA job costs less than recorded by more than {BOUND}%: `{accept}` accepts that, so that it stays so.\n"
            );
        }
        let differences = self.differences(made_with);
        if !passes && !differences.is_empty() {
            text += "\nThe record was made with something else, which changes counts by itself:\n";
            text += &differences;
        }
        Judgement { passes, text }
    }

    fn verdict(&self, row: &Row) -> Verdict {
        match self.instructions_a_job.get(&row.name) {
            None => Verdict::NotRecorded,
            Some(recorded) if row.median() * 100 > recorded * (100 + BOUND) => Verdict::Grew,
            Some(recorded) if row.median() * 100 < recorded * (100 - BOUND) => Verdict::Shrank,
            Some(_) => Verdict::Within,
        }
    }

    fn table(&self, rows: &[Row], verdicts: &[Verdict]) -> String {
        let mut text =
            "Instructions of the worker a job: median of the rounds (least to most)\n".to_owned();
        for (row, verdict) in rows.iter().zip(verdicts) {
            let recorded = self.instructions_a_job.get(&row.name);
            let against = recorded.map_or_else(
                || "no record".to_owned(),
                |recorded| format!("recorded {recorded}, {}", growth(*recorded, row.median())),
            );
            let line =
                writeln!(text, "  {}: {}, {against}{}", row.name, row.spread(), verdict.told());
            line.unwrap_or_default();
        }
        text
    }

    fn differences(&self, made_with: &BTreeMap<String, String>) -> String {
        let other = made_with.iter().filter_map(|(what, now)| {
            let then = self.made_with.get(what).map_or("unknown", String::as_str);
            (then != now).then(|| format!("  {what}: recorded {then}, now {now}\n"))
        });
        other.collect()
    }
}

impl Row {
    /// Of one round or more.
    pub(crate) fn new(name: String, mut rounds: Vec<u64>) -> Row {
        rounds.sort_unstable();
        Row { name, rounds }
    }

    fn median(&self) -> u64 {
        self.rounds[self.rounds.len() / 2]
    }

    fn spread(&self) -> String {
        let (least, most) = (self.rounds[0], self.rounds[self.rounds.len() - 1]);
        format!("{} ({least} to {most})", self.median())
    }
}

impl Verdict {
    fn told(self) -> &'static str {
        match self {
            Verdict::Within => "",
            Verdict::Grew => ": GREW",
            Verdict::Shrank => ": shrank",
            Verdict::NotRecorded => ": NOT RECORDED",
        }
    }
}

/// Such as `+12.3%`.
fn growth(recorded: u64, measured: u64) -> String {
    let sign = if measured < recorded { '-' } else { '+' };
    let tenths = measured.abs_diff(recorded) * 1_000 / recorded.max(1);
    format!("{sign}{}.{}%", tenths / 10, tenths % 10)
}

/// All instructions of a program, out of the file that cachegrind wrote at its end.
pub(crate) fn counted(file: &str) -> Option<u64> {
    let summary = file.lines().rev().find_map(|line| line.strip_prefix("summary:"))?;
    summary.trim().parse().ok()
}

/// Instructions a job, out of the jobs and the instructions of a small lap and of a large one.
pub(crate) fn a_job(small: (usize, u64), large: (usize, u64)) -> u64 {
    let jobs = u64::try_from(large.0 - small.0).unwrap_or(u64::MAX);
    large.1.saturating_sub(small.1) / jobs
}
