//! Gates whose limits change, in virtual time: nothing that was taken is forgotten, nothing is given.

use chakra_sender::limiter::{Gate, Rate, RecipientLimit, Recipients};
use chakra_sender::wire::{NumberId, Recipient};
use proptest::prelude::*;
use std::time::Duration;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

fn rate() -> impl Strategy<Value = Rate> {
    let per_second = (-0.5..3.0f64).prop_map(|power| 10f64.powf(power));
    (per_second, prop::option::of(1..50u32))
        .prop_map(|(per_second, burst)| Rate::new(per_second, burst).unwrap())
}

/// What happens at a gate.
#[derive(Debug, Clone)]
enum Step {
    Change(Rate),
    /// In seconds.
    Wait(f64),
    /// As many as pass, up to this.
    Pass(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => rate().prop_map(Step::Change),
        6 => (0.0..0.05f64).prop_map(Step::Wait),
        2 => (0.0..2.0f64).prop_map(Step::Wait),
        6 => (1..60usize).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..300)
}

/// The rates of a gate, each since its moment.
struct Rates(Vec<(Instant, Rate)>);

impl Rates {
    /// The greatest rate and the greatest burst that held at some time from `first` to `last`.
    fn greatest(&self, first: Instant, last: Instant) -> f64 {
        let ends = self.0.iter().skip(1).map(|(since, _)| Some(*since)).chain([None]);
        let held = self
            .0
            .iter()
            .zip(ends)
            .filter(|((since, _), end)| *since <= last && end.is_none_or(|end| end >= first));
        let (rates, bursts): (Vec<f64>, Vec<u32>) =
            held.map(|((_, rate), _)| (rate.per_second(), rate.burst())).unzip();
        rates.into_iter().fold(0.0, f64::max) + f64::from(bursts.into_iter().max().unwrap())
    }
}

proptest! {
    #[test]
    fn no_second_holds_more_than_the_greatest_limit_in_force_in_it(
        first in rate(),
        steps in steps(),
    ) {
        let start = Instant::now();
        let (mut gate, mut now) = (Gate::new(first, start), start);
        let (mut rates, mut moments) = (Rates(vec![(start, first)]), Vec::new());
        for step in steps {
            match step {
                Step::Change(rate) => {
                    gate.change_rate(rate, now);
                    rates.0.push((now, rate));
                }
                Step::Wait(seconds) => now += Duration::from_secs_f64(seconds),
                Step::Pass(most) => {
                    let passed = (0..most).map_while(|_| gate.pass(now).ok()).map(|()| now);
                    moments.extend(passed);
                }
            }
        }
        let mut from = 0;
        for (last, moment) in moments.iter().enumerate() {
            while *moment - moments[from] >= SECOND {
                from += 1;
            }
            let count = (last + 1 - from) as f64;
            let most = rates.greatest(moments[from], *moment);
            prop_assert!(count <= most, "{count} in a second, {most} at most");
        }
    }

    #[test]
    fn no_pair_gets_more_than_the_greatest_limit_of_all(
        limits in prop::collection::vec((1..30u32, 1..20_000u64), 2..6),
        asks in prop::collection::vec((0..6usize, 0..30usize, 0.0..30.0f64), 1..25),
    ) {
        let limits: Vec<RecipientLimit> = limits
            .into_iter()
            .map(|(burst, every)| RecipientLimit::new(burst, Duration::from_millis(every)).unwrap())
            .collect();
        let start = Instant::now();
        let (mut recipients, mut now) = (Recipients::new(Some(limits[0]), 10), start);
        let mut moments = Vec::new();
        for (limit, messages, seconds) in asks {
            recipients.change_limit(Some(limits[limit % limits.len()]), now);
            moments.extend((0..messages).map(|_| recipients.reserve(&number(), &person(), now)));
            now += Duration::from_secs_f64(seconds);
        }
        moments.sort();
        let burst = limits.iter().map(|limit| limit.burst()).max().unwrap();
        let every = limits.iter().map(|limit| limit.every()).min().unwrap();
        for (index, first) in moments.iter().enumerate() {
            for (count, last) in (1u32..).zip(&moments[index..]) {
                let refilled = (*last - *first).as_secs_f64() / every.as_secs_f64();
                prop_assert!(f64::from(count) <= f64::from(burst) + refilled + 1e-6);
            }
        }
    }

    #[test]
    fn a_pair_keeps_its_promises_and_the_new_limit_from_then_on(
        (old, new) in (limit(), limit()),
        messages in 0..60usize,
        later in 0.0..20.0f64,
    ) {
        let start = Instant::now();
        let mut recipients = Recipients::new(Some(old), 10);
        let promised: Vec<Instant> =
            (0..messages).map(|_| recipients.reserve(&number(), &person(), start)).collect();
        let now = start + Duration::from_secs_f64(later);
        recipients.change_limit(Some(new), now);
        let ahead = promised.last().is_some_and(|last| *last > now);
        let moments: Vec<Instant> =
            (0..100).map(|_| recipients.reserve(&number(), &person(), now)).collect();
        if ahead {
            prop_assert!(moments[0] >= *promised.last().unwrap());
        }
        for (index, first) in moments.iter().enumerate() {
            for (count, last) in (1u32..).zip(&moments[index..]) {
                let refilled = (*last - *first).as_secs_f64() / new.every().as_secs_f64();
                prop_assert!(f64::from(count) <= f64::from(new.burst()) + refilled + 1e-6);
            }
        }
    }
}

fn limit() -> impl Strategy<Value = RecipientLimit> {
    (1..30u32, 1..20_000u64).prop_map(|(burst, every)| {
        RecipientLimit::new(burst, Duration::from_millis(every)).unwrap()
    })
}

#[test]
fn what_a_pair_has_taken_counts_under_its_new_limit() {
    let six = 6 * SECOND;
    // Of five messages at once, four were sent. How many go at once now, and when does the next one?
    for (burst, every, at_once, next) in [
        (5, six, 1, six),
        (20, six, 16, six),
        (5, SECOND, 1, SECOND),
        (5, 60 * SECOND, 1, 60 * SECOND),
        (3, six, 0, 2 * six),
    ] {
        let now = Instant::now();
        let mut recipients = Recipients::new(Some(RecipientLimit::new(5, six).unwrap()), 10);
        let reserve = |recipients: &mut Recipients| {
            recipients.reserve(&number(), &person(), now).saturating_duration_since(now)
        };
        assert!((0..4).all(|_| reserve(&mut recipients).is_zero()));
        recipients.change_limit(Some(RecipientLimit::new(burst, every).unwrap()), now);
        let waits: Vec<Duration> = (0..=at_once).map(|_| reserve(&mut recipients)).collect();
        let shown = format!("{burst} {every:?}: {waits:?}");
        assert!(waits[..at_once].iter().all(Duration::is_zero), "{shown}");
        assert_eq!(waits[at_once], next, "{shown}");
    }
}

#[test]
fn a_limit_that_is_taken_back_leaves_a_pair_as_it_was() {
    let slow = RecipientLimit::new(1, 8 * SECOND).unwrap();
    let fast = RecipientLimit::new(29, SECOND / 1_000).unwrap();
    for (first, second) in [(slow, fast), (fast, slow)] {
        let now = Instant::now();
        let mut recipients = Recipients::new(Some(first), 10);
        let last = (0..40).map(|_| recipients.reserve(&number(), &person(), now)).last().unwrap();
        for limit in [second, first, second, first] {
            recipients.change_limit(Some(limit), now);
        }
        let next = recipients.reserve(&number(), &person(), now);
        assert!(next - last <= first.every() + SECOND / 1_000_000, "{:?}", next - last);
    }
}

#[test]
fn a_limit_that_was_off_for_a_while_has_forgotten_nothing() {
    let now = Instant::now();
    let limit = RecipientLimit::new(1, 6 * SECOND).unwrap();
    let mut recipients = Recipients::new(Some(limit), 10);
    let reserve = |recipients: &mut Recipients| recipients.reserve(&number(), &person(), now);
    assert_eq!(reserve(&mut recipients), now);
    recipients.change_limit(None, now);
    assert_eq!(reserve(&mut recipients), now);
    recipients.change_limit(Some(limit), now);
    assert_eq!(reserve(&mut recipients), now + 6 * SECOND);
}

fn number() -> NumberId {
    NumberId::parse("1027729340496751").unwrap()
}

fn person() -> Recipient {
    Recipient::from_to("+919900000001")
}
