//! The settings: compiled-in defaults, under a file, under environment variables. Finds every
//! problem before anything starts and reports them together; reads no other place, and knows
//! nothing of what the settings are for.

mod changes;
mod codes;
mod file;
mod keys;
mod layers;
mod names;
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

use jiff::civil::{Date, date};
use reader::Reader;
use std::ffi::OsString;
use std::fmt;
use std::path::Path;

/// Every key with its description and its default: the reference, for people and for this program.
pub const DEFAULT: &str = include_str!("../../config/default.toml");

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
/// are ours. With one underscore they are mistakes, but for those that Kubernetes sets for a service of
/// that name.
pub fn load(
    file: Option<&Path>,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Settings, ConfigError> {
    let mut problems = Vec::new();
    let leaves = layers::merge(file, environment, &mut problems);
    let mut reader = Reader::new(leaves, problems);
    let settings = sections::settings(&mut reader);
    let (settings, given) = reader.finish(settings)?;
    Ok(Settings { given, ..settings })
}

impl Settings {
    /// What only a worker needs: an account. Names all that is missing.
    pub fn require_account(&self) -> Result<(), ConfigError> {
        let problem = |key: &str, reason| Problem::new(key.to_owned(), reason);
        let token = problem("chakra.token", "is needed: ChakraHQ's API key, or chakra.token_file");
        let plugin = problem("chakra.plugin_id", "is needed: the plugin that sends");
        let missing = [
            self.chakra.token.is_none().then_some(token),
            self.chakra.plugin_id.is_none().then_some(plugin),
        ];
        ConfigError::check(missing.into_iter().flatten().collect())
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

/// Everything that is wrong with the configuration: at least one problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The dotted key, the path of the file that could not be read, or the variable that is no setting.
    pub key: String,
    /// What was given, `(hidden)` where it may be a secret; none where nothing was, or the key is
    /// unknown.
    pub value: Option<String>,
    /// Where the key was given.
    pub place: Place,
    /// What is wrong with it, and what is lawful.
    pub reason: String,
}

/// Where a value was given.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Nobody gave it: it is the reference's own, or missing.
    #[default]
    Nowhere,
    /// The file of this path.
    File(String),
    /// The variable of this name.
    Variable(String),
}

impl ConfigError {
    /// An error where there are problems.
    fn check(problems: Vec<Problem>) -> Result<(), ConfigError> {
        if problems.is_empty() { Ok(()) } else { Err(ConfigError { problems }) }
    }

    /// At least one.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl Problem {
    /// With no value that could be shown, and no place beyond the key.
    fn new(key: String, reason: impl Into<String>) -> Problem {
        Problem { key, value: None, place: Place::Nowhere, reason: reason.into() }
    }
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
        match &self.place {
            Place::Nowhere => {}
            Place::File(place) | Place::Variable(place) => write!(f, "{}: ", place.escape_debug())?,
        }
        write!(f, "{}", self.key.escape_debug())?;
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reference with every key that is unset set, as a person would who removes the `#`.
    fn every_key_set() -> Reader {
        let set = |line: &str| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => rest.to_owned(),
            _ => line.to_owned(),
        };
        let text = DEFAULT.lines().map(set).collect::<Vec<_>>().join("\n");
        let mut leaves = layers::Leaves::new();
        for (key, value) in layers::tables(&text).unwrap() {
            keys::flatten(key, value, &mut |key, kind| {
                leaves.insert(key, layers::Leaf { kind, place: Place::Nowhere });
            });
        }
        let mut reader = Reader::new(leaves, Vec::new());
        sections::settings(&mut reader);
        reader
    }

    #[test]
    fn the_reference_names_every_key_and_no_other() {
        let reader = every_key_set();
        assert_eq!(reader.given_names(), reader.names.values);
    }

    #[test]
    fn whatever_is_given_in_another_shape_is_a_problem_of_that_name() {
        let names = every_key_set().names;
        let file = tempfile::NamedTempFile::new().unwrap();
        let refused = |name: &str, given: &str| {
            std::fs::write(file.path(), format!("{name} = {given}\n")).unwrap();
            let error = load(Some(file.path()), std::iter::empty()).unwrap_err();
            let of_name =
                |problem: &Problem| problem.key == name && problem.place != Place::Nowhere;
            assert!(error.problems().iter().any(of_name), "{name} = {given}: {error}");
            assert!(!error.to_string().contains("SECRET"), "{name} = {given}: {error}");
        };
        let in_list = |name: &str| names.lists.iter().any(|list| keys::is_within(name, list));
        for value in names.values.iter().filter(|value| !in_list(value)) {
            for given in ["[]", "{}", "['SECRET']", "{ further = 'SECRET' }", "[{ further = 1 }]"] {
                refused(value, given);
            }
        }
        for table in names.sections().into_iter().filter(|name| !names.lists.contains(*name)) {
            for given in ["'SECRET'", "5", "[]", "['SECRET']", "[{}]", "[{ further = 'SECRET' }]"] {
                refused(table, given);
            }
        }
        for list in &names.lists {
            for given in ["'SECRET'", "{}", "{ id = 'SECRET' }", "['SECRET']", "[[]]", "[[{}]]"] {
                refused(list, given);
            }
        }
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
