//! Who waits, where, and for how long.

use super::declare::{About, Declare, Gauges, Histograms, Number, RealGauges, Word, words};
use super::{Metrics, whole};
use crate::wire::{NumberId, Priority};
use prometheus::Error;
use std::time::Duration;

/// Seconds: waits below a millisecond count as none, above `limits.max_wait` none is slept.
const WAIT_BUCKETS: [f64; 10] = [0.001, 0.005, 0.02, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0];

words! {
    /// What a job waits at before it may go.
    pub enum WaitGate as "gate" {
        /// Its own due time, or the end of an earlier wait.
        Due = "due",
        /// Its recipient's pace, or an earlier job to the same recipient.
        Recipient = "recipient",
        /// Its number's pace and the account's, its place in the lane included.
        Lane = "lane",
    }
}

words! {
    /// A queue that all lanes share.
    pub enum SharedQueue as "queue" {
        /// Originals that a person may want to repair.
        DeadLetters = "dead-letters",
        /// Jobs without a lane.
        Unrouted = "unrouted",
        /// Events that nobody has taken yet.
        Results = "results",
        /// Jobs that wait for a moment: all wait queues together.
        Wait = "wait",
    }
}

/// What waits.
#[derive(Debug)]
pub(super) struct Waiting {
    seconds: Histograms<WaitGate>,
    ready: Gauges<(Number, Priority)>,
    oldest: RealGauges<Number>,
    shared: Gauges<SharedQueue>,
}

impl Waiting {
    pub(super) fn declare(new: &mut Declare) -> Result<Waiting, Error> {
        new.theme("Waiting", "Who waits, and how long?");
        Ok(Waiting {
            ready: new.gauges(About {
                name: "lane_ready",
                help: "Jobs ready in the broker's queue of a lane, not yet with a worker. Counted by the \
                       worker that has the lane, about every 10 seconds.",
                tells: "The backlog. Divided by `rate_limit` it is the time until it is done.",
            })?,
            oldest: new.real_gauges(About {
                name: "lane_oldest_seconds",
                help: "How long the job at the head of a lane has been ready to be sent: the age of the one \
                       that left it last, which goes on growing while the lane stands. 0 where nothing \
                       waits. Shown by the worker that has the lane.",
                tells: "The lag, by the producer's AMQP timestamp, without one since a worker first saw the \
                        job. Large and level: a backlog that flows. Growing a second each second: the lane \
                        stands, see `paused` and `brake`.",
            })?,
            seconds: new.histograms(
                About {
                    name: "wait_seconds",
                    help: "How long jobs waited in this worker, by what they waited at.",
                    tells: "`lane` is the pace of numbers and account at work, `recipient` that of single \
                            recipients. What waits in the broker is not in it: see `lane_oldest_seconds`.",
                },
                &WAIT_BUCKETS,
            )?,
            shared: new.gauges(About {
                name: "queue_ready",
                help: "Messages ready in the queues that all lanes share; no series of one that is missing. \
                       Each worker shows the same count, about every 10 seconds: take the max, never the \
                       sum.",
                tells: "`dead-letters` above 0: work for a person. `unrouted` that stays: jobs of numbers \
                        that get no lane. `results` that grows: nobody takes the results, and the oldest are \
                        dropped in the end. `wait`: jobs that come back by themselves.",
            })?,
        })
    }
}

impl Metrics {
    /// A job has passed a gate.
    pub fn waited(&self, gate: WaitGate, took: Duration) {
        self.waiting.seconds.of(gate).observe(took.as_secs_f64());
    }

    /// The broker's count of ready jobs.
    pub fn lane_ready(&self, number: &NumberId, priority: Priority, jobs: u32) {
        self.waiting.ready.of((number, priority)).set(jobs.into());
    }

    /// Its jobs are counted by another worker now.
    pub fn lane_left(&self, number: &NumberId) {
        for priority in Priority::ALL {
            self.waiting.ready.remove((number, *priority));
        }
    }

    /// How long the job at the head of a lane has been ready; zero where nothing waits.
    pub fn lane_oldest(&self, number: &NumberId, age: Duration) {
        self.waiting.oldest.of(number).set(age.as_secs_f64());
    }

    /// The broker's count of what is ready in a queue that all share; none where it is not known.
    pub fn queue_ready(&self, queue: SharedQueue, messages: Option<u64>) {
        match messages {
            Some(messages) => self.waiting.shared.of(queue).set(whole(messages)),
            None => self.waiting.shared.remove(queue),
        }
    }
}

impl Waiting {
    /// What is shown of a number that is not served here any more.
    pub(super) fn forget(&self, number: &NumberId) {
        self.oldest.remove(number);
        for priority in Priority::ALL {
            self.ready.remove((number, *priority));
        }
    }
}
