//! What lanes cost a worker: processor time by the kernel's account, and memory at its highest.
//!
//! A send costs what it costs; a lane that waits for its pace is to cost nothing beside. So what a thousand
//! lanes cost is compared with what as many sends of one lane do.

use crate::lanes::{Kind, lanes};
use crate::table::{Group, Row, Verdict, percent};
use crate::usage::{memory, processor_time};
use crate::world::World;
use crate::{Length, limited};
use chakra_sender::clock;
use chakra_sender::wire::Priority;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// What waiting lanes may cost beside their sends, of a core (issue 4 of the design).
const WAITING_AT_MOST: f64 = 0.05;

/// What lanes without a job may cost, of a core (the same).
const IDLE_AT_MOST: f64 = 0.01;

/// Memory with a thousand lanes (DESIGN, targets).
const MEMORY_AT_MOST: u64 = 128 << 20;

/// How long is measured.
const WINDOW: Duration = Duration::from_secs(20);

/// After a start or after the first jobs: what happens once is over, the first counting of what waits in
/// each lane (20 ms a lane) included.
const SETTLED: Duration = Duration::from_secs(25);

/// A worker takes hold of a thousand lanes within this.
const HELD_WITHIN: Duration = Duration::from_secs(60);

/// What a worker has used and done.
struct Account {
    at: Instant,
    processor: Duration,
    sends: u64,
}

/// What a worker used in a window.
pub(crate) struct Used {
    pub(crate) of_a_core: f64,
    /// A second.
    pub(crate) sends: f64,
    /// How long that was looked at.
    pub(crate) took: Duration,
    memory: u64,
}

/// One row for as many sends of one lane, one for lanes with nothing to do, one for lanes that wait.
pub(crate) async fn run(length: &Length) -> Vec<Row> {
    let count = length.many;
    let one = measured(1, count).await;
    let many = measured(count, 1).await;
    let beside = many.busy.of_a_core - one.busy.of_a_core * many.busy.sends / one.busy.sends;
    let mut rows = vec![
        row(format!("1 lane, {count} a second"), &one.busy, one.wrong),
        row(format!("{count} lanes without a job"), &many.idle, many.wrong),
        row(format!("{count} lanes with waiting jobs, each 1 a second"), &many.busy, Vec::new()),
    ];
    let idle = &many.idle;
    rows[1].verdict.must(idle.of_a_core < IDLE_AT_MOST, || {
        format!("{} of a core, less than {}", percent(idle.of_a_core), percent(IDLE_AT_MOST))
    });
    rows[2].cells[1] += &format!(" ({} beside its sends)", percent(beside));
    rows[2].verdict.must(beside < WAITING_AT_MOST, || {
        format!("{} beside its sends, less than {}", percent(beside), percent(WAITING_AT_MOST))
    });
    rows
}

struct Measured {
    idle: Used,
    busy: Used,
    wrong: Vec<String>,
}

/// A worker with so many lanes, each at this pace: first idle, then with jobs for the whole time.
async fn measured(count: usize, pace: usize) -> Measured {
    let unlimited = |config: &mut chakra_sender::sandbox::SandboxConfig| {
        config.numbers.iter_mut().for_each(|number| number.rate = Some(0));
    };
    let pace_given = pace.to_string();
    let settings = [("limits.number.rate", pace_given.as_str())];
    let counts = [(Kind::Standard, count), (Kind::App, 0), (Kind::High, 0)];
    let mut world = World::new(lanes(counts), unlimited, &settings).await;
    let mut measured = None;
    limited(async {
        world.start_workers(1).await;
        timeout(HELD_WITHIN, world.balance()).await.unwrap();
        sleep(SETTLED).await;
        let idle = used(&world).await;
        let seconds = usize::try_from((WINDOW + SETTLED * 2).as_secs()).unwrap();
        let jobs: Vec<_> = (world.lanes.iter())
            .map(|lane| (lane.id.clone(), Priority::Normal, pace * seconds))
            .collect();
        world.put(&jobs).await;
        sleep(SETTLED).await;
        measured = Some((idle, used(&world).await));
    })
    .await;
    let (idle, busy) = measured.unwrap();
    world.drain().await;
    let wrong = world.wrong.clone();
    world.clear_away().await;
    Measured { idle, busy, wrong }
}

/// Looks at the first worker for a while.
pub(crate) async fn used(world: &World) -> Used {
    let before = account(world);
    sleep(WINDOW).await;
    let after = account(world);
    let took = after.at.duration_since(before.at);
    let seconds = took.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "thousands")]
    let sends = (after.sends - before.sends) as f64 / seconds;
    let of_a_core = (after.processor - before.processor).as_secs_f64() / seconds;
    Used { of_a_core, sends, took, memory: memory(world.workers[0].process.child.id()).peak }
}

fn account(world: &World) -> Account {
    let id = world.workers[0].process.child.id();
    Account {
        at: clock::monotonic(),
        processor: processor_time(id),
        sends: world.sandbox.record().count_requests(),
    }
}

fn row(scenario: String, used: &Used, wrong: Vec<String>) -> Row {
    let mut verdict = Verdict { wrong, ..Verdict::default() };
    let memory = used.memory;
    verdict.must(memory <= MEMORY_AT_MOST, || {
        format!("{} MiB, at most {} MiB", memory >> 20, MEMORY_AT_MOST >> 20)
    });
    let cells = vec![
        format!("{:.0}", used.sends),
        percent(used.of_a_core),
        format!("{} MiB", memory >> 20),
    ];
    Row { group: Group::Cost, scenario, cells, verdict }
}
