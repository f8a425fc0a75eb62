//! A number's backlog delays nobody else's job, and no urgent one of its own: single jobs beside it,
//! each timed from its confirm to its arrival at the sandbox.

use crate::lag::Lag;
use crate::lanes::{Kind, lanes};
use crate::sharing::account;
use crate::table::{Group, Row, Verdict, milliseconds};
use crate::world::World;
use crate::{Length, limited};
use chakra_sender::clock;
use chakra_sender::wire::{NumberId, Priority};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// What a single job may be delayed by, beside the time of one send at its number's pace (issue 4 of
/// the design).
const AT_MOST: Duration = Duration::from_millis(50);

/// Between two probes, in milliseconds; at random, so that they fall into no rhythm.
const PAUSES: std::ops::Range<u64> = 50..150;

/// The backlog is being worked off, at the full pace, by then.
const UNDER_WAY: Duration = Duration::from_secs(3);

/// The last probe arrives by then, or never in time.
const ARRIVES: Duration = Duration::from_secs(5);

/// A job that was put in, and when that was confirmed.
struct Probe {
    id: String,
    confirmed: Instant,
}

/// As the table has it.
pub(crate) fn name(kind: Kind, length: &Length) -> String {
    format!("{} normal jobs wait on a number of {} a second", length.backlog, kind.ceiling())
}

/// One row for the jobs of another number, one for urgent jobs of the same.
pub(crate) async fn run(kind: Kind, length: &Length, lag: &Lag) -> Vec<Row> {
    let counts = [(kind, 1), (Kind::Standard, 1), (Kind::App, 0)];
    let mut world = World::new(lanes(counts), |_| {}, &[]).await;
    let [busy, idle] = [0, 1].map(|lane: usize| world.lanes[lane].id.clone());
    world.put(&[(busy.clone(), Priority::Normal, length.backlog)]).await;
    let [mut normal, mut urgent] = [Vec::new(), Vec::new()];
    limited(async {
        world.start_workers(1).await;
        sleep(UNDER_WAY).await;
        for _ in 0..length.probes {
            normal.push(probe(&mut world, &idle, Priority::Normal).await);
            urgent.push(probe(&mut world, &busy, Priority::Urgent).await);
        }
        sleep(ARRIVES).await;
    })
    .await;
    let tally = world.come_to_rest().await;
    let rows = [
        ("a job of another number", normal, Kind::Standard),
        ("an urgent job of the same number", urgent, kind),
    ];
    let rows = rows.map(|(what, probes, of)| {
        let mut verdict = Verdict { wrong: world.wrong.clone(), ..Verdict::default() };
        let mut cells = vec![what.to_owned(), probes.len().to_string()];
        cells.extend(judge(&probes, of, &world, lag, &mut verdict));
        account(&tally, true, &mut verdict);
        cells.extend([tally.twice.to_string(), tally.lost.len().to_string()]);
        Row { group: Group::Fairness, scenario: name(kind, length), cells, verdict }
    });
    rows.iter().for_each(|row| crate::keep_log(row, &world));
    world.clear_away().await;
    rows.into()
}

async fn probe(world: &mut World, number: &NumberId, priority: Priority) -> Probe {
    sleep(Duration::from_millis(fastrand::u64(PAUSES))).await;
    let id = world.put_one(number, priority).await;
    Probe { id, confirmed: clock::monotonic() }
}

/// The median, the 99th of a hundred and what it may be.
fn judge(
    probes: &[Probe],
    kind: Kind,
    world: &World,
    lag: &Lag,
    verdict: &mut Verdict,
) -> [String; 3] {
    let record = world.sandbox.record();
    let most = AT_MOST + Duration::from_secs_f64(1.0 / kind.pace());
    let mut delays = Vec::new();
    let mut without_stalls = Vec::new();
    for probe in probes {
        let Some(arrived) = record.first_accepted(&probe.id) else {
            verdict.wrong.push(format!("{} was not sent in time", probe.id));
            continue;
        };
        // It may arrive before the producer hears of its confirm.
        let delay = arrived.saturating_duration_since(probe.confirmed);
        delays.push(delay);
        without_stalls.push(delay.saturating_sub(lag.stalled(probe.confirmed, arrived)));
    }
    let (Some(median), Some(p99)) = (quantile(&mut delays, 50), quantile(&mut delays, 99)) else {
        verdict.wrong.push("no probe arrived".to_owned());
        return ["-", "-", "-"].map(str::to_owned);
    };
    let p99_without = quantile(&mut without_stalls, 99).unwrap_or(p99);
    verdict.should(p99 <= most, p99_without <= most, p99.saturating_sub(p99_without), || {
        format!("p99 is {}, at most {}", milliseconds(p99), milliseconds(most))
    });
    [median, p99, most].map(milliseconds)
}

/// So many of a hundred are no longer than this.
fn quantile(delays: &mut [Duration], of_hundred: usize) -> Option<Duration> {
    delays.sort_unstable();
    let rank = (delays.len() * of_hundred).div_ceil(100);
    delays.get(rank.checked_sub(1)?).copied()
}
