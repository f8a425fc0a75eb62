//! The process itself: which version runs, whether it can record what it does, its settings.

use super::Metrics;
use super::declare::{About, Counters, Declare, Label, Values, words};
use prometheus::process_collector::ProcessCollector;
use prometheus::{Error, IntGauge};
use std::borrow::Cow;

words! {
    /// What came of settings that were read again.
    pub enum Reload as "outcome" {
        /// They were lawful.
        Applied = "applied",
        /// They were not: nothing changed.
        Refused = "refused",
    }
}

/// The version that runs.
#[derive(Debug, Clone)]
struct Version;

impl Label for Version {
    const NAME: &'static str = "version";
    type Value<'a> = Version;

    fn text(_: Self::Value<'_>) -> Cow<'_, str> {
        env!("CARGO_PKG_VERSION").into()
    }

    fn values() -> Values {
        Values::Bounded("one, of the program that runs")
    }
}

/// The process.
#[derive(Debug)]
pub(super) struct Process {
    ready: IntGauge,
    ledger_up: IntGauge,
    reloads: Counters<Reload>,
}

impl Process {
    pub(super) fn declare(new: &mut Declare) -> Result<Process, Error> {
        new.theme("The process", "What runs, and is it well?");
        let process = Process {
            ready: new.gauge(About {
                name: "ready",
                help: "1 while `/readyz` answers 200.",
                tells: "0: something is missing, or it drains. The body of `/readyz` says which.",
            })?,
            ledger_up: new.gauge(About {
                name: "ledger_up",
                help: "1 while the ledger records what is begun.",
                tells: "0: no new send starts, since nobody would know of it after a crash. `/readyz` says \
                        why; most often the disk of `ledger.path` is full, or a file there is damaged.",
            })?,
            reloads: new.counters(About {
                name: "reloads_total",
                help: "Settings read again, at a SIGHUP or a POST of /reload: applied, or refused as a whole.",
                tells: "`refused`: the file has a mistake, which the log names; the old settings hold.",
            })?,
        };
        let build = new.gauges::<Version>(About {
            name: "build_info",
            help: "1, with the version that runs.",
            tells: "Two versions for longer than a rollout takes: it has stopped half-way.",
        })?;
        build.of(Version).set(1);
        new.registry.register(Box::new(ProcessCollector::for_self()))?;
        Ok(process)
    }
}

impl Metrics {
    /// Whether nothing is missing.
    pub fn ready(&self, is_ready: bool) {
        self.process.ready.set(is_ready.into());
    }

    /// Whether beginnings can be recorded.
    pub fn ledger_up(&self, up: bool) {
        self.process.ledger_up.set(up.into());
    }

    /// The settings were read again.
    pub fn reloaded(&self, outcome: Reload) {
        self.process.reloads.of(outcome).inc();
    }
}
