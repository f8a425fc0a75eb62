//! The closing table of the demo: what became of the jobs, for a person. Everything in it is counted
//! from the results and from the sandbox's own book.

use crate::wire::{ResultEvent, Status};
use std::collections::BTreeMap;
use std::fmt::Write;

/// One number's row.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// Who it is.
    pub(crate) name: String,
    /// Meta's phone number ID.
    pub(crate) number: String,
    /// Most requests in any sliding second, by the sandbox's clock.
    pub(crate) busiest: usize,
    /// The ceiling that the sandbox enforces.
    pub(crate) ceiling: u32,
}

/// What the sandbox saw, beside the rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// Messages that it took in.
    pub(crate) accepted: usize,
    /// Jobs of which it took in more than one message.
    pub(crate) twice: usize,
    /// How long it all took, in seconds.
    pub(crate) seconds: f64,
}

/// The whole table as text.
pub(crate) fn render(rows: &[Row], results: &[ResultEvent], seen: Seen) -> String {
    let mut text = String::new();
    numbers(&mut text, rows, results);
    reasons(&mut text, results);
    let retried = results.iter().filter(|result| result.attempts > 1).count();
    let urgent = waits(results, true).zip(waits(results, false));
    let mut line = |line: std::fmt::Arguments| writeln!(text, "{line}");
    // Writing into a String cannot fail.
    let _written: std::fmt::Result = (|| {
        line(format_args!(""))?;
        if let Some((urgent, normal)) = urgent {
            line(format_args!(
                "Urgent jobs waited {urgent:.1} s in the middle, the others {normal:.1} s."
            ))?;
        }
        line(format_args!("{retried} jobs needed more than one attempt."))?;
        line(format_args!(
            "WhatsApp (here: the sandbox) took in {} messages; messages sent twice: {}.",
            seen.accepted, seen.twice
        ))?;
        line(format_args!(
            "{} jobs, {} results, {:.1} s.",
            results.len(),
            results.len(),
            seen.seconds
        ))
    })();
    text
}

fn numbers(text: &mut String, rows: &[Row], results: &[ResultEvent]) {
    let head = ["number", "accepted", "failed", "expired", "unknown", "busiest second"];
    let mut lines = vec![head.map(str::to_owned)];
    for row in rows {
        let of = |status: Status| {
            let own = |result: &&ResultEvent| {
                result.status == status
                    && result.phone_number_id.as_ref().is_some_and(|n| n.as_str() == row.number)
            };
            results.iter().filter(own).count().to_string()
        };
        lines.push([
            format!("{} ({})", row.number, row.name),
            of(Status::Accepted),
            of(Status::Failed),
            of(Status::Expired),
            of(Status::Unknown),
            format!("{} of {} allowed", row.busiest, row.ceiling),
        ]);
    }
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    for line in &lines {
        let cells: Vec<String> = line
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, width))| match column {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            })
            .collect();
        text.push_str(&cells.join("  "));
        text.push('\n');
    }
}

/// Why jobs were not accepted, most frequent first.
fn reasons(text: &mut String, results: &[ResultEvent]) {
    let mut counted: BTreeMap<String, usize> = BTreeMap::new();
    for result in results {
        let why = match (&result.status, &result.error) {
            (Status::Accepted, _) => continue,
            (Status::Expired, None) => "its expires_at had passed: never sent".to_owned(),
            (_, Some(error)) => format!("{}: {}", error.class.name(), error.message),
            (_, None) => "no reason was given".to_owned(),
        };
        *counted.entry(format!("{:<8} {why}", result.status.name())).or_default() += 1;
    }
    let mut counted: Vec<(String, usize)> = counted.into_iter().collect();
    counted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    if !counted.is_empty() {
        text.push_str("\nNot accepted:\n");
    }
    for (why, count) in counted {
        text.push_str(&format!("{count:>5}  {why}\n"));
    }
}

/// The middle of the times from arrival to result, in seconds, of accepted jobs.
fn waits(results: &[ResultEvent], urgent: bool) -> Option<f64> {
    let mut waits: Vec<f64> = results
        .iter()
        .filter(|result| result.status == Status::Accepted && result.attempts == 1)
        .filter(|result| result.id.as_str().ends_with("-urgent") == urgent)
        .map(|result| result.finished_at.duration_since(result.received_at).as_secs_f64())
        .collect();
    waits.sort_by(f64::total_cmp);
    waits.get(waits.len() / 2).copied()
}
