//! One job's entry, and how it stands on disk. Quiet.
//!
//! The order of fields and variants here, and of `Status`, `Class` and `Scope`, is the format of the
//! records: what is new is added at the end, and anything else needs a new `store::FORMAT`.

use super::identity::{self, Identity};
use crate::policy::{History, Outcome, Past};
use crate::wire::{Class, ErrorBody, ResultEvent, Status};
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
    pub(super) fn claim(&self) -> Option<u128> {
        match &self.state {
            State::Finished(finished) => {
                finished.whatsapp_message_id.as_deref().map(identity::message_id)
            }
            State::Received | State::Begun { .. } | State::Answered(_) => None,
        }
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("an entry is of finite, plain parts")
    }

    /// None where the bytes are no entry.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Entry> {
        postcard::from_bytes(bytes).ok()
    }

    /// What it means for a delivery of the job. `before` are the deliveries that came to us before.
    pub(super) fn past(&self, job: &Identity, before: u32) -> Past {
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

    fn to_outcome(&self, job: &Identity) -> Outcome {
        let event = ResultEvent {
            id: job.id.clone(),
            phone_number_id: Some(job.number.clone()),
            status: self.status,
            whatsapp_message_id: self.whatsapp_message_id.clone(),
            attempts: self.attempts,
            error: self.error.clone(),
            metadata: None,
            enqueued_at: self.enqueued_at.map(moment),
            received_at: moment(self.received_at),
            finished_at: moment(self.finished_at),
            replay: job.replay,
        };
        Outcome { event, dead_letter: self.dead_letter.clone() }
    }
}

fn moment(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH)
}
