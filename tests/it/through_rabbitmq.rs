//! The whole way: jobs through a real RabbitMQ, the real worker, the sandbox, results back.

use crate::support::broker::Broker;
use crate::support::pipeline::{Pipeline, Plan, text_of_other};
use crate::support::story::until;
use crate::support::world::{NUMBER, OTHER, World, job, paced, settings, text, text_to};
use chakra_sender::clock;
use chakra_sender::limiter::{Rate, Rates, RecipientLimit};
use chakra_sender::queue::rabbitmq::Accept;
use chakra_sender::sandbox::{Latency, Request, SandboxConfig};
use chakra_sender::worker::PluginAsker;
use lapin::BasicProperties;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

fn plain() -> BasicProperties {
    BasicProperties::default()
}

/// When the sandbox took in the message of a job that it accepted.
fn accepted_at(story: &Pipeline, id: &str) -> Instant {
    let accepted = story.record().accepted();
    let of = |request: &&Request| request.opaque.as_deref() == Some(id);
    accepted.iter().find(of).unwrap_or_else(|| panic!("{id} was not accepted")).at
}

/// Every common kind of message; the last is a read receipt.
fn messages(to: &str) -> Vec<Value> {
    let kinds = json!({
        "text": { "body": "Shipped!", "preview_url": false },
        "template": { "name": "order_shipped", "language": { "code": "en" } },
        "image": { "link": "https://example.com/parcel.jpg", "caption": "Your parcel" },
        "video": { "link": "https://example.com/parcel.mp4" },
        "audio": { "id": "1013859600285441" },
        "document": { "link": "https://example.com/a.pdf", "filename": "invoice.pdf" },
        "sticker": { "id": "1013859600285441" },
        "location": { "latitude": 12.9716, "longitude": 77.5946, "name": "Pick-up" },
        "contacts": [{ "name": { "formatted_name": "Ann", "first_name": "Ann" } }],
        "reaction": { "message_id": "wamid.1", "emoji": "👍" },
        "interactive": { "type": "button", "body": { "text": "Today?" }, "action": {
            "buttons": [{ "type": "reply", "reply": { "id": "yes", "title": "Yes" } }] } },
    });
    let of = |(kind, content): (&String, &Value)| json!({ "messaging_product": "whatsapp", "to": to, "type": kind, kind: content });
    let mut messages: Vec<Value> = kinds.as_object().unwrap().iter().map(of).collect();
    let read =
        json!({ "messaging_product": "whatsapp", "status": "read", "message_id": "wamid.1" });
    messages.push(read);
    messages
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_jobs_of_every_kind_are_sent_once_and_told_once() {
    const JOBS: usize = 300;
    let mut story = Plan::on(Broker::shared()).start().await;
    let (mut messages_sent, mut receipts_sent) = (0, 0);
    for (number, parity) in [(NUMBER, 0), (OTHER, 1)] {
        let jobs: Vec<String> = (0..JOBS)
            .filter(|n| n % 2 == parity)
            .map(|n| {
                let kinds = messages(&format!("+9990000{n:04}"));
                let message = &kinds[(n / 2) % kinds.len()];
                match message["status"] == "read" {
                    true => receipts_sent += 1,
                    false => messages_sent += 1,
                }
                job(&format!("job-{n}"), &message.to_string(), "").replace(NUMBER, number)
            })
            .collect();
        story.enqueue(number, &jobs).await;
    }
    story.results(JOBS).await;
    story.drain().await;
    let told = story.everything_told().await;
    let ids: BTreeSet<&str> = told.iter().map(|told| told.id()).collect();
    assert_eq!((told.len(), ids.len()), (JOBS, JOBS));
    for told in &told {
        assert_eq!(told.outcome(), "accepted after 1", "{told:?}");
        assert_eq!(told.message_id, format!("{}:result", told.id()));
    }
    let record = story.record();
    assert_eq!(record.count_requests(), messages_sent + receipts_sent);
    assert!(record.duplicates().is_empty());
    let opaque: BTreeSet<_> = record.accepted().into_iter().filter_map(|r| r.opaque).collect();
    assert_eq!(opaque.len() as u64, messages_sent);
    assert_eq!(story.backlog().await, 0, "some went back unsettled");
    assert_eq!(story.redelivered.load(SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_goes_out_when_it_is_due_though_ten_thousand_jobs_wait() {
    let plan = Plan::on(Broker::shared()).worker(|worker| {
        worker.rates = paced(50.0);
        worker.retry.initial = Duration::from_secs(1);
    });
    let mut story = plan.start().await;
    story.drain().await;
    story.world.faults("[[faults]]\nfirst = 1\nanswer = { status = 503 }");
    let jobs: Vec<String> = (0..10_000).map(|n| text(&format!("job-{n}"), "x")).collect();
    story.enqueue(NUMBER, &jobs).await;
    story.run().await;
    story
        .recorded("no second attempt", |record| {
            let requests = record.requests();
            let first = requests.first().and_then(|first| first.opaque.clone());
            first.is_some_and(|first| record.accepted_by_opaque(&first) == 1)
        })
        .await;
    let requests = story.record().requests();
    let again = accepted_at(&story, requests[0].opaque.as_deref().unwrap());
    let waited = again.duration_since(requests[0].at);
    assert!((Duration::from_millis(750)..Duration::from_secs(3)).contains(&waited), "{waited:?}");
    story.drain().await;
    let backlog = story.backlog().await;
    assert!(backlog > 9_000, "only {backlog} waiting");
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_an_urgent_job_nor_another_number_waits_behind_a_backlog() {
    let plan = Plan::on(Broker::shared()).worker(|worker| worker.rates = paced(10.0));
    let mut story = plan.start().await;
    let bulk: Vec<String> = (0..2_000).map(|n| text(&format!("bulk-{n}"), "x")).collect();
    story.enqueue(NUMBER, &bulk).await;
    story.recorded("the backlog does not move", |record| record.count_accepted() >= 3).await;
    let published = clock::monotonic();
    let urgent = text("urgent", "code");
    story.publish(&format!("{NUMBER}.urgent"), urgent.as_bytes(), plain()).await;
    story.publish(OTHER, text_of_other("other").as_bytes(), plain()).await;
    for id in ["urgent", "other"] {
        assert_eq!(story.result(id).await.outcome(), "accepted after 1");
        let waited = accepted_at(&story, id).duration_since(published);
        assert!(waited < Duration::from_secs(1), "{id} waited for {waited:?}");
    }
    story.drain().await;
    assert!(story.backlog().await > 1_500, "the others were not waiting");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_for_later_waits_in_the_broker_and_goes_out_unchanged_not_before_its_time() {
    let plan = Plan::on(Broker::shared()).worker(|worker| {
        worker.max_wait = Duration::from_millis(50);
        worker.recipient = Some(RecipientLimit::new(1, Duration::from_millis(1_500)).unwrap());
    });
    let story = plan.start().await;
    let due = clock::wall() + jiff::SignedDuration::from_millis(1_500);
    let message = r#"{ "to":"+91 99012-58433" ,"text":{"body":"caf\u00e9 \/"},"messaging_product":"whatsapp"}"#;
    let later = job("later", message, &format!(r#","not_before":"{due}""#));
    let published = clock::monotonic();
    story.publish(NUMBER, later.as_bytes(), plain()).await;
    // Two to one recipient: the second's turn comes later than may be slept.
    for id in ["first", "second"] {
        story.publish(NUMBER, text_to(id, "+999000000001", "x").as_bytes(), plain()).await;
    }
    for id in ["later", "first", "second"] {
        assert_eq!(story.result(id).await.outcome(), "accepted after 1", "{id}");
    }
    assert!(accepted_at(&story, "later").duration_since(published) >= Duration::from_millis(1_450));
    let apart = accepted_at(&story, "second").duration_since(accepted_at(&story, "first"));
    assert!(apart >= Duration::from_millis(1_450), "{apart:?}");
    let accepted = story.record().accepted();
    let body = &accepted.iter().find(|sent| sent.opaque.as_deref() == Some("later")).unwrap().body;
    let body = std::str::from_utf8(body).unwrap();
    assert_eq!(body.replacen(r#""biz_opaque_callback_data":"later","#, "", 1), message);
    let metrics = story.metrics();
    let waits = metrics.lines().find(|line| line.contains(r#"kind="wait",outcome="confirmed""#));
    let waits: u32 = waits.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(waits >= 3, "only {waits} waits in the broker");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_under_load_hands_back_what_has_not_begun_and_nothing_is_redelivered() {
    const JOBS: usize = 300;
    let plan = Plan::on(Broker::shared()).worker(|worker| worker.rates = paced(100.0));
    let mut story = plan.start_against(slow_answers).await;
    let jobs: Vec<String> = (0..JOBS).map(|n| text(&format!("job-{n}"), "x")).collect();
    story.enqueue(NUMBER, &jobs).await;
    story.recorded("nothing is sent", |record| record.count_requests() >= 20).await;
    let begun = clock::monotonic();
    story.drain().await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "the drain took {took:?}");
    let first = story.everything_told().await.len();
    assert_eq!(first as u64, story.record().count_accepted(), "a call under way was not recorded");
    assert!(first < JOBS, "there was nothing left to hand back");
    story.run().await;
    story.results(JOBS).await;
    story.drain().await;
    let told = story.everything_told().await;
    assert_eq!(told.len(), JOBS);
    assert!(told.iter().all(|told| told.outcome() == "accepted after 1"));
    assert_eq!(story.record().count_accepted(), JOBS as u64);
    assert_eq!(story.redelivered.load(SeqCst), 0, "some jobs were delivered twice");
    assert_eq!(story.backlog().await, 0);
}

/// Answers take a fifth of a second, so that calls are always under way.
fn slow_answers(sandbox: &mut SandboxConfig) {
    sandbox.latency = Latency::fixed(Duration::from_millis(200));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_is_not_the_plugins_is_refused_by_name_and_kept() {
    let world = World::new().await;
    // As the command does it: the plugin is asked over HTTP.
    let rates = watch::Sender::new(settings().rates);
    let asker = PluginAsker::new(world.client(), Duration::from_secs(300), rates);
    let ask = Accept::Plugin(asker.numbers());
    let mut asking = JoinSet::new();
    asking.spawn(asker.run(CancellationToken::new()));
    let plan = Plan::on(Broker::shared()).rabbit(move |rabbit| {
        rabbit.accept = ask.clone();
        rabbit.numbers = Vec::new();
    });
    let mut story = plan.start().await;
    let strange = text("stranger", "x").replace(NUMBER, "4040404040");
    story.publish("4040404040", strange.as_bytes(), plain()).await;
    story.publish(NUMBER, text("own", "x").as_bytes(), plain()).await;
    assert_eq!(story.result("own").await.outcome(), "accepted after 1");
    let refused = story.result("stranger").await;
    assert_eq!(refused.outcome(), "failed invalid after 0");
    assert!(refused.event["error"]["message"].as_str().unwrap().contains("4040404040"));
    let dead = story.dead_letter().await;
    assert_eq!(dead.body, strange.as_bytes());
    assert!(dead.header("x-reason").unwrap().contains("4040404040"));
    // It may be a person's phone number: no label.
    until(|| story.metrics().contains(r#"results_total{class="invalid",number="unknown""#)).await;
    assert!(!story.metrics().contains("4040404040"));
    story.drain().await;
    assert_eq!(story.everything_told().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_was_made_at_first_sight_is_served_after_everything_was_restarted() {
    let plan = Plan::on(Broker::shared()).rabbit(|rabbit| rabbit.numbers = Vec::new());
    let mut story = plan.start().await;
    story.publish(NUMBER, text("first", "x").as_bytes(), plain()).await;
    assert_eq!(story.result("first").await.outcome(), "accepted after 1");
    story.drain().await;
    // The lane stands without a worker, and keeps what comes.
    story.publish(NUMBER, text("meanwhile", "x").as_bytes(), plain()).await;
    story.run().await;
    story.publish(NUMBER, text("second", "x").as_bytes(), plain()).await;
    for id in ["meanwhile", "second"] {
        assert_eq!(story.result(id).await.outcome(), "accepted after 1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_an_answer_gets_it_and_so_do_the_results() {
    let story = Plan::on(Broker::shared()).start().await;
    let answers = story.own("answers");
    story.declare(&answers).await;
    let asking =
        plain().with_reply_to(answers.as_str().into()).with_correlation_id("asked-7".into());
    story.publish(NUMBER, text("order-1", "x").as_bytes(), asking).await;
    let answer = story.producer.take(&answers).await;
    let told = story.result("order-1").await;
    assert_eq!(serde_json::from_slice::<Value>(&answer.data).unwrap(), told.event);
    assert_eq!(answer.properties.correlation_id().as_ref().unwrap().as_str(), "asked-7");
    assert_eq!(told.key, format!("result.accepted.{NUMBER}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_hands_on_the_jobs_of_every_number() {
    let plan = Plan::on(Broker::shared()).worker(|worker| {
        let slow = Rate::new(2.0, None).unwrap();
        worker.rates = Rates::new(Some(slow), Default::default());
    });
    let mut story = plan.start().await;
    let jobs: Vec<String> = (0..6).map(|n| text(&format!("job-{n}"), "x")).collect();
    story.enqueue(NUMBER, &jobs).await;
    story.enqueue(OTHER, &[text_of_other("other-1"), text_of_other("other-2")]).await;
    story.recorded("nothing is sent", |record| record.count_accepted() >= 2).await;
    story.restart().await;
    let results = story.results(8).await;
    assert!(results.values().all(|told| told.outcome() == "accepted after 1"), "{results:?}");
}
