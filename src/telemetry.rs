//! Sets up the process's log: `tracing` to stderr, as text for people or as JSON for machines.
//! Decides nothing about what is logged; that no secret and no message body is stays the duty of
//! the place that logs.

use std::io::IsTerminal;
use tracing::Subscriber;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

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
    /// Nothing is logged any more.
    #[error("the log has ended")]
    Ended,
}

/// What the process's log shows; it can be changed.
#[derive(Debug, Clone)]
pub struct LogFilter(reload::Handle<EnvFilter, Registry>);

impl LogFilter {
    /// From now on this filter holds; see [`check`].
    pub fn change(&self, filter: &str) -> Result<(), TelemetryError> {
        self.0.reload(lawful(filter)?).map_err(|_| TelemetryError::Ended)
    }
}

/// Sets up the process's log, once. `filter` is a level (`info`) or directives
/// (`info,lapin=warn`), see [`check`].
pub fn init(format: Format, filter: &str) -> Result<LogFilter, TelemetryError> {
    let terminal = std::io::stderr().is_terminal();
    let (subscriber, filter) = subscriber(format, filter, terminal, std::io::stderr)?;
    subscriber.try_init().map_err(|error| TelemetryError::AlreadySet(error.to_string()))?;
    Ok(filter)
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

fn lawful(filter: &str) -> Result<EnvFilter, TelemetryError> {
    parse(filter).map_err(|reason| TelemetryError::Filter { filter: filter.to_owned(), reason })
}

fn subscriber<W>(
    format: Format,
    filter: &str,
    terminal: bool,
    writer: W,
) -> Result<(impl Subscriber + Send + Sync, LogFilter), TelemetryError>
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(lawful(filter)?);
    // A line that cannot be written is lost: told on stderr, it would end its task by a panic.
    let lines = fmt::layer().log_internal_errors(false).with_writer(writer);
    let lines = match format {
        Format::Json => lines.json().flatten_event(true).boxed(),
        // Left alone on a terminal, the library honours NO_COLOR.
        Format::Text if terminal => lines.compact().boxed(),
        Format::Text => lines.with_ansi(false).compact().boxed(),
    };
    Ok((Registry::default().with(filter).with(lines), LogFilter(handle)))
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
        logged_by(format, filter, |_| log())
    }

    fn logged_by(format: Format, filter: &str, log: impl FnOnce(LogFilter)) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let (subscriber, filter) =
            subscriber(format, filter, false, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || log(filter));
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
    fn the_filter_can_be_changed_and_stays_where_the_new_one_is_wrong() {
        let lines = logged_by(Format::Text, "warn", |filter| {
            let count = |step| tracing::info!(step, "counted");
            count(1);
            filter.change("info").unwrap();
            count(2);
            assert!(matches!(filter.change("inof"), Err(TelemetryError::Filter { .. })));
            count(3);
            filter.change("error").unwrap();
            count(4);
        });
        let told = [1, 2, 3, 4].map(|step| lines.contains(&format!("step={step}")));
        assert_eq!(told, [false, true, true, false], "{lines}");
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
