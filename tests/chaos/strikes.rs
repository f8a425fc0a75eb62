//! What each fault does to a world under load.

use crate::faults::{CRASHES, Fault, KILLS, STOPS};
use crate::line::{Line, Mode};
use crate::support::process::faults;
use crate::support::world::NUMBER;
use crate::world::{Over, World};
use crate::{disk, support::broker::Node};
use chakra_sender::queue::rabbitmq::topology::Step;
use chakra_sender::wire::{NumberId, Priority};
use std::time::Duration;
use tokio::task::block_in_place;
use tokio::time::sleep;

/// A fault strikes when this many jobs have their result: the load is then at its height.
const UNDER_LOAD: usize = 60;

/// Between two stops this many jobs get their result.
const BETWEEN_STOPS: usize = 25;

/// How long the broker or ChakraHQ is in trouble.
const TROUBLE: Duration = Duration::from_secs(5);

/// Surely longer than two of the short heartbeats and what the broker takes to act on them.
const BEYOND_HEARTBEATS: Duration = Duration::from_secs(10);

/// What a frozen worker had written until then has arrived.
const ON_THE_LINE: Duration = Duration::from_millis(200);

/// Between two random kills, in milliseconds: from the midst of a start to the midst of the load.
const PAUSES: std::ops::Range<u64> = 100..1_500;

/// Requests that are open when a worker is killed for it.
const OPEN: u64 = 5;

const HANGS: &str = "[[faults]]\nshare = 0.1\nhang = true\naccept = true\n\
                     [[faults]]\nshare = 0.1\nhang = true";
const HANGS_ACCEPTED: &str = "[[faults]]\nhang = true\naccept = true";
const CUT_IN_ANSWER: &str = "[[faults]]\nshare = 0.2\ncut = \"headers\"";
const CUT_BEFORE_ANSWER: &str = "[[faults]]\nshare = 0.1\ncut = \"after\"\n\
                                 [[faults]]\nshare = 0.1\ncut = \"before\"";
const STORM: &str = "[[faults]]\nanswer = { status = 503, shape = \"html\" }";
const THROTTLED: &str = "[[faults]]\nanswer = { status = 429, headers = { retry-after = \"2\" } }";

impl Fault {
    /// Strikes once the world is under load; returns when it is over.
    pub(crate) async fn strike(self, world: &mut World) -> Over {
        world.results(UNDER_LOAD).await;
        match self {
            Fault::Crash(_) => crash(world).await,
            Fault::BytesHalfWritten => half_written(world).await,
            Fault::WrittenUnanswered => written_and_unanswered(world).await,
            Fault::RandomKills => kill_at_random(world).await,
            Fault::Stops => stop(world).await,
            // From the freeze: the other worker need not wait for its end.
            Fault::Freeze => return freeze(world).await,
            Fault::BrokerRestart => node(world, |node| {
                node.stop();
                node.restart();
            }),
            Fault::BrokerKill => node(world, |node| {
                node.kill();
                node.restart();
            }),
            Fault::CutLine => line(&world.to_broker, Mode::Cut, TROUBLE).await,
            Fault::SilentLine => line(&world.to_broker, Mode::Silent, BEYOND_HEARTBEATS).await,
            Fault::MemoryAlarm => alarm(world).await,
            Fault::LaneDeleted => delete_lane(world).await,
            Fault::WaitExchangeDeleted => delete_waits(world).await,
            Fault::Refused => line(&world.to_chakra, Mode::Refused, TROUBLE).await,
            Fault::Hangs => storm(world, HANGS).await,
            Fault::CutInAnswer => storm(world, CUT_IN_ANSWER).await,
            Fault::CutBeforeAnswer => storm(world, CUT_BEFORE_ANSWER).await,
            Fault::Storm503 => storm(world, STORM).await,
            Fault::Throttled429 => storm(world, THROTTLED).await,
            Fault::KeyRotated => rotate_key(world).await,
            Fault::LedgerDiskFull => fill_disk(world).await,
        }
        world.over()
    }
}

/// The workers end themselves at their stage, all but the last one.
async fn crash(world: &mut World) {
    for crash in 1..=CRASHES {
        world.dies().await;
        if crash == CRASHES {
            world.plan.crash_at = None;
        }
        world.start_worker();
    }
}

async fn half_written(world: &mut World) {
    world.to_chakra.set(Mode::Half);
    world.to_chakra.halved(3).await;
    world.kill().await;
    world.to_chakra.set(Mode::Open);
    world.start_worker();
}

async fn written_and_unanswered(world: &mut World) {
    set_faults(world, HANGS_ACCEPTED);
    world.sandbox.record().wait_for(|record| record.count_hung() >= OPEN).await;
    world.kill().await;
    set_faults(world, "");
    world.start_worker();
}

async fn kill_at_random(world: &mut World) {
    for _ in 0..KILLS {
        sleep(Duration::from_millis(fastrand::u64(PAUSES))).await;
        world.kill().await;
        world.start_worker();
    }
}

async fn stop(world: &mut World) {
    for stop in 1..=STOPS {
        world.results(UNDER_LOAD + stop * BETWEEN_STOPS).await;
        world.drain().await;
        // A process that has not yet taken hold of its signals is ended by them.
        world.start_ready_worker().await;
    }
}

/// Long enough that the broker gives the frozen worker's jobs to the other one; then it wakes up.
async fn freeze(world: &mut World) -> Over {
    world.start_ready_worker().await;
    world.workers[0].signal("STOP");
    sleep(ON_THE_LINE).await;
    let over = world.over();
    sleep(BEYOND_HEARTBEATS).await;
    world.workers[0].signal("CONT");
    over
}

fn node(world: &World, trouble: impl FnOnce(&Node)) {
    block_in_place(|| trouble(world.broker.node()));
}

async fn line(line: &Line, mode: Mode, time: Duration) {
    line.set(mode);
    sleep(time).await;
    line.set(Mode::Open);
}

/// Every publishing connection is blocked.
async fn alarm(world: &World) {
    let limit = |share: &str| {
        node(world, |node| drop(node.ctl(&["set_vm_memory_high_watermark", share])));
    };
    limit("0.00001");
    sleep(TROUBLE).await;
    limit("0.6");
}

/// Empty: what stands in a queue goes with it, whoever deletes it.
async fn delete_lane(world: &World) {
    world.results(world.jobs).await;
    world.empty().await;
    let (names, number) = (world.broker.names(), NumberId::parse(NUMBER).unwrap());
    let lane = names.lane(&number, Priority::Normal);
    let channel = world.broker.client().await.channel;
    channel.queue_delete(lane.into(), Default::default()).await.unwrap();
}

/// While every job is on its way there.
async fn delete_waits(world: &World) {
    set_faults(world, STORM);
    let channel = world.broker.client().await.channel;
    for step in [Step::Second, Step::Seconds5] {
        let exchange = world.broker.names().wait(step);
        channel.exchange_delete(exchange.into(), Default::default()).await.unwrap();
    }
    sleep(TROUBLE).await;
    set_faults(world, "");
}

async fn storm(world: &World, toml: &str) {
    set_faults(world, toml);
    sleep(TROUBLE).await;
    set_faults(world, "");
}

async fn rotate_key(world: &World) {
    world.sandbox.set_token("another-key");
    sleep(TROUBLE).await;
    std::fs::write(world.token_file(), "another-key").unwrap();
}

async fn fill_disk(world: &World) {
    disk::fill(&world.ledger(0));
    sleep(TROUBLE).await;
    disk::clear(&world.ledger(0));
}

fn set_faults(world: &World, toml: &str) {
    world.sandbox.set_faults(faults(toml)).unwrap();
}
