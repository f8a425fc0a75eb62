//! The account's brake: while the service fails, or asks to be left alone, nothing goes but one probe
//! at a time, and ever more rarely. It never waits: it says when to ask again.

use crate::policy::Answer;
use crate::wire::{Class, Scope};
use std::time::Duration;
use tokio::time::Instant;

/// So many failures in a row put the brake on. Fewer happen by chance on a busy day; what is under
/// way by then has failed as well, so a greater number would spare nothing.
const FAILURES: u32 = 10;

/// The first time without a probe, unless the service asks for a longer one. It doubles with each
/// probe that fails.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// It grows to this: an outage that ends is noticed within a minute.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The service is not obeyed for longer at a time. One probe in ten minutes annoys nobody, and a
/// mistaken hint must not stop an account for an hour.
const LONGEST_ASKED: Duration = Duration::from_secs(600);

/// What a request tells about the service and the account, whatever it means for its own job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// They work: a message was accepted, or judged.
    Works,
    /// Nothing usable came back.
    Fails,
    /// The account is to be left alone, for so long where that was said.
    Asked(Option<Duration>),
    /// Nothing: no request was made, or nothing stood at its address.
    Nothing,
}

impl Sign {
    /// What an answer tells.
    pub fn of(answer: &Answer) -> Sign {
        let failure = match answer {
            Answer::Accepted { .. } => return Sign::Works,
            Answer::Failed(failure) => failure,
        };
        match (failure.class, failure.scope) {
            (Class::Throttled | Class::Blocked, Scope::Account) => Sign::Asked(failure.wait),
            // Without a code of Meta it is a missing address (404), which a gateway gives as well.
            (Class::Blocked, _) if failure.code.is_none() => Sign::Nothing,
            // More tries of a fault that is about this message do not help; of an outage they do.
            (Class::Unavailable, Scope::Message) if failure.max_attempts.is_none() => Sign::Fails,
            (Class::Ambiguous, _) => Sign::Fails,
            (Class::Unavailable | Class::Throttled | Class::Blocked | Class::Refused, _) => {
                Sign::Works
            }
            (Class::Invalid, _) => Sign::Nothing,
        }
    }
}

/// The right to one request. Its end must be told to the brake, even if none was made.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a probe whose end is not told lets nothing pass any more"]
pub struct Pass(u64);

/// When to ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// At this moment, or as soon as something has changed.
    Until(Instant),
    /// When something has changed: a probe is under way.
    ForProbe,
}

impl Wait {
    /// Until when nothing goes, as far as is known.
    pub fn moment(self, now: Instant) -> Instant {
        match self {
            Wait::Until(until) => until,
            Wait::ForProbe => now,
        }
    }
}

/// What the end of a request did to the brake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It went on; the first probe goes after this.
    On(Duration),
    /// Its probe failed; the next one goes after this.
    StillOn(Duration),
    /// It let go.
    Off,
}

/// One for all numbers of an account.
#[derive(Debug)]
pub struct Brake {
    /// The number of the next pass. Passes are numbered in their order.
    next: u64,
    state: State,
    /// When it was last let go, or begun anew. What was told of an earlier time is over.
    freed: Option<Instant>,
}

#[derive(Debug)]
enum State {
    Off {
        /// The first pass since then. What began before tells of an older time.
        since: u64,
        failures: u32,
    },
    On {
        /// The first pass that is heeded: also what was under way when the brake went on.
        heeds: u64,
        until: Instant,
        /// The wait after which the present probe went or will go.
        step: Duration,
        /// The service asked for it: then an accepted message that began before proves nothing.
        asked: bool,
        probe: Option<u64>,
    },
}

impl Default for Brake {
    fn default() -> Brake {
        Brake { next: 0, state: State::Off { since: 0, failures: 0 }, freed: None }
    }
}

impl Brake {
    /// Whether a request may go now, as far as the brake is concerned. Takes nothing.
    pub fn ask(&self, now: Instant) -> Result<(), Wait> {
        match self.state {
            State::Off { .. } => Ok(()),
            State::On { probe: Some(_), .. } => Err(Wait::ForProbe),
            State::On { until, .. } if now < until => Err(Wait::Until(until)),
            State::On { .. } => Ok(()),
        }
    }

    /// One request goes now. While the brake is on it is the probe.
    pub fn pass(&mut self, now: Instant) -> Result<Pass, Wait> {
        self.ask(now)?;
        let pass = self.next;
        self.next += 1;
        if let State::On { probe, .. } = &mut self.state {
            *probe = Some(pass);
        }
        Ok(Pass(pass))
    }

    /// What came of a request.
    pub fn ended(&mut self, pass: Pass, sign: Sign, now: Instant) -> Option<Change> {
        let Pass(pass) = pass;
        match self.state {
            State::Off { since, .. } if pass >= since => self.ended_while_off(sign, now),
            State::On { probe, .. } if probe == Some(pass) => self.probe_ended(sign, now),
            State::On { heeds, .. } if pass >= heeds => self.ended_late(sign, now),
            State::Off { .. } | State::On { .. } => None,
        }
    }

    /// What came to be known of the account beside any request, and was so then: at most `now`. A wait that
    /// is asked for counts from then.
    pub fn heard(&mut self, sign: Sign, then: Instant, now: Instant) -> Option<Change> {
        if self.freed.is_some_and(|freed| then < freed) {
            return None;
        }
        let rest = |wait: Duration| wait.min(LONGEST_ASKED).saturating_sub(now - then);
        let sign = match sign {
            Sign::Asked(hint) => Sign::Asked(hint.map(rest)),
            Sign::Works | Sign::Fails | Sign::Nothing => sign,
        };
        match self.state {
            State::Off { .. } => self.ended_while_off(sign, now),
            State::On { .. } => self.ended_late(sign, now),
        }
    }

    /// The reason for a hold is gone (a new API key): a probe may go at once, and what is under way
    /// by now tells nothing any more.
    pub fn begin_anew(&mut self, now: Instant) {
        self.freed = Some(now);
        match &mut self.state {
            State::Off { since, failures } => (*since, *failures) = (self.next, 0),
            State::On { heeds, until, probe, .. } => {
                (*heeds, *until, *probe) = (self.next, now, None);
            }
        }
    }

    /// Whether only probes go.
    pub fn is_on(&self) -> bool {
        matches!(self.state, State::On { .. })
    }

    fn ended_while_off(&mut self, sign: Sign, now: Instant) -> Option<Change> {
        let State::Off { since, failures } = &mut self.state else { return None };
        let (wait, asked) = match sign {
            Sign::Works => {
                *failures = 0;
                return None;
            }
            Sign::Fails => {
                *failures += 1;
                if *failures < FAILURES {
                    return None;
                }
                (FIRST_WAIT, false)
            }
            Sign::Asked(hint) => (asked_wait(FIRST_WAIT, hint), true),
            Sign::Nothing => return None,
        };
        let (heeds, until) = (*since, now + wait);
        self.state = State::On { heeds, until, step: FIRST_WAIT, asked, probe: None };
        Some(Change::On(wait))
    }

    fn probe_ended(&mut self, sign: Sign, now: Instant) -> Option<Change> {
        let State::On { until, step, asked, probe, .. } = &mut self.state else { return None };
        *probe = None;
        let longer = (*step * 2).min(LONGEST_WAIT);
        let wait = match sign {
            Sign::Works => return self.let_go(now),
            Sign::Nothing => return None,
            Sign::Fails => longer,
            Sign::Asked(hint) => {
                *asked = true;
                asked_wait(longer, hint)
            }
        };
        *step = longer;
        *until = (*until).max(now + wait);
        Some(Change::StillOn(*until - now))
    }

    /// What was under way when the brake went on never lengthens its waits, which would grow with
    /// the number of calls; but a hint is heeded.
    fn ended_late(&mut self, sign: Sign, now: Instant) -> Option<Change> {
        let State::On { until, asked, .. } = &mut self.state else { return None };
        match sign {
            Sign::Works if !*asked => self.let_go(now),
            Sign::Asked(hint) => {
                *asked = true;
                *until = (*until).max(now + asked_wait(FIRST_WAIT, hint));
                None
            }
            Sign::Works | Sign::Fails | Sign::Nothing => None,
        }
    }

    fn let_go(&mut self, now: Instant) -> Option<Change> {
        self.freed = Some(now);
        self.state = State::Off { since: self.next, failures: 0 };
        Some(Change::Off)
    }
}

fn asked_wait(at_least: Duration, hint: Option<Duration>) -> Duration {
    at_least.max(hint.unwrap_or_default().min(LONGEST_ASKED))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Failure;

    /// A brake, a clock in milliseconds, and what is under way.
    struct Story {
        brake: Brake,
        start: Instant,
        now: Instant,
    }

    impl Story {
        fn begin() -> Story {
            let start = Instant::now();
            Story { brake: Brake::default(), start, now: start }
        }

        /// After this many failures in a row.
        fn after_failures(count: u32) -> Story {
            let mut story = Story::begin();
            for _ in 0..count {
                story.call(Sign::Fails);
            }
            story
        }

        fn ask(&self) -> Result<(), Wait> {
            self.brake.ask(self.now)
        }

        fn pass(&mut self) -> Pass {
            self.brake.pass(self.now).unwrap()
        }

        fn end(&mut self, pass: Pass, sign: Sign) -> Option<Change> {
            self.brake.ended(pass, sign, self.now)
        }

        fn call(&mut self, sign: Sign) -> Option<Change> {
            let pass = self.pass();
            self.end(pass, sign)
        }

        /// Goes on to the moment of the next probe.
        fn go_to_probe(&mut self) -> &mut Story {
            if let Err(Wait::Until(until)) = self.brake.ask(self.now) {
                self.now = until;
            }
            self
        }

        fn at(&mut self, millis: u64) -> &mut Story {
            self.now = self.start + Duration::from_millis(millis);
            self
        }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn an_answer_tells_about_the_service_or_only_about_its_message() {
        use Class::{Ambiguous, Blocked, Refused, Throttled, Unavailable};
        use Scope::{Account, Message, Number, Recipient, Template};
        let asked = Sign::Asked(Some(seconds(7)));
        for (class, scope, code, max_attempts, sign) in [
            (Unavailable, Message, None, None, Sign::Fails),
            (Unavailable, Message, Some(131_016), None, Sign::Fails),
            (Unavailable, Message, Some(131_000), Some(5), Sign::Works),
            (Unavailable, Template, Some(134_101), None, Sign::Works),
            (Ambiguous, Message, None, None, Sign::Fails),
            (Throttled, Account, None, None, asked),
            (Blocked, Account, Some(190), None, asked),
            (Throttled, Number, Some(130_429), None, Sign::Works),
            (Throttled, Recipient, Some(131_056), None, Sign::Works),
            (Blocked, Number, Some(133_010), None, Sign::Works),
            (Blocked, Number, None, None, Sign::Nothing),
            (Refused, Message, Some(131_009), None, Sign::Works),
            (Refused, Message, None, None, Sign::Works),
        ] {
            let failure = Failure {
                scope,
                code,
                wait: Some(seconds(7)),
                max_attempts,
                ..Failure::new(class, "x")
            };
            let shown = format!("{failure:?}");
            assert_eq!(Sign::of(&Answer::Failed(failure)), sign, "{shown}");
        }
        assert_eq!(Sign::of(&Answer::Accepted { whatsapp_message_id: None }), Sign::Works);
    }

    #[test]
    fn it_goes_on_after_failures_in_a_row_or_when_asked() {
        for (signs, expected) in [
            (vec![Sign::Fails; 9], None),
            (vec![Sign::Fails; 10], Some(1)),
            ([vec![Sign::Fails; 9], vec![Sign::Works], vec![Sign::Fails; 9]].concat(), None),
            ([vec![Sign::Fails; 9], vec![Sign::Nothing, Sign::Fails]].concat(), Some(1)),
            (vec![Sign::Asked(None)], Some(1)),
            (vec![Sign::Asked(Some(Duration::from_millis(20)))], Some(1)),
            (vec![Sign::Asked(Some(seconds(60)))], Some(60)),
            (vec![Sign::Asked(Some(seconds(3_600)))], Some(600)),
        ] {
            let mut story = Story::begin();
            let shown = format!("{signs:?}");
            let last = signs.into_iter().map(|sign| story.call(sign)).last().unwrap();
            assert_eq!(last, expected.map(|wait| Change::On(seconds(wait))), "{shown}");
            assert_eq!(story.brake.is_on(), expected.is_some(), "{shown}");
        }
    }

    #[test]
    fn waits_double_with_each_failed_probe_up_to_a_minute() {
        let mut story = Story::after_failures(FAILURES);
        let waits = [2, 4, 8, 16, 32, 60, 60];
        for wait in waits {
            let change = story.go_to_probe().call(Sign::Fails);
            assert_eq!(change, Some(Change::StillOn(seconds(wait))));
        }
        assert_eq!(story.go_to_probe().call(Sign::Works), Some(Change::Off));
        // The next outage begins anew.
        (1..FAILURES).for_each(|_| assert_eq!(story.call(Sign::Fails), None));
        assert_eq!(story.call(Sign::Fails), Some(Change::On(FIRST_WAIT)));
    }

    #[test]
    fn a_hint_is_the_least_of_a_wait_and_does_not_stop_its_growth() {
        let mut story = Story::after_failures(FAILURES);
        for (hint, wait) in [(Some(9), 9), (None, 4), (Some(3), 8), (Some(60), 60)] {
            let change = story.go_to_probe().call(Sign::Asked(hint.map(seconds)));
            assert_eq!(change, Some(Change::StillOn(seconds(wait))));
        }
    }

    #[test]
    fn one_probe_goes_when_the_wait_is_over_and_the_others_wait_for_it() {
        let mut story = Story::after_failures(FAILURES);
        let until = Wait::Until(story.start + FIRST_WAIT);
        assert_eq!(story.at(999).ask(), Err(until));
        let probe = story.at(1_000).pass();
        assert_eq!(story.at(90_000).ask(), Err(Wait::ForProbe));
        assert_eq!(story.end(probe, Sign::Works), Some(Change::Off));
        assert_eq!(story.ask(), Ok(()));
    }

    #[test]
    fn a_probe_that_told_nothing_makes_room_for_another_at_once() {
        let mut story = Story::after_failures(FAILURES);
        assert_eq!(story.go_to_probe().call(Sign::Nothing), None);
        assert_eq!(story.ask(), Ok(()));
        assert_eq!(story.call(Sign::Fails), Some(Change::StillOn(seconds(2))));
    }

    #[test]
    fn what_was_under_way_neither_lengthens_a_wait_nor_puts_the_brake_on_again() {
        let mut story = Story::begin();
        let mut late: Vec<Pass> = (0..200).map(|_| story.pass()).collect();
        for _ in 0..FAILURES {
            story.call(Sign::Fails);
        }
        for pass in late.split_off(100) {
            assert_eq!(story.end(pass, Sign::Fails), None);
        }
        assert_eq!(story.ask(), Err(Wait::Until(story.start + FIRST_WAIT)));
        assert_eq!(story.go_to_probe().call(Sign::Works), Some(Change::Off));
        for pass in late {
            let sign = if pass.0 % 2 == 0 { Sign::Fails } else { Sign::Asked(Some(seconds(60))) };
            assert_eq!(story.end(pass, sign), None);
        }
        assert!(!story.brake.is_on());
    }

    #[test]
    fn a_late_success_lets_go_unless_the_service_asked_for_rest() {
        for (sign, change) in [(Sign::Fails, Some(Change::Off)), (Sign::Asked(None), None)] {
            let mut story = Story::begin();
            let late = story.pass();
            (0..FAILURES).for_each(|_| {
                if !story.brake.is_on() {
                    story.call(sign);
                }
            });
            assert_eq!(story.end(late, Sign::Works), change, "{sign:?}");
        }
    }

    #[test]
    fn a_late_hint_is_heeded() {
        let mut story = Story::begin();
        let late = story.pass();
        story.call(Sign::Asked(Some(seconds(5))));
        assert_eq!(story.at(2_000).end(late, Sign::Asked(Some(seconds(30)))), None);
        assert_eq!(story.ask(), Err(Wait::Until(story.start + seconds(32))));
    }

    #[test]
    fn a_new_token_lets_a_probe_go_at_once_and_what_showed_the_old_one_tells_nothing() {
        let mut story = Story::begin();
        let late = story.pass();
        story.call(Sign::Asked(Some(seconds(60))));
        let old_probe = story.go_to_probe().pass();
        story.brake.begin_anew(story.now);
        let probe = story.pass();
        assert_eq!(story.ask(), Err(Wait::ForProbe));
        assert_eq!(story.end(late, Sign::Asked(Some(seconds(60)))), None);
        assert_eq!(story.end(old_probe, Sign::Asked(Some(seconds(60)))), None);
        assert_eq!(story.end(probe, Sign::Works), Some(Change::Off));
    }

    #[test]
    fn a_refusal_of_the_old_token_after_the_new_one_was_taken_does_not_put_it_on() {
        let mut story = Story::begin();
        let late = story.pass();
        story.brake.begin_anew(story.now);
        assert_eq!(story.end(late, Sign::Asked(Some(seconds(60)))), None);
        assert!(!story.brake.is_on());
    }

    #[test]
    fn what_is_told_late_counts_from_then_and_is_over_once_the_brake_was_let_go() {
        let (mut story, asked) = (Story::begin(), Sign::Asked(Some(seconds(600))));
        let then = story.now;
        story.at(100_000);
        assert_eq!(story.brake.heard(asked, then, story.now), Some(Change::On(seconds(500))));
        story.at(200_000);
        assert_eq!(story.brake.heard(asked, then, story.now), None);
        assert_eq!(story.ask(), Err(Wait::Until(then + seconds(600))));
        assert_eq!(story.go_to_probe().call(Sign::Works), Some(Change::Off));
        assert_eq!(story.brake.heard(asked, then + seconds(599), story.now), None);
        assert_eq!(story.ask(), Ok(()));
    }
}
