//! `results`: events on stdout, one JSON object a line.

use super::output::{self, tell};
use super::{End, parts, under_signals};
use crate::config::Settings;
use crate::queue::rabbitmq::{Follower, Taker};
use crate::wire::NumberId;
use clap::{Args, ValueEnum};
use tokio_util::sync::CancellationToken;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  chakra-sender results                                                         all events, as they come
  chakra-sender results --status failed --number 1027729340496751 | jq .error
  chakra-sender results --take > results.jsonl                                  what was kept, out of the queue into a file

Each event is one line of JSON.")]
pub(super) struct ResultsArguments {
    /// Empty the queue that keeps results instead of following: what is printed is gone from it
    #[arg(long, conflicts_with_all = ["status", "number"])]
    take: bool,
    /// Only results with this status
    #[arg(long, value_enum)]
    status: Option<Of>,
    /// Only results of this phone number ID
    #[arg(long, value_name = "ID", value_parser = NumberId::parse)]
    number: Option<NumberId>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Of {
    Accepted,
    Failed,
    Expired,
    Unknown,
}

impl Of {
    fn name(self) -> &'static str {
        match self {
            Of::Accepted => "accepted",
            Of::Failed => "failed",
            Of::Expired => "expired",
            Of::Unknown => "unknown",
        }
    }
}

pub(super) async fn run(arguments: ResultsArguments, settings: Settings) -> anyhow::Result<End> {
    parts::start_log(&settings)?;
    if arguments.take {
        return take(&settings).await;
    }
    let stop = CancellationToken::new();
    under_signals(&stop, follow(&arguments, &settings, &stop)).await
}

/// Prints what the queue holds; each event is acknowledged only after it was written.
async fn take(settings: &Settings) -> anyhow::Result<End> {
    let connection = parts::connection(settings);
    let taker =
        Taker::connect(&connection, &settings.rabbitmq.prefix).await.map_err(anyhow::Error::msg)?;
    while let Some(event) = taker.next().await.map_err(anyhow::Error::msg)? {
        print(&event.body)?;
        event.acknowledge().await.map_err(anyhow::Error::msg)?;
    }
    taker.close().await;
    Ok(End::Done)
}

async fn follow(
    arguments: &ResultsArguments,
    settings: &Settings,
    stop: &CancellationToken,
) -> anyhow::Result<End> {
    let status = arguments.status.map_or("*", Of::name);
    let number = arguments.number.as_ref().map_or("*", NumberId::as_str);
    let pattern = match (arguments.status, &arguments.number) {
        (None, None) => "#".to_owned(),
        _ => format!("result.{status}.{number}"),
    };
    let connection = parts::connection(settings);
    let mut follower = Follower::connect(&connection, &settings.rabbitmq.prefix, &pattern)
        .await
        .map_err(anyhow::Error::msg)?;
    announce(&settings.rabbitmq.prefix, &pattern);
    loop {
        tokio::select! {
            event = follower.next() => print(&event.map_err(anyhow::Error::msg)?)?,
            () = stop.cancelled() => {
                follower.close().await;
                return Ok(End::Done);
            }
        }
    }
}

/// Nothing is missed from here on: whoever waits for it may begin to enqueue.
fn announce(prefix: &str, pattern: &str) {
    tell(format_args!("following {pattern} of {prefix}.results; Ctrl-C ends it"));
}

/// One line, whatever line breaks a producer's metadata holds.
fn print(event: &[u8]) -> anyhow::Result<()> {
    let mut line = match serde_json::from_slice::<serde_json::Value>(event) {
        Ok(_) => event.iter().copied().filter(|byte| !matches!(byte, b'\n' | b'\r')).collect(),
        Err(_) => event.to_vec(),
    };
    line.push(b'\n');
    output::print(line)
}
