//! The first reading of a table: what would be enqueued, what would not and why, and how the first job looks.
//! Enqueues nothing.

use super::table::{Rows, Table};
use super::tally::Refusals;
use crate::cli::progress;
use crate::wire::NumberId;
use std::collections::BTreeMap;
use std::io;
use tokio_util::sync::CancellationToken;

/// What a table comes to.
#[derive(Debug, Default)]
pub(super) struct Checked {
    /// How many jobs each number gets.
    pub(super) jobs: BTreeMap<NumberId, u64>,
    pub(super) refused: u64,
    /// The first job, for a person.
    pub(super) first: Option<String>,
}

impl Checked {
    pub(super) fn count(&self) -> u64 {
        self.jobs.values().sum()
    }
}

/// Reads all of it, names what is refused, and ends early at a stop. `in_full` shows the first recipient.
pub(super) async fn check(
    table: &Table,
    in_full: bool,
    stop: &CancellationToken,
) -> io::Result<Checked> {
    let (rows, stop) = (table.rows()?, stop.clone());
    let reading = tokio::task::spawn_blocking(move || read(rows, in_full, &stop));
    reading.await.map_err(io::Error::other)?
}

fn read(mut rows: Rows, in_full: bool, stop: &CancellationToken) -> io::Result<Checked> {
    let bar = progress::bar(None, "checking");
    let (mut checked, mut refusals) = (Checked::default(), Refusals::named());
    while let Some(entry) = rows.next() {
        if stop.is_cancelled() {
            break;
        }
        let entry = entry?;
        bar.inc(1);
        match entry.job {
            Err(reason) => refusals.add(entry.line, &reason, &bar),
            Ok((job, _)) => {
                if checked.first.is_none() {
                    checked.first = Some(rows.shown(entry.line, &job, in_full));
                }
                *checked.jobs.entry(job.phone_number_id).or_default() += 1;
            }
        }
    }
    bar.finish_and_clear();
    refusals.tell_rest();
    checked.refused = refusals.count();
    Ok(checked)
}
