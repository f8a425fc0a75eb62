//! `schema`: the JSON Schema of what goes in and what comes out.

use super::End;
use super::output::print;
use crate::wire;
use clap::{Args, ValueEnum};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  chakra-sender schema job > job.schema.json   for the validator of a producer
  chakra-sender schema event | jq .oneOf")]
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

pub(super) fn run(arguments: &SchemaArguments) -> anyhow::Result<End> {
    let schema = match arguments.what {
        What::Job => wire::job_schema(),
        What::Event => wire::event_schema(),
    };
    print(serde_json::to_string_pretty(&schema)? + "\n")?;
    Ok(End::Done)
}
