//! Numbers of which the plugin says more than they bear: how soon the sender keeps to the real ceiling,
//! and how often it is refused until then.

use crate::lag::Lag;
use crate::lanes::{Kind, lanes};
use crate::limited;
use crate::sharing::account;
use crate::table::{Group, Row, Verdict, percent, seconds};
use crate::world::World;
use chakra_sender::clock;
use chakra_sender::sandbox::Times;
use chakra_sender::wire::{NumberId, Priority};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The real ceiling of the number whose ceiling stays.
const LOWER: u32 = 40;

/// Those of the other one, one after another.
const CHANGING: [u32; 3] = [70, 35, 70];

/// It converges within this (issue 4 of the design).
const CONVERGED_WITHIN: Duration = Duration::from_secs(60);

/// How long a ceiling stays: the time to converge, and then some to see that it does.
const STAYS: Duration = Duration::from_secs(90);

/// What is accepted and what is asked for is told over this time: several of the steps by which a pace is
/// cut and climbs again.
const LOOK: Duration = Duration::from_secs(10);

/// Converged: this near to the ceiling.
const NEAR: f64 = 0.1;

/// Most of a number's requests that are refused, over the whole run. (A ceiling that is halved refuses
/// everything for half a second: what was accepted in the last second is above it.)
const REFUSED: f64 = 0.01;

/// Meta's code of a number over its ceiling.
const RATE_LIMIT_HIT: u32 = 130_429;

/// One ceiling of one number, for a time.
struct Phase {
    number: NumberId,
    name: String,
    ceiling: u32,
    from: Instant,
    to: Instant,
    refused: u64,
    /// For how long the worker was kept from running.
    queued: Duration,
}

/// One row for each ceiling of the two numbers, which run beside each other.
pub(crate) async fn run(lag: &Lag) -> Vec<Row> {
    let counts = [(Kind::Standard, 2), (Kind::App, 0), (Kind::High, 0)];
    let mut world = World::new(lanes(counts), |_| {}, &[]).await;
    let [steady, changing] = [0, 1].map(|lane: usize| world.lanes[lane].id.clone());
    let supply = STAYS.as_secs_f64() * 3.0 + 20.0;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "thousands")]
    let jobs = (Kind::Standard.pace() * supply) as usize;
    world.put(&[&steady, &changing].map(|id| (id.clone(), Priority::Normal, jobs))).await;
    world.sandbox.set_ceiling(steady.as_str(), Some(LOWER)).unwrap();
    let mut phases = Vec::new();
    limited(async {
        world.sandbox.set_ceiling(changing.as_str(), Some(CHANGING[0])).unwrap();
        world.start_workers(1).await;
        world.sandbox.record().wait_for(|record| record.count_requests() > 0).await;
        let (begun, queued) = (clock::monotonic(), world.queued());
        let mut earlier = None;
        for ceiling in CHANGING {
            world.sandbox.set_ceiling(changing.as_str(), Some(ceiling)).unwrap();
            let name = match earlier {
                None => format!("published {}, really {ceiling}", Kind::Standard.ceiling()),
                Some(earlier) => format!("then {ceiling} instead of {earlier}"),
            };
            phases.push(phase(&world, &changing, name, ceiling, clock::monotonic()).await);
            earlier = Some(ceiling);
        }
        let name = format!("published {}, really {LOWER}", Kind::Standard.ceiling());
        let refused = world.sandbox.record().count_refused(steady.as_str(), RATE_LIMIT_HIT);
        let (to, queued) = (clock::monotonic(), world.queued().since(&queued));
        let whole =
            Phase { number: steady, name, ceiling: LOWER, from: begun, to, refused, queued };
        phases.insert(0, whole);
    })
    .await;
    let tally = world.come_to_rest().await;
    let rows: Vec<Row> = (phases.iter())
        .map(|phase| {
            let mut row = phase.row(&world, lag);
            account(&tally, true, &mut row.verdict);
            row.verdict.wrong.extend(world.wrong.clone());
            row
        })
        .collect();
    rows.iter().for_each(|row| crate::keep_log(row, &world));
    world.clear_away().await;
    rows
}

async fn phase(
    world: &World,
    number: &NumberId,
    name: String,
    ceiling: u32,
    from: Instant,
) -> Phase {
    let record = world.sandbox.record();
    let refused = || record.count_refused(number.as_str(), RATE_LIMIT_HIT);
    let (before, queued) = (refused(), world.queued());
    sleep(STAYS).await;
    Phase {
        number: number.clone(),
        name,
        ceiling,
        from,
        to: clock::monotonic(),
        refused: refused() - before,
        queued: world.queued().since(&queued),
    }
}

impl Phase {
    fn row(&self, world: &World, lag: &Lag) -> Row {
        let (record, number) = (world.sandbox.record(), self.number.as_str());
        let (requests, accepted) = (record.request_times(number), record.accepted_times(number));
        let mut verdict = Verdict::default();
        let converged = self.converged(&requests, &accepted);
        let late = self.from + CONVERGED_WITHIN;
        let (asked, settled) = (rate(&requests, late, self.to), rate(&accepted, late, self.to));
        let stalled = lag.stalled(self.from, self.to) + self.queued;
        let fits = |less: Duration| {
            let missed = less.as_secs_f64() / (self.to - late).as_secs_f64();
            let soon = converged.is_some_and(|time| time.saturating_sub(less) <= CONVERGED_WITHIN);
            soon && self.is_near(asked, settled * (1.0 + missed))
        };
        verdict.should(fits(Duration::ZERO), fits(stalled), stalled, || {
            let after = seconds(converged);
            format!("within 10% after {after}; after a minute {settled:.1} of {asked:.1} a second")
        });
        let share = |refused, all| share(refused, u64::try_from(all).unwrap());
        let run = share(record.count_refused(number, RATE_LIMIT_HIT), requests.count());
        let now = share(self.refused, requests.between(self.from, self.to));
        verdict.must(run < REFUSED, || format!("{} of all requests were refused", percent(run)));
        let refused = format!("{} ({})", percent(now), percent(run));
        let cells = vec![seconds(converged), format!("{settled:.1}"), refused];
        Row { group: Group::Learning, scenario: self.name.clone(), cells, verdict }
    }

    /// From when on a look shows what is accepted, and what is asked for, near the ceiling.
    fn converged(&self, requests: &Times, accepted: &Times) -> Option<Duration> {
        let looks = (0..).map(Duration::from_secs);
        let mut looks = looks.take_while(|after| self.from + *after + LOOK <= self.to);
        looks.find(|after| {
            let (from, to) = (self.from + *after, self.from + *after + LOOK);
            self.is_near(rate(requests, from, to), rate(accepted, from, to))
        })
    }

    fn is_near(&self, asked: f64, accepted: f64) -> bool {
        let ceiling = f64::from(self.ceiling);
        // More cannot be asked of a number than the plugin's pace.
        let due = ceiling.min(Kind::Standard.pace());
        accepted >= due * (1.0 - NEAR) && asked <= ceiling * (1.0 + NEAR)
    }
}

#[expect(clippy::cast_precision_loss, reason = "thousands")]
fn share(part: u64, all: u64) -> f64 {
    part as f64 / all.max(1) as f64
}

/// How many in a second.
#[expect(clippy::cast_precision_loss, reason = "thousands")]
fn rate(times: &Times, from: Instant, to: Instant) -> f64 {
    times.between(from, to) as f64 / (to - from).as_secs_f64()
}
