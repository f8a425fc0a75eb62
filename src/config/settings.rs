//! The settings as plain types. Each key is described, with its unit and range, in
//! `config/default.toml`; here stands only what the type cannot say.

use super::changes::Given;
use crate::chakra::Codes;
use crate::ledger::LedgerBounds;
use crate::policy::{DoubtPolicy, RetryPolicy};
use crate::telemetry::Format;
use crate::webhook::Proof;
use crate::wire::NumberId;
use secrecy::SecretString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Everything that can be set, lawful and complete.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `[chakra]`
    pub chakra: ChakraSettings,
    /// `[[chakra.code]]`
    pub codes: Codes,
    /// `[rabbitmq]`
    pub rabbitmq: RabbitmqSettings,
    /// `[numbers]`
    pub numbers: NumbersSettings,
    /// `[limits]`
    pub limits: LimitsSettings,
    /// `[retry]`
    pub retry: RetryPolicy,
    /// `[doubt]`
    pub doubt: DoubtSettings,
    /// `[ledger]`
    pub ledger: LedgerSettings,
    /// `[results]`
    pub results: ResultsSettings,
    /// `[dead_letters]`
    pub dead_letters: DeadLettersSettings,
    /// `[lanes]`
    pub lanes: LanesSettings,
    /// `[worker]`
    pub worker: WorkerSettings,
    /// `[admin]`
    pub admin: AdminSettings,
    /// `[webhook]`; none: off.
    pub webhook: Option<WebhookSettings>,
    /// `[log]`
    pub log: LogSettings,
    /// What all this was read from.
    pub(super) given: Given,
}

impl Settings {
    /// These settings with the live ones of `new`: what holds once a running worker has taken them over.
    pub fn retuned(&self, new: &Settings) -> Settings {
        let overrides = new.numbers.overrides.clone();
        // The calls under way may take as long as they might when the worker started.
        let longest_call = self.doubt.policy.longest_call;
        Settings {
            codes: new.codes.clone(),
            numbers: NumbersSettings { overrides, ..self.numbers.clone() },
            limits: new.limits.clone(),
            retry: new.retry.clone(),
            doubt: DoubtSettings {
                policy: DoubtPolicy { longest_call, ..new.doubt.policy },
                looks_per_second: new.doubt.looks_per_second,
            },
            log: LogSettings { format: self.log.format, level: new.log.level.clone() },
            given: self.given.retuned(&new.given),
            ..self.clone()
        }
    }
}

/// How ChakraHQ is called.
#[derive(Debug, Clone)]
pub struct ChakraSettings {
    /// Without a slash at its end.
    pub base_url: String,
    /// The API key; fit for an HTTP header. See [`Settings::require_account`].
    pub token: Option<SecretString>,
    /// Where `token` was read from, to be read again; none where it was given itself.
    pub token_file: Option<PathBuf>,
    /// Fit for a URL's path. See [`Settings::require_account`].
    pub plugin_id: Option<String>,
    /// As in the URL: `v24.0`.
    pub api_version: String,
    /// A whole call.
    pub timeout: Duration,
    /// Shorter than `timeout`.
    pub connect_timeout: Duration,
    /// Calls under way at once.
    pub max_in_flight: usize,
}

/// How RabbitMQ is reached.
#[derive(Debug, Clone)]
pub struct RabbitmqSettings {
    /// One for each node, at least one, lawful AMQP URIs; `rabbitmq.password` stands in them already.
    pub uris: Vec<SecretString>,
    /// What each name begins with.
    pub prefix: String,
    /// Declare (true) or only check (false).
    pub declare: bool,
    /// PEM; could be opened when the settings were read.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate.
    pub identity: Option<ClientIdentity>,
    /// For one node, TLS and login included.
    pub connect_timeout: Duration,
    /// Whole seconds.
    pub heartbeat: Duration,
}

/// A client certificate; its files could be opened when the settings were read.
#[derive(Debug, Clone)]
pub enum ClientIdentity {
    /// A certificate chain and its key.
    Pem {
        /// The chain.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// One archive.
    Pkcs12 {
        /// The archive, DER.
        archive: PathBuf,
        /// Empty where none was given.
        password: SecretString,
    },
}

/// Which numbers send, and how fast some of them.
#[derive(Debug, Clone)]
pub struct NumbersSettings {
    /// Which numbers get a lane.
    pub accept: Accept,
    /// How many numbers may have one.
    pub max_lanes: usize,
    /// How often the plugin is asked for its numbers.
    pub refresh: Duration,
    /// A lane goes when the plugin has not had its number for so long.
    pub retire_after: Duration,
    /// No number stands here twice.
    pub overrides: Vec<NumberOverride>,
}

/// Which numbers get a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accept {
    /// Those that the plugin has.
    Plugin,
    /// Each that a job names.
    Any,
}

/// The pace of one number, in place of that of all.
#[derive(Debug, Clone, PartialEq)]
pub struct NumberOverride {
    /// The number.
    pub id: NumberId,
    /// Jobs a second.
    pub rate: f64,
    /// Jobs at once; none: the default for the rate.
    pub burst: Option<u32>,
}

/// The gates.
#[derive(Debug, Clone, PartialEq)]
pub struct LimitsSettings {
    /// Each number without an override; none: a pace that is safe for every number.
    pub number: PaceSettings,
    /// Each recipient of a number; none: not limited.
    pub recipient: Option<RecipientSettings>,
    /// The whole plugin; without a rate: not limited.
    pub account: PaceSettings,
    /// Waits up to this are slept.
    pub max_wait: Duration,
}

/// A pace, where it is set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PaceSettings {
    /// Jobs a second.
    pub rate: Option<f64>,
    /// Jobs at once.
    pub burst: Option<u32>,
}

/// The pace to one recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecipientSettings {
    /// Messages at once.
    pub burst: u32,
    /// After these, one in this time.
    pub every: Duration,
}

/// What follows where an answer never came.
#[derive(Debug, Clone, PartialEq)]
pub struct DoubtSettings {
    /// What is concluded from looking.
    pub policy: DoubtPolicy,
    /// Looks of the whole worker.
    pub looks_per_second: f64,
}

/// What is remembered of jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerSettings {
    /// None: in memory.
    pub path: Option<PathBuf>,
    /// How much, and for how long.
    pub bounds: LedgerBounds,
}

/// The results queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResultsSettings {
    /// How long a result waits there.
    pub keep: Duration,
    /// Its size.
    pub max_bytes: u64,
}

/// The dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadLettersSettings {
    /// How long one is kept.
    pub keep: Duration,
}

/// The lanes' queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LanesSettings {
    /// Jobs in each; none: no limit.
    pub max_length: Option<u64>,
}

/// The worker's own bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerSettings {
    /// Jobs in this worker at once, but for a few of each lane.
    pub max_held: usize,
    /// How long a stop may take; longer than a call.
    pub drain_timeout: Duration,
}

/// The admin listener.
#[derive(Debug, Clone)]
pub struct AdminSettings {
    /// None: off.
    pub listen: Option<SocketAddr>,
    /// What a call that changes anything must bring; none: there are no such calls.
    pub token: Option<SecretString>,
}

/// The listener for webhooks.
#[derive(Debug, Clone)]
pub struct WebhookSettings {
    /// Where.
    pub listen: SocketAddr,
    /// How a sender shows that it may tell us anything.
    pub proof: Proof,
    /// What Meta's challenge must name; none: no challenge is answered.
    pub verify_token: Option<SecretString>,
    /// The listener's address as ChakraHQ reaches it, without the secret segment; for `check` alone.
    pub public_url: Option<String>,
}

/// The log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// For people or for machines.
    pub format: Format,
    /// A filter that [`crate::telemetry::check`] found lawful.
    pub level: String,
}
