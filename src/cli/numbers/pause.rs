//! `numbers pause`: writes a pause into the record, and reads it back.

use super::{failed, number, reason, stands, who};
use crate::cli::End;
use crate::cli::output::{print_json, tell};
use crate::clock;
use crate::config;
use crate::queue::OperatorPause;
use crate::queue::rabbitmq::Console;
use crate::wire::NumberId;
use anyhow::Context;
use clap::Args;
use std::time::Duration;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  chakra-sender numbers pause 1027729340496751 --for 2h --reason \"wrong price list\"
  chakra-sender numbers pause 1027729340496751 --reason \"number is being moved\"       until it is resumed")]
pub(super) struct PauseArguments {
    /// Meta's phone number ID
    #[arg(value_name = "ID", value_parser = number)]
    number: NumberId,
    /// For how long, such as 30m, 2h or 3d; without it until it is resumed
    #[arg(long = "for", value_name = "DURATION", value_parser = length)]
    length: Option<Duration>,
    /// Why, for those who see it: one line
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: String,
    /// How the number stands after it, as a JSON object on stdout
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: &PauseArguments, console: &mut Console) -> anyhow::Result<End> {
    let PauseArguments { number, length, reason, json } = arguments;
    let at = clock::wall();
    let end = |length| at.checked_add(length).ok().context("--for: it ends beyond the year 9999");
    let until = length.map(end).transpose()?;
    let pause = OperatorPause { until, reason: reason.clone(), by: who(), at };
    failed(console.pause(number, &pause).await, "writing the pause")?;

    let record = failed(console.record().await, "reading the record")?;
    if !record.lanes().contains(number) {
        tell(format_args!("{number} has no lane yet: it will be paused when it gets one"));
    }
    if *json {
        print_json(&stands(number, &record, clock::wall()))?;
    }
    match record.paused(number, clock::wall()) {
        Some(now) if *now == pause => {
            let until = until.map_or("it is resumed".to_owned(), |until| format!("{until:.0}"));
            tell(format_args!("{number} is paused until {until}: {reason}"));
            Ok(End::Done)
        }
        Some(_) => {
            tell(format_args!("{number} is paused, but not by this: see numbers list"));
            Ok(End::NotWell)
        }
        None => {
            tell(format_args!("{number} is not paused: somebody has resumed it since"));
            Ok(End::NotWell)
        }
    }
}

/// `--for` of the command line.
fn length(text: &str) -> Result<Duration, String> {
    match config::duration(text) {
        Some(length) if length >= Duration::from_secs(1) => Ok(length),
        Some(_) => Err("at least 1s".into()),
        None => Err("a whole number and a unit: s, m, h or d".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_written_as_in_the_settings() {
        assert_eq!(length("2h"), Ok(Duration::from_secs(7_200)));
        for bad in ["", "2", "0s", "999ms", "soon"] {
            assert!(length(bad).is_err(), "{bad}");
        }
    }
}
