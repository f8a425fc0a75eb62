//! Workers that see each other through a real RabbitMQ, several in one process.

use crate::support::broker::{Broker, Client, SOON};
use crate::support::cutter::Cutter;
use crate::support::story::{reach, start};
use chakra_sender::clock;
use chakra_sender::queue::rabbitmq::{
    BrokerState, Gathered, Identity, Names, PATIENCE, Presence, PresenceLost, Question,
    RabbitQueue, ReportOf, WorkerId, gather,
};
use chakra_sender::wire::JobId;
use futures_util::future::join_all;
use futures_util::{FutureExt, StreamExt};
use lapin::options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::options::{ExchangeDeclareOptions, ExchangeDeleteOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties, Consumer, ExchangeKind};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::block_in_place;

/// A silence of this length is an end.
const SILENCE: Duration = Duration::from_secs(2);

/// What must not happen is watched for so long: longer than a silence and what delays it.
const NEVER: Duration = Duration::from_secs(4);

/// The presence of one prefix, on one broker.
struct Office {
    broker: Broker,
    client: Client,
    names: Names,
    /// Lends its publisher. It has a presence of its own under another prefix.
    queue: RabbitQueue,
}

/// One worker.
struct Worker {
    me: Identity,
    connection: Arc<Connection>,
}

impl Office {
    async fn open(broker: Broker) -> Office {
        let (queue, client) = (publisher(&broker, broker.uri()).await, broker.client().await);
        let names = Names::new(&format!("{}-others", broker.prefix));
        let office = Office { broker, client, names, queue };
        office.declare().await;
        office
    }

    async fn declare(&self) {
        let (name, none) = (self.names.presence(), FieldTable::default());
        let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
        let channel = &self.client.channel;
        channel.exchange_declare(name.into(), ExchangeKind::Fanout, durable, none).await.unwrap();
    }

    async fn worker(&self) -> Worker {
        let me = Identity::new(WorkerId::new(fastrand::u128(..)));
        Worker { me, connection: connect(self.broker.uri()).await }
    }

    async fn join(&self, worker: &Worker) -> Result<Presence, PresenceLost> {
        self.join_by(worker, &self.queue).await
    }

    async fn join_by(
        &self,
        worker: &Worker,
        queue: &RabbitQueue,
    ) -> Result<Presence, PresenceLost> {
        let id = worker.me.id();
        let report: ReportOf = Arc::new(move |question| report_of(id, question));
        let Worker { me, connection } = worker;
        Presence::join(connection, &queue.publisher(), &self.names, me, report).await
    }

    /// Two workers that see each other.
    async fn pair(&self) -> ([Worker; 2], [Presence; 2]) {
        let workers = [self.worker().await, self.worker().await];
        let mut first = self.join(&workers[0]).await.unwrap();
        let second = self.join(&workers[1]).await.unwrap();
        assert_eq!(second.workers().len(), 2, "the second does not see the first");
        sees(&mut first, 2).await;
        (workers, [first, second])
    }

    async fn gather(&self, patience: Duration) -> Gathered {
        self.ask(&Question::Numbers, patience).await
    }

    async fn ask(&self, question: &Question, patience: Duration) -> Gathered {
        let prefix = format!("{}-others", self.broker.prefix);
        let connection = self.broker.settings().connection;
        gather(&connection, &prefix, question, patience).await.unwrap()
    }

    /// Hears what workers say, and says nothing.
    async fn listen(&self) -> Consumer {
        let own = QueueDeclareOptions { exclusive: true, ..Default::default() };
        let none = FieldTable::default;
        let channel = &self.client.channel;
        let queue = channel.queue_declare("".into(), own, none()).await.unwrap();
        let (name, bind) = (queue.name().clone(), QueueBindOptions::default());
        let exchange = self.names.presence().into();
        channel.queue_bind(name.clone(), exchange, "".into(), bind, none()).await.unwrap();
        let consume = BasicConsumeOptions { no_ack: true, ..Default::default() };
        channel.basic_consume(name, "".into(), consume, none()).await.unwrap()
    }
}

/// Of numbers as long as that of 2,000 lanes.
fn report_of(worker: WorkerId, question: &Question) -> Value {
    match question {
        Question::Numbers => json!({ "worker": worker, "lanes": "x".repeat(400_000) }),
        Question::Job(id) => json!({ "worker": worker, "job": id }),
    }
}

/// A queue that publishes by this address.
async fn publisher(broker: &Broker, uri: &str) -> RabbitQueue {
    let (queue, _jobs) = start(broker, |settings| settings.connection.uris = vec![uri.into()]);
    reach(&queue, |state| *state == BrokerState::Up).await;
    queue
}

async fn connect(uri: &str) -> Arc<Connection> {
    let properties = ConnectionProperties::default();
    Arc::new(Connection::connect(uri, properties).await.unwrap())
}

/// Waits until it sees so many workers.
async fn sees(presence: &mut Presence, workers: usize) {
    sees_that(presence, |seen| seen.len() == workers).await;
}

async fn sees_that(presence: &mut Presence, goal: impl Fn(&BTreeSet<WorkerId>) -> bool) {
    let seeing = async {
        while !goal(presence.workers()) {
            presence.changed().await.unwrap();
        }
    };
    let seen = tokio::time::timeout(SOON, seeing).await;
    assert!(seen.is_ok(), "it still sees {:?}", presence.workers());
}

/// Whether its view stays as it is.
async fn nothing_changes(presence: &mut Presence) -> bool {
    tokio::time::timeout(NEVER, presence.changed()).await.is_err()
}

/// The next message between workers.
async fn said(listening: &mut Consumer) -> Value {
    let delivery = tokio::time::timeout(SOON, listening.next()).await.expect("nobody says a word");
    serde_json::from_slice(&delivery.unwrap().unwrap().data).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn four_that_start_at_the_same_instant_see_four_within_a_second() {
    let office = Office::open(Broker::shared()).await;
    let workers = join_all((0..4).map(|_| office.worker())).await;
    let began = clock::monotonic();
    let joining = workers.iter().map(async |worker| {
        let mut presence = office.join(worker).await.unwrap();
        sees(&mut presence, 4).await;
        (presence.workers().clone(), began.elapsed(), presence)
    });
    for (seen, took, _) in join_all(joining).await {
        assert!(workers.iter().all(|worker| seen.contains(&worker.me.id())), "{seen:?}");
        assert!(took < Duration::from_secs(1), "it took {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_goodbye_is_seen_at_once_and_nothing_is_said_after_it() {
    let office = Office::open(Broker::shared()).await;
    let ([_, leaver], [mut stays, leaves]) = office.pair().await;
    let mut listening = office.listen().await;
    let began = clock::monotonic();
    leaves.leave().await;
    sees(&mut stays, 1).await;
    // A silence would take longer by half a second at least.
    assert!(began.elapsed() < SILENCE - Duration::from_millis(500), "{:?}", began.elapsed());
    let mut last = Value::Null;
    for _ in 0..6 {
        let message = said(&mut listening).await;
        if message["worker"] == json!(leaver.me.id()) {
            last = message;
        }
    }
    assert_eq!(last["kind"], "bye");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_falls_silent_is_gone_after_two_seconds() {
    let office = Office::open(Broker::shared()).await;
    let (_workers, [mut stays, falls_silent]) = office.pair().await;
    let began = clock::monotonic();
    drop(falls_silent);
    sees(&mut stays, 1).await;
    // Its last sign may be half a second old.
    let took = began.elapsed();
    assert!(took > SILENCE - Duration::from_millis(600), "too early: {took:?}");
    assert!(took < SILENCE + Duration::from_secs(1), "too late: {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_hear_itself_declares_nobody_gone_until_it_does() {
    let broker = Broker::private();
    let line = Cutter::to(broker.node().port).await;
    let uri = format!("amqp://guest:guest@127.0.0.1:{}/%2f", line.port);
    let cut = publisher(&broker, &uri).await;
    let office = Office::open(broker).await;
    let (worker, other) = (office.worker().await, office.worker().await);
    let mut presence = office.join_by(&worker, &cut).await.unwrap();
    let falls_silent = office.join(&other).await.unwrap();
    sees(&mut presence, 2).await;
    line.cut();
    drop(falls_silent);
    assert!(nothing_changes(&mut presence).await, "{:?}", presence.workers());
    line.mend();
    sees(&mut presence, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_broker_takes_nothing_nobody_is_gone_and_a_worker_can_leave() {
    let office = Office::open(Broker::private()).await;
    let (workers, [mut first, second]) = office.pair().await;
    let watermark = |share| {
        block_in_place(|| office.broker.node().ctl(&["set_vm_memory_high_watermark", share]))
    };
    watermark("0.00001");
    reach(&office.queue, |state| matches!(state, BrokerState::Blocked(_))).await;
    assert!(nothing_changes(&mut first).await, "{:?}", first.workers());
    let began = clock::monotonic();
    second.leave().await;
    assert!(began.elapsed() < SILENCE, "leaving took {:?}", began.elapsed());
    // Nor is one that starts now alone: it joins when it is heard.
    let third = office.worker().await;
    let mut joining = Box::pin(office.join(&third));
    assert!(tokio::time::timeout(SILENCE, &mut joining).await.is_err());
    watermark("0.6");
    let both = BTreeSet::from([workers[0].me.id(), third.me.id()]);
    for presence in [&mut first, &mut joining.await.unwrap()] {
        sees_that(presence, |seen| *seen == both).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_takes_long_does_not_make_its_worker_look_gone() {
    let office = Office::open(Broker::shared()).await;
    let (watching, slow) = (office.worker().await, office.worker().await);
    let mut presence = office.join(&watching).await.unwrap();
    // A disk that does not answer.
    let (answers, disk) = std::sync::mpsc::channel::<Value>();
    let disk = Mutex::new(disk);
    let report: ReportOf = Arc::new(move |_| disk.lock().unwrap().recv().unwrap_or_default());
    let Worker { me, connection } = &slow;
    let publisher = office.queue.publisher();
    let _slow = Presence::join(connection, &publisher, &office.names, me, report).await.unwrap();
    sees(&mut presence, 2).await;
    let Gathered { reports, silent } = office.gather(NEVER).await;
    assert_eq!((reports.len(), silent), (1, vec![slow.me.id()]));
    assert!(nothing_changes(&mut presence).await, "{:?}", presence.workers());
    drop(answers);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_of_the_broker_the_same_workers_see_each_other_again() {
    let office = Office::open(Broker::private()).await;
    let (workers, [mut first, mut second]) = office.pair().await;
    block_in_place(|| office.broker.node().stop());
    for presence in [&mut first, &mut second] {
        let lost = async { while presence.changed().await.is_ok() {} };
        tokio::time::timeout(SOON, lost).await.expect("the loss is not noticed");
    }
    block_in_place(|| office.broker.node().restart());
    let again = workers.iter().map(async |Worker { me, .. }| {
        let connection = connect(office.broker.uri()).await;
        let mut presence = office.join(&Worker { me: me.clone(), connection }).await.unwrap();
        sees(&mut presence, 2).await;
        presence.workers().clone()
    });
    let seen = join_all(again).await;
    assert_eq!(seen[0], seen[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_that_somebody_deletes_and_makes_again_is_listened_to_again() {
    let office = Office::open(Broker::shared()).await;
    let (_workers, [mut stays, falls_silent]) = office.pair().await;
    let options = ExchangeDeleteOptions::default();
    office.client.channel.exchange_delete(office.names.presence().into(), options).await.unwrap();
    office.declare().await;
    // It hears itself no more, so nobody is gone; once it has a binding again, who is silent is.
    drop(falls_silent);
    sees(&mut stays, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_gets_one_report_of_each_worker_and_is_seen_by_none() {
    let office = Office::open(Broker::shared()).await;
    let (workers, [mut first, mut second]) = office.pair().await;
    let began = clock::monotonic();
    let Gathered { reports, silent } = office.gather(SOON).await;
    assert!(began.elapsed() < PATIENCE, "all had answered: {:?}", began.elapsed());
    let mut ids = workers.map(|worker| worker.me.id());
    ids.sort();
    let expected = |question: &Question| ids.map(|worker| report_of(worker, question));
    assert!(reports == expected(&Question::Numbers), "{} reports", reports.len());
    assert_eq!(silent, []);
    let of_job = Question::Job(JobId::parse("order-1").unwrap());
    assert_eq!(office.ask(&of_job, SOON).await.reports, expected(&of_job));
    for presence in [&mut first, &mut second] {
        assert!(presence.changed().now_or_never().is_none());
        assert_eq!(presence.workers().len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_where_no_worker_is_waits_as_long_as_it_said() {
    let office = Office::open(Broker::shared()).await;
    let began = clock::monotonic();
    let Gathered { reports, silent } = office.gather(Duration::from_millis(700)).await;
    assert!(reports.is_empty() && silent.is_empty());
    assert!(began.elapsed() >= Duration::from_millis(700));
}
