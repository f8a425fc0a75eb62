//! `dead-letters list`: groups of letters that died of the same, for a person or as JSON.

use super::select::Filters;
use super::{begin, finish, next};
use crate::cli::columns::columns;
use crate::cli::output::{moment, print, tame, tell};
use crate::cli::{End, progress};
use crate::queue::rabbitmq::{DeadLetters, Letter};
use crate::wire::{Class, JobId, NumberId};
use clap::Args;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tokio_util::sync::CancellationToken;

/// Kept apart at once: strangers can make up numbers. Letters of further groups are only counted.
const MOST_GROUPS: usize = 10_000;

/// A reason is cut to this many characters in the table; `--json` and `show` have all of it.
const REASON_CHARS: usize = 60;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  chakra-sender dead-letters list                                                 how many, and of what they died
  chakra-sender dead-letters list --class unavailable --number 1027729340496751")]
pub(super) struct ListArguments {
    #[command(flatten)]
    filters: Filters,
    /// One JSON object a group
    #[arg(long)]
    json: bool,
}

/// Class, code and number.
type Key = (Option<Class>, Option<u32>, Option<NumberId>);

/// Letters that died of the same.
#[derive(Debug)]
struct Group {
    count: u64,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    /// Of the first letter.
    reason: Option<String>,
    id: Option<JobId>,
}

#[derive(Debug, Default)]
struct Groups {
    of: BTreeMap<Key, Group>,
    /// Letters beyond [`MOST_GROUPS`].
    others: u64,
}

pub(super) async fn run(
    arguments: &ListArguments,
    letters: &DeadLetters,
    stop: &CancellationToken,
) -> anyhow::Result<End> {
    let mut pass = begin(letters).await?;
    let bar = progress::bar(Some(pass.total().into()), "reading");
    let mut groups = Groups::default();
    while let Some(letter) = next(&mut pass, stop).await? {
        bar.inc(1);
        if arguments.filters.pick(&letter) {
            groups.add(letter);
        }
    }
    bar.finish_and_clear();
    let all = finish(pass, stop).await?;
    let text = match arguments.json {
        true => groups.of.iter().map(|(key, group)| format!("{}\n", to_json(key, group))).collect(),
        false => groups.table(),
    };
    print(text)?;
    if groups.others > 0 {
        tell(format_args!("{} more, in more than {MOST_GROUPS} groups: narrow it", groups.others));
    }
    if groups.of.is_empty() && all {
        tell(format_args!("no dead letters"));
    }
    Ok(if all { End::Done } else { End::NotWell })
}

impl Groups {
    fn add(&mut self, letter: Letter) {
        let key = (letter.class, letter.code, letter.lane.map(|(number, _)| number));
        if self.of.len() >= MOST_GROUPS && !self.of.contains_key(&key) {
            self.others += 1;
            return;
        }
        let died = letter.died_at;
        let group = self.of.entry(key).or_insert(Group {
            count: 0,
            first: died,
            last: died,
            reason: letter.reason,
            id: letter.id,
        });
        group.count += 1;
        group.first = died.into_iter().chain(group.first).min();
        group.last = died.into_iter().chain(group.last).max();
    }

    fn table(&self) -> String {
        if self.of.is_empty() {
            return String::new();
        }
        let head = ["letters", "class", "code", "number", "first", "last", "for example"];
        let mut rows = vec![head.map(str::to_owned)];
        rows.extend(self.of.iter().map(|(key, group)| row(key, group)));
        columns(&rows, [true, false, false, false, false, false, false])
    }
}

fn row((class, code, number): &Key, group: &Group) -> [String; 7] {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let moment = |at: Option<Timestamp>| or_none(at.map(|at| format!("{at:.0}")));
    let reason: String = tame(group.reason.as_deref().unwrap_or("no reason given"))
        .chars()
        .take(REASON_CHARS)
        .collect();
    [
        group.count.to_string(),
        or_none(class.map(|class| class.name().to_owned())),
        or_none(code.map(|code| code.to_string())),
        or_none(number.as_ref().map(ToString::to_string)),
        moment(group.first),
        moment(group.last),
        format!("{}: {reason}", or_none(group.id.as_ref().map(ToString::to_string))),
    ]
}

fn to_json((class, code, number): &Key, group: &Group) -> Value {
    json!({
        "class": class.map(Class::name),
        "code": code,
        "phone_number_id": number,
        "letters": group.count,
        "first_died_at": moment(group.first),
        "last_died_at": moment(group.last),
        "sample": { "id": group.id, "reason": group.reason },
    })
}
