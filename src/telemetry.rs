//! Sets up the process's log: `tracing` to stderr, as text for people or as JSON for machines.
//! Decides nothing about what is logged; that no secret and no message body is stays the duty of
//! the place that logs.

use std::io::IsTerminal;
use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt;

/// The levels that a filter may name.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// How a line of the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people; coloured where stderr is a terminal.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is none.
    #[error("log filter {filter:?}: {reason}")]
    Filter {
        /// As it was given.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A process has one log.
    #[error("the log is set up already: {0}")]
    AlreadySet(String),
}

/// Sets up the process's log, once. `filter` is a level (`info`) or directives
/// (`info,lapin=warn`), see [`check`].
pub fn init(format: Format, filter: &str) -> Result<(), TelemetryError> {
    let terminal = std::io::stderr().is_terminal();
    let subscriber = subscriber(format, filter, terminal, std::io::stderr)?;
    subscriber.try_init().map_err(|error| TelemetryError::AlreadySet(error.to_string()))
}

/// Says what is wrong with a filter. Stricter than the library, for which the misspelt level
/// `inof` is a target of that name, so that nothing would be logged.
pub fn check(filter: &str) -> Result<(), String> {
    parse(filter).map(drop)
}

fn parse(filter: &str) -> Result<EnvFilter, String> {
    let level_or_directive = |part: &str| {
        part.contains('=') || LEVELS.iter().any(|level| level.eq_ignore_ascii_case(part.trim()))
    };
    match filter.split(',').find(|part| !level_or_directive(part)) {
        Some(part) => {
            Err(format!("{part:?} is neither a level ({}) nor target=level", LEVELS.join(", ")))
        }
        // lapin calls an ordinary close and every lost line an error; what they mean for us is said
        // by us. A filter that names lapin comes later and wins.
        None => {
            let filter = format!("lapin=off,fjall=warn,lsm_tree=warn,{filter}");
            EnvFilter::builder().parse(filter).map_err(|error| error.to_string())
        }
    }
}

fn subscriber<W>(
    format: Format,
    filter: &str,
    terminal: bool,
    writer: W,
) -> Result<Box<dyn Subscriber + Send + Sync>, TelemetryError>
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let filter = parse(filter)
        .map_err(|reason| TelemetryError::Filter { filter: filter.to_owned(), reason })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    Ok(match format {
        Format::Json => Box::new(builder.json().flatten_event(true).finish()),
        // Left alone on a terminal, the library honours NO_COLOR.
        Format::Text if terminal => Box::new(builder.compact().finish()),
        Format::Text => Box::new(builder.with_ansi(false).compact().finish()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: Format, filter: &str, log: impl FnOnce()) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = subscriber(format, filter, false, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, log);
        String::from_utf8(sink.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_line_of_json_is_one_object_with_its_fields() {
        let line = logged(Format::Json, "info", || tracing::info!(lane = "1027", "lane taken"));
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&object["message"], &object["lane"]), (&"lane taken".into(), &"1027".into()));
    }

    #[test]
    fn text_that_is_not_for_a_terminal_has_no_colours() {
        let line = logged(Format::Text, "info", || tracing::warn!("broker gone"));
        assert!(line.contains("broker gone") && !line.contains('\u{1b}'), "{line:?}");
    }

    #[test]
    fn the_filter_holds_by_target() {
        let lines = logged(Format::Text, "warn,shown=debug", || {
            tracing::debug!(target: "shown", "kept");
            tracing::info!(target: "other", "dropped");
        });
        assert!(lines.contains("kept") && !lines.contains("dropped"), "{lines:?}");
    }

    #[test]
    fn a_misspelt_level_is_refused() {
        assert!(check("info,lapin=warn").is_ok());
        assert!(check("INFO").is_ok());
        for wrong in ["inof", "", "info,", "lapin=loud", "info,chakra_sender"] {
            assert!(check(wrong).is_err(), "{wrong:?} is no filter");
        }
    }
}
