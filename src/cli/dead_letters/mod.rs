//! `dead-letters`: what was given up and why, and what a person decides about it. `list` and `show`
//! take nothing. Letters that nobody picked stay in the queue, in their order.

mod discard;
mod list;
mod pace;
mod replay;
mod select;
mod show;

use super::output::tell;
use super::{End, parts, under_signals};
use crate::config::Settings;
use crate::queue::rabbitmq::{DeadLetters, Letter, Pass};
use anyhow::Context;
use clap::{Args, Subcommand};
use tokio_util::sync::CancellationToken;

#[derive(Debug, Args)]
pub(super) struct DeadLettersArguments {
    #[command(subcommand)]
    command: DeadLettersCommand,
}

#[derive(Debug, Subcommand)]
enum DeadLettersCommand {
    /// Count them by class, code and number; takes nothing
    List(list::ListArguments),
    /// Everything about the letters of one job, with the original body; takes nothing
    Show(show::ShowArguments),
    /// Send originals again, as fresh jobs with the next x-replay
    Replay(replay::ReplayArguments),
    /// Drop letters for good; asks first
    Discard(discard::DiscardArguments),
}

pub(super) async fn run(
    arguments: DeadLettersArguments,
    settings: Settings,
) -> anyhow::Result<End> {
    parts::start_log(&settings)?;
    if let DeadLettersCommand::Discard(arguments) = &arguments.command {
        arguments.check()?;
    }
    let (connection, prefix) = (parts::connection(&settings), &settings.rabbitmq.prefix);
    let letters = DeadLetters::connect(&connection, prefix).await.map_err(anyhow::Error::msg)?;
    let stop = CancellationToken::new();
    let work = async {
        match &arguments.command {
            DeadLettersCommand::List(arguments) => list::run(arguments, &letters, &stop).await,
            DeadLettersCommand::Show(arguments) => show::run(arguments, &letters, &stop).await,
            DeadLettersCommand::Replay(arguments) => replay::run(arguments, &letters, &stop).await,
            DeadLettersCommand::Discard(arguments) => {
                discard::run(arguments, &letters, &stop).await
            }
        }
    };
    let end = under_signals(&stop, work).await;
    letters.close().await;
    end
}

/// Begins a pass, and says what it will not see.
async fn begin(letters: &DeadLetters) -> anyhow::Result<Pass<'_>> {
    let pass = letters.pass().await.map_err(anyhow::Error::msg)?;
    if pass.others() > 0 {
        tell(format_args!("somebody else is reading the dead letters: what they hold is not seen"));
    }
    Ok(pass)
}

/// The next letter; none at the end, or when a person asked to stop.
pub(super) async fn next(
    pass: &mut Pass<'_>,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Letter>> {
    match stop.run_until_cancelled(pass.next()).await {
        Some(letter) => letter.map_err(anyhow::Error::msg).context("reading the dead letters"),
        None => Ok(None),
    }
}

/// Gives back what stays, and says where not all was seen. True: all was.
async fn finish(pass: Pass<'_>, stop: &CancellationToken) -> anyhow::Result<bool> {
    let cut = pass.cut();
    pass.close().await.map_err(anyhow::Error::msg).context("giving back what stays")?;
    if stop.is_cancelled() {
        tell(format_args!("stopped: not all letters were looked at"));
    } else if let Some(cut) = cut {
        tell(format_args!("not all letters were looked at: {cut}"));
    }
    Ok(cut.is_none() && !stop.is_cancelled())
}
