//! Learning a real ceiling, simulated in virtual time: a sender that always has jobs, a service that
//! lets so many through in any second (as `src/sandbox/limits.rs` does: refused ones do not count), and
//! 50 to 300 ms between a request and its answer.

use chakra_sender::limiter::{Pace, Rate};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::ops::Range;
use std::time::Duration;
use tokio::time::Instant;

/// What happens at the sender or at the service.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The pace lets one go, maybe.
    Wake,
    Arrives {
        sent: Instant,
        answered: Instant,
    },
    Answered {
        sent: Instant,
        accepted: bool,
    },
}

/// A number whose published rate is `limit`, as long as its real ceiling is what `ceiling` says.
struct Simulation<C> {
    limit: f64,
    ceiling: C,
    /// How much of a request's time is its way to the service; the rest is the answer's. It differs
    /// from request to request, so an even pace arrives unevenly.
    way: f64,
    seed: u64,
}

/// A request as the service saw it.
struct Seen {
    second: f64,
    rate: f64,
    accepted: bool,
}

struct Run(Vec<Seen>);

impl<C: Fn(f64) -> f64> Simulation<C> {
    fn run(&self, seconds: f64) -> Run {
        let mut chance = fastrand::Rng::with_seed(self.seed);
        let start = Instant::now();
        let mut pace = Pace::new(Some(Rate::new(self.limit, None).unwrap()), start);
        let mut events = BinaryHeap::from([Reverse((start, Event::Wake))]);
        let (mut window, mut seen) = (VecDeque::new(), Vec::new());
        while let Some(Reverse((now, event))) = events.pop() {
            let second = (now - start).as_secs_f64();
            if second > seconds {
                break;
            }
            match event {
                Event::Wake => {
                    if pace.pass(now).is_ok() {
                        pace.started(now);
                        let latency = Duration::from_secs_f64(0.05 + 0.25 * chance.f64());
                        let answered = now + latency;
                        let arrives = now + latency.mul_f64(self.way);
                        events.push(Reverse((arrives, Event::Arrives { sent: now, answered })));
                    }
                    // A timer takes a millisecond.
                    let next = pace.free_at(now).max(now + Duration::from_millis(1));
                    events.push(Reverse((next, Event::Wake)));
                }
                Event::Arrives { sent, answered } => {
                    while window.front().is_some_and(|first| second - first >= 1.0) {
                        window.pop_front();
                    }
                    let accepted = (window.len() as f64) < (self.ceiling)(second);
                    window.extend(accepted.then_some(second));
                    let rate = pace.rate(now).unwrap().per_second();
                    seen.push(Seen { second, rate, accepted });
                    events.push(Reverse((answered, Event::Answered { sent, accepted })));
                }
                Event::Answered { accepted: true, .. } => pace.accepted(now),
                Event::Answered { sent, accepted: false } => {
                    pace.refused(sent, now);
                }
            }
        }
        Run(seen)
    }
}

impl Run {
    fn within(&self, seconds: Range<f64>) -> impl Iterator<Item = &Seen> {
        self.0.iter().filter(move |seen| seconds.contains(&seen.second))
    }

    /// Messages a second that went through.
    fn throughput(&self, seconds: Range<f64>) -> f64 {
        let took = seconds.end - seconds.start;
        self.within(seconds).filter(|seen| seen.accepted).count() as f64 / took
    }

    fn refused_share(&self, seconds: Range<f64>) -> f64 {
        let refused = self.within(seconds.clone()).filter(|seen| !seen.accepted).count();
        refused as f64 / self.within(seconds).count() as f64
    }

    /// In all these seconds the pace is within 10% of the ceiling, and as much goes through.
    fn assert_near(&self, ceiling: f64, seconds: Range<f64>, what: &str) {
        let throughput = self.throughput(seconds.clone());
        assert!(throughput >= 0.9 * ceiling, "{what}: {throughput} of {ceiling} go through");
        let fastest = self.within(seconds).map(|seen| seen.rate).fold(0.0, f64::max);
        assert!(fastest <= 1.1 * ceiling, "{what}: {fastest} at a ceiling of {ceiling}");
    }
}

/// All requests arrive as they were sent, or up to 125 ms apart from that.
const WAYS: [f64; 2] = [0.0, 0.5];

#[test]
fn a_ceiling_below_the_published_one_is_found_within_a_minute_and_kept() {
    for (limit, ceiling) in [(70.0, 40.0), (70.0, 60.0), (875.0, 400.0)] {
        for way in WAYS {
            for seed in 0..3 {
                let what = format!("{limit} down to {ceiling}, way {way}, seed {seed}");
                let run = Simulation { limit, ceiling: |_| ceiling, way, seed }.run(300.0);
                // In fact after five seconds.
                run.assert_near(ceiling, 5.0..60.0, &what);
                run.assert_near(ceiling, 60.0..300.0, &what);
                let (all, later) = (run.refused_share(0.0..300.0), run.refused_share(5.0..300.0));
                assert!(all < 0.01 && later < 0.005, "{what}: {all} and {later} refused");
            }
        }
    }
}

#[test]
fn a_ceiling_that_halves_and_comes_back_is_followed_within_a_minute() {
    for way in WAYS {
        for seed in 0..5 {
            // At different places of the climb.
            let halves = 120.0 + 7.0 * seed as f64;
            let returns = 300.0 + 5.0 * seed as f64;
            let ceiling = |second| if (halves..returns).contains(&second) { 35.0 } else { 70.0 };
            let run = Simulation { limit: 70.0, ceiling, way, seed }.run(480.0);
            let what = format!("way {way}, seed {seed}");
            run.assert_near(35.0, halves + 5.0..returns, &what);
            run.assert_near(70.0, returns + 57.0..returns + 150.0, &what);
            let refused = run.refused_share(0.0..480.0);
            assert!(refused < 0.01, "{what}: {refused} refused");
        }
    }
}

#[test]
fn a_ceiling_of_a_few_a_second_is_neither_exceeded_nor_given_up() {
    for seed in 0..5 {
        let run = Simulation { limit: 17.0, ceiling: |_| 4.0, way: 0.5, seed }.run(300.0);
        let throughput = run.throughput(60.0..300.0);
        assert!(throughput >= 0.8 * 4.0, "seed {seed}: {throughput} of 4 go through");
        let refused = run.refused_share(60.0..300.0);
        assert!(refused < 0.03, "seed {seed}: {refused} refused");
    }
}

#[test]
fn a_ceiling_that_is_not_met_teaches_nothing() {
    let run = Simulation { limit: 70.0, ceiling: |_| 80.0, way: 0.5, seed: 1 }.run(60.0);
    assert!(run.0.iter().all(|seen| seen.accepted && seen.rate == 70.0));
}
