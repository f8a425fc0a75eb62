//! `enqueue`: jobs onto RabbitMQ, each confirmed: as they are written in a file, or made of a table and a
//! template. With `--wait` it follows their results to the end.

mod check;
mod entries;
mod feed;
mod forecast;
mod ids;
mod mask;
mod outcomes;
mod source;
mod table;
mod tally;
mod template;

use super::ask::{self, ask};
use super::fail_on::FailOn;
use super::output::{print_json, tell};
use super::{End, Usage, parts, progress, under_signals};
use crate::clock;
use crate::config::Settings;
use crate::queue::rabbitmq::{Producer, Replies, Taken};
use crate::wire::{Priority, SendJob};
use anyhow::{Context, anyhow};
use bytes::Bytes;
use check::check;
use clap::Args;
use entries::Entry;
use feed::feed;
use forecast::forecast;
use indicatif::HumanCount;
use outcomes::Outcomes;
use std::future::pending;
use std::io::{self, IsTerminal};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use table::Table;
use tally::{Ended, Refusals, Tally, nothing};
use template::Mapping;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  chakra-sender enqueue jobs.jsonl --wait                                                               one job a line; waits for all results
  chakra-sender enqueue people.csv --template job.json --map to=phone --dry-run                         shows the first job, and how long all take
  chakra-sender enqueue people.csv --template job.json --map to=phone --wait --fail-on failed,unknown")]
pub(super) struct EnqueueArguments {
    /// Jobs, one JSON object a line; `-` is stdin. With --template a CSV file whose first row names its
    /// columns
    file: PathBuf,
    /// A job in JSON in which {{column}}, inside a string, stands for what a row has there. Without an
    /// "id" of its own, each job's id is made of its sender and message: the same file once more has the
    /// same ids
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
    /// Fill the template's {{NAME}} from the column COLUMN
    #[arg(long, value_name = "NAME=COLUMN", requires = "template", value_parser = Mapping::parse)]
    map: Vec<Mapping>,
    /// What stands between the columns: one character, or \t
    #[arg(long, value_name = "CHARACTER", default_value = ",", requires = "template", value_parser = delimiter)]
    delimiter: u8,
    /// Check all rows, show the first job and how long they would take; enqueue nothing
    #[arg(long, requires = "template")]
    dry_run: bool,
    /// Show the first job's recipient in full
    #[arg(long, requires = "template")]
    show_recipient: bool,
    /// Do not ask before the rows of a table are enqueued
    #[arg(long, requires = "template")]
    yes: bool,
    /// Wait for each job's result, by a queue of its own: nothing is taken from consumers
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// Exit with 1 when a job ended so
    #[arg(long, value_enum, value_delimiter = ',', requires = "wait")]
    fail_on: Vec<FailOn>,
    /// The summary as a JSON object on stdout
    #[arg(long)]
    json: bool,
}

fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        b"\\t" => Ok(b'\t'),
        [byte] if byte.is_ascii() && !b"\"\r\n".contains(byte) => Ok(*byte),
        _ => Err("it must be one character".into()),
    }
}

type Entries = Box<dyn Iterator<Item = io::Result<Entry>> + Send>;

/// What is to be enqueued.
struct Input {
    entries: Entries,
    /// How many jobs, where that is known.
    count: Option<u64>,
    refusals: Refusals,
}

pub(super) async fn run(arguments: EnqueueArguments, settings: Settings) -> anyhow::Result<End> {
    parts::start_log(&settings)?;
    let stop = CancellationToken::new();
    let work = async {
        match input(&arguments, &settings, &stop).await? {
            ControlFlow::Continue(input) => enqueue(&arguments, &settings, input, &stop).await,
            ControlFlow::Break(end) => Ok(end),
        }
    };
    under_signals(&stop, work).await
}

async fn input(
    arguments: &EnqueueArguments,
    settings: &Settings,
    stop: &CancellationToken,
) -> anyhow::Result<ControlFlow<End, Input>> {
    let Some(template) = &arguments.template else {
        let entries = entries::of_lines(parts::open_lines(&arguments.file)?);
        let refusals = Refusals::named();
        return Ok(ControlFlow::Continue(Input {
            entries: Box::new(entries),
            count: None,
            refusals,
        }));
    };
    if !arguments.dry_run {
        ask::check(arguments.yes, "a table is messages to many")?;
    }
    let table = open(arguments, template)?;
    let checked =
        check(&table, arguments.show_recipient, stop).await.context("reading the table")?;
    // Content is for a person's eyes, and stderr may be kept anywhere.
    if let Some(first) = &checked.first
        && (arguments.dry_run || io::stderr().is_terminal())
    {
        tell(format_args!("{first}\n"));
    }
    for line in forecast(&checked.jobs, settings, clock::wall()).await? {
        tell(format_args!("{line}"));
    }
    let (jobs, refused) = (HumanCount(checked.count()), HumanCount(checked.refused));
    let summary = || match arguments.json {
        true => print_json(&nothing(checked.count(), checked.refused)),
        false => Ok(()),
    };
    if arguments.dry_run || checked.count() == 0 || stop.is_cancelled() {
        tell(format_args!("nothing enqueued: {jobs} could be, {refused} not"));
        summary()?;
        let is_well = arguments.dry_run && checked.refused == 0 && !stop.is_cancelled();
        return Ok(ControlFlow::Break(if is_well { End::Done } else { End::NotWell }));
    }
    let left_out = match checked.refused {
        0 => String::new(),
        _ => format!(" and leave {refused} refused out"),
    };
    let question = format!("Enqueue {jobs}{left_out}?");
    if !arguments.yes && !ask(&question, stop).await? {
        tell(format_args!("nothing enqueued"));
        summary()?;
        return Ok(ControlFlow::Break(End::NotWell));
    }
    let (entries, count) = (Box::new(table.rows()?), Some(checked.count()));
    Ok(ControlFlow::Continue(Input { entries, count, refusals: Refusals::counted() }))
}

fn open(arguments: &EnqueueArguments, template: &Path) -> Result<Table, Usage> {
    Table::open(&arguments.file, arguments.delimiter, template, &arguments.map).map_err(Usage)
}

async fn enqueue(
    arguments: &EnqueueArguments,
    settings: &Settings,
    input: Input,
    stop: &CancellationToken,
) -> anyhow::Result<End> {
    let (connection, topology) = (parts::connection(settings), parts::topology(settings));
    let producer = Producer::connect(&connection, &topology).await;
    let (mut producer, mut replies) = (producer.map_err(anyhow::Error::msg)?, None);
    if arguments.wait {
        let own = Replies::connect(&connection).await;
        let own = own.map_err(anyhow::Error::msg)?;
        producer = producer.with_replies_to(own.queue());
        replies = Some(own);
    }
    let outcomes = arguments.wait.then(Outcomes::default);
    let mut tally = Tally::new(input.refusals, outcomes, progress::bar(input.count, "enqueuing"));
    let (entries, reader) = entries::read(input.entries);
    let hear = async || match &mut replies {
        Some(replies) => replies.next().await,
        None => pending().await,
    };
    let put = |job, body| put(&producer, job, body);
    let mut ended = feed(entries, stop, put, hear, &mut tally).await;
    // Only at the end of the lines has the reader ended too; else it may block for good.
    if let Ended::Done = ended
        && let Err(defect) = reader.await
    {
        ended = Ended::Failed(anyhow!(defect).context("reading the jobs"));
    }
    producer.close().await;
    if let Some(replies) = replies {
        replies.close().await;
    }
    tally.bar.finish_and_clear();
    tally.close(ended, &arguments.fail_on, arguments.json)
}

async fn put(producer: &Producer, job: SendJob, body: Bytes) -> Result<Taken, String> {
    let lane = (&job.phone_number_id, job.priority.unwrap_or(Priority::Normal));
    producer.put(lane, &job.id, &body, clock::wall()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delimiter_is_one_character_that_is_no_quote() {
        assert_eq!(
            [",", ";", "\\t", "|"].map(delimiter),
            [b",", b";", b"\t", b"|"].map(|b| Ok(b[0]))
        );
        assert!(["", ",,", "\"", "\n", "é"].iter().all(|text| delimiter(text).is_err()));
    }
}
