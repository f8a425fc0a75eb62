//! SIGHUP while a worker runs: its settings are read again from the same file and environment. What is
//! lawful and live is taken over; a mistake anywhere changes nothing. What a change means stands in
//! `config::diff` and `worker::Tuner`.

use super::parts;
use crate::chakra::Client;
use crate::config::{self, ConfigError, Settings};
use crate::limiter::Rates;
use crate::metrics::{Metrics, Reload};
use crate::supervisor::Hangups;
use crate::telemetry::LogFilter;
use crate::worker::Tuner;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

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
    /// Reads the settings at each SIGHUP, until stopped. `also` is called at each, before they are read:
    /// for what is to be asked anew whatever the file says.
    pub(super) async fn run(
        mut self,
        mut hangups: Hangups,
        also: impl Fn() + Send,
        stop: CancellationToken,
    ) {
        while stop.run_until_cancelled(hangups.next()).await.is_some() {
            also();
            let outcome = match self.apply() {
                Ok(()) => Reload::Applied,
                Err(error) => {
                    refuse(&error);
                    Reload::Refused
                }
            };
            self.metrics.reloaded(outcome);
        }
    }

    /// Everything that can fail comes first: what is refused has changed nothing.
    fn apply(&mut self) -> anyhow::Result<()> {
        let new = self.sources.load()?;
        new.require_account()?;
        let changes = config::diff(&self.settings, &new);
        let settings = self.settings.retuned(&new);
        let of_worker = parts::worker_settings(&settings)?;
        self.log.change(&settings.log.level)?;
        self.rates.send_modify(|rates| *rates = of_worker.rates.clone().with_ceilings_of(rates));
        self.tuner.apply(of_worker);
        self.client.replace_codes(settings.codes.clone());
        self.settings = settings;
        for change in &changes.live {
            tracing::info!("{change}");
        }
        for change in &changes.at_restart {
            tracing::warn!("{change}: takes effect at the next start");
        }
        tracing::info!(changed = changes.live.len(), "the settings were read again");
        Ok(())
    }
}

/// Tells every reason, a line each.
fn refuse(error: &anyhow::Error) {
    const REFUSED: &str = "the new settings are refused, nothing changes";
    match error.downcast_ref::<ConfigError>() {
        Some(error) => {
            for problem in error.problems() {
                tracing::error!(%problem, "{REFUSED}");
            }
        }
        None => tracing::error!(problem = %format_args!("{error:#}"), "{REFUSED}"),
    }
}
