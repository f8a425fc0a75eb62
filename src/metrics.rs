//! What operators see: every metric of the product is declared once, with its help, in the room of its
//! theme. Callers name events; the values of labels are closed sets of words or phone number IDs, never
//! phone numbers. `docs/metrics.md` is written from the declarations.

mod broker;
mod conservation;
mod declare;
mod doubt;
mod jobs;
mod limits;
mod numbers;
mod process;
mod reference;
mod waiting;
mod webhooks;

pub use broker::{Acknowledged, LinkState, PublishKind, PublishOutcome};
pub use conservation::{Balance, Departure, Token};
pub use doubt::Look;
pub use jobs::Attempt;
pub use limits::{AccountRateSource, Limit, PauseReason, RateSource};
pub use process::Reload;
pub use waiting::{SharedQueue, WaitGate};
pub use webhooks::{FailureCode, PassedOver, WebhookOutcome, Webhooks};

use crate::wire::{NumberId, Priority};
use broker::Broker;
use conservation::Conservation;
use declare::{Declare, Theme};
use doubt::Doubt;
use jobs::{Jobs, Requests};
use limits::Limits;
use numbers::Numbers;
use process::Process;
use prometheus::{Registry, TextEncoder};
use waiting::Waiting;

/// Every name begins with this.
const NAMESPACE: &str = "chakra_sender";

/// All metrics of one process.
#[derive(Debug)]
pub struct Metrics {
    conservation: Conservation,
    jobs: Jobs,
    requests: Requests,
    waiting: Waiting,
    limits: Limits,
    doubt: Doubt,
    webhooks: Webhooks,
    broker: Broker,
    process: Process,
    numbers: Numbers,
    registry: Registry,
    themes: Vec<Theme>,
}

impl Metrics {
    /// Declares everything in a registry of its own.
    pub fn new() -> Result<Metrics, prometheus::Error> {
        let mut new = Declare::new();
        new.theme("Jobs", "What comes in, what leaves, and how does it end?");
        Ok(Metrics {
            conservation: Conservation::declare(&mut new)?,
            jobs: Jobs::declare(&mut new)?,
            requests: Requests::declare(&mut new)?,
            waiting: Waiting::declare(&mut new)?,
            limits: Limits::declare(&mut new)?,
            doubt: Doubt::declare(&mut new)?,
            webhooks: Webhooks::declare(&mut new)?,
            broker: Broker::declare(&mut new)?,
            process: Process::declare(&mut new)?,
            numbers: Numbers::new(new.by_number),
            registry: new.registry,
            themes: new.themes,
        })
    }

    /// The text format of Prometheus.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// A delivery enters by this lane (none: its number could not be told, or has no lane).
    pub fn received(&self, lane: Option<&NumberId>, priority: Priority) -> Token {
        self.conservation.received(lane, priority)
    }

    /// What entered, what left, what is here.
    pub fn balance(&self) -> Balance {
        self.conservation.balance()
    }

    /// What comes by webhook.
    pub fn webhooks(&self) -> &Webhooks {
        &self.webhooks
    }
}

/// A count as a gauge takes it.
fn whole(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
