//! What webhooks cost: how soon they are answered at 3,000 statuses a second, and what a flood of them that
//! are not signed by our secret does to the sending side.

use crate::cost::{Used, used};
use crate::lanes::{Kind, lanes};
use crate::support::webhook::{Hook, SECRET};
use crate::table::{Group, Row, Verdict, milliseconds, percent};
use crate::world::World;
use crate::{Length, limited};
use chakra_sender::clock;
use chakra_sender::sandbox::{Latency, Webhook};
use chakra_sender::wire::Priority;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Statuses of one message: sent, delivered, read.
const EACH: u32 = 3;

/// 99 of 100 are answered within this (issue 5 of the design).
const ANSWERED_WITHIN: Duration = Duration::from_millis(250);

/// What comes between two statuses of a message: longer than any answer, so that none overtakes another.
const APART: Latency = Latency::fixed(Duration::from_millis(300));

/// Posts at once: enough for the load, and for one repetition of each.
const POSTS: usize = 64;

/// How soon a webhook is repeated that was answered with 503.
const REPEATED_AFTER: Duration = Duration::from_millis(500);

/// All is answered, and told, by then.
const TOLD_WITHIN: Duration = Duration::from_secs(20);

/// Those who flood, each with one request after another.
const FLOODERS: usize = 200;

/// What they post, in turn: a status, and a large batch of them.
const BODIES: [usize; 2] = [1_000, 100_000];

/// The sending side keeps at least this part of its pace beside a flood.
const KEPT_AT_LEAST: f64 = 0.95;

/// How long the pace of the sending side is looked at, together with the time before it is steady.
const SENDING: Duration = Duration::from_secs(30);

/// A row for the answers, one for the flood.
pub(crate) async fn run(length: &Length) -> Vec<Row> {
    vec![answers(length).await, flood(length).await]
}

async fn world(kind: Kind) -> World {
    let settings = [("webhook.listen", "127.0.0.1:0"), ("webhook.secret", SECRET)];
    let mut world =
        World::new(lanes([(kind, 1), (Kind::App, 0), (Kind::High, 0)]), |_| {}, &settings).await;
    world.start_workers(1).await;
    world.balance().await;
    world
}

async fn answers(length: &Length) -> Row {
    let mut world = world(Kind::Standard).await;
    let hook = Hook::of(&mut world.workers[0].process).await;
    let load = Webhook {
        url: Some(hook.url()),
        secret: Some(SECRET.into()),
        sent_after: APART,
        delivered_after: APART,
        read_after: APART,
        read: 1.0,
        retries: 20,
        backoff: REPEATED_AFTER,
        concurrency: POSTS,
        load: length.statuses / EACH,
        ..Webhook::default()
    };
    let (record, mut verdict, mut cells) = (world.sandbox.record(), Verdict::default(), Vec::new());
    limited(async {
        world.sandbox.set_webhook(load.clone()).unwrap();
        let used: Used = used(&world).await;
        world.sandbox.set_webhook(Webhook { load: 0, ..load }).unwrap();
        let all_told = async {
            while world.statuses_told() < record.webhook_counts().planned {
                sleep(REPEATED_AFTER).await;
            }
        };
        let all_told = timeout(TOLD_WITHIN, all_told).await.is_ok();
        let summary = record.webhook_summary();
        let (times, counts) = (summary.answer_times, summary.counts);
        let refused = counts.answered_by_status.get(&503).copied().unwrap_or_default();
        let p99 = Duration::from_micros(times.p99_us);
        verdict.must(all_told && counts.acknowledged == counts.planned, || {
            let told = world.statuses_told();
            format!(
                "{told} of {} statuses told, {} acknowledged",
                counts.planned, counts.acknowledged
            )
        });
        verdict.must(p99 <= ANSWERED_WITHIN, || {
            format!("p99 {}, at most {}", milliseconds(p99), milliseconds(ANSWERED_WITHIN))
        });
        #[expect(clippy::cast_precision_loss, reason = "thousands")]
        let rate = counts.planned as f64 / used.took.as_secs_f64();
        cells = vec![
            format!("{rate:.0} statuses a second"),
            milliseconds(Duration::from_micros(times.p50_us)),
            milliseconds(p99),
            refused.to_string(),
            percent(used.of_a_core),
        ];
    })
    .await;
    let name = format!("{} statuses a second, each a webhook", length.statuses);
    end(world, Row { group: Group::Statuses, scenario: name, cells, verdict }).await
}

async fn flood(length: &Length) -> Row {
    let kind = length.beside_flood;
    let mut world = world(kind).await;
    let hook = Hook::of(&mut world.workers[0].process).await;
    let (mut verdict, mut cells) = (Verdict::default(), Vec::new());
    limited(async {
        let lane = world.lanes[0].id.clone();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "thousands")]
        let jobs = (kind.pace() * SENDING.as_secs_f64() * 2.0) as usize;
        world.put(&[(lane, Priority::Normal, jobs)]).await;
        sleep(Duration::from_secs(2)).await;
        let alone = used(&world).await;
        let refused = Arc::new(AtomicU64::new(0));
        let flooders: JoinSet<()> = (0..FLOODERS)
            .map(|one| post_for_ever(hook.clone(), one, Arc::clone(&refused)))
            .collect();
        let (begun, beside) = (clock::monotonic(), used(&world).await);
        #[expect(clippy::cast_precision_loss, reason = "thousands")]
        let each_second = refused.load(Relaxed) as f64 / begun.elapsed().as_secs_f64();
        drop(flooders);
        verdict.must(beside.sends >= alone.sends * KEPT_AT_LEAST, || {
            format!("{:.0} sends a second beside it, {:.0} without", beside.sends, alone.sends)
        });
        cells = vec![
            format!("{:.0} sends a second, {:.0} without", beside.sends, alone.sends),
            "-".to_owned(),
            "-".to_owned(),
            format!("{each_second:.0} a second"),
            format!("{}, {} without", percent(beside.of_a_core), percent(alone.of_a_core)),
        ];
    })
    .await;
    let name = "sending beside a flood of wrong signatures".to_owned();
    end(world, Row { group: Group::Statuses, scenario: name, cells, verdict }).await
}

async fn post_for_ever(hook: Hook, one: usize, refused: Arc<AtomicU64>) {
    let wrong = format!("X-Chakra-Signature-256: {}\r\n", "0".repeat(64));
    for body in BODIES.map(|bytes| vec![b'x'; bytes]).iter().cycle().skip(one) {
        assert_eq!(hook.send("POST /webhook", &wrong, body).await.status, 401);
        refused.fetch_add(1, Relaxed);
    }
}

async fn end(mut world: World, mut row: Row) -> Row {
    world.drain().await;
    row.verdict.wrong.extend(world.wrong.clone());
    crate::keep_log(&row, &world);
    world.clear_away().await;
    row
}
