//! The settings: compiled-in defaults, under a file, under environment variables. Finds every
//! problem before anything starts and reports them together; reads no other place, and knows
//! nothing of what the settings are for.

mod changes;
mod codes;
mod file;
mod keys;
mod rabbitmq;
mod reader;
mod sections;
mod settings;
mod units;
mod webhook;

pub use changes::{Change, Changes, LIVE, diff};
pub use file::read_text;
pub use reader::without_newline;
pub use sections::DRAIN_BEYOND_CALL;
pub use settings::{
    Accept, AdminSettings, ChakraSettings, ClientIdentity, DeadLettersSettings, DoubtSettings,
    LanesSettings, LedgerSettings, LimitsSettings, LogSettings, NumberOverride, NumbersSettings,
    PaceSettings, RabbitmqSettings, RecipientSettings, ResultsSettings, Settings, WebhookSettings,
    WorkerSettings,
};
pub use units::{duration, show_duration};

use config::{Config, Environment, File, FileFormat, Map, Source, Value};
use jiff::civil::{Date, date};
use reader::Reader;
use std::fmt;
use std::path::Path;

/// Every key with its description and its default: the reference, for people and for this program.
pub const DEFAULT: &str = include_str!("../../config/default.toml");

/// What a variable begins with, before its first `__`.
const PREFIX: &str = "CHAKRA_SENDER";

/// When Meta ends each version of the Graph API (its changelog, as of 2026-07). Versions before
/// the first have ended before it; those after the last have no date yet.
const ENDS: [(u32, Date); 7] = [
    (19, date(2026, 5, 21)),
    (20, date(2026, 9, 24)),
    (21, date(2027, 1, 21)),
    (22, date(2027, 5, 20)),
    (23, date(2027, 10, 8)),
    (24, date(2028, 2, 18)),
    (25, date(2028, 7, 29)),
];

/// Reads the settings. `environment` holds all variables; those that begin with `CHAKRA_SENDER__`
/// are ours (with one underscore they may be Kubernetes' own, for a service of that name).
pub fn load(
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Settings, ConfigError> {
    let mut problems = Vec::new();
    let layers = merge(file, environment, &mut problems);
    let mut reader = Reader::new(layers, problems);
    let settings = sections::settings(&mut reader);
    let (settings, given) = reader.finish(settings)?;
    Ok(Settings { given, ..settings })
}

impl Settings {
    /// What only a worker needs: an account. Names all that is missing.
    pub fn require_account(&self) -> Result<(), ConfigError> {
        let missing = |key: &str, reason: &str| Problem {
            key: key.into(),
            value: None,
            in_environment: false,
            reason: reason.into(),
        };
        let token = missing("chakra.token", "is needed: ChakraHQ's API key, or chakra.token_file");
        let plugin = missing("chakra.plugin_id", "is needed: the plugin that sends");
        let problems: Vec<Problem> = [
            self.chakra.token.is_none().then_some(token),
            self.chakra.plugin_id.is_none().then_some(plugin),
        ]
        .into_iter()
        .flatten()
        .collect();
        if problems.is_empty() { Ok(()) } else { Err(ConfigError { problems }) }
    }

    /// What is lawful, but will not do much longer. For the log, one sentence each.
    pub fn warnings(&self, today: Date) -> Vec<String> {
        let version = &self.chakra.api_version;
        let number = version.trim_start_matches('v').split('.').next().unwrap_or_default();
        // A version that is no number we can hold is a later one than any that we know.
        let number = number.parse().unwrap_or(u32::MAX);
        let end = ENDS.iter().find(|(known, _)| number <= *known).map(|(_, end)| *end);
        end.filter(|end| *end <= today)
            .map(|end| {
                format!("chakra.api_version = {version:?}: Meta ended this version by {end}; set a later one")
            })
            .into_iter()
            .collect()
    }
}

/// Everything that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The dotted key, or the path of the file that could not be read.
    pub key: String,
    /// What was given, `(hidden)` where it may be a secret; none where nothing was, or the key is
    /// unknown.
    pub value: Option<String>,
    /// It was given by a variable.
    pub in_environment: bool,
    /// What is wrong with it, and what is lawful.
    pub reason: String,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.len() {
            1 => write!(f, "the configuration has a problem:")?,
            count => write!(f, "the configuration has {count} problems:")?,
        }
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.key.escape_debug())?;
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        if self.in_environment {
            write!(f, " (from the environment)")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// The three layers in one. A file that cannot be read is left out, so that the problems of the
/// other layers are found all the same.
fn merge(
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    problems: &mut Vec<Problem>,
) -> Map<String, Value> {
    let mut unreadable = |key: String, reason: String| {
        problems.push(Problem { key, value: None, in_environment: false, reason });
    };
    let mut layers = Config::builder().add_source(File::from_str(DEFAULT, FileFormat::Toml));
    if let Some(path) = file {
        match read(path) {
            Ok(layer) => layers = layers.add_source(layer),
            Err(reason) => unreadable(path.display().to_string(), reason),
        }
    }
    // Without try_parsing: it would make the number 123 of the text "00123".
    let environment = Environment::with_prefix(PREFIX)
        .prefix_separator("__")
        .separator("__")
        .ignore_empty(true)
        .source(Some(environment.collect()));
    layers.add_source(environment).build().and_then(|layers| layers.collect()).unwrap_or_else(
        |error| {
            unreadable("configuration".into(), format!("cannot be merged: {error}"));
            Map::new()
        },
    )
}

fn read(path: &Path) -> Result<Config, String> {
    let text = file::read_text(path).map_err(|error| format!("cannot be read: {error}"))?;
    let layer = Config::builder().add_source(File::from_str(&text, FileFormat::Toml));
    layer.build().map_err(|error| match error {
        config::ConfigError::FileParse { cause, .. } => match cause.downcast::<toml::de::Error>() {
            Ok(error) => misread(&text, &error),
            Err(_) => "is not TOML".into(),
        },
        _ => "is not TOML".into(),
    })
}

/// Where and why, without the line itself, as the library would show it: a secret may stand there.
fn misread(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    format!("line {}: {}", before.matches('\n').count() + 1, error.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reference with every key that is unset set, as a person would who removes the `#`.
    fn every_key_set() -> Map<String, Value> {
        let set = |line: &str| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => rest.to_owned(),
            _ => line.to_owned(),
        };
        let text = DEFAULT.lines().map(set).collect::<Vec<_>>().join("\n");
        let layer = Config::builder().add_source(File::from_str(&text, FileFormat::Toml));
        layer.build().unwrap().collect().unwrap()
    }

    #[test]
    fn the_reference_names_every_key_and_no_other() {
        let mut reader = Reader::new(every_key_set(), Vec::new());
        sections::settings(&mut reader);
        assert_eq!(reader.names(), reader.known);
    }

    #[test]
    fn the_reference_alone_is_a_lawful_configuration() {
        let settings = load(None, std::iter::empty()).unwrap();
        assert_eq!(settings.rabbitmq.uris.len(), 1);
        assert!(DEFAULT.contains(rabbitmq::DEFAULT_URI), "the reference shows the default URI");
    }

    #[test]
    fn a_version_that_meta_has_ended_is_named() {
        let mut settings = load(None, std::iter::empty()).unwrap();
        let today = date(2026, 11, 20);
        assert_eq!(settings.warnings(today), Vec::<String>::new());
        for (version, warnings) in
            [("v3.2", 1), ("v19.0", 1), ("v20.0", 1), ("v21.0", 0), ("v99.0", 0)]
        {
            settings.chakra.api_version = version.into();
            assert_eq!(settings.warnings(today).len(), warnings, "{version}");
        }
    }
}
