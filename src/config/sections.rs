//! Each key with its lawful range, and the relations between keys. All keys of a section are read
//! before the first one that failed ends it, so that every problem is found.

use super::changes::Given;
use super::codes::codes;
use super::rabbitmq::rabbitmq;
use super::reader::Reader;
use super::settings::{
    Accept, AdminSettings, ChakraSettings, DeadLettersSettings, DoubtSettings, LanesSettings,
    LedgerSettings, LimitsSettings, LogSettings, NumberOverride, NumbersSettings, PaceSettings,
    RecipientSettings, ResultsSettings, Settings, WorkerSettings,
};
use super::units::show_duration;
use super::webhook::webhook;
use crate::ledger::LedgerBounds;
use crate::policy::{DoubtPolicy, RetryPolicy};
use crate::telemetry::{self, Format};
use crate::wire::{NumberId, OnDoubt};
use reqwest::Url;
use secrecy::SecretString;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

/// What a stop needs beyond the longest call, and keeps for it: to publish and confirm what is
/// settled.
pub const DRAIN_BEYOND_CALL: Duration = Duration::from_secs(5);

const MILLISECOND: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
pub(super) const DAY: Duration = Duration::from_secs(86_400);

/// RabbitMQ's times to live end at 2^32 milliseconds, which is 49.7 days.
const QUEUE_KEEP: RangeInclusive<Duration> = MINUTE..=Duration::from_secs(49 * 86_400);

/// A lane is a channel, and a connection has 2047 at most (RabbitMQ's default channel_max): these,
/// and the few that all lanes share.
const MOST_LANES: usize = 2_000;

/// Jobs a second: below, one job takes longer than any deadline; above, no clock can pace it.
const RATE: RangeInclusive<f64> = 0.1..=1_000_000.0;

/// A shorter admin.token could be guessed by trying.
const SHORTEST_TOKEN: usize = 16;

const BURST: RangeInclusive<u32> = 1..=1_000_000;

/// Reads every section.
pub(super) fn settings(from: &mut Reader) -> Option<Settings> {
    let chakra = chakra(from);
    let rabbitmq = rabbitmq(from);
    let numbers = numbers(from);
    let limits = limits(from);
    let retry = retry(from);
    let most = retry.as_ref().map(|retry| retry.max_attempts);
    let codes = codes(from, retry.as_ref().map(|retry| retry.max_age));
    let doubt = doubt(from, chakra.as_ref().map(|chakra| chakra.timeout), most);
    let results = results(from);
    let dead_letters = from.duration("dead_letters.keep", QUEUE_KEEP);
    let max_length = from.integer("lanes.max_length", 1..=1_000_000_000);
    let worker = worker(from, chakra.as_ref().map(|chakra| chakra.timeout));
    let ledger = ledger(from, worker.as_ref().map(|worker| worker.max_held));
    let admin = admin(from);
    let webhook = webhook(from);
    let log = log(from);
    Some(Settings {
        chakra: chakra?,
        codes,
        rabbitmq: rabbitmq?,
        numbers: numbers?,
        limits: limits?,
        retry: retry?,
        doubt: doubt?,
        ledger: ledger?,
        results: results?,
        dead_letters: DeadLettersSettings { keep: dead_letters? },
        lanes: LanesSettings { max_length },
        worker: worker?,
        admin: admin?,
        webhook,
        log: log?,
        given: Given::default(),
    })
}

fn chakra(from: &mut Reader) -> Option<ChakraSettings> {
    let base_url = from.text("chakra.base_url", |text| url(text, "https://api.chakrahq.com"));
    let token = from.secret("chakra.token", |token| {
        match !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(SecretString::from(token)),
            false => Err("must be visible ASCII characters without spaces, on one line".into()),
        }
    });
    let token_file = from.secret_file("chakra.token");
    let plugin_id = from.text("chakra.plugin_id", |id| {
        let lawful = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        match (1..=128).contains(&id.len()) && id.bytes().all(lawful) {
            true => Ok(id.to_owned()),
            false => Err("must be 1 to 128 of a-z, A-Z, 0-9, \"-\" and \"_\"".into()),
        }
    });
    let api_version = from.text("chakra.api_version", api_version);
    let timeout = from.duration("chakra.timeout", SECOND..=10 * MINUTE);
    let connect_timeout = from.duration("chakra.connect_timeout", 100 * MILLISECOND..=10 * MINUTE);
    let max_in_flight = from.integer("chakra.max_in_flight", 1..=65_536);
    if let (Some(whole), Some(connect)) = (timeout, connect_timeout)
        && connect >= whole
    {
        let whole = show_duration(whole);
        from.problem("chakra.connect_timeout", format!("must be below chakra.timeout, {whole}"));
    }
    Some(ChakraSettings {
        base_url: base_url?,
        token,
        token_file,
        plugin_id,
        api_version: api_version?,
        timeout: timeout?,
        connect_timeout: connect_timeout?,
        max_in_flight: max_in_flight?,
    })
}

/// An address that more can be added to.
pub(super) fn url(text: &str, example: &str) -> Result<String, String> {
    let lawful = Url::parse(text).ok().filter(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    });
    match lawful.is_some() && !text.ends_with('/') && !text.contains(char::is_whitespace) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "must be an http or https URL without user, query, fragment or a slash at its \
                 end, like {example:?}"
        )),
    }
}

fn api_version(text: &str) -> Result<String, String> {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let parts = text.strip_prefix('v').and_then(|numbers| numbers.split_once('.'));
    match parts.is_some_and(|(major, minor)| digits(major) && digits(minor)) {
        true => Ok(text.to_owned()),
        false => Err("must be a Graph API version, written like \"v24.0\"".into()),
    }
}

fn numbers(from: &mut Reader) -> Option<NumbersSettings> {
    const OVERRIDE: &str = "numbers.override";
    let words = [("plugin", Accept::Plugin), ("any", Accept::Any)];
    let accept = from.choice("numbers.accept", &words);
    let max_lanes = from.integer("numbers.max_lanes", 1..=MOST_LANES);
    let refresh = from.duration("numbers.refresh", SECOND..=DAY);
    let retire_after = from.duration("numbers.retire_after", SECOND..=30 * DAY);
    let mut seen = BTreeSet::new();
    let mut overrides = Vec::new();
    for index in 0..from.entries(OVERRIDE, &["id", "rate", "burst"]) {
        let table = format!("{OVERRIDE}[{index}]");
        let [id_key, rate_key, burst_key] =
            ["id", "rate", "burst"].map(|key| format!("{table}.{key}"));
        for key in [&id_key, &rate_key] {
            if !from.is_given(key) {
                from.problem(key, "is missing; an override has an id and a rate");
            }
        }
        let id = from.text(&id_key, |id| {
            NumberId::parse(id).map_err(|_| "must be Meta's phone number ID: 1 to 32 digits".into())
        });
        let rate = from.float(&rate_key, RATE);
        let burst = from.integer(&burst_key, BURST);
        let Some(id) = id else { continue };
        if !seen.insert(id.clone()) {
            from.problem(&id_key, "has an override already: keep one");
        }
        overrides.extend(rate.map(|rate| NumberOverride { id, rate, burst }));
    }
    Some(NumbersSettings {
        accept: accept?,
        max_lanes: max_lanes?,
        refresh: refresh?,
        retire_after: retire_after?,
        overrides,
    })
}

fn limits(from: &mut Reader) -> Option<LimitsSettings> {
    let max_wait = from.duration("limits.max_wait", Duration::ZERO..=30 * SECOND);
    let number = PaceSettings {
        rate: from.float("limits.number.rate", RATE),
        burst: from.integer("limits.number.burst", BURST),
    };
    let enabled = from.flag("limits.recipient.enabled");
    let burst = from.integer("limits.recipient.burst", 1..=1_000);
    let every = from.duration("limits.recipient.every", MILLISECOND..=HOUR);
    let account = PaceSettings {
        rate: from.float("limits.account.rate", RATE),
        burst: from.integer("limits.account.burst", BURST),
    };
    if from.is_given("limits.account.burst") && !from.is_given("limits.account.rate") {
        from.problem("limits.account.burst", "needs limits.account.rate as well");
    }
    let recipient = RecipientSettings { burst: burst?, every: every? };
    Some(LimitsSettings {
        number,
        recipient: enabled?.then_some(recipient),
        account,
        max_wait: max_wait?,
    })
}

fn retry(from: &mut Reader) -> Option<RetryPolicy> {
    let initial = from.duration("retry.initial", 10 * MILLISECOND..=HOUR);
    let factor = from.float("retry.factor", 1.0..=100.0);
    let max_delay = from.duration("retry.max_delay", 10 * MILLISECOND..=DAY);
    let max_attempts = from.integer("retry.max_attempts", 1..=1_000);
    let max_age = from.duration("retry.max_age", SECOND..=30 * DAY);
    if let (Some(first), Some(longest)) = (initial, max_delay)
        && first > longest
    {
        let longest = show_duration(longest);
        from.problem("retry.initial", format!("must be at most retry.max_delay, {longest}"));
    }
    Some(RetryPolicy {
        initial: initial?,
        factor: factor?,
        max_delay: max_delay?,
        max_attempts: max_attempts?,
        max_age: max_age?,
    })
}

/// `longest_call` is `chakra.timeout` and `max_attempts` `retry.max_attempts`, where they are lawful.
fn doubt(
    from: &mut Reader,
    longest_call: Option<Duration>,
    max_attempts: Option<u32>,
) -> Option<DoubtSettings> {
    let words = [("report", OnDoubt::Report), ("resend", OnDoubt::Resend)];
    let strong = from.choice("doubt.strong", &words);
    let weak = from.choice("doubt.weak", &words);
    let give_up = from.duration("doubt.give_up", SECOND..=DAY);
    let looks_per_second = from.float("doubt.looks_per_second", 0.1..=1_000.0);
    let policy = DoubtPolicy {
        looks: DoubtPolicy::LOOKS,
        strong: strong?,
        weak: weak?,
        give_up: give_up?,
        longest_call: longest_call?,
        max_attempts: max_attempts?,
    };
    Some(DoubtSettings { policy, looks_per_second: looks_per_second? })
}

/// `max_held` is `worker.max_held`, where that is lawful.
fn ledger(from: &mut Reader, max_held: Option<usize>) -> Option<LedgerSettings> {
    let path = from.text("ledger.path", |path| match path.is_empty() {
        false => Ok(path.into()),
        true => Err("must be the path of a folder".into()),
    });
    let keep = from.duration("ledger.keep", MINUTE..=90 * DAY);
    let max_entries = from.integer("ledger.max_entries", 1_000..=1_000_000_000);
    if let (None, Some(most), Some(held)) = (&path, max_entries, max_held)
        && most < held as u64
    {
        let reason = format!("must be at least worker.max_held, {held}, or ledger.path be set");
        from.problem("ledger.max_entries", reason);
    }
    let min_free = from.size("ledger.min_free", 128 << 20..=1 << 40);
    let bounds = LedgerBounds { keep: keep?, max_entries, min_free: min_free? };
    Some(LedgerSettings { path, bounds })
}

fn results(from: &mut Reader) -> Option<ResultsSettings> {
    let keep = from.duration("results.keep", QUEUE_KEEP);
    let max_bytes = from.size("results.max_bytes", 1 << 20..=1 << 40);
    Some(ResultsSettings { keep: keep?, max_bytes: max_bytes? })
}

/// `longest_call` is `chakra.timeout`, where that is lawful.
fn worker(from: &mut Reader, longest_call: Option<Duration>) -> Option<WorkerSettings> {
    let max_held = from.integer("worker.max_held", 1..=1_000_000);
    let drain_timeout = from.duration("worker.drain_timeout", SECOND..=HOUR);
    if let (Some(drain), Some(call)) = (drain_timeout, longest_call)
        && drain <= call + DRAIN_BEYOND_CALL
    {
        let (call, beyond) = (show_duration(call), show_duration(DRAIN_BEYOND_CALL));
        let reason = format!("must exceed chakra.timeout ({call}) by more than {beyond}");
        from.problem("worker.drain_timeout", reason);
    }
    Some(WorkerSettings { max_held: max_held?, drain_timeout: drain_timeout? })
}

fn admin(from: &mut Reader) -> Option<AdminSettings> {
    let listen = from.text("admin.listen", |text| match text {
        "off" => Ok(None),
        address => address.parse().map(Some).map_err(|_| {
            "must be an IP address and a port, like \"127.0.0.1:9464\" or \"[::]:9464\", or \"off\""
                .into()
        }),
    });
    let token = from.secret("admin.token", |token| {
        let is_visible = token.bytes().all(|byte| byte.is_ascii_graphic());
        match token.len() >= SHORTEST_TOKEN && is_visible {
            true => Ok(SecretString::from(token)),
            false => Err(format!(
                "must be at least {SHORTEST_TOKEN} visible ASCII characters without spaces"
            )),
        }
    });
    Some(AdminSettings { listen: listen?, token })
}

fn log(from: &mut Reader) -> Option<LogSettings> {
    let format = from.choice("log.format", &[("text", Format::Text), ("json", Format::Json)]);
    let level = from.text("log.level", |level| {
        telemetry::check(level).map_err(|reason| {
            format!("must be a level or directives like \"info,lapin=warn\": {reason}")
        })?;
        Ok(level.to_owned())
    });
    Some(LogSettings { format: format?, level: level? })
}
