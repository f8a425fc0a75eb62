//! What becomes of a job, told as stories: the worker over lines in memory, the sandbox over HTTP.

use crate::support::world::{NUMBER, OTHER, World, job, ledger, paced, text, text_to};
use chakra_sender::clock;
use chakra_sender::limiter::{Rate, Rates, RecipientLimit};
use chakra_sender::queue::file::Results;
use chakra_sender::wire::{NumberId, ResultEvent, Status};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

/// The messages that a sandbox accepted, as raw text, in the order of their arrival.
fn bodies(sent: &crate::support::world::Sent) -> Vec<String> {
    let accepted = sent.sandbox.record().accepted();
    accepted.iter().map(|request| String::from_utf8(request.body.to_vec()).unwrap()).collect()
}

#[tokio::test]
async fn a_message_goes_out_byte_for_byte_with_only_the_job_id_added() {
    // Odd key order, odd spacing, numbers in odd spellings, escapes: all the producer's business.
    let message = r#"{ "type":"location" ,"location":{"longitude":7.75946e1, "latitude":12.9716000,"name":"caf\u00e9 \/ x"},  "to" :"+91 99012-58433","messaging_product":"whatsapp"}"#;
    let sent = World::new().await.send(&[job("place", message, "")]).await;
    assert_eq!(sent.outcome("place"), "accepted after 1");
    let added = r#""biz_opaque_callback_data":"place","#;
    let [body] = &bodies(&sent)[..] else { panic!("not one message") };
    assert_eq!(body.replacen(added, "", 1), message);
    assert!(body.contains(added));
}

#[tokio::test]
async fn a_producers_own_opaque_data_stays_and_a_receipt_goes_out_untouched() {
    let own = r#"{"messaging_product":"whatsapp","to":"+919901258433","text":{"body":"x"},"biz_opaque_callback_data":"mine"}"#;
    let read = r#"{"messaging_product":"whatsapp","status":"read","message_id":"wamid.1"}"#;
    let sent = World::new().await.send(&[job("own", own, ""), job("read", read, "")]).await;
    assert_eq!(sent.outcome("own"), "accepted after 1");
    assert!(sent.result("own").whatsapp_message_id.is_some());
    assert_eq!(sent.outcome("read"), "accepted after 1");
    assert!(sent.result("read").whatsapp_message_id.is_none());
    let requests = sent.sandbox.record().requests();
    let mut bodies: Vec<&[u8]> = requests.iter().map(|request| &request.body[..]).collect();
    bodies.sort_unstable();
    let mut expected = [own.as_bytes(), read.as_bytes()];
    expected.sort_unstable();
    assert_eq!(bodies, expected);
}

#[tokio::test]
async fn a_refused_message_fails_with_metas_code_and_is_not_repeated() {
    let world = World::with_faults("[[faults]]\nanswer = { status = 400, code = 131026 }").await;
    let sent = world.send(&[text("no", "x")]).await;
    assert_eq!(sent.outcome("no"), "failed refused 131026 after 1");
    assert_eq!(sent.sandbox.record().count_requests(), 1);
}

#[tokio::test]
async fn a_busy_service_is_tried_again_until_it_takes_the_message() {
    let world = World::with_faults("[[faults]]\nfirst = 2\nanswer = { status = 503 }").await;
    let sent = world.send(&[text("busy", "x")]).await;
    assert_eq!(sent.outcome("busy"), "accepted after 3");
}

#[tokio::test]
async fn a_service_that_stays_busy_is_given_up_after_the_last_attempt() {
    let world = World::with_faults("[[faults]]\nanswer = { status = 503 }").await;
    let sent = world.send(&[text("busy", "x")]).await;
    assert_eq!(sent.outcome("busy"), "failed unavailable after 4");
    assert_eq!(sent.sandbox.record().count_requests(), 4);
}

#[tokio::test]
async fn an_answer_that_never_came_is_looked_for_and_never_a_second_message() {
    for (fault, outcome) in [
        ("cut = 'after'", "accepted after 1"),
        ("cut = 'headers'", "accepted after 1"),
        ("hang = true\naccept = true", "accepted after 1"),
        ("answer = { status = 200, shape = 'ok_without_id' }\naccept = true", "accepted after 1"),
        ("cut = 'before'", "unknown ambiguous after 1"),
        ("answer = { status = 502, shape = 'html' }", "unknown ambiguous after 1"),
    ] {
        let mut world = World::with_faults(&format!("[[faults]]\n{fault}")).await;
        world.timeout = Duration::from_millis(500);
        let sent = world.send(&[text("doubt", "x")]).await;
        assert_eq!(sent.outcome("doubt"), outcome, "{fault}");
        assert_eq!(sent.sandbox.record().count_requests(), 1, "{fault}");
    }
}

#[tokio::test]
async fn a_throttled_number_costs_no_attempt() {
    let faults = "[[faults]]\nfirst = 6\nanswer = { status = 400, code = 130429 }";
    let sent = World::with_faults(faults).await.send(&[text("slow", "x")]).await;
    // Six refusals with only four attempts allowed: none of the six was spent.
    assert_eq!(sent.outcome("slow"), "accepted after 7");
}

#[tokio::test]
async fn a_number_that_is_paced_below_its_ceiling_uses_its_pace_and_is_never_refused() {
    // The ceiling is kept by the sandbox's clock, so jitter on the way counts: that is what the
    // distance between pace and ceiling is for. What the gate itself lets through has properties.
    let mut world = World::with(|sandbox| sandbox.numbers[0].rate = Some(80)).await;
    world.settings.rates = paced(70.0);
    let lines: Vec<String> = (0..280).map(|n| text(&format!("job-{n}"), "x")).collect();
    let sent = world.send(&lines).await;
    assert!(sent.results.iter().all(|result| result.attempts == 1));
    let record = sent.sandbox.record();
    assert_eq!(record.count_accepted(), 280);
    let busiest = record.highest_in_any_second(NUMBER);
    assert!((69..=80).contains(&busiest), "{busiest} in one second, at 70/s and a burst of 2");
}

#[tokio::test]
async fn urgent_jobs_do_not_wait_behind_bulk() {
    let mut world = World::new().await;
    world.settings.rates = paced(20.0);
    let mut lines: Vec<String> = (0..40).map(|n| text(&format!("bulk-{n}"), "x")).collect();
    let urgent = r#"{"messaging_product":"whatsapp","to":"+999000000001","text":{"body":"code"}}"#;
    lines.push(job("code", urgent, r#","priority":"urgent""#));
    let sent = world.send(&lines).await;
    let place = sent.results.iter().position(|result| result.id.as_str() == "code").unwrap();
    assert!(place <= 3, "the urgent job came out as number {place} of 41");
}

#[tokio::test]
async fn a_number_that_waits_for_its_pace_holds_no_call() {
    let mut world = World::new().await;
    // One call at a time for the whole process, and a number that sends once in five seconds.
    world.settings.max_in_flight = 1;
    let slow = Rate::new(0.2, None).unwrap();
    let fast = Rate::new(500.0, None).unwrap();
    let slow_number = NumberId::parse(NUMBER).unwrap();
    world.settings.rates = Rates::new(Some(fast), HashMap::from([(slow_number, slow)]));
    let mut lines: Vec<String> = (0..5).map(|n| text(&format!("slow-{n}"), "x")).collect();
    lines.extend((0..50).map(|n| text(&format!("fast-{n}"), "x").replace(NUMBER, OTHER)));
    let stop = world.stop.clone();
    let left = AtomicUsize::new(50);
    let sent = world
        .run(&lines, Results::to(std::io::sink()), ledger(), move |event| {
            if event.id.as_str().starts_with("fast") && left.fetch_sub(1, SeqCst) == 1 {
                stop.cancel();
            }
        })
        .await;
    let took =
        |result: &ResultEvent| result.finished_at.duration_since(result.received_at).as_secs_f64();
    let slowest = sent.results.iter().map(took).fold(0.0, f64::max);
    assert!(slowest < 4.0, "the fast number waited {slowest} s for the slow one");
}

#[tokio::test]
async fn the_account_has_a_pace_that_all_its_numbers_share() {
    let mut world = World::new().await;
    world.settings.account = Some(Rate::new(50.0, Some(1)).unwrap());
    let of = |number: &'static str| {
        move |n: u32| text(&format!("{number}-{n}"), "x").replace(NUMBER, number)
    };
    let lines: Vec<String> = (0..40).map(of(NUMBER)).chain((0..40).map(of(OTHER))).collect();
    let sent = world.send(&lines).await;
    let requests = sent.sandbox.record().requests();
    let first = requests.iter().map(|request| request.at).min().unwrap();
    let last = requests.iter().map(|request| request.at).max().unwrap();
    assert_eq!(requests.len(), 80);
    assert!(last.duration_since(first) >= Duration::from_millis(1500), "80 requests at 50/s");
}

#[tokio::test]
async fn messages_to_one_recipient_keep_their_order() {
    let world = World::with(|sandbox| {
        sandbox.latency =
            serde_json::from_value(serde_json::json!({ "min": "0ms", "max": "20ms" })).unwrap();
    })
    .await;
    let lines: Vec<String> = (0..20)
        .map(|n| text_to(&format!("{n}"), "+999000000001", &format!("part {n:02}")))
        .collect();
    let sent = world.send(&lines).await;
    let parts: Vec<String> = bodies(&sent)
        .iter()
        .map(|body| body.split("part ").nth(1).unwrap()[..2].to_owned())
        .collect();
    assert!(parts.is_sorted() && parts.len() == 20, "{parts:?}");
}

#[tokio::test]
async fn a_recipient_gets_no_more_than_its_pace_and_nobody_waits_for_him() {
    let mut world = World::new().await;
    let every = Duration::from_millis(400);
    world.settings.recipient = Some(RecipientLimit::new(2, every).unwrap());
    let mut lines: Vec<String> =
        (0..4).map(|n| text_to(&format!("one-{n}"), "+999000000001", "x")).collect();
    lines.push(text("other", "x"));
    let sent = world.send(&lines).await;
    let took = |id: &str| {
        let result = sent.result(id);
        Duration::try_from(result.finished_at.duration_since(result.received_at)).unwrap()
    };
    assert!(took("one-1") < every && took("other") < every);
    assert!(took("one-2") >= every.mul_f64(0.9) && took("one-3") >= every.mul_f64(1.8));
}

#[tokio::test]
async fn a_wait_longer_than_may_be_slept_goes_back_to_the_queue_and_costs_no_attempt() {
    let mut world = World::new().await;
    world.settings.max_wait = Duration::from_millis(50);
    world.settings.recipient = Some(RecipientLimit::new(1, Duration::from_millis(300)).unwrap());
    let lines: Vec<String> =
        (0..4).map(|n| text_to(&format!("{n}"), "+999000000001", "x")).collect();
    let sent = world.send(&lines).await;
    for n in 0..4 {
        assert_eq!(sent.outcome(&n.to_string()), "accepted after 1");
    }
}

#[tokio::test]
async fn a_job_is_never_sent_before_its_time_nor_after_it() {
    let message = r#"{"messaging_product":"whatsapp","to":"+999000000001","text":{"body":"x"}}"#;
    let now = clock::wall();
    let soon = now + jiff::SignedDuration::from_millis(700);
    let past = now - jiff::SignedDuration::from_secs(1);
    let lines = [
        job("later", message, &format!(r#","not_before":"{soon}""#)),
        job("late", message, &format!(r#","expires_at":"{past}""#)),
    ];
    let sent = World::new().await.send(&lines).await;
    assert_eq!(sent.outcome("late"), "expired after 0");
    assert_eq!(sent.outcome("later"), "accepted after 1");
    assert!(sent.result("later").finished_at >= soon);
    assert_eq!(sent.sandbox.record().count_requests(), 1);
}

#[tokio::test]
async fn a_job_that_expires_while_its_lane_is_slow_takes_no_place_in_it() {
    let mut world = World::new().await;
    world.settings.rates = paced(5.0);
    let end = clock::wall() + jiff::SignedDuration::from_millis(600);
    let message = |n: u32| {
        format!(
            r#"{{"messaging_product":"whatsapp","to":"+99900000{n:04}","text":{{"body":"x"}}}}"#
        )
    };
    let mut lines: Vec<String> = (0..30)
        .map(|n| job(&format!("otp-{n}"), &message(n), &format!(r#","expires_at":"{end}""#)))
        .collect();
    lines.push(job("last", &message(99), ""));
    let sent = world.send(&lines).await;
    assert_eq!(sent.outcome("last"), "accepted after 1");
    let result = sent.result("last");
    let took = result.finished_at.duration_since(result.received_at).as_secs_f64();
    // At 5/s the thirty before it would have taken 6 s: they expired and left the lane to it.
    assert!(took < 2.0, "{took}");
    let expired = sent.results.iter().filter(|result| result.status == Status::Expired).count();
    assert!(expired >= 24, "{expired}");
}

#[tokio::test]
async fn a_service_that_asks_for_rest_gets_it_from_the_whole_account() {
    let faults =
        "[[faults]]\nfirst = 1\nanswer = { status = 429, headers = { retry-after = \"1\" } }";
    let mut world = World::with_faults(faults).await;
    world.settings.retry.initial = Duration::from_millis(1);
    let lines: Vec<String> = (0..10).map(|n| text(&format!("{n}"), "x")).collect();
    let sent = world.send(&lines).await;
    assert!(sent.results.iter().all(|result| result.status == Status::Accepted));
    let record = sent.sandbox.record();
    let first = record.requests()[0].at;
    let refused = sent.results.iter().filter(|result| result.attempts > 1).count();
    assert_eq!(refused, 1);
    let last = record.requests().iter().map(|request| request.at).max().unwrap();
    assert!(last.duration_since(first) >= Duration::from_secs(1));
}

#[tokio::test]
async fn neither_token_nor_recipient_nor_text_show_in_the_metrics() {
    let lines = [text_to("one", "+919901258433", "my secret text")];
    let sent = World::new().await.send(&lines).await;
    for hidden in ["secret-token", "919901258433", "my secret text"] {
        assert!(!sent.metrics.contains(hidden), "{hidden}");
    }
    let counted = format!(r#"results_total{{class="none",number="{NUMBER}",status="accepted"}} 1"#);
    assert!(sent.metrics.contains(&counted), "{}", sent.metrics);
}
