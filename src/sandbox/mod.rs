//! A fake ChakraHQ over real HTTP, with Meta's limits, chosen faults and a book of what it did.
//!
//! Written from the vendors' documents and captured answers alone: it shares no code with the
//! sender, else both would share one misreading. For demonstrations, tests and benchmarks on this
//! machine; it knows one plugin and no TLS.
//!
//! `messages` is one send's way, `serve` the HTTP around it, `stamped` when a request came, `listings` the
//! chat APIs, `webhook` what is told of a message later.

mod answers;
mod body;
mod checks;
mod config;
mod faults;
mod latency;
mod limits;
mod listings;
mod messages;
mod numbers;
mod plugin;
mod record;
mod route;
mod serve;
mod stamped;
mod times;
mod webhook;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    net::TcpListener,
    sync::{Notify, oneshot},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

pub use self::{
    config::{
        COMPILED_IN, ConfigError, ListingMode, Listings, Pair, Plugin, PluginMode, SandboxConfig,
    },
    faults::{Answer, Cut, Fault, Shape},
    latency::Latency,
    numbers::{Number, ThroughputLevel},
    record::{
        AnswerTimes, Counts, Ending, KEPT_ANSWER_TIMES, KEPT_NUMBERS, KEPT_OPAQUE, KEPT_POSTS,
        KEPT_REQUESTS, KEPT_TIMES, NumberSummary, Post, Record, Request, Summary, WebhookSummary,
    },
    times::Times,
    webhook::{Event, Failure, Form, Webhook, WebhookShape},
};
use self::{
    faults::Faults,
    messages::State,
    webhook::{Course, Outbox},
};

/// A running sandbox. It serves until it is stopped or dropped.
#[derive(Debug)]
pub struct Sandbox {
    addr: SocketAddr,
    shared: Arc<Shared>,
    tasks: TaskTracker,
    stop: DropGuard,
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    plugin_id: String,
    state: Mutex<State>,
    record: Arc<Record>,
    outbox: Mutex<Outbox>,
    /// The outbox holds something new, or the settings of webhooks are others.
    more_to_post: Notify,
    /// The load may be another.
    load_changed: Notify,
}

impl Sandbox {
    /// Binds and serves in the background, on the caller's runtime.
    ///
    /// # Errors
    /// The address cannot be bound, or the configuration contradicts itself (`InvalidInput`).
    pub async fn start(config: SandboxConfig) -> io::Result<Self> {
        config.check().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let listener = TcpListener::bind(config.listen).await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared {
            plugin_id: config.plugin_id.clone(),
            state: Mutex::new(State::new(config)),
            record: Arc::default(),
            outbox: Mutex::default(),
            more_to_post: Notify::new(),
            load_changed: Notify::new(),
        });
        let tasks = TaskTracker::new();
        let stop = CancellationToken::new();
        tasks.spawn(serve::serve(listener, shared.clone(), tasks.clone(), stop.clone()));
        tasks.spawn(webhook::run(shared.clone(), tasks.clone(), stop.clone()));
        tasks.spawn(webhook::make_up(shared.clone(), stop.clone()));
        Ok(Self { addr, shared, tasks, stop: stop.drop_guard() })
    }

    /// Closes the listener and all connections, answers under way included, and waits until they
    /// are gone. Webhooks that wait are not posted any more.
    pub async fn stop(self) {
        drop(self.stop);
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What stands before the paths, without a slash at the end.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The book of what it did. It outlives the sandbox.
    pub fn record(&self) -> Arc<Record> {
        self.shared.record.clone()
    }

    /// Replaces all faults; their counting begins anew.
    ///
    /// # Errors
    /// A rule contradicts itself; then the old ones stay.
    pub fn set_faults(&self, faults: Vec<Fault>) -> Result<(), ConfigError> {
        self.shared.set_faults(faults)
    }

    /// Sets the delay before answers.
    ///
    /// # Errors
    /// The range is empty; then the old one stays.
    pub fn set_latency(&self, latency: Latency) -> Result<(), ConfigError> {
        self.shared.set(Settings { latency: Some(latency), ..Settings::default() })
    }

    /// Sets the bearer token that callers must show.
    pub fn set_token(&self, token: impl Into<String>) {
        self.shared.state().token = token.into();
    }

    /// Replaces the plugin's numbers: some appear, some vanish, levels and real ceilings change. The
    /// plugin's configuration follows. What a number has sent in the last second still counts.
    ///
    /// # Errors
    /// An id stands twice; then the old ones stay.
    pub fn set_numbers(&self, numbers: Vec<Number>) -> Result<(), ConfigError> {
        self.shared.state().set_numbers(numbers)
    }

    /// Sets the real ceiling of one number in messages a second, none for no ceiling. What the
    /// plugin's configuration says of it stays.
    ///
    /// # Errors
    /// The plugin has no such number.
    pub fn set_ceiling(&self, number: &str, ceiling: Option<u32>) -> Result<(), ConfigError> {
        self.shared.state().set_ceiling(number, ceiling)
    }

    /// Sets how the plugin's configuration is answered.
    pub fn set_plugin_mode(&self, mode: PluginMode) {
        self.shared.state().plugin.mode = mode;
    }

    /// Sets whether and how webhooks are posted. What is told of a message and when was decided when
    /// it was accepted; where and how it is posted, by the settings of that moment.
    ///
    /// # Errors
    /// A value out of its range; then the old ones stay.
    pub fn set_webhook(&self, webhook: Webhook) -> Result<(), ConfigError> {
        self.shared.set_webhook(webhook)
    }

    /// Sets how the listings behave.
    ///
    /// # Errors
    /// A value out of its range; then the old ones stay.
    pub fn set_listings(&self, listings: Listings) -> Result<(), ConfigError> {
        self.shared.set(Settings { listings: Some(listings), ..Settings::default() })
    }
}

/// What `PUT /sandbox/settings` can change.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    latency: Option<Latency>,
    token: Option<String>,
    plugin: Option<Plugin>,
    listings: Option<Listings>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_faults(&self, faults: Vec<Fault>) -> Result<(), ConfigError> {
        Fault::check_all(&faults)?;
        self.state().faults = Faults::new(faults);
        Ok(())
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_webhook(&self, webhook: Webhook) -> Result<(), ConfigError> {
        webhook.check()?;
        self.state().webhook = Arc::new(webhook);
        self.more_to_post.notify_one();
        self.load_changed.notify_one();
        Ok(())
    }

    /// Lets webhooks tell of a message. Whoever waits for an early one waits for what is returned.
    fn post_soon(&self, course: Course) -> Vec<oneshot::Receiver<()>> {
        if course.is_empty() {
            return Vec::new();
        }
        let most = self.state().webhook.queue;
        self.record.note_planned(&course);
        let put = self.outbox().put(course, most);
        self.more_to_post.notify_one();
        self.record.note_dropped(put.dropped);
        put.early
    }

    fn set(&self, settings: Settings) -> Result<(), ConfigError> {
        settings.latency.map_or(Ok(()), |latency| latency.check("latency"))?;
        settings.listings.as_ref().map_or(Ok(()), Listings::check)?;
        let mut state = self.state();
        if let Some(latency) = settings.latency {
            state.latency = latency;
        }
        if let Some(token) = settings.token {
            state.token = token;
        }
        if let Some(plugin) = settings.plugin {
            state.plugin = plugin;
        }
        if let Some(listings) = settings.listings {
            state.listings = listings;
        }
        Ok(())
    }
}
