//! Several workers on one broker: each lane is one worker's, whoever comes and goes.

use crate::support::broker::{Broker, Client, SOON};
use crate::support::story::{accepted, id, job_of, number, plain, reach, until};
use chakra_sender::clock;
use chakra_sender::metrics::Metrics;
use chakra_sender::policy;
use chakra_sender::queue::rabbitmq::{BrokerState, RabbitQueue, RabbitReceipt};
use chakra_sender::queue::{Incoming, Receipt};
use chakra_sender::wire::NumberId;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

const NUMBERS: [&str; 6] = ["11", "12", "13", "14", "15", "16"];

/// A joining worker has its share, and a dead one is replaced, within this (DESIGN 4).
const WITHIN: Duration = Duration::from_secs(3);

struct Worker {
    queue: RabbitQueue,
    jobs: mpsc::Receiver<Incoming<RabbitReceipt>>,
    metrics: Arc<Metrics>,
}

impl Worker {
    /// One that knows the lanes, and is up.
    async fn start(broker: &Broker) -> Worker {
        let worker = Worker::starting(broker);
        reach(&worker.queue, |state| *state == BrokerState::Up).await;
        worker
    }

    fn starting(broker: &Broker) -> Worker {
        let mut settings = broker.settings();
        settings.numbers = NUMBERS.map(number).into();
        let metrics = Arc::new(Metrics::new().unwrap());
        let (queue, jobs) = RabbitQueue::start(settings, Arc::clone(&metrics)).unwrap();
        Worker { queue, jobs, metrics }
    }

    /// How many lanes are its own.
    fn lanes(&self) -> usize {
        let text = self.metrics.render().unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("chakra_sender_lanes_owned "));
        line.unwrap().parse().unwrap()
    }

    async fn next(&mut self) -> Incoming<RabbitReceipt> {
        tokio::time::timeout(SOON, self.jobs.recv()).await.expect("no job came").unwrap()
    }

    async fn stop(mut self) {
        self.queue.stop_consuming();
        assert!(self.jobs.recv().await.is_none());
        self.queue.close().await;
    }
}

async fn publish_one_each(broker: &Broker, client: &Client, round: &str) {
    for of in NUMBERS {
        let body = serde_json::to_vec(&job_of(of, &format!("{round}-{of}"))).unwrap();
        client.publish((&broker.names().sends(), of), &body, plain()).await;
    }
}

/// Takes and settles so many jobs, none of which came to anybody before; the numbers that they were of.
async fn work_off(worker: &mut Worker, count: usize) -> BTreeSet<String> {
    work_off_of(worker, count, 0).await
}

/// The same of jobs that the broker may have given to somebody so often before.
async fn work_off_of(worker: &mut Worker, count: usize, earlier: u32) -> BTreeSet<String> {
    let mut numbers = BTreeSet::new();
    for _ in 0..count {
        let incoming = worker.next().await;
        assert!(incoming.earlier <= earlier, "{} came a second time", id(&incoming));
        numbers.insert(incoming.lane.as_ref().unwrap().to_string());
        let settlement = accepted(&incoming);
        incoming.receipt.settle(&settlement, ()).await.unwrap();
    }
    numbers
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_share_the_lanes_and_who_leaves_gives_its_part_back() {
    let broker = Broker::shared();
    let client = broker.client().await;
    let mut one = Worker::start(&broker).await;
    assert_eq!(one.lanes(), 6);
    let joined = clock::monotonic();
    let mut other = Worker::start(&broker).await;
    until(|| (one.lanes(), other.lanes()) == (3, 3)).await;
    assert!(joined.elapsed() < WITHIN, "{:?}", joined.elapsed());

    publish_one_each(&broker, &client, "shared").await;
    let (of_one, of_other) = tokio::join!(work_off(&mut one, 3), work_off(&mut other, 3));
    assert_eq!(of_one.union(&of_other).count(), 6, "{of_one:?} and {of_other:?}");

    let left = clock::monotonic();
    other.stop().await;
    until(|| one.lanes() == 6).await;
    publish_one_each(&broker, &client, "alone").await;
    assert_eq!(work_off(&mut one, 6).await.len(), 6);
    assert!(left.elapsed() < WITHIN, "{:?}", left.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_not_begun_goes_to_the_new_owner_unchanged() {
    let broker = Broker::shared();
    let client = broker.client().await;
    let mut one = Worker::start(&broker).await;
    publish_one_each(&broker, &client, "held").await;
    let mut held = Vec::new();
    for _ in NUMBERS {
        held.push(one.next().await);
    }
    let mut other = Worker::start(&broker).await;
    until(|| other.lanes() == 3).await;
    let mut moved = BTreeSet::new();
    for incoming in held {
        let gone = tokio::time::sleep(Duration::from_secs(2));
        let settlement = match incoming.tenure.unless_over(gone).await {
            Some(()) => accepted(&incoming),
            None => {
                moved.insert(incoming.lane.as_ref().unwrap().to_string());
                policy::given_back(&incoming.history)
            }
        };
        incoming.receipt.settle(&settlement, ()).await.unwrap();
    }
    assert_eq!(moved.len(), 3);
    assert_eq!(work_off(&mut other, 3).await, moved);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_without_a_word_is_replaced() {
    let broker = Broker::shared();
    let client = broker.client().await;
    let mut one = Worker::start(&broker).await;
    let other = Worker::start(&broker).await;
    until(|| (one.lanes(), other.lanes()) == (3, 3)).await;
    let died = clock::monotonic();
    drop(other);
    publish_one_each(&broker, &client, "orphan").await;
    // The broker may have written one to the dead worker before it heard of its end.
    assert_eq!(work_off_of(&mut one, 6, 1).await.len(), 6);
    assert!(died.elapsed() < WITHIN, "{:?}", died.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn four_that_start_at_the_same_instant_share_and_settle() {
    let broker = Broker::shared();
    let client = broker.client().await;
    let workers: Vec<Worker> = (0..4).map(|_| Worker::starting(&broker)).collect();
    for worker in &workers {
        reach(&worker.queue, |state| *state == BrokerState::Up).await;
    }
    let lanes = |workers: &[Worker]| {
        let mut lanes: Vec<usize> = workers.iter().map(Worker::lanes).collect();
        lanes.sort_unstable();
        lanes
    };
    until(|| lanes(&workers) == [1, 1, 2, 2]).await;
    publish_one_each(&broker, &client, "early").await;
    let (seen, mut sent) = mpsc::channel(NUMBERS.len());
    let mut all = JoinSet::new();
    for worker in workers {
        all.spawn(send_when_settled(worker, seen.clone()));
    }
    let mut numbers = BTreeSet::new();
    for _ in NUMBERS {
        numbers.insert(tokio::time::timeout(SOON, sent.recv()).await.expect("no job came"));
    }
    assert_eq!(numbers.len(), 6);
    all.shutdown().await;
}

/// Gives back what goes elsewhere, and settles the rest once the number is surely this worker's.
async fn send_when_settled(mut worker: Worker, seen: mpsc::Sender<NumberId>) {
    while let Some(incoming) = worker.jobs.recv().await {
        let settled = incoming.tenure.unless_over(incoming.tenure.settled()).await;
        let settlement = match settled {
            Some(()) => accepted(&incoming),
            None => policy::given_back(&incoming.history),
        };
        let number = incoming.lane.clone().unwrap();
        incoming.receipt.settle(&settlement, ()).await.unwrap();
        if settled.is_some() {
            seen.send(number).await.unwrap();
        }
    }
}
