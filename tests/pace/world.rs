//! The world of one scenario: a sandbox with its record, workers as real processes, a producer and a
//! consumer of the results. It does what it is told and counts at the end what became of each job.

use crate::lag::Queued;
use crate::lanes::Lane;
use crate::outcomes::Outcomes;
use crate::stock::Stock;
use crate::support::broker::Broker;
use crate::support::process::{AdminPage, Process, Program, sandbox};
use chakra_sender::clock;
use chakra_sender::queue::rabbitmq::delete_everything;
use chakra_sender::sandbox::{Latency, Sandbox, SandboxConfig};
use chakra_sender::wire::{NumberId, Priority};
use futures_util::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How long a call takes.
const LATENCY: Latency = Latency { min: Duration::from_millis(10), max: Duration::from_millis(40) };

/// Between two looks at what tells nothing by itself.
const LOOK: Duration = Duration::from_millis(25);

/// A frozen worker takes connections and answers none.
const PAGE: Duration = Duration::from_secs(1);

/// The lanes of all numbers stand, and lie with a worker, by then. Two quorum queues take 8 ms.
const LANES_WITHIN: Duration = Duration::from_secs(60);

/// The last results are on their way for so long.
const RESULTS_WITHIN: Duration = Duration::from_secs(10);

/// One worker.
pub(crate) struct Worker {
    pub(crate) process: Process,
    pub(crate) admin: AdminPage,
}

impl Worker {
    /// Its metrics; none while it does not answer.
    async fn metrics(&self) -> Option<String> {
        let page = timeout(PAGE, self.admin.get("/metrics")).await.ok().flatten();
        page.filter(|(status, _)| *status == 200).map(|(_, text)| text)
    }

    /// How many lanes it consumes, as it says.
    async fn lanes_owned(&self) -> Option<usize> {
        let text = self.metrics().await?;
        text.lines().find_map(|line| line.strip_prefix("chakra_sender_lanes_owned "))?.parse().ok()
    }

    /// How many messages of each number it has sent.
    async fn sent(&self) -> BTreeMap<String, u64> {
        let text = self.metrics().await.unwrap_or_default();
        let of_number = |line: &str| {
            let line = line.strip_prefix("chakra_sender_attempts_total{number=\"")?;
            let (number, rest) = line.split_once('"')?;
            let count = rest.strip_prefix(",outcome=\"accepted\"} ")?;
            Some((number.to_owned(), count.parse().ok()?))
        };
        text.lines().filter_map(of_number).collect()
    }
}

/// What became of all jobs.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Those that the broker confirmed.
    pub(crate) jobs: usize,
    /// Without a result, and in no queue.
    pub(crate) lost: Vec<String>,
    /// Accepted more than once.
    pub(crate) twice: usize,
    /// In doubt to the end.
    pub(crate) unknown: usize,
    /// With a result that the sandbox knows to be untrue.
    pub(crate) untrue: Vec<String>,
    /// With a result, and in a queue all the same: they would come again.
    pub(crate) again: Vec<String>,
}

/// The world of one scenario.
pub(crate) struct World {
    pub(crate) sandbox: Sandbox,
    pub(crate) lanes: Vec<Lane>,
    /// Those that run, oldest first.
    pub(crate) workers: Vec<Worker>,
    /// How many jobs of each number were put in.
    pub(crate) put: BTreeMap<NumberId, usize>,
    /// What was not as it should be.
    pub(crate) wrong: Vec<String>,
    broker: Broker,
    stock: Stock,
    outcomes: Outcomes,
    settings: Vec<(&'static str, String)>,
    /// What workers that have ended said.
    said: Vec<String>,
}

impl World {
    /// With no worker and no job, but with all lanes: whoever starts finds them. `change` is of the
    /// sandbox, `settings` are of each worker.
    pub(crate) async fn new(
        lanes: Vec<Lane>,
        change: impl FnOnce(&mut SandboxConfig),
        settings: &[(&'static str, &str)],
    ) -> World {
        let broker = tokio::task::block_in_place(Broker::shared);
        let sandbox = sandbox(|config| {
            config.latency = LATENCY;
            config.numbers = lanes.iter().map(|lane| lane.kind.number(lane.id.as_str())).collect();
            change(config);
        })
        .await;
        let mut world = World {
            stock: Stock::of(&broker).await,
            outcomes: Outcomes::of(&broker),
            workers: Vec::new(),
            put: BTreeMap::new(),
            wrong: Vec::new(),
            said: Vec::new(),
            settings: settings.iter().map(|(key, value)| (*key, (*value).to_owned())).collect(),
            broker,
            sandbox,
            lanes,
        };
        world.start_workers(1).await;
        let stand = timeout(LANES_WITHIN, world.balance()).await;
        assert!(stand.is_ok(), "the lanes do not stand within {} s", LANES_WITHIN.as_secs());
        world.drain().await;
        world
    }

    /// Starts so many at once.
    pub(crate) async fn start_workers(&mut self, count: usize) {
        let starting: Vec<Process> = (0..count).map(|_| self.program().start()).collect();
        for mut process in starting {
            let admin = process.admin().await;
            self.workers.push(Worker { process, admin });
        }
    }

    fn program(&self) -> Program {
        let max_lanes = self.lanes.len().to_string();
        let program = Program::worker(&self.sandbox, &self.broker)
            // What the plugin says decides.
            .set("limits.number.rate", "")
            .set("numbers.max_lanes", &max_lanes)
            // Of a killed worker hundreds are looked for.
            .set("doubt.looks_per_second", "500");
        self.settings.iter().fold(program, |program, (key, value)| program.set(key, value))
    }

    /// For how long the workers have waited for a processor.
    pub(crate) fn queued(&self) -> Queued {
        Queued::of(self.workers.iter().map(|worker| worker.process.child.id()))
    }

    /// How many lanes each worker consumes; none for one that does not say.
    pub(crate) async fn lanes_owned(&self) -> Vec<Option<usize>> {
        join_all(self.workers.iter().map(Worker::lanes_owned)).await
    }

    /// Waits until all lanes are shared evenly among the workers; when that was seen.
    pub(crate) async fn balance(&self) -> Instant {
        loop {
            let owned: Option<Vec<usize>> = self.lanes_owned().await.into_iter().collect();
            let even = owned.is_some_and(|owned| {
                let (least, most) = (owned.iter().min().unwrap(), owned.iter().max().unwrap());
                owned.iter().sum::<usize>() == self.lanes.len() && most - least <= 1
            });
            if even {
                return clock::monotonic();
            }
            sleep(LOOK).await;
        }
    }

    /// The numbers that each worker sends from, as what it sends within this time shows.
    pub(crate) async fn senders(&self, within: Duration) -> Vec<Vec<String>> {
        let before = join_all(self.workers.iter().map(Worker::sent)).await;
        sleep(within).await;
        let after = join_all(self.workers.iter().map(Worker::sent)).await;
        let grown = |(before, after): (BTreeMap<String, u64>, BTreeMap<String, u64>)| {
            let grown = after.into_iter().filter(|(number, sent)| before.get(number) != Some(sent));
            grown.map(|(number, _)| number).collect()
        };
        before.into_iter().zip(after).map(grown).collect()
    }

    /// Puts jobs into the lanes; each is confirmed.
    pub(crate) async fn put(&mut self, jobs: &[(NumberId, Priority, usize)]) {
        for (number, priority, count) in jobs {
            self.stock.put(number, *priority, *count).await;
            *self.put.entry(number.clone()).or_default() += count;
        }
    }

    /// Puts one job in; its id.
    pub(crate) async fn put_one(&mut self, number: &NumberId, priority: Priority) -> String {
        self.put(&[(number.clone(), priority, 1)]).await;
        self.stock.last()
    }

    /// Waits for the end of a worker that was told to drain. It must end well.
    pub(crate) async fn drained(&mut self, worker: Worker) {
        let ended = worker.process.end().await;
        if ended.code != Some(0) {
            self.wrong.push(format!("a drained worker ended with {:?}", ended.code));
        }
        self.said.extend(ended.err);
    }

    /// Drains all workers.
    pub(crate) async fn drain(&mut self) {
        let workers = std::mem::take(&mut self.workers);
        workers.iter().for_each(|worker| worker.process.signal("TERM"));
        for worker in workers {
            self.drained(worker).await;
        }
    }

    /// Kills a worker.
    pub(crate) async fn kill(&mut self, index: usize) {
        let killed = self.workers.remove(index).process.kill().await;
        self.said.extend(killed.err);
    }

    /// How many statuses of how many messages were told.
    pub(crate) fn statuses_told(&self) -> u64 {
        self.outcomes.statuses().values().map(|told| told.len() as u64).sum()
    }

    /// All that workers have said.
    pub(crate) fn log(&self) -> String {
        let running = self.workers.iter().flat_map(|worker| worker.process.err.lines());
        self.said.iter().cloned().chain(running).collect::<Vec<_>>().join("\n")
    }

    /// Ends all workers, takes what is left out of the queues and accounts for each job.
    pub(crate) async fn come_to_rest(&mut self) -> Tally {
        self.drain().await;
        let numbers: Vec<NumberId> = self.lanes.iter().map(|lane| lane.id.clone()).collect();
        let left = self.stock.take_all(&numbers).await;
        let all_told = async {
            while !self.without_trace(&left).is_empty() {
                sleep(LOOK).await;
            }
        };
        let _some_are_lost = timeout(RESULTS_WITHIN, all_told).await;
        self.tally(&left)
    }

    /// The jobs that have no result and stand in no queue.
    fn without_trace(&self, left: &BTreeSet<String>) -> Vec<String> {
        let statuses = self.outcomes.statuses();
        let all = (0..self.stock.jobs()).map(Stock::id);
        all.filter(|id| !statuses.contains_key(id) && !left.contains(id)).collect()
    }

    fn tally(&self, left: &BTreeSet<String>) -> Tally {
        let (record, statuses) = (self.sandbox.record(), self.outcomes.statuses());
        let mut tally = Tally {
            jobs: self.stock.jobs(),
            lost: self.without_trace(left),
            twice: record.duplicates().len(),
            again: left.iter().filter(|id| statuses.contains_key(*id)).cloned().collect(),
            ..Tally::default()
        };
        for (id, statuses) in &statuses {
            let sent = record.accepted_by_opaque(id) > 0;
            match (statuses.first().map_or("", String::as_str), sent) {
                ("unknown", _) => tally.unknown += 1,
                ("accepted", true) | ("failed" | "expired", false) => {}
                (status, _) => tally.untrue.push(format!("{id} ({status})")),
            }
        }
        tally
    }

    /// Takes everything out of the broker that this scenario brought: thousands of idle queues cost.
    pub(crate) async fn clear_away(mut self) {
        self.workers.clear();
        let settings = self.broker.settings();
        let numbers: Vec<NumberId> = self.lanes.iter().map(|lane| lane.id.clone()).collect();
        delete_everything(&settings.connection, &settings.topology, &numbers).await.unwrap();
    }
}
