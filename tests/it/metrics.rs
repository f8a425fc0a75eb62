//! What operators see: a page that Prometheus's own linter finds nothing in, its reference, and the metrics
//! that tell how long the head of a lane waits and whether the limiter works.

use crate::support::broker::Broker;
use crate::support::pipeline::{Pipeline, Plan};
use crate::support::process::{Program, faults, sandbox, write};
use crate::support::story::until;
use crate::support::webhook::{Hook, SECRET};
use crate::support::world::{NUMBER, OTHER, World, job, paced, text};
use chakra_sender::clock;
use chakra_sender::metrics::Metrics;
use chakra_sender::sandbox::{Failure, Latency, Webhook};
use lapin::BasicProperties;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// What `promtool check metrics` says of a page.
fn linted(page: &str) -> String {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool of Debian's package prometheus: tests/needs installs it");
    promtool.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let said = promtool.wait_with_output().unwrap();
    let said = [said.stdout, said.stderr].concat();
    String::from_utf8(said).unwrap()
}

/// The names of all metrics that are declared.
fn declared() -> Vec<String> {
    let reference = Metrics::new().unwrap().reference();
    let names = reference.lines().filter_map(|line| line.strip_prefix("| `"));
    names.map(|line| line.split_once('`').unwrap().0.to_owned()).collect()
}

#[test]
fn the_reference_is_what_is_declared() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let reference = Metrics::new().unwrap().reference();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &reference).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == reference,
        "docs/metrics.md is stale: UPDATE_DOCS=1 cargo test --test it the_reference writes it anew"
    );
}

#[test]
fn a_linter_that_is_shown_a_bad_name_says_so() {
    let page = "# HELP jobs_count Jobs.\n# TYPE jobs_count counter\njobs_count 1\n";
    assert!(linted(page).contains("jobs_count"), "{}", linted(page));
}

/// A worker to which all happens that is counted: each metric is on its page, and the linter finds nothing.
#[tokio::test]
async fn a_worker_that_has_seen_everything_shows_every_metric_and_promtool_finds_nothing() {
    let (sandbox, broker) = (sandbox(|_| {}).await, Broker::shared());
    let trouble = "[[faults]]\ntext_contains = 'unanswered'\ncut = 'before'\n
        [[faults]]\ntext_contains = 'too fast'\nfirst = 1\nanswer = { code = 130429 }";
    sandbox.set_faults(faults(trouble)).unwrap();
    let mut worker = Program::worker(&sandbox, &broker)
        .set("limits.number.rate", "20")
        .set("limits.account.rate", "1000")
        .set("webhook.listen", "127.0.0.1:0")
        .set("webhook.secret", SECRET)
        .start();
    let admin = worker.admin().await;
    let url = Some(Hook::of(&mut worker).await.url());
    let soon = Latency::fixed(Duration::from_millis(20));
    let half = vec![Failure { code: 131_026, share: 0.5 }];
    let webhook = Webhook { url, secret: Some(SECRET.into()), failed: half, ..Webhook::default() };
    let webhook = Webhook { sent_after: soon, delivered_after: soon, repeat: 1.0, ..webhook };
    sandbox.set_webhook(Webhook { retries: 20, ..webhook }).unwrap();
    admin.ready().await;

    let dir = tempfile::tempdir().unwrap();
    let mut jobs: Vec<String> = (0..30).map(|n| text(&format!("job-{n}"), "x")).collect();
    jobs.extend([text("doubt", "unanswered"), text("throttled", "too fast")]);
    let message = r#"{"messaging_product":"whatsapp","to":"+919901258433","text":{"body":"x"}}"#;
    let tomorrow = clock::wall() + Duration::from_secs(86_400);
    jobs.push(job("later", message, &format!(r#","not_before":"{tomorrow}""#)));
    let file = write(&dir, "jobs.jsonl", &jobs).display().to_string();
    let put = Program::new(&["enqueue", &file]).on(&broker).run().await;
    assert_eq!(put.code, Some(0), "{}", put.said());
    let (client, sends) = (broker.client().await, broker.names().sends());
    for body in ["no job", &job("urgent", message, r#","priority":"urgent""#)] {
        let (to, properties) = ((sends.as_str(), NUMBER), BasicProperties::default());
        client.publish(to, body.as_bytes(), properties).await;
    }
    let pause = ["numbers", "pause", OTHER, "--reason", "a story"];
    let paused = Program::new(&pause).on(&broker).run().await;
    assert_eq!(paused.code, Some(0), "{}", paused.said());
    worker.signal("HUP");

    let mut page = String::new();
    for name in declared() {
        page = admin.says("/metrics", 200, &format!("# TYPE {name} ")).await;
    }
    assert_eq!(linted(&page), "");
}

/// What a series shows; below zero where there is none.
fn shown(story: &Pipeline, series: &str) -> f64 {
    let (page, series) = (story.metrics(), format!("chakra_sender_{series} "));
    let line = page.lines().find_map(|line| line.strip_prefix(&series));
    line.map_or(-1.0, |value| value.parse().unwrap())
}

/// How long the head of the first number's lane waits, as it is shown.
fn lag(story: &Pipeline) -> f64 {
    shown(story, &format!(r#"lane_oldest_seconds{{number="{NUMBER}"}}"#))
}

/// Puts jobs into the first number's lane that were enqueued so long ago.
async fn enqueue(story: &Pipeline, name: &str, count: usize, ago: u64) {
    let at = clock::wall() - Duration::from_secs(ago);
    let properties = BasicProperties::default().with_delivery_mode(2);
    let properties = properties.with_timestamp(at.as_second().try_into().unwrap());
    for n in 0..count {
        let body = text(&format!("{name}-{n}"), "x");
        story.publish(NUMBER, body.as_bytes(), properties.clone()).await;
    }
}

#[tokio::test]
async fn a_lane_that_flows_is_as_late_as_the_job_at_its_head_and_an_empty_one_is_not_late() {
    let plan = Plan::on(Broker::shared()).worker(|worker| worker.rates = paced(20.0));
    let story = plan.start().await;
    until(|| lag(&story) == 0.0).await;
    enqueue(&story, "job", 60, 600).await;
    until(|| (600.0..660.0).contains(&lag(&story))).await;
    story.results(60).await;
    until(|| lag(&story) == 0.0).await;
}

#[tokio::test]
async fn a_lane_that_stands_is_later_with_each_second_although_nothing_of_it_is_in_hand() {
    let plan = Plan::on(Broker::shared()).worker(|worker| worker.rates = paced(5.0));
    let story = plan.start().await;
    let pause = ["numbers", "pause", NUMBER, "--reason", "a story"];
    let paused = Program::new(&pause).on(story.broker()).run().await;
    assert_eq!(paused.code, Some(0), "{}", paused.said());
    until(|| story.metrics().contains(r#"reason="operator"} 1"#)).await;
    // It is shown a second before the lane is left at the latest: most of them stay in the broker.
    enqueue(&story, "job", 20, 0).await;
    let ready = format!(r#"lane_ready{{number="{NUMBER}",priority="normal"}}"#);
    until(|| shown(&story, &ready) > 0.0).await;
    for seconds in [1.0, 2.0, 3.0] {
        until(|| lag(&story) >= seconds).await;
    }
}

#[tokio::test]
async fn a_limiter_that_works_and_one_that_is_too_fast_are_told_apart() {
    let delayed = format!(r#"limit_delays_total{{number="{NUMBER}",scope="number"}}"#);
    let refused = format!(r#"limit_refusals_total{{number="{NUMBER}",scope="number"}}"#);
    let lines: Vec<String> = (0..60).map(|n| text(&format!("job-{n}"), "x")).collect();
    for (ceiling, is_too_fast) in [(0, false), (20, true)] {
        let mut world = World::with(|sandbox| sandbox.numbers[0].rate = Some(ceiling)).await;
        world.settings.rates = paced(60.0);
        let page = world.send(&lines).await.metrics;
        assert!(page.contains(&delayed), "{page}");
        assert_eq!(page.contains(&refused), is_too_fast, "{page}");
    }
}
