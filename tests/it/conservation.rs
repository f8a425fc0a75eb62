//! received = settled + held, as operators see it.

use crate::support::broker::Broker;
use crate::support::pipeline::Plan;
use crate::support::world::{NUMBER, World, job, paced, text};
use chakra_sender::metrics::{Balance, Departure, Metrics};
use chakra_sender::queue::file::{FileQueue, Results};
use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The sum of a metric over its labels, as a scrape has it.
fn sum(page: &str, metric: &str) -> i64 {
    let name = format!("chakra_sender_{metric}");
    let own =
        |line: &&str| line.strip_prefix(&name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    page.lines().filter(own).map(value).sum()
}

fn value(line: &str) -> i64 {
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Deliveries that left so.
fn settled(balance: &Balance, ways: &[Departure]) -> u64 {
    ways.iter().map(|how| balance.settled(*how)).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_every_scrape_balances_and_after_the_drain_all_counts_agree() {
    const JOBS: usize = 300;
    let mut story =
        Plan::on(Broker::shared()).worker(|worker| worker.rates = paced(150.0)).start().await;
    story.world.faults("[[faults]]\nevery = 10\nanswer = { status = 503 }");
    let metrics = story.counting();
    let mut jobs: Vec<String> = (0..JOBS - 2).map(|n| text(&format!("job-{n}"), "x")).collect();
    jobs.push(job("no-type", r#"{"messaging_product":"whatsapp"}"#, ""));
    jobs.push(text("wrong-number", "x").replace(NUMBER, "555"));
    story.enqueue(NUMBER, &jobs).await;
    // One without a lane, which is moved into its own.
    story.enqueue("777", &[text("elsewhere", "x").replace(NUMBER, "777")]).await;
    let (mut most, mut scrapes) = (0, 0);
    let watching = async {
        loop {
            let page = metrics.render().unwrap();
            assert_eq!(sum(&page, "conservation_gap"), 0);
            let (received, held) = (sum(&page, "jobs_received_total"), sum(&page, "held_jobs"));
            assert_eq!(received, sum(&page, "jobs_settled_total") + held);
            (most, scrapes) = (held.max(most), scrapes + 1);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        () = watching => {}
        _ = story.results(JOBS + 1) => {}
    }
    assert!(most > 1 && scrapes > 100, "{scrapes} scrapes, {most} held at most");

    story.drain().await;
    let (balance, told) = (metrics.balance(), story.everything_told().await);
    assert_eq!((balance.held, balance.gap()), (0, 0), "{balance}");
    let ended = settled(&balance, &[Departure::Finished, Departure::DeadLetter]);
    assert_eq!(ended, told.len() as u64, "{balance}");
    let accepted = told.iter().filter(|told| told.event["status"] == "accepted").count() as u64;
    assert_eq!(accepted, story.record().count_accepted());
    let went_round = settled(&balance, &[Departure::Rescheduled, Departure::Returned]);
    assert!(balance.settled(Departure::Rescheduled) > 0, "{balance}");
    assert_eq!(balance.settled(Departure::Moved), 1, "{balance}");
    assert_eq!(balance.settled(Departure::Void), 0, "{balance}");
    assert_eq!(balance.received, ended + went_round + 1, "{balance}");
}

#[tokio::test]
async fn a_run_over_a_file_balances_too() {
    let world = World::with_faults("[[faults]]\nfirst = 10\nanswer = { status = 503 }").await;
    let mut lines: Vec<String> = (0..30).map(|n| text(&format!("job-{n}"), "x")).collect();
    lines.push("no json".into());
    let sent = world.send(&lines).await;
    let page = &sent.metrics;
    assert_eq!((sum(page, "held_jobs"), sum(page, "conservation_gap")), (0, 0));
    let by = |how: &str| {
        let label = format!(r#"chakra_sender_jobs_settled_total{{how="{how}"}} "#);
        page.lines().find(|line| line.starts_with(&label)).map_or(0, value)
    };
    assert_eq!((by("finished"), by("dead-letter")), (sent.results.len() as i64, 1));
    assert!(by("rescheduled") > 0);
    assert_eq!(sum(page, "jobs_received_total"), 31 + by("rescheduled"));
}

#[tokio::test]
async fn a_delivery_that_is_let_slip_shows_as_a_gap() {
    let metrics = Arc::new(Metrics::new().unwrap());
    let lines = [text("kept", "x"), text("slips", "x")].join("\n");
    let (results, stop) = (Results::to(std::io::sink()), CancellationToken::new());
    let of_queue = Arc::clone(&metrics);
    let queue = FileQueue::start(Cursor::new(lines), results, 10, stop, of_queue, Arc::new(|_| {}));
    let (mut jobs, _run) = queue.split();
    let (kept, slips) = (jobs.recv().await.unwrap(), jobs.recv().await.unwrap());
    let shown = |held: &str, gap: &str| {
        let page = metrics.render().unwrap();
        let said = |line: String| assert!(page.contains(&line), "{page}");
        said(format!("chakra_sender_held_jobs {held}\n"));
        said(format!("chakra_sender_conservation_gap {gap}\n"));
    };
    shown("2", "0");
    drop(slips);
    shown("1", "1");
    kept.let_go();
    shown("0", "1");
}
