//! `make pace`: one true rate for each number, whoever sends, measured on the sandbox's clock.
//!
//! Each scenario is a world of its own with workers as real processes (`world`). They run one after
//! another, since they measure. What is over a ceiling, sent twice or lost has failed; what is slow has,
//! unless the machine itself was seen to stand still meanwhile (`lag`). Exit code 1 where one failed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a scenario that cannot go on fails there")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the table and its progress")]

mod cost;
mod fairness;
mod lag;
mod lanes;
mod learning;
#[path = "../chaos/outcomes.rs"]
#[allow(dead_code, reason = "what the harnesses share; this one needs a part of it")]
mod outcomes;
mod sharing;
mod statuses;
mod stock;
#[path = "../it/support/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "what stories share; the harness needs a part of it")]
mod support;
mod table;
#[allow(dead_code, reason = "what the harnesses share; this one needs a part of it")]
mod usage;
#[path = "../chaos/version.rs"]
mod version;
mod world;

use chakra_sender::clock;
use clap::Parser;
use futures_util::FutureExt;
use lag::Lag;
use lanes::Kind;
use sharing::Change;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use table::{Group, Row, markdown};
use tokio::time::timeout;
use tracing_subscriber::filter::LevelFilter;
use version::version;
use world::World;

/// What happens in a scenario is over by then.
const WITHIN: Duration = Duration::from_secs(400);

/// What failed scenarios leave here: their workers' log.
const LOGS: &str = "target/pace";

/// Measures the pace of numbers, whoever sends.
#[derive(Parser)]
struct Arguments {
    /// Four scenarios and less of everything, for CI
    #[arg(long)]
    short: bool,
    /// Only scenarios whose name contains this
    #[arg(long, default_value = "")]
    only: String,
    /// Writes the tables into this file too
    #[arg(long)]
    table: Option<PathBuf>,
}

/// How much of everything.
pub(crate) struct Length {
    /// Numbers of each kind.
    pub(crate) lanes: [(Kind, usize); 3],
    /// What is measured in steady state.
    pub(crate) window: Duration,
    /// How often four workers start at once.
    pub(crate) starts: u32,
    /// Jobs that wait on one number.
    pub(crate) backlog: usize,
    /// Single jobs beside them, of each sort.
    pub(crate) probes: usize,
    /// Lanes whose cost is measured.
    pub(crate) many: usize,
    /// Statuses by webhook a second.
    pub(crate) statuses: u32,
    /// The number that sends beside a flood of wrong webhooks.
    pub(crate) beside_flood: Kind,
}

impl Length {
    const FULL: Length = Length {
        lanes: [(Kind::App, 6), (Kind::Standard, 5), (Kind::High, 1)],
        window: Duration::from_secs(20),
        starts: 3,
        backlog: 100_000,
        probes: 200,
        many: 1_000,
        statuses: 3_000,
        beside_flood: Kind::High,
    };

    /// Without the fastest: a build without optimisation is not the one to measure it with.
    const SHORT: Length = Length {
        lanes: [(Kind::App, 8), (Kind::Standard, 4), (Kind::High, 0)],
        window: Duration::from_secs(5),
        starts: 1,
        backlog: 20_000,
        probes: 100,
        many: 100,
        statuses: 300,
        beside_flood: Kind::Standard,
    };
}

#[derive(Debug, Clone, Copy)]
enum Scenario {
    Sharing(Change),
    Fairness(Kind),
    Cost,
    Learning,
    Statuses,
}

impl Scenario {
    const FULL: [Scenario; 14] = [
        Scenario::Sharing(Change::Steady(1)),
        Scenario::Sharing(Change::Steady(2)),
        Scenario::Sharing(Change::Steady(4)),
        Scenario::Sharing(Change::AtOnce),
        Scenario::Sharing(Change::Join),
        Scenario::Sharing(Change::Leave),
        Scenario::Sharing(Change::Kill),
        Scenario::Sharing(Change::Freeze),
        Scenario::Sharing(Change::Rolling),
        Scenario::Fairness(Kind::Standard),
        Scenario::Fairness(Kind::High),
        Scenario::Cost,
        Scenario::Learning,
        Scenario::Statuses,
    ];

    const SHORT: [Scenario; 4] = [
        Scenario::Sharing(Change::Steady(1)),
        Scenario::Sharing(Change::Kill),
        Scenario::Sharing(Change::AtOnce),
        Scenario::Fairness(Kind::Standard),
    ];

    fn name(self, length: &Length) -> String {
        match self {
            Scenario::Sharing(change) => change.name(),
            Scenario::Fairness(kind) => fairness::name(kind, length),
            Scenario::Cost => format!("cost of {} lanes", length.many),
            Scenario::Learning => "a ceiling below the published one".to_owned(),
            Scenario::Statuses => "webhooks".to_owned(),
        }
    }

    fn group(self) -> Group {
        match self {
            Scenario::Sharing(_) => Group::Sharing,
            Scenario::Fairness(_) => Group::Fairness,
            Scenario::Cost => Group::Cost,
            Scenario::Learning => Group::Learning,
            Scenario::Statuses => Group::Statuses,
        }
    }

    /// Whatever ends it early is its failure, not the harness's.
    async fn run(self, length: &Length, lag: &Lag) -> Vec<Row> {
        let running = async {
            match self {
                Scenario::Sharing(change) => vec![change.run(length, lag).await],
                Scenario::Fairness(kind) => fairness::run(kind, length, lag).await,
                Scenario::Cost => cost::run(length).await,
                Scenario::Learning => learning::run(lag).await,
                Scenario::Statuses => statuses::run(length).await,
            }
        };
        AssertUnwindSafe(running).catch_unwind().await.unwrap_or_else(|defect| {
            let said = defect.downcast_ref::<String>().cloned();
            let said = said.or_else(|| defect.downcast_ref::<&str>().map(|said| said.to_string()));
            let why = format!("ended early: {}", said.unwrap_or_default());
            vec![Row::failed(self.group(), self.name(length), why)]
        })
    }
}

#[tokio::main(worker_threads = 4)]
async fn main() -> ExitCode {
    // What libraries log here would be the harness's own, not the workers'.
    drop(tracing_subscriber::fmt().with_max_level(LevelFilter::OFF).try_init());
    let arguments = Arguments::parse();
    let length = if arguments.short { Length::SHORT } else { Length::FULL };
    // Who names some may have any of them in short.
    let mut scenarios = match arguments.short && arguments.only.is_empty() {
        true => Scenario::SHORT.to_vec(),
        false => Scenario::FULL.to_vec(),
    };
    scenarios.retain(|scenario| scenario.name(&length).contains(&arguments.only));
    let (begun, lag, mut rows) = (clock::monotonic(), Lag::watch(), Vec::new());
    for scenario in scenarios {
        for row in scenario.run(&length, &lag).await {
            let seconds = begun.elapsed().as_secs();
            let said = [&row.verdict.wrong[..], &row.verdict.slow[..]].concat();
            let said = if said.is_empty() { "well".to_owned() } else { said.join("; ") };
            eprintln!("{seconds} s: {}: {said}", row.scenario);
            rows.push(row);
        }
    }
    let made = format!("`{}`, RabbitMQ {}", command(), version());
    let text = markdown(&made, &rows);
    println!("{text}");
    if let Some(file) = &arguments.table {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }
    match rows.iter().all(|row| row.verdict.wrong.is_empty()) && !rows.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// What happens in a scenario, bounded in time.
pub(crate) async fn limited(story: impl Future<Output = ()>) {
    let over = timeout(WITHIN, story).await;
    assert!(over.is_ok(), "not over within {} s", WITHIN.as_secs());
}

/// Of a scenario that failed, what its workers said.
pub(crate) fn keep_log(row: &Row, world: &World) {
    if !row.verdict.wrong.is_empty() {
        let file = format!("{}.log", row.scenario).replace(' ', "-").replace([',', '(', ')'], "");
        std::fs::create_dir_all(LOGS).unwrap();
        std::fs::write(Path::new(LOGS).join(file), world.log()).unwrap();
    }
}

/// How these tables are made again.
fn command() -> String {
    #[expect(clippy::disallowed_methods, reason = "set by the Makefile")]
    let told = std::env::var("PACE_COMMAND");
    told.unwrap_or_else(|_| {
        std::env::args().skip(1).fold("pace".into(), |all, one| all + " " + &one)
    })
}
