//! What an earlier delivery of a job means for this one.
#![warn(clippy::wildcard_enum_match_arm)]

use super::{Doubt, Failure, History, Settlement, turned_away};
use crate::wire::{Class, ResultEvent, SendJob, Status};
use jiff::Timestamp;

/// What is remembered of a job.
#[derive(Debug, Clone)]
pub enum Past {
    /// No attempt is known.
    Unseen {
        /// Deliveries of it that came to us before this one.
        deliveries: u32,
    },
    /// An attempt began and left no answer.
    Begun {
        /// Its number, from 1.
        attempt: u32,
        /// When.
        at: Timestamp,
    },
    /// Its last attempt was answered, and it is to be tried again.
    Answered(Box<History>),
    /// It has its outcome.
    Finished(Box<Outcome>),
    /// Its id belongs to another message.
    Another,
}

/// What is remembered of a job that has ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Its event, without the metadata: each delivery has its own.
    pub event: ResultEvent,
    /// Why its original went to the dead letters, if it did.
    pub dead_letter: Option<(Class, String)>,
}

impl Outcome {
    /// What is to be remembered of a settlement. None for a job that goes on; none for `invalid` and
    /// `expired`: nothing was sent, and a second try may be lawful or in time.
    pub fn of(settlement: &Settlement) -> Option<Outcome> {
        let (event, dead_letter) = match settlement {
            Settlement::Finish(event) => (event, None),
            Settlement::DeadLetter { event, class, reason, .. } => {
                (event.as_ref()?, Some((*class, reason.clone())))
            }
            Settlement::Reschedule(_) => return None,
        };
        let invalid = event.error.as_ref().is_some_and(|error| error.class == Class::Invalid);
        let remembered = !invalid && event.status != Status::Expired;
        let event = ResultEvent { metadata: None, ..event.clone() };
        remembered.then_some(Outcome { event, dead_letter })
    }

    /// The same outcome again, for a delivery of the job with this past.
    fn again(self, job: &SendJob, history: &History) -> Settlement {
        let event = ResultEvent { metadata: job.metadata.clone(), ..self.event };
        match self.dead_letter {
            None => Settlement::Finish(event),
            Some((class, reason)) => Settlement::DeadLetter {
                event: Some(event),
                class,
                reason,
                history: history.clone(),
            },
        }
    }
}

/// Where a job stands when it is taken up.
#[derive(Debug, Clone)]
pub enum Standing {
    /// It may go on, with this past.
    Clear(Box<History>),
    /// It may have been sent.
    Doubt(Doubt, Box<History>),
    /// It has its settlement.
    Settled(Box<Settlement>),
}

/// What an earlier delivery means. `earlier` are this message's deliveries before this one, to
/// anybody, as the broker counts them.
pub fn recall(
    job: &SendJob,
    history: &History,
    earlier: u32,
    past: Past,
    now: Timestamp,
) -> Standing {
    // A read receipt or typing indicator harms nobody twice, and shows in no chat.
    let repeatable = job.message.recipient().is_none();
    match past {
        Past::Another => {
            let failure = Failure::new(Class::Invalid, "id already used for another message");
            Standing::Settled(Box::new(turned_away(job, history, &failure, now)))
        }
        Past::Finished(outcome) => Standing::Settled(Box::new(outcome.again(job, history))),
        Past::Begun { .. } | Past::Unseen { .. } if repeatable => {
            Standing::Clear(Box::new(history.clone()))
        }
        Past::Begun { attempt, at } => {
            let doubt = match history.doubt {
                // It comes back from a look.
                Some(doubt) if doubt == (Doubt { looks: doubt.looks, ..Doubt::strong(at) }) => {
                    doubt
                }
                Some(_) | None => Doubt::strong(at),
            };
            let attempts = history.attempts.max(attempt);
            Standing::Doubt(doubt, Box::new(History { attempts, ..history.clone() }))
        }
        Past::Answered(remembered) => Standing::Clear(Box::new(merged(history, *remembered))),
        Past::Unseen { deliveries } => {
            let doubt = match history.doubt {
                Some(doubt) => Some(doubt),
                // Its twin, left behind when it was put to wait, may have been sent; or another
                // worker has begun it.
                None if history.attempts > 0 || earlier > deliveries => Some(Doubt::weak(now)),
                None => None,
            };
            match doubt {
                Some(doubt) => Standing::Doubt(doubt, Box::new(history.clone())),
                None => Standing::Clear(Box::new(history.clone())),
            }
        }
    }
}

/// The attempts of all its deliveries, and the longer wait.
fn merged(history: &History, remembered: History) -> History {
    let newer = if history.attempts > remembered.attempts { history } else { &remembered };
    History {
        attempts: newer.attempts,
        free_attempts: newer.free_attempts,
        first_attempt: newer.first_attempt,
        last_error: newer.last_error.clone(),
        due: history.due.max(newer.due),
        doubt: None,
        ..history.clone()
    }
}
