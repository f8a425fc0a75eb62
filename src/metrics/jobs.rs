//! What becomes of jobs and of the requests made for them.

use super::Metrics;
use super::declare::{About, Counters, Declare, Lane, Number, Word, words};
use crate::policy::{Answer, Why};
use crate::wire::{Class, NumberId, Priority, Status};
use prometheus::{Error, Histogram, IntGauge};
use std::time::Duration;

/// Seconds: from a fast answer on the same machine to the longest call.
const SEND_BUCKETS: [f64; 12] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

impl Word for Priority {
    const LABEL: &'static str = "priority";
    const ALL: &'static [Priority] = &[Priority::Normal, Priority::Urgent];

    fn word(self) -> &'static str {
        self.name()
    }
}

impl Word for Status {
    const LABEL: &'static str = "status";
    const ALL: &'static [Status] =
        &[Status::Accepted, Status::Failed, Status::Expired, Status::Unknown];

    fn word(self) -> &'static str {
        self.name()
    }
}

impl Word for Class {
    const LABEL: &'static str = "class";
    const ALL: &'static [Class] = &Class::ALL;

    fn word(self) -> &'static str {
        self.name()
    }
}

/// Of an outcome that may be no failure.
impl Word for Option<Class> {
    const LABEL: &'static str = Class::LABEL;
    const ALL: &'static [Option<Class>] = &[
        None,
        Some(Class::Invalid),
        Some(Class::Refused),
        Some(Class::Throttled),
        Some(Class::Unavailable),
        Some(Class::Ambiguous),
        Some(Class::Blocked),
    ];

    fn word(self) -> &'static str {
        self.map_or("none", Class::name)
    }
}

impl Word for Why {
    const LABEL: &'static str = "why";
    const ALL: &'static [Why] = &Why::ALL;

    fn word(self) -> &'static str {
        self.name()
    }
}

words! {
    /// What came of a request.
    pub enum Attempt as "outcome" {
        /// Meta took it in.
        Accepted = "accepted",
        /// We made a request that was not lawful.
        Invalid = "invalid",
        /// Refused for good.
        Refused = "refused",
        /// Too fast.
        Throttled = "throttled",
        /// Not now.
        Unavailable = "unavailable",
        /// No usable answer.
        Ambiguous = "ambiguous",
        /// The number or the account may not send.
        Blocked = "blocked",
    }
}

impl From<&Answer> for Attempt {
    fn from(answer: &Answer) -> Attempt {
        match answer {
            Answer::Accepted { .. } => Attempt::Accepted,
            Answer::Failed(failure) => match failure.class {
                Class::Invalid => Attempt::Invalid,
                Class::Refused => Attempt::Refused,
                Class::Throttled => Attempt::Throttled,
                Class::Unavailable => Attempt::Unavailable,
                Class::Ambiguous => Attempt::Ambiguous,
                Class::Blocked => Attempt::Blocked,
            },
        }
    }
}

/// What becomes of jobs.
#[derive(Debug)]
pub(super) struct Jobs {
    results: Counters<(Lane, Status, Option<Class>)>,
    reschedules: Counters<Why>,
    dead_letters: Counters<Class>,
    priority_disagreements: Counters<Number>,
}

impl Jobs {
    pub(super) fn declare(new: &mut Declare) -> Result<Jobs, Error> {
        Ok(Jobs {
            results: new.counters(About {
                name: "results_total",
                help: "Outcomes given to jobs, by status and class of failure (none where accepted).",
                tells: "The rate of `accepted` is what Meta takes in. `failed` by class: `refused` is \
                        the jobs' own fault, `blocked` the number's or the account's, `unavailable` an \
                        outage longer than `retry.max_age`. `unknown` is to be looked at by a person.",
            })?,
            reschedules: new.counters(About {
                name: "reschedules_total",
                help: "Jobs put into a wait queue, to come back by themselves, by what they wait for.",
                tells: "`retry`: attempts fail, see `attempts_total`. `hold`: a number or the account is \
                        paused. `recipient`: many messages to one recipient. `not-before`: as the producer \
                        asked. `doubt`, `identical`: see the theme doubt. `handed-back`: lanes change hands.",
            })?,
            dead_letters: new.counters(About {
                name: "dead_letters_total",
                help: "Jobs put into the dead letters, by class.",
                tells: "Each is for a person: `chakra-sender dead-letters list` says why it is there.",
            })?,
            priority_disagreements: new.counters(About {
                name: "priority_disagreements_total",
                help: "Jobs whose body names another priority than their routing key, which decides.",
                tells: "A producer publishes with the wrong key: its urgent jobs wait in line, or the reverse.",
            })?,
        })
    }
}

/// Requests to ChakraHQ.
#[derive(Debug)]
pub(super) struct Requests {
    attempts: Counters<(Number, Attempt)>,
    seconds: Histogram,
    in_flight: IntGauge,
    in_flight_limit: IntGauge,
}

impl Requests {
    pub(super) fn declare(new: &mut Declare) -> Result<Requests, Error> {
        new.theme("Requests", "What does ChakraHQ answer, and how fast?");
        Ok(Requests {
            attempts: new.counters(About {
                name: "attempts_total",
                help: "Requests made to ChakraHQ, by what came of them.",
                tells: "Attempts that fail and end well later show here and not in `results_total`. Much \
                        `unavailable` or `ambiguous`: the service has trouble; `throttled`: see \
                        `limit_refusals_total`.",
            })?,
            seconds: new.histogram(
                About {
                    name: "send_seconds",
                    help: "From the start of a request to its answer or its failure.",
                    tells: "The time that ChakraHQ and Meta take. Where it grows, calls under way grow with \
                            it: see `in_flight`.",
                },
                &SEND_BUCKETS,
            )?,
            in_flight: new.gauge(About {
                name: "in_flight",
                help: "Requests under way.",
                tells: "About rate times `send_seconds`. At `in_flight_limit` jobs wait for a free call, \
                        whatever their number may do; so they do below it while results are not confirmed.",
            })?,
            in_flight_limit: new.gauge(About {
                name: "in_flight_limit",
                help: "The most requests under way at once: chakra.max_in_flight. One number has half of them.",
                tells: "What `in_flight` is to be compared with.",
            })?,
        })
    }
}

impl Metrics {
    /// The body's priority was not the routing key's.
    pub fn priority_disagreed(&self, number: &NumberId) {
        self.jobs.priority_disagreements.of(number).inc();
    }

    /// A job has its outcome.
    pub fn result(&self, lane: Option<&NumberId>, status: Status, class: Option<Class>) {
        self.jobs.results.of((lane, status, class)).inc();
    }

    /// A job went to wait for this.
    pub fn rescheduled(&self, why: Why) {
        self.jobs.reschedules.of(why).inc();
    }

    /// An original went to the dead letters.
    pub fn dead_letter(&self, class: Class) {
        self.jobs.dead_letters.of(class).inc();
    }

    /// So many requests may be under way.
    pub fn in_flight_limit(&self, most: usize) {
        self.requests.in_flight_limit.set(i64::try_from(most).unwrap_or(i64::MAX));
    }

    /// A request starts.
    pub fn send_started(&self) {
        self.requests.in_flight.inc();
    }

    /// A request ended.
    pub fn send_ended(&self, number: &NumberId, answer: &Answer, took: Duration) {
        self.requests.in_flight.dec();
        self.requests.attempts.of((number, answer.into())).inc();
        self.requests.seconds.observe(took.as_secs_f64());
    }
}
