//! `enqueue`: jobs from a file onto RabbitMQ, each confirmed.

use super::{End, parts, progress};
use crate::clock;
use crate::config::Settings;
use crate::queue::file::Lines;
use crate::queue::rabbitmq::{Producer, Taken};
use crate::wire::{Priority, SendJob};
use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::path::PathBuf;

/// Publishes under way at once: more make nothing faster.
const WINDOW: usize = 256;

/// Refused lines are named one by one up to this many; then they are only counted.
const NAMED: u64 = 20;

#[derive(Debug, Args)]
pub(super) struct EnqueueArguments {
    /// Jobs, one JSON object a line; `-` is stdin
    file: PathBuf,
}

/// What became of the lines.
#[derive(Debug, Default)]
struct Counted {
    confirmed: u64,
    unroutable: u64,
    refused: u64,
    invalid: u64,
}

pub(super) async fn run(arguments: EnqueueArguments, settings: Settings) -> anyhow::Result<End> {
    parts::start_log(&settings)?;
    let jobs = parts::open_lines(&arguments.file)?;
    let (connection, topology) = (parts::connection(&settings), parts::topology(&settings));
    let producer = Producer::connect(&connection, &topology).await.map_err(anyhow::Error::msg)?;
    let bar = progress::bar(None, "enqueuing");
    let mut counted = Counted::default();
    let mut under_way = FuturesUnordered::new();
    for line in Lines::new(jobs) {
        let (number, body) = line.context("reading the jobs")?;
        match SendJob::parse(&body, None) {
            Ok(job) => under_way.push(put(&producer, job, body)),
            Err(invalid) => {
                counted.invalid += 1;
                let said = counted.invalid <= NAMED;
                bar.suspend(|| said.then(|| complain(number, &invalid.reason)));
            }
        }
        // Here alone the publishes are polled: one task, as the producer asks.
        while under_way.len() >= WINDOW {
            let Some(taken) = under_way.next().await else { break };
            counted.count(taken?);
            bar.inc(1);
        }
    }
    while let Some(taken) = under_way.next().await {
        counted.count(taken?);
        bar.inc(1);
    }
    drop(under_way);
    producer.close().await;
    bar.finish_and_clear();
    Ok(counted.close())
}

async fn put(producer: &Producer, job: SendJob, body: Bytes) -> anyhow::Result<Taken> {
    let lane = (&job.phone_number_id, job.priority.unwrap_or(Priority::Normal));
    producer.put(lane, &job.id, &body, clock::wall()).await.map_err(anyhow::Error::msg)
}

#[expect(clippy::print_stderr, reason = "stderr is for people")]
fn complain(line: u64, reason: &str) {
    eprintln!("line {line}: not enqueued: {reason}");
}

impl Counted {
    fn count(&mut self, taken: Taken) {
        match taken {
            Taken::Confirmed => self.confirmed += 1,
            Taken::Unroutable => self.unroutable += 1,
            Taken::Refused => self.refused += 1,
        }
    }

    #[expect(clippy::print_stderr, reason = "stderr is for people")]
    fn close(&self) -> End {
        let Counted { confirmed, unroutable, refused, invalid } = self;
        eprintln!(
            "{confirmed} enqueued and confirmed, {invalid} invalid, {unroutable} unroutable, {refused} refused by a full lane"
        );
        match invalid + unroutable + refused {
            0 => End::Done,
            _ => End::NotWell,
        }
    }
}
