//! RabbitMQ as this worker meets it, and the workers that share the lanes.

use super::declare::{About, Counters, Declare, Gauges, Word, words};
use super::{Metrics, whole};
use prometheus::{Error, IntCounter, IntGauge};

words! {
    /// How it stands with RabbitMQ.
    pub enum LinkState as "state" {
        /// Both connections stand.
        Up = "up",
        /// One of them does not, and is tried again.
        Connecting = "connecting",
        /// Both stand, and the broker takes nothing.
        Blocked = "blocked",
        /// It cannot be worked with: the process ends.
        Broken = "broken",
    }
}

words! {
    /// What a publish carries.
    pub enum PublishKind as "kind" {
        /// An event to the results exchange.
        Result = "result",
        /// A status from a webhook to the results exchange.
        Status = "status",
        /// An event to a producer's own `reply_to`.
        Reply = "reply",
        /// A job on its way to a wait queue.
        Wait = "wait",
        /// A job moved into the lane that was made for it.
        Moved = "moved",
        /// An original into the dead letters.
        DeadLetter = "dead-letter",
        /// An entry of the control stream.
        Control = "control",
        /// A sign of life to the other workers, or an answer about this one.
        Presence = "presence",
    }
}

words! {
    /// What came of a publish.
    pub enum PublishOutcome as "outcome" {
        /// The broker has it.
        Confirmed = "confirmed",
        /// The broker refused it (a full queue); it is published again.
        Refused = "refused",
        /// The connection went before the confirm; it is published again, but for a status: its webhook is
        /// repeated.
        Lost = "lost",
    }
}

words! {
    /// What came of letting go of a delivery.
    pub enum Acknowledged as "outcome" {
        /// The queue knows.
        Ok = "ok",
        /// The delivery was no longer ours: the job comes again.
        Lost = "lost",
    }
}

/// The broker and the other workers.
#[derive(Debug)]
pub(super) struct Broker {
    up: IntGauge,
    state: Gauges<LinkState>,
    connects: IntCounter,
    publishes: Counters<(PublishKind, PublishOutcome)>,
    acknowledgements: Counters<Acknowledged>,
    lanes: IntGauge,
    lanes_owned: IntGauge,
    workers_seen: IntGauge,
}

impl Broker {
    pub(super) fn declare(new: &mut Declare) -> Result<Broker, Error> {
        new.theme("RabbitMQ and the other workers", "Does the broker take and give?");
        let broker = Broker {
            up: new.gauge(About {
                name: "broker_up",
                help: "1 while both connections to RabbitMQ stand.",
                tells: "0: nothing is taken and nothing new is sent. `/readyz` says why.",
            })?,
            state: new.gauges(About {
                name: "broker_state",
                help: "1 at how it stands with RabbitMQ now, 0 at the others.",
                tells: "`blocked`: the broker has an alarm of memory or disk, and no new send starts, since \
                        its result could not be recorded. `broken`: the process ends, its log says why.",
            })?,
            connects: new.counter(About {
                name: "broker_connects_total",
                help: "How often both connections to RabbitMQ came to stand.",
                tells: "1 after a start. More: connections were lost. What was in hand then came again, and \
                        what had begun was looked for.",
            })?,
            publishes: new.counters(About {
                name: "publishes_total",
                help: "Publishes to RabbitMQ, by what they carry and what came of them.",
                tells: "`refused`: a queue is full, and what it refuses is tried again; the job is held \
                        meanwhile. `lost` comes with lost connections.",
            })?,
            acknowledgements: new.counters(About {
                name: "acknowledgements_total",
                help: "Deliveries let go of; a lost one comes again.",
                tells: "`lost` comes with lost connections and lanes that change hands. Nothing is sent twice \
                        for it: the ledger has the outcome.",
            })?,
            lanes: new.gauge(About {
                name: "lanes",
                help: "Lanes that there are, whoever consumes them.",
                tells: "More than the sum of `lanes_owned` over all workers: some lane has no owner, or a \
                        worker is not scraped.",
            })?,
            lanes_owned: new.gauge(About {
                name: "lanes_owned",
                help: "Lanes that this worker consumes.",
                tells: "About lanes divided by workers. 0 beside others that have lanes: this worker is not \
                        among them, see `workers_seen`.",
            })?,
            workers_seen: new.gauge(About {
                name: "workers_seen",
                help: "Workers that share the lanes, this one included.",
                tells: "The same with every worker, else they do not see each other. 0 while this one is not \
                        among them.",
            })?,
        };
        for state in LinkState::ALL {
            broker.state.of(*state).set(0);
        }
        Ok(broker)
    }
}

impl Metrics {
    /// How it stands with RabbitMQ.
    pub fn broker_is(&self, now: LinkState) {
        let broker = &self.broker;
        let is_up = match now {
            LinkState::Up | LinkState::Blocked => true,
            LinkState::Connecting | LinkState::Broken => false,
        };
        if is_up && broker.up.get() == 0 {
            broker.connects.inc();
        }
        broker.up.set(is_up.into());
        for state in LinkState::ALL {
            broker.state.of(*state).set((*state == now).into());
        }
    }

    /// A publish ended.
    pub fn published(&self, kind: PublishKind, outcome: PublishOutcome) {
        self.broker.publishes.of((kind, outcome)).inc();
    }

    /// A delivery was let go of.
    pub fn acknowledged(&self, outcome: Acknowledged) {
        self.broker.acknowledgements.of(outcome).inc();
    }

    /// How many lanes there are; 0 without a connection.
    pub fn lanes(&self, lanes: usize) {
        self.broker.lanes.set(whole(lanes as u64));
    }

    /// How many lanes this worker consumes.
    pub fn lanes_owned(&self, lanes: usize) {
        self.broker.lanes_owned.set(whole(lanes as u64));
    }

    /// How many workers share the lanes, as this one sees it; 0 while it is not among them.
    pub fn workers_seen(&self, workers: usize) {
        self.broker.workers_seen.set(whole(workers as u64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_that_the_broker_comes_back_counts_and_an_alarm_does_not() {
        let metrics = Metrics::new().unwrap();
        use LinkState::{Blocked, Connecting, Up};
        for state in [Connecting, Up, Blocked, Up, Up, Connecting, Connecting, Blocked] {
            metrics.broker_is(state);
        }
        let page = metrics.render().unwrap();
        let said = |line: &str| {
            assert!(page.lines().any(|l| l == format!("chakra_sender_{line}")), "{line}: {page}");
        };
        said("broker_connects_total 2");
        said("broker_up 1");
        said(r#"broker_state{state="blocked"} 1"#);
        said(r#"broker_state{state="up"} 0"#);
    }
}
