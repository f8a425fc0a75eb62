//! Nothing is sent twice: jobs that come again, jobs in doubt, ids that are used again.

use crate::support::broker::Broker;
use crate::support::pipeline::{Pipeline, Plan, Told};
use crate::support::world::{NUMBER, job, text_to};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};

const TO: &str = "+919901258433";

fn with_headers(headers: &[(&str, &str)]) -> BasicProperties {
    let mut table = FieldTable::default();
    for (name, value) in headers {
        table.insert((*name).into(), AMQPValue::LongString((*value).into()));
    }
    BasicProperties::default().with_headers(table)
}

async fn publish(story: &Pipeline, line: &str) {
    story.publish(NUMBER, line.as_bytes(), BasicProperties::default()).await;
}

fn metadata(told: &Told) -> u64 {
    told.event["metadata"].as_u64().unwrap()
}

fn text_with(id: &str, text: &str, metadata: u32) -> String {
    let message = format!(
        r#"{{"messaging_product":"whatsapp","to":"{TO}","type":"text","text":{{"body":"{text}"}}}}"#
    );
    job(id, &message, &format!(r#","metadata":{metadata}"#))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_enqueued_again_gets_the_same_outcome_over_a_restart_and_is_not_sent() {
    let folder = tempfile::tempdir().unwrap();
    let mut story = Plan::on(Broker::shared()).ledger(folder.path()).start().await;
    publish(&story, &text_with("order", "x", 1)).await;
    let first = story.result("order").await;
    publish(&story, &text_with("order", "x", 2)).await;
    story.told("no second result", |all| all.len() == 2).await;
    story.restart().await;
    publish(&story, &text_with("order", "x", 3)).await;
    let all = story.told("no third result", |all| all.len() == 3).await;

    assert_eq!(story.record().count_requests(), 1);
    assert_eq!(all.iter().map(metadata).collect::<Vec<_>>(), [1, 2, 3]);
    for again in &all[1..] {
        assert_eq!(again.message_id, first.message_id);
        for key in ["status", "whatsapp_message_id", "finished_at", "attempts"] {
            assert_eq!(again.event[key], first.event[key], "{key}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_used_for_another_message_is_invalid() {
    let story = Plan::on(Broker::shared()).start().await;
    publish(&story, &text_with("order", "x", 1)).await;
    story.result("order").await;
    publish(&story, &text_with("order", "y", 2)).await;
    let all = story.told("no answer to the second", |all| all.len() == 2).await;
    assert_eq!(all[1].outcome(), "failed invalid after 0");
    assert_eq!(all[1].event["error"]["message"], "id already used for another message");
    publish(&story, &text_with("order", "x", 3)).await;
    let all = story.told("no answer to the third", |all| all.len() == 3).await;
    assert_eq!(all[2].outcome(), "accepted after 1", "the first one is still remembered");
    assert_eq!(story.record().count_requests(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_whose_answer_was_lost_is_found_in_its_chat() {
    let story = Plan::on(Broker::shared()).start().await;
    story.world.faults("[[faults]]\nfirst = 1\ncut = 'after'");
    publish(&story, &text_with("cut", "x", 1)).await;
    let told = story.result("cut").await;
    assert_eq!(told.outcome(), "accepted after 1");
    let accepted = story.record().accepted();
    assert_eq!(told.event["whatsapp_message_id"].as_str(), accepted[0].wamid.as_deref());
    assert_eq!(story.record().count_requests(), 1);
    assert!(story.metrics().contains(r#"looks_total{outcome="found"} 1"#));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_in_no_chat_is_unknown_and_its_letter_tells_of_the_doubt() {
    let story = Plan::on(Broker::shared()).start().await;
    story.world.faults("[[faults]]\ntext_contains = 'lost'\ncut = 'before'");
    // It shows that looking works.
    publish(&story, &text_to("seen", "+919901258434", "x")).await;
    publish(&story, &text_with("lost", "lost", 1)).await;
    assert_eq!(story.result("lost").await.outcome(), "unknown ambiguous after 1");
    let letter = story.dead_letter().await;
    assert_eq!(letter.header("x-doubt").as_deref(), Some("strong"));
    assert!(letter.header("x-reason").unwrap().contains("the chat does not show it"));
    assert_eq!(story.record().count_requests(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_who_prefers_two_to_none_gets_its_message_sent_again() {
    let story = Plan::on(Broker::shared()).start().await;
    story.world.faults("[[faults]]\ntext_contains = 'lost'\nfirst = 1\ncut = 'before'");
    publish(&story, &text_to("seen", "+919901258434", "x")).await;
    let line = text_with("lost", "lost", 1);
    let resend = line.replacen('{', r#"{"on_doubt":"resend","#, 1);
    publish(&story, &resend).await;
    assert_eq!(story.result("lost").await.outcome(), "accepted after 2");
    assert_eq!(story.record().accepted_by_opaque("lost"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_another_worker_tried_is_looked_for_before_it_is_sent() {
    let story = Plan::on(Broker::shared()).start().await;
    publish(&story, &text_to("seen", "+919901258434", "x")).await;
    story.result("seen").await;
    let headers = with_headers(&[("x-attempts", "1")]);
    story.publish(NUMBER, text_with("tried", "y", 1).as_bytes(), headers).await;
    assert_eq!(story.result("tried").await.outcome(), "accepted after 2");
    assert!(story.metrics().contains(r#"looks_total{outcome="nothing"}"#));

    // The same of one that did reach WhatsApp: what a vanished worker sent stands in the chat.
    publish(&story, &text_to("theirs", "+919901258435", "z")).await;
    story.result("theirs").await;
    let headers = with_headers(&[("x-attempts", "1")]);
    let ours = text_to("ours", "+919901258435", "z");
    story.publish(NUMBER, ours.as_bytes(), headers).await;
    assert_eq!(story.result("ours").await.outcome(), "accepted after 2", "that is another job's");
    assert_eq!(story.record().accepted_by_opaque("ours"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_that_shows_nothing_is_never_believed() {
    let story =
        Plan::on(Broker::shared()).start_against(|sandbox| sandbox.listings.omit = 1.0).await;
    publish(&story, &text_to("seen", "+919901258434", "x")).await;
    story.result("seen").await;
    let headers = with_headers(&[("x-attempts", "1")]);
    story.publish(NUMBER, text_with("tried", "y", 1).as_bytes(), headers).await;
    assert_eq!(story.result("tried").await.outcome(), "unknown ambiguous after 1");
    assert_eq!(story.record().count_requests(), 1, "weak doubt alone would have been sent again");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_message_to_the_same_person_waits_while_the_first_is_in_doubt() {
    let story = Plan::on(Broker::shared()).start().await;
    story.world.faults("[[faults]]\nfirst = 1\ncut = 'after'");
    publish(&story, &text_with("first", "same", 1)).await;
    publish(&story, &text_with("second", "same", 2)).await;
    let results = story.results(2).await;
    let mut ids: Vec<&str> =
        results.values().map(|told| told.event["whatsapp_message_id"].as_str().unwrap()).collect();
    assert!(results.values().all(|told| told.outcome() == "accepted after 1"));
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 2, "each has a message of its own");
    assert_eq!(story.record().count_requests(), 2);
}
