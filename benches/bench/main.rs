//! `make bench`: how fast, and at what cost, beside a bare loop (`bare_loop.rs`) on the same machine.
//!
//! The worker is the release program as a process of its own; so are the bare loop and the sink, which
//! answers in ChakraHQ's place (`sink`). RabbitMQ is private. What is measured happens between two marks of
//! the messages that the sink has taken in; that all jobs have their results is looked at after each lap. A
//! target that is not met fails nothing, the page says so. Exit code 1 where a row could not be measured.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a row that cannot go on fails there")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the page and its progress")]

mod contest;
mod cost;
mod ground;
mod http;
mod machine;
#[path = "../../tests/chaos/outcomes.rs"]
#[allow(dead_code, reason = "what the harnesses share; this one needs a part of it")]
mod outcomes;
mod pace;
mod record;
mod report;
mod scale;
mod sink;
mod statuses;
#[path = "../../tests/pace/stock.rs"]
#[allow(dead_code, reason = "what the harnesses share; this one needs a part of it")]
mod stock;
#[path = "../../tests/it/support/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "what stories share; the harness needs a part of it")]
mod support;
#[path = "../../tests/pace/usage.rs"]
mod usage;
#[path = "../../tests/chaos/version.rs"]
mod version;

use chakra_sender::clock;
use clap::{Parser, Subcommand};
use futures_util::FutureExt;
use report::{Row, markdown};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use support::broker::Broker;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tracing_subscriber::filter::LevelFilter;

/// What happens in a scenario is over by then.
const WITHIN: Duration = Duration::from_secs(900);

/// Measures throughput and cost.
#[derive(Parser)]
struct Arguments {
    /// Fewer jobs and two rounds
    #[arg(long)]
    short: bool,
    /// The long run too
    #[arg(long)]
    full: bool,
    /// Only rows whose name contains this
    #[arg(long, default_value = "")]
    only: String,
    /// Writes the page here
    #[arg(long)]
    page: Option<PathBuf>,
    /// How the page says that it was made
    #[arg(long, default_value = "bench")]
    command: String,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Subcommand)]
enum Part {
    /// The sink, as a process of its own
    #[command(hide = true)]
    Sink { answers: PathBuf },
    /// Instructions a job, against the record
    Cost {
        /// The record
        #[arg(long)]
        record: PathBuf,
        /// Writes what was measured as the new record
        #[arg(long)]
        accept: bool,
    },
}

/// How much of everything.
pub(crate) struct Length {
    /// How often each lap is run.
    pub(crate) rounds: usize,
    /// Jobs of a lap beside the bare loop.
    pub(crate) jobs: usize,
    pub(crate) jobs_with_statuses: usize,
    pub(crate) paced_jobs: usize,
    /// Single jobs on an idle system.
    pub(crate) probes: usize,
    pub(crate) waiting: usize,
    pub(crate) lanes: usize,
    pub(crate) long_run: usize,
    pub(crate) growth_jobs: usize,
    pub(crate) growth_lanes: &'static [usize],
    pub(crate) growth_recipients: &'static [usize],
    pub(crate) file_jobs: usize,
}

impl Length {
    const FULL: Length = Length {
        rounds: 5,
        jobs: 60_000,
        jobs_with_statuses: 20_000,
        paced_jobs: 20_000,
        probes: 500,
        waiting: 100_000,
        lanes: 1_000,
        long_run: 1_000_000,
        growth_jobs: 30_000,
        growth_lanes: &[1, 10, 100, 1_000],
        growth_recipients: &[1_000, 10_000, 100_000],
        file_jobs: 100_000,
    };

    const SHORT: Length = Length {
        rounds: 2,
        jobs: 10_000,
        jobs_with_statuses: 3_000,
        paced_jobs: 8_000,
        probes: 100,
        waiting: 20_000,
        lanes: 100,
        long_run: 400_000,
        growth_jobs: 5_000,
        growth_lanes: &[1, 10, 100],
        growth_recipients: &[1_000, 10_000],
        file_jobs: 20_000,
    };
}

/// What is measured together.
#[derive(Clone, Copy)]
enum Scenario {
    Beside { lanes: usize },
    SlowApi,
    Delay,
    Start,
    FileMode,
    Waiting,
    Lanes,
    GrowthOfLanes,
    GrowthOfRecipients,
    LongRun,
}

impl Scenario {
    const ALL: [Scenario; 11] = [
        Scenario::Beside { lanes: 1 },
        Scenario::Beside { lanes: 16 },
        Scenario::SlowApi,
        Scenario::Delay,
        Scenario::Start,
        Scenario::FileMode,
        Scenario::Waiting,
        Scenario::Lanes,
        Scenario::GrowthOfLanes,
        Scenario::GrowthOfRecipients,
        Scenario::LongRun,
    ];

    /// The names of its rows.
    fn names(self, length: &Length) -> Vec<String> {
        match self {
            Scenario::Beside { lanes } => contest::names(lanes),
            Scenario::SlowApi => vec!["API of 300 ms, 1,000/s on one number".to_owned()],
            Scenario::Delay => vec!["enqueue to request, idle system".to_owned()],
            Scenario::Start => vec![pace::start_name()],
            Scenario::FileMode => vec!["file mode".to_owned()],
            Scenario::Waiting => vec![format!("memory: {} waiting", length.waiting)],
            Scenario::Lanes => vec![format!("memory: {} lanes", length.lanes)],
            Scenario::GrowthOfLanes => growth_names(length.growth_lanes, scale::LANE),
            Scenario::GrowthOfRecipients => {
                growth_names(length.growth_recipients, scale::RECIPIENT)
            }
            Scenario::LongRun => vec![format!("memory: over {} jobs", length.long_run)],
        }
    }

    async fn measure(self, length: &Length, only: &str, broker: &mut Broker) -> Vec<Row> {
        let name = self.names(length).remove(0);
        let alone = match self {
            Scenario::Beside { lanes } => {
                return contest::run(lanes, length, |name| name.contains(only), broker).await;
            }
            Scenario::SlowApi => vec![pace::slow_api(name, length, broker).await],
            Scenario::Delay => vec![pace::delay(name, length, broker).await],
            Scenario::Start => vec![pace::start(name, length, broker).await],
            Scenario::FileMode => vec![pace::file_mode(name, length, broker).await],
            Scenario::Waiting => vec![scale::waiting(name, length, broker).await],
            Scenario::Lanes => vec![scale::lanes(name, length, broker).await],
            Scenario::GrowthOfLanes => scale::growth_of_lanes(length, broker).await,
            Scenario::GrowthOfRecipients => scale::growth_of_recipients(length, broker).await,
            Scenario::LongRun => vec![scale::long_run(name, length, broker).await],
        };
        alone.into_iter().map(Row::Alone).collect()
    }

    /// Whatever ends it early is its failure, not the harness's.
    async fn run(self, length: &Length, only: &str, broker: &mut Broker) -> Vec<Row> {
        let measuring = AssertUnwindSafe(self.measure(length, only, broker)).catch_unwind();
        let why = match timeout(WITHIN, measuring).await {
            Ok(Ok(rows)) => return rows,
            Ok(Err(defect)) => {
                let said = defect.downcast_ref::<String>().cloned();
                said.or_else(|| defect.downcast_ref::<&str>().map(|said| (*said).to_owned()))
                    .unwrap_or_default()
            }
            Err(_) => format!("not over within {} s", WITHIN.as_secs()),
        };
        let names = self.names(length).into_iter().filter(|name| name.contains(only));
        names.map(|name| Row::Failed { name, why: why.clone() }).collect()
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match &arguments.part {
        // One thread: it shares the machine with what is measured.
        Some(Part::Sink { answers }) => {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(sink::serve(answers));
            ExitCode::SUCCESS
        }
        Some(Part::Cost { record, accept }) => {
            threads().block_on(cost::run(record, &arguments.only, *accept))
        }
        None => threads().block_on(bench(&arguments)),
    }
}

fn threads() -> Runtime {
    Builder::new_multi_thread().enable_all().build().unwrap()
}

async fn bench(arguments: &Arguments) -> ExitCode {
    silence_libraries();
    let length = if arguments.short { Length::SHORT } else { Length::FULL };
    let made = machine::described(&arguments.command);
    let mut broker = tokio::task::block_in_place(Broker::private);
    let (begun, mut rows) = (clock::monotonic(), Vec::new());
    for scenario in Scenario::ALL {
        let only = &arguments.only;
        let is_named = scenario.names(&length).iter().any(|name| name.contains(only));
        // It takes minutes: who names it may have it too.
        let is_long = matches!(scenario, Scenario::LongRun) && only.is_empty();
        if !is_named || (is_long && !arguments.full) {
            continue;
        }
        for row in scenario.run(&length, only, &mut broker).await {
            eprintln!("{} s: {}", begun.elapsed().as_secs(), row.line());
            rows.push(row);
        }
    }
    let page = markdown(&made, &rows);
    println!("{page}");
    if let Some(file) = &arguments.page {
        write(file, &page);
    }
    match rows.iter().all(Row::is_measured) && !rows.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// What libraries log here would be the harness's own, not the workers'.
pub(crate) fn silence_libraries() {
    drop(tracing_subscriber::fmt().with_max_level(LevelFilter::OFF).try_init());
}

fn growth_names(counts: &[usize], of: &str) -> Vec<String> {
    counts.iter().map(|count| scale::growth_name(*count, of)).collect()
}

fn write(file: &Path, page: &str) {
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, page).unwrap();
}
