//! `[[chakra.code]]`: rows of the code table, each checked for what its class can mean at all. A row that
//! could make jobs fail, or go on for ever, for a reason that is not theirs is refused.

use super::reader::Reader;
use super::sections::{DAY, MINUTE, SECOND};
use super::units::show_duration;
use crate::chakra::{self, Codes, Override, Verdict};
use crate::wire::{Class, Scope};
use std::ops::RangeInclusive;
use std::time::Duration;

const LIST: &str = "chakra.code";

/// More than Meta documents; each failed request looks through them.
const MOST_ROWS: usize = 200;

/// Meta's codes have up to seven digits.
const CODE: RangeInclusive<u32> = 0..=9_999_999;

/// What is blocked is asked again after this, where its row names no wait.
const BLOCKED_WAIT: Duration = MINUTE;

const CLASSES: [(&str, Class); 5] = [
    ("refused", Class::Refused),
    ("throttled", Class::Throttled),
    ("unavailable", Class::Unavailable),
    ("blocked", Class::Blocked),
    ("ambiguous", Class::Ambiguous),
];

const SCOPES: [(&str, Scope); 5] = [
    ("message", Scope::Message),
    ("recipient", Scope::Recipient),
    ("template", Scope::Template),
    ("number", Scope::Number),
    ("account", Scope::Account),
];

/// Reads the rows. `max_age` is `retry.max_age`, where that is lawful.
pub(super) fn codes(from: &mut Reader, max_age: Option<Duration>) -> Codes {
    let fields = ["code", "codes", "class", "scope", "wait", "max_attempts"];
    let given = from.entries(LIST, &fields);
    if given > MOST_ROWS {
        from.problem(LIST, format!("has {given} rows: {MOST_ROWS} at most"));
    }
    let mut seen: Vec<(String, RangeInclusive<u32>)> = Vec::new();
    let mut rows = Vec::new();
    for index in 0..given.min(MOST_ROWS) {
        let table = format!("{LIST}[{index}]");
        let codes = row_codes(from, &table);
        let verdict = verdict(from, &table, codes.as_ref().map(|(_, codes)| codes), max_age);
        let Some((key, codes)) = codes else { continue };
        if let Some((other, _)) = seen.iter().find(|(_, other)| overlap(other, &codes)) {
            from.problem(&key, format!("stands in {other} already: keep one"));
        }
        seen.push((table, codes.clone()));
        rows.extend(verdict.map(|verdict| Override { codes, verdict }));
    }
    Codes::new(rows)
}

fn overlap(one: &RangeInclusive<u32>, other: &RangeInclusive<u32>) -> bool {
    one.start() <= other.end() && other.start() <= one.end()
}

/// The codes of a row, and the key that names them.
fn row_codes(from: &mut Reader, table: &str) -> Option<(String, RangeInclusive<u32>)> {
    let [one_key, range_key] = ["code", "codes"].map(|key| format!("{table}.{key}"));
    match (from.is_given(&one_key), from.is_given(&range_key)) {
        (true, true) => {
            from.problem(&range_key, format!("is given, and so is {one_key}: keep one"));
        }
        (false, false) => {
            from.problem(&one_key, "is missing; a row has a code, or a range of codes")
        }
        (true, false) | (false, true) => {}
    }
    if let Some(code) = from.integer(&one_key, CODE) {
        return Some((one_key, code..=code));
    }
    if from.is_given(&one_key) {
        return None;
    }
    let range = from.text(&range_key, |text| {
        let codes = text
            .split_once('-')
            .and_then(|(first, last)| Some(first.parse().ok()?..=last.parse().ok()?));
        let lawful = |codes: &RangeInclusive<u32>| !codes.is_empty() && CODE.contains(codes.end());
        codes.filter(lawful).ok_or_else(|| {
            format!("must be two codes up to {}, written like \"200-299\"", CODE.end())
        })
    });
    range.map(|codes| (range_key, codes))
}

/// What follows from a row, where it is lawful. `codes` are the row's, where they are.
fn verdict(
    from: &mut Reader,
    table: &str,
    codes: Option<&RangeInclusive<u32>>,
    max_age: Option<Duration>,
) -> Option<Verdict> {
    let [class_key, scope_key, wait_key, most_key] =
        ["class", "scope", "wait", "max_attempts"].map(|key| format!("{table}.{key}"));
    for key in [&class_key, &scope_key] {
        if !from.is_given(key) {
            from.problem(key, "is missing; a row has a class and a scope");
        }
    }
    let class = from.choice(&class_key, &CLASSES);
    let scope = from.choice(&scope_key, &SCOPES);
    let wait = from.duration(&wait_key, SECOND..=DAY);
    let most = from.integer(&most_key, 1..=1_000);
    let class = class?;
    if let Some(reason) = scope.and_then(|scope| unfit_scope(class, scope)) {
        from.problem(&scope_key, reason);
    }
    if let Some(reason) = codes.and_then(|codes| unfit_class(class, codes)) {
        from.problem(&class_key, reason);
    }
    if from.is_given(&wait_key)
        && let Some(reason) = unfit_wait(class, wait, max_age)
    {
        from.problem(&wait_key, reason);
    }
    if from.is_given(&most_key) && class != Class::Unavailable {
        from.problem(
            &most_key,
            "needs class \"unavailable\": the others are not tried by attempts",
        );
    }
    let wait = wait.or((class == Class::Blocked).then_some(BLOCKED_WAIT));
    Some(Verdict { class, scope: scope?, wait, max_attempts: most })
}

/// Why a failure of this class cannot be about this.
fn unfit_scope(class: Class, scope: Scope) -> Option<&'static str> {
    match (class, scope) {
        (Class::Refused | Class::Unavailable, Scope::Number | Scope::Account) => Some(
            "needs class \"throttled\" or \"blocked\": else each job fails, or spends its attempts, for \
             what is wrong with all of them",
        ),
        (Class::Throttled | Class::Blocked, Scope::Message) => Some(
            "needs class \"unavailable\": what is throttled or blocked spends no attempts, and a \
             message that is so by itself would be tried for ever",
        ),
        (Class::Ambiguous, Scope::Recipient | Scope::Template | Scope::Number | Scope::Account) => {
            Some(
                "must be \"message\" for class \"ambiguous\": each message is looked for by itself",
            )
        }
        (Class::Refused | Class::Unavailable, _)
        | (Class::Throttled | Class::Blocked, _)
        | (Class::Ambiguous | Class::Invalid, _) => None,
    }
}

/// Trouble of the whole account must burn no jobs, whatever a row says.
fn unfit_class(class: Class, codes: &RangeInclusive<u32>) -> Option<String> {
    if matches!(class, Class::Throttled | Class::Blocked) {
        return None;
    }
    let of_account = |row: &&chakra::Row| {
        (row.verdict.class, row.verdict.scope) == (Class::Blocked, Scope::Account)
            && overlap(&row.codes, codes)
    };
    let row = chakra::rows().iter().find(of_account)?;
    Some(format!(
        "must be \"blocked\" or \"throttled\" for code {}, {}: no job may fail for what is wrong with \
         the account",
        row.codes.start(),
        row.meaning,
    ))
}

/// Why a wait would be of no use.
fn unfit_wait(class: Class, wait: Option<Duration>, max_age: Option<Duration>) -> Option<String> {
    match class {
        Class::Refused => Some("has no use: what is refused is not tried again".into()),
        Class::Ambiguous => Some("has no use: when to look for a message stands in [doubt]".into()),
        Class::Unavailable => {
            let (wait, max_age) = (wait?, max_age?);
            (wait > max_age).then(|| {
                format!("must be at most retry.max_age, {}: else no retry", show_duration(max_age))
            })
        }
        Class::Throttled | Class::Blocked | Class::Invalid => None,
    }
}
