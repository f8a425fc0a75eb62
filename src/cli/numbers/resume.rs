//! `numbers resume`: ends a pause in the record, and reads it back. Where there is none, nothing is
//! written.

use super::{failed, number};
use crate::cli::{End, tell};
use crate::clock;
use crate::queue::rabbitmq::Console;
use crate::wire::NumberId;
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct ResumeArguments {
    /// Meta's phone number ID
    #[arg(value_name = "ID", value_parser = number)]
    number: NumberId,
}

pub(super) async fn run(arguments: &ResumeArguments, console: &mut Console) -> anyhow::Result<End> {
    let number = &arguments.number;
    let before = failed(console.record().await, "reading the record")?;
    if before.paused(number, clock::wall()).is_none() {
        tell(format_args!("{number} was not paused"));
        return Ok(End::Done);
    }
    failed(console.resume(number, clock::wall()).await, "writing the end of the pause")?;
    let after = failed(console.record().await, "reading the record")?;
    match after.paused(number, clock::wall()) {
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
