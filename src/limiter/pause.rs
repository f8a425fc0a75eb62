//! A pause of one scope, a number or a template, that its own answers asked for: nothing goes until its
//! end, then one probe at a time. It never waits: it says when to ask again. What the account does has
//! the brake.

use super::Wait;
use crate::policy::{Answer, Failure};
use crate::wire::{Class, Scope};
use std::time::Duration;
use tokio::time::Instant;

/// A scope that is blocked without a word for how long is asked again after this.
const BLOCKED: Duration = Duration::from_secs(60);

/// A wait that is asked for is kept up to this: after a day somebody has looked, or one more probe
/// harms nobody.
const LONGEST_ASKED: Duration = Duration::from_secs(24 * 3_600);

/// With each probe that is refused the wait doubles, up to this or to what is asked for.
const LONGEST_GROWN: Duration = Duration::from_secs(3_600);

/// What the end of a request tells about a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It works: the answer was about something else.
    Works,
    /// It is to be left alone for so long.
    Refused(Duration),
    /// Nothing: no answer came, or none that this scope had a part in.
    Nothing,
}

impl Told {
    /// What an answer tells about the number that sent.
    pub fn of_number(answer: &Answer) -> Told {
        Told::of(answer, |failure| match (failure.scope, failure.class) {
            // Without a wait it is only too fast, which is another matter: it works.
            (Scope::Number, Class::Throttled) => failure.wait.map_or(Told::Works, Told::Refused),
            (Scope::Number, Class::Blocked) => Told::Refused(failure.wait.unwrap_or(BLOCKED)),
            (Scope::Number, Class::Unavailable | Class::Refused) => Told::Works,
            (Scope::Message | Scope::Recipient | Scope::Template, _) => Told::Works,
            (Scope::Number, Class::Ambiguous | Class::Invalid) | (Scope::Account, _) => {
                Told::Nothing
            }
        })
    }

    /// What an answer tells about the template that was used.
    pub fn of_template(answer: &Answer) -> Told {
        Told::of(answer, |failure| match (failure.scope, failure.class) {
            (Scope::Template, Class::Unavailable | Class::Throttled) => {
                failure.wait.map_or(Told::Works, Told::Refused)
            }
            (Scope::Template, Class::Blocked) => Told::Refused(failure.wait.unwrap_or(BLOCKED)),
            (Scope::Template, Class::Refused) | (Scope::Message, _) => Told::Works,
            // Refused for something else, maybe before the template was looked at.
            (Scope::Template, Class::Ambiguous | Class::Invalid)
            | (Scope::Recipient | Scope::Number | Scope::Account, _) => Told::Nothing,
        })
    }

    /// Accepted, it works; without a usable answer nothing is told; else the failure tells.
    fn of(answer: &Answer, judged: impl FnOnce(&Failure) -> Told) -> Told {
        let failure = match answer {
            Answer::Accepted { .. } => return Told::Works,
            Answer::Failed(failure) => failure,
        };
        match failure.class {
            // Nobody but a gateway has seen it.
            Class::Unavailable if failure.code.is_none() => Told::Nothing,
            Class::Ambiguous | Class::Invalid => Told::Nothing,
            Class::Unavailable | Class::Throttled | Class::Blocked | Class::Refused => {
                judged(failure)
            }
        }
    }
}

/// The place of the one probe. Its end must be told to the pause, even if no request was made.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a probe whose end is not told lets nothing pass any more"]
pub struct Probe(());

/// What the end of a request did to a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turned {
    /// It begins, or goes on for longer: nothing goes before this.
    Held(Instant),
    /// It is over.
    Free,
}

/// One for each number, one for each template in trouble. At first it is off.
#[derive(Debug, Default)]
pub struct Pause {
    held: Option<Held>,
    /// When it last ended. What was sent before tells of an older time.
    freed: Option<Instant>,
}

#[derive(Debug)]
struct Held {
    until: Instant,
    /// The wait after which the present probe went or will go.
    step: Duration,
    probing: bool,
}

impl Pause {
    /// Whether a request may go now. Takes nothing.
    pub fn ask(&self, now: Instant) -> Result<(), Wait> {
        match &self.held {
            Some(Held { probing: true, .. }) => Err(Wait::ForProbe),
            Some(Held { until, .. }) if now < *until => Err(Wait::Until(*until)),
            Some(_) | None => Ok(()),
        }
    }

    /// One request goes now. While the pause is on it is the probe.
    pub fn pass(&mut self, now: Instant) -> Result<Option<Probe>, Wait> {
        self.ask(now)?;
        Ok(self.held.as_mut().map(|held| {
            held.probing = true;
            Probe(())
        }))
    }

    /// What came of a request that was sent then; `probe` if it was one.
    pub fn ended(
        &mut self,
        probe: Option<Probe>,
        told: Told,
        sent: Instant,
        now: Instant,
    ) -> Option<Turned> {
        let Some(held) = &mut self.held else {
            return self.ended_while_off(told, sent, now);
        };
        match (probe, told) {
            (Some(Probe(())), Told::Works) => {
                (self.held, self.freed) = (None, Some(now));
                Some(Turned::Free)
            }
            (Some(Probe(())), Told::Refused(wait)) => {
                held.probing = false;
                held.step = (held.step * 2).min(LONGEST_GROWN).max(wait.min(LONGEST_ASKED));
                held.until = now + held.step;
                Some(Turned::Held(held.until))
            }
            (Some(Probe(())), Told::Nothing) => {
                held.probing = false;
                None
            }
            // Under way when the pause began. It is heeded only if it asks for more than the first one
            // did: there may be hundreds of them.
            (None, Told::Refused(wait)) if wait > held.step => {
                held.step = wait.min(LONGEST_ASKED);
                held.until = held.until.max(now + held.step);
                Some(Turned::Held(held.until))
            }
            (None, Told::Works | Told::Refused(_) | Told::Nothing) => None,
        }
    }

    fn ended_while_off(&mut self, told: Told, sent: Instant, now: Instant) -> Option<Turned> {
        let is_late = self.freed.is_some_and(|freed| sent < freed);
        match told {
            Told::Refused(wait) if !is_late => {
                let step = wait.min(LONGEST_ASKED);
                self.held = Some(Held { until: now + step, step, probing: false });
                Some(Turned::Held(now + step))
            }
            Told::Works | Told::Refused(_) | Told::Nothing => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const MINUTE: Told = Told::Refused(Duration::from_secs(60));

    /// A pause, and the present moment.
    struct Story {
        pause: Pause,
        start: Instant,
        now: Instant,
    }

    impl Story {
        fn begin() -> Story {
            let start = Instant::now();
            Story { pause: Pause::default(), start, now: start }
        }

        /// Held since second 0.
        fn held(told: Told) -> Story {
            let mut story = Story::begin();
            assert!(matches!(story.late(told), Some(Turned::Held(_))));
            story
        }

        fn at(&mut self, second: u64) -> &mut Story {
            self.now = self.start + seconds(second);
            self
        }

        fn pass(&mut self) -> Result<Option<Probe>, Wait> {
            self.pause.pass(self.now)
        }

        /// The end of a request that is no probe and was sent at second 0.
        fn late(&mut self, told: Told) -> Option<Turned> {
            self.pause.ended(None, told, self.start, self.now)
        }

        /// A probe, and its end at once.
        fn probe(&mut self, told: Told) -> Option<Turned> {
            let probe = self.pass().unwrap();
            assert!(probe.is_some());
            self.pause.ended(probe, told, self.now, self.now)
        }

        fn until(&self, second: u64) -> Option<Turned> {
            Some(Turned::Held(self.start + seconds(second)))
        }
    }

    #[test]
    fn nothing_goes_before_its_end_and_then_one_probe_for_which_the_others_wait() {
        let mut story = Story::held(MINUTE);
        let end = story.start + seconds(60);
        assert_eq!(story.at(59).pass(), Err(Wait::Until(end)));
        let probe = story.at(60).pass().unwrap();
        assert!(probe.is_some());
        assert_eq!(story.at(90).pass(), Err(Wait::ForProbe));
        assert_eq!(story.pause.ended(probe, Told::Works, end, story.now), Some(Turned::Free));
        assert_eq!(story.pass(), Ok(None));
    }

    #[test]
    fn waits_double_with_each_refused_probe_up_to_an_hour_or_what_is_asked_for() {
        let mut story = Story::held(MINUTE);
        let mut at = 60;
        for wait in [120, 240, 480, 960, 1_920, 3_600, 3_600] {
            assert_eq!(story.at(at).probe(MINUTE), story.until(at + wait));
            at += wait;
        }
        let day = Told::Refused(seconds(100_000));
        assert_eq!(story.at(at).probe(day), story.until(at + 86_400));
        // The next pause begins anew.
        story.at(at + 86_400).probe(Told::Works);
        story.start = story.now;
        assert_eq!(story.late(MINUTE), story.until(60));
    }

    #[test]
    fn a_probe_that_told_nothing_makes_room_for_another_at_once() {
        let mut story = Story::held(MINUTE);
        assert_eq!(story.at(60).probe(Told::Nothing), None);
        assert_eq!(story.probe(MINUTE), story.until(180));
    }

    #[test]
    fn what_was_under_way_neither_frees_nor_grows_a_pause_but_may_ask_for_a_longer_one() {
        let mut story = Story::held(MINUTE);
        assert_eq!(story.at(5).late(Told::Works), None);
        assert_eq!(story.late(MINUTE), None);
        assert_eq!(story.late(Told::Refused(seconds(600))), story.until(605));
        assert_eq!(story.at(605).probe(MINUTE), story.until(605 + 1_200));
    }

    #[test]
    fn what_was_sent_before_the_end_of_a_pause_begins_no_new_one() {
        let mut story = Story::held(MINUTE);
        story.at(60).probe(Told::Works);
        assert_eq!(story.at(61).late(MINUTE), None);
        story.start = story.now;
        assert_eq!(story.at(1).late(MINUTE), story.until(61));
    }

    #[test]
    fn an_answer_tells_of_the_number_and_of_the_template_only_what_is_about_them() {
        use Class::{Ambiguous, Blocked, Refused, Throttled, Unavailable};
        use Scope::{Account, Message, Number, Recipient, Template};
        use Told::{Nothing, Works};
        let held = Told::Refused(seconds(7));
        for (class, scope, code, wait, of_number, of_template) in [
            (Throttled, Number, Some(131_057), Some(7), held, Nothing),
            (Throttled, Number, Some(130_429), None, Works, Nothing),
            (Blocked, Number, Some(133_010), Some(7), held, Nothing),
            (Blocked, Number, None, None, MINUTE, Nothing),
            (Unavailable, Template, Some(132_069), Some(7), Works, held),
            (Unavailable, Template, Some(132_069), None, Works, Works),
            (Refused, Template, Some(132_015), None, Works, Works),
            (Throttled, Recipient, Some(131_056), Some(7), Works, Nothing),
            (Refused, Message, Some(131_009), None, Works, Works),
            (Unavailable, Message, Some(131_016), None, Works, Works),
            (Unavailable, Message, None, None, Nothing, Nothing),
            (Ambiguous, Message, None, None, Nothing, Nothing),
            (Throttled, Account, None, Some(7), Nothing, Nothing),
            (Blocked, Account, Some(190), Some(7), Nothing, Nothing),
        ] {
            let wait = wait.map(seconds);
            let failure = Failure { scope, code, wait, ..Failure::new(class, "x") };
            let (answer, shown) = (Answer::Failed(failure.clone()), format!("{failure:?}"));
            assert_eq!(Told::of_number(&answer), of_number, "{shown}");
            assert_eq!(Told::of_template(&answer), of_template, "{shown}");
        }
        let accepted = Answer::Accepted { whatsapp_message_id: None };
        assert_eq!(Told::of_number(&accepted), Works);
    }
}
