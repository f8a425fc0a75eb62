//! What happened to a job, one thing at a time, as workers tell it to who asks. It names no recipient and
//! quotes nothing: a vendor's sentence can repeat a message.

use crate::wire::{Class, ErrorBody, Scope};
use jiff::Timestamp;
use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;

/// A closed word of the worker that tells it; of another version it may be a new one.
pub type Word = Cow<'static, str>;

/// One thing that happened. Each has its moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum Step {
    /// It came back with this from a time that is not remembered here.
    Brought {
        /// When a worker first saw it.
        #[serde(serialize_with = "millis")]
        at: Timestamp,
        /// Requests made.
        attempts: u32,
        /// Why the last one failed, as one word and a code.
        last_error: Option<String>,
        /// What it waited for in a wait queue.
        waited_for: Option<Word>,
    },
    /// A delivery of it came.
    Received {
        /// When.
        #[serde(serialize_with = "millis")]
        at: Timestamp,
        /// How often the queue had delivered this message before, to anybody.
        earlier: u32,
    },
    /// It waited in hand.
    Waited {
        /// Since when.
        #[serde(serialize_with = "millis")]
        at: Timestamp,
        /// For what.
        of: Word,
        /// How long.
        seconds: f64,
    },
    /// A request failed.
    Attempted {
        /// When it began.
        #[serde(serialize_with = "millis")]
        at: Timestamp,
        /// Its number, from 1.
        attempt: u32,
        /// How long it took.
        seconds: f64,
        /// Why.
        fault: Fault,
    },
    /// It went to a wait queue.
    PutOff {
        /// When.
        #[serde(serialize_with = "millis")]
        at: Timestamp,
        /// What it waits for there.
        why: Word,
        /// Until when; none: the shortest wait.
        #[serde(serialize_with = "millis_or_null")]
        due: Option<Timestamp>,
        /// Whether it may have been sent.
        in_doubt: bool,
    },
    /// It had its outcome.
    Ended {
        /// When.
        #[serde(serialize_with = "millis")]
        at: Timestamp,
        /// The result's status.
        status: Word,
        /// Why it was not accepted.
        fault: Option<Fault>,
        /// Whether its original went to the dead letters.
        is_dead_letter: bool,
    },
    /// What a later version tells.
    #[serde(other)]
    Unknown,
}

impl Step {
    /// When it was.
    pub fn at(&self) -> Option<Timestamp> {
        match self {
            Step::Brought { at, .. }
            | Step::Received { at, .. }
            | Step::Waited { at, .. }
            | Step::Attempted { at, .. }
            | Step::PutOff { at, .. }
            | Step::Ended { at, .. } => Some(*at),
            Step::Unknown => None,
        }
    }
}

/// Why a request or a job failed, without any sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Why.
    pub class: Class,
    /// About what.
    pub scope: Scope,
    /// Meta's code, where one was given.
    pub code: Option<u32>,
    /// The HTTP status, where an answer came.
    pub http_status: Option<u16>,
}

impl Fault {
    /// Of an error of an event.
    pub fn of(error: &ErrorBody) -> Fault {
        let ErrorBody { class, scope, code, http_status, message: _ } = error;
        Fault { class: *class, scope: *scope, code: *code, http_status: *http_status }
    }
}

/// With milliseconds, as all times that we write.
pub(super) fn millis<S: Serializer>(at: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{at:.3}"))
}

pub(super) fn millis_or_null<S: Serializer>(
    at: &Option<Timestamp>,
    to: S,
) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => millis(at, to),
        None => to.serialize_none(),
    }
}
