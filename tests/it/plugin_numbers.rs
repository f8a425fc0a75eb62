//! The plugin's numbers: they get their lanes and their rates as they come, and a number that nobody
//! knows holds up no other.

use crate::support::broker::{Broker, Client, SOON};
use crate::support::plugin::FakePlugin;
use crate::support::process::{
    AdminPage, IN_TIME, Process, Program, sandbox, use_both_lanes, write,
};
use crate::support::story::{NUMBER, Story, accepted, id, job_of, number, plain};
use crate::support::world;
use chakra_sender::clock;
use chakra_sender::queue::Receipt;
use chakra_sender::queue::rabbitmq::retire;
use chakra_sender::queue::rabbitmq::topology::{Step, Topology, lane_key};
use chakra_sender::sandbox::{Number, PluginMode, Sandbox, SandboxConfig, ThroughputLevel};
use chakra_sender::wire::Priority;
use jiff::Timestamp;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use serde_json::json;
use std::time::Duration;

/// A worker that asks the plugin every second and has no rates of its own.
fn curious(sandbox: &Sandbox, broker: &Broker) -> Program {
    Program::worker(sandbox, broker).set("limits.number.rate", "").set("numbers.refresh", "1s")
}

async fn lanes(worker: &mut Process, count: usize) {
    let admin = worker.admin().await;
    admin.ready().await;
    admin.says("/metrics", 200, &format!("chakra_sender_lanes_owned {count}\n")).await;
}

async fn wait_for_depth(client: &Client, queue: &str, jobs: u32) {
    let reached = async {
        while client.depth(queue).await != jobs {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(SOON, reached).await;
    assert!(waited.is_ok(), "{queue} never had {jobs} jobs");
}

/// Publishes without waiting for each confirm.
async fn publish_many(to: (&Broker, &Client), number: &str, count: usize) {
    let (broker, client) = to;
    let exchange = broker.names().sends();
    let mut confirms = Vec::new();
    for n in 0..count {
        let body = serde_json::to_vec(&job_of(number, &format!("job-{n}"))).unwrap();
        let (to, options) = (exchange.as_str().into(), BasicPublishOptions::default());
        let published = client.channel.basic_publish(to, number.into(), options, &body, plain());
        confirms.push(published.await.unwrap());
    }
    for confirm in confirms {
        assert!(confirm.await.unwrap().is_ack());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_appears_gets_its_lane_without_waiting_for_a_job() {
    let only_one = |config: &mut SandboxConfig| config.numbers.truncate(1);
    let (sandbox, broker) = (sandbox(only_one).await, Broker::shared());
    let mut worker = curious(&sandbox, &broker).start();
    lanes(&mut worker, 1).await;
    sandbox.set_numbers([world::NUMBER, world::OTHER].map(Number::new).into()).unwrap();
    lanes(&mut worker, 2).await;
    worker.err.line("the plugin has a new number").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ceiling_that_changes_changes_the_pace_and_the_app_decides_over_the_level() {
    let (sandbox, broker) = (sandbox(|_| {}).await, Broker::shared());
    let mut worker = curious(&sandbox, &broker).start();
    let admin = worker.admin().await;
    admin.ready().await;
    use_both_lanes(&broker, &admin).await;
    let high = ThroughputLevel::High;
    for (is_on_biz_app, pace) in [(false, "875"), (true, "17.5")] {
        let changed =
            Number { throughput_level: high, is_on_biz_app, ..Number::new(world::NUMBER) };
        sandbox.set_numbers(vec![changed, Number::new(world::OTHER)]).unwrap();
        for (number, pace) in [(world::NUMBER, pace), (world::OTHER, "70")] {
            let rate = format!(
                r#"rate_limit{{number="{number}",source="plugin"}} {pace}
"#
            );
            admin.says("/metrics", 200, &rate).await;
        }
    }
}

/// Whether the page shows a pace of this number.
fn shows_pace(page: &str, number: &str) -> bool {
    let series = format!(r#"rate_limit{{number="{number}","#);
    page.contains(&series)
}

async fn enqueue(broker: &Broker, lines: &[String]) {
    let dir = tempfile::tempdir().unwrap();
    let file = write(&dir, "jobs.jsonl", lines).display().to_string();
    let put = Program::new(&["enqueue", &file]).on(broker).run().await;
    assert_eq!(put.code, Some(0), "{}", put.said());
}

fn of_other(id: &str) -> String {
    world::text(id, "x").replace(world::NUMBER, world::OTHER)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lane_of_a_number_that_is_gone_is_drained_and_deleted_and_comes_back_with_it() {
    let (sandbox, broker) = (sandbox(|_| {}).await, Broker::shared());
    let mut worker = curious(&sandbox, &broker).set("numbers.retire_after", "1s").start();
    lanes(&mut worker, 2).await;
    let admin = worker.admin().await;
    let pause = ["numbers", "pause", world::OTHER, "--for", "1h", "--reason", "wait"];
    let paused = Program::new(&pause).on(&broker).run().await;
    assert_eq!(paused.code, Some(0), "{}", paused.said());
    enqueue(&broker, &["waits-1", "waits-2"].map(of_other)).await;
    let both = [world::NUMBER, world::OTHER].map(Number::new);
    sandbox.set_numbers(both[..1].to_vec()).unwrap();
    worker.err.line("the plugin has this number no more").await;
    // What waits in the lane is not lost with it.
    worker.err.line("its lane is drained").await;
    let page = admin.says("/metrics", 200, "chakra_sender_lanes_owned 2\n").await;
    assert!(shows_pace(&page, world::OTHER));
    let resumed = Program::new(&["numbers", "resume", world::OTHER]).on(&broker).run().await;
    assert_eq!(resumed.code, Some(0), "{}", resumed.said());
    let page = admin.says("/metrics", 200, "chakra_sender_lanes_owned 1\n").await;
    let ended =
        format!(r#"results_total{{class="refused",number="{}",status="failed"}} 2"#, world::OTHER);
    assert!(page.contains(&ended), "{page}");

    enqueue(&broker, &[of_other("too-late")]).await;
    let refused = r#"results_total{class="invalid",number="unknown",status="failed"} 1"#;
    let page = admin.says("/metrics", 200, refused).await;
    assert!(!shows_pace(&page, world::OTHER), "{page}");

    sandbox.set_numbers(both.to_vec()).unwrap();
    lanes(&mut worker, 2).await;
    enqueue(&broker, &[of_other("back")]).await;
    admin.says("/metrics", 200, &accepted_of_other(1)).await;
}

/// A worker whose second number goes, returns once this is said of its lane, and sends again. All of it
/// lives as long as what is returned.
async fn returned_once_said(said: &str) -> (Sandbox, Broker, AdminPage, Process) {
    let (sandbox, broker) = (sandbox(|_| {}).await, Broker::shared());
    let mut worker = curious(&sandbox, &broker).set("numbers.retire_after", "1s").start();
    lanes(&mut worker, 2).await;
    let both = [world::NUMBER, world::OTHER].map(Number::new);
    sandbox.set_numbers(both[..1].to_vec()).unwrap();
    worker.err.line(said).await;
    sandbox.set_numbers(both.to_vec()).unwrap();
    worker.err.line("the plugin has a new number").await;
    enqueue(&broker, &[of_other("back")]).await;
    let admin = worker.admin().await;
    admin.says("/metrics", 200, &accepted_of_other(1)).await;
    (sandbox, broker, admin, worker)
}

fn accepted_of_other(jobs: usize) -> String {
    format!(r#"number="{}",status="accepted"}} {jobs}"#, world::OTHER)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_returns_while_its_lane_is_being_deleted_goes_on() {
    let (_sandbox, broker, admin, _worker) = returned_once_said("its lane is drained").await;
    // The second look before the deletion is over.
    tokio::time::sleep(Duration::from_secs(2)).await;
    enqueue(&broker, &[of_other("later")]).await;
    admin.says("/metrics", 200, &accepted_of_other(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_returns_in_the_moment_its_lane_was_deleted_goes_on() {
    returned_once_said("was empty: deleted").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_fails_stops_nothing_and_is_told_once() {
    let (sandbox, broker) = (sandbox(|_| {}).await, Broker::shared());
    let mut worker = curious(&sandbox, &broker).start();
    lanes(&mut worker, 2).await;
    sandbox.set_plugin_mode(PluginMode::Error);
    worker.err.line("cannot be asked for").await;
    sandbox.set_numbers(vec![Number::new(world::OTHER)]).unwrap();
    sandbox.set_plugin_mode(PluginMode::Forbidden);
    worker.err.line("refuses the token").await;
    lanes(&mut worker, 2).await;
    sandbox.set_plugin_mode(PluginMode::Ok);
    worker.err.line("the plugin tells its numbers again").await;
    worker.err.line("the plugin has this number no more").await;
    let warnings = worker.err.lines();
    let told = warnings.iter().filter(|line| line.contains("cannot be asked for")).count();
    assert_eq!(told, 2, "one for each reason:\n{}", warnings.join("\n"));
    lanes(&mut worker, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_starts_without_a_plugin_that_hangs_and_is_stopped_while_it_asks() {
    let (sandbox, broker) = (sandbox(|_| {}).await, Broker::shared());
    sandbox.set_plugin_mode(PluginMode::Hang);
    let mut worker = curious(&sandbox, &broker).start();
    lanes(&mut worker, 0).await;
    worker.signal("TERM");
    let ended = tokio::time::timeout(IN_TIME, worker.end()).await.unwrap();
    assert_eq!(ended.code, Some(0), "{}", ended.said());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_jobs_of_an_unknown_number_hold_up_no_job_of_another() {
    const MANY: usize = 2_000;
    for plugin in [
        FakePlugin::that_says(|| Ok(vec![number("777")])),
        // It knew the other number, and cannot be asked any more.
        FakePlugin::that_says(|| Err("down".into())).knows(&["777"]),
    ] {
        let story = Story::begin(Broker::shared(), |_| {}).await;
        story.queue.close().await;
        publish_many((&story.broker, &story.client), "888", MANY).await;
        let other = serde_json::to_vec(&job_of("777", "other")).unwrap();
        story.client.publish((&story.broker.names().sends(), "777"), &other, plain()).await;
        let accept = plugin.accept();
        let began = clock::monotonic();
        let mut story = Story::begin(story.broker, |settings| settings.accept = accept).await;
        assert_eq!(id(&story.next().await), "other");
        // Each of them waits a second at most, and none waits for another.
        let took = began.elapsed();
        assert!(took < Duration::from_secs(10), "{took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_waited_for_their_lane_come_in_their_order() {
    const MANY: usize = 600;
    let story = Story::begin(Broker::shared(), |_| {}).await;
    story.queue.close().await;
    publish_many((&story.broker, &story.client), "777", MANY).await;
    let mut story = Story::begin(story.broker, |_| {}).await;
    for n in 0..MANY {
        let incoming = story.next().await;
        assert_eq!(id(&incoming), format!("job-{n}"));
        let settlement = accepted(&incoming);
        incoming.receipt.settle(&settlement, ()).await.unwrap();
    }
}

/// Properties that a job of this past travels with.
fn travelled(headers: &[(&str, String)]) -> BasicProperties {
    let mut table = FieldTable::default();
    for (name, value) in headers {
        table.insert((*name).into(), AMQPValue::LongString(value.as_str().into()));
    }
    plain().with_headers(table)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_number_cannot_be_asked_for_waits_the_longer_the_older_it_is() {
    let plugin = FakePlugin::that_says(|| Err("down".into()));
    let accept = plugin.accept();
    let story = Story::begin(Broker::shared(), |settings| settings.accept = accept).await;
    let ago = |seconds| clock::wall() - Duration::from_secs(seconds);
    let seen = |at: Timestamp| travelled(&[("x-first-received", at.to_string())]);
    story.publish("888", &job_of("888", "old"), seen(ago(60))).await;
    wait_for_depth(&story.client, &story.broker.names().wait(Step::Seconds30), 1).await;
    // There can be no news before the plugin may be asked again.
    story.publish("888", &job_of("888", "new"), plain()).await;
    wait_for_depth(&story.client, &story.broker.names().wait(Step::Seconds5), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_names_the_number_and_what_to_do_and_never_denies_what_may_have_been_sent() {
    let plugin = FakePlugin::that_says(|| Ok(vec![number("777")]));
    let accept = plugin.accept();
    let story = Story::begin(Broker::shared(), |settings| settings.accept = accept).await;
    story.publish("888", &job_of("888", "new"), plain()).await;
    let (event, _) = story.result().await;
    assert_eq!((&event["status"], &event["error"]["class"]), (&json!("failed"), &json!("invalid")));
    let said = event["error"]["message"].as_str().unwrap();
    assert!(said.contains("888") && said.contains("replay"), "{said}");
    // It comes back from a wait, and its lane is gone meanwhile.
    let long_ago = "2026-01-01T00:00:00Z".to_owned();
    let doubted = [("x-doubt", "strong".to_owned()), ("x-first-received", long_ago)];
    story.publish("888", &job_of("888", "doubted"), travelled(&doubted)).await;
    let (event, _) = story.result().await;
    assert_eq!((&event["id"], &event["status"]), (&json!("doubted"), &json!("unknown")));
}

/// A lane that nobody consumes, and a connection to retire it by.
async fn idle_lane() -> (Broker, Client, Connection) {
    let Story { broker, client, queue, .. } = Story::with_lane().await;
    queue.close().await;
    let connection = Connection::connect(broker.uri(), ConnectionProperties::default()).await;
    (broker, client, connection.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_goes_when_its_jobs_are_done_and_what_comes_later_is_unrouted() {
    let (broker, client, connection) = idle_lane().await;
    let (names, number) = (broker.names(), number(NUMBER));
    let topology = Topology::lane(&names, &broker.settings().topology, &number);
    let sends = names.sends();
    client.publish((&sends, NUMBER), b"before", plain()).await;
    let left = retire::unbind(&connection, &topology).await.unwrap();
    assert_eq!((left.jobs, left.consumers), (1, 0));
    assert!(!retire::delete_if_empty(&connection, &topology).await.unwrap());
    // By both keys, and back from a wait.
    client.publish((&sends, NUMBER), b"normal", plain()).await;
    client.publish((&sends, &lane_key(&number, Priority::Urgent)), b"urgent", plain()).await;
    client.publish((&names.wait(Step::Second), NUMBER), b"waited", plain()).await;
    wait_for_depth(&client, &names.unrouted(), 3).await;

    // A queue that somebody deleted hides nothing of the other.
    let urgent = names.lane(&number, Priority::Urgent);
    client.channel.queue_delete(urgent.into(), Default::default()).await.unwrap();
    assert!(!retire::delete_if_empty(&connection, &topology).await.unwrap());
    let lane = names.lane(&number, Priority::Normal);
    assert_eq!(client.take(&lane).await.data, b"before");
    for _ in 0..2 {
        assert!(retire::delete_if_empty(&connection, &topology).await.unwrap());
    }
    let gone = client.ask(&lane).await;
    assert!(gone.unwrap_err().to_string().contains("NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_somebody_consumes_stays_and_one_whose_number_returns_is_bound_again() {
    let (broker, client, connection) = idle_lane().await;
    let (names, number) = (broker.names(), number(NUMBER));
    let topology = Topology::lane(&names, &broker.settings().topology, &number);
    let (lane, sends) = (names.lane(&number, Priority::Urgent), names.sends());
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let consumer = client.channel.basic_consume(lane.as_str().into(), "".into(), options, none);
    let _consumer = consumer.await.unwrap();
    assert!(!retire::delete_if_empty(&connection, &topology).await.unwrap());
    retire::bind(&connection, &topology).await.unwrap();
    client.publish((&sends, NUMBER), b"back", plain()).await;
    wait_for_depth(&client, &names.lane(&number, Priority::Normal), 1).await;
}
