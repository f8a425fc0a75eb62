//! A job's way through a real RabbitMQ.

use crate::support::broker::Broker;
use crate::support::plugin::FakePlugin;
use crate::support::story::{
    NUMBER, Story, accepted, header, id, job, job_of, number, plain, unavailable,
};
use chakra_sender::clock;
use chakra_sender::policy::{self, Failure, History, Reschedule, Settlement, Why};
use chakra_sender::queue::Receipt;
use chakra_sender::queue::rabbitmq::{Marked, RabbitSettings, Touch};
use chakra_sender::wire::{Class, Priority};
use futures_util::FutureExt;
use futures_util::future::join_all;
use jiff::Timestamp;
use lapin::options::{QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_job_arrives_and_its_result_is_there_before_it_is_let_go() {
    let mut story = Story::with_lane().await;
    let stamped = plain().with_timestamp(1_800_000_000);
    story.publish(NUMBER, &job("order-1"), stamped).await;
    let incoming = story.next().await;
    assert_eq!((id(&incoming), incoming.priority), ("order-1", Priority::Normal));
    assert!(incoming.earlier == 0 && incoming.waited_for.is_none() && incoming.receipt.is_ours());
    let settlement = accepted(&incoming);
    incoming.receipt.settle(&settlement, ()).await.unwrap();
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
    assert_eq!(story.client.depth(&lane).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_without_a_lane_gets_one_which_outlives_the_worker() {
    let mut story = Story::begin(Broker::shared(), |_| {}).await;
    story.publish("555.urgent", &job_of("555", "order-1"), plain()).await;
    let incoming = story.next().await;
    assert_eq!(incoming.lane, Some(number("555")));
    assert_eq!((id(&incoming), incoming.priority), ("order-1", Priority::Urgent));
    let settlement = accepted(&incoming);
    incoming.receipt.settle(&settlement, ()).await.unwrap();
    story.queue.close().await;

    // No plugin to ask, no number given: the record alone names the lane.
    let nobody = FakePlugin::that_says(|| Err("down".into()));
    let accept = nobody.accept();
    let mut story = Story::begin(story.broker, |settings| settings.accept = accept).await;
    story.publish("555", &job_of("555", "order-2"), plain()).await;
    assert_eq!(id(&story.next().await), "order-2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_the_plugin_does_not_have_is_refused_and_a_new_one_of_its_is_served() {
    let plugin = FakePlugin::that_says(|| Ok(vec![number("777")]));
    let accept = plugin.accept();
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
async fn lanes_that_stand_in_the_record_are_served_though_fewer_are_allowed_now() {
    let both = |settings: &mut RabbitSettings| settings.numbers = vec![number("1"), number("2")];
    let story = Story::begin(Broker::shared(), both).await;
    story.queue.close().await;
    let mut story = Story::begin(story.broker, |settings| settings.max_lanes = 1).await;
    story.publish("1", &job_of("1", "order-1"), plain()).await;
    let first = story.next().await;
    story.publish("2", &job_of("2", "order-2"), plain()).await;
    let second = story.next().await;
    assert_eq!([id(&first), id(&second)], ["order-1", "order-2"]);
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
    first.receipt.settle(&settlement, ()).await.unwrap();
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
    second.receipt.settle(&end, ()).await.unwrap();
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
    first.receipt.settle(&back, ()).await.unwrap();
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
    assert!(again.earlier > 0 && again.receipt.is_ours());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_those_that_end_together_one_that_is_still_in_hand_is_not_let_go() {
    let mut story = Story::with_lane().await;
    let jobs = ["one", "two", "three", "four", "five"];
    for id in jobs {
        story.publish(NUMBER, &job(id), plain()).await;
    }
    let mut came = Vec::new();
    for _ in jobs {
        came.push(story.next().await);
    }
    let in_hand = came.remove(2);
    let settled = came.into_iter().map(|incoming| async move {
        let settlement = accepted(&incoming);
        incoming.receipt.settle(&settlement, ()).await
    });
    for settled in join_all(settled).await {
        settled.unwrap();
    }
    drop(in_hand);
    let again = story.next().await;
    assert_eq!((id(&again), again.earlier), ("three", 1));
    let settlement = accepted(&again);
    again.receipt.settle(&settlement, ()).await.unwrap();
    story.queue.stop_consuming();
    assert!(story.jobs.recv().await.is_none());
    story.queue.close().await;
    let lane = story.broker.names().lane(&number(NUMBER), Priority::Normal);
    assert_eq!(story.client.depth(&lane).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_the_broker_expired_returns_to_its_lane_and_is_over_there() {
    let one = |settings: &mut RabbitSettings| {
        settings.numbers = vec![number(NUMBER)];
        settings.prefetch = Arc::new(|_| 1);
    };
    let mut story = Story::begin(Broker::shared(), one).await;
    story.publish(NUMBER, &job("order-1"), plain()).await;
    let held = story.next().await;
    let (watched, unrouted) =
        (format!("{}.watched", story.broker.prefix), story.broker.names().unrouted());
    let channel = &story.client.channel;
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(watched.as_str().into(), durable, FieldTable::default()).await.unwrap();
    let (to, none) = (unrouted.as_str().into(), FieldTable::default());
    let options = QueueBindOptions::default();
    channel.queue_bind(watched.as_str().into(), to, "".into(), options, none).await.unwrap();
    // One more is with the worker's client already.
    let short = || plain().with_expiration("300".into());
    story.publish(NUMBER, &job("order-2"), short()).await;
    let _died = story.client.take(&watched).await;
    // Its lane knows whether it was begun; while that is full, it waits.
    let back = policy::given_back(&held.history);
    held.receipt.settle(&back, ()).await.unwrap();
    let mut over = story.next().await;
    while id(&over) != "order-2" {
        over = story.next().await;
    }
    assert!(over.job.as_ref().unwrap().expires_at.unwrap() <= clock::wall());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expiration_counts_as_the_jobs_own_end_and_survives_a_wait() {
    let mut story = Story::begin(Broker::shared(), |_| {}).await;
    // Moved into its new lane, then through a wait queue.
    let hour = plain().with_timestamp(4_000_000_000).with_expiration("3600000".into());
    story.publish("555", &job_of("555", "order-1"), hour).await;
    let first = story.next().await;
    let end = first.job.as_ref().unwrap().expires_at.unwrap();
    assert_eq!(end.to_string(), "2096-10-02T08:06:40Z");
    let back = policy::given_back(&first.history);
    first.receipt.settle(&back, ()).await.unwrap();
    assert_eq!(story.next().await.job.unwrap().expires_at, Some(end));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_comes_back_from_a_wait_to_no_lane_is_an_ordinary_one() {
    // The only list comes too early for the first judgement, so the job must wait and come back.
    let mut first = true;
    let plugin = FakePlugin::that_says(move || match std::mem::take(&mut first) {
        true => Err("down".into()),
        false => Ok(vec![number("555")]),
    });
    let accept = plugin.accept();
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
    incoming.receipt.settle(&settlement, ()).await.unwrap();
    let answer = story.client.take(&answers).await;
    assert_eq!(answer.properties.correlation_id().as_ref().unwrap().as_str(), "c-1");
    assert_eq!(answer.data, story.result().await.1.data);
    // Nobody there, or never was: the job is settled all the same.
    for nowhere in ["no-such-queue", "amq.rabbitmq.reply-to.g1h2AAVyZXBseQ"] {
        story.publish(NUMBER, &job(nowhere), asking(nowhere)).await;
        let incoming = story.next().await;
        let settlement = accepted(&incoming);
        incoming.receipt.settle(&settlement, ()).await.unwrap();
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
    wrong.receipt.settle(&settlement, ()).await.unwrap();
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

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_was_delivered_too_often_is_marked_and_one_that_ends_the_worker_is_not_read()
{
    // The mark of the first message is given, that of the second is not: it has ended the worker.
    let mark = |settings: &mut RabbitSettings| {
        settings.touch = Touch::new(|body, replay| {
            assert_eq!(replay, None);
            let harmless = String::from_utf8_lossy(&body).contains("harmless");
            std::future::ready(harmless.then(|| Box::new(()) as Marked)).boxed()
        });
    };
    let mut story = Story::begin(Broker::shared(), mark).await;
    for (name, is_read) in [("harmless", true), ("poison", false)] {
        let properties = plain().with_message_id(name.into());
        story.publish(NUMBER, &job(name), properties).await;
        for earlier in 0..=3 {
            let incoming = story.next().await;
            assert_eq!((incoming.earlier, incoming.job.is_ok()), (earlier, true), "{name}");
            // Unsettled, it comes again.
        }
        let incoming = story.next().await;
        assert_eq!(incoming.job.is_ok(), is_read, "{name}");
        if let Err(invalid) = &incoming.job {
            assert_eq!(invalid.id.as_ref().map(|id| id.as_str()), Some(name));
            assert!(invalid.reason.contains("ended each time"), "{}", invalid.reason);
        }
        let over = Settlement::Reschedule(Reschedule {
            history: History { due: Some(Timestamp::MAX), ..incoming.history.clone() },
            why: Why::Hold,
        });
        incoming.receipt.settle(&over, ()).await.unwrap();
    }
}
