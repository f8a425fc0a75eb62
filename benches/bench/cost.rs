//! `make cost`: how many instructions the worker spends on a job, held against the record.
//!
//! The worker runs under Valgrind's cachegrind, which counts; RabbitMQ and the sink are those of `make bench`.
//! Counted are two laps of different size: what they differ by is the cost of jobs alone, without start and
//! end. What the kernel does on the worker's behalf is not counted, nor is time spent waiting: `make bench`
//! measures those.

use crate::contest::Manner;
use crate::ground::{Watch, on_new_ground};
use crate::pace::{send, write_jobs};
use crate::record::{Record, Row, a_job, counted};
use crate::support::broker::Broker;
use crate::support::process::{Program, beside};
use crate::{machine, version};
use chakra_sender::wire::NumberId;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tempfile::TempDir;

/// Jobs of the small lap and of the large one. The small one has opened its connections by its end.
const JOBS: [usize; 2] = [500, 2_000];

/// How often the difference is taken. An odd number: the median counts.
const ROUNDS: usize = 3;

/// Threads of the worker's runtime, whatever the machine has. Of several, those that look for work cost too,
/// and how often they do is chance.
const THREADS: &str = "1";

/// Jobs in the worker at once: enough to keep it busy. Valgrind makes each take milliseconds. With thousands
/// ready, the worker's look at the clock came up to 1.1 s late; where it comes 5 s late, on a slower machine,
/// the worker takes itself for stopped, and its jobs come again. With few, rounds also differ by less.
const HELD: &str = "512";

/// What is counted out of so many queues. Replies and statuses are not: their rounds differ by up to 12%.
const QUEUED: [(usize, &[Manner]); 2] =
    [(1, &[Manner::Plain, Manner::Durable]), (16, &[Manner::Plain])];

/// The row that is counted without a queue.
const FILE_MODE: &str = "file mode";

/// How a new record is made.
const ACCEPT: &str = "make cost ACCEPT=1";

/// Counts the rows whose name contains `only`, and holds them against the record; or all, and writes it.
pub(crate) async fn run(record: &Path, only: &str, accept: bool) -> ExitCode {
    crate::silence_libraries();
    let rows = measured(if accept { "" } else { only }).await;
    let made_with = made_with();
    let accepted = if accept {
        let new = Record::of(made_with.clone(), &rows);
        std::fs::write(record, new.written().unwrap()).unwrap();
        new
    } else {
        let text = std::fs::read_to_string(record).map_err(|error| error.to_string());
        let read = text.and_then(|text| Record::read(&text).map_err(|error| error.to_string()));
        read.unwrap_or_else(|why| panic!("{}: {why}; `{ACCEPT}` writes it", record.display()))
    };
    let judgement = accepted.judge(&made_with, &rows, ACCEPT);
    print!("{}", judgement.text);
    if judgement.passes { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn measured(only: &str) -> Vec<Row> {
    let mut broker = tokio::task::block_in_place(Broker::private);
    let mut rows = Vec::new();
    for (lanes, manners) in QUEUED {
        let manners = manners.iter().filter(|manner| manner.name(lanes).contains(only));
        for manner in manners {
            let counter = Counter::new();
            let lap = async |jobs| {
                let window = on_new_ground(&mut broker, lanes, async |ground| {
                    let program = counter.program("worker").set("worker.max_held", HELD);
                    manner.lap(ground, ground.as_worker(program), jobs).await
                });
                window.await;
                counter.counted()
            };
            rows.push(row(manner.name(lanes), lap).await);
        }
    }
    if FILE_MODE.contains(only) {
        rows.push(file_mode(&broker).await);
    }
    assert!(!rows.is_empty(), "no row's name contains {only:?}");
    rows
}

async fn file_mode(broker: &Broker) -> Row {
    let numbers = [NumberId::parse("1027729340400000").unwrap()];
    let watch = Watch::start(broker, &numbers).await;
    let counter = Counter::new();
    let (folder, mut laps) = (tempfile::tempdir().unwrap(), 0);
    let lap = async |count| {
        laps += 1;
        let file = |name: &str| folder.path().join(format!("{name}-{laps}.jsonl"));
        let (jobs, results) = (file("jobs"), file("results"));
        write_jobs(&jobs, &numbers[0], count);
        send(&watch, counter.program("send"), &jobs, &results, count).await;
        counter.counted()
    };
    row(FILE_MODE.to_owned(), lap).await
}

/// All rounds of a row; `lap` tells the instructions of so many jobs.
async fn row(name: String, mut lap: impl AsyncFnMut(usize) -> u64) -> Row {
    let mut rounds = Vec::new();
    for _round in 0..ROUNDS {
        let [small, large] = JOBS;
        let (few, many) = (lap(small).await, lap(large).await);
        rounds.push(a_job((small, few), (large, many)));
    }
    eprintln!("{name}: {rounds:?} instructions a job");
    Row::new(name, rounds)
}

/// Counts the instructions of one program after another.
struct Counter(TempDir);

impl Counter {
    fn new() -> Counter {
        Counter(tempfile::tempdir().unwrap())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("counted")
    }

    /// Our program, counted until its end. Without a model of caches it takes less than half the time. One
    /// thread runs at a time: where they do not take fair turns, the worker takes itself for stopped too.
    fn program(&self, command: &str) -> Program {
        let options =
            ["--tool=cachegrind", "--cache-sim=no", "--fair-sched=yes", "--vgdb=no", "-q"];
        let file = format!("--cachegrind-out-file={}", self.file().display());
        let counter = Program::other("valgrind").with(&options).with(&[file]);
        counter
            .with(&[beside("chakra-sender")])
            .with(&[command])
            .env("TOKIO_WORKER_THREADS", THREADS)
    }

    /// What was counted of the last one, which has ended.
    fn counted(&self) -> u64 {
        let file = std::fs::read_to_string(self.file()).unwrap();
        std::fs::remove_file(self.file()).unwrap();
        counted(&file).expect("cachegrind writes a summary")
    }
}

/// What counts depend on beside our own code. The C library chooses its copying by the processor.
fn made_with() -> BTreeMap<String, String> {
    let lock = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock");
    let lock = format!("{:x}", Sha256::digest(std::fs::read(lock).unwrap()));
    let profile = beside("chakra-sender")
        .parent()
        .and_then(Path::file_name)
        .map(|name| name.display().to_string());
    let pairs = [
        ("rustc", machine::said("rustc", "--version")),
        ("target", std::env::consts::ARCH.to_owned()),
        ("profile", profile.unwrap_or_default()),
        ("Cargo.lock", lock[..16].to_owned()),
        ("valgrind", machine::said("valgrind", "--version")),
        ("libc", machine::said("getconf", "GNU_LIBC_VERSION")),
        ("processor", machine::processor()),
        ("RabbitMQ", version::version()),
    ];
    pairs.map(|(what, which)| (what.to_owned(), which)).into()
}
