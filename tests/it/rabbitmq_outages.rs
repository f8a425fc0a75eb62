//! What a real RabbitMQ does to the queue: cuts, restarts, alarms, refusals, other arguments.

use crate::support::broker::{Broker, SOON};
use crate::support::cutter::Cutter;
use crate::support::story::{
    NUMBER, Story, accepted, header, id, job, job_of, number, plain, reach, start, until,
};
use chakra_sender::clock;
use chakra_sender::metrics::PublishKind;
use chakra_sender::policy::{self, Why};
use chakra_sender::queue::rabbitmq::topology::Step;
use chakra_sender::queue::rabbitmq::{BrokerState, Outgoing, PublishError, RabbitSettings};
use chakra_sender::queue::{Receipt, SettleError};
use chakra_sender::wire::Priority;
use futures_util::future::join_all;
use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use std::time::Duration;

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
    assert!(matches!(held.receipt.settle(&back, ()).await, Err(SettleError::Lost(_))));
    // An outcome is recorded once the line is back, though the job itself comes again.
    let (settled, ()) = tokio::join!(finished.receipt.settle(&outcome, ()), async { line.mend() });
    assert!(matches!(settled, Err(SettleError::Lost(_))));
    assert_eq!(story.result().await.0["id"], "finished");
    let again = [story.next().await, story.next().await];
    assert!(again.iter().all(|job| job.earlier > 0 && job.receipt.is_ours()));
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
async fn a_job_whose_lane_stays_down_waits_outside() {
    let story = Story::with_lane().await;
    let (broker, client) = (story.broker, story.client);
    story.queue.close().await;
    let names = broker.names();
    let lane = names.lane(&number(NUMBER), Priority::Normal);
    client.channel.queue_delete(lane.into(), Default::default()).await.unwrap();
    // It may not be made again, but stands in the record.
    let story = Story::begin(broker, |settings| settings.topology.declare = false).await;
    story.publish(NUMBER, &job("order-1"), plain()).await;
    let outside = client.take(&names.wait(Step::Second)).await;
    assert_eq!(header(&outside, "x-reason").as_deref(), Some(Why::HandedBack.name()));
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
    assert!(again.earlier > 0 && back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
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
    let mut settling = Box::pin(incoming.receipt.settle(&settlement, ()));
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
    let mut state = story.queue.state();
    state.mark_unchanged();
    let unrouted = story.broker.names().unrouted();
    story.client.channel.queue_delete(unrouted.into(), Default::default()).await.unwrap();
    tokio::time::timeout(SOON, state.changed()).await.unwrap().unwrap();
    reach(&story.queue, |state| *state == BrokerState::Up).await;
    story.publish("555", &job_of("555", "order-1"), plain()).await;
    assert_eq!(id(&story.next().await), "order-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_finds_no_wait_queue_comes_back_and_the_queue_is_made_again() {
    let mut story = Story::with_lane().await;
    story.publish(NUMBER, &job("order-1"), plain()).await;
    let incoming = story.next().await;
    let wait = story.broker.names().wait(Step::Second);
    let channel = &story.client.channel;
    channel.queue_delete(wait.as_str().into(), Default::default()).await.unwrap();
    let back = policy::given_back(&incoming.history);
    incoming.receipt.settle(&back, ()).await.unwrap();
    let again = story.next().await;
    assert_eq!((id(&again), again.waited_for), ("order-1", Some(Why::HandedBack)));
    // The watcher notices at its next round; what is in hand stays ours.
    let there = async {
        loop {
            if story.broker.client().await.ask(&wait).await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(SOON, there).await.expect("it stays away");
    assert!(again.receipt.is_ours());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_without_its_binding_gets_it_again() {
    let mut story = Story::with_lane().await;
    story.publish(NUMBER, &job("order-1"), plain()).await;
    let wait = story.broker.names().wait(Step::Second);
    let (queue, exchange) = (wait.as_str().into(), wait.as_str().into());
    let channel = &story.client.channel;
    channel.queue_unbind(queue, exchange, "".into(), FieldTable::default()).await.unwrap();
    // Until the watcher's next round it goes round by the alternate exchange; then the queue's own
    // dead-lettering brings it back.
    let through_the_queue = async {
        loop {
            let incoming = story.next().await;
            let back = policy::given_back(&incoming.history);
            incoming.receipt.settle(&back, ()).await.unwrap();
            if story.client.depth(&wait).await > 0 {
                return;
            }
        }
    };
    tokio::time::timeout(2 * SOON, through_the_queue).await.expect("its binding stays away");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_queue_that_is_gone_and_may_not_be_declared_is_told() {
    let story = Story::with_lane().await;
    let (broker, client) = (story.broker, story.client);
    story.queue.close().await;
    let (queue, _jobs) = start(&broker, |settings| settings.topology.declare = false);
    reach(&queue, |state| *state == BrokerState::Up).await;
    let wait = broker.names().wait(Step::Hour);
    client.channel.queue_delete(wait.as_str().into(), Default::default()).await.unwrap();
    reach(&queue, |state| format!("{state:?}").contains(&wait)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_exchange_of_an_earlier_version_is_used_as_it_is() {
    let broker = Broker::shared();
    let channel = broker.client().await.channel;
    let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
    let wait = broker.names().wait(Step::Second);
    let plainly = FieldTable::default();
    channel.exchange_declare(wait.into(), ExchangeKind::Fanout, options, plainly).await.unwrap();
    let with_lane = |settings: &mut RabbitSettings| settings.numbers = vec![number(NUMBER)];
    let mut story = Story::begin(broker, with_lane).await;
    story.publish(NUMBER, &job("order-1"), plain()).await;
    let incoming = story.next().await;
    let back = policy::given_back(&incoming.history);
    incoming.receipt.settle(&back, ()).await.unwrap();
    assert_eq!(story.next().await.waited_for, Some(Why::HandedBack));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_told_and_never_shown() {
    let broker = Broker::shared();
    let uri = broker.uri().replace("guest:guest", "guest:sesame");
    let wrong = |settings: &mut RabbitSettings| settings.connection.uris = vec![uri.into()];
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
    incoming.receipt.settle(&settlement, ()).await.unwrap();
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
        incoming.receipt.settle(&settlement, ()).await.unwrap();
    });
    let settled = join_all(settled).await.len();
    story.queue.close().await;
    let lane = story.broker.names().lane(&number(NUMBER), Priority::Normal);
    assert_eq!(story.client.depth(&lane).await as usize, 3 - settled);
}
