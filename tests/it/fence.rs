//! What was held is void once the broker may have given it to another: after a standstill of the
//! whole process, and after the broker took it back by itself.

use crate::support::broker::Broker;
use crate::support::process::{AdminPage, IN_TIME, Process, Program, sandbox, write};
use crate::support::story::{
    NUMBER as LANE, Story, accepted, id, job, number, plain, reach, until,
};
use crate::support::world::{NUMBER, text};
use chakra_sender::queue::rabbitmq::{BrokerState, RabbitSettings};
use chakra_sender::queue::{Receipt, SettleError};
use chakra_sender::sandbox::{Record, Sandbox};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::timeout;

/// A worker holds what it can send of a lane in 2.25 s, so 22 jobs at this pace a second.
const RATE: u32 = 10;

/// All that a worker was allowed to send meanwhile it could send at once on waking.
const BURST: u32 = 20;

/// Longer than half the heartbeat, and shorter than the two that the broker waits.
const STANDSTILL: Duration = Duration::from_millis(1_500);

async fn requested(sandbox: &Sandbox, what: &str, requests: u64) {
    let record = sandbox.record();
    let reached = |record: &Record| record.count_requests() >= requests;
    let waited = timeout(IN_TIME, record.wait_for(reached)).await;
    assert!(waited.is_ok(), "{what}: {:?}", record.summary());
}

/// A number's value on a page of metrics.
fn shown(page: &str, metric: &str) -> u64 {
    let line = page.lines().find(|line| line.starts_with(&format!("chakra_sender_{metric} ")));
    line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
}

/// Between two looks at two records, which have no event together.
const LOOK: Duration = Duration::from_millis(20);

/// Jobs of a story.
const JOBS: usize = 50;

/// Two workers and one lane, each with a service of its own, whose record tells who sent what. The
/// first has the lane and has begun to send; most of what it was given it still holds.
struct Two {
    first: Process,
    admin: AdminPage,
    first_sends: Sandbox,
    _second: Process,
    second_sends: Sandbox,
}

impl Two {
    async fn begin() -> Two {
        let (first_sends, second_sends) = (sandbox(|_| {}).await, sandbox(|_| {}).await);
        let (broker, dir) = (Broker::shared(), tempfile::tempdir().unwrap());
        let lane =
            format!("[[numbers.override]]\nid = \"{NUMBER}\"\nrate = {RATE}\nburst = {BURST}\n");
        let config = write(&dir, "lane.toml", &[lane]).display().to_string();
        let program = |sandbox| {
            Program::new(&["worker", "--config", &config])
                .at(sandbox)
                .on(&broker)
                .set("admin.listen", "127.0.0.1:0")
                .set("rabbitmq.heartbeat", "2s")
        };
        let mut first = program(&first_sends).start();
        let admin = first.admin().await;
        admin.ready().await;
        let mut second = program(&second_sends).start();
        let second_admin = second.admin().await;
        second_admin.ready().await;
        let jobs: Vec<String> = (0..JOBS).map(|n| text(&format!("job-{n}"), "x")).collect();
        let file = write(&dir, "jobs.jsonl", &jobs).display().to_string();
        let put = Program::new(&["enqueue", &file]).on(&broker).run().await;
        assert_eq!(put.code, Some(0), "{}", put.said());
        let two = tokio::select! {
            () = requested(&first_sends, "one of them sends", 5) => {
                Two { first, admin, first_sends, _second: second, second_sends }
            }
            () = requested(&second_sends, "one of them sends", 5) => Two {
                first: second,
                admin: second_admin,
                first_sends: second_sends,
                _second: first,
                second_sends: first_sends,
            },
        };
        assert_eq!(two.second_sends.record().count_requests(), 0);
        two
    }

    /// Waits until each job was sent, and none by both or twice by one.
    async fn each_is_sent_once(&self) {
        let sent = || -> Vec<String> {
            let both = [&self.first_sends, &self.second_sends];
            let requests = both.into_iter().flat_map(|sandbox| sandbox.record().requests());
            requests.filter_map(|request| request.opaque).collect()
        };
        let all = async {
            while sent().len() < JOBS {
                tokio::time::sleep(LOOK).await;
            }
        };
        timeout(IN_TIME, all).await.expect("not all were sent");
        let ids: BTreeSet<String> = sent().into_iter().collect();
        assert_eq!((ids.len(), sent().len()), (JOBS, JOBS), "sent twice");
    }

    /// Wakes the first, and waits until all is done. Returns what it tells of itself then.
    async fn wake(&mut self) -> String {
        self.first.signal("CONT");
        self.first.err.line("this process stood still").await;
        self.admin.ready().await;
        self.each_is_sent_once().await;
        self.admin.says("/metrics", 200, "chakra_sender_held_jobs 0\n").await
    }
}

#[tokio::test]
async fn a_worker_that_was_frozen_sends_nothing_on_waking_that_it_held_before() {
    let mut two = Two::begin().await;
    two.first.signal("STOP");
    // Then the broker's patience is over: it has given everything to the second.
    requested(&two.second_sends, "the second takes over", 1).await;
    let page = two.wake().await;
    assert!(shown(&page, r#"jobs_settled_total{how="void"}"#) >= 10, "it held little: {page}");
    assert_eq!(shown(&page, "conservation_gap"), 0);

    two.first.signal("TERM");
    let ended = two.first.end().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said());
    let told = ended.err.iter().filter(|line| line.contains("stood still: what it held"));
    assert_eq!(told.count(), 1, "{}", ended.said());
    let drained = ended.err.iter().find(|line| line.contains("drained received=")).unwrap();
    assert!(drained.contains("held=0 gap=0") && drained.contains("INFO"), "{drained}");
}

/// Nobody knows how long the broker waits: it is not asked.
#[tokio::test]
async fn a_standstill_within_the_brokers_patience_voids_what_was_held_all_the_same() {
    let mut two = Two::begin().await;
    two.first.signal("STOP");
    tokio::time::sleep(STANDSTILL).await;
    assert_eq!(two.second_sends.record().count_requests(), 0, "the broker noticed");
    let page = two.wake().await;
    assert!(shown(&page, r#"jobs_settled_total{how="void"}"#) >= 10, "it held little: {page}");
    assert_eq!(shown(&page, "conservation_gap"), 0);
}

/// `consumer_timeout`: the broker takes back what was held for too long and closes the channel, the
/// connection stays.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_broker_took_back_after_its_patience_is_void_and_comes_again() {
    let broker = Broker::private();
    for setting in ["consumer_timeout, 2000", "channel_tick_interval, 500"] {
        broker.node().ctl(&["eval", &format!("application:set_env(rabbit, {setting}).")]);
    }
    let with_lane = |settings: &mut RabbitSettings| {
        settings.numbers = vec![number(LANE)];
    };
    let mut story = Story::begin(broker, with_lane).await;
    let mut state = story.queue.state();
    state.mark_unchanged();
    story.publish(LANE, &job("order-1"), plain()).await;
    let held = story.next().await;
    let outcome = accepted(&held);
    until(|| !held.receipt.is_ours()).await;
    let again = story.next().await;
    assert!(id(&again) == "order-1" && again.earlier > 0 && again.receipt.is_ours());
    // Too late to acknowledge, but an outcome is told all the same.
    assert!(matches!(held.receipt.settle(&outcome, ()).await, Err(SettleError::Lost(_))));
    assert_eq!(story.result().await.0["id"], "order-1");
    again.receipt.settle(&outcome, ()).await.unwrap();
    reach(&story.queue, |state| *state == BrokerState::Up).await;
    assert!(!state.has_changed().unwrap(), "the connection was lost, not the channel");
}
