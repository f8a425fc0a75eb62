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
    Answered {
        /// What it left.
        history: Box<History>,
        /// Deliveries of its present message that came to us before this one.
        deliveries: u32,
    },
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
    /// What is to be remembered of a settlement, where there is something.
    pub fn of(settlement: &Settlement) -> Option<Outcome> {
        let event = remembered(settlement)?;
        let dead_letter = match settlement {
            Settlement::DeadLetter { class, reason, .. } => Some((*class, reason.clone())),
            Settlement::Finish(_) | Settlement::Reschedule(_) => None,
        };
        Some(Outcome { event: ResultEvent { metadata: None, ..event.clone() }, dead_letter })
    }

    /// Whether there is something to be remembered of a settlement.
    pub fn is_remembered(settlement: &Settlement) -> bool {
        remembered(settlement).is_some()
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

/// None for a job that goes on; none for `invalid` and `expired`: nothing was sent, and a second try may be
/// lawful or in time.
fn remembered(settlement: &Settlement) -> Option<&ResultEvent> {
    let event = match settlement {
        Settlement::Finish(event) => event,
        Settlement::DeadLetter { event, .. } => event.as_ref()?,
        Settlement::Reschedule(_) => return None,
    };
    let invalid = event.error.as_ref().is_some_and(|error| error.class == Class::Invalid);
    (!invalid && event.status != Status::Expired).then_some(event)
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
        Past::Answered { history: remembered, deliveries } => {
            let newer = history.attempts > remembered.attempts;
            match history.doubt {
                // Somebody else has tried it since.
                Some(doubt) if newer && !repeatable => {
                    Standing::Doubt(doubt, Box::new(history.clone()))
                }
                None if (newer || earlier > deliveries) && !repeatable => {
                    Standing::Doubt(Doubt::weak(now), Box::new(merged(history, *remembered)))
                }
                // Its own doubt ended with what is remembered.
                Some(_) | None => Standing::Clear(Box::new(merged(history, *remembered))),
            }
        }
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

/// The past that knows of more attempts, and the longer wait.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Strength, accepted, expired};
    use bytes::Bytes;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn parse(body: &'static str) -> SendJob {
        SendJob::parse(&Bytes::from_static(body.as_bytes()), None).unwrap()
    }

    fn job() -> SendJob {
        parse(
            r#"{"id":"order-1","phone_number_id":"1","metadata":"mine","message":
                {"messaging_product":"whatsapp","to":"+919901258433","text":{"body":"x"}}}"#,
        )
    }

    fn receipt() -> SendJob {
        parse(
            r#"{"id":"read-1","phone_number_id":"1","message":
                {"messaging_product":"whatsapp","status":"read","message_id":"wamid.1"}}"#,
        )
    }

    fn tried(attempts: u32, doubt: Option<Doubt>) -> History {
        History { attempts, doubt, ..History::fresh(at(-9)) }
    }

    fn unseen(deliveries: u32) -> Past {
        Past::Unseen { deliveries }
    }

    fn begun() -> Past {
        Past::Begun { attempt: 2, at: at(-5) }
    }

    /// `clear`, or the doubt; never a settlement.
    fn stands(job: &SendJob, history: &History, earlier: u32, past: Past) -> Option<Doubt> {
        match recall(job, history, earlier, past, at(0)) {
            Standing::Clear(_) => None,
            Standing::Doubt(doubt, _) => Some(doubt),
            Standing::Settled(settlement) => panic!("{settlement:?}"),
        }
    }

    #[test]
    fn a_job_that_nobody_has_seen_is_clear() {
        assert_eq!(stands(&job(), &tried(0, None), 0, unseen(0)), None);
    }

    #[test]
    fn deliveries_that_were_all_ours_and_began_nothing_are_no_doubt() {
        assert_eq!(stands(&job(), &tried(0, None), 3, unseen(3)), None);
        assert_eq!(stands(&job(), &tried(0, None), 0, unseen(3)), None, "the broker counted anew");
    }

    #[test]
    fn a_delivery_that_was_somebody_elses_is_weak_doubt() {
        for (earlier, ours) in [(1, 0), (3, 2)] {
            let doubt = stands(&job(), &tried(0, None), earlier, unseen(ours));
            assert_eq!(doubt, Some(Doubt::weak(at(0))));
        }
    }

    #[test]
    fn an_attempt_that_is_not_remembered_is_weak_doubt() {
        assert_eq!(stands(&job(), &tried(1, None), 0, unseen(0)), Some(Doubt::weak(at(0))));
    }

    #[test]
    fn a_doubt_that_travels_with_the_job_is_never_weakened() {
        let doubt = Doubt { looks: 2, ..Doubt::strong(at(-7)) };
        assert_eq!(stands(&job(), &tried(1, Some(doubt)), 0, unseen(0)), Some(doubt));
        let weak = Doubt { strength: Strength::Weak, ..doubt };
        assert_eq!(stands(&job(), &tried(1, Some(weak)), 0, begun()), Some(Doubt::strong(at(-5))));
    }

    #[test]
    fn what_was_begun_is_strong_doubt_since_then_and_keeps_its_looks() {
        assert_eq!(stands(&job(), &tried(0, None), 1, begun()), Some(Doubt::strong(at(-5))));
        let looked = Doubt { looks: 2, ..Doubt::strong(at(-5)) };
        assert_eq!(stands(&job(), &tried(2, Some(looked)), 0, begun()), Some(looked));
        let Standing::Doubt(_, history) = recall(&job(), &tried(1, None), 0, begun(), at(0)) else {
            panic!("no doubt");
        };
        assert_eq!(history.attempts, 2, "the attempt that left no answer counts");
    }

    #[test]
    fn an_answered_attempt_goes_on_with_the_longer_past() {
        let remembered = History { due: Some(at(60)), ..tried(3, None) };
        let ended = Doubt { looks: 3, ..Doubt::strong(at(-70)) };
        for mine in [tried(0, None), tried(3, None), tried(3, Some(ended))] {
            let Standing::Clear(history) = recall(&job(), &mine, 1, answered(&remembered), at(0))
            else {
                panic!("not clear");
            };
            assert_eq!((history.attempts, history.doubt), (3, None));
            assert_eq!(history.due, Some(at(60)), "the wait goes with its attempt");
        }
    }

    fn answered(history: &History) -> Past {
        Past::Answered { history: Box::new(history.clone()), deliveries: 1 }
    }

    #[test]
    fn an_answered_attempt_does_not_hide_what_another_worker_did_since() {
        let remembered = tried(1, None);
        let doubt = Doubt::strong(at(-7));
        let past = || answered(&remembered);
        assert_eq!(stands(&job(), &tried(2, Some(doubt)), 0, past()), Some(doubt));
        assert_eq!(stands(&job(), &tried(2, None), 0, past()), Some(Doubt::weak(at(0))));
        assert_eq!(stands(&job(), &tried(1, None), 2, past()), Some(Doubt::weak(at(0))));
        assert_eq!(stands(&receipt(), &tried(2, None), 2, past()), None);
    }

    #[test]
    fn a_finished_job_gets_its_outcome_again_with_the_metadata_of_this_delivery() {
        let first = accepted(&job(), &tried(1, None), Some("wamid.1".into()), at(-3));
        let outcome = Outcome::of(&first).unwrap();
        assert!(outcome.event.metadata.is_none());
        let past = Past::Finished(Box::new(outcome));
        let Standing::Settled(again) = recall(&job(), &tried(0, None), 1, past, at(0)) else {
            panic!("not settled");
        };
        assert_eq!(format!("{again:?}"), format!("{first:?}"));
    }

    #[test]
    fn an_id_of_another_message_is_invalid() {
        let standing = recall(&job(), &tried(0, None), 0, Past::Another, at(0));
        let Standing::Settled(settlement) = standing else { panic!("not settled") };
        let Settlement::DeadLetter { class, reason, .. } = *settlement else {
            panic!("no dead letter")
        };
        assert_eq!((class, &*reason), (Class::Invalid, "id already used for another message"));
    }

    #[test]
    fn invalid_and_expired_jobs_are_not_remembered() {
        let history = tried(0, None);
        for (failure, remembered) in [(Class::Invalid, false), (Class::Ambiguous, true)] {
            let settlement = turned_away(&job(), &history, &Failure::new(failure, ""), at(0));
            assert_eq!(Outcome::of(&settlement).is_some(), remembered, "{failure:?}");
        }
        assert!(Outcome::of(&expired(&job(), &history, at(0))).is_none());
    }

    #[test]
    fn a_read_receipt_is_never_in_doubt() {
        assert_eq!(stands(&receipt(), &tried(1, None), 2, unseen(0)), None);
        assert_eq!(stands(&receipt(), &tried(1, None), 2, begun()), None);
    }
}
