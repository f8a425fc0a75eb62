//! The whole way while the broker, the line or the account is in trouble.

use crate::support::broker::Broker;
use crate::support::cutter::Cutter;
use crate::support::load::full_queue;
use crate::support::pipeline::{Pipeline, Plan};
use crate::support::world::{NUMBER, paced, text};
use chakra_sender::clock;
use chakra_sender::queue::rabbitmq::BrokerState;
use chakra_sender::queue::rabbitmq::topology::Step;
use chakra_sender::sandbox::{Latency, Record};
use chakra_sender::worker::WorkerSettings;
use lapin::options::{QueueBindOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use std::time::Duration;
use tokio::task::{JoinSet, block_in_place};
use tokio::time::Instant;

/// What must not happen is watched for so long.
const QUIET: Duration = Duration::from_secs(1);

fn pace(per_second: f64) -> impl Fn(&mut WorkerSettings) + Send + Sync + 'static {
    move |worker| worker.rates = paced(per_second)
}

fn jobs(count: usize) -> Vec<String> {
    (0..count).map(|n| text(&format!("job-{n}"), "x")).collect()
}

/// Watches for a while; true when it did not happen.
async fn never(record: &Record, happened: impl FnMut(&Record) -> bool) -> bool {
    tokio::time::timeout(QUIET, record.wait_for(happened)).await.is_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_broker_takes_nothing_no_request_starts_and_then_all_jobs_finish_once() {
    const JOBS: usize = 150;
    let mut story = Plan::on(Broker::private()).worker(pace(20.0)).start().await;
    story.enqueue(NUMBER, &jobs(JOBS)).await;
    story.recorded("nothing is sent", |record| record.count_requests() >= 3).await;
    block_in_place(|| memory_watermark(&story, "0.00001"));
    story.reach(|state| matches!(state, BrokerState::Blocked(_))).await;
    let record = story.record();
    // One may have been on its way when the broker said so.
    let most = record.count_requests() + 1;
    assert!(most < JOBS as u64, "there was nothing left to hold back");
    assert!(never(&record, |record| record.count_requests() > most).await);
    block_in_place(|| memory_watermark(&story, "0.4"));
    story.results(JOBS).await;
    story.drain().await;
    let told = story.everything_told().await;
    assert_eq!(told.len(), JOBS);
    assert!(told.iter().all(|told| told.outcome() == "accepted after 1"));
    assert_eq!(record.count_accepted(), JOBS as u64);
}

fn memory_watermark(story: &Pipeline, share: &str) {
    story.broker().node().ctl(&["set_vm_memory_high_watermark", share]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_sent_than_can_be_told_of_while_results_are_refused() {
    const JOBS: usize = 60;
    const CALLS: usize = 10;
    let plan = Plan::on(Broker::shared()).worker(|worker| {
        worker.rates = paced(500.0);
        worker.max_in_flight = CALLS;
    });
    let mut story = plan.start().await;
    // It has room for one result; from then on the broker refuses each.
    let full = full_queue(story.broker()).await.reply_to().clone().unwrap();
    let results = story.broker().names().results();
    let (options, none) = (QueueBindOptions::default(), FieldTable::default());
    let channel = &story.producer.channel;
    let bound = channel.queue_bind(full.clone(), results.into(), "#".into(), options, none);
    bound.await.unwrap();
    story.enqueue(NUMBER, &jobs(JOBS)).await;
    let most = CALLS as u64 + 1;
    story.recorded("too few are sent", |record| record.count_requests() == most).await;
    let record = story.record();
    assert!(never(&record, |record| record.count_requests() > most).await);
    channel.queue_delete(full, QueueDeleteOptions::default()).await.unwrap();
    story.results(JOBS).await;
    story.drain().await;
    assert_eq!(record.count_requests(), JOBS as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_restarts_under_load_loses_no_job_and_is_consumed_again_within_five_seconds()
{
    // More than a busy machine sends while it stops the broker.
    const JOBS: usize = 1_000;
    let mut story = Plan::on(Broker::private()).worker(pace(100.0)).start().await;
    story.enqueue(NUMBER, &jobs(JOBS)).await;
    story.recorded("nothing is sent", |record| record.count_requests() >= 50).await;
    block_in_place(|| story.broker().node().stop());
    story.reach(|state| matches!(state, BrokerState::Connecting(_))).await;
    let record = story.record();
    let down = clock::monotonic();
    let mut answering = JoinSet::new();
    answering.spawn(answers(story.broker().uri().to_owned()));
    block_in_place(|| story.broker().node().restart());
    let back = answering.join_next().await.unwrap().unwrap();
    story.recorded("nothing is sent any more", |record| first_after(record, down).is_some()).await;
    let took = first_after(&record, down).unwrap().saturating_duration_since(back);
    assert!(took < Duration::from_secs(5), "sending again only after {took:?}");
    story.listen().await;
    // Fails if a single job has no result.
    story.results(JOBS).await;
    println!(
        "consuming again after {took:?}; accepted twice: {} of {JOBS}",
        record.duplicates().len()
    );
}

fn first_after(record: &Record, moment: Instant) -> Option<Instant> {
    record.requests().iter().map(|request| request.at).filter(|at| *at > moment).min()
}

/// The moment from which AMQP answers.
async fn answers(uri: String) -> Instant {
    let mut tries = tokio::time::interval(Duration::from_millis(20));
    loop {
        tries.tick().await;
        if Connection::connect(&uri, ConnectionProperties::default()).await.is_ok() {
            return clock::monotonic();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_line_is_cut_calls_under_way_are_told_and_what_had_not_begun_is_not_sent_from_there()
 {
    const JOBS: usize = 200;
    let broker = Broker::shared();
    let port: u16 = broker.uri().rsplit([':', '/']).nth(1).unwrap().parse().unwrap();
    let line = Cutter::to(port).await;
    let through = broker.uri().replace(&port.to_string(), &line.port.to_string());
    let plan = Plan::on(broker)
        .worker(pace(50.0))
        .rabbit(move |rabbit| rabbit.connection.uris = vec![through.clone().into()]);
    let slow = Latency::fixed(Duration::from_millis(300));
    let mut story = plan.start_against(|sandbox| sandbox.latency = slow).await;
    story.enqueue(NUMBER, &jobs(JOBS)).await;
    story.recorded("nothing is sent", |record| record.count_requests() >= 10).await;
    line.cut();
    story.reach(|state| matches!(state, BrokerState::Connecting(_))).await;
    let gone = clock::monotonic();
    let record = story.record();
    assert!(never(&record, |record| first_after(record, gone).is_some()).await);
    line.mend();
    story.reach(|state| *state == BrokerState::Up).await;
    let back = clock::monotonic();
    story.recorded("nothing is sent any more", |record| first_after(record, back).is_some()).await;
    let took = first_after(&record, back).unwrap().saturating_duration_since(back);
    assert!(took < Duration::from_secs(1), "the pace went to jobs of the lost line for {took:?}");
    story.results(JOBS).await;
    story.drain().await;
    let told = story.everything_told().await;
    assert!(told.iter().all(|told| told.outcome() == "accepted after 1"));
    // Only a job whose request had begun can be accepted twice: it came again, and nobody knew.
    let accepted = record.accepted();
    let twice = record.duplicates();
    for id in twice.keys() {
        let first = accepted.iter().find(|sent| sent.opaque.as_ref() == Some(id)).unwrap();
        assert!(first.at < gone, "{id} was held, not begun, and was sent twice");
    }
    println!("accepted twice: {} of {JOBS}", twice.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_token_is_wrong_no_job_is_burnt_and_the_service_is_left_in_peace() {
    const JOBS: usize = 20;
    let plan = Plan::on(Broker::shared()).worker(|worker| {
        worker.rates = paced(20.0);
        // As it is by default, above the hold of a minute.
        worker.retry.max_age = Duration::from_secs(24 * 3_600);
    });
    let mut story = plan.start().await;
    story.world.sandbox.set_token("another-token");
    story.enqueue(NUMBER, &jobs(JOBS)).await;
    story.recorded("nothing is sent", |record| record.count_requests() >= 1).await;
    let record = story.record();
    assert!(never(&record, |record| record.count_requests() > 5).await, "the account was not held");
    assert_eq!(story.everything_told().await.len(), 0);

    story.world.sandbox.set_token(story.world.token);
    let refused = usize::try_from(record.count_requests()).unwrap();
    story.restart().await;
    let results = story.results(JOBS - refused).await;
    assert!(results.values().all(|told| told.outcome() == "accepted after 1"), "{results:?}");
    // Those that were refused wait in the broker for the end of the account's hold.
    story.drain().await;
    let wait = story.broker().names().wait(Step::Seconds30);
    assert_eq!(story.depth(&wait).await as usize, refused);
    assert_eq!(story.everything_told().await.len(), JOBS - refused);
}
