//! What has happened to a job so far, as it travels with the job.

use super::{Doubt, after, rest};
use jiff::Timestamp;
use std::time::Duration;

/// A job's past. Through RabbitMQ it travels in headers (`x-attempts` and its like).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// Requests made (`x-attempts`).
    pub attempts: u32,
    /// Of these, the ones that cost no attempt, since a scope was throttled or blocked
    /// (`x-attempts-free`).
    pub free_attempts: u32,
    /// When a worker first saw the job (`x-first-received`).
    pub first_received: Timestamp,
    /// When it was first refused, moved on by each pause and each wait for its turn since: from here
    /// `retry.max_age` counts (`x-first-attempt`).
    pub first_attempt: Option<Timestamp>,
    /// Why the last attempt failed, in one word and a code (`x-last-error`).
    pub last_error: Option<String>,
    /// Not to be sent before (`x-due`).
    pub due: Option<Timestamp>,
    /// It may have been sent already (`x-doubt`, `x-doubt-since`, `x-doubt-looks`).
    pub doubt: Option<Doubt>,
    /// How often it was replayed from the dead letters (`x-replay`).
    pub replay: Option<u32>,
    /// The AMQP timestamp, where the producer set one.
    pub enqueued_at: Option<Timestamp>,
}

impl History {
    /// A job that nobody has touched.
    pub fn fresh(now: Timestamp) -> History {
        History {
            attempts: 0,
            free_attempts: 0,
            first_received: now,
            first_attempt: None,
            last_error: None,
            due: None,
            doubt: None,
            replay: None,
            enqueued_at: None,
        }
    }

    /// The same after a wait for its turn, from when it was due until then: for a pause of its number, a
    /// limit, those before it. That is no part of its age.
    pub fn waited_until(&self, then: Timestamp) -> History {
        let waited = self.due.map_or(Duration::ZERO, |due| rest(then, due));
        let first_attempt = self.first_attempt.map(|first| after(first, waited));
        History { first_attempt, ..self.clone() }
    }

    /// Attempts that count against `retry.max_attempts`.
    pub fn spent(&self) -> u32 {
        self.attempts.saturating_sub(self.free_attempts)
    }
}
