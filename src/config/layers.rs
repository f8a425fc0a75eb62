//! The three layers in one: the reference, over it a file, over that the variables. Each value keeps the
//! place where it was given, and no layer changes the shape of another: what does not fit stands beside
//! what does, for `names` to find. Knows no key.

use super::keys::flatten;
use super::{DEFAULT, Place, Problem, file};
use config::{File, FileFormat, Map, Source, Value, ValueKind};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::ops::Range;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What a variable begins with that may be meant for us; a setting has one more underscore.
const PREFIX: &str = "chakra_sender_";

/// Each value by its dotted key, `numbers.override[0].id`.
pub(super) type Leaves = BTreeMap<String, Leaf>;

/// A single value, or an empty table or list.
#[derive(Debug, Clone)]
pub(super) struct Leaf {
    pub(super) kind: ValueKind,
    pub(super) place: Place,
}

/// Puts the layers over each other. What cannot be read is left out and told, so that the problems of the
/// rest are found all the same.
pub(super) fn merge(
    file: Option<&Path>,
    environment: impl Iterator<Item = (OsString, OsString)>,
    problems: &mut Vec<Problem>,
) -> Leaves {
    let mut leaves = Leaves::new();
    let mut add =
        |layer: Result<Map<String, Value>, String>, name: String, place: Place| match layer {
            Ok(layer) => {
                for (key, value) in layer {
                    flatten(key, value, &mut |key, kind| {
                        leaves.insert(key, Leaf { kind, place: place.clone() });
                    });
                }
            }
            Err(reason) => problems.push(Problem::new(name, reason)),
        };
    add(tables(DEFAULT), "the reference".into(), Place::Nowhere);
    if let Some(path) = file {
        let name = path.display().to_string();
        let text = file::read_text(path).map_err(|error| format!("cannot be read: {error}"));
        add(text.and_then(|text| tables(&text)), name.clone(), Place::File(name));
    }
    for (name, value) in environment {
        variable(&name.to_string_lossy(), value, &mut leaves, problems);
    }
    leaves
}

/// The tables of a layer in TOML.
pub(super) fn tables(text: &str) -> Result<Map<String, Value>, String> {
    File::from_str(text, FileFormat::Toml).collect().map_err(|error| match error {
        config::ConfigError::FileParse { cause, .. } => match cause.downcast::<toml::de::Error>() {
            Ok(error) => misread(text, &error),
            Err(_) => oversized(text).unwrap_or_else(|| "is not TOML".into()),
        },
        _ => "is not TOML".into(),
    })
}

/// Where and why, without the line itself, as the library would show it: a secret may stand there.
fn misread(text: &str, error: &toml::de::Error) -> String {
    format!("line {}: {}", line_at(text, error.span()), error.message())
}

/// The number that is too large for the library, which tells neither its line nor its key.
fn oversized(text: &str) -> Option<String> {
    let table = DeTable::parse(text).ok()?;
    let (key, span) = table
        .get_ref()
        .iter()
        .find_map(|(name, value)| oversized_in(name.get_ref().to_string(), value))?;
    Some(format!("line {}: {key}: the number is too large", line_at(text, Some(span))))
}

fn oversized_in(key: String, value: &Spanned<DeValue<'_>>) -> Option<(String, Range<usize>)> {
    let is_oversized = match value.get_ref() {
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).is_err(),
        DeValue::Float(number) => {
            let is_finite = number.as_str().parse().is_ok_and(f64::is_finite);
            !is_finite && !number.as_str().contains(['i', 'n'])
        }
        DeValue::Table(table) => {
            let within = |name: &str| format!("{key}.{name}");
            return table
                .iter()
                .find_map(|(name, value)| oversized_in(within(name.get_ref()), value));
        }
        DeValue::Array(values) => {
            return values.iter().find_map(|value| oversized_in(key.clone(), value));
        }
        DeValue::String(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => false,
    };
    is_oversized.then(|| (key, value.span()))
}

/// The line, from 1, on which a part of the text begins.
fn line_at(text: &str, span: Option<Range<usize>>) -> usize {
    let before = span.and_then(|span| text.get(..span.start)).unwrap_or_default();
    before.matches('\n').count() + 1
}

/// Takes one variable, if it is ours; text that becomes what its key needs. An empty one counts as unset.
fn variable(name: &str, value: OsString, leaves: &mut Leaves, problems: &mut Vec<Problem>) {
    let lower = name.to_lowercase();
    let Some(rest) = lower.strip_prefix(PREFIX).filter(|_| !value.is_empty()) else { return };
    let Some(key) = rest.strip_prefix('_') else {
        if !is_of_a_service(rest) {
            let reason = "is no setting: two underscores follow CHAKRA_SENDER, and two stand between a \
                          section and its key, as in CHAKRA_SENDER__CHAKRA__TOKEN; call it otherwise if \
                          it is not meant for chakra-sender";
            problems.push(Problem::new(name.to_owned(), reason));
        }
        return;
    };
    let (key, place) = (key.replace("__", "."), Place::Variable(name.to_owned()));
    match value.into_string() {
        Ok(text) => {
            leaves.insert(key, Leaf { kind: ValueKind::String(text), place });
        }
        Err(_) => {
            problems.push(Problem { place, ..Problem::new(key, "has a value that is no UTF-8") })
        }
    }
}

/// Whether Kubernetes (or an old link of Docker's) sets this variable in each container beside a service
/// whose name begins with `chakra-sender`: `…SERVICE_HOST`, `…SERVICE_PORT_ADMIN`, `…PORT_9464_TCP_ADDR`.
/// `rest` is what follows [`PREFIX`].
fn is_of_a_service(rest: &str) -> bool {
    let name = format!("_{rest}");
    let a_number = |text: &str| text.starts_with(|first: char| first.is_ascii_digit());
    ["_service_host", "_port"].iter().any(|end| name.ends_with(end))
        || name.contains("_service_port_")
        || name.split("_port_").skip(1).any(a_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_too_large_is_told_with_its_line_and_key() {
        for (line, key) in [
            ("max = 99999999999999999999", "retry.max"),
            ("max = -1e999", "retry.max"),
            ("list = [1, { max = 0x1ffffffffffffffff }]", "retry.list.max"),
        ] {
            let told = tables(&format!("[retry]\nfactor = inf\n{line}\n")).unwrap_err();
            assert_eq!(told, format!("line 3: {key}: the number is too large"));
        }
    }

    #[test]
    fn what_a_service_brings_into_the_environment_is_told_from_settings() {
        for rest in [
            "service_host",
            "service_port",
            "service_port_admin",
            "port",
            "port_9464_tcp",
            "port_9464_tcp_proto",
            "webhook_service_host",
            "webhook_port_80_tcp_addr",
        ] {
            assert!(is_of_a_service(rest), "{rest}");
        }
        for rest in ["chakra__token", "chakra_token", "log_level", "support_number", "port_of_call"]
        {
            assert!(!is_of_a_service(rest), "{rest}");
        }
    }
}
