//! The closing table of the demo: what became of the jobs, for a person. Everything in it is counted
//! from what a consumer was told and from the sandbox's own book.

use super::gathered::Told;
use crate::wire::DeliveryStatus;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// A result as a consumer reads it from its event.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Outcome {
    id: String,
    phone_number_id: Option<String>,
    status: String,
    attempts: u32,
    error: Option<Reason>,
    received_at: Timestamp,
    finished_at: Timestamp,
}

#[derive(Debug, Clone, Deserialize)]
struct Reason {
    class: String,
    message: String,
}

/// One number's row.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// Who it is.
    pub(super) name: String,
    /// Meta's phone number ID.
    pub(super) number: String,
    /// Most requests in any sliding second, by the sandbox's clock.
    pub(super) busiest: usize,
    /// The ceiling that the sandbox enforces.
    pub(super) ceiling: u32,
}

/// What the sandbox saw, and the lines that could have no result.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// Messages that it took in.
    pub(super) accepted: u64,
    /// Jobs of which it took in more than one message.
    pub(super) twice: usize,
    /// Lines without a readable id.
    pub(super) unreadable: u64,
    /// From the first job to the last result.
    pub(super) took: Duration,
}

/// The whole table as text.
pub(super) fn render(rows: &[Row], told: &Told, seen: Seen) -> String {
    let results = &told.results;
    let mut lines = numbers(rows, results);
    lines.extend(reasons(results, seen.unreadable));
    lines.push(String::new());
    if let (Some(urgent), Some(others)) = (middle_wait(results, true), middle_wait(results, false))
    {
        lines.push(format!(
            "Half of the urgent jobs were out within {urgent:.1} s, of the others within {others:.1} s."
        ));
    }
    let retried = results.iter().filter(|result| result.attempts > 1).count();
    lines.push(format!("{retried} jobs needed more than one attempt."));
    lines.push(format!(
        "WhatsApp (here: the sandbox) took in {} messages; messages sent twice: {}.",
        seen.accepted, seen.twice
    ));
    lines.push(statuses(&told.statuses));
    let jobs = seen.unreadable + results.len() as u64;
    let seconds = seen.took.as_secs_f64();
    lines.push(format!("{jobs} jobs in, {} results out, in {seconds:.1} s.", results.len()));
    lines.join("\n")
}

/// The same for a program.
pub(super) fn to_json(rows: &[Row], told: &Told, seen: Seen) -> Value {
    let numbers: Vec<Value> = rows
        .iter()
        .map(|row| {
            let [accepted, failed, expired, unknown] = ended(&told.results, row);
            json!({
                "phone_number_id": row.number, "name": row.name, "accepted": accepted, "failed": failed,
                "expired": expired, "unknown": unknown, "busiest_second": row.busiest,
                "ceiling": row.ceiling,
            })
        })
        .collect();
    json!({
        "numbers": numbers, "results": told.results.len(), "unreadable": seen.unreadable,
        "messages_taken_in": seen.accepted, "sent_twice": seen.twice, "statuses": told.statuses,
        "seconds": seen.took.as_secs_f64(),
    })
}

/// How many of a number's jobs were accepted, failed, expired, or ended as unknown.
fn ended(results: &[Outcome], row: &Row) -> [usize; 4] {
    let is_its = |result: &&Outcome| result.phone_number_id.as_deref() == Some(&row.number);
    ["accepted", "failed", "expired", "unknown"].map(|status| {
        results.iter().filter(is_its).filter(|result| result.status == status).count()
    })
}

fn numbers(rows: &[Row], results: &[Outcome]) -> Vec<String> {
    const HEAD: [&str; 6] =
        ["number", "accepted", "failed", "expired", "unknown", "busiest second"];
    let mut table = vec![HEAD.map(str::to_owned)];
    for row in rows {
        let [accepted, failed, expired, unknown] =
            ended(results, row).map(|count| count.to_string());
        table.push([
            format!("{} ({})", row.number, row.name),
            accepted,
            failed,
            expired,
            unknown,
            format!("{} of {} allowed", row.busiest, row.ceiling),
        ]);
    }
    let width = |column: usize| table.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; HEAD.len()] = std::array::from_fn(width);
    let show = |row: &[String; HEAD.len()]| {
        let first = format!("{:<width$}", row[0], width = widths[0]);
        let rest = row[1..].iter().zip(&widths[1..]).map(|(cell, width)| format!("{cell:>width$}"));
        std::iter::once(first).chain(rest).collect::<Vec<_>>().join("  ")
    };
    table.iter().map(show).collect()
}

/// What became of messages, in the order in which it happens to one.
fn statuses(counted: &HashMap<DeliveryStatus, u64>) -> String {
    let count = |status: DeliveryStatus| {
        Some(format!("{} {status}", counted.get(&status)?, status = status.name()))
    };
    let counts: Vec<String> = DeliveryStatus::ALL.into_iter().filter_map(count).collect();
    match counts.is_empty() {
        true => "statuses: none".to_owned(),
        false => format!("statuses: {}", counts.join(", ")),
    }
}

/// Why jobs were not accepted, most frequent first.
fn reasons(results: &[Outcome], unreadable: u64) -> Vec<String> {
    let mut counted: BTreeMap<String, u64> = BTreeMap::new();
    for result in results {
        let why = match (result.status.as_str(), &result.error) {
            ("accepted", _) => continue,
            ("expired", None) => "its expires_at had passed: never sent".to_owned(),
            (_, Some(error)) => format!("{}: {}", error.class, without_place(&error.message)),
            (_, None) => "no reason was given".to_owned(),
        };
        *counted.entry(format!("{:<7}  {why}", result.status)).or_default() += 1;
    }
    if unreadable > 0 {
        let why = "no result, since no id can be read: it went to the dead letters with the reason";
        counted.insert(why.to_owned(), unreadable);
    }
    let mut counted: Vec<(String, u64)> = counted.into_iter().collect();
    counted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let head = ["".to_owned(), "Not accepted:".to_owned()];
    head.into_iter()
        .chain(counted.into_iter().map(|(why, count)| format!("{count:>5}  {why}")))
        .collect()
}

/// A parser's sentence without where it happened, so that like ones are counted together.
fn without_place(message: &str) -> &str {
    message.split(" at line ").next().unwrap_or(message)
}

/// The middle of the times from arrival to result, in seconds, of jobs accepted at once.
fn middle_wait(results: &[Outcome], urgent: bool) -> Option<f64> {
    let mut waits: Vec<f64> = results
        .iter()
        .filter(|result| result.status == "accepted" && result.attempts == 1)
        .filter(|result| result.id.ends_with("-urgent") == urgent)
        .map(|result| result.finished_at.duration_since(result.received_at).as_secs_f64())
        .collect();
    waits.sort_by(f64::total_cmp);
    waits.get(waits.len() / 2).copied()
}
