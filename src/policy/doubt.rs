//! A job that may have been sent already, and what is concluded from looking for its message.
//!
//! Looks come 2 s, 10 s and 30 s after the doubt began, and once more when a call that hung must have
//! ended and the chat must show what it sent. One match is evidence at once. Finding nothing is
//! evidence only at the last look, and only where looking has been seen to work; else looking goes on
//! until `doubt.give_up`.
#![warn(clippy::wildcard_enum_match_arm)]

use super::{
    Failure, History, Reschedule, Settlement, Why, accepted, after, expired, is_expired,
    turned_away,
};
use crate::wire::{Class, OnDoubt, SendJob};
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

/// After these, once in this time.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// What the last look adds to the longest call and to the chat's lag.
const MARGIN: Duration = Duration::from_secs(2);

/// How far the service's clock and ours may be apart.
const CLOCK_SLACK: SignedDuration = SignedDuration::from_secs(30);

/// A job in weak doubt without an AMQP timestamp was sent no longer ago than this, if it was.
const UNSTAMPED: SignedDuration = SignedDuration::from_hours(1);

/// A look that finds too many others before it comes again within this, spread by chance.
const CROWDED: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));

/// How much is known of an earlier attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strength {
    /// There may have been one.
    Weak,
    /// There was one, and its end is not known.
    Strong,
}

impl Strength {
    /// The word in headers and logs.
    pub fn name(self) -> &'static str {
        match self {
            Strength::Weak => "weak",
            Strength::Strong => "strong",
        }
    }

    /// Reads the word back.
    pub fn from_name(name: &str) -> Option<Strength> {
        [Strength::Weak, Strength::Strong].into_iter().find(|strength| strength.name() == name)
    }
}

/// A job may have been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doubt {
    /// How much is known.
    pub strength: Strength,
    /// When the attempt began that left no answer; in weak doubt, when the doubt arose.
    pub since: Timestamp,
    /// Looks made so far.
    pub looks: u32,
}

impl Doubt {
    /// An attempt began and left no answer.
    pub fn strong(since: Timestamp) -> Doubt {
        Doubt { strength: Strength::Strong, since, looks: 0 }
    }

    /// There may have been an attempt.
    pub fn weak(since: Timestamp) -> Doubt {
        Doubt { strength: Strength::Weak, since, looks: 0 }
    }
}

/// `[doubt]`, and what the last look waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DoubtPolicy {
    /// When the chat is looked at, counted from the beginning of the doubt: [`DoubtPolicy::LOOKS`].
    pub looks: [Duration; 3],
    /// What follows strong doubt that finds nothing.
    pub strong: OnDoubt,
    /// What follows weak doubt that finds nothing.
    pub weak: OnDoubt,
    /// Looking that decides nothing for so long is given up.
    pub give_up: Duration,
    /// `chakra.timeout`: a call that was under way has ended by then.
    pub longest_call: Duration,
    /// `retry.max_attempts`: after so many nothing is sent again.
    pub max_attempts: u32,
}

impl DoubtPolicy {
    /// Soon, for an answer that was cut off; and late enough for a service that was slow.
    pub const LOOKS: [Duration; 3] =
        [Duration::from_secs(2), Duration::from_secs(10), Duration::from_secs(30)];
}

/// A message of the chat that could be a job's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// `wamid.…`; none: it cannot be told from others.
    pub whatsapp_message_id: Option<String>,
    /// When it was sent; none: likewise.
    pub at: Option<Timestamp>,
}

/// What a look at the chat showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sighting {
    /// One message that no other job claims.
    Found {
        /// `wamid.…`
        whatsapp_message_id: String,
    },
    /// Several, or one that cannot be told from others.
    Several,
    /// None.
    Nothing {
        /// How long such messages take until they show; none: they were not seen to show at all.
        lag: Option<Duration>,
    },
    /// The chat could not be looked at; the reason, for a person.
    Blind(String),
    /// There is no chat to look at: the recipient is no phone number.
    NoChat,
}

/// What follows a look.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// The job has its settlement: an outcome, or another look later.
    Settle(Box<Settlement>),
    /// It was not sent, or is to be sent in any case: it goes on with this past.
    Resend(Box<History>),
}

/// What follows a look that was made at `now`; `doubt` does not count it yet.
pub fn judge(
    job: &SendJob,
    history: &History,
    doubt: &Doubt,
    sighting: Sighting,
    policy: &DoubtPolicy,
    now: Timestamp,
) -> Verdict {
    let case = Case { job, history, doubt, policy, now };
    let give_up = after(doubt.since, policy.give_up);
    let given_up = now >= give_up;
    match sighting {
        Sighting::Found { whatsapp_message_id } => {
            settle(found(job, history, whatsapp_message_id, now))
        }
        Sighting::Nothing { lag: Some(lag) } => {
            let last = last_look(doubt, policy, lag);
            match now >= last {
                true => case.nothing_there(),
                false => case.look_again(last),
            }
        }
        Sighting::NoChat => case.cannot_tell("its recipient has no chat that can be looked at"),
        Sighting::Several if given_up => case.report("the chat shows several such messages"),
        Sighting::Nothing { lag: None } if given_up => {
            case.cannot_tell("the chat does not show it, and was not seen to show such messages")
        }
        Sighting::Blind(reason) if given_up => {
            case.cannot_tell(&format!("the chat cannot be looked at: {reason}"))
        }
        Sighting::Several | Sighting::Nothing { lag: None } | Sighting::Blind(_) => {
            case.look_again(give_up)
        }
    }
}

/// What follows where the job's message was found, in its chat or in a status.
pub fn found(
    job: &SendJob,
    history: &History,
    whatsapp_message_id: String,
    now: Timestamp,
) -> Settlement {
    // Whoever made the attempt: there was one.
    let history = History { attempts: history.attempts.max(1), ..history.clone() };
    accepted(job, &history, Some(whatsapp_message_id), now)
}

/// What a chat shows. `free` are the messages like the job's that no other job claims, `others` the
/// jobs in doubt whose messages are the same: it is all the same which message is whose, so each takes
/// the first that is free. More messages than jobs are somebody else's too.
pub fn read_chat(mut free: Vec<Match>, others: usize, lag: Option<Duration>) -> Sighting {
    if free.is_empty() {
        return Sighting::Nothing { lag };
    }
    let known = free.iter().all(|found| found.whatsapp_message_id.is_some() && found.at.is_some());
    if !known || free.len() > others + 1 {
        return Sighting::Several;
    }
    free.sort_by_key(|found| found.at);
    let first = free.into_iter().next().and_then(|found| found.whatsapp_message_id);
    first.map_or(Sighting::Several, |whatsapp_message_id| Sighting::Found { whatsapp_message_id })
}

/// When the job's next look is due.
pub fn look_due(history: &History, doubt: &Doubt, policy: &DoubtPolicy) -> Timestamp {
    match (doubt.looks, history.due) {
        (1.., Some(due)) => due,
        _ => after(doubt.since, policy.looks[0]),
    }
}

/// A job that waits for a look, with what is known of it. Its `expires_at` does not end the wait:
/// evidence may still come.
pub fn in_doubt(history: &History, doubt: Doubt, due: Timestamp) -> Settlement {
    let history = History { doubt: Some(doubt), due: Some(due), ..history.clone() };
    Settlement::Reschedule(Reschedule { history, why: Why::Doubt })
}

/// Too many looks wait before this one. `chance` is 0 to 1.
pub fn look_crowded(history: &History, doubt: Doubt, now: Timestamp, chance: f64) -> Settlement {
    let (shortest, longest) = CROWDED;
    let wait = shortest + (longest - shortest).mul_f64(chance.clamp(0.0, 1.0));
    in_doubt(history, Doubt { looks: doubt.looks.max(1), ..doubt }, after(now, wait))
}

/// What was sent before this moment is not the job's.
pub fn sent_after(history: &History, doubt: &Doubt) -> Timestamp {
    let began = match doubt.strength {
        Strength::Strong => doubt.since,
        Strength::Weak => {
            let unstamped = doubt.since.checked_sub(UNSTAMPED).unwrap_or(Timestamp::MIN);
            history.enqueued_at.unwrap_or(unstamped).min(doubt.since)
        }
    };
    began.checked_sub(CLOCK_SLACK).unwrap_or(Timestamp::MIN)
}

/// Whether a status that names the job tells of this attempt: what happened before it does not. Of a replay
/// nothing is told, since its first message has the same name, and its statuses can come late.
pub fn is_told(history: &History, doubt: &Doubt, at: Timestamp) -> bool {
    history.replay.is_none() && at >= sent_after(history, doubt)
}

/// By then no call that was under way when the doubt began goes on, and the chat shows what it sent.
fn last_look(doubt: &Doubt, policy: &DoubtPolicy, lag: Duration) -> Timestamp {
    let shown = policy.longest_call.saturating_add(lag).saturating_add(MARGIN);
    after(doubt.since, shown.max(policy.looks[2]))
}

struct Case<'a> {
    job: &'a SendJob,
    history: &'a History,
    doubt: &'a Doubt,
    policy: &'a DoubtPolicy,
    now: Timestamp,
}

impl Case<'_> {
    /// The chat was seen to show such messages, and does not show this one.
    fn nothing_there(&self) -> Verdict {
        let by_default = match self.doubt.strength {
            Strength::Strong => self.policy.strong,
            Strength::Weak => self.policy.weak,
        };
        match (self.job.on_doubt.unwrap_or(by_default), self.doubt.strength) {
            (OnDoubt::Report, _) => self.report("the chat does not show it"),
            (OnDoubt::Resend, Strength::Strong) if is_expired(self.job, self.now) => {
                self.report("the chat does not show it, and its time has passed")
            }
            (OnDoubt::Resend, Strength::Weak) if is_expired(self.job, self.now) => {
                settle(expired(self.job, self.history, self.now))
            }
            (OnDoubt::Resend, _) => self.resend(),
        }
    }

    /// Looking tells nothing: only the job's own word lets it be sent again.
    fn cannot_tell(&self, reason: &str) -> Verdict {
        match self.job.on_doubt {
            Some(OnDoubt::Resend) if !is_expired(self.job, self.now) => self.resend(),
            Some(OnDoubt::Resend | OnDoubt::Report) | None => self.report(reason),
        }
    }

    fn report(&self, reason: &str) -> Verdict {
        let reason =
            format!("it may have been sent ({} doubt): {reason}", self.doubt.strength.name());
        let failure = Failure::new(Class::Ambiguous, reason);
        let history = History { doubt: Some(*self.doubt), ..self.history.clone() };
        settle(turned_away(self.job, &history, &failure, self.now))
    }

    fn resend(&self) -> Verdict {
        if self.history.spent() >= self.policy.max_attempts {
            return self.report("it was sent again as often as retry.max_attempts allows");
        }
        Verdict::Resend(Box::new(History { doubt: None, due: None, ..self.history.clone() }))
    }

    /// At the next moment of the schedule, but no later than the one that ends it.
    fn look_again(&self, last: Timestamp) -> Verdict {
        let Doubt { since, looks, .. } = *self.doubt;
        let mut scheduled = self.policy.looks.into_iter().map(|offset| after(since, offset));
        let regular = after(self.now, LOOK_EVERY);
        let due = scheduled.find(|at| *at > self.now).unwrap_or(regular).min(last);
        let doubt = Doubt { looks: looks.saturating_add(1), ..*self.doubt };
        settle(in_doubt(self.history, doubt, due))
    }
}

fn settle(settlement: Settlement) -> Verdict {
    Verdict::Settle(Box::new(settlement))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Status;
    use bytes::Bytes;

    const LAG: Duration = Duration::from_secs(5);
    const POLICY: DoubtPolicy = DoubtPolicy {
        looks: DoubtPolicy::LOOKS,
        strong: OnDoubt::Report,
        weak: OnDoubt::Resend,
        give_up: Duration::from_secs(600),
        longest_call: Duration::from_secs(30),
        max_attempts: 3,
    };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn job(on_doubt: Option<OnDoubt>) -> SendJob {
        let body = br#"{"id":"order-1","phone_number_id":"1",
            "message":{"messaging_product":"whatsapp","to":"+919901258433","text":{"body":"x"}}}"#;
        let job = SendJob::parse(&Bytes::from_static(body), None).unwrap();
        SendJob { on_doubt, ..job }
    }

    /// What follows a look at second `now` of a doubt that began at second 0.
    fn look(job: &SendJob, doubt: Doubt, sighting: Sighting, now: i64) -> String {
        let history = History { attempts: 1, ..History::fresh(at(0)) };
        match judge(job, &history, &doubt, sighting, &POLICY, at(now)) {
            Verdict::Resend(history) => {
                assert_eq!((history.doubt, history.attempts), (None, 1));
                "resend".into()
            }
            Verdict::Settle(settlement) => match *settlement {
                Settlement::Finish(event) => event.status.name().into(),
                Settlement::DeadLetter { event, .. } => {
                    let event = event.unwrap();
                    assert_eq!(event.error.unwrap().class, Class::Ambiguous);
                    assert_eq!(event.status, Status::Unknown);
                    "unknown".into()
                }
                Settlement::Reschedule(wait) => {
                    assert_eq!(wait.why, Why::Doubt);
                    assert_eq!(wait.history.doubt.unwrap().looks, doubt.looks + 1);
                    let due = wait.history.due.unwrap();
                    format!("look at {}", due.duration_since(at(0)).as_secs())
                }
            },
        }
    }

    fn strong() -> Doubt {
        Doubt::strong(at(0))
    }

    fn weak() -> Doubt {
        Doubt::weak(at(0))
    }

    fn nothing() -> Sighting {
        Sighting::Nothing { lag: Some(LAG) }
    }

    fn found() -> Sighting {
        Sighting::Found { whatsapp_message_id: "wamid.1".into() }
    }

    #[test]
    fn jobs_in_doubt_with_the_same_message_take_one_each() {
        let message = |id: &str, seconds| Match {
            whatsapp_message_id: (!id.is_empty()).then(|| id.into()),
            at: Some(at(seconds)),
        };
        let read = |free: &[Match], others| read_chat(free.to_vec(), others, Some(LAG));
        let (one, two, unnamed) = (message("b", 2), message("a", 1), message("", 1));
        let found = |id: &str| Sighting::Found { whatsapp_message_id: id.into() };
        assert_eq!(read(&[], 0), nothing());
        assert_eq!(read(std::slice::from_ref(&one), 0), found("b"));
        assert_eq!(read(&[one.clone(), two.clone()], 1), found("a"));
        assert_eq!(read(&[one.clone(), two.clone()], 0), Sighting::Several, "somebody else's too");
        assert_eq!(read(std::slice::from_ref(&one), 1), found("b"));
        assert_eq!(read(&[one, unnamed.clone()], 1), Sighting::Several);
        assert_eq!(read(&[Match { at: None, ..two }], 0), Sighting::Several);
        assert_eq!(read(&[unnamed], 0), Sighting::Several);
    }

    #[test]
    fn one_match_is_evidence_at_once() {
        for doubt in [strong(), weak()] {
            assert_eq!(look(&job(None), doubt, found(), 2), "accepted");
            assert_eq!(look(&job(Some(OnDoubt::Resend)), doubt, found(), 2), "accepted");
        }
    }

    #[test]
    fn nothing_is_looked_for_again_until_a_hanging_call_must_show() {
        for (now, next) in [(2, 10), (4, 10), (10, 30), (30, 37), (36, 37)] {
            assert_eq!(look(&job(None), weak(), nothing(), now), format!("look at {next}"));
        }
        assert_eq!(look(&job(None), weak(), nothing(), 37), "resend");
    }

    #[test]
    fn strong_doubt_that_finds_nothing_is_reported_and_weak_doubt_is_sent_again() {
        assert_eq!(look(&job(None), strong(), nothing(), 37), "unknown");
        assert_eq!(look(&job(None), weak(), nothing(), 37), "resend");
    }

    #[test]
    fn the_job_s_own_word_goes_over_both_defaults() {
        assert_eq!(look(&job(Some(OnDoubt::Resend)), strong(), nothing(), 37), "resend");
        assert_eq!(look(&job(Some(OnDoubt::Report)), weak(), nothing(), 37), "unknown");
    }

    #[test]
    fn a_chat_that_cannot_be_looked_at_is_never_taken_for_nothing() {
        let unproven = Sighting::Nothing { lag: None };
        for sighting in [Sighting::Blind("HTTP 403".into()), unproven, Sighting::Several] {
            assert_eq!(look(&job(None), weak(), sighting.clone(), 37), "look at 97");
            assert_eq!(look(&job(None), weak(), sighting.clone(), 600), "unknown");
        }
    }

    #[test]
    fn only_the_job_s_own_word_resends_where_looking_tells_nothing() {
        let resend = job(Some(OnDoubt::Resend));
        for sighting in [Sighting::Blind("HTTP 500".into()), Sighting::Nothing { lag: None }] {
            assert_eq!(look(&resend, weak(), sighting, 600), "resend");
        }
        assert_eq!(look(&resend, strong(), Sighting::NoChat, 2), "resend");
        assert_eq!(look(&job(None), weak(), Sighting::NoChat, 2), "unknown");
    }

    #[test]
    fn nothing_is_sent_again_without_an_end() {
        let resend = job(Some(OnDoubt::Resend));
        for (attempts, is_sent) in [(2, true), (3, false)] {
            let history = History { attempts, ..History::fresh(at(0)) };
            let verdict = judge(&resend, &history, &strong(), nothing(), &POLICY, at(37));
            assert_eq!(matches!(verdict, Verdict::Resend(_)), is_sent, "after {attempts}");
        }
    }

    #[test]
    fn several_matches_are_never_sent_again() {
        assert_eq!(look(&job(Some(OnDoubt::Resend)), strong(), Sighting::Several, 600), "unknown");
    }

    #[test]
    fn strong_doubt_never_becomes_expired() {
        let late = |on_doubt| SendJob { expires_at: Some(at(5)), ..job(on_doubt) };
        let resend = Some(OnDoubt::Resend);
        assert_eq!(look(&late(resend), strong(), nothing(), 37), "unknown");
        assert_eq!(look(&late(None), strong(), nothing(), 10), "look at 30");
        assert_eq!(look(&late(resend), weak(), Sighting::NoChat, 37), "unknown");
        assert_eq!(look(&late(None), weak(), nothing(), 37), "expired", "it surely was not sent");
    }

    #[test]
    fn the_first_look_comes_two_seconds_after_the_beginning_and_the_next_when_it_is_due() {
        let fresh = History { due: Some(at(99)), ..History::fresh(at(0)) };
        assert_eq!(look_due(&fresh, &strong(), &POLICY), at(2));
        assert_eq!(look_due(&fresh, &Doubt { looks: 1, ..strong() }, &POLICY), at(99));
    }

    #[test]
    fn what_tells_of_an_attempt_is_not_older_but_for_the_clocks_and_of_a_replay_only_the_chat_tells()
     {
        let fresh = History::fresh(at(0));
        assert_eq!(sent_after(&fresh, &strong()), at(-30));
        assert_eq!(sent_after(&fresh, &weak()), at(-3630));
        let stamped = History { enqueued_at: Some(at(-100)), ..fresh.clone() };
        assert_eq!(sent_after(&stamped, &weak()), at(-130));
        let ahead = History { enqueued_at: Some(at(100)), ..fresh.clone() };
        assert_eq!(sent_after(&ahead, &weak()), at(-30));
        assert!(is_told(&fresh, &strong(), at(-30)) && !is_told(&fresh, &strong(), at(-31)));
        let replayed = History { replay: Some(1), ..fresh };
        assert!(!is_told(&replayed, &strong(), at(60)));
    }
}
