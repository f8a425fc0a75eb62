//! What comes by webhook: requests by what came of them, and what stood in their bodies.

use super::declare::{About, Counters, Declare, Label, Lane, Values, Word, words};
use crate::wire::{DeliveryStatus, NumberId};
use prometheus::{Error, Histogram, IntGauge};
use std::borrow::Cow;
use std::time::Duration;

/// Seconds. Meta asks for a median below 0.25; what is not confirmed within 0.2 is refused.
const BUCKETS: [f64; 9] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5];

/// Seconds: at once on a phone that is on, and up to a day or more on one that is not.
const DELIVERY_BUCKETS: [f64; 11] =
    [0.5, 1.0, 2.0, 5.0, 15.0, 60.0, 300.0, 1_800.0, 7_200.0, 28_800.0, 86_400.0];

words! {
    /// What came of one request to the webhook's listener.
    pub enum WebhookOutcome as "outcome" {
        /// RabbitMQ has all that was in it.
        Taken = "taken",
        /// A challenge of Meta's was answered.
        Challenge = "challenge",
        /// A challenge had another token than ours.
        WrongToken = "wrong-token",
        /// Another path than ours.
        WrongPath = "wrong-path",
        /// Neither a webhook nor a challenge.
        WrongMethod = "wrong-method",
        /// It is not signed by the secret.
        WrongSignature = "wrong-signature",
        /// Its body is no JSON.
        NotJson = "not-json",
        /// Its body is larger than Meta's are.
        TooLarge = "too-large",
        /// Its body did not come in time.
        TooSlow = "too-slow",
        /// Its body broke off.
        BrokenOff = "broken-off",
        /// Too many bodies were under way. It is repeated.
        Busy = "busy",
        /// RabbitMQ did not confirm all of it in time. It is repeated.
        Unconfirmed = "unconfirmed",
    }
}

words! {
    /// Why something in a webhook's body is told to nobody.
    pub enum PassedOver as "why" {
        /// An event of another kind.
        Other = "other",
        /// A status whose word we do not know.
        UnknownStatus = "unknown-status",
        /// It has not the shape that its place asks for.
        Strange = "strange",
        /// It was told before.
        Repeat = "repeat",
        /// The message is known to have come further.
        StepBack = "step-back",
    }
}

impl Word for DeliveryStatus {
    const LABEL: &'static str = "status";
    const ALL: &'static [DeliveryStatus] = &DeliveryStatus::ALL;

    fn word(self) -> &'static str {
        self.name()
    }
}

/// Meta's code of a failure, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureCode {
    /// One of the built-in table: strangers' are not bounded.
    Known(u32),
    /// One that is not in it.
    Other,
    /// None was given.
    None,
}

/// The label of it.
#[derive(Debug, Clone)]
struct Code;

impl Label for Code {
    const NAME: &'static str = "code";
    type Value<'a> = FailureCode;

    fn text(value: Self::Value<'_>) -> Cow<'_, str> {
        match value {
            FailureCode::Known(code) => code.to_string().into(),
            FailureCode::Other => "other".into(),
            FailureCode::None => "none".into(),
        }
    }

    fn values() -> Values {
        Values::Bounded(
            "codes of the built-in table (`chakra-sender check --codes`), `other`, `none`",
        )
    }
}

/// The counters of the webhook's listener.
#[derive(Debug)]
pub struct Webhooks {
    up: IntGauge,
    requests: Counters<WebhookOutcome>,
    seconds: Histogram,
    statuses: Counters<(Lane, DeliveryStatus)>,
    passed_over: Counters<PassedOver>,
    delivery: Histogram,
    failures: Counters<Code>,
}

impl Webhooks {
    pub(super) fn declare(new: &mut Declare) -> Result<Webhooks, Error> {
        new.theme("Webhooks", "What became of the messages that Meta took in?");
        Ok(Webhooks {
            up: new.gauge(About {
                name: "webhook_up",
                help: "1 while the webhook's listener answers.",
                tells: "0: `webhook.listen` is not set, or the worker starts.",
            })?,
            requests: new.counters(About {
                name: "webhooks_total",
                help: "Requests to the webhook's listener, by what came of them.",
                tells: "`wrong-signature`: another secret than the team's, or a stranger. `unconfirmed`, \
                        `busy`: RabbitMQ is slow or gone; they are repeated. Nothing `taken` although messages \
                        are accepted: the plugin's webhook points elsewhere, `chakra-sender check` compares.",
            })?,
            seconds: new.histogram(
                About {
                    name: "webhook_seconds",
                    help: "From a webhook's header to its answer 200: RabbitMQ has confirmed all that was in it.",
                    tells: "Above 0.2 a webhook is refused and comes again: RabbitMQ confirms too slowly.",
                },
                &BUCKETS,
            )?,
            statuses: new.counters(About {
                name: "statuses_total",
                help: "Statuses of messages that came by webhook and were published, by number (unknown \
                       without a lane).",
                tells: "`failed` against `sent`: messages that Meta took in and did not deliver, see \
                        `status_failures_total`.",
            })?,
            passed_over: new.counters(About {
                name: "webhook_passed_over_total",
                help: "What stood in webhooks and was not published: other events, unknown-status, strange \
                       shapes, and what was told before: repeat, step-back.",
                tells: "`repeat` and `step-back` are Meta's habit. `unknown-status` or `strange`: Meta has \
                        something new; please report it.",
            })?,
            delivery: new.histogram(
                About {
                    name: "delivery_seconds",
                    help: "From a message's acceptance to its delivery by Meta's clock, of messages that this \
                           worker sent and of whose delivery a webhook told it.",
                    tells: "Seconds while phones are on. A median of minutes: Meta delivers late.",
                },
                &DELIVERY_BUCKETS,
            )?,
            failures: new.counters(About {
                name: "status_failures_total",
                help: "Statuses failed that were published, by Meta's code (other where the built-in table \
                       does not have it, none where none was given).",
                tells: "Which failures come after the acceptance: `chakra-sender check --codes` says what each means.",
            })?,
        })
    }

    /// The listener begins to answer.
    pub fn listens(&self) {
        self.up.set(1);
    }

    /// A request was answered, or its client left.
    pub fn answered(&self, outcome: WebhookOutcome, took: Duration) {
        self.requests.of(outcome).inc();
        if outcome == WebhookOutcome::Taken {
            self.seconds.observe(took.as_secs_f64());
        }
    }

    /// A status was published. `lane` is its number, where that has a lane: others are not bounded.
    pub fn published(&self, lane: Option<&NumberId>, status: DeliveryStatus) {
        self.statuses.of((lane, status)).inc();
    }

    /// A message of this worker's was delivered, so long after its acceptance.
    pub fn delivered(&self, took: Duration) {
        self.delivery.observe(took.as_secs_f64());
    }

    /// A message failed after its acceptance.
    pub fn failed(&self, code: FailureCode) {
        self.failures.of(code).inc();
    }

    /// So many things in a body were told to nobody.
    pub fn passed_over(&self, why: PassedOver, count: u64) {
        if count > 0 {
            self.passed_over.of(why).inc_by(count);
        }
    }
}
