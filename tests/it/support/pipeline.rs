//! The whole way in one process: the real worker takes jobs from a real RabbitMQ and sends them to
//! the sandbox. Built, drained and built again as `worker` does it.

use super::broker::{Broker, Client, SOON};
use super::story::reach_within;
use super::world::{self, World};
use chakra_sender::clock;
use chakra_sender::ledger::Ledger;
use chakra_sender::metrics::Metrics;
use chakra_sender::queue::Incoming;
use chakra_sender::queue::rabbitmq::{BrokerState, RabbitQueue, RabbitReceipt, RabbitSettings};
use chakra_sender::sandbox::{Record, SandboxConfig};
use chakra_sender::wire::{NumberId, Priority};
use chakra_sender::worker::{Worker, WorkerSettings};
use futures_util::StreamExt;
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The last job of a story has its outcome by then.
pub(crate) const WITHIN: Duration = Duration::from_secs(25);

/// What marks the end of the results so far.
const END: &str = "end-of-story";

type ChangeWorker = Box<dyn Fn(&mut WorkerSettings) + Send + Sync>;
type ChangeRabbit = Box<dyn Fn(&mut RabbitSettings) + Send + Sync>;

/// What a pipeline is to be like.
pub(crate) struct Plan {
    broker: Broker,
    worker: ChangeWorker,
    rabbit: ChangeRabbit,
    ledger: Option<PathBuf>,
}

impl Plan {
    /// Lanes for both numbers, each paced as [`world::settings`] has it.
    pub(crate) fn on(broker: Broker) -> Plan {
        Plan { broker, worker: Box::new(|_| {}), rabbit: Box::new(|_| {}), ledger: None }
    }

    /// Keeps a ledger in this folder, over all starts.
    pub(crate) fn ledger(self, folder: &Path) -> Plan {
        Plan { ledger: Some(folder.to_owned()), ..self }
    }

    /// Changes the worker's settings at each start.
    pub(crate) fn worker(
        self,
        change: impl Fn(&mut WorkerSettings) + Send + Sync + 'static,
    ) -> Plan {
        Plan { worker: Box::new(change), ..self }
    }

    /// Changes the queue's settings at each start.
    pub(crate) fn rabbit(
        self,
        change: impl Fn(&mut RabbitSettings) + Send + Sync + 'static,
    ) -> Plan {
        Plan { rabbit: Box::new(change), ..self }
    }

    /// Starts against a sandbox without ceilings.
    pub(crate) async fn start(self) -> Pipeline {
        self.start_against(|_| {}).await
    }

    /// Starts; returns when the broker is up and the results are heard.
    pub(crate) async fn start_against(self, sandbox: impl FnOnce(&mut SandboxConfig)) -> Pipeline {
        let world = World::with(sandbox).await;
        let producer = self.broker.client().await;
        let redelivered = Arc::default();
        let told = watch::Sender::default();
        let mut pipeline =
            Pipeline { plan: self, world, producer, redelivered, told, ears: None, running: None };
        pipeline.run().await;
        pipeline.listen().await;
        pipeline
    }
}

/// A worker that runs or was drained, with its sandbox, its producer and its consumer of results.
pub(crate) struct Pipeline {
    plan: Plan,
    pub(crate) world: World,
    pub(crate) producer: Client,
    /// Jobs that reached the worker and had been delivered before.
    pub(crate) redelivered: Arc<AtomicUsize>,
    told: watch::Sender<Vec<Told>>,
    ears: Option<JoinSet<()>>,
    running: Option<Running>,
}

struct Running {
    queue: RabbitQueue,
    hall: JoinSet<()>,
    drain: CancellationToken,
    metrics: Arc<Metrics>,
}

/// One event as a consumer of the results gets it.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) key: String,
    pub(crate) message_id: String,
    pub(crate) event: Value,
}

impl Told {
    pub(crate) fn id(&self) -> &str {
        self.event["id"].as_str().unwrap_or_default()
    }

    /// `status class after attempts`, as consumers see it.
    pub(crate) fn outcome(&self) -> String {
        let text = |value: &Value| value.as_str().map(|text| format!("{text} "));
        let status = text(&self.event["status"]).unwrap_or_default();
        let class = text(&self.event["error"]["class"]).unwrap_or_default();
        format!("{status}{class}after {}", self.event["attempts"])
    }
}

/// An original that a person may want to repair.
#[derive(Debug)]
pub(crate) struct Dead {
    pub(crate) body: Vec<u8>,
    pub(crate) properties: BasicProperties,
}

impl Dead {
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        match self.properties.headers().as_ref()?.inner().get(name)? {
            AMQPValue::LongString(text) => Some(text.to_string()),
            _ => None,
        }
    }
}

impl Pipeline {
    pub(crate) fn broker(&self) -> &Broker {
        &self.plan.broker
    }

    pub(crate) fn record(&self) -> Arc<Record> {
        self.world.sandbox.record()
    }

    /// Builds worker and queue anew, under the same prefix and against the same sandbox.
    pub(crate) async fn run(&mut self) {
        let mut worker = world::settings();
        (self.plan.worker)(&mut worker);
        let mut rabbit = self.plan.broker.settings();
        rabbit.numbers = [world::NUMBER, world::OTHER].map(number).into();
        let rates = worker.rates.clone();
        // As the command does it: what a lane can send soon.
        rabbit.prefetch = Arc::new(move |number| match rates.of(number).0.per_second() {
            ..4.0 => 5,
            ..80.0 => 50,
            _ => 500,
        });
        (self.plan.rabbit)(&mut rabbit);
        let metrics = Arc::new(Metrics::new().unwrap());
        let ledger = match &self.plan.ledger {
            None => world::ledger(),
            Some(folder) => Ledger::open(folder, world::bounds(), clock::wall()).unwrap(),
        };
        let (queue, jobs) = RabbitQueue::start(rabbit, Arc::clone(&metrics)).unwrap();
        let drain = CancellationToken::new();
        let (client, may_send) = (self.world.client(), queue.may_send());
        let of_worker = Arc::clone(&metrics);
        let worker = Worker::new(
            worker,
            client,
            ledger,
            of_worker,
            may_send,
            queue.notices(),
            drain.clone(),
        );
        let mut hall = JoinSet::new();
        let (out, seen) = mpsc::channel(1);
        hall.spawn(watch_over(jobs, out, Arc::clone(&self.redelivered)));
        hall.spawn(worker.run(seen));
        self.running = Some(Running { queue, hall, drain, metrics });
        self.reach(|state| *state == BrokerState::Up).await;
    }

    /// Waits until the queue is in such a state.
    pub(crate) async fn reach(&self, goal: impl FnMut(&BrokerState) -> bool) {
        reach_within(WITHIN, &self.running.as_ref().unwrap().queue, goal).await;
    }

    /// The worker's metrics, also for after its drain.
    pub(crate) fn counting(&self) -> Arc<Metrics> {
        Arc::clone(&self.running.as_ref().unwrap().metrics)
    }

    /// What the worker's `/metrics` says.
    pub(crate) fn metrics(&self) -> String {
        self.running.as_ref().unwrap().metrics.render().unwrap()
    }

    /// Stops as `worker` does at SIGTERM. Panics when that takes longer than it may.
    pub(crate) async fn drain(&mut self) {
        let Running { queue, mut hall, drain, .. } = self.running.take().unwrap();
        drain.cancel();
        queue.stop_consuming();
        let finish = async {
            while let Some(ended) = hall.join_next().await {
                ended.unwrap();
            }
        };
        tokio::time::timeout(SOON, finish).await.expect("the jobs in hand were not finished");
        queue.close().await;
    }

    /// Drains, and starts again with everything new but broker and sandbox.
    pub(crate) async fn restart(&mut self) {
        self.drain().await;
        self.run().await;
    }

    /// Connects producer and consumer of results; again after the broker was gone.
    pub(crate) async fn listen(&mut self) {
        self.ears = None;
        self.producer = self.plan.broker.client().await;
        let client = self.plan.broker.client().await;
        let (queue, results) = (self.own("told"), self.plan.broker.names().results());
        self.declare(&queue).await;
        let channel = &client.channel;
        let (options, none) = (QueueBindOptions::default(), FieldTable::default());
        let bound =
            channel.queue_bind(queue.clone().into(), results.into(), "#".into(), options, none);
        bound.await.unwrap();
        let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
        let mut events =
            channel.basic_consume(queue.into(), "".into(), options, none).await.unwrap();
        let told = self.told.clone();
        let mut ears = JoinSet::new();
        ears.spawn(async move {
            let _open = client;
            // It ends with its connection: then somebody listens anew.
            while let Some(Ok(delivery)) = events.next().await {
                told.send_modify(|all| all.push(read(&delivery)));
                if delivery.ack(BasicAckOptions::default()).await.is_err() {
                    return;
                }
            }
        });
        self.ears = Some(ears);
    }

    /// A name of this story.
    pub(crate) fn own(&self, name: &str) -> String {
        format!("{}.story.{name}", self.plan.broker.prefix)
    }

    /// A durable queue of this story.
    pub(crate) async fn declare(&self, queue: &str) {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        let channel = &self.producer.channel;
        channel.queue_declare(queue.into(), options, arguments).await.unwrap();
    }

    /// Puts a body on the exchange for jobs, confirmed.
    pub(crate) async fn publish(&self, key: &str, body: &[u8], properties: BasicProperties) {
        let sends = self.plan.broker.names().sends();
        self.producer.publish((&sends, key), body, properties).await;
    }

    /// Puts many jobs of one lane on the exchange, and waits until the broker has all of them.
    pub(crate) async fn enqueue(&self, key: &str, jobs: &[String]) {
        let sends = self.plan.broker.names().sends();
        let mut confirms = Vec::with_capacity(jobs.len());
        for job in jobs {
            let options = BasicPublishOptions::default();
            let properties = BasicProperties::default().with_delivery_mode(2);
            let (exchange, key) = (sends.as_str().into(), key.into());
            let channel = &self.producer.channel;
            let written =
                channel.basic_publish(exchange, key, options, job.as_bytes(), properties).await;
            confirms.push(written.unwrap());
        }
        for confirm in confirms {
            assert!(confirm.await.unwrap().is_ack());
        }
    }

    /// Waits for the result of a job.
    pub(crate) async fn result(&self, id: &str) -> Told {
        self.told(&format!("no result of {id}"), |all| all.iter().any(|told| told.id() == id))
            .await
            .into_iter()
            .find(|told| told.id() == id)
            .unwrap()
    }

    /// Waits until so many different jobs have a result.
    pub(crate) async fn results(&self, jobs: usize) -> HashMap<String, Told> {
        let all = self.told("results are missing", |all| by_id(all).len() >= jobs).await;
        by_id(&all)
    }

    /// All events so far, up to a mark that is published now.
    pub(crate) async fn everything_told(&self) -> Vec<Told> {
        let mark = format!("{END}-{:08x}", fastrand::u32(..));
        let body = serde_json::json!({ "id": mark }).to_string();
        let results = self.plan.broker.names().results();
        self.producer.publish((&results, END), body.as_bytes(), BasicProperties::default()).await;
        let goal = |all: &[Told]| all.iter().any(|told| told.id() == mark);
        let mut all = self.told("the mark did not come back", goal).await;
        all.retain(|told| told.key != END);
        all
    }

    /// Waits until all events so far are such.
    pub(crate) async fn told(
        &self,
        missing: &str,
        mut goal: impl FnMut(&[Told]) -> bool,
    ) -> Vec<Told> {
        let mut told = self.told.subscribe();
        let reached = tokio::time::timeout(WITHIN, told.wait_for(|all| goal(all))).await;
        match reached {
            Ok(all) => all.unwrap().clone(),
            Err(_) => {
                let have: Vec<String> =
                    self.told.borrow().iter().map(|t| t.id().to_owned()).collect();
                panic!("{missing}; {} came: {:.400}", have.len(), have.join(" "))
            }
        }
    }

    /// Waits until the sandbox's record says so.
    pub(crate) async fn recorded(&self, what: &str, goal: impl FnMut(&Record) -> bool) {
        let record = self.record();
        let reached = tokio::time::timeout(WITHIN, record.wait_for(goal)).await;
        reached.unwrap_or_else(|_| {
            panic!("{what}: not so after {} requests", record.count_requests())
        });
    }

    /// The next dead letter, taken out.
    pub(crate) async fn dead_letter(&self) -> Dead {
        let delivery = self.producer.take(&self.plan.broker.names().dead_letters()).await;
        Dead { body: delivery.data, properties: delivery.properties }
    }

    /// Jobs that stand ready in a queue. Once nobody consumes it: all of them.
    pub(crate) async fn depth(&self, queue: &str) -> u32 {
        self.producer.depth(queue).await
    }

    /// Jobs that stand ready in both queues of both lanes.
    pub(crate) async fn backlog(&self) -> u32 {
        let mut jobs = 0;
        for id in [world::NUMBER, world::OTHER] {
            for priority in [Priority::Urgent, Priority::Normal] {
                jobs += self.depth(&self.plan.broker.names().lane(&number(id), priority)).await;
            }
        }
        jobs
    }
}

/// Hands jobs on, and counts those that had been delivered before.
async fn watch_over(
    mut jobs: mpsc::Receiver<Incoming<RabbitReceipt>>,
    out: mpsc::Sender<Incoming<RabbitReceipt>>,
    redelivered: Arc<AtomicUsize>,
) {
    while let Some(job) = jobs.recv().await {
        redelivered.fetch_add(usize::from(job.earlier > 0), SeqCst);
        if out.send(job).await.is_err() {
            return;
        }
    }
}

/// One of each job's events.
fn by_id(all: &[Told]) -> HashMap<String, Told> {
    let results = all.iter().filter(|told| told.key != END);
    results.map(|told| (told.id().to_owned(), told.clone())).collect()
}

fn read(delivery: &Delivery) -> Told {
    let message_id = delivery.properties.message_id().as_ref();
    Told {
        key: delivery.routing_key.to_string(),
        message_id: message_id.map(ToString::to_string).unwrap_or_default(),
        event: serde_json::from_slice(&delivery.data).unwrap(),
    }
}

pub(crate) fn number(digits: &str) -> NumberId {
    NumberId::parse(digits).unwrap()
}

/// A text as a job of [`world::OTHER`].
pub(crate) fn text_of_other(id: &str) -> String {
    world::text(id, "x").replace(world::NUMBER, world::OTHER)
}
