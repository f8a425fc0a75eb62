//! `schema`: the JSON Schema of what goes in and what comes out.

use super::End;
use crate::wire;
use clap::{Args, ValueEnum};

#[derive(Debug, Args)]
pub(super) struct SchemaArguments {
    /// Which one
    #[arg(value_enum)]
    what: What,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    /// What producers send
    Job,
    /// What consumers get
    Event,
}

#[expect(clippy::print_stdout, reason = "stdout is data")]
pub(super) fn run(arguments: &SchemaArguments) -> anyhow::Result<End> {
    let schema = match arguments.what {
        What::Job => wire::job_schema(),
        What::Event => wire::event_schema(),
    };
    println!("{}", serde_json::to_string_pretty(&schema)?);
    Ok(End::Done)
}
