//! `numbers`: what waits for each phone number and what is believed of it; pausing one, resuming it,
//! dropping jobs of it. Reaches the broker alone: the workers obey what they read in the record.

mod drop;
mod forecast;
mod list;
mod page;
mod pause;
mod resume;
mod served;

pub(super) use forecast::{Backlog, Forecast, about};
pub(super) use page::Page;
pub(super) use served::{Paused, Served, serving};

use super::{End, parts, under_signals};
use crate::config::Settings;
use crate::queue::rabbitmq::{Console, MAX_REASON_CHARS, PATIENCE, Question, Record, gather};
use crate::wire::NumberId;
use anyhow::Context;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use list::Answers;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

#[derive(Debug, Args)]
pub(super) struct NumbersArguments {
    #[command(subcommand)]
    command: NumbersCommand,
}

#[derive(Debug, Subcommand)]
enum NumbersCommand {
    /// What waits for each number, how fast it goes, what is paused and why
    List(list::ListArguments),
    /// Let a number send nothing, on all workers; its jobs wait in the broker
    Pause(pause::PauseArguments),
    /// Let a paused number send again
    Resume(resume::ResumeArguments),
    /// End waiting jobs of a number as failed, for good; asks first
    Drop(drop::DropArguments),
}

pub(super) async fn run(arguments: NumbersArguments, settings: Settings) -> anyhow::Result<End> {
    parts::start_log(&settings)?;
    if let NumbersCommand::Drop(arguments) = &arguments.command {
        arguments.check()?;
    }
    let (connection, prefix) = (parts::connection(&settings), &settings.rabbitmq.prefix);
    let mut console = Console::connect(&connection, prefix).await.map_err(anyhow::Error::msg)?;
    let stop = CancellationToken::new();
    let work = async {
        match &arguments.command {
            NumbersCommand::List(arguments) => {
                let ask = async || {
                    let gathered =
                        gather(&connection, prefix, &Question::Numbers, PATIENCE).await?;
                    Ok(Answers { pages: gathered.reports, silent: gathered.silent.len() })
                };
                list::run(arguments, &mut console, ask).await
            }
            NumbersCommand::Pause(arguments) => pause::run(arguments, &mut console).await,
            NumbersCommand::Resume(arguments) => resume::run(arguments, &mut console).await,
            NumbersCommand::Drop(arguments) => {
                drop::run(arguments, &mut console, &settings, &stop).await
            }
        }
    };
    // A drop ends what it began; the others leave nothing half done.
    let end = match matches!(arguments.command, NumbersCommand::Drop(_)) {
        true => under_signals(&stop, work).await,
        false => work.await,
    };
    console.close().await;
    end
}

/// `ID` of the command line.
fn number(text: &str) -> Result<NumberId, String> {
    NumberId::parse(text)
}

/// `--reason` of the command line: it is shown on terminals, in results and in logs.
fn reason(text: &str) -> Result<String, String> {
    let chars = text.chars().count();
    match text {
        _ if text.trim().is_empty() => Err("it is empty".into()),
        _ if chars > MAX_REASON_CHARS => {
            Err(format!("it has {chars} characters, at most {MAX_REASON_CHARS}"))
        }
        _ if text.chars().any(char::is_control) => Err("it has a control character".into()),
        _ => Ok(text.to_owned()),
    }
}

/// Whether a number has a lane and is paused, for a program.
fn stands(number: &NumberId, record: &Record, now: Timestamp) -> Value {
    let has_lane = record.lanes().contains(number);
    let paused = record.paused(number, now).map(page::paused);
    json!({ "phone_number_id": number, "has_lane": has_lane, "paused": paused })
}

/// user@host, as far as the system tells.
fn who() -> Option<String> {
    let user = std::env::var_os("USER")?.into_string().ok()?;
    Some(format!("{user}@{}", host()?))
}

/// Which worker this process is, for people: host:process.
pub(super) fn worker_name() -> String {
    format!("{}:{}", host().unwrap_or_else(|| "?".to_owned()), std::process::id())
}

/// This machine's name, or this container's.
fn host() -> Option<String> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(host.trim().to_owned()).filter(|host| !host.is_empty())
}

/// An error that a number's command cannot go on after.
fn failed<T>(done: Result<T, String>, doing: &'static str) -> anyhow::Result<T> {
    done.map_err(anyhow::Error::msg).context(doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_short_line() {
        assert_eq!(reason("the wrong list").unwrap(), "the wrong list");
        assert!(reason(&"é".repeat(200)).is_ok());
        for bad in ["", "  ", "a\nb", "\u{1b}[2J", &"x".repeat(201)] {
            assert!(reason(bad).is_err(), "{bad:?}");
        }
    }
}
