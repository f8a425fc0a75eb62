//! `demo`: the main job on one machine. A sandbox with its webhooks, the worker and sample jobs in one
//! process; live progress, and a closing table. It needs no account and leaves nothing behind.

mod broker;
mod gathered;
mod jobs;
mod table;

use super::output::{print, print_json, tell};
use super::webhook::{Bound, Outlet};
use super::{End, parts, progress, under_signals};
use crate::clock;
use crate::config::{self, NumberOverride, Settings, WebhookSettings};
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::queue::Notices;
use crate::queue::file::{FileQueue, OnResult, Results};
use crate::sandbox::{self, Sandbox, SandboxConfig};
use crate::webhook::Proof;
use crate::wire::{Event, NumberId, ResultEvent};
use crate::worker::Worker;
use anyhow::Context;
use clap::Args;
use futures_util::FutureExt;
use gathered::{Gathered, Told};
use std::future;
use std::io::Cursor;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use table::{Row, Seen};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  chakra-sender demo                                                      no account, no broker, nothing left behind
  chakra-sender demo --rabbitmq 'amqp://guest:guest@127.0.0.1:5672/%2f'   through a broker")]
pub(super) struct DemoArguments {
    /// Run the jobs through this RabbitMQ, under names of their own that are deleted at the end
    #[arg(long, value_name = "URI")]
    rabbitmq: Option<String>,
    /// The closing table as a JSON object
    #[arg(long)]
    json: bool,
}

/// What the demo's worker paces its numbers at: below each ceiling, since inbound shares it.
const PACES: [(&str, f64); 3] =
    [("1027729340496751", 70.0), ("1027729340496752", 17.0), ("1027729340496753", 70.0)];

pub(super) async fn run(arguments: DemoArguments) -> anyhow::Result<End> {
    let stop = CancellationToken::new();
    under_signals(&stop, demo(arguments, stop.clone())).await
}

async fn demo(arguments: DemoArguments, stop: CancellationToken) -> anyhow::Result<End> {
    let config = SandboxConfig::from_toml(include_str!("../../../config/demo.toml"))?;
    let (token, plugin) = (config.token.clone(), config.plugin_id.clone());
    let webhook = config.webhook.clone();
    let sandbox = Sandbox::start(config).await.context("starting the sandbox")?;
    // Both ends of it are in this process.
    let secret = format!("{:032x}", fastrand::u128(..));
    let settings = settings(&sandbox, token, plugin, secret.clone())?;
    let bound = Bound::bind(&settings).await?;
    let url = bound.address().map(|address| format!("http://{address}/webhook"));
    sandbox.set_webhook(sandbox::Webhook { url, secret: Some(secret), ..webhook })?;
    let lines = jobs::lines(clock::wall());
    announce(&sandbox, lines.len(), arguments.rabbitmq.is_some());

    let bar = progress::bar(Some(lines.len() as u64), "sending");
    let gathered = Gathered::new(bar.clone(), sandbox.record());
    let started = clock::monotonic();
    let unreadable = match arguments.rabbitmq {
        None => through_memory(&settings, bound, &lines, &gathered, stop.clone()).await?,
        Some(uri) => {
            let settings = broker::settings(settings, uri);
            broker::run(&settings, bound, &lines, &gathered, stop.clone()).await?
        }
    };
    bar.finish_and_clear();
    let told = gathered.all();
    let took = told.last_result.map_or(Duration::ZERO, |last| last.duration_since(started));
    let closed = close(&sandbox, &told, unreadable, took, arguments.json);
    sandbox.stop().await;
    closed?;
    match stop.is_cancelled() {
        true => Ok(End::NotWell),
        false => Ok(End::Done),
    }
}

/// The defaults, pointed at the sandbox, with webhooks that are signed with this secret.
fn settings(
    sandbox: &Sandbox,
    token: String,
    plugin: String,
    secret: String,
) -> anyhow::Result<Settings> {
    let mut settings = config::load(None, std::iter::empty())?;
    settings.chakra.base_url = sandbox.base_url();
    settings.chakra.token = Some(token.into());
    settings.chakra.plugin_id = Some(plugin);
    settings.webhook = Some(WebhookSettings {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        proof: Proof::Signature(secret.into()),
        verify_token: None,
        public_url: None,
    });
    for (id, rate) in PACES {
        let id = NumberId::parse(id).map_err(anyhow::Error::msg)?;
        settings.numbers.overrides.push(NumberOverride { id, rate, burst: None });
    }
    Ok(settings)
}

/// The worker over lines in memory. Returns how many lines had no readable id.
async fn through_memory(
    settings: &Settings,
    bound: Bound,
    lines: &[String],
    gathered: &Gathered,
    stop: CancellationToken,
) -> anyhow::Result<u64> {
    let consumer = gathered.clone();
    let on_result: OnResult = Arc::new(move |event: &ResultEvent| {
        consumer.take(&Event::Result(event).to_json().unwrap_or_default());
    });
    let jobs = Cursor::new(lines.join("\n"));
    let results = Results::to(std::io::sink());
    let held = settings.worker.max_held;
    let metrics = Arc::new(Metrics::new()?);
    let of_queue = Arc::clone(&metrics);
    let queue = FileQueue::start(jobs, results, held, stop.clone(), of_queue, on_result);
    let (incoming, run) = queue.split();
    let (_always, may_send) = watch::channel(true);
    let (client, ledger) = (parts::client(settings)?, Ledger::in_memory(settings.ledger.bounds));
    let outlet = || straight_to(gathered.clone());
    let webhook = bound.answer_into(outlet, client.clone(), ledger.clone(), Arc::clone(&metrics));
    let worker = Worker::new(
        parts::worker_settings(settings)?,
        client,
        ledger,
        metrics,
        may_send,
        Notices::default(),
        stop.clone(),
    );
    worker.run(incoming).await;
    let tally = run.finish().await.map_err(anyhow::Error::msg)?;
    stop.run_until_cancelled(gathered.last_status()).await;
    webhook.stop().await;
    Ok(tally.unreadable)
}

/// Statuses to the consumer, with no broker between.
fn straight_to(gathered: Gathered) -> Outlet {
    Outlet {
        publish: Box::new(move |event| {
            gathered.take(&Event::Status(&event).to_json().unwrap_or_default());
            future::ready(true).boxed()
        }),
        has_lane: Box::new(|_| true),
    }
}

fn announce(sandbox: &Sandbox, jobs: usize, broker: bool) {
    let way = match broker {
        false => "from memory",
        true => "through RabbitMQ",
    };
    tell(format_args!(
        "A fake ChakraHQ listens on {}; it enforces WhatsApp's limits and has faults.\n\
         {jobs} sample jobs on three numbers go {way} to the worker, and through it to WhatsApp.\n\
         Signed webhooks tell later what became of the messages.\n",
        sandbox.base_url()
    ));
}

fn close(
    sandbox: &Sandbox,
    told: &Told,
    unreadable: u64,
    took: Duration,
    json: bool,
) -> anyhow::Result<()> {
    let record = sandbox.record();
    let rows: Vec<Row> = jobs::NUMBERS
        .iter()
        .map(|(number, name, ceiling)| Row {
            name: (*name).to_owned(),
            number: (*number).to_owned(),
            busiest: record.highest_in_any_second(number),
            ceiling: *ceiling,
        })
        .collect();
    let seen = Seen {
        accepted: record.count_accepted(),
        twice: record.duplicates().len(),
        unreadable,
        took,
    };
    match json {
        true => print_json(&table::to_json(&rows, told, seen)),
        false => print(table::render(&rows, told, seen) + "\n"),
    }
}
