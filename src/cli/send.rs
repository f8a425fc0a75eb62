//! `send`: the worker over a file, with no broker.

use super::fail_on::FailOn;
use super::output::{print_json, tell};
use super::{End, Usage, parts, progress, token, under_signals};
use crate::clock;
use crate::config::Settings;
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::queue::Notices;
use crate::queue::file::{FileQueue, OnResult, Results, Tally, beside};
use crate::wire::{ResultEvent, Status};
use crate::worker::Worker;
use clap::Args;
use indicatif::ProgressBar;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  chakra-sender send --jobs jobs.jsonl --results results.jsonl                            the same command again goes on where it stopped
  chakra-sender send --jobs jobs.jsonl --results results.jsonl --fail-on failed,unknown   exit code 1 if one of them was not sent
  make-jobs | chakra-sender send --jobs - --results - | jq .status                        from a pipe, into a pipe")]
pub(super) struct SendArguments {
    /// Jobs, one JSON object a line; `-` is stdin
    #[arg(long, value_name = "FILE")]
    jobs: PathBuf,
    /// Results are appended here, one JSON object a line; `-` is stdout (then a stopped run cannot
    /// go on where it stopped)
    #[arg(long, value_name = "FILE")]
    results: PathBuf,
    /// Exit with 1 when a job ended so
    #[arg(long, value_enum, value_delimiter = ',')]
    fail_on: Vec<FailOn>,
    /// The summary as a JSON object on stdout
    #[arg(long)]
    json: bool,
}

/// How many jobs ended how.
pub(super) type Outcomes = Arc<Mutex<BTreeMap<&'static str, u64>>>;

pub(super) async fn run(arguments: SendArguments, settings: Settings) -> anyhow::Result<End> {
    if arguments.json && arguments.results == Path::new("-") {
        return Err(Usage("--json and --results - would both write to stdout".to_owned()).into());
    }
    not_the_same(&arguments)?;
    settings.require_account()?;
    parts::start_log(&settings)?;
    let drain = CancellationToken::new();
    under_signals(&drain, send(arguments, settings, drain.clone())).await
}

/// Results among the jobs would be read as jobs, and what is read would grow without end.
fn not_the_same(arguments: &SendArguments) -> Result<(), Usage> {
    let SendArguments { jobs, results, .. } = arguments;
    let Some(read) = identity(jobs, "/dev/stdin") else { return Ok(()) };
    for written in [results, &beside(results, "dead-letters")] {
        if identity(written, "/dev/stdout").is_some_and(|written| written == read) {
            let same = format!(
                "{} is the file of the jobs: it would be read and written at once",
                written.display()
            );
            return Err(Usage(same));
        }
    }
    Ok(())
}

/// Which file it is, by whatever name: its device and inode. None where it is no regular one.
fn identity(path: &Path, standard: &str) -> Option<(u64, u64)> {
    let path = if path == Path::new("-") { Path::new(standard) } else { path };
    let metadata = std::fs::metadata(path).ok().filter(Metadata::is_file)?;
    Some((metadata.dev(), metadata.ino()))
}

async fn send(
    arguments: SendArguments,
    settings: Settings,
    drain: CancellationToken,
) -> anyhow::Result<End> {
    let jobs = parts::open_lines(&arguments.jobs)?;
    let (results, ledger) = match arguments.results == Path::new("-") {
        true => (Results::to(std::io::stdout()), Ledger::in_memory(settings.ledger.bounds)),
        false => {
            // The ledger's lock keeps a second run away from the same files, so they are not changed
            // before it is held; files that cannot be used leave no ledger behind.
            let results = Results::find(&arguments.results)?;
            let folder = beside(&arguments.results, "ledger");
            let ledger = Ledger::open(&folder, settings.ledger.bounds, clock::wall())?;
            (results.open()?, ledger)
        }
    };
    let outcomes = Outcomes::default();
    let bar = progress::bar(None, "sending");
    let metrics = Arc::new(Metrics::new()?);
    let queue = FileQueue::start(
        jobs,
        results,
        settings.worker.max_held,
        drain.clone(),
        Arc::clone(&metrics),
        counting(&outcomes, &bar),
    );
    let (incoming, run) = queue.split();
    let (_always, may_send) = watch::channel(true);
    let client = parts::client(&settings)?;
    // Ends with this value.
    let mut beside = JoinSet::new();
    if let Some(file) = settings.chakra.token_file.clone() {
        beside.spawn(token::follow(file, client.clone(), Arc::default(), CancellationToken::new()));
    }
    let worker = Worker::new(
        parts::worker_settings(&settings)?,
        client,
        ledger,
        Arc::clone(&metrics),
        may_send,
        Notices::default(),
        drain,
    );
    worker.run(incoming).await;
    let tally = run.finish().await.map_err(anyhow::Error::msg)?;
    bar.finish_and_clear();
    parts::tell_balance(&metrics);
    close(&tally, &outcomes, &arguments)
}

/// Counts each result and moves the bar.
fn counting(outcomes: &Outcomes, bar: &ProgressBar) -> OnResult {
    let (outcomes, bar) = (Arc::clone(outcomes), bar.clone());
    Arc::new(move |event: &ResultEvent| {
        let mut outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        *outcomes.entry(event.status.name()).or_default() += 1;
        bar.inc(1);
    })
}

/// What a person wants to know at the end.
fn close(tally: &Tally, outcomes: &Outcomes, arguments: &SendArguments) -> anyhow::Result<End> {
    let outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
    let counted: Vec<String> = [Status::Accepted, Status::Failed, Status::Expired, Status::Unknown]
        .iter()
        .filter_map(|status| Some(format!("{} {}", outcomes.get(status.name())?, status.name())))
        .collect();
    let mut said = vec![match counted.is_empty() {
        true => "no new results".to_owned(),
        false => counted.join(", "),
    }];
    let mut also = |count: u64, what: &str| {
        if count > 0 {
            said.push(format!("{count} {what}"));
        }
    };
    also(tally.done_before, "had their result already");
    also(tally.repeated, "repeated an earlier line");
    also(tally.unreadable, "could not be read and went to the dead letters");
    also(tally.unfinished, "left for the next run");
    tell(format_args!("{} lines: {}", tally.lines, said.join("; ")));
    if arguments.json {
        print_json(&json!({
            "lines": tally.lines, "results": &*outcomes, "done_before": tally.done_before,
            "repeated": tally.repeated, "unreadable": tally.unreadable, "unfinished": tally.unfinished,
        }))?;
    }
    let bad = |on: &FailOn| outcomes.contains_key(on.status().name());
    match tally.unfinished > 0 || arguments.fail_on.iter().any(bad) {
        true => Ok(End::NotWell),
        false => Ok(End::Done),
    }
}
