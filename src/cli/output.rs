//! What the commands print: data to stdout, sentences for people to stderr. Colours are for terminals
//! alone, and not where `NO_COLOR` or `TERM=dumb` asks for none.

use anstream::AutoStream;
use anyhow::Context;
use clap::builder::styling::{AnsiColor, Style};
use jiff::Timestamp;
use serde::Serialize;
use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

/// In place.
pub(super) const GOOD: Style = AnsiColor::Green.on_default();
/// Wrong.
pub(super) const BAD: Style = AnsiColor::Red.on_default().bold();

/// Whoever read stdout has left, as `head` does: nobody is there to print for.
#[derive(Debug, thiserror::Error)]
#[error("stdout is closed")]
pub(super) struct Closed;

/// Data, byte for byte.
pub(super) fn print(data: impl AsRef<[u8]>) -> anyhow::Result<()> {
    written(put(&mut io::stdout().lock(), data.as_ref()))
}

/// Data as JSON, in one line.
pub(super) fn print_json(data: &impl Serialize) -> anyhow::Result<()> {
    print(serde_json::to_string(data)? + "\n")
}

/// Text in which colours stand: they are taken out where nobody would see them.
pub(super) fn print_coloured(text: &str) -> anyhow::Result<()> {
    written(put(&mut AutoStream::auto(io::stdout().lock()), text.as_bytes()))
}

/// A line for a person.
pub(super) fn tell(line: impl Display) {
    // Nobody could be told that it failed.
    drop(writeln!(AutoStream::auto(io::stderr().lock()), "{line}"));
}

/// What is wrong, for a person.
pub(super) fn complain(what: impl Display) {
    tell(format_args!("{BAD}chakra-sender:{BAD:#} {what}"));
}

/// Text of strangers on a terminal: nothing in it moves the cursor.
pub(super) fn tame(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A moment in JSON: RFC 3339 to the millisecond.
pub(super) fn moment(at: Option<Timestamp>) -> Option<String> {
    at.map(|at| format!("{at:.3}"))
}

fn put(out: &mut impl Write, data: &[u8]) -> io::Result<()> {
    out.write_all(data)?;
    out.flush()
}

fn written(outcome: io::Result<()>) -> anyhow::Result<()> {
    match outcome {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Closed.into()),
        other => other.context("writing to stdout"),
    }
}
