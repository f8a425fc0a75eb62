//! `numbers drop`: lets the workers end waiting jobs of a number, and shows how it goes. Takes no job
//! itself, and ends the drop when it leaves.

use super::{failed, number, reason};
use crate::cli::ask::{self, ask};
use crate::cli::output::{print_json, tell};
use crate::cli::{End, Usage, parts, progress};
use crate::clock;
use crate::config::Settings;
use crate::policy::{DROPPED, DropRule, MetadataFilter};
use crate::queue::rabbitmq::{Console, Depths, Follower, LONGEST_DROP};
use crate::wire::NumberId;
use anyhow::Context;
use clap::Args;
use indicatif::ProgressBar;
use serde::Deserialize;
use serde_json::json;
use std::cell::Cell;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Between two looks at the queues.
const LOOK: Duration = Duration::from_millis(500);

/// The backlog was read when so many looks in a row found both queues empty and heard of no dropped
/// job: the broker tells what is ready a moment late, and workers end what they have in hand meanwhile.
const QUIET_LOOKS: u32 = 4;

/// A lane that nobody reads for so many looks deserves a word.
const UNREAD_LOOKS: u32 = 10;

/// Why, where nobody said.
const NO_REASON: &str = "no reason given";

#[derive(Debug, Args)]
#[command(after_help = ADVICE)]
pub(super) struct DropArguments {
    /// Meta's phone number ID
    #[arg(value_name = "ID", value_parser = number)]
    number: NumberId,
    /// Only jobs whose metadata has this key at its top, with this value
    #[arg(long, value_name = "KEY=VALUE", value_parser = filter)]
    metadata: Option<MetadataFilter>,
    /// Why: one line, which stands in the result of each dropped job
    #[arg(long, value_name = "TEXT", value_parser = reason, default_value = NO_REASON)]
    reason: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// The summary as a JSON object on stdout
    #[arg(long)]
    json: bool,
}

const ADVICE: &str = "\
Examples:
  chakra-sender numbers pause 1027729340496751 --reason \"wrong price list\"
  chakra-sender numbers drop 1027729340496751 --metadata campaign=summer --reason \"wrong price list\"
  chakra-sender numbers resume 1027729340496751

Pause the number first, then drop, then resume it: a number that is not paused goes on sending what
is not dropped yet, and what is not to be dropped.
Each dropped job gets the result failed, class blocked, and no dead letter. Jobs that are enqueued after
the drop began are spared, if their AMQP timestamp says so; so are jobs that may have been sent.
Jobs that wait for a retry or for their time are dropped when they come back, also after the drop.";

impl DropArguments {
    pub(super) fn check(&self) -> Result<(), Usage> {
        ask::check(self.yes, "drop ends jobs for good")
    }
}

pub(super) async fn run(
    arguments: &DropArguments,
    console: &mut Console,
    settings: &Settings,
    stop: &CancellationToken,
) -> anyhow::Result<End> {
    let DropArguments { number, metadata, reason, yes, json } = arguments;
    let record = failed(console.record().await, "reading the record")?;
    let Some(depths) = failed(console.depths(number).await, "counting waiting jobs")? else {
        anyhow::bail!("{number} has no lane: there is nothing to drop");
    };
    if record.paused(number, clock::wall()).is_none() {
        tell(format_args!("{number} is not paused: what is not dropped goes on being sent"));
    }
    let question = question(number, metadata.as_ref(), depths);
    match yes {
        true => tell(format_args!("{question}")),
        false if ask(&format!("{question}: drop?"), stop).await? => {}
        false => {
            tell(format_args!("nothing dropped"));
            return Ok(End::NotWell);
        }
    }
    // Nothing that is dropped is missed.
    let (connection, prefix) = (parts::connection(settings), &settings.rabbitmq.prefix);
    let pattern = format!("result.failed.{number}");
    let follower = Follower::connect(&connection, prefix, &pattern).await;
    let mut follower = failed(follower, "following the results")?;
    let from = clock::wall();
    let rule = DropRule {
        id: format!("{:016x}", fastrand::u64(..)),
        number: number.clone(),
        metadata: metadata.clone(),
        reason: reason.clone(),
        from,
        until: from.checked_add(LONGEST_DROP).context("the clock is at the end of time")?,
    };
    failed(console.begin_drop(&rule).await, "beginning the drop")?;
    let dropped = Cell::new(0);
    let watched = tokio::select! {
        biased;
        () = stop.cancelled() => Ok(Ended::Stopped),
        () = tokio::time::sleep(LONGEST_DROP) => Ok(Ended::TooLong),
        failure = count(&mut follower, &rule, &dropped) => Err(failure),
        watched = watch(console, number, depths.ready(), &dropped) => watched.map(|()| Ended::Empty),
    };
    // However it went: nothing more is to be read for it.
    let ended = console.end_drop(&rule.id, clock::wall()).await;
    follower.close().await;
    tell(format_args!("{} dropped", dropped.get()));
    failed(ended, "ending the drop, which ends by itself within an hour")?;
    tell(format_args!("jobs that come back from waits are still dropped"));
    let watched = failed(watched, "watching the drop")?;
    if *json {
        let is_read = matches!(watched, Ended::Empty);
        print_json(&json!({ "phone_number_id": number, "dropped": dropped, "all_read": is_read }))?;
    }
    Ok(match watched {
        Ended::Empty => End::Done,
        Ended::Stopped => {
            tell(format_args!("stopped: what still stands in the queues is not dropped"));
            End::NotWell
        }
        Ended::TooLong => {
            tell(format_args!("the queues were not empty within an hour: run it again"));
            End::NotWell
        }
    })
}

/// Why the watching ended.
enum Ended {
    /// Both queues were read.
    Empty,
    /// A person asked for it.
    Stopped,
    /// A drop is no longer than this.
    TooLong,
}

/// Shows how the queues become empty, and returns when they are.
async fn watch(
    console: &Console,
    number: &NumberId,
    total: u64,
    dropped: &Cell<u64>,
) -> Result<(), String> {
    let bar = Bar(progress::bar(Some(total), "reading"));
    let (mut quiet, mut unread, mut before) = (0, 0, 0);
    while quiet < QUIET_LOOKS {
        tokio::time::sleep(LOOK).await;
        let Some(depths) = console.depths(number).await? else {
            return Err(format!("the lane of {number} is gone"));
        };
        bar.0.set_position(total.saturating_sub(depths.ready()));
        bar.0.set_message(format!("{} dropped", dropped.get()));
        let is_quiet = depths.ready() == 0 && dropped.get() == before;
        quiet = if is_quiet { quiet + 1 } else { 0 };
        before = dropped.get();
        unread = if depths.ready() == 0 || depths.is_read() { 0 } else { unread + 1 };
        if unread == UNREAD_LOOKS {
            bar.0.suspend(|| tell(format_args!("no worker reads the lane of {number}: waiting")));
        }
    }
    Ok(())
}

/// Gone from the terminal however the watching ends.
struct Bar(ProgressBar);

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Counts what is dropped by this rule, until the results cannot be followed any more.
async fn count(follower: &mut Follower, rule: &DropRule, dropped: &Cell<u64>) -> String {
    let message = format!("{DROPPED}{}", rule.reason);
    loop {
        match follower.next().await {
            Ok(event) if is_dropped(&event, &message) => dropped.set(dropped.get() + 1),
            Ok(_) => {}
            Err(reason) => return reason,
        }
    }
}

fn is_dropped(event: &[u8], message: &str) -> bool {
    #[derive(Deserialize)]
    struct Event {
        error: Option<Error>,
    }
    #[derive(Deserialize)]
    struct Error {
        message: String,
    }
    let event: Option<Event> = serde_json::from_slice(event).ok();
    event.and_then(|event| event.error).is_some_and(|error| error.message == message)
}

fn question(number: &NumberId, filter: Option<&MetadataFilter>, depths: Depths) -> String {
    let (normal, urgent) = (depths.normal.ready, depths.urgent.ready);
    let of = match filter {
        None => "all of them".to_owned(),
        Some(MetadataFilter { key, value }) => format!("those with metadata {key:?} = {value:?}"),
    };
    format!("{number} has {normal} normal and {urgent} urgent jobs waiting; to be dropped: {of}")
}

/// `--metadata` of the command line.
fn filter(text: &str) -> Result<MetadataFilter, String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => {
            Ok(MetadataFilter { key: key.to_owned(), value: value.to_owned() })
        }
        _ => Err("KEY=VALUE".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::rabbitmq::Depth;

    #[test]
    fn the_question_says_how_much_waits_and_what_goes() {
        let depth = |ready| Depth { ready, consumers: 0 };
        let depths = Depths { normal: depth(12), urgent: depth(3) };
        let number = NumberId::parse("1").unwrap();
        let all = question(&number, None, depths);
        assert_eq!(all, "1 has 12 normal and 3 urgent jobs waiting; to be dropped: all of them");
        let some = question(&number, Some(&filter("campaign=a=b").unwrap()), depths);
        assert!(some.ends_with(r#"those with metadata "campaign" = "a=b""#), "{some}");
        assert!(filter("campaign").is_err() && filter("=x").is_err());
    }

    #[test]
    fn only_results_of_this_drop_are_counted() {
        let event = |message: &str| format!(r#"{{"id":"a","error":{{"message":"{message}"}}}}"#);
        let mine = "dropped by an operator: x";
        assert!(is_dropped(event(mine).as_bytes(), mine));
        for other in [event("dropped by an operator: y"), r#"{"error":null}"#.into(), "x".into()] {
            assert!(!is_dropped(other.as_bytes(), mine));
        }
    }
}
