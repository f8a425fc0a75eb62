//! SIGHUP or `POST /reload` while a worker runs: its settings are read again from the same file and
//! environment. What is lawful and live is taken over; a mistake anywhere changes nothing. What a change means
//! stands in `config::diff` and `worker::Tuner`.

use super::parts;
use crate::admin::Reloaded;
use crate::chakra::Client;
use crate::config::{self, Change, Changes, ConfigError, Settings};
use crate::limiter::Rates;
use crate::metrics::{Metrics, Reload};
use crate::supervisor::Hangups;
use crate::telemetry::LogFilter;
use crate::worker::Tuner;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Requests that wait while the settings are read for another one; more are told to ask again.
const WAITING: usize = 8;

/// Who asks is told what came of it.
type Request = oneshot::Sender<Reloaded>;

/// The way from the admin listener to [`Reloading`]. It is there before that runs, and after.
#[derive(Debug, Clone, Default)]
pub(super) struct Requests(Arc<OnceLock<mpsc::Sender<Request>>>);

impl Requests {
    /// Asks for the settings to be read again. None while they cannot be.
    pub(super) fn ask(&self) -> Option<oneshot::Receiver<Reloaded>> {
        let (request, answer) = oneshot::channel();
        self.0.get()?.try_send(request).ok()?;
        Some(answer)
    }

    /// Opens the way, once.
    fn open(&self) -> mpsc::Receiver<Request> {
        let (sender, requests) = mpsc::channel(WAITING);
        self.0.get_or_init(|| sender);
        requests
    }
}

/// Where the settings come from. The environment is the one of the start.
#[derive(Debug, Clone)]
pub(super) struct Sources {
    pub(super) file: Option<PathBuf>,
    pub(super) environment: Vec<(OsString, OsString)>,
}

impl Sources {
    /// Reads the settings, as they are now.
    pub(super) fn load(&self) -> Result<Settings, ConfigError> {
        config::load(self.file.as_deref(), self.environment.iter().cloned())
    }
}

/// Takes over what can change while the worker runs.
pub(super) struct Reloading {
    /// Where to read.
    pub(super) sources: Sources,
    /// What holds now.
    pub(super) settings: Settings,
    /// The pace of the numbers, of which the plugin says a part.
    pub(super) rates: watch::Sender<Rates>,
    /// All other paces, the retries, the doubts.
    pub(super) tuner: Tuner,
    /// The table of codes.
    pub(super) client: Client,
    /// What the log shows.
    pub(super) log: LogFilter,
    /// Counts what came of it.
    pub(super) metrics: Arc<Metrics>,
}

impl Reloading {
    /// Reads the settings at each SIGHUP and each request, until stopped. `also` is called at each, before
    /// they are read: for what is to be asked anew whatever the file says.
    pub(super) async fn run(
        mut self,
        mut hangups: Hangups,
        requests: Requests,
        also: impl Fn() + Send,
        stop: CancellationToken,
    ) {
        let mut requests = requests.open();
        loop {
            let request = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = hangups.next() => None,
                Some(request) = requests.recv() => Some(request),
            };
            also();
            let Some(reloaded) = stop.run_until_cancelled(self.reload()).await else { return };
            if let Some(request) = request {
                // Who asked may be gone.
                drop(request.send(reloaded));
            }
        }
    }

    async fn reload(&mut self) -> Reloaded {
        // A file may be on a network's disk, or a pipe: nobody else waits for it.
        let sources = self.sources.clone();
        let loaded = tokio::task::spawn_blocking(move || sources.load()).await;
        let loaded = loaded.map_err(anyhow::Error::from).and_then(|new| Ok(new?));
        let (outcome, reloaded) = match loaded.and_then(|new| self.apply(&new)) {
            Ok(changes) => (Reload::Applied, applied(&changes)),
            Err(error) => (Reload::Refused, refused(&error)),
        };
        self.metrics.reloaded(outcome);
        reloaded
    }

    /// Everything that can fail comes first: what is refused has changed nothing.
    fn apply(&mut self, new: &Settings) -> anyhow::Result<Changes> {
        new.require_account()?;
        let changes = config::diff(&self.settings, new);
        let settings = self.settings.retuned(new);
        let of_worker = parts::worker_settings(&settings)?;
        self.log.change(&settings.log.level)?;
        self.rates.send_modify(|rates| *rates = of_worker.rates.clone().with_ceilings_of(rates));
        self.tuner.apply(of_worker);
        self.client.replace_codes(settings.codes.clone());
        self.settings = settings;
        Ok(changes)
    }
}

/// Tells every change, a line each.
fn applied(Changes { live, at_restart }: &Changes) -> Reloaded {
    for change in live {
        tracing::info!("{change}");
    }
    for change in at_restart {
        tracing::warn!("{change}: takes effect at the next start");
    }
    tracing::info!(changed = live.len(), "the settings were read again");
    let shown = |changes: &[Change]| changes.iter().map(Change::to_string).collect();
    Reloaded::Applied { changed: shown(live), at_restart: shown(at_restart) }
}

/// Tells every reason, a line each.
fn refused(error: &anyhow::Error) -> Reloaded {
    let problems: Vec<String> = match error.downcast_ref::<ConfigError>() {
        Some(error) => error.problems().iter().map(ToString::to_string).collect(),
        None => vec![format!("{error:#}")],
    };
    for problem in &problems {
        tracing::error!(%problem, "the new settings are refused, nothing changes");
    }
    Reloaded::Refused { problems }
}
