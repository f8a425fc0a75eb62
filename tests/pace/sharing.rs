//! One rate for each number, whoever sends: workers in steady state, started at once, joining, leaving,
//! killed, frozen and restarted, and what must hold meanwhile.

use crate::lag::{Lag, Queued};
use crate::lanes::{Kind, lanes};
use crate::table::{Group, Row, Verdict, percent, seconds};
use crate::world::{Tally, World};
use crate::{Length, limited};
use chakra_sender::clock;
use chakra_sender::wire::{NumberId, Priority};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// A worker that joins has its share within this, and a killed one is replaced (issue 4 of the design).
const SHARE_WITHIN: Duration = Duration::from_secs(3);

/// After it the scenario goes on without an even share.
const EVEN_WITHIN: Duration = Duration::from_secs(12);

/// The half pace of a new owner ends 2 s after the last change; then a moment to settle.
const SETTLED: Duration = Duration::from_secs(3);

/// How long a worker is frozen: longer than its presence lasts, shorter than its connection.
const FROZEN: Duration = Duration::from_secs(5);

/// What a killed worker had written has arrived by then.
const ON_THE_LINE: Duration = Duration::from_millis(50);

/// In this time each number of a worker sends at half its pace at the least.
const SHOWS: Duration = Duration::from_secs(1);

/// Least share of the pace, in steady state.
const USED: f64 = 0.98;

/// Most complaints that are named.
const NAMED: usize = 5;

/// What happens to the workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing: so many start at once and go on.
    Steady(usize),
    /// Four start at once, again and again.
    AtOnce,
    Join,
    Leave,
    Kill,
    Freeze,
    Rolling,
}

/// What was seen of it.
#[derive(Debug, Default)]
struct Seen {
    /// From the change until the lanes were shared evenly: the longest, where there were several.
    even: Option<Duration>,
    /// A change after which they never were.
    uneven: bool,
    lanes: Vec<Option<usize>>,
    /// Lanes changed hands in this time.
    change: Option<Span>,
    /// Nothing changed in this time.
    steady: Option<Span>,
    killed: Option<(Instant, Vec<String>)>,
}

/// A time, and for how long of it a worker was kept from running.
#[derive(Debug, Clone, Copy)]
struct Span {
    from: Instant,
    to: Instant,
    queued: Duration,
}

impl Span {
    fn until_now(from: &Begun, world: &World) -> Span {
        let queued = world.queued().since(&from.queued);
        Span { from: from.at, to: clock::monotonic(), queued }
    }

    fn stalled(&self, lag: &Lag) -> Duration {
        lag.stalled(self.from, self.to) + self.queued
    }
}

/// The beginning of a span.
struct Begun {
    at: Instant,
    queued: Queued,
}

impl Begun {
    fn now(world: &World) -> Begun {
        Begun { at: clock::monotonic(), queued: world.queued() }
    }
}

impl Change {
    pub(crate) fn name(self) -> String {
        match self {
            Change::Steady(1) => "1 worker".to_owned(),
            Change::Steady(workers) => format!("{workers} workers"),
            Change::AtOnce => "4 workers started at once, again and again".to_owned(),
            Change::Join => "a fourth worker joins".to_owned(),
            Change::Leave => "one of 4 leaves (SIGTERM)".to_owned(),
            Change::Kill => "one of 4 is killed (SIGKILL)".to_owned(),
            Change::Freeze => {
                format!("one of 4 is frozen for {} s (SIGSTOP, SIGCONT)", FROZEN.as_secs())
            }
            Change::Rolling => "4 workers restarted one after another".to_owned(),
        }
    }

    /// For how many seconds there are jobs.
    fn supply(self, length: &Length) -> f64 {
        let beside = match self {
            Change::Steady(_) => 15,
            Change::AtOnce => 16 * length.starts,
            Change::Join | Change::Leave | Change::Kill => 28,
            Change::Freeze => 33,
            Change::Rolling => 50,
        };
        f64::from(beside) + length.window.as_secs_f64()
    }

    /// What no number's gap may exceed while its lane changes hands.
    fn gap_at_most(self) -> Duration {
        match self {
            // Nobody can take the frozen worker's lanes before its connection is given up.
            Change::Freeze => FROZEN + SHARE_WITHIN,
            Change::Steady(_)
            | Change::AtOnce
            | Change::Join
            | Change::Leave
            | Change::Kill
            | Change::Rolling => SHARE_WITHIN,
        }
    }

    /// Whether each job's delivery is settled: a kill leaves some to be looked for.
    fn settles_all(self) -> bool {
        self != Change::Kill && self != Change::Freeze
    }

    pub(crate) async fn run(self, length: &Length, lag: &Lag) -> Row {
        let mut world = World::new(lanes(length.lanes), |_| {}, &[]).await;
        let supply = self.supply(length);
        let half = |lane: &crate::lanes::Lane| {
            let jobs = (lane.kind.pace() * supply / 2.0).ceil();
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "thousands"
            )]
            let jobs = jobs as usize;
            [(lane.id.clone(), Priority::Urgent, jobs), (lane.id.clone(), Priority::Normal, jobs)]
        };
        let jobs: Vec<_> = world.lanes.iter().flat_map(half).collect();
        world.put(&jobs).await;
        let mut seen = Seen::default();
        limited(self.happen(&mut world, &mut seen, length)).await;
        let tally = world.come_to_rest().await;
        let row = seen.row(self, &world, &tally, lag);
        crate::keep_log(&row, &world);
        world.clear_away().await;
        row
    }

    async fn happen(self, world: &mut World, seen: &mut Seen, length: &Length) {
        match self {
            Change::Steady(workers) => seen.start(world, workers).await,
            Change::AtOnce => {
                for _ in 1..length.starts {
                    seen.start(world, 4).await;
                    world.drain().await;
                }
                seen.start(world, 4).await;
            }
            Change::Join => {
                let begun = seen.begin(world, 3).await;
                world.start_workers(1).await;
                seen.changed(world, &begun, begun.at).await;
            }
            Change::Leave => {
                let begun = seen.begin(world, 4).await;
                let leaver = world.workers.remove(0);
                leaver.process.signal("TERM");
                seen.changed(world, &begun, begun.at).await;
                world.drained(leaver).await;
            }
            Change::Kill => {
                seen.begin(world, 4).await;
                let (victim, numbers) = busiest(world).await;
                let begun = Begun::now(world);
                world.kill(victim).await;
                seen.killed = Some((begun.at, numbers));
                seen.changed(world, &begun, begun.at).await;
            }
            Change::Freeze => {
                seen.begin(world, 4).await;
                let (victim, _) = busiest(world).await;
                let begun = Begun::now(world);
                world.workers[victim].process.signal("STOP");
                sleep(FROZEN).await;
                world.workers[victim].process.signal("CONT");
                seen.changed(world, &begun, clock::monotonic()).await;
            }
            Change::Rolling => {
                let begun = seen.begin(world, 4).await;
                for _ in 0..4 {
                    let oldest = world.workers.remove(0);
                    oldest.process.signal("TERM");
                    world.drained(oldest).await;
                    let restarted = clock::monotonic();
                    world.start_workers(1).await;
                    seen.even(world, restarted).await;
                }
                seen.changed(world, &begun, clock::monotonic()).await;
            }
        }
        let begun = Begun::now(world);
        sleep(length.window).await;
        seen.steady = Some(Span::until_now(&begun, world));
        seen.lanes = world.lanes_owned().await;
    }
}

/// The worker that sends from most numbers, and these.
async fn busiest(world: &World) -> (usize, Vec<String>) {
    let senders = world.senders(SHOWS).await;
    senders.into_iter().enumerate().max_by_key(|(_, numbers)| numbers.len()).unwrap()
}

impl Seen {
    /// Waits for an even share after a change of workers.
    async fn even(&mut self, world: &World, since: Instant) {
        match timeout(EVEN_WITHIN, world.balance()).await {
            Ok(at) => self.even = self.even.max(Some(at.duration_since(since))),
            Err(_) => self.uneven = true,
        }
    }

    /// The same, and until nobody goes at half pace any more.
    async fn settle(&mut self, world: &World, since: Instant) {
        self.even(world, since).await;
        sleep(SETTLED).await;
    }

    /// Starts so many at once, and lets them settle.
    async fn start(&mut self, world: &mut World, workers: usize) {
        let since = clock::monotonic();
        world.start_workers(workers).await;
        self.settle(world, since).await;
    }

    /// So many workers as they are before the change; how they came to it is no figure of this one.
    async fn begin(&mut self, world: &mut World, workers: usize) -> Begun {
        self.start(world, workers).await;
        self.even = None;
        Begun::now(world)
    }

    /// The lanes change hands since `begun`; an even share is waited for from `since`.
    async fn changed(&mut self, world: &World, begun: &Begun, since: Instant) {
        self.settle(world, since).await;
        self.change = Some(Span::until_now(begun, world));
    }

    fn row(&self, change: Change, world: &World, tally: &Tally, lag: &Lag) -> Row {
        let mut verdict = Verdict { wrong: world.wrong.clone(), ..Verdict::default() };
        let highest = self.highest(world, &mut verdict);
        let used = self.used(world, lag, &mut verdict);
        let gap = self.gap(change, world, lag, &mut verdict);
        let again = self.again(world, lag, &mut verdict);
        verdict.must(!self.uneven, || "the lanes were not shared evenly".to_owned());
        let within = matches!(change, Change::Join | Change::Kill);
        if let (Some(even), true) = (self.even, within) {
            let stalled = self.change.map_or(Duration::ZERO, |span| span.stalled(lag));
            let fits = |time: Duration| time <= SHARE_WITHIN;
            verdict.should(fits(even), fits(even.saturating_sub(stalled)), stalled, || {
                format!("shared evenly after {}, not within 3 s", seconds(Some(even)))
            });
        }
        account(tally, change.settles_all(), &mut verdict);
        let lanes = self.lanes.iter().map(|lanes| lanes.map_or("?".to_owned(), |n| n.to_string()));
        Row {
            group: Group::Sharing,
            scenario: change.name(),
            cells: vec![
                highest,
                used,
                lanes.collect::<Vec<_>>().join(", "),
                seconds(self.even),
                seconds(gap),
                seconds(again),
                tally.jobs.to_string(),
                tally.twice.to_string(),
                tally.lost.len().to_string(),
            ],
            verdict,
        }
    }

    /// The highest second of each kind, over the whole scenario.
    fn highest(&self, world: &World, verdict: &mut Verdict) -> String {
        let record = world.sandbox.record();
        let mut highest: BTreeMap<Kind, usize> = BTreeMap::new();
        for lane in &world.lanes {
            let most = record.highest_in_any_second(lane.id.as_str());
            let of_kind = highest.entry(lane.kind).or_default();
            *of_kind = most.max(*of_kind);
        }
        let shown = highest.into_iter().map(|(kind, most)| {
            let ceiling = kind.ceiling();
            verdict.must(most <= ceiling as usize, || {
                format!("{most} requests in a second of a number whose ceiling is {ceiling}")
            });
            format!("{most} / {ceiling}")
        });
        shown.collect::<Vec<_>>().join(", ")
    }

    /// The least share of each kind, in steady state.
    fn used(&self, world: &World, lag: &Lag, verdict: &mut Verdict) -> String {
        let Some(span) = self.steady else { return "-".to_owned() };
        let (record, length) = (world.sandbox.record(), span.to - span.from);
        let stalled = span.stalled(lag);
        let mut least: BTreeMap<Kind, usize> = BTreeMap::new();
        let mut dry = 0;
        for lane in &world.lanes {
            let times = record.accepted_times(lane.id.as_str());
            let of_kind = least.entry(lane.kind).or_insert(usize::MAX);
            *of_kind = times.between(span.from, span.to).min(*of_kind);
            dry += usize::from(times.count() >= world.put[&lane.id]);
        }
        verdict.must(dry == 0, || format!("{dry} numbers ran out of jobs: no share can be told"));
        let shares = least.into_iter().map(|(kind, sent)| {
            #[expect(clippy::cast_precision_loss, reason = "thousands")]
            let (sent, due) = (sent as f64, kind.pace() * length.as_secs_f64());
            // A message is a message: the window may cut one off.
            let fits = |sent: f64| (sent + 1.0) / due >= USED;
            let lost = stalled.as_secs_f64() * kind.pace();
            verdict.should(fits(sent), fits(sent + lost), stalled, || {
                let (share, ceiling) = (percent(sent / due), kind.ceiling());
                format!("a number of {ceiling} a second used {share} of its pace")
            });
            percent(sent / due)
        });
        shares.collect::<Vec<_>>().join(", ")
    }

    /// The longest gap of any number while lanes changed hands.
    fn gap(
        &self,
        change: Change,
        world: &World,
        lag: &Lag,
        verdict: &mut Verdict,
    ) -> Option<Duration> {
        let span = self.change?;
        let record = world.sandbox.record();
        let gap_of =
            |id: &NumberId| record.accepted_times(id.as_str()).longest_gap(span.from, span.to);
        let (gap, id) = world.lanes.iter().map(|lane| (gap_of(&lane.id), &lane.id)).max()?;
        let (stalled, most) = (span.stalled(lag), change.gap_at_most());
        verdict.should(gap <= most, gap.saturating_sub(stalled) <= most, stalled, || {
            format!("{id} stood for {}, at most {} s", seconds(Some(gap)), most.as_secs())
        });
        Some(gap)
    }

    /// When the last of a killed worker's numbers sent again.
    fn again(&self, world: &World, lag: &Lag, verdict: &mut Verdict) -> Option<Duration> {
        let (at, numbers) = self.killed.as_ref()?;
        let record = world.sandbox.record();
        let next = |number: &String| record.accepted_times(number).next(*at + ON_THE_LINE);
        let again: Option<Vec<Instant>> = numbers.iter().map(next).collect();
        let last = again.and_then(|again| again.into_iter().max());
        verdict.must(last.is_some(), || "a killed worker's number never sent again".to_owned());
        let took = last? - *at;
        let stalled = self.change.map_or(Duration::ZERO, |span| span.stalled(lag));
        let fits = |time: Duration| time <= SHARE_WITHIN;
        verdict.should(fits(took), fits(took.saturating_sub(stalled)), stalled, || {
            format!("a killed worker's lanes sent again after {}", seconds(Some(took)))
        });
        Some(took)
    }
}

/// Nothing lost, nothing twice, nothing untrue.
pub(crate) fn account(tally: &Tally, settles_all: bool, verdict: &mut Verdict) {
    let named = |ids: &[String]| ids[..ids.len().min(NAMED)].join(", ");
    let (lost, untrue, again) = (&tally.lost, &tally.untrue, &tally.again);
    verdict.must(lost.is_empty(), || format!("{} lost: {}", lost.len(), named(lost)));
    verdict.must(tally.twice == 0, || format!("{} sent twice", tally.twice));
    verdict.must(untrue.is_empty(), || {
        format!("{} results are untrue: {}", untrue.len(), named(untrue))
    });
    if settles_all {
        let unknown = tally.unknown;
        verdict.must(unknown == 0, || format!("{unknown} unknown, though each was answered"));
        verdict.must(again.is_empty(), || {
            format!("{} have a result and would come again: {}", again.len(), named(again))
        });
    }
}
