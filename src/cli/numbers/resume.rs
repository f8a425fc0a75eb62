//! `numbers resume`: ends a pause in the record, and reads it back. Where there is none, nothing is
//! written.

use super::{failed, number, stands};
use crate::cli::End;
use crate::cli::output::{print_json, tell};
use crate::clock;
use crate::queue::rabbitmq::Console;
use crate::wire::NumberId;
use clap::Args;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  chakra-sender numbers resume 1027729340496751")]
pub(super) struct ResumeArguments {
    /// Meta's phone number ID
    #[arg(value_name = "ID", value_parser = number)]
    number: NumberId,
    /// How the number stands after it, as a JSON object on stdout
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: &ResumeArguments, console: &mut Console) -> anyhow::Result<End> {
    let number = &arguments.number;
    let mut record = failed(console.record().await, "reading the record")?;
    let was_paused = record.paused(number, clock::wall()).is_some();
    if was_paused {
        failed(console.resume(number, clock::wall()).await, "writing the end of the pause")?;
        record = failed(console.record().await, "reading the record")?;
    }
    if arguments.json {
        print_json(&stands(number, &record, clock::wall()))?;
    }
    match record.paused(number, clock::wall()) {
        None if !was_paused => {
            tell(format_args!("{number} was not paused"));
            Ok(End::Done)
        }
        None => {
            tell(format_args!("{number} is resumed"));
            Ok(End::Done)
        }
        Some(pause) => {
            tell(format_args!("{number} has been paused again since: {}", pause.reason));
            Ok(End::NotWell)
        }
    }
}
