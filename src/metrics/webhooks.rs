//! What comes by webhook: requests by what came of them, and what stood in their bodies.

use super::label;
use crate::wire::{DeliveryStatus, NumberId};
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry};
use std::time::Duration;

/// Seconds. Meta asks for a median below 0.25; what is not confirmed within 0.2 is refused.
const BUCKETS: [f64; 9] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5];

/// Seconds: at once on a phone that is on, and up to a day or more on one that is not.
const DELIVERY_BUCKETS: [f64; 11] =
    [0.5, 1.0, 2.0, 5.0, 15.0, 60.0, 300.0, 1_800.0, 7_200.0, 28_800.0, 86_400.0];

/// What came of one request to the webhook's listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WebhookOutcome {
    /// RabbitMQ has all that was in it.
    Taken,
    /// A challenge of Meta's was answered.
    Challenge,
    /// A challenge had another token than ours.
    WrongToken,
    /// Another path than ours.
    WrongPath,
    /// Neither a webhook nor a challenge.
    WrongMethod,
    /// It is not signed by the secret.
    WrongSignature,
    /// Its body is no JSON.
    NotJson,
    /// Its body is larger than Meta's are.
    TooLarge,
    /// Its body did not come in time.
    TooSlow,
    /// Its body broke off.
    BrokenOff,
    /// Too many bodies were under way. It is repeated.
    Busy,
    /// RabbitMQ did not confirm all of it in time. It is repeated.
    Unconfirmed,
}

impl WebhookOutcome {
    /// The word in labels and in the log.
    pub fn name(self) -> &'static str {
        match self {
            WebhookOutcome::Taken => "taken",
            WebhookOutcome::Challenge => "challenge",
            WebhookOutcome::WrongToken => "wrong-token",
            WebhookOutcome::WrongPath => "wrong-path",
            WebhookOutcome::WrongMethod => "wrong-method",
            WebhookOutcome::WrongSignature => "wrong-signature",
            WebhookOutcome::NotJson => "not-json",
            WebhookOutcome::TooLarge => "too-large",
            WebhookOutcome::TooSlow => "too-slow",
            WebhookOutcome::BrokenOff => "broken-off",
            WebhookOutcome::Busy => "busy",
            WebhookOutcome::Unconfirmed => "unconfirmed",
        }
    }
}

/// Why something in a webhook's body is told to nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassedOver {
    /// An event of another kind.
    Other,
    /// A status whose word we do not know.
    UnknownStatus,
    /// It has not the shape that its place asks for.
    Strange,
    /// It was told before.
    Repeat,
    /// The message is known to have come further.
    StepBack,
}

impl PassedOver {
    fn name(self) -> &'static str {
        match self {
            PassedOver::Other => "other",
            PassedOver::UnknownStatus => "unknown-status",
            PassedOver::Strange => "strange",
            PassedOver::Repeat => "repeat",
            PassedOver::StepBack => "step-back",
        }
    }
}

/// The counters of the webhook's listener.
#[derive(Debug)]
pub struct Webhooks {
    requests: IntCounterVec,
    seconds: Histogram,
    statuses: IntCounterVec,
    passed_over: IntCounterVec,
    settled_doubts: IntCounter,
    delivery: Histogram,
    failures: IntCounterVec,
}

impl Webhooks {
    pub(super) fn new(namespace: &str, registry: &Registry) -> Result<Webhooks, prometheus::Error> {
        let opts = |name: &str, help: &str| Opts::new(name, help).namespace(namespace);
        let requests =
            opts("webhooks_total", "Requests to the webhook's listener, by what came of them.");
        let seconds = HistogramOpts::new(
            "webhook_seconds",
            "From a webhook's header to its answer 200: RabbitMQ has confirmed all that was in it.",
        );
        let statuses = opts(
            "statuses_total",
            "Statuses of messages that came by webhook and were published, by number (unknown without \
             a lane).",
        );
        let passed_over = opts(
            "webhook_passed_over_total",
            "What stood in webhooks and was not published: other events, unknown-status, strange \
             shapes, and what was told before: repeat, step-back.",
        );
        let settled_doubts = opts(
            "doubts_settled_by_status_total",
            "Jobs in doubt that were known to be sent by a status of their message, without a look.",
        );
        let delivery = HistogramOpts::new(
            "delivery_seconds",
            "From a message's acceptance to its delivery by Meta's clock, of messages that this worker sent \
             and of whose delivery a webhook told it.",
        );
        let delivery = delivery.namespace(namespace).buckets(DELIVERY_BUCKETS.to_vec());
        let failures = opts(
            "status_failures_total",
            "Statuses failed that were published, by Meta's code (other where the built-in table does not \
             have it, none where none was given).",
        );
        let all = Webhooks {
            requests: IntCounterVec::new(requests, &["outcome"])?,
            seconds: Histogram::with_opts(seconds.namespace(namespace).buckets(BUCKETS.to_vec()))?,
            statuses: IntCounterVec::new(statuses, &["number", "status"])?,
            passed_over: IntCounterVec::new(passed_over, &["why"])?,
            settled_doubts: IntCounter::with_opts(settled_doubts)?,
            delivery: Histogram::with_opts(delivery)?,
            failures: IntCounterVec::new(failures, &["code"])?,
        };
        for counters in [&all.requests, &all.statuses, &all.passed_over, &all.failures] {
            registry.register(Box::new(counters.clone()))?;
        }
        for histogram in [&all.seconds, &all.delivery] {
            registry.register(Box::new(histogram.clone()))?;
        }
        registry.register(Box::new(all.settled_doubts.clone()))?;
        Ok(all)
    }

    /// A request was answered, or its client left.
    pub fn answered(&self, outcome: WebhookOutcome, took: Duration) {
        self.requests.with_label_values(&[outcome.name()]).inc();
        if outcome == WebhookOutcome::Taken {
            self.seconds.observe(took.as_secs_f64());
        }
    }

    /// A status was published. `lane` is its number, where that has a lane: others are not bounded.
    pub fn published(&self, lane: Option<&NumberId>, status: DeliveryStatus) {
        self.statuses.with_label_values(&[label(lane), status.name()]).inc();
    }

    /// A job in doubt was known to be sent by a status.
    pub fn settled_doubt(&self) {
        self.settled_doubts.inc();
    }

    /// A message of this worker's was delivered, so long after its acceptance.
    pub fn delivered(&self, took: Duration) {
        self.delivery.observe(took.as_secs_f64());
    }

    /// A message failed after its acceptance. `code` is one of a bounded table, or a word.
    pub fn failed(&self, code: &str) {
        self.failures.with_label_values(&[code]).inc();
    }

    /// So many things in a body were told to nobody.
    pub fn passed_over(&self, why: PassedOver, count: u64) {
        if count > 0 {
            self.passed_over.with_label_values(&[why.name()]).inc_by(count);
        }
    }
}
