//! The world of one scenario: a broker, a sandbox with its record, a line to each, workers as real
//! processes, and a consumer of the results. It does what it is told; what happens is `faults`'.

use crate::line::{Line, Mode};
use crate::outcomes::{Outcomes, waiting};
use crate::support::broker::Broker;
use crate::support::process::{self, Process, Program, TOKEN};
use crate::support::world::{NUMBER, text_to};
use crate::table::Listing;
use chakra_sender::clock;
use chakra_sender::queue::rabbitmq::topology::Step;
use chakra_sender::sandbox::{Latency, ListingMode, Listings, Sandbox};
use chakra_sender::wire::{NumberId, Priority};
use lapin::BasicProperties;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::Instant;

/// A call whose answer has not come by then is in doubt.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a call usually takes.
const LATENCY: Latency =
    Latency { min: Duration::from_millis(20), max: Duration::from_millis(100) };

/// Where the listing never shows anything, a doubt is given up after this.
const GIVE_UP: &str = "20s";

/// Each so many jobs, one repeats the message of the job before it, to the same recipient.
const IDENTICAL: usize = 10;

const SIGKILL: i32 = 9;

/// Between two looks at what tells nothing by itself.
const LOOK: Duration = Duration::from_millis(100);

/// What a scenario needs.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Jobs that are there before the fault.
    pub(crate) jobs: usize,
    /// Jobs a second.
    pub(crate) rate: u32,
    /// Whether the broker is stopped or alarmed, so that it must be the scenario's own.
    pub(crate) private_broker: bool,
    /// In seconds.
    pub(crate) heartbeat: u32,
    /// Where the worker ends itself: `CHAKRA_CRASH_AT`.
    pub(crate) crash_at: Option<String>,
    /// The key is in a file.
    pub(crate) token_file: bool,
    /// The ledger is on a small disk of its own. Needs root.
    pub(crate) small_disk: bool,
    /// Some jobs have the same message for the same person. Two workers with a ledger each cannot tell
    /// such messages apart (docs/delivery-semantics.md).
    pub(crate) identical: bool,
    /// The scenario is over by then.
    pub(crate) within: Duration,
}

/// The world of one scenario.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) broker: Broker,
    pub(crate) to_broker: Line,
    pub(crate) sandbox: Sandbox,
    pub(crate) to_chakra: Line,
    pub(crate) outcomes: Outcomes,
    /// Those that run; the first is the one that faults strike.
    pub(crate) workers: Vec<Process>,
    /// Jobs that the broker confirmed.
    pub(crate) jobs: usize,
    /// What was not as it should be.
    pub(crate) wrong: Vec<String>,
    /// What workers that have ended said.
    pub(crate) said: Vec<String>,
    listing: Listing,
    dir: tempfile::TempDir,
}

/// When a fault was over, and what had been seen until then.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Over {
    at: Instant,
    results: usize,
    requests: u64,
}

impl World {
    /// Without a worker and without jobs.
    pub(crate) async fn new(plan: Plan, listing: Listing) -> World {
        let broker = tokio::task::block_in_place(|| match plan.private_broker {
            true => Broker::private(),
            false => Broker::shared(),
        });
        let port = broker.uri().rsplit([':', '/']).nth(1).unwrap().parse().unwrap();
        let sandbox = process::sandbox(|config| {
            config.latency = LATENCY;
            config.listings = listings(listing);
        })
        .await;
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), TOKEN).unwrap();
        if plan.small_disk {
            crate::disk::mount(&dir.path().join("ledger-0"));
        }
        World {
            to_broker: Line::to(port).await,
            to_chakra: Line::to(sandbox.addr().port()).await,
            outcomes: Outcomes::of(&broker),
            workers: Vec::new(),
            jobs: 0,
            wrong: Vec::new(),
            said: Vec::new(),
            plan,
            broker,
            sandbox,
            listing,
            dir,
        }
    }

    /// A worker with the ledger of this number; it takes the broker's and ChakraHQ's place through
    /// the lines.
    fn program(&self, ledger: usize) -> Program {
        let seconds = |time: Duration| format!("{}s", time.as_secs());
        let uri = format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.to_broker.port);
        let mut program = Program::worker(&self.sandbox, &self.broker)
            .set("chakra.base_url", &format!("http://127.0.0.1:{}", self.to_chakra.port))
            .set("chakra.timeout", &seconds(CALL_TIMEOUT))
            .set("chakra.connect_timeout", "2s")
            .set("rabbitmq.uri", &uri)
            .set("rabbitmq.heartbeat", &format!("{}s", self.plan.heartbeat))
            .set("limits.number.rate", &self.plan.rate.to_string())
            // A storm ends before the retries do.
            .set("retry.max_delay", "5s")
            .set("retry.max_attempts", "100")
            .set("doubt.looks_per_second", "50")
            .set("ledger.path", self.ledger(ledger).to_str().unwrap());
        if self.listing == Listing::Never {
            program = program.set("doubt.give_up", GIVE_UP);
        }
        if self.plan.token_file {
            let file = self.token_file().display().to_string();
            program = program.set("chakra.token", "").set("chakra.token_file", &file);
        }
        match &self.plan.crash_at {
            Some(at) => program.env("CHAKRA_CRASH_AT", at),
            None => program,
        }
    }

    /// The folder of a ledger.
    pub(crate) fn ledger(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("ledger-{number}"))
    }

    /// Where the key stands.
    pub(crate) fn token_file(&self) -> PathBuf {
        self.dir.path().join("token")
    }

    /// Starts a worker beside those that run; each of them has a ledger of its own.
    pub(crate) fn start_worker(&mut self) {
        let worker = self.program(self.workers.len()).start();
        self.workers.push(worker);
    }

    /// Starts one and waits until it consumes.
    pub(crate) async fn start_ready_worker(&mut self) {
        self.start_worker();
        self.workers.last_mut().unwrap().admin().await.ready().await;
    }

    /// Kills the first worker.
    pub(crate) async fn kill(&mut self) {
        self.workers[0].signal("KILL");
        self.dies().await;
    }

    /// Waits until the first worker was ended by SIGKILL, whoever sent it.
    pub(crate) async fn dies(&mut self) {
        let ended = self.workers.remove(0).end().await;
        if ended.signal != Some(SIGKILL) {
            self.wrong.push(format!("a worker ended with {:?} instead of SIGKILL", ended.code));
        }
        self.said.extend(ended.err);
    }

    /// Drains all workers: each must end well.
    pub(crate) async fn drain(&mut self) {
        for worker in std::mem::take(&mut self.workers) {
            worker.signal("TERM");
            let ended = worker.end().await;
            if ended.code != Some(0) {
                self.wrong.push(format!("a drained worker ended with {:?}", ended.code));
            }
            self.said.extend(ended.err);
        }
    }

    /// All that workers have said.
    pub(crate) fn log(&self) -> String {
        let running = self.workers.iter().flat_map(|worker| worker.err.lines());
        self.said.iter().cloned().chain(running).collect::<Vec<_>>().join("\n")
    }

    /// Publishes further jobs, each confirmed.
    pub(crate) async fn enqueue(&mut self, count: usize) {
        let producer = self.broker.client().await;
        let sends = self.broker.names().sends();
        for number in self.jobs..self.jobs + count {
            let repeats = self.plan.identical && number % IDENTICAL == 1;
            let like = if repeats { number - 1 } else { number };
            let (to, body) = (format!("+9990{like:08}"), format!("message {like}"));
            let job = text_to(&format!("job-{number}"), &to, &body);
            let properties = BasicProperties::default().with_delivery_mode(2);
            producer.publish((&sends, NUMBER), job.as_bytes(), properties).await;
        }
        self.jobs += count;
    }

    /// Waits until this many jobs have their result.
    pub(crate) async fn results(&self, count: usize) {
        self.outcomes.reach(count).await;
    }

    /// The fault is over now.
    pub(crate) fn over(&self) -> Over {
        Over {
            at: clock::monotonic(),
            results: self.outcomes.count(),
            requests: self.sandbox.record().count_requests(),
        }
    }

    /// The time from the end of a fault to the next result of a job that had none.
    pub(crate) async fn next_result(&self, over: Over) -> Duration {
        let next = self.outcomes.reach(over.results + 1).await;
        next.unwrap_or(over.at).duration_since(over.at)
    }

    /// The time from the end of a fault to the next request: then jobs are consumed again.
    pub(crate) async fn next_request(&self, over: Over) -> Duration {
        let record = self.sandbox.record();
        record.wait_for(|record| record.count_requests() > over.requests).await;
        let next = usize::try_from(over.requests).unwrap();
        record.requests()[next].at.saturating_duration_since(over.at)
    }

    /// Waits until all jobs have a result and nothing is left that could be sent once more: neither
    /// in a queue nor in a worker, as their end shows.
    pub(crate) async fn come_to_rest(&mut self) {
        self.results(self.jobs).await;
        loop {
            self.empty().await;
            self.drain().await;
            if self.left().await == 0 {
                return;
            }
            self.start_ready_worker().await;
        }
    }

    /// Waits until no queue of jobs has one.
    pub(crate) async fn empty(&self) {
        while self.left().await > 0 {
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn left(&self) -> u32 {
        waiting(&self.broker.client().await, &self.queues_of_jobs()).await
    }

    fn queues_of_jobs(&self) -> Vec<String> {
        let (names, number) = (self.broker.names(), NumberId::parse(NUMBER).unwrap());
        let lanes = [Priority::Normal, Priority::Urgent].map(|lane| names.lane(&number, lane));
        let waits = Step::ALL.map(|step| names.wait(step));
        [names.unrouted()].into_iter().chain(lanes).chain(waits).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Whatever the workers hold of it goes first.
        self.workers.clear();
        self.to_broker.set(Mode::Cut);
        if self.plan.small_disk {
            crate::disk::unmount(&self.ledger(0));
        }
    }
}

fn listings(listing: Listing) -> Listings {
    match listing {
        Listing::Lag(lag) => Listings { lag, ..Listings::default() },
        Listing::Never => Listings { mode: ListingMode::Empty, ..Listings::default() },
    }
}
