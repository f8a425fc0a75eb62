//! `enqueue`: jobs from a file onto RabbitMQ, each confirmed. Lines are put as they come: a pipe
//! that falls silent holds back nothing that was read.

use super::{End, parts, progress, under_signals};
use crate::clock;
use crate::config::Settings;
use crate::queue::file::Lines;
use crate::queue::rabbitmq::{Producer, Taken};
use crate::wire::{Priority, SendJob};
use anyhow::{Context, anyhow};
use bytes::Bytes;
use clap::Args;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use indicatif::ProgressBar;
use std::collections::BTreeSet;
use std::io::{self, BufRead};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Publishes under way at once: more make nothing faster.
const WINDOW: usize = 256;

/// Lines read ahead of the window: enough that it never waits for the file.
const READ_AHEAD: usize = 16;

/// What is under way at a stop is waited for so long. Confirms take milliseconds, except from a
/// broker in trouble.
const FINISH_AT_MOST: Duration = Duration::from_secs(10);

/// Refused lines are named one by one up to this many; then they are only counted.
const NAMED: u64 = 20;

#[derive(Debug, Args)]
pub(super) struct EnqueueArguments {
    /// Jobs, one JSON object a line; `-` is stdin
    file: PathBuf,
}

type Line = io::Result<(u64, Bytes)>;

pub(super) async fn run(arguments: EnqueueArguments, settings: Settings) -> anyhow::Result<End> {
    parts::start_log(&settings)?;
    let jobs = parts::open_lines(&arguments.file)?;
    let (connection, topology) = (parts::connection(&settings), parts::topology(&settings));
    let producer = Producer::connect(&connection, &topology).await.map_err(anyhow::Error::msg)?;
    let stop = CancellationToken::new();
    under_signals(&stop, enqueue(producer, jobs, stop.clone())).await
}

async fn enqueue(
    producer: Producer,
    jobs: impl BufRead + Send + 'static,
    stop: CancellationToken,
) -> anyhow::Result<End> {
    let bar = progress::bar(None, "enqueuing");
    let (lines, reader) = read(jobs);
    let put = |job, body| put(&producer, job, body);
    let (counted, mut ended) = feed(lines, &stop, put, &bar).await;
    // Only at the end of the lines has the reader ended too; else it may block for good.
    if let Ended::Read = ended
        && let Err(defect) = reader.await
    {
        ended = Ended::Failed(anyhow!(defect).context("reading the jobs"));
    }
    producer.close().await;
    bar.finish_and_clear();
    counted.close(ended)
}

/// Reads on a thread of its own, since a pipe may be silent for as long as it likes.
fn read(jobs: impl BufRead + Send + 'static) -> (mpsc::Receiver<Line>, JoinHandle<()>) {
    let (out, lines) = mpsc::channel(READ_AHEAD);
    let reader = tokio::task::spawn_blocking(move || {
        for line in Lines::new(jobs) {
            let failed = line.is_err();
            if out.blocking_send(line).is_err() || failed {
                return;
            }
        }
    });
    (lines, reader)
}

/// Why no more lines are put.
enum Ended {
    /// All were put.
    Read,
    /// A person asked for it.
    Stopped,
    /// They cannot be read or put.
    Failed(anyhow::Error),
}

/// Puts the lines, and waits for what is under way at the end.
async fn feed<P: Future<Output = Result<Taken, String>>>(
    mut lines: mpsc::Receiver<Line>,
    stop: &CancellationToken,
    put: impl Fn(SendJob, Bytes) -> P,
    bar: &ProgressBar,
) -> (Counted, Ended) {
    let mut counted = Counted::default();
    // Polled here alone: one task, as the producer asks.
    let mut under_way = FuturesUnordered::new();
    let mut ended = Ended::Read;
    let mut reading = true;
    while reading || !under_way.is_empty() {
        tokio::select! {
            biased;
            () = stop.cancelled() => {
                ended = Ended::Stopped;
                break;
            }
            Some((number, taken)) = under_way.next() => {
                if let Err(reason) = counted.settle(number, taken, bar) {
                    ended = Ended::Failed(anyhow!(reason));
                    break;
                }
            }
            line = lines.recv(), if reading && under_way.len() < WINDOW => match line {
                None => reading = false,
                Some(Err(error)) => {
                    ended = Ended::Failed(anyhow!(error).context("reading the jobs"));
                    break;
                }
                Some(Ok((number, body))) => {
                    if let Some(job) = counted.begin(number, &body, bar) {
                        let putting = put(job, body);
                        under_way.push(async move { (number, putting.await) });
                    }
                }
            },
        }
    }
    let rest = async {
        while let Some((number, taken)) = under_way.next().await {
            if let Err(reason) = counted.settle(number, taken, bar) {
                tracing::debug!(line = number, reason, "not confirmed");
            }
        }
    };
    if tokio::time::timeout(FINISH_AT_MOST, rest).await.is_err() {
        tracing::warn!("RabbitMQ does not confirm in time what is under way");
    }
    (counted, ended)
}

async fn put(producer: &Producer, job: SendJob, body: Bytes) -> Result<Taken, String> {
    let lane = (&job.phone_number_id, job.priority.unwrap_or(Priority::Normal));
    producer.put(lane, &job.id, &body, clock::wall()).await
}

/// What became of the lines.
#[derive(Debug, Default)]
struct Counted {
    confirmed: u64,
    unroutable: u64,
    refused: u64,
    invalid: u64,
    /// The last line that was looked at.
    last: u64,
    /// Lines that were put and not confirmed yet: at most a window.
    open: BTreeSet<u64>,
}

impl Counted {
    /// The job of a line, which is to be put; an invalid one is complained about.
    fn begin(&mut self, number: u64, body: &Bytes, bar: &ProgressBar) -> Option<SendJob> {
        self.last = number;
        match SendJob::parse(body, None) {
            Ok(job) => {
                self.open.insert(number);
                Some(job)
            }
            Err(invalid) => {
                self.invalid += 1;
                if self.invalid <= NAMED {
                    bar.suspend(|| complain(number, &invalid.reason));
                }
                None
            }
        }
    }

    fn settle(
        &mut self,
        number: u64,
        taken: Result<Taken, String>,
        bar: &ProgressBar,
    ) -> Result<(), String> {
        match taken? {
            Taken::Confirmed => self.confirmed += 1,
            Taken::Unroutable => self.unroutable += 1,
            Taken::Refused => self.refused += 1,
        }
        self.open.remove(&number);
        bar.inc(1);
        Ok(())
    }

    #[expect(clippy::print_stderr, reason = "stderr is for people")]
    fn close(&self, ended: Ended) -> anyhow::Result<End> {
        let Counted { confirmed, unroutable, refused, invalid, .. } = self;
        eprintln!(
            "{confirmed} enqueued and confirmed, {invalid} invalid, {unroutable} unroutable, {refused} refused by a full lane"
        );
        match ended {
            Ended::Read if invalid + unroutable + refused == 0 => Ok(End::Done),
            Ended::Read => Ok(End::NotWell),
            Ended::Stopped => {
                eprintln!("{}", self.where_to_go_on());
                Ok(End::NotWell)
            }
            Ended::Failed(error) => {
                eprintln!("{}", self.where_to_go_on());
                Err(error).context("not all jobs were enqueued")
            }
        }
    }

    fn where_to_go_on(&self) -> String {
        let last = self.last;
        match self.open.first() {
            None => format!("stopped after line {last}: go on from line {}", last + 1),
            Some(first) => format!(
                "line {first} is the first that was not confirmed: go on from there; what RabbitMQ \
                 has of the lines {first} to {last} after all is sent twice then"
            ),
        }
    }
}

#[expect(clippy::print_stderr, reason = "stderr is for people")]
fn complain(line: u64, reason: &str) {
    eprintln!("line {line}: not enqueued: {reason}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use tokio::sync::Notify;

    /// Lines from 1 on, and a way to say more.
    fn lines(count: u64) -> (mpsc::Sender<Line>, mpsc::Receiver<Line>) {
        let (more, lines) = mpsc::channel(1000);
        for number in 1..=count {
            more.try_send(Ok((number, body(number)))).unwrap();
        }
        (more, lines)
    }

    fn body(number: u64) -> Bytes {
        let message = r#"{"messaging_product":"whatsapp","to":"+919901258433","type":"text","text":{"body":"x"}}"#;
        let id = r#""phone_number_id":"1027729340496751""#;
        format!(r#"{{"id":"{number}",{id},"message":{message}}}"#).into()
    }

    async fn fed<P: Future<Output = Result<Taken, String>>>(
        lines: mpsc::Receiver<Line>,
        stop: &CancellationToken,
        put: impl Fn(SendJob, Bytes) -> P,
    ) -> (Counted, Ended) {
        feed(lines, stop, put, &ProgressBar::hidden()).await
    }

    #[tokio::test]
    async fn a_line_is_put_and_confirmed_though_no_more_come() {
        let (_silent, lines) = lines(3);
        let stop = CancellationToken::new();
        // The third confirm stops it: nothing else would.
        let put = |job: SendJob, _| {
            let stop = stop.clone();
            async move {
                if job.id.as_str() == "3" {
                    stop.cancel();
                }
                Ok(Taken::Confirmed)
            }
        };
        let (counted, ended) = fed(lines, &stop, put).await;
        assert!(matches!(ended, Ended::Stopped));
        assert_eq!(counted.confirmed, 3);
        assert_eq!(counted.where_to_go_on(), "stopped after line 3: go on from line 4");
    }

    #[tokio::test]
    async fn a_stop_waits_for_what_is_under_way() {
        let (_silent, lines) = lines(2);
        let (stop, confirm) = (CancellationToken::new(), Notify::new());
        let put = |job: SendJob, _| {
            let (stop, confirm) = (&stop, &confirm);
            async move {
                match job.id.as_str() {
                    "1" => {
                        stop.cancelled().await;
                        confirm.notify_one();
                    }
                    _ => {
                        stop.cancel();
                        confirm.notified().await;
                    }
                }
                Ok(Taken::Confirmed)
            }
        };
        let (counted, ended) = fed(lines, &stop, put).await;
        assert!(matches!(ended, Ended::Stopped));
        assert_eq!((counted.confirmed, counted.open.len()), (2, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_connection_tells_the_first_line_that_was_not_confirmed() {
        let (_silent, lines) = lines(10);
        let put = |job: SendJob, _| async move {
            match job.id.as_str() {
                "1" | "2" | "4" => Ok(Taken::Confirmed),
                "3" => pending().await,
                _ => Err("the line is cut".to_owned()),
            }
        };
        let (counted, ended) = fed(lines, &CancellationToken::new(), put).await;
        assert_eq!(counted.confirmed, 3);
        assert!(counted.where_to_go_on().starts_with("line 3 is the first"));
        assert_eq!(counted.close(ended).unwrap_err().root_cause().to_string(), "the line is cut");
    }

    #[tokio::test]
    async fn more_lines_than_the_window_are_all_put_and_bad_ones_counted() {
        let (more, lines) = lines(600);
        more.try_send(Ok((601, "no job".into()))).unwrap();
        drop(more);
        let put = |_, _| async {
            tokio::task::yield_now().await;
            Ok(Taken::Confirmed)
        };
        let (counted, ended) = fed(lines, &CancellationToken::new(), put).await;
        assert!(matches!(ended, Ended::Read));
        assert_eq!((counted.confirmed, counted.invalid, counted.last), (600, 1, 601));
    }
}
