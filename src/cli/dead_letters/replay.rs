//! `dead-letters replay`: originals back on their way. Each is published and confirmed before its
//! letter is let go of: a stop or a crash anywhere loses nothing, and repeats nothing under another
//! `x-replay`.

use super::pace::Pace;
use super::select::{Selection, Verdict, Why, judge};
use super::{begin, finish, next};
use crate::cli::output::{print_json, tell};
use crate::cli::{End, progress};
use crate::clock;
use crate::queue::rabbitmq::{DeadLetters, Letter, Pass, Replayer, Taken};
use crate::wire::JobId;
use anyhow::Context;
use clap::Args;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt;
use tokio_util::sync::CancellationToken;

/// Letters a second. A modest stream beside what producers send.
const RATE: f64 = 10.0;

/// The slowest pace: what is prefetched must go before the broker's `consumer_timeout`. The fastest:
/// what confirms one after the other can follow.
const RATES: std::ops::RangeInclusive<f64> = 0.2..=1_000.0;

/// Letters without a lane are named one by one up to this many; then they are only counted.
const NAMED: u64 = 20;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  chakra-sender dead-letters replay --class unavailable --dry-run   what would go out again?
  chakra-sender dead-letters replay --class unavailable --rate 5
  chakra-sender dead-letters replay --id order-8812-shipped --unknown   it may arrive twice

Each letter goes back to its number's lane with its bytes and its producer's properties, as a fresh \
job with x-replay one higher; its result has the same id, `replay`, and the message_id \
<id>:<replay>:result. Letters of class invalid would fail again: they go only by --id or --class \
invalid. A job whose expires_at has passed ends as expired.")]
pub(super) struct ReplayArguments {
    #[command(flatten)]
    selection: Selection,
    /// At most so many letters a second, 0.2 to 1000
    #[arg(long, value_name = "N/s", default_value_t = RATE, value_parser = rate)]
    rate: f64,
    /// Only count what would be replayed
    #[arg(long)]
    dry_run: bool,
    /// Also letters of class ambiguous, which may have been sent: a customer may be messaged twice
    #[arg(long)]
    unknown: bool,
    /// The summary as a JSON object on stdout
    #[arg(long)]
    json: bool,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.strip_suffix("/s").unwrap_or(text).parse().ok();
    rate.filter(|rate| RATES.contains(rate))
        .ok_or_else(|| format!("letters a second, {} to {}", RATES.start(), RATES.end()))
}

pub(super) async fn run(
    arguments: &ReplayArguments,
    letters: &DeadLetters,
    stop: &CancellationToken,
) -> anyhow::Result<End> {
    let mut pass = begin(letters).await?;
    let replayer = letters.replayer().await.map_err(anyhow::Error::msg)?;
    let bar = progress::bar(Some(pass.total().into()), "replaying");
    let mut round = Round { arguments, replayer, counted: Counted::default(), bar };
    let replayed = round.replay(&mut pass, stop).await;
    round.bar.finish_and_clear();
    let finished = finish(pass, stop).await;
    let Round { counted, .. } = round;
    tell(format_args!("{}", Summary { counted: &counted, dry_run: arguments.dry_run }));
    // What went wrong first is the reason of what went wrong later.
    replayed.context("not all was replayed")?;
    let all = finished?;
    let missing: Vec<&JobId> =
        arguments.selection.id.iter().filter(|id| !counted.ids.contains(id)).collect();
    for id in &missing {
        tell(format_args!("{id}: no letter of it was replayed"));
    }
    if arguments.json {
        print_json(&counted.to_json(arguments.dry_run, all))?;
    }
    let well = all && missing.is_empty() && counted.refused + counted.no_lane == 0;
    Ok(if well { End::Done } else { End::NotWell })
}

struct Round<'a> {
    arguments: &'a ReplayArguments,
    replayer: Replayer,
    counted: Counted,
    bar: ProgressBar,
}

impl Round<'_> {
    /// Stops between two letters.
    async fn replay(
        &mut self,
        pass: &mut Pass<'_>,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let ReplayArguments { selection, dry_run, unknown, .. } = self.arguments;
        let mut pace = Pace::new(self.arguments.rate);
        while let Some(letter) = next(pass, stop).await? {
            self.bar.inc(1);
            if !selection.picks(&letter) {
                continue;
            }
            match judge(&letter, selection, *unknown) {
                Verdict::Stay(why) => self.stays(&letter, why),
                Verdict::Go(_) if *dry_run => self.goes(letter),
                Verdict::Go(lane) => {
                    let wait = tokio::time::sleep(pace.wait(clock::monotonic()));
                    if stop.run_until_cancelled(wait).await.is_none() {
                        return Ok(());
                    }
                    let taken = self.replayer.put(&letter, lane).await;
                    match taken.map_err(anyhow::Error::msg)? {
                        Taken::Confirmed => {
                            // Before the letter is let go of: it is on its way whatever follows.
                            self.goes(letter);
                            pass.let_go().await.map_err(anyhow::Error::msg)?;
                        }
                        Taken::Unroutable | Taken::Refused => self.counted.refused += 1,
                    }
                }
            }
        }
        Ok(())
    }

    fn goes(&mut self, letter: Letter) {
        self.counted.replayed += 1;
        if !self.arguments.selection.id.is_empty() {
            self.counted.ids.extend(letter.id);
        }
    }

    fn stays(&mut self, letter: &Letter, why: Why) {
        match why {
            Why::MayBeSent => self.counted.may_be_sent += 1,
            Why::Invalid => self.counted.invalid += 1,
            Why::NoLane => {
                self.counted.no_lane += 1;
                if self.counted.no_lane <= NAMED {
                    let id = letter.id.as_ref().map_or("a letter without an id", JobId::as_str);
                    let line = format_args!("{id}: skipped, its x-routing-key names no lane");
                    self.bar.suspend(|| tell(line));
                }
            }
        }
    }
}

/// What became of the letters that were picked.
#[derive(Debug, Default)]
struct Counted {
    replayed: u64,
    /// The jobs that were named and replayed: no more are kept than a person named.
    ids: BTreeSet<JobId>,
    may_be_sent: u64,
    invalid: u64,
    no_lane: u64,
    refused: u64,
}

impl Counted {
    fn to_json(&self, dry_run: bool, all: bool) -> Value {
        json!({
            "replayed": self.replayed,
            "dry_run": dry_run,
            "skipped": {
                "may_be_sent": self.may_be_sent,
                "invalid": self.invalid,
                "no_lane": self.no_lane,
                "refused": self.refused,
            },
            "all_looked_at": all,
        })
    }
}

/// One line for a person.
struct Summary<'a> {
    counted: &'a Counted,
    dry_run: bool,
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counted { replayed, may_be_sent, invalid, no_lane, refused, .. } = self.counted;
        match self.dry_run {
            true => write!(f, "{replayed} would be replayed")?,
            false => write!(f, "{replayed} replayed")?,
        }
        let skipped = [
            (may_be_sent, "may have been sent (--unknown)"),
            (invalid, "invalid, would fail again (--class invalid)"),
            (no_lane, "without a lane"),
            (refused, "refused by a full lane"),
        ];
        for (count, why) in skipped.into_iter().filter(|(count, _)| **count > 0) {
            write!(f, "; {count} left: {why}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_letters_a_second_within_bounds() {
        for (text, expected) in
            [("10", Some(10.0)), ("0.2/s", Some(0.2)), ("1000/s", Some(1_000.0))]
        {
            assert_eq!(rate(text).ok(), expected);
        }
        for text in ["0", "0.1", "-1", "1001", "NaN", "inf", "ten", "10/m", ""] {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_summary_names_what_was_left_and_why() {
        let counted = Counted { replayed: 3, may_be_sent: 2, ..Counted::default() };
        let said = Summary { counted: &counted, dry_run: false }.to_string();
        assert_eq!(said, "3 replayed; 2 left: may have been sent (--unknown)");
        let said = Summary { counted: &Counted::default(), dry_run: true }.to_string();
        assert_eq!(said, "0 would be replayed");
    }
}
