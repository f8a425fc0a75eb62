//! Stories of the queue through a real RabbitMQ.

use crate::support::broker::{Broker, Client, SOON};
use crate::support::cutter::Cutter;
use chakra_sender::clock;
use chakra_sender::metrics::{Metrics, PublishKind};
use chakra_sender::policy::{self, Answer, Failure, RetryPolicy, Settlement, Why};
use chakra_sender::queue::rabbitmq::{
    Accept, BrokerState, Outgoing, PublishError, RabbitQueue, RabbitReceipt, RabbitSettings,
};
use chakra_sender::queue::{Incoming, Receipt, SettleError};
use chakra_sender::wire::{Class, NumberId, Priority};
use futures_util::FutureExt;
use futures_util::future::join_all;
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

const NUMBER: &str = "1027";

/// A queue that runs, and a producer beside it.
struct Story {
    broker: Broker,
    client: Client,
    queue: RabbitQueue,
    jobs: mpsc::Receiver<Incoming<RabbitReceipt>>,
}

impl Story {
    /// Starts when the queue is up.
    async fn begin(broker: Broker, change: impl FnOnce(&mut RabbitSettings)) -> Story {
        let (queue, jobs) = start(&broker, change);
        reach(&queue, |state| *state == BrokerState::Up).await;
        let client = broker.client().await;
        Story { broker, client, queue, jobs }
    }

    /// With a lane for [`NUMBER`].
    async fn with_lane() -> Story {
        Story::begin(Broker::shared(), |settings| settings.numbers = vec![number(NUMBER)]).await
    }

    async fn publish(&self, key: &str, body: &Value, properties: BasicProperties) {
        let exchange = self.broker.names().sends();
        let body = serde_json::to_vec(body).unwrap();
        self.client.publish((&exchange, key), &body, properties).await;
    }

    async fn next(&mut self) -> Incoming<RabbitReceipt> {
        let next = tokio::time::timeout(SOON, self.jobs.recv()).await;
        next.expect("no job came").expect("the jobs have ended")
    }

    /// The next event, and how it came.
    async fn result(&self) -> (Value, Delivery) {
        let delivery = self.client.take(&self.broker.names().results()).await;
        (serde_json::from_slice(&delivery.data).unwrap(), delivery)
    }
}

fn start(
    broker: &Broker,
    change: impl FnOnce(&mut RabbitSettings),
) -> (RabbitQueue, mpsc::Receiver<Incoming<RabbitReceipt>>) {
    let mut settings = broker.settings();
    change(&mut settings);
    RabbitQueue::start(settings, Arc::new(Metrics::new().unwrap())).unwrap()
}

async fn reach(queue: &RabbitQueue, goal: impl FnMut(&BrokerState) -> bool) -> BrokerState {
    let mut state = queue.state();
    let reached = tokio::time::timeout(SOON, state.wait_for(goal)).await;
    reached.unwrap_or_else(|_| panic!("it stays {:?}", queue.state().borrow())).unwrap().clone()
}

/// Waits for what nobody tells.
async fn until(mut done: impl FnMut() -> bool) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, waiting).await.expect("it never happened");
}

fn number(digits: &str) -> NumberId {
    NumberId::parse(digits).unwrap()
}

fn job(id: &str) -> Value {
    job_of(NUMBER, id)
}

fn job_of(number: &str, id: &str) -> Value {
    json!({ "id": id, "phone_number_id": number, "message": {
        "messaging_product": "whatsapp", "to": "+919901258433", "type": "text",
        "text": { "body": "Shipped!" } } })
}

fn plain() -> BasicProperties {
    BasicProperties::default()
}

fn id(incoming: &Incoming<RabbitReceipt>) -> &str {
    incoming.job.as_ref().unwrap().id.as_str()
}

/// What follows for a job that got this answer.
fn after(incoming: &Incoming<RabbitReceipt>, answer: Answer) -> Settlement {
    let retry = RetryPolicy {
        initial: Duration::from_secs(1),
        factor: 2.0,
        max_delay: Duration::from_secs(60),
        max_attempts: 5,
        max_age: Duration::from_secs(3_600),
    };
    let job = incoming.job.as_ref().unwrap();
    policy::conclude(job, &incoming.history, answer, &retry, clock::wall(), 0.5)
}

fn accepted(incoming: &Incoming<RabbitReceipt>) -> Settlement {
    after(incoming, Answer::Accepted { whatsapp_message_id: Some("wamid.1".into()) })
}

fn unavailable(incoming: &Incoming<RabbitReceipt>) -> Settlement {
    after(incoming, Answer::Failed(Failure::new(Class::Unavailable, "503")))
}

fn header(delivery: &Delivery, name: &str) -> Option<String> {
    match delivery.properties.headers().as_ref()?.inner().get(name)? {
        AMQPValue::LongString(text) => Some(text.to_string()),
        AMQPValue::LongLongInt(number) => Some(number.to_string()),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_arrives_and_its_result_is_there_before_it_is_let_go() {
    let mut story = Story::with_lane().await;
    let stamped = plain().with_timestamp(1_800_000_000);
    story.publish(NUMBER, &job("order-1"), stamped).await;
    let incoming = story.next().await;
    assert_eq!((id(&incoming), incoming.priority), ("order-1", Priority::Normal));
    assert!(!incoming.redelivered && incoming.waited_for.is_none() && incoming.receipt.is_ours());
    let settlement = accepted(&incoming);
    incoming.receipt.settle(&settlement).await.unwrap();
    let (event, delivery) = story.result().await;
    assert_eq!(event["status"], "accepted");
    assert_eq!(event["enqueued_at"], "2027-01-15T08:00:00.000Z");
    assert_eq!(delivery.routing_key.as_str(), "result.accepted.1027");
    let properties = &delivery.properties;
    assert_eq!(properties.message_id().as_ref().unwrap().as_str(), "order-1:result");
    assert_eq!(properties.delivery_mode(), &Some(2));
    // Nothing comes again.
    story.queue.stop_consuming();
    assert!(story.jobs.recv().await.is_none());
    story.queue.close().await;
    let lane = story.broker.names().lane(&number(NUMBER), Priority::Normal);
    let passive = QueueDeclareOptions { passive: true, ..Default::default() };
    let left = story.client.channel.queue_declare(lane.into(), passive, FieldTable::default());
    assert_eq!(left.await.unwrap().message_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_without_a_lane_gets_one_which_outlives_the_worker() {
    let mut story = Story::begin(Broker::shared(), |_| {}).await;
    story.publish("555.urgent", &job_of("555", "order-1"), plain()).await;
    let incoming = story.next().await;
    assert_eq!(incoming.lane, Some(number("555")));
    assert_eq!((id(&incoming), incoming.priority), ("order-1", Priority::Urgent));
    let settlement = accepted(&incoming);
    incoming.receipt.settle(&settlement).await.unwrap();
    story.queue.close().await;

    // No plugin to ask, no number given: the record alone names the lane.
    let nobody = |settings: &mut RabbitSettings| {
        settings.accept = Accept::Plugin(Arc::new(|| async { Err("down".into()) }.boxed()));
    };
    let mut story = Story::begin(story.broker, nobody).await;
    story.publish("555", &job_of("555", "order-2"), plain()).await;
    assert_eq!(id(&story.next().await), "order-2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_the_plugin_does_not_have_is_refused_and_a_new_one_of_its_is_served() {
    let accept = Accept::Plugin(Arc::new(|| async { Ok(vec![number("777")]) }.boxed()));
    let mut story = Story::begin(Broker::shared(), |settings| settings.accept = accept).await;
    story.publish("888", &job_of("888", "order-1"), plain()).await;
    let (event, _) = story.result().await;
    assert_eq!((&event["id"], &event["status"]), (&json!("order-1"), &json!("failed")));
    assert_eq!(event["error"]["class"], "invalid");
    assert!(event["error"]["message"].as_str().unwrap().contains("888"));
    story.publish("777", &job_of("777", "order-2"), plain()).await;
    assert_eq!(id(&story.next().await), "order-2");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_lane_more_than_allowed_is_refused() {
    let full = |settings: &mut RabbitSettings| {
        settings.numbers = vec![number(NUMBER)];
        settings.max_lanes = 1;
    };
    let story = Story::begin(Broker::shared(), full).await;
    story.publish("555", &job_of("555", "order-1"), plain()).await;
    let (event, _) = story.result().await;
    assert!(event["error"]["message"].as_str().unwrap().contains("numbers.max_lanes"));
}

#[tokio::test(flavor = "multi_thread")]
async fn urgent_jobs_come_before_the_normal_ones_that_wait() {
    let one = |settings: &mut RabbitSettings| {
        settings.numbers = vec![number(NUMBER)];
        settings.prefetch = Arc::new(|_| 1);
    };
    let mut story = Story::begin(Broker::shared(), one).await;
    for id in ["bulk-1", "bulk-2", "bulk-3"] {
        story.publish(NUMBER, &job(id), plain()).await;
    }
    let first = story.next().await;
    story.publish("1027.urgent", &job("urgent"), plain()).await;
    assert_eq!(id(&first), "bulk-1");
    assert_eq!(id(&story.next().await), "urgent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_waits_outside_and_returns_before_the_others_with_its_past_and_its_bytes() {
    let mut story = Story::with_lane().await;
    let mut traced = FieldTable::default();
    traced.insert("traceparent".into(), AMQPValue::LongString("00-1-2-01".into()));
    // Copies, priorities and a checked user: what would break a job that is published again.
    traced.insert("CC".into(), AMQPValue::FieldArray(vec![].into()));
    let properties = plain()
        .with_headers(traced)
        .with_user_id("guest".into())
        .with_priority(3)
        .with_message_id("order-1".into())
        .with_correlation_id("c-1".into());
    let body = br#"{ "phone_number_id": "1027",  "message": {"messaging_product":"whatsapp",
        "to": "+919901258433", "text": {"body":"x"}}}"#;
    let sends = story.broker.names().sends();
    story.client.publish((&sends, NUMBER), body, properties).await;
    let first = story.next().await;
    let settlement = unavailable(&first);
    let sent_back = clock::monotonic();
    first.receipt.settle(&settlement).await.unwrap();
    let second = story.next().await;
    let waited = sent_back.elapsed();
    assert!(waited >= Duration::from_millis(900) && waited < Duration::from_secs(3), "{waited:?}");
    assert_eq!((id(&second), second.priority), ("order-1", Priority::Urgent));
    assert_eq!(second.waited_for, Some(Why::Retry));
    assert_eq!(second.history.attempts, 1);
    assert_eq!(
        second.history.first_received.as_millisecond(),
        first.history.first_received.as_millisecond()
    );
    assert!(second.history.due.is_some());

    // As a dead letter it shows that nothing was changed on the way.
    let job = second.job.as_ref().unwrap();
    let failure = Failure::new(Class::Ambiguous, "it may have been sent");
    let end = policy::turned_away(job, &second.history, &failure, clock::wall());
    second.receipt.settle(&end).await.unwrap();
    let dead = story.client.take(&story.broker.names().dead_letters()).await;
    assert_eq!(dead.data, body);
    assert_eq!(header(&dead, "x-reason").unwrap(), "it may have been sent");
    assert_eq!(header(&dead, "x-class").unwrap(), "ambiguous");
    assert_eq!(header(&dead, "x-routing-key").unwrap(), "1027.urgent");
    assert_eq!(header(&dead, "x-attempts").unwrap(), "1");
    assert_eq!(header(&dead, "traceparent").unwrap(), "00-1-2-01");
    assert_eq!(header(&dead, "x-first-death-queue"), None);
    assert_eq!(dead.properties.correlation_id().as_ref().unwrap().as_str(), "c-1");
    assert_eq!(dead.properties.user_id(), &None);
    let (event, _) = story.result().await;
    assert_eq!(event["status"], "unknown");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_given_back_returns_by_its_own_queue() {
    let mut story = Story::with_lane().await;
    story.publish(NUMBER, &job("order-1"), plain()).await;
    let first = story.next().await;
    let back = policy::given_back(&first.history);
    first.receipt.settle(&back).await.unwrap();
    let second = story.next().await;
    assert_eq!((second.priority, second.waited_for), (Priority::Normal, Some(Why::HandedBack)));
    assert_eq!(second.history.attempts, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_dropped_unsettled_comes_again() {
    let mut story = Story::with_lane().await;
    story.publish(NUMBER, &job("order-1"), plain()).await;
    drop(story.next().await);
    let again = story.next().await;
    assert!(again.redelivered && again.receipt.is_ours());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_the_broker_expired_gets_its_outcome() {
    let one = |settings: &mut RabbitSettings| {
        settings.numbers = vec![number(NUMBER)];
        settings.prefetch = Arc::new(|_| 1);
    };
    let mut story = Story::begin(Broker::shared(), one).await;
    story.publish(NUMBER, &job("order-1"), plain()).await;
    let held = story.next().await;
    // One more is with the worker's client already.
    let short = || plain().with_expiration("300".into());
    story.publish(NUMBER, &job("order-2"), short()).await;
    let (event, _) = story.result().await;
    assert_eq!((&event["id"], &event["status"]), (&json!("order-2"), &json!("expired")));
    assert_eq!(event["attempts"], 0);
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expiration_counts_as_the_jobs_own_end_and_survives_a_wait() {
    let mut story = Story::begin(Broker::shared(), |_| {}).await;
    // Moved into its new lane, then through a wait queue.
    let hour = plain().with_timestamp(1_800_000_000).with_expiration("3600000".into());
    story.publish("555", &job_of("555", "order-1"), hour).await;
    let first = story.next().await;
    let end = first.job.as_ref().unwrap().expires_at.unwrap();
    assert_eq!(end.to_string(), "2027-01-15T09:00:00Z");
    let back = policy::given_back(&first.history);
    first.receipt.settle(&back).await.unwrap();
    assert_eq!(story.next().await.job.unwrap().expires_at, Some(end));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_comes_back_from_a_wait_to_no_lane_is_an_ordinary_one() {
    // The only list comes too early for the first judgement, so the job must wait and come back.
    let known = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let answer = Arc::clone(&known);
    let accept = Accept::Plugin(Arc::new(move || {
        let first = !answer.swap(true, std::sync::atomic::Ordering::SeqCst);
        async move { if first { Err("down".into()) } else { Ok(vec![number("555")]) } }.boxed()
    }));
    let mut story = Story::begin(Broker::shared(), |settings| settings.accept = accept).await;
    story.publish("555", &job_of("555", "order-1"), plain()).await;
    let incoming = story.next().await;
    assert_eq!(id(&incoming), "order-1");
    assert_eq!(incoming.waited_for, Some(Why::HandedBack));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_goes_to_the_queue_that_the_producer_named() {
    let mut story = Story::with_lane().await;
    let answers = format!("{}.answers", story.broker.prefix);
    let options = QueueDeclareOptions::default();
    story
        .client
        .channel
        .queue_declare(answers.as_str().into(), options, FieldTable::default())
        .await
        .unwrap();
    let asking = |to: &str| plain().with_reply_to(to.into()).with_correlation_id("c-1".into());
    story.publish(NUMBER, &job("order-1"), asking(&answers)).await;
    let incoming = story.next().await;
    let settlement = accepted(&incoming);
    incoming.receipt.settle(&settlement).await.unwrap();
    let answer = story.client.take(&answers).await;
    assert_eq!(answer.properties.correlation_id().as_ref().unwrap().as_str(), "c-1");
    assert_eq!(answer.data, story.result().await.1.data);
    // Nobody there, or never was: the job is settled all the same.
    for nowhere in ["no-such-queue", "amq.rabbitmq.reply-to.g1h2AAVyZXBseQ"] {
        story.publish(NUMBER, &job(nowhere), asking(nowhere)).await;
        let incoming = story.next().await;
        let settlement = accepted(&incoming);
        incoming.receipt.settle(&settlement).await.unwrap();
        assert_eq!(story.result().await.0["status"], "accepted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_told_and_kept_and_harms_no_neighbour() {
    let mut story = Story::with_lane().await;
    // By the lane: another number in the body, and no JSON. The worker decides about those.
    story.publish(NUMBER, &job_of("999", "order-1"), plain()).await;
    let wrong = story.next().await;
    let invalid = wrong.job.as_ref().unwrap_err();
    assert!(invalid.reason.contains("999") && invalid.reason.contains("1027"), "{invalid}");
    let settlement = policy::unreadable(invalid, &wrong.history, clock::wall());
    wrong.receipt.settle(&settlement).await.unwrap();
    assert_eq!(story.result().await.1.routing_key.as_str(), "result.failed.999");
    // By no lane: a key that is none.
    story.publish("orders", &job("order-2"), plain()).await;
    let (event, _) = story.result().await;
    assert!(event["error"]["message"].as_str().unwrap().contains("\"orders\""));
    story.publish("555", &json!("nonsense"), plain()).await;
    let names = story.broker.names();
    let mut keys: Vec<String> = [
        story.client.take(&names.dead_letters()).await,
        story.client.take(&names.dead_letters()).await,
        story.client.take(&names.dead_letters()).await,
    ]
    .iter()
    .map(|dead| header(dead, "x-routing-key").unwrap())
    .collect();
    keys.sort();
    assert_eq!(keys, ["1027", "555", "orders"]);
    story.publish(NUMBER, &job("order-3"), plain()).await;
    assert_eq!(id(&story.next().await), "order-3");
}

/// lapin 4.12 gives confirms to the wrong publish when tasks share a channel (654 of 400,000). The outcome of each of many concurrent publishes must be its own: those to a full queue that
/// refuses are refused, the others are confirmed and there.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_confirm_is_never_given_to_another_publish() {
    const PUBLISHES: usize = 20_000;
    const TASKS: usize = 16;
    let story = Story::begin(Broker::shared(), |_| {}).await;
    let full = format!("{}.full", story.broker.prefix);
    let mut none = FieldTable::default();
    none.insert("x-max-length".into(), AMQPValue::LongLongInt(0));
    none.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    let channel = &story.client.channel;
    let options = QueueDeclareOptions { exclusive: false, auto_delete: true, ..Default::default() };
    channel.queue_declare(full.as_str().into(), options, none).await.unwrap();
    let publisher = story.queue.publisher();
    let tasks = (0..TASKS).map(|task| {
        let (publisher, full) = (publisher.clone(), full.clone());
        async move {
            for turn in 0..PUBLISHES / TASKS {
                let refused = (task + turn) % 2 == 0;
                let key = if refused { full.as_str() } else { "nobody-there" };
                let outgoing = Outgoing {
                    exchange: "".into(),
                    routing_key: key.into(),
                    body: "x".into(),
                    properties: plain(),
                    kind: PublishKind::Moved,
                };
                let expected = if refused { Err(PublishError::Refused) } else { Ok(()) };
                assert_eq!(publisher.publish(outgoing).await, expected);
            }
        }
    });
    let mut all = tokio::task::JoinSet::new();
    tasks.for_each(|task| drop(all.spawn(task)));
    all.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_cut_line_it_consumes_again_and_what_was_held_is_void() {
    let broker = Broker::shared();
    let port: u16 = broker.uri().rsplit([':', '/']).nth(1).unwrap().parse().unwrap();
    let line = Cutter::to(port).await;
    let through = broker.uri().replace(&port.to_string(), &line.port.to_string());
    let settings = |settings: &mut RabbitSettings| {
        settings.numbers = vec![number(NUMBER)];
        settings.connection.uris = vec![through.into()];
    };
    let mut story = Story::begin(broker, settings).await;
    for id in ["held", "finished"] {
        story.publish(NUMBER, &job(id), plain()).await;
    }
    let (held, finished) = (story.next().await, story.next().await);
    let (back, outcome) = (policy::given_back(&held.history), accepted(&finished));
    line.cut();
    reach(&story.queue, |state| matches!(state, BrokerState::Connecting(_))).await;
    until(|| !held.receipt.is_ours() && !finished.receipt.is_ours()).await;
    // No second copy of a job that somebody else has now.
    assert!(matches!(held.receipt.settle(&back).await, Err(SettleError::Lost(_))));
    // An outcome is recorded once the line is back, though the job itself comes again.
    let (settled, ()) = tokio::join!(finished.receipt.settle(&outcome), async { line.mend() });
    assert!(matches!(settled, Err(SettleError::Lost(_))));
    assert_eq!(story.result().await.0["id"], "finished");
    let again = [story.next().await, story.next().await];
    assert!(again.iter().all(|job| job.redelivered && job.receipt.is_ours()));
    assert_eq!(again.each_ref().map(id), ["held", "finished"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_lane_is_made_again() {
    let mut story = Story::with_lane().await;
    let lane = story.broker.names().lane(&number(NUMBER), Priority::Normal);
    story.publish(NUMBER, &job("order-1"), plain()).await;
    let held = story.next().await;
    story.client.channel.queue_delete(lane.into(), Default::default()).await.unwrap();
    // Until it is there again it counts as a job without a lane, and is not lost.
    story.publish(NUMBER, &job("order-2"), plain()).await;
    assert_eq!(id(&story.next().await), "order-2");
    assert!(!held.receipt.is_ours());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_goes_is_waited_for_and_nothing_is_lost() {
    let with_lane = |settings: &mut RabbitSettings| settings.numbers = vec![number(NUMBER)];
    let mut story = Story::begin(Broker::private(), with_lane).await;
    story.publish(NUMBER, &job("order-1"), plain()).await;
    let held = story.next().await;
    story.broker.node().stop();
    reach(&story.queue, |state| matches!(state, BrokerState::Connecting(_))).await;
    until(|| !held.receipt.is_ours()).await;
    story.broker.node().restart();
    let back = clock::monotonic();
    let again = story.next().await;
    assert!(again.redelivered && back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_broker_has_an_alarm_no_send_may_start() {
    let with_lane = |settings: &mut RabbitSettings| settings.numbers = vec![number(NUMBER)];
    let mut story = Story::begin(Broker::private(), with_lane).await;
    story.publish(NUMBER, &job("order-1"), plain()).await;
    let incoming = story.next().await;
    assert!(*story.queue.may_send().borrow());
    story.broker.node().ctl(&["set_vm_memory_high_watermark", "0.00001"]);
    let settlement = accepted(&incoming);
    let mut settling = Box::pin(incoming.receipt.settle(&settlement));
    tokio::select! {
        _ = &mut settling => panic!("settled while the broker takes nothing"),
        _ = reach(&story.queue, |state| matches!(state, BrokerState::Blocked(_))) => {}
    }
    assert!(!*story.queue.may_send().borrow());
    story.broker.node().ctl(&["set_vm_memory_high_watermark", "0.6"]);
    settling.await.unwrap();
    reach(&story.queue, |state| *state == BrokerState::Up).await;
    assert!(*story.queue.may_send().borrow());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_with_other_arguments_is_used_as_it_is() {
    let broker = Broker::shared();
    let lane = broker.names().lane(&number(NUMBER), Priority::Normal);
    declare(
        &broker,
        &lane,
        &[("x-single-active-consumer", true.into()), ("x-max-length", 7.into())],
    )
    .await;
    let with_lane = |settings: &mut RabbitSettings| settings.numbers = vec![number(NUMBER)];
    let mut story = Story::begin(broker, with_lane).await;
    story.publish(NUMBER, &job("order-1"), plain()).await;
    assert_eq!(id(&story.next().await), "order-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_without_a_single_active_consumer_stops_the_worker() {
    let broker = Broker::shared();
    let lane = broker.names().lane(&number(NUMBER), Priority::Normal);
    // It differs in more than that, too.
    declare(&broker, &lane, &[("x-max-length", 7.into())]).await;
    let (queue, _jobs) = start(&broker, |settings| settings.numbers = vec![number(NUMBER)]);
    let state = reach(&queue, |state| matches!(state, BrokerState::Broken(_))).await;
    let BrokerState::Broken(reason) = state else { panic!("{state:?}") };
    assert!(reason.contains("x-single-active-consumer") && reason.contains(&lane), "{reason}");
}

/// A quorum queue with these arguments.
async fn declare(broker: &Broker, queue: &str, arguments: &[(&str, Argument)]) {
    let mut table = FieldTable::default();
    table.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    for (name, argument) in arguments {
        table.insert((*name).into(), argument.0.clone());
    }
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    let channel = broker.client().await.channel;
    channel.queue_declare(queue.into(), options, table).await.unwrap();
}

struct Argument(AMQPValue);

impl From<bool> for Argument {
    fn from(flag: bool) -> Argument {
        Argument(AMQPValue::Boolean(flag))
    }
}

impl From<i64> for Argument {
    fn from(number: i64) -> Argument {
        Argument(AMQPValue::LongLongInt(number))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_declare_it_says_what_is_missing() {
    let broker = Broker::shared();
    let (queue, _jobs) = start(&broker, |settings| settings.topology.declare = false);
    let missing = |state: &BrokerState| match state {
        BrokerState::Connecting(reason) => reason.contains("rabbitmq.declare"),
        _ => false,
    };
    let state = format!("{:?}", reach(&queue, missing).await);
    for name in [broker.names().sends(), broker.names().control(), broker.names().dead_letters()] {
        assert!(state.contains(&name), "{state}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_one_node_is_down_the_next_is_tried() {
    let settings = |settings: &mut RabbitSettings| {
        let down = "amqp://guest:guest@127.0.0.1:1/%2f".to_owned();
        settings.connection.uris.insert(0, down.into());
    };
    Story::begin(Broker::shared(), settings).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_queue_of_the_unrouted_is_made_again() {
    let mut story = Story::begin(Broker::shared(), |_| {}).await;
    let unrouted = story.broker.names().unrouted();
    story.client.channel.queue_delete(unrouted.into(), Default::default()).await.unwrap();
    reach(&story.queue, |state| matches!(state, BrokerState::Connecting(_))).await;
    reach(&story.queue, |state| *state == BrokerState::Up).await;
    story.publish("555", &job_of("555", "order-1"), plain()).await;
    assert_eq!(id(&story.next().await), "order-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_told_and_never_shown() {
    let broker = Broker::shared();
    let wrong = |settings: &mut RabbitSettings| {
        settings.connection.password = Some("sesame".to_owned().into())
    };
    let (queue, _jobs) = start(&broker, wrong);
    let refused = |state: &BrokerState| format!("{state:?}").contains("ACCESS_REFUSED");
    let state = format!("{:?}", reach(&queue, refused).await);
    assert!(!state.contains("sesame"), "{state}");
}

#[tokio::test(flavor = "multi_thread")]
async fn results_that_vanished_are_declared_again_and_nothing_is_lost() {
    let mut story = Story::with_lane().await;
    story.publish(NUMBER, &job("order-1"), plain()).await;
    let incoming = story.next().await;
    let results = story.broker.names().results();
    story.client.channel.exchange_delete(results.into(), Default::default()).await.unwrap();
    let settlement = accepted(&incoming);
    incoming.receipt.settle(&settlement).await.unwrap();
    assert_eq!(story.result().await.0["status"], "accepted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_hands_on_what_has_come_and_settles_it() {
    let mut story = Story::with_lane().await;
    for id in ["order-1", "order-2", "order-3"] {
        story.publish(NUMBER, &job(id), plain()).await;
    }
    let mut hand = vec![story.next().await];
    story.queue.stop_consuming();
    while let Some(incoming) = story.jobs.recv().await {
        hand.push(incoming);
    }
    let settled = hand.into_iter().map(|incoming| async {
        let settlement = accepted(&incoming);
        incoming.receipt.settle(&settlement).await.unwrap();
    });
    let settled = join_all(settled).await.len();
    story.queue.close().await;
    let lane = story.broker.names().lane(&number(NUMBER), Priority::Normal);
    let passive = QueueDeclareOptions { passive: true, ..Default::default() };
    let left = story.client.channel.queue_declare(lane.into(), passive, FieldTable::default());
    assert_eq!(left.await.unwrap().message_count() as usize, 3 - settled);
}
