//! What operators see: every metric of the product is declared here, once, with its help text.
//! Callers name events; label values are closed enums or phone number IDs, never phone numbers.

mod conservation;
mod paces;
mod webhooks;

pub use conservation::{Balance, Departure, Token};
pub use paces::PauseReason;
pub use webhooks::{PassedOver, WebhookOutcome, Webhooks};

use crate::policy::{Answer, Sighting};
use crate::wire::{Class, NumberId, Priority, Status};
use conservation::Conservation;
use paces::Paces;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};
use std::time::Duration;

/// Every name begins with this.
const NAMESPACE: &str = "chakra_sender";

/// Seconds: from a fast answer on the same machine to the longest call.
const SEND_BUCKETS: [f64; 12] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Seconds: waits below a millisecond count as none, above `limits.max_wait` none is slept.
const WAIT_BUCKETS: [f64; 10] = [0.001, 0.005, 0.02, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0];

/// What a job waits at before it may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitGate {
    /// Its own due time, or the end of an earlier wait.
    Due,
    /// Its recipient's pace, or an earlier job to the same recipient.
    Recipient,
    /// Its number's pace and the account's, its place in the lane included.
    Lane,
}

impl WaitGate {
    fn name(self) -> &'static str {
        match self {
            WaitGate::Due => "due",
            WaitGate::Recipient => "recipient",
            WaitGate::Lane => "lane",
        }
    }
}

/// What a publish carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishKind {
    /// An event to the results exchange.
    Result,
    /// A status from a webhook to the results exchange.
    Status,
    /// An event to a producer's own `reply_to`.
    Reply,
    /// A job on its way to a wait queue.
    Wait,
    /// A job moved into the lane that was made for it.
    Moved,
    /// An original into the dead letters.
    DeadLetter,
    /// An entry of the control stream.
    Control,
    /// A sign of life to the other workers, or an answer about this one.
    Presence,
}

impl PublishKind {
    /// The label's value.
    pub fn name(self) -> &'static str {
        match self {
            PublishKind::Result => "result",
            PublishKind::Status => "status",
            PublishKind::Reply => "reply",
            PublishKind::Wait => "wait",
            PublishKind::Moved => "moved",
            PublishKind::DeadLetter => "dead-letter",
            PublishKind::Control => "control",
            PublishKind::Presence => "presence",
        }
    }
}

/// What came of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishOutcome {
    /// The broker has it.
    Confirmed,
    /// The broker refused it (a full queue); it is published again.
    Refused,
    /// The connection went before the confirm; it is published again, but for a status: its webhook is
    /// repeated.
    Lost,
}

impl PublishOutcome {
    fn name(self) -> &'static str {
        match self {
            PublishOutcome::Confirmed => "confirmed",
            PublishOutcome::Refused => "refused",
            PublishOutcome::Lost => "lost",
        }
    }
}

/// What came of letting go of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledged {
    /// The queue knows.
    Ok,
    /// The delivery was no longer ours: the job comes again.
    Lost,
}

/// What came of settings that were read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// They were lawful.
    Applied,
    /// They were not: nothing changed.
    Refused,
}

/// All metrics of one process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    conservation: Conservation,
    results: IntCounterVec,
    attempts: IntCounterVec,
    send_seconds: Histogram,
    wait_seconds: HistogramVec,
    lane_ready: IntGaugeVec,
    paces: Paces,
    in_flight: IntGauge,
    brake: IntGauge,
    dead_letters: IntCounterVec,
    publishes: IntCounterVec,
    acknowledgements: IntCounterVec,
    priority_disagreements: IntCounterVec,
    broker_up: IntGauge,
    lanes_owned: IntGauge,
    workers_seen: IntGauge,
    doubt_jobs: IntGauge,
    looks: IntCounterVec,
    reloads: IntCounterVec,
    webhooks: Webhooks,
}

impl Metrics {
    /// Declares everything in a registry of its own.
    #[expect(clippy::too_many_lines, reason = "one place for all, a few lines each")]
    pub fn new() -> Result<Metrics, prometheus::Error> {
        let new = Declare(Registry::new());
        let metrics = Metrics {
            conservation: new.conservation()?,
            results: new.counters(
                "results_total",
                "Outcomes given to jobs, by status and class of failure (none where accepted).",
                &["number", "status", "class"],
            )?,
            attempts: new.counters(
                "attempts_total",
                "Requests made to ChakraHQ, by what came of them.",
                &["number", "outcome"],
            )?,
            send_seconds: new.histogram(
                "send_seconds",
                "From the start of a request to its answer or its failure.",
                &SEND_BUCKETS,
            )?,
            wait_seconds: new.histograms(
                "wait_seconds",
                "How long jobs waited in this worker, by what they waited at.",
                &["gate"],
                &WAIT_BUCKETS,
            )?,
            lane_ready: new.gauges(
                "lane_ready",
                "Jobs ready in the broker's queue of a lane, not yet with a worker.",
                &["number", "priority"],
            )?,
            paces: Paces::new(NAMESPACE, &new.0)?,
            in_flight: new.gauge("in_flight", "Requests under way.")?,
            brake: new.gauge(
                "brake",
                "1 while ChakraHQ fails or bars the account: one probe at a time goes out.",
            )?,
            dead_letters: new.counters(
                "dead_letters_total",
                "Jobs put into the dead letters, by class.",
                &["class"],
            )?,
            publishes: new.counters(
                "publishes_total",
                "Publishes to RabbitMQ, by what they carry and what came of them.",
                &["kind", "outcome"],
            )?,
            acknowledgements: new.counters(
                "acknowledgements_total",
                "Deliveries let go of; a lost one comes again.",
                &["outcome"],
            )?,
            priority_disagreements: new.counters(
                "priority_disagreements_total",
                "Jobs whose body names another priority than their routing key, which decides.",
                &["number"],
            )?,
            broker_up: new.gauge("broker_up", "1 while both connections to RabbitMQ stand.")?,
            lanes_owned: new.gauge("lanes_owned", "Lanes that this worker consumes.")?,
            workers_seen: new
                .gauge("workers_seen", "Workers that share the lanes, this one included.")?,
            doubt_jobs: new
                .gauge("doubt_jobs", "Jobs that may have been sent and wait to be looked for.")?,
            looks: new.counters(
                "looks_total",
                "Looks at chats for messages of jobs in doubt, by what they showed.",
                &["outcome"],
            )?,
            reloads: new.counters(
                "reloads_total",
                "Settings read again at a SIGHUP: applied, or refused as a whole.",
                &["outcome"],
            )?,
            webhooks: Webhooks::new(NAMESPACE, &new.0)?,
            registry: new.0.clone(),
        };
        let build = IntGaugeVec::new(
            Opts::new("build_info", "1, with the version that runs.").namespace(NAMESPACE),
            &["version"],
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        metrics.registry.register(Box::new(build))?;
        let process = prometheus::process_collector::ProcessCollector::for_self();
        metrics.registry.register(Box::new(process))?;
        Ok(metrics)
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

    /// The body's priority was not the routing key's.
    pub fn priority_disagreed(&self, number: &NumberId) {
        self.priority_disagreements.with_label_values(&[number.as_str()]).inc();
    }

    /// A job has its outcome.
    pub fn result(&self, lane: Option<&NumberId>, status: Status, class: Option<Class>) {
        let class = class.map_or("none", Class::name);
        self.results.with_label_values(&[label(lane), status.name(), class]).inc();
    }

    /// A request starts.
    pub fn send_started(&self) {
        self.in_flight.inc();
    }

    /// A request ended.
    pub fn send_ended(&self, number: &NumberId, answer: &Answer, took: Duration) {
        let outcome = match answer {
            Answer::Accepted { .. } => "accepted",
            Answer::Failed(failure) => failure.class.name(),
        };
        self.in_flight.dec();
        self.attempts.with_label_values(&[number.as_str(), outcome]).inc();
        self.send_seconds.observe(took.as_secs_f64());
    }

    /// Whether only probes go out.
    pub fn brake(&self, on: bool) {
        self.brake.set(on.into());
    }

    /// A job has passed a gate.
    pub fn waited(&self, gate: WaitGate, took: Duration) {
        self.wait_seconds.with_label_values(&[gate.name()]).observe(took.as_secs_f64());
    }

    /// The broker's count of ready jobs.
    pub fn lane_ready(&self, number: &NumberId, priority: Priority, jobs: u32) {
        self.lane_ready.with_label_values(&[number.as_str(), priority.name()]).set(jobs.into());
    }

    /// Its jobs are counted by another worker now.
    pub fn lane_left(&self, number: &NumberId) {
        for priority in [Priority::Urgent, Priority::Normal] {
            // Not counted yet.
            let _none = self.lane_ready.remove_label_values(&[number.as_str(), priority.name()]);
        }
    }

    /// The pace of a number, in place of what it was. `source` is a closed word of the limiter.
    pub fn rate_limit(&self, number: &NumberId, source: &'static str, per_second: f64) {
        self.paces.rate(number, source, per_second);
    }

    /// Nothing is believed of this number here any more.
    pub fn pace_gone(&self, number: &NumberId) {
        self.paces.forget(number);
    }

    /// Whether a number is paused for this reason.
    pub fn paused(&self, number: &NumberId, reason: PauseReason, is_paused: bool) {
        self.paces.paused(number, reason, is_paused);
    }

    /// An original went to the dead letters.
    pub fn dead_letter(&self, class: Class) {
        self.dead_letters.with_label_values(&[class.name()]).inc();
    }

    /// A publish ended.
    pub fn published(&self, kind: PublishKind, outcome: PublishOutcome) {
        self.publishes.with_label_values(&[kind.name(), outcome.name()]).inc();
    }

    /// A delivery was let go of.
    pub fn acknowledged(&self, outcome: Acknowledged) {
        let outcome = match outcome {
            Acknowledged::Ok => "ok",
            Acknowledged::Lost => "lost",
        };
        self.acknowledgements.with_label_values(&[outcome]).inc();
    }

    /// Whether both connections stand.
    pub fn broker_up(&self, up: bool) {
        self.broker_up.set(up.into());
    }

    /// A look at a chat for a job in doubt.
    pub fn looked(&self, sighting: &Sighting) {
        let outcome = match sighting {
            Sighting::Found { .. } => "found",
            Sighting::Several => "several",
            Sighting::Nothing { .. } => "nothing",
            Sighting::Blind(_) => "blind",
            Sighting::NoChat => "no-chat",
        };
        self.looks.with_label_values(&[outcome]).inc();
    }

    /// The settings were read again.
    pub fn reloaded(&self, outcome: Reload) {
        let outcome = match outcome {
            Reload::Applied => "applied",
            Reload::Refused => "refused",
        };
        self.reloads.with_label_values(&[outcome]).inc();
    }

    /// What comes by webhook.
    pub fn webhooks(&self) -> &Webhooks {
        &self.webhooks
    }

    /// How many jobs are in doubt.
    pub fn doubt_jobs(&self, jobs: usize) {
        self.doubt_jobs.set(i64::try_from(jobs).unwrap_or(i64::MAX));
    }

    /// How many lanes this worker consumes.
    pub fn lanes_owned(&self, lanes: usize) {
        self.lanes_owned.set(i64::try_from(lanes).unwrap_or(i64::MAX));
    }

    /// How many workers share the lanes, as this one sees it; 0 while it is not among them.
    pub fn workers_seen(&self, workers: usize) {
        self.workers_seen.set(i64::try_from(workers).unwrap_or(i64::MAX));
    }
}

fn label(lane: Option<&NumberId>) -> &str {
    lane.map_or("unknown", NumberId::as_str)
}

/// Makes a metric and registers it.
struct Declare(Registry);

impl Declare {
    /// These four are shown together, so that they balance.
    fn conservation(&self) -> Result<Conservation, prometheus::Error> {
        let opts = |name: &str, help: &str| Opts::new(name, help).namespace(NAMESPACE);
        let received = opts(
            "jobs_received_total",
            "Deliveries that reached this worker, redeliveries included. A job without a lane counts \
             as it comes (number unknown) and again as it comes by its lane.",
        );
        let settled = opts(
            "jobs_settled_total",
            "Deliveries that left this worker, by how: finished (it has its outcome), dead-letter, \
             rescheduled (it waits and comes back), moved (into the lane that it lacked), returned \
             (given back unchanged), void (not ours any more: it comes again).",
        );
        let held = opts("held_jobs", "Deliveries in this worker, counted one by one.");
        let gap = opts(
            "conservation_gap",
            "Deliveries received that neither left nor are held. Anything but 0 is a defect.",
        );
        let conservation = Conservation::new(
            (
                IntCounterVec::new(received, &["number", "priority"])?,
                IntCounterVec::new(settled, &["how"])?,
            ),
            (IntGauge::with_opts(held)?, IntGauge::with_opts(gap)?),
        );
        self.add(conservation)
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        self.add(IntCounterVec::new(Opts::new(name, help).namespace(NAMESPACE), labels)?)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.add(IntGauge::with_opts(Opts::new(name, help).namespace(NAMESPACE))?)
    }

    fn gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntGaugeVec, prometheus::Error> {
        self.add(IntGaugeVec::new(Opts::new(name, help).namespace(NAMESPACE), labels)?)
    }

    fn histogram(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
    ) -> Result<Histogram, prometheus::Error> {
        let opts = HistogramOpts::new(name, help).namespace(NAMESPACE).buckets(buckets.to_vec());
        self.add(Histogram::with_opts(opts)?)
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> Result<HistogramVec, prometheus::Error> {
        let opts = HistogramOpts::new(name, help).namespace(NAMESPACE).buckets(buckets.to_vec());
        self.add(HistogramVec::new(opts, labels)?)
    }

    fn add<M: prometheus::core::Collector + Clone + 'static>(
        &self,
        metric: M,
    ) -> Result<M, prometheus::Error> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }
}
