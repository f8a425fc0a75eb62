//! `dead-letters show`: all about the letters of one job. The one place that prints a job's body,
//! since a person asks for this very one.

use super::{begin, finish, next};
use crate::cli::output::{moment, print, print_json, tame, tell};
use crate::cli::{End, progress};
use crate::queue::rabbitmq::{DeadLetters, Letter};
use crate::wire::{Class, JobId};
use clap::Args;
use serde_json::{Value, json};
use std::io::Write;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  chakra-sender dead-letters show order-8812-shipped                        why, when, all headers, and the body
  chakra-sender dead-letters show order-8812-shipped --json | jq -r .body   the job as it was enqueued")]
pub(super) struct ShowArguments {
    /// The job's id
    #[arg(value_parser = JobId::parse)]
    id: JobId,
    /// Only the letter that died as this replay; 0 is the first send
    #[arg(long, value_name = "N")]
    replay: Option<u32>,
    /// One JSON object a letter
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(
    arguments: &ShowArguments,
    letters: &DeadLetters,
    stop: &CancellationToken,
) -> anyhow::Result<End> {
    let mut pass = begin(letters).await?;
    let bar = progress::bar(Some(pass.total().into()), "reading");
    let mut found = false;
    while let Some(letter) = next(&mut pass, stop).await? {
        bar.inc(1);
        let of_replay = arguments.replay.is_none_or(|n| letter.replay.unwrap_or(0) == n);
        if letter.id.as_ref() == Some(&arguments.id) && of_replay {
            found = true;
            bar.suspend(|| print_letter(&letter, arguments.json))?;
        }
    }
    bar.finish_and_clear();
    let all = finish(pass, stop).await?;
    if !found {
        tell(format_args!("no dead letter of {}", arguments.id));
    }
    Ok(if found && all { End::Done } else { End::NotWell })
}

fn print_letter(letter: &Letter, json: bool) -> anyhow::Result<()> {
    let all = to_json(letter);
    if json {
        return print_json(&all);
    }
    let mut out = Vec::new();
    for (name, value) in all.as_object().into_iter().flatten() {
        match value {
            Value::Null => {}
            Value::Object(entries) => {
                writeln!(out, "{name}:")?;
                for (name, value) in entries {
                    writeln!(out, "  {}: {}", tame(name), plain(value))?;
                }
            }
            // It stands last, as it came.
            _ if ["body", "body_hex"].contains(&name.as_str()) => {}
            _ => writeln!(out, "{name}: {}", plain(value))?,
        }
    }
    writeln!(out, "body, {} bytes:", letter.body.len())?;
    out.extend_from_slice(&letter.body);
    out.push(b'\n');
    print(out)
}

/// Without quotes around a text.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), tame)
}

fn to_json(letter: &Letter) -> Value {
    let (properties, headers) = letter.properties();
    let body = std::str::from_utf8(&letter.body).ok();
    let hex = || letter.body.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    json!({
        "id": letter.id,
        "replay": letter.replay,
        "class": letter.class.map(Class::name),
        "code": letter.code,
        "phone_number_id": letter.lane.as_ref().map(|(number, _)| number),
        "reason": letter.reason,
        "attempts": letter.attempts,
        "first_received": moment(letter.first_received),
        "first_attempt": moment(letter.first_attempt),
        "died_at": moment(letter.died_at),
        "properties": properties,
        "headers": headers,
        "body": body,
        // Only what is no text.
        "body_hex": body.is_none().then(hex),
    })
}
