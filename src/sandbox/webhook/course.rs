//! What becomes of one accepted message, and when its webhooks come: order, repetition and loss.
//!
//! Draws from the chance that it is given. It posts nothing and reads no clock.

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::Webhook;

/// What a webhook tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// WhatsApp has it.
    Sent,
    /// The recipient's phone has it.
    Delivered,
    /// The recipient has seen it.
    Read,
    /// The recipient has heard it; audio alone.
    Played,
    /// It will not arrive. With Meta's code.
    Failed(u32),
    /// The recipient wrote back.
    Reply,
    /// Somebody wrote to the recipient from the phone of the number.
    Echo,
}

impl Event {
    /// Its word; that of Meta's `status` where it is one.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Delivered => "delivered",
            Self::Read => "read",
            Self::Played => "played",
            Self::Failed(_) => "failed",
            Self::Reply => "reply",
            Self::Echo => "echo",
        }
    }

    /// Whether it is a status of the message, not an event of another kind.
    pub(super) fn is_status(self) -> bool {
        !matches!(self, Self::Reply | Self::Echo)
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The form of one webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Meta's envelope.
    PassThrough,
    /// ChakraHQ's own.
    Chakra,
}

/// The accepted message that events are about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::sandbox) struct Accepted {
    pub(in crate::sandbox) wamid: String,
    /// The sending number.
    pub(in crate::sandbox) number: String,
    pub(in crate::sandbox) display_phone_number: String,
    /// The recipient: digits, or the id of a group or a user.
    pub(in crate::sandbox) to: String,
    pub(in crate::sandbox) is_group: bool,
    pub(in crate::sandbox) kind: String,
    pub(in crate::sandbox) opaque: Option<String>,
}

/// One event of one message.
#[derive(Debug, Clone)]
pub(super) struct Notice {
    pub(super) event: Event,
    /// When it happened, in Unix milliseconds, which is not when it is posted.
    pub(super) at_ms: i64,
    pub(super) of: Arc<Accepted>,
}

/// An event that is to be posted.
#[derive(Debug, Clone)]
pub(super) struct Due {
    pub(super) at: Instant,
    pub(super) form: Form,
    /// The answer to the send waits until it is posted.
    pub(super) early: bool,
    pub(super) notice: Notice,
}

/// All that is to be posted about one message.
#[derive(Debug, Default)]
pub(in crate::sandbox) struct Course {
    pub(super) due: Vec<Due>,
    /// Events that never come, on purpose.
    pub(in crate::sandbox) lost: u64,
    /// Events that come twice, on purpose.
    pub(in crate::sandbox) repeated: u64,
}

/// When a message was accepted, and when its send is answered.
#[derive(Debug, Clone, Copy)]
pub(in crate::sandbox) struct Timing {
    pub(in crate::sandbox) accepted: Instant,
    pub(in crate::sandbox) answered: Instant,
    /// The time of `answered`, in Unix milliseconds.
    pub(in crate::sandbox) answered_ms: i64,
}

/// What becomes of a message; nothing where webhooks are off.
pub(in crate::sandbox) fn course(
    settings: &Webhook,
    chance: &mut fastrand::Rng,
    message: Accepted,
    times: Timing,
) -> Course {
    let mut course = Course::default();
    if settings.url.is_none() {
        return course;
    }
    let of = Arc::new(message);
    let steps = steps(settings, chance, &of.kind);
    let delays: Vec<Duration> = steps.iter().map(|(after, _)| *after).collect();
    let mut notices: Vec<Notice> = steps
        .into_iter()
        .map(|(after, event)| {
            let at_ms = times.answered_ms.saturating_add(millis(after));
            Notice { event, at_ms, of: of.clone() }
        })
        .collect();
    if chance.f64() < settings.shuffled {
        disorder(&mut notices, chance);
    }
    let is_early = chance.f64() < settings.early;
    for (index, (after, notice)) in delays.into_iter().zip(notices).enumerate() {
        let early = is_early && index == 0;
        let at = if early { times.accepted } else { times.answered + after };
        for form in settings.shape.forms() {
            // ChakraHQ's own event knows no `played`.
            if (*form, notice.event) != (Form::Chakra, Event::Played) {
                let due = Due { at, form: *form, early, notice: notice.clone() };
                course.tell(due, settings, chance);
            }
        }
    }
    course
}

impl Course {
    /// Events that are to be posted.
    pub(in crate::sandbox) fn planned(&self) -> u64 {
        self.due.len() as u64
    }

    /// Whether there is nothing to post and nothing to count.
    pub(in crate::sandbox) fn is_empty(&self) -> bool {
        self.due.is_empty() && self.lost == 0
    }

    fn tell(&mut self, due: Due, settings: &Webhook, chance: &mut fastrand::Rng) {
        if chance.f64() < settings.loss {
            self.lost += 1;
            return;
        }
        let repeats = chance.f64() < settings.repeat;
        let again_at = due.at + settings.repeat_after.draw(chance.f64());
        let again = repeats.then(|| Due { at: again_at, early: false, ..due.clone() });
        self.repeated += u64::from(repeats);
        self.due.push(due);
        self.due.extend(again);
    }
}

/// The events in the order in which they happen, each with its time after the answer to the send.
fn steps(settings: &Webhook, chance: &mut fastrand::Rng, kind: &str) -> Vec<(Duration, Event)> {
    let mut after = settings.sent_after.draw(chance.f64());
    let mut steps = vec![(after, Event::Sent)];
    after += settings.delivered_after.draw(chance.f64());
    let failure = failure(settings, chance.f64());
    steps.push((after, failure.map_or(Event::Delivered, Event::Failed)));
    if failure.is_none() && chance.f64() < settings.read {
        after += settings.read_after.draw(chance.f64());
        steps.push((after, Event::Read));
        if kind == "audio" {
            after += settings.played_after.draw(chance.f64());
            steps.push((after, Event::Played));
        }
    }
    if chance.f64() < settings.other_events {
        let other = if chance.bool() { Event::Reply } else { Event::Echo };
        steps.push((after, other));
    }
    steps
}

/// The code with which a message fails, for a throw of the dice in 0..1.
fn failure(settings: &Webhook, mut chance: f64) -> Option<u32> {
    for failure in &settings.failed {
        if chance < failure.share {
            return Some(failure.code);
        }
        chance -= failure.share;
    }
    None
}

/// Any other order.
fn disorder(notices: &mut [Notice], chance: &mut fastrand::Rng) {
    let ordered: Vec<Event> = notices.iter().map(|notice| notice.event).collect();
    chance.shuffle(notices);
    if notices.iter().map(|notice| notice.event).eq(ordered) {
        notices.reverse();
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::{Failure, Latency, WebhookShape};

    fn settings() -> Webhook {
        Webhook { url: Some("http://127.0.0.1/".into()), read: 1.0, ..Webhook::default() }
    }

    fn of_kind(settings: &Webhook, kind: &str, seed: u64) -> Course {
        let message = Accepted { kind: kind.into(), ..Accepted::default() };
        let now = Instant::now();
        let times = Timing { accepted: now, answered: now, answered_ms: 0 };
        course(settings, &mut fastrand::Rng::with_seed(seed), message, times)
    }

    /// The events by the instant at which they are posted.
    fn told(course: &Course) -> Vec<Event> {
        let mut due: Vec<&Due> = course.due.iter().collect();
        due.sort_by_key(|due| due.at);
        due.into_iter().map(|due| due.notice.event).collect()
    }

    #[test]
    fn a_message_is_sent_delivered_read_and_audio_played() {
        use Event::{Delivered, Played, Read, Sent};
        assert_eq!(told(&of_kind(&settings(), "text", 1)), [Sent, Delivered, Read]);
        assert_eq!(told(&of_kind(&settings(), "audio", 1)), [Sent, Delivered, Read, Played]);
        let unread = Webhook { read: 0.0, ..settings() };
        assert_eq!(told(&of_kind(&unread, "audio", 1)), [Sent, Delivered]);
        let both = Webhook { shape: WebhookShape::Both, ..settings() };
        assert_eq!(of_kind(&both, "audio", 1).due.len(), 7, "ChakraHQ knows no played");
        assert!(told(&of_kind(&Webhook::default(), "text", 1)).is_empty(), "off");
    }

    #[test]
    fn a_failure_stands_in_place_of_the_delivery_and_its_codes_by_their_shares() {
        let failed =
            [(131_026, 0.5), (131_049, 0.5)].map(|(code, share)| Failure { code, share }).to_vec();
        let settings = Webhook { failed, ..settings() };
        let codes = (0..200).filter(|seed| {
            let told = told(&of_kind(&settings, "text", *seed));
            assert_eq!((told.len(), told[0]), (2, Event::Sent));
            assert!(matches!(told[1], Event::Failed(131_026 | 131_049)));
            told[1] == Event::Failed(131_026)
        });
        assert!((70..130).contains(&codes.count()));
    }

    #[test]
    fn what_is_shuffled_comes_in_another_order_with_the_times_at_which_it_happened() {
        let settings = Webhook { shuffled: 1.0, ..settings() };
        for seed in 0..50 {
            let course = of_kind(&settings, "text", seed);
            let told = told(&course);
            assert_eq!(told.len(), 3);
            assert_ne!(told, [Event::Sent, Event::Delivered, Event::Read]);
            let mut happened: Vec<&Notice> = course.due.iter().map(|due| &due.notice).collect();
            happened.sort_by_key(|notice| notice.at_ms);
            let happened: Vec<_> = happened.into_iter().map(|notice| notice.event).collect();
            assert_eq!(happened, [Event::Sent, Event::Delivered, Event::Read]);
        }
    }

    #[test]
    fn an_event_may_come_twice_or_never() {
        let lost = of_kind(&Webhook { loss: 1.0, repeat: 1.0, ..settings() }, "text", 1);
        assert_eq!((lost.due.len(), lost.lost, lost.repeated), (0, 3, 0));
        let twice = of_kind(&Webhook { repeat: 1.0, ..settings() }, "text", 1);
        assert_eq!((twice.due.len(), twice.lost, twice.repeated), (6, 0, 3));
    }

    #[test]
    fn only_the_first_event_is_early_and_the_rest_follows_the_answer() {
        let settings =
            Webhook { early: 1.0, sent_after: Latency::fixed(Duration::ZERO), ..settings() };
        let accepted = Instant::now();
        let times =
            Timing { accepted, answered: accepted + Duration::from_secs(9), answered_ms: 0 };
        let mut chance = fastrand::Rng::with_seed(1);
        let due = course(&settings, &mut chance, Accepted::default(), times).due;
        assert_eq!((due[0].at, due[0].early), (accepted, true));
        assert!(due[1..].iter().all(|due| !due.early && due.at > times.answered));
    }

    #[test]
    fn one_seed_tells_one_story() {
        let failed = vec![Failure { code: 131_026, share: 0.3 }];
        let settings = Webhook {
            read: 0.5,
            loss: 0.2,
            repeat: 0.2,
            shuffled: 0.5,
            other_events: 0.5,
            failed,
            ..settings()
        };
        let stories =
            |from: u64| (from..from + 20).map(|seed| told(&of_kind(&settings, "text", seed)));
        assert!(stories(0).eq(stories(0)));
        assert!(stories(0).ne(stories(20)));
        assert!(stories(0).flatten().any(|event| !event.is_status()));
    }
}
