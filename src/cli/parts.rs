//! From settings to parts: what each command needs, built in one way.

use crate::chakra::{Client, ClientSettings};
use crate::clock;
use crate::config::{ClientIdentity, PaceSettings, Settings};
use crate::ledger::Ledger;
use crate::limiter::{Rate, Rates, RecipientLimit};
use crate::metrics::Metrics;
use crate::queue::rabbitmq::{
    ConnectionSettings, Marked, Prefetch, TlsIdentity, TlsSettings, TopologySettings, Touch,
};
use crate::telemetry::{self, LogFilter};
use crate::worker::WorkerSettings;
use anyhow::{Context, bail};
use futures_util::FutureExt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::watch;

/// A lane holds what it can send within this: a quarter of a second of its own pace, and a round trip
/// of 2 s. Slower answers than that slow the lane down.
const HELD_SECONDS: f64 = 2.25;

/// A lane's prefetch stays within these, whatever its pace: enough to keep it busy, not more than
/// a broker gives at once.
const PREFETCH: (f64, f64) = (4.0, 1000.0);

/// The log as it is configured.
pub(super) fn start_log(settings: &Settings) -> anyhow::Result<LogFilter> {
    telemetry::init(settings.log.format, &settings.log.level).context("starting the log")
}

/// The client for the configured account. Call `require_account` before.
pub(super) fn client(settings: &Settings) -> anyhow::Result<Client> {
    let chakra = &settings.chakra;
    let client = Client::new(ClientSettings {
        base_url: chakra.base_url.clone(),
        token: chakra.token.clone().context("chakra.token is not set")?,
        plugin_id: chakra.plugin_id.clone().context("chakra.plugin_id is not set")?,
        api_version: chakra.api_version.clone(),
        timeout: chakra.timeout,
        connect_timeout: chakra.connect_timeout,
        max_in_flight: chakra.max_in_flight,
    })?;
    client.replace_codes(settings.codes.clone());
    Ok(client)
}

/// The ledger: in its folder, or in memory.
pub(super) fn ledger(settings: &Settings) -> anyhow::Result<Ledger> {
    let bounds = settings.ledger.bounds;
    match &settings.ledger.path {
        None => Ok(Ledger::in_memory(bounds)),
        Some(folder) => {
            Ledger::open(folder, bounds, clock::wall()).context("ledger.path cannot be used")
        }
    }
}

/// Marks in the ledger what may end the worker while it is read.
pub(super) fn touch(ledger: &Ledger) -> Touch {
    let ledger = ledger.clone();
    Touch::new(move |body, replay| {
        let ledger = ledger.clone();
        async move {
            match ledger.touch("read", &body, replay).await {
                Ok(mark) => mark.map(|mark| Box::new(mark) as Marked),
                Err(error) => {
                    tracing::warn!(%error, "a suspicious message is read without a mark");
                    Some(Box::new(()) as Marked)
                }
            }
        }
        .boxed()
    })
}

/// What the hall needs.
pub(super) fn worker_settings(settings: &Settings) -> anyhow::Result<WorkerSettings> {
    let limits = &settings.limits;
    let recipient = limits.recipient.map(|pair| RecipientLimit::new(pair.burst, pair.every));
    Ok(WorkerSettings {
        rates: rates(settings)?,
        recipient: recipient.transpose().map_err(anyhow::Error::msg)?,
        account: rate(limits.account).transpose()?,
        max_wait: limits.max_wait,
        retry: settings.retry.clone(),
        doubt: settings.doubt.policy,
        looks: Rate::new(settings.doubt.looks_per_second, None).map_err(anyhow::Error::msg)?,
        max_in_flight: settings.chakra.max_in_flight,
        max_lanes: settings.numbers.max_lanes,
    })
}

/// The pace of each number.
pub(super) fn rates(settings: &Settings) -> anyhow::Result<Rates> {
    let numbers = settings.numbers.overrides.iter();
    let overrides = numbers
        .map(|number| {
            let rate = Rate::new(number.rate, number.burst).map_err(anyhow::Error::msg)?;
            anyhow::Ok((number.id.clone(), rate))
        })
        .collect::<Result<_, _>>()?;
    Ok(Rates::new(rate(settings.limits.number).transpose()?, overrides))
}

fn rate(pace: PaceSettings) -> Option<anyhow::Result<Rate>> {
    pace.rate.map(|rate| Rate::new(rate, pace.burst).map_err(anyhow::Error::msg))
}

/// How many jobs of each queue of a lane could be in hand: what it can send soon, at the rate of the
/// moment when it is subscribed.
pub(super) fn prefetch(rates: watch::Receiver<Rates>) -> Prefetch {
    Arc::new(move |number| {
        let (rate, _) = rates.borrow().of(number);
        let soon = (rate.per_second() * HELD_SECONDS).clamp(PREFETCH.0, PREFETCH.1);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
        let soon = soon as u16;
        soon
    })
}

/// How the broker is reached.
pub(super) fn connection(settings: &Settings) -> ConnectionSettings {
    let rabbitmq = &settings.rabbitmq;
    let identity = rabbitmq.identity.as_ref().map(|identity| match identity {
        ClientIdentity::Pem { certificate, key } => {
            TlsIdentity::Pem { cert_file: certificate.clone(), key_file: key.clone() }
        }
        ClientIdentity::Pkcs12 { archive, password } => {
            TlsIdentity::Pkcs12 { file: archive.clone(), password: password.clone() }
        }
    });
    ConnectionSettings {
        uris: rabbitmq.uris.clone(),
        tls: TlsSettings { ca_file: rabbitmq.ca_file.clone(), identity },
        heartbeat: rabbitmq.heartbeat,
        connect_timeout: rabbitmq.connect_timeout,
    }
}

/// What stands in the broker.
pub(super) fn topology(settings: &Settings) -> TopologySettings {
    TopologySettings {
        prefix: settings.rabbitmq.prefix.clone(),
        declare: settings.rabbitmq.declare,
        lane_max_length: settings.lanes.max_length,
        results_keep: settings.results.keep,
        results_max_bytes: settings.results.max_bytes,
        dead_letters_keep: settings.dead_letters.keep,
    }
}

/// Says at the end that nothing was lost on the way: what came in has left. In one line.
pub(super) fn tell_balance(metrics: &Metrics) {
    let balance = metrics.balance();
    match (balance.held, balance.gap()) {
        (0, 0) => tracing::info!("drained {balance}"),
        (_, 0) => tracing::warn!("drained {balance}: what is held comes again"),
        (_, _) => tracing::warn!("drained {balance}: a gap is a defect, please report it"),
    }
}

/// The date by UTC.
pub(super) fn today() -> jiff::civil::Date {
    clock::wall().to_zoned(jiff::tz::TimeZone::UTC).date()
}

/// Lines of a file, `-` is stdin.
pub(super) fn open_lines(path: &Path) -> anyhow::Result<Box<dyn BufRead + Send>> {
    if path == Path::new("-") {
        return Ok(Box::new(BufReader::new(std::io::stdin())));
    }
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    // It can be opened, but not read.
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        bail!("{} is a directory: name a file of jobs", path.display());
    }
    Ok(Box::new(BufReader::new(file)))
}
