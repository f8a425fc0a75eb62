//! A small world for stories: the real worker with the real client over real HTTP against the
//! sandbox, jobs from lines in memory.

use chakra_sender::chakra::{Client, ClientSettings};
use chakra_sender::ledger::{Ledger, LedgerBounds};
use chakra_sender::limiter::{Rate, Rates, RecipientLimit};
use chakra_sender::metrics::Metrics;
use chakra_sender::policy::{DoubtPolicy, RetryPolicy};
use chakra_sender::queue::Notices;
use chakra_sender::queue::file::{FileQueue, OnResult, Results, Tally};
use chakra_sender::sandbox::{Fault, Number, Sandbox, SandboxConfig};
use chakra_sender::wire::{NumberId, OnDoubt, ResultEvent};
use chakra_sender::worker::{LaneViews, Worker, WorkerSettings};
use std::collections::HashMap;
use std::io::Cursor;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The sender of most stories.
pub const NUMBER: &str = "1027729340496751";

/// Another one.
pub const OTHER: &str = "1027729340496752";

pub struct World {
    pub sandbox: Arc<Sandbox>,
    /// Where the worker calls; none: at the sandbox.
    pub base_url: Option<String>,
    /// What the worker counts.
    pub metrics: Arc<Metrics>,
    pub settings: WorkerSettings,
    pub token: &'static str,
    pub timeout: Duration,
    /// Cancelling it drains the worker.
    pub stop: CancellationToken,
    /// What the worker believes, once it runs.
    pub views: watch::Sender<Option<LaneViews>>,
}

impl World {
    /// Two numbers without a ceiling, paced at 500/s; retries after 20 ms.
    pub async fn new() -> World {
        World::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut SandboxConfig)) -> World {
        let mut config = SandboxConfig { token: "secret-token".into(), ..SandboxConfig::default() };
        config.listen = "127.0.0.1:0".parse().unwrap();
        config.numbers =
            [NUMBER, OTHER].map(|id| Number { rate: Some(0), ..Number::new(id) }).into();
        change(&mut config);
        World {
            sandbox: Arc::new(Sandbox::start(config).await.unwrap()),
            base_url: None,
            metrics: Arc::new(Metrics::new().unwrap()),
            settings: settings(),
            token: "secret-token",
            timeout: Duration::from_secs(5),
            stop: CancellationToken::new(),
            views: watch::Sender::default(),
        }
    }

    pub async fn with_faults(faults: &str) -> World {
        let world = World::new().await;
        world.faults(faults);
        world
    }

    /// Replaces the sandbox's faults by `[[faults]]` in TOML.
    pub fn faults(&self, faults: &str) {
        let parsed = SandboxConfig::from_toml(faults).unwrap().faults;
        self.sandbox.set_faults(parsed as Vec<Fault>).unwrap();
    }

    pub fn client(&self) -> Client {
        Client::new(ClientSettings {
            base_url: self.base_url.clone().unwrap_or_else(|| self.sandbox.base_url()),
            token: self.token.to_owned().into(),
            plugin_id: SandboxConfig::default().plugin_id,
            api_version: "v24.0".into(),
            timeout: self.timeout,
            connect_timeout: Duration::from_secs(1),
            max_in_flight: self.settings.max_in_flight,
        })
        .unwrap()
    }

    /// Runs the worker over these lines to the end.
    pub async fn send(self, lines: &[String]) -> Sent {
        self.run(lines, Results::to(std::io::sink()), ledger(), |_| {}).await
    }

    /// The same with results and ledger of one's own; `on_result` sees each result as it comes.
    pub async fn run(
        self,
        lines: &[String],
        results: Results,
        ledger: Ledger,
        on_result: impl Fn(&ResultEvent) + Send + Sync + 'static,
    ) -> Sent {
        let gathered = Arc::new(Mutex::new(Vec::new()));
        let gather = Arc::clone(&gathered);
        let on_result: OnResult = Arc::new(move |event: &ResultEvent| {
            gather.lock().unwrap().push(event.clone());
            on_result(event);
        });
        let jobs = Cursor::new(lines.join("\n"));
        let of_queue = Arc::clone(&self.metrics);
        let queue = FileQueue::start(jobs, results, 1000, self.stop.clone(), of_queue, on_result);
        let (incoming, run) = queue.split();
        let (_always, may_send) = watch::channel(true);
        let (client, metrics) = (self.client(), Arc::clone(&self.metrics));
        let notices = Notices::default();
        let worker =
            Worker::new(self.settings, client, ledger, metrics, may_send, notices, self.stop);
        self.views.send_replace(Some(worker.views()));
        worker.run(incoming).await;
        let tally = run.finish().await.unwrap();
        let results = std::mem::take(&mut *gathered.lock().unwrap());
        Sent { results, tally, sandbox: self.sandbox, metrics: self.metrics.render().unwrap() }
    }
}

/// What came of a run.
pub struct Sent {
    /// In the order in which they were written.
    pub results: Vec<ResultEvent>,
    pub tally: Tally,
    pub sandbox: Arc<Sandbox>,
    /// As `/metrics` shows them.
    pub metrics: String,
}

impl Sent {
    /// The one result of a job.
    pub fn result(&self, id: &str) -> &ResultEvent {
        let mut own = self.results.iter().filter(|result| result.id.as_str() == id);
        let result = own.next().unwrap_or_else(|| panic!("{id} has no result"));
        assert!(own.next().is_none(), "{id} has two results");
        result
    }

    /// A result as consumers see it: `status class code attempts`.
    pub fn outcome(&self, id: &str) -> String {
        let result = self.result(id);
        let mut words = vec![result.status.name().to_owned()];
        if let Some(error) = &result.error {
            words.push(error.class.name().to_owned());
            words.extend(error.code.map(|code| code.to_string()));
        }
        words.push(format!("after {}", result.attempts));
        words.join(" ")
    }
}

pub fn settings() -> WorkerSettings {
    WorkerSettings {
        rates: Rates::new(Some(Rate::new(500.0, None).unwrap()), HashMap::new()),
        recipient: Some(RecipientLimit::new(20, Duration::from_secs(6)).unwrap()),
        account: None,
        max_wait: Duration::from_secs(5),
        retry: RetryPolicy {
            initial: Duration::from_millis(20),
            factor: 1.5,
            max_delay: Duration::from_secs(1),
            max_attempts: 4,
            max_age: Duration::from_secs(60),
        },
        doubt: DoubtPolicy {
            looks: [50, 200, 400].map(Duration::from_millis),
            strong: OnDoubt::Report,
            weak: OnDoubt::Resend,
            give_up: Duration::from_secs(2),
            longest_call: Duration::from_millis(500),
            max_attempts: 4,
        },
        looks: Rate::new(100.0, None).unwrap(),
        max_in_flight: 256,
        max_lanes: 10,
    }
}

/// In memory, and no bound that a story meets.
pub fn ledger() -> Ledger {
    Ledger::in_memory(bounds())
}

pub fn bounds() -> LedgerBounds {
    LedgerBounds { keep: Duration::from_secs(3600), max_entries: None, min_free: 0 }
}

/// A pace for one number.
pub fn paced(per_second: f64) -> Rates {
    let rate = Rate::new(per_second, None).unwrap();
    Rates::new(None, HashMap::from([(NumberId::parse(NUMBER).unwrap(), rate)]))
}

/// A text message as a job, to a recipient of its own.
pub fn text(id: &str, body: &str) -> String {
    let to = format!("+9990{:08}", fastrand::u32(..100_000_000));
    text_to(id, &to, body)
}

pub fn text_to(id: &str, to: &str, body: &str) -> String {
    let message = serde_json::json!({
        "messaging_product": "whatsapp", "to": to, "type": "text", "text": { "body": body },
    });
    job(id, &message.to_string(), "")
}

/// A job around a message; `more` are further fields, each with a comma before it.
pub fn job(id: &str, message: &str, more: &str) -> String {
    format!(r#"{{"id":"{id}","phone_number_id":"{NUMBER}","message":{message}{more}}}"#)
}
