//! What an answer about a number, a template or a recipient costs the others: nothing. The worker over
//! lines in memory, real HTTP. Waits of the code table are minutes; where a story waits to the end, the
//! answer's own hint is shorter.

use crate::support::story::until;
use crate::support::world::{NUMBER, OTHER, Sent, World, job, paced, text, text_to};
use chakra_sender::limiter::{Rate, Rates};
use chakra_sender::metrics::Metrics;
use chakra_sender::sandbox::Request;
use chakra_sender::wire::Status;
use chakra_sender::worker::LaneView;
use std::collections::HashMap;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// One call at a time for each number, so that each story knows what is under way.
async fn careful(faults: &str) -> World {
    let mut world = World::with_faults(faults).await;
    world.settings.max_in_flight = 2;
    world
}

fn of_other(line: &str) -> String {
    line.replace(NUMBER, OTHER)
}

fn texts(count: usize) -> Vec<String> {
    (0..count).map(|n| text(&format!("text-{n}"), "x")).collect()
}

fn template(id: &str, name: &str) -> String {
    let to = format!("+9990{:08}", fastrand::u32(..100_000_000));
    let message = serde_json::json!({
        "messaging_product": "whatsapp", "to": to, "type": "template",
        "template": { "name": name, "language": { "code": "en" } },
    });
    job(id, &message.to_string(), "")
}

fn shows(metrics: &Metrics, series: &str) -> bool {
    metrics.render().unwrap().contains(&format!("chakra_sender_{series}"))
}

fn assert_all_accepted(sent: &Sent, jobs: usize) {
    let accepted = sent.results.iter().filter(|result| result.status == Status::Accepted);
    assert_eq!(accepted.count(), jobs);
}

/// The time from each of these requests to the next.
fn gaps(requests: &[Request]) -> Vec<Duration> {
    requests.windows(2).map(|pair| pair[1].at.duration_since(pair[0].at)).collect()
}

#[tokio::test]
async fn a_number_whose_ceiling_is_lower_than_its_rate_learns_it() {
    let mut world = World::with(|sandbox| sandbox.numbers[0].rate = Some(40)).await;
    world.settings.rates = paced(70.0);
    let (metrics, views) = (world.metrics.clone(), world.views.clone());
    let lines = texts(240);
    let (sent, view) = tokio::join!(world.send(&lines), async {
        until(|| metrics.render().unwrap().contains(r#"source="learned""#)).await;
        let views = views.borrow().clone().unwrap();
        views.list()[0].clone()
    });
    assert_all_accepted(&sent, 240);
    assert_eq!(view.source, "learned");
    assert!(view.rate < 70.0 && view.held_until.is_none(), "{view:?}");
    assert!(!sent.metrics.contains(r#"source="override""#), "{}", sent.metrics);
    // All of them while the window of the service was full, in the first two seconds.
    let refused = sent.sandbox.record().refused_by_code()[&130_429];
    assert!(refused < 80, "{refused} refused");
}

#[tokio::test]
async fn a_number_in_maintenance_is_left_alone_and_nobody_else() {
    let world =
        careful("[[faults]]\nnumber = '1027729340496751'\nanswer = { code = 131057 }").await;
    let mut lines = texts(50);
    lines.extend((0..50).map(|n| of_other(&text(&format!("other-{n}"), "x"))));
    let (metrics, views, stop) = (world.metrics.clone(), world.views.clone(), world.stop.clone());
    let series = format!(r#"paused{{number="{NUMBER}",reason="maintenance"}} 1"#);
    let accepted =
        format!(r#"results_total{{class="none",number="{OTHER}",status="accepted"}} 50"#);
    let (sent, view) = tokio::join!(world.send(&lines), async {
        until(|| shows(&metrics, &series) && shows(&metrics, &accepted)).await;
        let view = views.borrow().clone().unwrap().list().remove(0);
        stop.cancel();
        view
    });
    let LaneView { held_until, held_for, source, .. } = view;
    assert!(held_until.is_some() && held_for.as_deref() == Some("maintenance"));
    assert_eq!(source, "configured", "a maintenance tells nothing of the pace");
    assert_eq!(sent.sandbox.record().refused_by_code()[&131_057], 1);
    assert_eq!((sent.results.len(), sent.tally.unfinished), (50, 50));
}

#[tokio::test]
async fn one_probe_at_a_time_tests_the_end_of_a_numbers_pause() {
    let answer = "status = 429, code = 130429, headers = { retry-after = '1' }";
    let world = careful(&format!("[[faults]]\nfirst = 2\nanswer = {{ {answer} }}")).await;
    let metrics = world.metrics.clone();
    let throttled = format!(r#"paused{{number="{NUMBER}",reason="throttled"}} 1"#);
    let lines = texts(30);
    let (sent, ()) = tokio::join!(world.send(&lines), async {
        until(|| shows(&metrics, &throttled)).await;
        until(|| !shows(&metrics, &throttled)).await;
    });
    assert_all_accepted(&sent, 30);
    let record = sent.sandbox.record();
    assert_eq!(record.count_requests(), 32, "none but the probe met the second refusal");
    let gaps = gaps(&record.requests());
    assert!(gaps[0] >= SECOND && gaps[1] >= 2 * SECOND, "{gaps:?}");
}

#[tokio::test]
async fn a_paused_template_keeps_only_its_own_jobs_waiting() {
    let answer = "first = 1\nanswer = { code = 132069 }";
    let faults = format!("[[faults]]\ntype = 'template'\nnumber = '{NUMBER}'\n{answer}");
    let mut world = careful(&faults).await;
    // The first one of the lane is the one that is refused.
    world.settings.max_in_flight = 1;
    // Its wait is ten minutes.
    world.settings.retry.max_age = 3_600 * SECOND;
    let mut lines = vec![template("sale-first", "sale")];
    lines.extend((0..20).map(|n| template(&format!("sale-{n}"), "sale")));
    lines.extend((0..20).map(|n| template(&format!("bill-{n}"), "bill")));
    lines.push(of_other(&template("sale-of-other", "sale")));
    lines.extend(texts(20));
    let stop = world.stop.clone();
    let metrics = world.metrics.clone();
    let rescheduled = r#"jobs_settled_total{how="rescheduled"} 21"#;
    let of = |number, count| {
        format!(r#"results_total{{class="none",number="{number}",status="accepted"}} {count}"#)
    };
    let (sent, ()) = tokio::join!(world.send(&lines), async {
        until(|| {
            let all = [rescheduled.to_owned(), of(NUMBER, 40), of(OTHER, 1)];
            all.iter().all(|series| shows(&metrics, series))
        })
        .await;
        stop.cancel();
    });
    assert_eq!(sent.tally.unfinished, 21);
    assert_eq!(sent.sandbox.record().count_requests(), 42, "no other job met the refusal");
}

#[tokio::test]
async fn a_pair_that_is_refused_waits_with_all_its_jobs_and_nobody_waits_for_it() {
    let faults = "[[faults]]\nto = '999000000001'\nfirst = 1\nanswer = { code = 131056 }";
    let world = careful(faults).await;
    let mut lines: Vec<String> =
        (0..5).map(|n| text_to(&format!("pair-{n}"), "+999000000001", "x")).collect();
    lines.extend(texts(20));
    let sent = world.send(&lines).await;
    assert_all_accepted(&sent, 25);
    let requests = sent.sandbox.record().requests();
    let (pair, others): (Vec<_>, Vec<_>) =
        requests.into_iter().partition(|request| request.to == "999000000001");
    assert_eq!((pair.len(), others.len()), (6, 20));
    assert!(gaps(&pair)[0] >= SECOND, "{:?}", gaps(&pair));
    assert!(others.iter().all(|request| request.at.duration_since(pair[0].at) < SECOND));
}

#[tokio::test]
async fn other_rates_apply_to_a_lane_that_runs_and_to_those_to_come() {
    let mut world = World::new().await;
    let slow = Rates::new(Some(Rate::new(2.0, Some(1)).unwrap()), HashMap::new());
    world.settings.rates = slow;
    let mut lines = texts(100);
    lines.extend((0..100).map(|n| of_other(&text(&format!("other-{n}"), "x"))));
    let (views, record) = (world.views.clone(), world.sandbox.record());
    let (sent, at) = tokio::join!(world.send(&lines), async {
        until(|| record.count_requests() >= 2).await;
        let views = views.borrow().clone().unwrap();
        views.retune(&Rates::new(Some(Rate::new(200.0, Some(1)).unwrap()), HashMap::new()));
        assert!(views.list().iter().all(|view| view.rate == 200.0));
        chakra_sender::clock::monotonic()
    });
    assert_all_accepted(&sent, 200);
    let requests = sent.sandbox.record().requests();
    let last = requests.iter().map(|request| request.at).max().unwrap();
    assert!(last.duration_since(at) < 5 * SECOND);
    // No burst, and no debt that is gone: what is promised for later goes no sooner.
    let after = requests.iter().filter(|request| request.at >= at).count();
    let soon = requests.iter().filter(|request| {
        request.at >= at && request.at.duration_since(at) < Duration::from_millis(20)
    });
    assert!(after >= 190 && soon.count() <= 10);
}
