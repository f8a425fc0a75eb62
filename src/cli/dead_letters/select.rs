//! Which letters a person means, and which of them may be sent again. Values in, values out.

use crate::queue::rabbitmq::Letter;
use crate::wire::{Class, JobId, NumberId, Priority};
use clap::Args;
use std::fmt;

/// Narrows by what letters have in common; together they all must hold.
#[derive(Debug, Default, Args)]
pub(super) struct Filters {
    /// Only letters of this class: invalid, refused, throttled, unavailable, ambiguous or blocked
    #[arg(long, value_parser = class)]
    pub(super) class: Option<Class>,
    /// Only letters whose last error has this code of Meta's
    #[arg(long)]
    pub(super) code: Option<u32>,
    /// Only letters of this phone number ID
    #[arg(long, value_name = "ID", value_parser = NumberId::parse)]
    pub(super) number: Option<NumberId>,
}

/// What is to be picked: nothing is by accident.
#[derive(Debug, Default, Args)]
#[group(required = true, multiple = true, args = ["id", "class", "code", "number", "all"])]
pub(super) struct Selection {
    /// The letters of these jobs
    #[arg(long, value_name = "ID", num_args = 1.., value_parser = JobId::parse,
          conflicts_with_all = ["class", "code", "number", "all"])]
    pub(super) id: Vec<JobId>,
    #[command(flatten)]
    pub(super) filters: Filters,
    /// All letters
    #[arg(long, conflicts_with_all = ["class", "code", "number"])]
    pub(super) all: bool,
}

fn class(word: &str) -> Result<Class, String> {
    Class::from_name(word)
        .ok_or_else(|| format!("one of {}", Class::ALL.map(Class::name).join(", ")))
}

impl Filters {
    pub(super) fn pick(&self, letter: &Letter) -> bool {
        let number = letter.lane.as_ref().map(|(number, _)| number);
        (self.class.is_none() || self.class == letter.class)
            && (self.code.is_none() || self.code == letter.code)
            && (self.number.is_none() || self.number.as_ref() == number)
    }
}

impl Selection {
    pub(super) fn picks(&self, letter: &Letter) -> bool {
        match self.id.is_empty() {
            true => self.filters.pick(letter),
            false => letter.id.as_ref().is_some_and(|id| self.id.contains(id)),
        }
    }

    fn names_invalid(&self) -> bool {
        !self.id.is_empty() || self.filters.class == Some(Class::Invalid)
    }
}

/// Such as ` of class throttled, code 130429`; nothing where all are meant.
impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Filters { class, code, number } = &self.filters;
        let ids: Vec<&str> = self.id.iter().map(JobId::as_str).collect();
        let parts = [
            (!ids.is_empty()).then(|| format!("job {}", ids.join(", "))),
            class.map(|class| format!("class {}", class.name())),
            code.map(|code| format!("code {code}")),
            number.as_ref().map(|number| format!("number {number}")),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        match parts.is_empty() {
            true => Ok(()),
            false => write!(f, " of {}", parts.join(", ")),
        }
    }
}

/// What a replay does with a letter that was picked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict<'a> {
    /// It goes to this lane.
    Go(&'a (NumberId, Priority)),
    /// It stays.
    Stay(Why),
}

/// Why a letter that was picked is not replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// It may have been sent already.
    MayBeSent,
    /// It would fail again.
    Invalid,
    /// Its `x-routing-key` cannot be read.
    NoLane,
}

/// Judges a letter that was picked; `unknown` also sends again what may have been sent. A class that
/// cannot be read says nothing against a doubt.
pub(super) fn judge<'a>(letter: &'a Letter, selection: &Selection, unknown: bool) -> Verdict<'a> {
    let Some(lane) = &letter.lane else { return Verdict::Stay(Why::NoLane) };
    match letter.class {
        Some(Class::Ambiguous) | None if !unknown => Verdict::Stay(Why::MayBeSent),
        Some(Class::Invalid) if !selection.names_invalid() => Verdict::Stay(Why::Invalid),
        Some(
            Class::Invalid
            | Class::Refused
            | Class::Throttled
            | Class::Unavailable
            | Class::Ambiguous
            | Class::Blocked,
        )
        | None => Verdict::Go(lane),
    }
}
