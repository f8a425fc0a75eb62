//! The command line: each command builds its parts, runs them and prints for a person. stdout is
//! data, stderr is for people. Exit codes: 0 done, 1 failed, 2 usage or configuration.

mod ask;
mod check;
mod codes;
mod columns;
#[cfg(test)]
mod command_lines;
mod completions;
mod dead_letters;
mod demo;
mod enqueue;
mod fail_on;
mod numbers;
mod output;
mod parts;
mod progress;
mod reload;
mod results;
mod sandbox;
mod schema;
mod send;
mod token;
mod webhook;
mod why;
mod worker;

use crate::config::ConfigError;
use crate::supervisor::{EXIT_INTERRUPTED, Signals};
use anyhow::Context;
use clap::{Parser, Subcommand};
use reload::Sources;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The program's name, as it is typed.
const NAME: &str = "chakra-sender";

/// At the end, threads that still read from a silent pipe are left behind after this.
const LEAVE_THREADS_BEHIND: Duration = Duration::from_millis(100);

/// How a command ended when it did not fail outright.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Exit code 0.
    Done,
    /// Exit code 1: it worked, but not all is well; what is wrong has been printed.
    NotWell,
    /// Exit code 130: a second signal made it leave at once.
    Interrupted,
}

/// A command that was called in a way it cannot be: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// Runs `work` under the signals: the first cancels `drain`, the second leaves at once.
async fn under_signals(
    drain: &CancellationToken,
    work: impl Future<Output = anyhow::Result<End>>,
) -> anyhow::Result<End> {
    let signals = Signals::catch().context("catching signals")?;
    tokio::select! {
        end = work => end,
        () = signals.second_signal(drain.clone()) => Ok(End::Interrupted),
    }
}

/// Sends WhatsApp messages through ChakraHQ: jobs from RabbitMQ or a file in, exactly one result each
/// out.
#[derive(Debug, Parser)]
#[command(name = NAME, version, arg_required_else_help = true, after_help = EXAMPLES)]
struct Arguments {
    /// Settings in TOML, over the built-in defaults and under environment variables
    /// (CHAKRA_SENDER__SECTION__KEY).
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  chakra-sender demo                                    see it work: no account, no broker
  chakra-sender check                                   is everything in place?
  chakra-sender worker                                  the main job, from RabbitMQ
  chakra-sender enqueue jobs.jsonl                      put jobs on RabbitMQ
  chakra-sender enqueue people.csv --template job.json --wait   a job for each row, and what became of it
  chakra-sender results                                 follow the results
  chakra-sender dead-letters list                       what was given up, and why
  chakra-sender numbers list                            what waits, how fast it goes, what is paused
  chakra-sender why order-8812                          what this job waits for, or what came of it
  chakra-sender send --jobs jobs.jsonl --results out.jsonl   the same with no broker";

const WORKER: &str = "\
Examples:
  chakra-sender worker                                    settings by environment variables
  chakra-sender worker --config /etc/chakra-sender/chakra-sender.toml

SIGTERM: finishes what it has begun, gives the rest back, and ends. SIGHUP: reads the settings again.
What it does: http://127.0.0.1:9464/ (admin.listen).";

#[derive(Debug, Subcommand)]
enum Command {
    /// Take jobs from RabbitMQ until told to stop: the main job
    #[command(after_help = WORKER)]
    Worker,
    /// Take jobs from a file, write results to a file; goes on where it stopped
    Send(send::SendArguments),
    /// Sandbox, worker and sample jobs in one process: no account needed
    Demo(demo::DemoArguments),
    /// Put jobs on RabbitMQ, from a file or made of a table and a template
    Enqueue(enqueue::EnqueueArguments),
    /// Follow results, taking nothing from real consumers
    Results(results::ResultsArguments),
    /// Look at the jobs that were given up, send them again, or drop them
    DeadLetters(dead_letters::DeadLettersArguments),
    /// See what waits for each number; pause one, resume it, drop its jobs
    Numbers(numbers::NumbersArguments),
    /// What a job waits for, what happened to it, what came of it
    Why(why::WhyArguments),
    /// Say what is in place and what to do about the rest
    Check(check::CheckArguments),
    /// A fake ChakraHQ on this machine, with faults
    Sandbox(sandbox::SandboxArguments),
    /// Print the JSON Schema of a job or an event
    Schema(schema::SchemaArguments),
    /// Print what a shell needs to complete commands
    Completions(completions::CompletionsArguments),
    /// Print the man page, or write one for each command
    Man(completions::ManArguments),
}

/// The whole process.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&anyhow::anyhow!("no runtime: {error}")),
    };
    let end = runtime.block_on(run(arguments));
    runtime.shutdown_timeout(LEAVE_THREADS_BEHIND);
    match end {
        Ok(End::Done) => ExitCode::SUCCESS,
        Ok(End::NotWell) => ExitCode::from(1),
        Ok(End::Interrupted) => ExitCode::from(EXIT_INTERRUPTED),
        Err(error) => complain(&error),
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<End> {
    let sources = Sources { file: arguments.config, environment: std::env::vars_os().collect() };
    let settings = || sources.load();
    match arguments.command {
        Command::Worker => worker::run(sources).await,
        Command::Send(arguments) => send::run(arguments, settings()?).await,
        Command::Demo(arguments) => demo::run(arguments).await,
        Command::Enqueue(arguments) => enqueue::run(arguments, settings()?).await,
        Command::Results(arguments) => results::run(arguments, settings()?).await,
        Command::DeadLetters(arguments) => dead_letters::run(arguments, settings()?).await,
        Command::Numbers(arguments) => numbers::run(arguments, settings()?).await,
        Command::Why(arguments) => why::run(arguments, settings()?).await,
        Command::Check(arguments) => check::run(arguments, settings()?).await,
        Command::Sandbox(arguments) => sandbox::run(arguments).await,
        Command::Schema(arguments) => schema::run(&arguments),
        Command::Completions(arguments) => completions::completions(&arguments),
        Command::Man(arguments) => completions::man(&arguments),
    }
}

/// One line for a person; a configuration error lists all its problems, one a line.
fn complain(error: &anyhow::Error) -> ExitCode {
    if error.is::<output::Closed>() {
        return ExitCode::SUCCESS;
    }
    output::complain(format_args!("{error:#}"));
    match error.is::<ConfigError>() || error.is::<Usage>() {
        true => ExitCode::from(2),
        false => ExitCode::from(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
