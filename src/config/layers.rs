//! The three layers in one: the reference, over it a file, over that the variables. Each value keeps the
//! place where it was given, and no layer changes the shape of another: what does not fit stands beside
//! what does, for `names` to find. Knows no key.

use super::keys::flatten;
use super::{DEFAULT, Place, Problem, file};
use config::{File, FileFormat, Map, Source, Value, ValueKind};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

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
