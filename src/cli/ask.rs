//! Asks a person before something cannot be undone. Anything but a clear yes is a no.

use super::Usage;
use anyhow::Context;
use std::io::{self, IsTerminal, Write};
use tokio_util::sync::CancellationToken;

/// Without a terminal nobody can be asked: then it needs `--yes`. `what` says what would be done.
pub(super) fn check(yes: bool, what: &str) -> Result<(), Usage> {
    match yes || (io::stdin().is_terminal() && io::stderr().is_terminal()) {
        true => Ok(()),
        false => Err(Usage(format!("{what}: without a terminal it needs --yes"))),
    }
}

/// False at anything but a clear yes, and when a signal comes first.
pub(super) async fn ask(question: &str, stop: &CancellationToken) -> anyhow::Result<bool> {
    write!(io::stderr().lock(), "{question} [y/N] ")?;
    // On a thread of its own, which is left behind where nobody answers.
    let answer = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().read_line(&mut line).map(|_| line)
    });
    match stop.run_until_cancelled(answer).await {
        Some(line) => Ok(is_yes(&line.context("asking")??)),
        None => Ok(false),
    }
}

fn is_yes(line: &str) -> bool {
    ["y", "yes"].contains(&line.trim().to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_is_one() {
        assert!(["y\n", "Yes\n", " Y "].iter().all(|line| is_yes(line)));
        assert!(["", "\n", "n\n", "yep\n"].iter().all(|line| !is_yes(line)));
    }
}
