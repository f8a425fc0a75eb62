//! One job's entry, and how it stands on disk. Quiet.
//!
//! The order of fields and variants here, and of `Status`, `Class` and `Scope`, is the format of the
//! records: what is new is added at the end, and anything else needs a new `store::FORMAT`.

use super::identity::{self, Identity, Named};
use crate::policy::{History, Outcome, Past};
use crate::wire::{Class, ErrorBody, JobId, ResultEvent, Status};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What is known of one job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) fingerprint: u128,
    /// Deliveries of its present message that came to us and began nothing.
    pub(super) deliveries: u32,
    /// Of its content, once it is in doubt.
    pub(super) content: Option<u128>,
    /// When it last changed, in milliseconds of Unix time.
    pub(super) changed: i64,
    pub(super) state: State,
}

/// How far it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum State {
    /// Delivered, not begun.
    Received,
    /// Its attempt with this number began then, in milliseconds of Unix time.
    Begun { attempt: u32, at: i64 },
    /// Its last attempt was answered, and it is tried again.
    Answered(Box<Answered>),
    /// It has its outcome.
    Finished(Box<Finished>),
}

/// Which job a message of Meta's belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) key: u128,
    /// When the job was known to be accepted, in milliseconds of Unix time, and its id. Claims of an earlier
    /// version have neither.
    owner: Option<(i64, JobId)>,
}

/// The part of a job's past that an attempt leaves.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Answered {
    attempts: u32,
    free_attempts: u32,
    first_received: i64,
    first_attempt: Option<i64>,
    last_error: Option<String>,
    due: Option<i64>,
}

/// An outcome without what each delivery brings along: id, number, replay and metadata.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Finished {
    status: Status,
    whatsapp_message_id: Option<String>,
    attempts: u32,
    error: Option<ErrorBody>,
    enqueued_at: Option<i64>,
    received_at: i64,
    finished_at: i64,
    dead_letter: Option<(Class, String)>,
}

impl Entry {
    /// A job that is delivered for the first time.
    pub(super) fn new(job: &Identity, now: Timestamp) -> Entry {
        Entry {
            fingerprint: job.fingerprint,
            deliveries: 0,
            content: None,
            changed: now.as_millisecond(),
            state: State::Received,
        }
    }

    pub(super) fn is_finished(&self) -> bool {
        matches!(self.state, State::Finished(_))
    }

    /// The message of Meta's that belongs to the job.
    pub(super) fn message(&self) -> Option<u128> {
        match &self.state {
            State::Finished(finished) => {
                finished.whatsapp_message_id.as_deref().map(identity::message_id)
            }
            State::Received | State::Begun { .. } | State::Answered(_) => None,
        }
    }

    /// The message that belongs to the job, and the claim on it.
    pub(super) fn claim(&self, job: &Identity) -> Option<(u128, Claim)> {
        Some((self.message()?, Claim::new(job, self.changed)))
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("an entry is of finite, plain parts")
    }

    /// None where the bytes are no entry.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Entry> {
        postcard::from_bytes(bytes).ok()
    }

    /// When it last changed.
    pub(super) fn changed(&self) -> Timestamp {
        moment(self.changed)
    }

    /// What it means for a delivery of the job. `before` are the deliveries that came to us before.
    pub(super) fn past(&self, job: Named<'_>, before: u32) -> Past {
        match &self.state {
            State::Received => Past::Unseen { deliveries: before },
            State::Begun { attempt, at } => Past::Begun { attempt: *attempt, at: moment(*at) },
            State::Answered(answered) => {
                let history = Box::new(answered.to_history());
                Past::Answered { history, deliveries: before }
            }
            State::Finished(finished) => Past::Finished(Box::new(finished.to_outcome(job))),
        }
    }
}

impl Claim {
    pub(super) fn new(job: &Identity, at: i64) -> Claim {
        Claim { key: job.key, owner: Some((at, job.id.clone())) }
    }

    /// The job and when it was accepted, where that is known.
    pub(super) fn owner(self) -> Option<(JobId, Timestamp)> {
        self.owner.map(|(at, id)| (id, moment(at)))
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.key.to_be_bytes().to_vec();
        if let Some((at, id)) = &self.owner {
            bytes.extend(at.to_be_bytes());
            bytes.extend(id.as_str().as_bytes());
        }
        bytes
    }

    /// None where the bytes are no claim.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Claim> {
        let (key, owner) = bytes.split_first_chunk()?;
        let owner = owner.split_first_chunk().and_then(|(at, id)| {
            let id = JobId::parse(std::str::from_utf8(id).ok()?).ok()?;
            Some((i64::from_be_bytes(*at), id))
        });
        Some(Claim { key: u128::from_be_bytes(*key), owner })
    }
}

impl Answered {
    pub(super) fn of(history: &History) -> Answered {
        Answered {
            attempts: history.attempts,
            free_attempts: history.free_attempts,
            first_received: history.first_received.as_millisecond(),
            first_attempt: history.first_attempt.map(Timestamp::as_millisecond),
            last_error: history.last_error.clone(),
            due: history.due.map(Timestamp::as_millisecond),
        }
    }

    fn to_history(&self) -> History {
        History {
            attempts: self.attempts,
            free_attempts: self.free_attempts,
            first_attempt: self.first_attempt.map(moment),
            last_error: self.last_error.clone(),
            due: self.due.map(moment),
            ..History::fresh(moment(self.first_received))
        }
    }
}

impl Finished {
    pub(super) fn of(outcome: &Outcome) -> Finished {
        let Outcome { event, dead_letter } = outcome;
        Finished {
            status: event.status,
            whatsapp_message_id: event.whatsapp_message_id.clone(),
            attempts: event.attempts,
            error: event.error.clone(),
            enqueued_at: event.enqueued_at.map(Timestamp::as_millisecond),
            received_at: event.received_at.as_millisecond(),
            finished_at: event.finished_at.as_millisecond(),
            dead_letter: dead_letter.clone(),
        }
    }

    fn to_outcome(&self, (id, number, replay): Named<'_>) -> Outcome {
        let event = ResultEvent {
            id: id.clone(),
            phone_number_id: number.cloned(),
            status: self.status,
            whatsapp_message_id: self.whatsapp_message_id.clone(),
            attempts: self.attempts,
            error: self.error.clone(),
            metadata: None,
            enqueued_at: self.enqueued_at.map(moment),
            received_at: moment(self.received_at),
            finished_at: moment(self.finished_at),
            replay,
        };
        Outcome { event, dead_letter: self.dead_letter.clone() }
    }
}

fn moment(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_read_as_it_was_written_and_that_of_an_earlier_version_without_its_owner() {
        let owner = Some((1_800_000_000_123, JobId::parse("order-1").unwrap()));
        for claim in [Claim { key: 7, owner }, Claim { key: 7, owner: None }] {
            assert_eq!(Claim::from_bytes(&claim.to_bytes()), Some(claim));
        }
        assert_eq!(Claim::from_bytes(&7_u128.to_be_bytes()).unwrap().key, 7);
        assert_eq!(Claim::from_bytes(b"short"), None);
    }
}
