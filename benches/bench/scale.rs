//! What many waiting jobs, many lanes, many recipients and a long run cost: memory, and processor time a job.

use crate::Length;
use crate::ground::{Ground, Lap, end};
use crate::report::{Alone, Spread, mebibytes};
use crate::stock::Special;
use crate::support::broker::Broker;
use crate::usage::memory;
use std::time::Duration;
use tokio::time::sleep;

/// The most memory beside many waiting jobs, and with many lanes.
const WAITING_AT_MOST: u64 = 64 << 20;
const LANES_AT_MOST: u64 = 128 << 20;

/// How long a worker beside waiting jobs is looked at.
const LOOKED_AT: Duration = Duration::from_secs(15);

/// What a long run may add to the memory: this part, after the first three tenths, in which the ledger in
/// memory and all that is kept of recipients fill up.
const FLAT: f64 = 1.05;
const FILLED: usize = 3;
const PARTS: usize = 10;

/// What a job may cost more.
const GROWTH: f64 = 1.15;

/// Of what there is more and more.
pub(crate) const LANE: &str = "lane";
pub(crate) const RECIPIENT: &str = "recipient";

/// Whose costs are told, the worker's first.
const WHO: [&str; 2] = ["", "the bare loop: "];

/// What a worker does once for all its lanes is over: the counting of what waits in each included.
const SETTLED: Duration = Duration::from_secs(4);
const SETTLED_A_LANE: Duration = Duration::from_millis(20);

/// Jobs that wait for their pace.
pub(crate) async fn waiting(name: String, length: &Length, broker: &mut Broker) -> Alone {
    let mut ground = Ground::new(broker, 1).await;
    ground.put(&Lap::of(length.waiting)).await;
    let program = ground.worker().set("limits.number.rate", "80");
    let (worker, _) = ground.started(program).await;
    sleep(LOOKED_AT).await;
    let used = memory(worker.child.id());
    end(worker).await;
    ground.clear_away().await;
    row_of_memory(name, used.peak, WAITING_AT_MOST)
}

/// Many lanes, each with some jobs.
pub(crate) async fn lanes(name: String, length: &Length, broker: &mut Broker) -> Alone {
    let mut ground = Ground::new(broker, length.lanes).await;
    let (worker, _) = ground.started(ground.worker()).await;
    let window = ground.lap_of_running(&worker, &Lap::of(length.lanes * 10)).await;
    end(worker).await;
    ground.clear_away().await;
    row_of_memory(name, window.memory.peak, LANES_AT_MOST)
}

fn row_of_memory(name: String, peak: u64, at_most: u64) -> Alone {
    let target = format!("at most {}", mebibytes(at_most));
    Alone { name, measured: mebibytes(peak), target, met: peak <= at_most }
}

/// A long run, each job to a recipient of its own.
pub(crate) async fn long_run(name: String, length: &Length, broker: &mut Broker) -> Alone {
    let mut ground = Ground::new(broker, 1).await;
    let (worker, _) = ground.started(ground.worker()).await;
    let (part, mut resident) = (Lap::of(length.long_run / PARTS), Vec::new());
    for _part in 0..PARTS {
        resident.push(ground.lap_of_running(&worker, &part).await.memory.resident);
    }
    end(worker).await;
    ground.clear_away().await;
    let (filled, last) = (resident[FILLED - 1], resident[PARTS - 1]);
    let all: Vec<String> = resident.iter().copied().map(mebibytes).collect();
    #[expect(clippy::cast_precision_loss, reason = "millions")]
    let ratio = last as f64 / filled as f64;
    Alone {
        name,
        measured: format!("{ratio:.2} times; after each tenth {}", all.join(", ")),
        target: format!("after the last tenth at most {FLAT} times that after {FILLED}"),
        met: ratio <= FLAT,
    }
}

/// The same jobs over more and more lanes, put in while the worker runs, and then while the bare loop does: what
/// more lanes cost the bare loop is the broker's doing, which hands out fewer jobs at once of each queue.
pub(crate) async fn growth_of_lanes(length: &Length, broker: &mut Broker) -> Vec<Alone> {
    let lap = Lap::of(length.growth_jobs);
    let costs = in_turns(length.growth_lanes, length.rounds, async |lanes| {
        let mut ground = Ground::new(broker, lanes).await;
        let settled = SETTLED + SETTLED_A_LANE * u32::try_from(lanes).unwrap();
        let (worker, _) = ground.started(ground.worker()).await;
        let worker = ground.cost_settled(worker, settled, &lap).await;
        let bare = ground.bare_loop().start();
        let bare = ground.cost_settled(bare, settled, &lap).await;
        ground.clear_away().await;
        [worker, bare]
    });
    rows_of_growth(LANE, &costs.await)
}

/// The same jobs to more and more recipients, all known before.
pub(crate) async fn growth_of_recipients(length: &Length, broker: &mut Broker) -> Vec<Alone> {
    let most = length.growth_recipients.iter().copied().max().unwrap();
    let costs = in_turns(length.growth_recipients, length.rounds, async |recipients| {
        let mut ground = Ground::new(broker, 1).await;
        let (worker, _) = ground.started(ground.worker()).await;
        let special = Special { recipients: Some(recipients), reply_to: None };
        // As many for all, so that the ledger is as full.
        let first = Lap { special: special.clone(), ..Lap::of(most) };
        ground.lap_of_running(&worker, &first).await;
        let lap = Lap { special, ..Lap::of(length.growth_jobs) };
        let cost = ground.cost_settled(worker, Duration::ZERO, &lap).await;
        ground.clear_away().await;
        [cost]
    });
    rows_of_growth(RECIPIENT, &costs.await)
}

/// The microseconds of processor time a job that `lap` tells of each count, of each sender. All counts in each
/// round: a machine that is slower for some minutes is so for all of them.
async fn in_turns<const SENDERS: usize>(
    counts: &[usize],
    rounds: usize,
    mut lap: impl AsyncFnMut(usize) -> [f64; SENDERS],
) -> Vec<(usize, [Spread; SENDERS])> {
    let mut costs: Vec<(usize, Vec<[f64; SENDERS]>)> =
        counts.iter().map(|count| (*count, vec![])).collect();
    for _round in 0..rounds {
        for (count, costs) in &mut costs {
            costs.push(lap(*count).await);
        }
    }
    let spreads = |costs: Vec<[f64; SENDERS]>| {
        std::array::from_fn(|sender| Spread::of(costs.iter().map(|costs| costs[sender])))
    };
    costs.into_iter().map(|(count, costs)| (count, spreads(costs))).collect()
}

/// What a row of growth is called.
pub(crate) fn growth_name(count: usize, of: &str) -> String {
    format!("growth: {count} {of}{}", if count == 1 { "" } else { "s" })
}

/// The first count is what the others are held against, and the first sender is the worker, which has the target.
fn rows_of_growth<const SENDERS: usize>(
    what: &str,
    costs: &[(usize, [Spread; SENDERS])],
) -> Vec<Alone> {
    let (least, first) = &costs[0];
    let row = |(count, costs): &(usize, [Spread; SENDERS])| {
        let grown = |sender: usize| costs[sender].median / first[sender].median;
        let told = |(sender, who): (usize, &str)| {
            let (cost, grown) = (costs[sender], grown(sender));
            format!("{who}{cost} us of CPU a job, {grown:.2} of that with {least}")
        };
        let told = (0..SENDERS).zip(WHO).map(told);
        Alone {
            name: growth_name(*count, what),
            measured: told.collect::<Vec<_>>().join("; "),
            target: format!("at most {GROWTH}"),
            met: grown(0) <= GROWTH,
        }
    };
    costs.iter().map(row).collect()
}
