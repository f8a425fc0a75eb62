//! How soon, and how evenly: a slow API at a fixed rate, a single job on an idle system, a start, a file.

use crate::Length;
use crate::ground::{Ground, Lap, Watch, Window, end, on_new_ground, unlimited};
use crate::report::{Alone, Spread, quantile};
use crate::sink::{Answers, Sink};
use crate::stock::Stock;
use crate::support::broker::Broker;
use crate::support::process::{Program, TOKEN, beside, lines};
use chakra_sender::clock;
use chakra_sender::wire::{NumberId, Priority};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;
use tokio::time::sleep;

/// A number of Meta's highest level, and how long a call takes.
const HIGH: (u32, Duration) = (1_000, Duration::from_millis(300));

/// The full rate is at least this part of it (DESIGN, targets: pacing).
const FULL: f64 = 0.98;

/// What that may cost, of a core.
const OF_A_CORE: f64 = 0.35;

/// A worker that has just started paces at half for two seconds, and has much to see to.
const SETTLED: Duration = Duration::from_secs(4);

/// Single jobs whose time does not count: they open the connections.
const FIRST: usize = 10;

/// The most that single jobs may take: the median and 99 of 100.
const DELAYS: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(10));

/// Between single jobs, in milliseconds.
const APART: std::ops::Range<u64> = 5..15;

/// Lanes of the worker whose start is timed, and how long it may take.
const START: (usize, Duration) = (100, Duration::from_secs(1));

/// Jobs a second out of a file; or this part of what the API bears.
const FROM_FILE: (f64, f64) = (20_000.0, 0.9);

/// A slow API: how many calls are under way at once does not matter.
pub(crate) async fn slow_api(name: String, length: &Length, broker: &mut Broker) -> Alone {
    let lap = Lap {
        // It begins at half the pace.
        measured: (0.25, 0.95),
        latency: HIGH.1,
        ..Lap::of(length.paced_jobs)
    };
    let window = on_new_ground(broker, 1, async |ground| {
        let program = ground.worker().set("limits.number.rate", &HIGH.0.to_string());
        ground.lap(program, &lap).await
    });
    let Window { rate, of_a_core, .. } = window.await;
    let percent = of_a_core * 100.0;
    Alone {
        name,
        measured: format!("{rate:.0}/s, {percent:.0}% of a core"),
        target: format!("{}/s, under {:.0}% of a core", HIGH.0, OF_A_CORE * 100.0),
        met: rate >= f64::from(HIGH.0) * FULL && of_a_core < OF_A_CORE,
    }
}

/// From before the publish to the request, one job after another.
pub(crate) async fn delay(name: String, length: &Length, broker: &mut Broker) -> Alone {
    let mut ground = Ground::new(broker, 1).await;
    // In this process: both ends are timed by one clock.
    let numbers: Vec<String> = ground.lanes.iter().map(NumberId::to_string).collect();
    let sink = Sink::start(Answers::of_sandbox(&numbers).await).await;
    sink.keep_arrivals();
    let program = ground.worker().calling(&format!("http://{}", sink.address));
    let (worker, _) = ground.started(program).await;
    sleep(SETTLED).await;
    let (mut delays, number) = (Vec::new(), ground.lanes[0].clone());
    for probe in 0..FIRST + length.probes {
        sleep(Duration::from_millis(fastrand::u64(APART))).await;
        let before = clock::monotonic();
        ground.stock.put(&number, Priority::Normal, 1).await;
        delays.push(sink.arrival(probe).await - before);
    }
    end(worker).await;
    ground.clear_away().await;
    let mut delays = delays.split_off(FIRST);
    delays.sort();
    let [half, most] = [0.5, 0.99].map(|share| quantile(&delays, share));
    Alone {
        name,
        measured: format!("p50 {half:.1?}, p99 {most:.1?}, of {} jobs", delays.len()),
        target: format!("p50 at most {:?}, p99 at most {:?}", DELAYS.0, DELAYS.1),
        met: half <= DELAYS.0 && most <= DELAYS.1,
    }
}

/// From the start of the process until it says that it is ready.
pub(crate) async fn start(name: String, length: &Length, broker: &mut Broker) -> Alone {
    let ground = Ground::new(broker, START.0).await;
    let (mut ready, mut lanes) = (Vec::new(), Vec::new());
    for _round in 0..length.rounds {
        let before = clock::monotonic();
        let mut worker = ground.worker().start();
        worker.admin().await.ready().await;
        ready.push(before.elapsed().as_secs_f64());
        end(worker).await;
        let before = clock::monotonic();
        let (worker, _) = ground.started(ground.worker()).await;
        lanes.push(before.elapsed().as_secs_f64());
        end(worker).await;
    }
    ground.clear_away().await;
    let (ready, lanes) = (Spread::of(ready), Spread::of(lanes));
    Alone {
        name,
        measured: format!("ready after {ready:.2} s, consuming all lanes after {lanes:.2} s"),
        target: format!("ready within {:?}", START.1),
        met: ready.median <= START.1.as_secs_f64(),
    }
}

/// What the name of that row tells of the start.
pub(crate) fn start_name() -> String {
    format!("start with {} lanes", START.0)
}

/// `send`, beside nothing but POSTs.
pub(crate) async fn file_mode(name: String, length: &Length, broker: &mut Broker) -> Alone {
    let numbers = [NumberId::parse("1027729340400000").unwrap()];
    let watch = Watch::start(broker, &numbers).await;
    let folder = tempfile::tempdir_in(beside("").parent().unwrap()).unwrap();
    let jobs = folder.path().join("jobs.jsonl");
    write_jobs(&jobs, &numbers[0], length.file_jobs);
    let (mut sent, mut posted, mut memory) = (Vec::new(), Vec::new(), 0);
    for round in 0..length.rounds {
        let results = folder.path().join(format!("results-{round}.jsonl"));
        let program = Program::new(&["send"]);
        let window = send(&watch, program, &jobs, &results, length.file_jobs).await;
        sent.push(window.rate);
        memory = memory.max(window.memory.peak);
        posted.push(posts(&watch, &numbers[0], length.file_jobs).await.rate);
    }
    let (sent, posted) = (Spread::of(sent), Spread::of(posted));
    let memory = crate::report::mebibytes(memory);
    Alone {
        name,
        measured: format!("{sent} jobs/s; nothing but POSTs: {posted} a second; {memory}"),
        target: format!("{} jobs/s, or {} of nothing but POSTs", FROM_FILE.0, FROM_FILE.1),
        met: sent.median >= FROM_FILE.0 || sent.median >= posted.median * FROM_FILE.1,
    }
}

/// A file of so many jobs of one number.
pub(crate) fn write_jobs(file: &Path, number: &NumberId, count: usize) {
    let mut text = String::new();
    for job in 0..count {
        writeln!(text, "{}", Stock::body(number, job, job)).unwrap();
    }
    std::fs::write(file, text).unwrap();
}

/// Sends such a file; `program` is `send`, without its files.
pub(crate) async fn send(
    watch: &Watch,
    program: Program,
    jobs: &Path,
    results: &Path,
    count: usize,
) -> Window {
    let lap = Lap::of(count);
    watch.begin(&lap).await;
    let [jobs, out] = [jobs, results].map(|path| path.to_str().unwrap());
    let program = program.with(&["--jobs", jobs, "--results", out]);
    let process = unlimited(program.calling(&watch.base_url())).start();
    let window = watch.between(&process, &lap).await;
    let ended = process.end().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said());
    assert_eq!((lines(results).len(), watch.count().await), (count, count), "results, and sent");
    window
}

async fn posts(watch: &Watch, number: &NumberId, count: usize) -> Window {
    let lap = Lap::of(count);
    watch.begin(&lap).await;
    let program = Program::other(beside("bare-loop")).with(&["--url", &watch.api()]);
    let program = program.with(&["--token", TOKEN, "posts", number.as_str(), &count.to_string()]);
    let process = program.start();
    let window = watch.between(&process, &lap).await;
    let ended = process.end().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said());
    window
}
