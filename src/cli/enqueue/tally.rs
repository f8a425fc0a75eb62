//! What became of the lines, counted and told to a person.

use super::entries::Entry;
use super::outcomes::Outcomes;
use crate::cli::End;
use crate::cli::fail_on::FailOn;
use crate::cli::output::{print_json, tell};
use crate::queue::rabbitmq::Taken;
use crate::wire::{JobId, SendJob};
use anyhow::Context;
use bytes::Bytes;
use indicatif::{HumanCount, ProgressBar};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Refused lines are named one by one up to this many; then they are only counted.
const NAMED: u64 = 20;

/// What it takes, for who gives it another thing.
const NO_JOBS: &str = "no line is a job: a job is a JSON object on one line, in UTF-8; a table in CSV needs --template";

/// Lines that ask for no lawful job.
#[derive(Debug)]
pub(super) struct Refusals {
    count: u64,
    named: u64,
}

impl Refusals {
    /// The first ones are named.
    pub(super) fn named() -> Refusals {
        Refusals { count: 0, named: NAMED }
    }

    /// They were named before.
    pub(super) fn counted() -> Refusals {
        Refusals { count: 0, named: 0 }
    }

    pub(super) fn add(&mut self, line: u64, reason: &str, bar: &ProgressBar) {
        self.count += 1;
        if self.count <= self.named {
            bar.suspend(|| tell(format_args!("line {line}: not enqueued: {reason}")));
        }
    }

    /// How many were not named.
    pub(super) fn tell_rest(&self) {
        let rest = self.count.saturating_sub(self.named);
        if self.named > 0 && rest > 0 {
            tell(format_args!("and {} more lines not enqueued", HumanCount(rest)));
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }
}

/// The summary where nothing was enqueued: so many jobs could be, and so many lines ask for none.
pub(super) fn nothing(could_be: u64, invalid: u64) -> Value {
    json!({ "enqueued": 0, "could_be": could_be, "invalid": invalid, "unroutable": 0, "refused": 0,
        "results": null })
}

/// Why nothing more is done.
#[derive(Debug)]
pub(super) enum Ended {
    /// All lines were put, and all results that were waited for have come.
    Done,
    /// A person asked for it.
    Stopped,
    /// Lines cannot be read or put, or results not heard.
    Failed(anyhow::Error),
}

/// What became of the lines.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) confirmed: u64,
    unroutable: u64,
    refused: u64,
    refusals: Refusals,
    /// The last line that was looked at.
    last: u64,
    /// Lines that were put and not confirmed yet: at most a window.
    open: BTreeSet<u64>,
    /// There are no more lines, and none is open.
    is_read: bool,
    /// Of the jobs, where they are waited for.
    outcomes: Option<Outcomes>,
    pub(super) bar: ProgressBar,
}

impl Tally {
    pub(super) fn new(refusals: Refusals, outcomes: Option<Outcomes>, bar: ProgressBar) -> Tally {
        Tally {
            confirmed: 0,
            unroutable: 0,
            refused: 0,
            refusals,
            last: 0,
            open: BTreeSet::new(),
            is_read: false,
            outcomes,
            bar,
        }
    }

    /// The job of a line, which is to be put; an unlawful one is complained about.
    pub(super) fn begin(&mut self, entry: Entry) -> Option<(SendJob, Bytes)> {
        self.last = entry.line;
        match entry.job {
            Ok((job, body)) => {
                self.open.insert(entry.line);
                if let Some(outcomes) = &mut self.outcomes {
                    outcomes.expect(&job.id);
                }
                Some((job, body))
            }
            Err(reason) => {
                self.refusals.add(entry.line, &reason, &self.bar);
                None
            }
        }
    }

    /// How the broker took the job of a line. The error is that of the connection.
    pub(super) fn settle(
        &mut self,
        (line, id): (u64, &JobId),
        taken: Result<Taken, String>,
    ) -> Result<(), String> {
        let taken = taken?;
        match taken {
            Taken::Confirmed => self.confirmed += 1,
            Taken::Unroutable => self.unroutable += 1,
            Taken::Refused => self.refused += 1,
        }
        if let (Taken::Unroutable | Taken::Refused, Some(outcomes)) = (taken, &mut self.outcomes) {
            outcomes.forget(id);
        }
        self.open.remove(&line);
        self.bar.inc(1);
        Ok(())
    }

    /// There are no more lines. From here the bar shows the results, if they are waited for.
    pub(super) fn all_are_put(&mut self, results: impl FnOnce(u64) -> ProgressBar) {
        self.is_read = true;
        if let Some(outcomes) = &self.outcomes {
            self.bar.finish_and_clear();
            self.bar = results(outcomes.ended() + outcomes.open() as u64);
            self.bar.set_position(outcomes.ended());
        }
    }

    /// Takes an event of one of the jobs.
    pub(super) fn hear(&mut self, event: &[u8]) {
        let is_new = self.outcomes.as_mut().is_some_and(|outcomes| outcomes.take(event));
        if is_new && self.is_read {
            self.bar.inc(1);
        }
    }

    /// Whether a job's result is still to come.
    pub(super) fn waits(&self) -> bool {
        self.outcomes.as_ref().is_some_and(|outcomes| outcomes.open() > 0)
    }

    /// Whether another job may be put.
    pub(super) fn has_room(&self) -> bool {
        self.outcomes.as_ref().is_none_or(Outcomes::have_room)
    }

    /// Tells the end of it: to a person, and with `json` to a program.
    pub(super) fn close(
        &self,
        ended: Ended,
        fail_on: &[FailOn],
        json: bool,
    ) -> anyhow::Result<End> {
        let Tally { confirmed, unroutable, refused, refusals, outcomes, .. } = self;
        let invalid = refusals.count();
        refusals.tell_rest();
        if self.is_read && invalid > 0 && confirmed + unroutable + refused == 0 {
            tell(format_args!("{NO_JOBS}"));
        }
        tell(format_args!(
            "{confirmed} enqueued and confirmed, {invalid} invalid, {unroutable} unroutable, {refused} refused by a full lane"
        ));
        for line in outcomes.iter().flat_map(Outcomes::lines) {
            tell(format_args!("{line}"));
        }
        if !self.is_read {
            tell(format_args!("{}", self.where_to_go_on()));
        }
        if json {
            let outcomes = outcomes.as_ref().map(Outcomes::to_json);
            let summary = json!({ "enqueued": confirmed, "invalid": invalid, "unroutable": unroutable,
                "refused": refused, "results": outcomes });
            print_json(&summary)?;
        }
        let are_well = outcomes.as_ref().is_none_or(|outcomes| outcomes.are_well(fail_on));
        match ended {
            Ended::Done if invalid + unroutable + refused == 0 && are_well => Ok(End::Done),
            Ended::Done | Ended::Stopped => Ok(End::NotWell),
            Ended::Failed(error) if self.is_read => Err(error),
            Ended::Failed(error) => Err(error).context("not all jobs were enqueued"),
        }
    }

    pub(super) fn where_to_go_on(&self) -> String {
        let last = self.last;
        let (told, from) = match self.open.first() {
            None => (format!("stopped after line {last}"), last + 1),
            Some(first) => (format!("line {first} is the first that was not confirmed"), *first),
        };
        format!(
            "{told}: enqueue the same again, or go on from line {from}; what RabbitMQ has already is known \
             by its id and not sent twice"
        )
    }

    /// Lines that were put and not confirmed yet.
    #[cfg(test)]
    pub(super) fn open_lines(&self) -> usize {
        self.open.len()
    }
}
