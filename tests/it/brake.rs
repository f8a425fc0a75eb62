//! The account's brake under any order of requests, ends, pauses and new keys.

use chakra_sender::limiter::{Brake, Change, Pass, Sign, Wait};
use proptest::prelude::*;
use std::time::Duration;
use tokio::time::Instant;

#[derive(Debug, Clone)]
enum Step {
    Ask,
    /// One of those under way ends, by its place among them.
    End(usize, Sign),
    Pause(u64),
    NewToken,
}

fn step() -> impl Strategy<Value = Step> {
    let sign = prop_oneof![
        1 => Just(Sign::Works),
        1 => Just(Sign::Nothing),
        4 => Just(Sign::Fails),
        1 => (0u64..100_000).prop_map(|hint| Sign::Asked(Some(Duration::from_millis(hint)))),
    ];
    prop_oneof![
        8 => Just(Step::Ask),
        8 => (any::<usize>(), sign).prop_map(|(which, sign)| Step::End(which, sign)),
        4 => (0u64..5_000).prop_map(Step::Pause),
        1 => Just(Step::NewToken),
    ]
}

proptest! {
    #[test]
    fn no_second_probe_goes_while_one_is_out(steps in prop::collection::vec(step(), 0..300)) {
        let (mut brake, mut now) = (Brake::default(), Instant::now());
        // Each with whether it is the probe of the present key.
        let mut under_way: Vec<(Pass, bool)> = Vec::new();
        for step in steps {
            match step {
                Step::Ask => {
                    let may = brake.ask(now);
                    let pass = brake.pass(now);
                    prop_assert_eq!(may, pass.as_ref().map(|_| ()).map_err(|wait| *wait));
                    if let Ok(pass) = pass {
                        under_way.push((pass, brake.is_on()));
                    } else {
                        prop_assert!(brake.is_on());
                    }
                }
                Step::End(_, _) if under_way.is_empty() => {}
                Step::End(which, sign) => {
                    let (pass, is_probe) = under_way.swap_remove(which % under_way.len());
                    let was_on = brake.is_on();
                    let change = brake.ended(pass, sign, now);
                    prop_assert!(!matches!(change, Some(Change::StillOn(_))) || is_probe);
                    prop_assert_eq!(matches!(change, Some(Change::On(_))), !was_on && brake.is_on());
                    prop_assert_eq!(change == Some(Change::Off), was_on && !brake.is_on());
                }
                Step::Pause(millis) => now += Duration::from_millis(millis),
                Step::NewToken => {
                    brake.begin_anew(now);
                    under_way.iter_mut().for_each(|(_, is_probe)| *is_probe = false);
                }
            }
            if !brake.is_on() {
                under_way.iter_mut().for_each(|(_, is_probe)| *is_probe = false);
            }
            prop_assert!(under_way.iter().filter(|(_, is_probe)| *is_probe).count() <= 1);
            // Nobody waits for nothing.
            if let Err(Wait::ForProbe) = brake.ask(now) {
                prop_assert!(under_way.iter().any(|(_, is_probe)| *is_probe));
            }
            if let Err(Wait::Until(until)) = brake.ask(now) {
                prop_assert!(until - now <= Duration::from_secs(600));
            }
        }
    }
}
