//! What follows for a job: from an answer, from a wait, from a body that is no job.
//!
//! | class | settlement | attempt spent |
//! |---|---|---|
//! | accepted | `Finish(accepted)` | |
//! | refused | `Finish(failed)` | |
//! | invalid | `DeadLetter(failed)` | |
//! | throttled, blocked | `Reschedule`: a pause counts neither as an attempt nor as age | no |
//! | unavailable | `Reschedule` by the schedule; at its end, or past `max_age`, `DeadLetter(failed)` | yes |
//! | ambiguous | `Reschedule` in strong doubt: it is looked for before anything else | yes |
//!
//! An ambiguous receipt (read, typing) is repeated like an unavailable one: it harms nobody twice.
//! A retry that could only start after `expires_at` ends the job as `expired` at once.
#![warn(clippy::wildcard_enum_match_arm)]

use super::doubt::in_doubt;
use super::{Answer, Doubt, Failure, History, RetryPolicy};
use crate::wire::{
    Class, ErrorBody, InvalidJob, JobId, NumberId, ResultEvent, Scope, SendJob, Status,
};
use jiff::Timestamp;
use std::time::Duration;

/// A blocked scope is asked again no sooner, where its row in the code table says nothing.
const BLOCKED_WAIT: Duration = Duration::from_secs(60);

/// What is to be done with a job. The queue that it came from carries it out.
#[derive(Debug, Clone)]
pub enum Settlement {
    /// It has its outcome.
    Finish(ResultEvent),
    /// It has its outcome, and a person may want to repair it: the original goes to the dead letters.
    DeadLetter {
        /// None where no id could be read.
        event: Option<ResultEvent>,
        /// Why, as a closed word.
        class: Class,
        /// Why, as a sentence.
        reason: String,
        /// Its past, the last attempt included, as it is to stand beside the original.
        history: History,
    },
    /// It waits outside the worker and comes back.
    Reschedule(Reschedule),
}

/// A job on its way to a wait.
#[derive(Debug, Clone)]
pub struct Reschedule {
    /// Its past, `due` included, as it is to travel with the job.
    pub history: History,
    /// What it waits for.
    pub why: Why,
}

/// What a job waits for (`x-reason` while it waits).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Why {
    /// Its next attempt. It has had its turn, so it returns before the normal ones.
    Retry,
    /// Its own `not_before`.
    NotBefore,
    /// The moment that its recipient's gate promised.
    Recipient,
    /// A hold of its number or account.
    Hold,
    /// The next look for its message: it may have been sent. It returns before the normal ones.
    Doubt,
    /// The end of another job's doubt, whose message to the same recipient is the same.
    Identical,
    /// Another worker, since this one stops or hands its lane over.
    HandedBack,
}

impl Why {
    /// Each of them.
    pub const ALL: [Why; 7] = [
        Why::Retry,
        Why::NotBefore,
        Why::Recipient,
        Why::Hold,
        Why::Doubt,
        Why::Identical,
        Why::HandedBack,
    ];

    /// The word in headers, logs and labels.
    pub fn name(self) -> &'static str {
        match self {
            Why::Retry => "retry",
            Why::NotBefore => "not-before",
            Why::Recipient => "recipient",
            Why::Hold => "hold",
            Why::Doubt => "doubt",
            Why::Identical => "identical",
            Why::HandedBack => "handed-back",
        }
    }

    /// Reads the word back.
    pub fn from_name(name: &str) -> Option<Why> {
        Why::ALL.into_iter().find(|why| why.name() == name)
    }
}

/// After an attempt that `began` then. `history` is the job's past without this attempt, `chance` is
/// 0 to 1.
pub fn conclude(
    job: &SendJob,
    history: &History,
    answer: Answer,
    retry: &RetryPolicy,
    (began, now): (Timestamp, Timestamp),
    chance: f64,
) -> Settlement {
    let mut history = history.waited_until(began);
    history.attempts = history.attempts.saturating_add(1);
    let failure = match answer {
        Answer::Accepted { whatsapp_message_id } => {
            return accepted(job, &history, whatsapp_message_id, now);
        }
        Answer::Failed(failure) => failure,
    };
    history.last_error = Some(failure.short());
    let is_message = job.message.recipient().is_some();
    if failure.class == Class::Ambiguous && is_message {
        return in_doubt(&history, Doubt::strong(began), now);
    }
    let first_attempt = *history.first_attempt.get_or_insert(now);
    let (delay, is_pause) = match failure.class {
        Class::Refused => return Settlement::Finish(failed(job, &history, &failure, now)),
        Class::Invalid => return give_up(failed(job, &history, &failure, now), &failure, history),
        Class::Throttled | Class::Blocked => {
            history.free_attempts = history.free_attempts.saturating_add(1);
            let blocked = (failure.class == Class::Blocked).then_some(BLOCKED_WAIT);
            let delay = match (failure.scope, failure.wait) {
                // The pair's own wait, which all its jobs keep and which grows with its refusals: this
                // one must not come back after the others.
                (Scope::Recipient, Some(wait)) => wait,
                (_, wait) => retry.jittered(history.free_attempts, wait.or(blocked), chance),
            };
            (delay, true)
        }
        Class::Unavailable | Class::Ambiguous => {
            (retry.jittered(history.spent(), failure.wait, chance), false)
        }
    };
    let due = after(now, delay);
    if is_pause {
        history.first_attempt = Some(after(first_attempt, delay));
    } else {
        let most = failure.max_attempts.unwrap_or(u32::MAX).min(retry.max_attempts);
        if history.spent() >= most || due > after(first_attempt, retry.max_age) {
            return give_up(failed(job, &history, &failure, now), &failure, history);
        }
    }
    if job.expires_at.is_some_and(|end| due > end) {
        return Settlement::Finish(ResultEvent {
            status: Status::Expired,
            ..failed(job, &history, &failure, now)
        });
    }
    history.due = Some(due);
    Settlement::Reschedule(Reschedule { history, why: Why::Retry })
}

/// A message that Meta took in.
pub fn accepted(
    job: &SendJob,
    history: &History,
    whatsapp_message_id: Option<String>,
    now: Timestamp,
) -> Settlement {
    Settlement::Finish(ResultEvent { whatsapp_message_id, ..outcome(job, history, now) })
}

/// A job whose time passed before it could be sent.
pub fn expired(job: &SendJob, history: &History, now: Timestamp) -> Settlement {
    Settlement::Finish(ResultEvent { status: Status::Expired, ..outcome(job, history, now) })
}

/// A job that must wait until `due`, and costs nothing meanwhile. One that would wait past its
/// `expires_at` waits until then, and expires.
pub fn later(job: &SendJob, history: &History, due: Timestamp, why: Why) -> Settlement {
    let due = job.expires_at.map_or(due, |end| due.min(end));
    let history = History { due: Some(due), ..history.waited_until(due) };
    Settlement::Reschedule(Reschedule { history, why })
}

/// A job that another worker is to have, unchanged.
pub fn given_back(history: &History) -> Settlement {
    Settlement::Reschedule(Reschedule { history: history.clone(), why: Why::HandedBack })
}

/// A body that is no lawful job.
pub fn unreadable(invalid: &InvalidJob, history: &History, now: Timestamp) -> Settlement {
    let failure = Failure::new(Class::Invalid, invalid.reason.as_str());
    let event = invalid.id.clone().map(|id| ResultEvent {
        status: Status::Failed,
        error: Some(failure.to_body()),
        metadata: invalid.metadata.clone(),
        ..bare(id, invalid.phone_number_id.clone(), history, now)
    });
    let history = history.clone();
    Settlement::DeadLetter { event, class: Class::Invalid, reason: failure.message, history }
}

/// A lawful job that cannot be sent for a reason outside of any attempt.
pub fn turned_away(
    job: &SendJob,
    history: &History,
    failure: &Failure,
    now: Timestamp,
) -> Settlement {
    let mut event = failed(job, history, failure, now);
    if failure.class == Class::Ambiguous {
        event.status = Status::Unknown;
    }
    give_up(event, failure, history.clone())
}

fn give_up(event: ResultEvent, failure: &Failure, history: History) -> Settlement {
    Settlement::DeadLetter {
        event: Some(event),
        class: failure.class,
        reason: failure.message.clone(),
        history,
    }
}

pub(super) fn failed(
    job: &SendJob,
    history: &History,
    failure: &Failure,
    now: Timestamp,
) -> ResultEvent {
    let error: ErrorBody = failure.to_body();
    ResultEvent { status: Status::Failed, error: Some(error), ..outcome(job, history, now) }
}

fn outcome(job: &SendJob, history: &History, now: Timestamp) -> ResultEvent {
    ResultEvent {
        metadata: job.metadata.clone(),
        ..bare(job.id.clone(), Some(job.phone_number_id.clone()), history, now)
    }
}

fn bare(id: JobId, number: Option<NumberId>, history: &History, now: Timestamp) -> ResultEvent {
    ResultEvent {
        id,
        phone_number_id: number,
        status: Status::Accepted,
        whatsapp_message_id: None,
        attempts: history.attempts,
        error: None,
        metadata: None,
        enqueued_at: history.enqueued_at,
        received_at: history.first_received,
        finished_at: now,
        replay: history.replay,
    }
}

/// `at + delay`, or the end of time where that overflows.
pub(super) fn after(at: Timestamp, delay: Duration) -> Timestamp {
    at.checked_add(delay).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn job(expires_at: Option<i64>) -> SendJob {
        let body = br#"{"id":"order-1","phone_number_id":"1","metadata":{"order":1},
            "message":{"messaging_product":"whatsapp","to":"+919901258433","text":{"body":"x"}}}"#;
        let mut job = SendJob::parse(&Bytes::from_static(body), None).unwrap();
        job.expires_at = expires_at.map(at);
        job
    }

    fn policy() -> RetryPolicy {
        RetryPolicy {
            initial: Duration::from_secs(1),
            factor: 4.0,
            max_delay: Duration::from_secs(3600),
            max_attempts: 3,
            max_age: Duration::from_secs(600),
        }
    }

    /// The settlement at second 0, with chance in the middle: no jitter without a hint.
    fn after(history: &History, failure: Failure) -> Settlement {
        conclude(&job(None), history, Answer::Failed(failure), &policy(), (at(-1), at(0)), 0.5)
    }

    fn status(settlement: &Settlement) -> (&'static str, Status) {
        match settlement {
            Settlement::Finish(event) => ("finish", event.status),
            Settlement::DeadLetter { event: Some(event), .. } => ("dead letter", event.status),
            Settlement::DeadLetter { event: None, .. } | Settlement::Reschedule(_) => {
                panic!("{settlement:?} has no outcome")
            }
        }
    }

    fn wait(settlement: &Settlement) -> &Reschedule {
        match settlement {
            Settlement::Reschedule(wait) => wait,
            Settlement::Finish(_) | Settlement::DeadLetter { .. } => {
                panic!("{settlement:?} does not wait")
            }
        }
    }

    #[test]
    fn an_accepted_message_ends_the_job_with_its_id_and_its_metadata() {
        let answer = Answer::Accepted { whatsapp_message_id: Some("wamid.1".into()) };
        let history = History { attempts: 2, ..History::fresh(at(-9)) };
        let Settlement::Finish(event) =
            conclude(&job(None), &history, answer, &policy(), (at(-1), at(0)), 0.5)
        else {
            panic!("not finished");
        };
        assert_eq!((event.status, event.attempts), (Status::Accepted, 3));
        assert_eq!(event.whatsapp_message_id.as_deref(), Some("wamid.1"));
        assert_eq!((event.received_at, event.finished_at), (at(-9), at(0)));
        assert!(event.metadata.is_some() && event.error.is_none());
    }

    #[test]
    fn what_meta_refuses_is_told_and_not_repeated() {
        let settlement = after(&History::fresh(at(0)), Failure::new(Class::Refused, "no"));
        assert_eq!(status(&settlement), ("finish", Status::Failed));
    }

    #[test]
    fn what_may_have_been_sent_is_in_strong_doubt_since_its_attempt_began() {
        let mut history = History::fresh(at(-9));
        history.doubt = Some(Doubt { looks: 4, ..Doubt::strong(at(-9)) });
        let settlement = after(&history, Failure::new(Class::Ambiguous, "cut"));
        let wait = wait(&settlement);
        assert_eq!((wait.why, wait.history.due), (Why::Doubt, Some(at(0))));
        assert_eq!(wait.history.doubt, Some(Doubt::strong(at(-1))));
        assert_eq!(wait.history.attempts, 1);
    }

    #[test]
    fn an_unavailable_service_is_tried_again_by_the_schedule_until_the_attempts_are_spent() {
        let failure = || Failure::new(Class::Unavailable, "503");
        let first = after(&History::fresh(at(0)), failure());
        let first = wait(&first);
        assert_eq!((first.why, first.history.due), (Why::Retry, Some(at(1))));
        let second = after(&first.history, failure());
        let second = wait(&second);
        assert_eq!((second.history.attempts, second.history.due), (2, Some(at(4))));
        assert_eq!(second.history.first_attempt, Some(at(0)));
        let third = after(&second.history, failure());
        assert_eq!(status(&third), ("dead letter", Status::Failed));
    }

    #[test]
    fn a_throttled_or_blocked_scope_costs_no_attempt() {
        for class in [Class::Throttled, Class::Blocked] {
            let mut history = History::fresh(at(0));
            for _ in 0..10 {
                let failure = Failure { scope: Scope::Number, ..Failure::new(class, "slow") };
                history = History { due: None, ..wait(&after(&history, failure)).history.clone() };
            }
            assert_eq!((history.attempts, history.spent()), (10, 0));
        }
    }

    #[test]
    fn a_throttled_pair_waits_as_long_as_all_its_jobs() {
        let history = History { attempts: 5, free_attempts: 5, ..History::fresh(at(0)) };
        let wait = Some(Duration::from_secs(4));
        let pair = Failure { scope: Scope::Recipient, wait, ..Failure::new(Class::Throttled, "") };
        assert_eq!(self::wait(&after(&history, pair)).history.due, Some(at(4)));
    }

    #[test]
    fn nothing_is_tried_again_past_the_greatest_age() {
        let history = History { first_attempt: Some(at(-600)), ..History::fresh(at(-600)) };
        let settlement = after(&history, Failure::new(Class::Unavailable, "still"));
        assert_eq!(status(&settlement), ("dead letter", Status::Failed));
    }

    #[test]
    fn a_pause_does_not_count_as_age() {
        for class in [Class::Throttled, Class::Blocked] {
            let history = History { first_attempt: Some(at(-500)), ..History::fresh(at(-500)) };
            let hour = Failure { wait: Some(Duration::from_secs(3600)), ..Failure::new(class, "") };
            let settlement = after(&history, hour);
            let paused = wait(&settlement).history.clone();
            // Longer than max_age, and yet the job is as old after it as before.
            let due = paused.due.unwrap();
            assert!(due >= at(3600));
            assert_eq!(due.duration_since(paused.first_attempt.unwrap()).as_secs(), 500);
        }
    }

    #[test]
    fn what_a_job_waits_for_its_turn_does_not_count_as_age() {
        let tried = History { first_attempt: Some(at(-900)), ..History::fresh(at(-900)) };
        let unavailable = || Failure::new(Class::Unavailable, "still");
        // It was due 300 s after its first attempt, and its number was paused since.
        let paused = History { due: Some(at(-600)), ..tried.clone() };
        let again = wait(&after(&paused, unavailable())).history.clone();
        assert_eq!(again.first_attempt, Some(at(-301)), "the attempt began at -1");
        // It was put off meanwhile, or given back: the same.
        let Settlement::Reschedule(put_off) = later(&job(None), &paused, at(-100), Why::Hold)
        else {
            panic!("not put off")
        };
        let again = wait(&after(&put_off.history, unavailable())).history.clone();
        assert_eq!(again.first_attempt, Some(at(-301)));
        // Due only now, its age is what it is.
        let due = History { due: Some(at(-1)), ..tried };
        assert_eq!(status(&after(&due, unavailable())), ("dead letter", Status::Failed));
    }

    #[test]
    fn a_vendor_who_says_that_more_tries_do_not_help_is_believed() {
        let failure =
            Failure { max_attempts: Some(1), ..Failure::new(Class::Unavailable, "code 1") };
        let settlement = after(&History::fresh(at(0)), failure);
        assert_eq!(status(&settlement), ("dead letter", Status::Failed));
    }

    #[test]
    fn a_hint_of_the_service_is_the_least_wait() {
        let failure = Failure {
            wait: Some(Duration::from_secs(60)),
            ..Failure::new(Class::Throttled, "slow down")
        };
        let settlement = after(&History::fresh(at(0)), failure);
        let due = wait(&settlement).history.due.unwrap();
        assert!(due >= at(60) && due <= at(75), "{due}");
    }

    #[test]
    fn a_retry_that_would_come_too_late_expires_the_job_at_once() {
        let failure = Failure::new(Class::Unavailable, "503");
        let history = History { attempts: 1, ..History::fresh(at(0)) };
        let (answer, times) = (Answer::Failed(failure), (at(-1), at(0)));
        let settlement = conclude(&job(Some(2)), &history, answer, &policy(), times, 0.5);
        assert_eq!(status(&settlement), ("finish", Status::Expired));
    }

    #[test]
    fn a_wait_ends_when_the_job_expires() {
        let settlement = later(&job(Some(30)), &History::fresh(at(0)), at(90), Why::Recipient);
        assert_eq!(wait(&settlement).history.due, Some(at(30)));
    }

    #[test]
    fn a_body_without_an_id_gets_no_result_but_is_kept_with_the_reason() {
        let invalid = SendJob::parse(&Bytes::from_static(b"{}"), None).unwrap_err();
        let Settlement::DeadLetter { event, class, reason, .. } =
            unreadable(&invalid, &History::fresh(at(0)), at(0))
        else {
            panic!("not a dead letter");
        };
        assert!(event.is_none() && class == Class::Invalid && reason.contains("phone_number_id"));
    }
}
