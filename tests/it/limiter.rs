//! The gates, in virtual time: moments counted from one base instant.

use chakra_sender::limiter::{Gate, Pace, Rate, RecipientLimit, Recipients};
use chakra_sender::wire::{NumberId, Recipient};
use proptest::prelude::*;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

fn rate() -> impl Strategy<Value = Rate> {
    let per_second = (-1.0..4.0f64).prop_map(|power| 10f64.powf(power).clamp(0.1, 10_000.0));
    (per_second, prop::option::of(1..50u32))
        .prop_map(|(per_second, burst)| Rate::new(per_second, burst).unwrap())
}

/// What happens at a gate. Times are multiples of the gate's interval.
#[derive(Debug, Clone)]
enum Step {
    Wait(f64),
    Pass,
    Reserve,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0.0..2.0).prop_map(Step::Wait),
        1 => (0.0..100.0).prop_map(Step::Wait),
        8 => Just(Step::Pass),
        2 => Just(Step::Reserve),
    ];
    prop::collection::vec(step, 1..400)
}

/// No sliding second holds more than `rate` + `burst` of these moments.
fn assert_no_second_over(moments: &[Instant], rate: f64, burst: u32) {
    let count = highest_second(moments);
    assert!(count as f64 <= rate + f64::from(burst), "{count} in a second at {rate} + {burst}");
}

/// Of moments in order.
fn highest_second(moments: &[Instant]) -> usize {
    let (mut first, mut highest) = (0, 0);
    for (last, moment) in moments.iter().enumerate() {
        while *moment - moments[first] >= SECOND {
            first += 1;
        }
        highest = highest.max(last + 1 - first);
    }
    highest
}

proptest! {
    #[test]
    fn no_sliding_second_holds_more_than_rate_and_burst(rate in rate(), steps in steps()) {
        let start = Instant::now();
        let interval = 1.0 / rate.per_second();
        let (mut gate, mut now) = (Gate::new(rate, start), start);
        let mut moments = Vec::new();
        for step in steps {
            let granted = match step {
                Step::Wait(intervals) => {
                    now += Duration::from_secs_f64(intervals * interval);
                    None
                }
                Step::Pass => gate.pass(now).map(|()| now).ok(),
                Step::Reserve => Some(gate.reserve(now)),
            };
            if let Some(moment) = granted {
                prop_assert!(moment >= now);
                moments.push(moment);
            }
        }
        moments.sort();
        assert_no_second_over(&moments, rate.per_second(), rate.burst());
        // It starts empty, so the n-th passes after n intervals at the earliest.
        for (index, moment) in moments.iter().enumerate() {
            let earned = (*moment - start).as_secs_f64() * rate.per_second();
            prop_assert!(index as f64 + 1.0 <= earned * 1.000_001);
        }
    }

    #[test]
    fn a_change_of_rate_grants_no_burst(
        rates in prop::collection::vec(rate(), 2..10),
        asks in prop::collection::vec((0..10usize, 0.0..0.3f64), 1..300),
    ) {
        let start = Instant::now();
        let (mut gate, mut now, mut moments) = (Gate::new(rates[0], start), start, Vec::new());
        for (index, seconds) in asks {
            gate.change_rate(rates[index % rates.len()], now);
            moments.extend(gate.pass(now).map(|()| now).ok());
            prop_assert!(gate.pass(now).is_err(), "two at once right after a change");
            now += Duration::from_secs_f64(seconds);
            moments.extend(std::iter::from_fn(|| gate.pass(now).map(|()| now).ok()));
        }
        let fastest = rates.iter().map(|rate| rate.per_second()).fold(0.0, f64::max);
        let burst = rates.iter().map(|rate| rate.burst()).max().unwrap();
        assert_no_second_over(&moments, fastest, burst);
    }

    #[test]
    fn two_that_are_not_settled_send_no_more_together_than_one_may(
        rate in rate().prop_filter("one job a second at least", |rate| rate.per_second() >= 1.0),
        begins in prop::collection::vec((0..2usize, 0.0..3.0f64), 1..6),
        phase in 0..1_000u64,
    ) {
        let start = Instant::now();
        let mut paces = [(); 2].map(|()| Pace::new(Some(rate), start));
        let (mut now, mut moments) = (start, Vec::new());
        paces.iter_mut().for_each(|pace| pace.begin(false, start));
        for (which, seconds) in begins {
            // It went to the one again, which has nothing saved then.
            paces[which].begin(false, now);
            let end = now + Duration::from_secs_f64(seconds);
            while now < end {
                now += Duration::from_micros(500 + phase);
                for pace in &mut paces {
                    while pace.pass(now).is_ok() {
                        pace.started(now);
                        moments.push(now);
                    }
                }
            }
        }
        assert_no_second_over(&moments, rate.per_second(), rate.burst());
    }

    #[test]
    fn what_is_said_to_be_free_passes_then_and_not_before(
        rate in rate(),
        asks in prop::collection::vec(0.0..2.0f64, 1..100),
    ) {
        let start = Instant::now();
        let (mut gate, mut now) = (Gate::new(rate, start), start);
        for seconds in asks {
            let free = gate.free_at(now);
            if free > now {
                prop_assert!(gate.pass(free - Duration::from_nanos(1)).is_err());
            }
            prop_assert!(gate.pass(free).is_ok());
            now = free + Duration::from_secs_f64(seconds);
        }
    }

    #[test]
    fn reservations_are_in_order_and_an_interval_apart(rate in rate(), count in 1..500usize) {
        let start = Instant::now();
        let mut gate = Gate::new(rate, start);
        let moments: Vec<Instant> = (0..count).map(|_| gate.reserve(start)).collect();
        for pair in moments.windows(2) {
            let apart = (pair[1] - pair[0]).as_secs_f64();
            prop_assert!((apart * rate.per_second() - 1.0).abs() < 0.000_02);
        }
        prop_assert_eq!(gate.pass(start).unwrap_err(), gate.reserve(start));
    }

    #[test]
    fn a_recipient_gets_a_burst_and_then_one_in_each_interval(
        burst in 1..30u32,
        every in 1..20_000u64,
        waits in prop::collection::vec(0.0..3.0f64, 1..200),
    ) {
        let every = Duration::from_millis(every);
        let limit = RecipientLimit::new(burst, every).unwrap();
        let mut recipients = Recipients::new(Some(limit), 10);
        let (number, recipient, mut now) = (number(), recipient(0), Instant::now());
        let mut moments = Vec::new();
        for intervals in waits {
            now += every.mul_f64(intervals);
            moments.push(recipients.reserve(&number, &recipient, now));
            prop_assert!(*moments.last().unwrap() >= now);
        }
        prop_assert!(moments.is_sorted());
        for (first, from) in moments.iter().enumerate() {
            for (last, to) in moments.iter().enumerate().skip(first) {
                let refilled = (*to - *from).as_nanos() / every.as_nanos();
                prop_assert!(((last - first) as u128) < u128::from(burst) + refilled);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_sender_that_looks_each_millisecond_uses_98_percent_of_the_rate(rate in rate()) {
        let rate = Rate::new(rate.per_second(), None).unwrap();
        let start = Instant::now();
        let mut gate = Gate::new(rate, start);
        let passed: usize = (0..=20_000)
            .map(|tick| start + Duration::from_millis(tick))
            .map(|now| std::iter::from_fn(|| gate.pass(now).ok()).count())
            .sum();
        prop_assert!(passed as f64 + 1.0 >= 0.98 * 20.0 * rate.per_second());
    }
}

#[test]
fn whoever_asks_again_when_told_to_passes() {
    let start = Instant::now();
    let mut gate = Gate::new(Rate::new(80.0, None).unwrap(), start);
    let mut now = start;
    for _ in 0..1_000 {
        now = gate.pass(now).unwrap_err();
        gate.pass(now).unwrap();
    }
    assert_eq!(now - start, Duration::from_micros(12_500_000));
}

#[test]
fn a_rate_that_changes_all_the_time_stops_nobody() {
    let start = Instant::now();
    let mut gate = Gate::new(Rate::new(0.1, None).unwrap(), start);
    for second in 1..10 {
        gate.change_rate(
            Rate::new(0.1 + 0.001 * second as f64, None).unwrap(),
            start + second * SECOND,
        );
    }
    assert_eq!(gate.pass(start + 10 * SECOND), Ok(()));
}

#[test]
fn a_clock_that_goes_back_is_no_accident() {
    let start = Instant::now() + 100 * SECOND;
    let mut gate = Gate::new(Rate::new(10.0, None).unwrap(), start);
    let mut recipients = Recipients::new(Some(RecipientLimit::default()), 10);
    let earlier = start - 50 * SECOND;
    assert!(gate.pass(earlier).unwrap_err() > start);
    gate.reserve(start + SECOND);
    assert!(gate.reserve(earlier) > start);
    recipients.reserve(&number(), &recipient(1), start);
    recipients.reserve(&number(), &recipient(1), earlier);
}

#[test]
fn a_rate_out_of_range_is_refused_with_the_range() {
    for per_second in [0.0, 0.09, -1.0, 1_000_001.0, f64::NAN, f64::INFINITY] {
        assert!(Rate::new(per_second, None).unwrap_err().contains("from 0.1 to 1000000 a second"));
    }
    assert!(Rate::new(1.0, Some(0)).unwrap_err().contains("from 1 to 1000000, not 0"));
    assert!(RecipientLimit::new(0, SECOND).unwrap_err().contains("burst must be from 1 to 1000"));
    assert!(RecipientLimit::new(1, Duration::ZERO).unwrap_err().contains("from 1ms to 3600s"));
    let bursts =
        [0.1, 17.0, 200.0, 201.0, 1_000_000.0].map(|r| Rate::new(r, None).unwrap().burst());
    assert_eq!(bursts, [2, 2, 2, 3, 10_000]);
}

#[test]
fn pairs_do_not_wait_for_each_other() {
    let limit = RecipientLimit::new(1, 6 * SECOND).unwrap();
    let mut recipients = Recipients::new(Some(limit), 10);
    let (now, other) = (Instant::now(), NumberId::parse("2").unwrap());
    assert_eq!(recipients.reserve(&number(), &recipient(1), now), now);
    assert_eq!(recipients.reserve(&number(), &recipient(1), now), now + 6 * SECOND);
    assert_eq!(recipients.reserve(&number(), &recipient(2), now), now);
    assert_eq!(recipients.reserve(&other, &recipient(1), now), now);
}

#[test]
fn a_refused_pair_waits_with_all_its_jobs_longer_each_time_until_a_message_is_accepted() {
    for limit in [None, Some(RecipientLimit::default())] {
        let mut recipients = Recipients::new(limit, 10);
        let start = Instant::now();
        let mut refused = |second: u32, asked: Option<u32>| {
            let (asked, now) = (asked.map(|asked| asked * SECOND), start + second * SECOND);
            let wait = recipients.refused(&number(), &recipient(1), asked, now);
            assert!(recipients.is_set_back(&number(), &recipient(1), now));
            assert!(!recipients.is_set_back(&number(), &recipient(2), now));
            assert_eq!(recipients.reserve(&number(), &recipient(1), now), now + wait);
            assert_eq!(recipients.reserve(&number(), &recipient(2), now), now);
            wait
        };
        assert_eq!(refused(0, None), SECOND);
        assert_eq!(refused(1, None), 4 * SECOND);
        assert_eq!(refused(10, Some(60)), 60 * SECOND);
        recipients.accepted(&number(), &recipient(1));
        let now = start + 100 * SECOND;
        assert!(recipients.reserve(&number(), &recipient(1), now) <= now + SECOND);
        assert_eq!(recipients.refused(&number(), &recipient(1), None, now), SECOND);
    }
}

#[test]
fn without_a_limit_everybody_goes_at_once_and_nobody_is_remembered() {
    let mut recipients = Recipients::new(None, 10);
    let now = Instant::now();
    for _ in 0..100 {
        assert_eq!(recipients.reserve(&number(), &recipient(1), now), now);
    }
    assert_eq!(recipients.remembered(), 0);
}

#[test]
fn a_full_map_lets_strangers_pass_and_still_keeps_those_it_knows() {
    let limit = RecipientLimit::new(1, 6 * SECOND).unwrap();
    let mut recipients = Recipients::new(Some(limit), 100);
    let now = Instant::now();
    for index in 0..150 {
        assert_eq!(recipients.reserve(&number(), &recipient(index), now), now);
    }
    assert_eq!((recipients.remembered(), recipients.ungated()), (100, 50));
    assert_eq!(recipients.reserve(&number(), &recipient(0), now), now + 6 * SECOND);

    // All but the one with a second promise have their burst back.
    let later = now + 6 * SECOND;
    assert_eq!(recipients.reserve(&number(), &recipient(200), later), later);
    assert_eq!((recipients.remembered(), recipients.ungated()), (2, 50));
    assert_eq!(recipients.reserve(&number(), &recipient(0), later), later + 6 * SECOND);
}

#[test]
fn the_map_stays_near_the_pairs_in_use() {
    let limit = RecipientLimit::new(20, 6 * SECOND).unwrap();
    let mut recipients = Recipients::new(Some(limit), 1_000_000);
    let start = Instant::now();
    // 1,000 new recipients a second, each in use for 6 s.
    for index in 0..60_000u32 {
        recipients.reserve(
            &number(),
            &recipient(index),
            start + Duration::from_millis(index.into()),
        );
        assert!(recipients.remembered() <= 2 * 6_000 + 6_000);
    }
    assert_eq!(recipients.ungated(), 0);
}

fn number() -> NumberId {
    NumberId::parse("1027729340496751").unwrap()
}

fn recipient(index: u32) -> Recipient {
    Recipient::from_to(&format!("+9199{index:08}"))
}

/// A minute of a number that always has jobs, at the default pace of one that bears so many a second: the
/// highest second of what started, and the part of the pace that was used. What passes starts so much
/// later; that is asked of the time since the beginning.
fn minute(bears: u32, mut late: impl FnMut(Duration) -> Duration) -> (usize, f64) {
    let (start, per_second) = (Instant::now(), f64::from(bears) * 0.875);
    let mut pace = Pace::new(Some(Rate::new(per_second, None).unwrap()), start);
    let (mut pending, mut started) = (BinaryHeap::<Reverse<Instant>>::new(), Vec::new());
    let mut now = start;
    while now < start + 60 * SECOND {
        let free = pace.free_at(now);
        match pending.peek() {
            Some(&Reverse(first)) if first <= free => {
                pending.pop();
                now = first;
                pace.started(now);
                started.push(now);
            }
            _ => {
                now = free;
                if pace.pass(now).is_ok() {
                    pending.push(Reverse(now + late(now - start)));
                }
            }
        }
    }
    let used = f64::from(u32::try_from(started.len()).unwrap()) / 60.0 / per_second;
    (highest_second(&started), used)
}

/// A disk that stands still for so long at the end of each period: all that it held starts then.
fn stalls(period: Duration, at_its_end: Duration) -> impl FnMut(Duration) -> Duration {
    move |now| {
        let rest = period.mul_f64(1.0 - now.div_duration_f64(period).fract());
        if rest < at_its_end { rest } else { Duration::ZERO }
    }
}

const BEARS_AND_MOST: [(u32, usize); 3] = [(20, 20), (80, 78), (1_000, 970)];

#[test]
fn requests_that_start_late_together_are_within_what_a_number_bears() {
    for (bears, most) in BEARS_AND_MOST {
        for (period, still) in [(5, 0.3), (5, 0.9), (10, 3.0)] {
            let (period, still) = (period * SECOND, SECOND.mul_f64(still));
            let (highest, used) = minute(bears, stalls(period, still));
            assert!(highest <= most, "{highest} of {bears}, still for {still:?}");
            // All but a tenth of a second of a standstill is lost, and little more.
            let lost = (still.as_secs_f64() - 0.1) / period.as_secs_f64();
            assert!(used > 0.95 - lost, "{used} of {bears}, still for {still:?}");
        }
    }
}

#[test]
fn requests_that_were_late_all_along_and_catch_up_are_within_what_a_number_bears() {
    for (bears, most) in BEARS_AND_MOST {
        for late in [0.1, 0.3, 0.5, 0.9, 2.0].map(|seconds| SECOND.mul_f64(seconds)) {
            let caught_up = |now| late.min((10 * SECOND).saturating_sub(now));
            let (highest, _) = minute(bears, caught_up);
            assert!(highest <= most, "{highest} of {bears}, {late:?} late");
        }
    }
}

#[test]
fn a_disk_that_takes_less_than_a_tenth_of_a_second_costs_no_pace() {
    let millis = Duration::from_millis;
    for bears in [20, 80, 1_000] {
        for late in [1, 20, 50, 80].map(millis) {
            let (_, used) = minute(bears, |_| late);
            assert!(used > 0.99, "{used} of {bears}, each {late:?} late");
            // Those that come during a sync start together at its end.
            let (_, used) = minute(bears, stalls(late, late));
            assert!(used > 0.99, "{used} of {bears}, at most {late:?} late");
        }
        let mut chance = fastrand::Rng::with_seed(7);
        let (_, used) = minute(bears, |_| millis(20).mul_f64(-chance.f64().ln()));
        assert!(used > 0.99, "{used} of {bears}, late by chance");
    }
}
