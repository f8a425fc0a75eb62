//! `make chaos`: the promises "nothing lost" and "nothing sent twice", tried by force.
//!
//! Each scenario is a world of its own under load (`world`): a fault (`faults`) strikes it
//! (`strikes`), and what consumers were told is compared with what the sandbox knows (`table`).
//! Exit code 1 where a job was lost or sent twice, or an expectation of a scenario was broken.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a scenario that cannot go on fails there")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the table and its progress")]

mod disk;
mod faults;
mod line;
mod outcomes;
mod strikes;
#[path = "../it/support/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "what stories share; the harness needs a part of it")]
mod support;
mod table;
mod version;
mod world;

use chakra_sender::clock;
use clap::Parser;
use faults::{Fault, Party};
use futures_util::FutureExt;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use table::{Listing, Row, Run};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing_subscriber::filter::LevelFilter;
use version::version;
use world::World;

/// Jobs that come after the fault: it must work for new ones too.
const AFTER: usize = 30;

/// What failed scenarios leave here: their workers' log.
const LOGS: &str = "target/chaos";

/// Tries the promises by force.
#[derive(Parser)]
struct Arguments {
    /// A tenth of the scenarios, for CI
    #[arg(long)]
    short: bool,
    /// Only faults whose name contains this
    #[arg(long, default_value = "")]
    only: String,
    /// Only this listing: "0 s", "5 s", "20 s" or "never"
    #[arg(long)]
    listing: Option<String>,
    /// Scenarios at a time
    #[arg(long, default_value_t = 5)]
    at_once: usize,
    /// Writes the table into this file too, and its figures beside it as JSON
    #[arg(long)]
    table: Option<PathBuf>,
    /// The figures of an earlier run on another broker, for a column of their own
    #[arg(long)]
    beside: Option<PathBuf>,
}

#[tokio::main(worker_threads = 8)]
async fn main() -> ExitCode {
    // What libraries log here would be the harness's own, not the workers'.
    drop(tracing_subscriber::fmt().with_max_level(LevelFilter::OFF).try_init());
    let arguments = Arguments::parse();
    let rows = run_all(scenarios(&arguments), arguments.at_once).await;
    let run = Run { command: command(), broker: version(), rows };
    let beside = arguments.beside.as_ref().map(|file| {
        let earlier = std::fs::read(file).unwrap();
        serde_json::from_slice::<Run>(&earlier).unwrap()
    });
    let text = run.markdown(beside.as_ref());
    println!("{text}");
    if let Some(file) = &arguments.table {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
        std::fs::write(file.with_extension("json"), serde_json::to_vec(&run).unwrap()).unwrap();
    }
    match run.rows.iter().all(|row| row.wrong.is_empty()) && !run.rows.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Which faults, each with which listing.
fn scenarios(arguments: &Arguments) -> Vec<(Fault, Listing)> {
    let all = || {
        let faults = Fault::all().into_iter();
        faults.flat_map(|fault| Listing::ALL.map(|listing| (fault, listing))).collect()
    };
    let mut scenarios = if arguments.short { Fault::short() } else { all() };
    scenarios.retain(|(fault, listing)| {
        fault.name().contains(&arguments.only)
            && arguments.listing.as_ref().is_none_or(|name| *name == listing.name())
    });
    if !disk::can_be_had() {
        eprintln!("left out, since only root may mount a disk: {}", Fault::LedgerDiskFull.name());
        scenarios.retain(|(fault, _)| *fault != Fault::LedgerDiskFull);
    }
    scenarios
}

/// Several at a time. Each is bounded in time, and so is the whole.
async fn run_all(scenarios: Vec<(Fault, Listing)>, at_once: usize) -> Vec<Row> {
    let (begun, count) = (clock::monotonic(), scenarios.len());
    let places = Arc::new(Semaphore::new(at_once));
    let mut running = JoinSet::new();
    for (index, (fault, listing)) in scenarios.into_iter().enumerate() {
        let places = Arc::clone(&places);
        running.spawn(async move {
            let _place = places.acquire_owned().await.unwrap();
            (index, run(fault, listing).await)
        });
    }
    let mut rows = BTreeMap::new();
    while let Some(ended) = running.join_next().await {
        let (index, row) = ended.unwrap();
        let (done, seconds) = (rows.len() + 1, begun.elapsed().as_secs());
        let well = if row.wrong.is_empty() { "well".to_owned() } else { row.wrong.join("; ") };
        eprintln!("{done}/{count}, {seconds} s: {}, {}: {well}", row.fault, row.listing);
        rows.insert(index, row);
    }
    rows.into_values().collect()
}

/// One scenario; whatever ends it early is its failure, not the harness's.
async fn run(fault: Fault, listing: Listing) -> Row {
    let scenario = AssertUnwindSafe(scenario(fault, listing)).catch_unwind().await;
    let mut row = scenario.unwrap_or_else(|defect| {
        let said = defect.downcast_ref::<String>().cloned();
        let said = said.or_else(|| defect.downcast_ref::<&str>().map(|said| said.to_string()));
        let wrong = format!("ended early: {}", said.unwrap_or_default());
        Row { wrong: vec![wrong], ..Row::default() }
    });
    (row.fault, row.listing) = (fault.name(), listing.name());
    row
}

async fn scenario(fault: Fault, listing: Listing) -> Row {
    let mut world = World::new(fault.plan(), listing).await;
    let (within, mut recovery) = (world.plan.within, None);
    let ended = timeout(within, story(fault, &mut world, &mut recovery)).await;
    let mut row = Row { recovery, ..Row::of(&world) };
    if ended.is_err() {
        row.wrong.push(format!("not over within {} s", within.as_secs()));
    }
    row.wrong.extend(fault.complaints(listing, &row));
    if !row.wrong.is_empty() {
        let file: String = format!("{}, {}.log", fault.name(), listing.name()).replace(' ', "-");
        std::fs::create_dir_all(LOGS).unwrap();
        std::fs::write(Path::new(LOGS).join(file.replace(':', "")), world.log()).unwrap();
    }
    row
}

/// Load, fault, recovery, further load, rest.
async fn story(fault: Fault, world: &mut World, recovery: &mut Option<Duration>) {
    world.start_ready_worker().await;
    world.enqueue(world.plan.jobs).await;
    let over = fault.strike(world).await;
    world.enqueue(AFTER).await;
    *recovery = Some(match fault.party() {
        Party::Worker | Party::Broker => world.next_request(over).await,
        // Requests are made through its trouble too.
        Party::ChakraHq => world.next_result(over).await,
    });
    world.come_to_rest().await;
}

/// How this table is made again.
fn command() -> String {
    #[expect(clippy::disallowed_methods, reason = "set by the Makefile")]
    let told = std::env::var("CHAOS_COMMAND");
    told.unwrap_or_else(|_| {
        std::env::args().skip(1).fold("chaos".into(), |all, one| all + " " + &one)
    })
}
