//! Where all measuring happens: a private RabbitMQ, the sink as a process of its own, lanes, and a producer.
//! One after another a worker or the bare loop takes the same jobs out of the same queues there.
//!
//! Where jobs are not all done, have no result, or were sent twice, it fails: then nothing was measured. Nor is
//! it where the machine stood still for seconds: then a worker gives back what it holds, as it must, and the
//! lap is run anew.

use crate::sink::Answers;
use crate::stock::{Special, Stock};
use crate::support::broker::{Broker, Client};
use crate::support::process::{AdminPage, Process, Program, TOKEN, beside};
use crate::usage::{Memory, memory, processor_time};
use chakra_sender::queue::rabbitmq::delete_everything;
use chakra_sender::queue::rabbitmq::topology::lane_key;
use chakra_sender::sandbox::SandboxConfig;
use chakra_sender::wire::{NumberId, Priority};
use lapin::options::{QueueDeclareOptions, QueuePurgeOptions};
use lapin::types::{AMQPValue, FieldTable};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

/// A rate that limits nothing; the limiter counts all the same.
pub(crate) const UNLIMITED: &str = "1000000";

/// All jobs of a lap are done by then.
const LAP_WITHIN: Duration = Duration::from_secs(180);

/// The lanes stand, and a worker has them, by then. Two quorum queues take 8 ms.
const LANES_WITHIN: Duration = Duration::from_secs(90);

/// The last results are on their way for so long.
const RESULTS_WITHIN: Duration = Duration::from_secs(15);

/// Between two looks at what tells nothing by itself.
const LOOK: Duration = Duration::from_millis(25);

/// A lap in which the machine stood still is run anew, so often in all.
const LAPS: usize = 4;

/// What a worker says then.
const STOOD_STILL: &str = "this process stood still";

/// The part of a lap's messages between which is measured: neither a start nor an end counts.
pub(crate) const MEASURED: (f64, f64) = (0.05, 0.95);

/// What was measured between two marks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    /// Messages a second.
    pub(crate) rate: f64,
    /// Of a core.
    pub(crate) of_a_core: f64,
    /// Microseconds of processor time a message.
    pub(crate) cpu: Cpu,
    pub(crate) memory: Memory,
}

/// Processor time by process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cpu {
    /// The worker's or the bare loop's.
    pub(crate) sender: f64,
    pub(crate) broker: f64,
    pub(crate) sink: f64,
}

/// What a lap is like.
pub(crate) struct Lap {
    pub(crate) jobs: usize,
    pub(crate) measured: (f64, f64),
    pub(crate) special: Special,
    /// How long the API takes.
    pub(crate) latency: Duration,
    /// Where a worker hears what becomes of the messages; none: nobody tells.
    pub(crate) statuses_to: Option<SocketAddr>,
    /// Statuses that are told of each job; one that is told twice has the same id.
    pub(crate) statuses: usize,
}

impl Lap {
    /// An instant API, a result for each job.
    pub(crate) fn of(jobs: usize) -> Lap {
        Lap {
            jobs,
            measured: MEASURED,
            special: Special::default(),
            latency: Duration::ZERO,
            statuses_to: None,
            statuses: 0,
        }
    }
}

/// The machine stood still: what the worker held is void, and the lap too.
pub(crate) struct StoodStill;

/// A lap on new ground, which is cleared away after it; anew where the machine stood still.
pub(crate) async fn on_new_ground(
    broker: &mut Broker,
    lanes: usize,
    lap: impl AsyncFn(&mut Ground<'_>) -> Result<Window, StoodStill>,
) -> Window {
    for _lap in 0..LAPS {
        let mut ground = Ground::new(broker, lanes).await;
        let window = lap(&mut ground).await;
        ground.clear_away().await;
        match window {
            Ok(window) => return window,
            Err(StoodStill) => eprintln!("the machine stood still: the lap is run anew"),
        }
    }
    panic!("the machine stood still in {LAPS} laps, one after the other")
}

/// A broker's names with lanes, a producer for them, a sink behind them.
pub(crate) struct Ground<'b> {
    pub(crate) broker: &'b Broker,
    pub(crate) lanes: Vec<NumberId>,
    pub(crate) stock: Stock,
    pub(crate) watch: Watch,
    pub(crate) client: Client,
}

impl<'b> Ground<'b> {
    /// So many lanes that stand, and no job.
    pub(crate) async fn new(broker: &'b mut Broker, lanes: usize) -> Ground<'b> {
        broker.prefix = format!("bench-{:08x}", fastrand::u32(..));
        let broker: &Broker = broker;
        let number = |lane| NumberId::parse(&format!("10277293404{lane:05}")).unwrap();
        let lanes: Vec<NumberId> = (0..lanes).map(number).collect();
        let ground = Ground {
            stock: Stock::of(broker).await,
            client: broker.client().await,
            watch: Watch::start(broker, &lanes).await,
            lanes,
            broker,
        };
        let (worker, _) = ground.started(ground.worker()).await;
        end(worker).await;
        ground
    }

    /// A worker with all that is on by default, limits that limit nothing, and logs that tell its ports.
    pub(crate) fn worker(&self) -> Program {
        self.as_worker(Program::new(&["worker"]))
    }

    /// The same, where the program is started in a way of its own.
    pub(crate) fn as_worker(&self, program: Program) -> Program {
        let program = program
            .calling(&self.watch.base_url())
            .on(self.broker)
            .set("admin.listen", "127.0.0.1:0")
            .set("numbers.max_lanes", &self.lanes.len().to_string());
        unlimited(program)
    }

    /// The bare loop over the same queues.
    pub(crate) fn bare_loop(&self) -> Program {
        let program = Program::other(beside("bare-loop"));
        let (url, prefix) = (self.watch.api(), &self.broker.prefix);
        let program = program.with(&["--url", &url, "--token", TOKEN, "jobs"]);
        let program = program.with(&["--uri", self.broker.uri(), "--prefix", prefix]);
        program.with(&self.lanes.iter().map(NumberId::as_str).collect::<Vec<_>>())
    }

    /// Starts a worker and waits until it has all lanes.
    pub(crate) async fn started(&self, program: Program) -> (Process, AdminPage) {
        let mut worker = program.start();
        let admin = worker.admin().await;
        let all = format!("\nchakra_sender_lanes_owned {}\n", self.lanes.len());
        let owned = timeout(LANES_WITHIN, async {
            while !admin.get("/metrics").await.is_some_and(|(_, text)| text.contains(&all)) {
                sleep(LOOK).await;
            }
        });
        assert!(owned.await.is_ok(), "the worker has not all lanes in time");
        (worker, admin)
    }

    /// Puts the jobs in, lets the program take them, and ends it: what happened between the marks.
    pub(crate) async fn lap(&mut self, program: Program, lap: &Lap) -> Result<Window, StoodStill> {
        self.put(lap).await;
        self.watch.begin(lap).await;
        let process = program.start();
        let measured = async {
            let window = self.watch.between(&process, lap).await;
            self.settled(lap).await;
            Window { memory: memory(process.child.id()), ..window }
        };
        let window = tokio::select! {
            // Looked at first: then jobs come again, which `settled` would call a mistake.
            biased;
            () = stands_still(&process) => return Err(StoodStill),
            window = measured => window,
        };
        end(process).await;
        self.assert_nothing_waits().await;
        Ok(window)
    }

    /// The jobs of a lap, over the lanes in turn.
    pub(crate) async fn put(&mut self, lap: &Lap) {
        let keys = keys(&self.lanes);
        self.stock.put_in_turn(&keys, lap.jobs, &lap.special).await;
    }

    /// The same while a worker runs.
    pub(crate) async fn lap_of_running(&mut self, worker: &Process, lap: &Lap) -> Window {
        self.watch.begin(lap).await;
        let keys = keys(&self.lanes);
        let putting = self.stock.put_in_turn(&keys, lap.jobs, &lap.special);
        let ((), window) = tokio::join!(putting, self.watch.between(worker, lap));
        tokio::select! {
            biased;
            () = stands_still(worker) => panic!("the machine stood still"),
            () = self.settled(lap) => {}
        }
        Window { memory: memory(worker.child.id()), ..window }
    }

    /// The microseconds of processor time a job of a lap, once what a program does at its start is over. It ends.
    pub(crate) async fn cost_settled(
        &mut self,
        sender: Process,
        settled: Duration,
        lap: &Lap,
    ) -> f64 {
        sleep(settled).await;
        let cost = self.lap_of_running(&sender, lap).await.cpu.sender;
        end(sender).await;
        cost
    }

    /// Waits until each job was sent and has its events, and takes these away.
    async fn settled(&self, lap: &Lap) {
        let events =
            self.emptied(&self.broker.names().results(), lap.jobs * (1 + lap.statuses)).await;
        assert!(lap.statuses > 0 || events == lap.jobs, "{events} results of {} jobs", lap.jobs);
        if let Some(replies) = &lap.special.reply_to {
            let told = self.emptied(replies, lap.jobs).await;
            assert_eq!(told, lap.jobs, "replies");
        }
        let sent = self.watch.count().await;
        assert_eq!(sent, lap.jobs, "sent, of {} jobs", lap.jobs);
    }

    /// Takes so many messages out of a queue, or more; how many there were.
    async fn emptied(&self, queue: &str, messages: usize) -> usize {
        let mut taken = 0;
        let within = timeout(RESULTS_WITHIN, async {
            loop {
                let options = QueuePurgeOptions::default();
                let purged = self.client.channel.queue_purge(queue.into(), options).await.unwrap();
                taken += usize::try_from(purged).unwrap();
                if taken >= messages {
                    return;
                }
                sleep(LOOK).await;
            }
        });
        let within = within.await.is_ok();
        assert!(within, "{taken} of {messages} messages in {queue}");
        taken
    }

    /// The sender is gone: what it did not settle would stand ready again.
    async fn assert_nothing_waits(&self) {
        for number in &self.lanes {
            let queue = self.broker.names().lane(number, Priority::Normal);
            assert_eq!(self.client.depth(&queue).await, 0, "left in {queue}");
        }
    }

    /// A queue for replies, as durable as the results.
    pub(crate) async fn replies(&self) -> String {
        let name = format!("{}.replies", self.broker.prefix);
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        self.client.channel.queue_declare(name.as_str().into(), options, arguments).await.unwrap();
        name
    }

    /// Takes everything out of the broker again: idle queues cost.
    pub(crate) async fn clear_away(self) {
        let settings = self.broker.settings();
        delete_everything(&settings.connection, &settings.topology, &self.lanes).await.unwrap();
    }
}

fn keys(lanes: &[NumberId]) -> Vec<(NumberId, String)> {
    let key = |number: &NumberId| (number.clone(), lane_key(number, Priority::Normal));
    lanes.iter().map(key).collect()
}

/// Limits that count and never limit: so many a second, and for each recipient.
pub(crate) fn unlimited(program: Program) -> Program {
    program.set("limits.number.rate", UNLIMITED).set("limits.recipient.burst", "1000")
}

/// Ends a process. A worker drains, and must end well.
pub(crate) async fn end(process: Process) {
    process.signal("TERM");
    let ended = process.end().await;
    let well = ended.code == Some(0) || ended.signal == Some(15);
    assert!(well, "it ended with {:?}: {}", ended.code, ended.said());
}

/// Ends once the process says that it stood still.
async fn stands_still(process: &Process) {
    let mut said = process.err.clone();
    let such = |lines: &[String]| lines.iter().any(|line| line.contains(STOOD_STILL));
    // It gives up after a while, and at the process's end.
    while !said.until(such).await {
        sleep(LOOK).await;
    }
}

/// An address that nobody listens on yet.
pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The sink, and what it and the broker use.
pub(crate) struct Watch {
    sink: Process,
    address: String,
    broker: u32,
    _answers: TempDir,
}

impl Watch {
    /// A sink for these numbers.
    pub(crate) async fn start(broker: &Broker, lanes: &[NumberId]) -> Watch {
        let numbers: Vec<String> = lanes.iter().map(NumberId::to_string).collect();
        let answers = serde_json::to_vec(&Answers::of_sandbox(&numbers).await).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("answers.json");
        std::fs::write(&file, answers).unwrap();
        let program = Program::other(std::env::current_exe().unwrap());
        let mut sink = program.with(&["sink", file.to_str().unwrap()]).start();
        let address = sink.out.line("listening on ").await.replace("listening on ", "");
        let id = std::fs::read_to_string(broker.node().dir().join("pid")).unwrap();
        Watch { sink, address, broker: id.trim().parse().unwrap(), _answers: folder }
    }

    /// Where a worker calls.
    pub(crate) fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The same, down to the numbers.
    pub(crate) fn api(&self) -> String {
        let plugin = SandboxConfig::default().plugin_id;
        format!("{}/v1/ext/plugin/whatsapp/{plugin}/api/v24.0", self.base_url())
    }

    /// Counts anew.
    pub(crate) async fn begin(&self, lap: &Lap) {
        let (first, second) = marks(lap);
        let to = lap.statuses_to.map_or_else(|| "-".to_owned(), |to| to.to_string());
        self.ask(&format!("begin/{first}/{second}/{}/{to}", lap.latency.as_millis())).await;
    }

    /// What happens between the marks of a lap that has begun.
    pub(crate) async fn between(&self, sender: &Process, lap: &Lap) -> Window {
        let ids = [sender.child.id(), self.broker, self.sink.child.id()];
        let mark = async |mark: &str| {
            let nanoseconds: u64 = self.ask(mark).await.parse().unwrap();
            (Duration::from_nanos(nanoseconds), ids.map(processor_time))
        };
        let marks_reached = timeout(LAP_WITHIN, async {
            let first = mark("mark/0").await;
            (first, mark("mark/1").await)
        });
        let Ok(((begun, before), (ended, after))) = marks_reached.await else {
            let (count, said) = (self.count().await, sender.err.lines().join("\n"));
            panic!("{count} of {} sent within {} s\n{said}", lap.jobs, LAP_WITHIN.as_secs());
        };
        let (first, second) = marks(lap);
        #[expect(clippy::cast_precision_loss, reason = "millions")]
        let messages = (second - first) as f64;
        let seconds = (ended - begun).as_secs_f64();
        let used = [0, 1, 2].map(|process| (after[process] - before[process]).as_secs_f64());
        let [sender_used, broker, sink] = used.map(|seconds| seconds * 1e6 / messages);
        Window {
            rate: messages / seconds,
            of_a_core: used[0] / seconds,
            cpu: Cpu { sender: sender_used, broker, sink },
            memory: memory(sender.child.id()),
        }
    }

    /// Messages since the beginning.
    pub(crate) async fn count(&self) -> usize {
        self.ask("count").await.parse().unwrap()
    }

    async fn ask(&self, order: &str) -> String {
        let answer = AdminPage::at(&self.address).get(&format!("/sink/{order}")).await;
        answer.expect("the sink answers").1
    }
}

/// The counts between which is measured.
fn marks(lap: &Lap) -> (usize, usize) {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "parts of millions"
    )]
    let part = |part: f64| (lap.jobs as f64 * part) as usize;
    (part(lap.measured.0), part(lap.measured.1))
}
