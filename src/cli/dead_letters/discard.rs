//! `dead-letters discard`: drops letters for good. Counts first, asks, and drops no more than it
//! asked for.

use super::select::Selection;
use super::{begin, finish, next};
use crate::cli::ask::{self, ask};
use crate::cli::output::{print_json, tell};
use crate::cli::{End, Usage, progress};
use crate::queue::rabbitmq::{DeadLetters, Pass};
use anyhow::Context;
use clap::Args;
use indicatif::ProgressBar;
use serde_json::json;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  chakra-sender dead-letters discard --class invalid                 what could never be sent; asks first
  chakra-sender dead-letters discard --id order-8812-shipped --yes")]
pub(super) struct DiscardArguments {
    #[command(flatten)]
    selection: Selection,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// The summary as a JSON object on stdout
    #[arg(long)]
    json: bool,
}

impl DiscardArguments {
    /// Without a terminal nobody can be asked.
    pub(super) fn check(&self) -> Result<(), Usage> {
        ask::check(self.yes, "discard drops letters for good")
    }
}

pub(super) async fn run(
    arguments: &DiscardArguments,
    letters: &DeadLetters,
    stop: &CancellationToken,
) -> anyhow::Result<End> {
    let selection = &arguments.selection;
    let mut at_most = u64::MAX;
    if !arguments.yes {
        // A pass of its own: nothing is kept from the queue while a person thinks.
        let mut pass = begin(letters).await?;
        let bar = progress::bar(Some(pass.total().into()), "reading");
        at_most = 0;
        while let Some(letter) = next(&mut pass, stop).await? {
            bar.inc(1);
            at_most += u64::from(selection.picks(&letter));
        }
        bar.finish_and_clear();
        finish(pass, stop).await?;
        if at_most > 0 && !ask(&question(at_most, selection), stop).await? {
            tell(format_args!("nothing discarded"));
            return Ok(End::NotWell);
        }
    }
    let mut pass = begin(letters).await?;
    let bar = progress::bar(Some(pass.total().into()), "reading");
    let mut discarded = 0;
    let dropped = discard(&mut pass, stop, selection, at_most, &mut discarded, &bar).await;
    bar.finish_and_clear();
    let finished = finish(pass, stop).await;
    tell(format_args!("{discarded} discarded"));
    dropped.context("not all were discarded")?;
    let all = finished?;
    if arguments.json {
        let summary = json!({ "discarded": discarded, "all_looked_at": all });
        print_json(&summary)?;
    }
    Ok(if all { End::Done } else { End::NotWell })
}

/// The oldest come first: these were counted.
async fn discard(
    pass: &mut Pass<'_>,
    stop: &CancellationToken,
    selection: &Selection,
    at_most: u64,
    discarded: &mut u64,
    bar: &ProgressBar,
) -> anyhow::Result<()> {
    while *discarded < at_most
        && let Some(letter) = next(pass, stop).await?
    {
        bar.inc(1);
        if selection.picks(&letter) {
            pass.let_go().await.map_err(anyhow::Error::msg)?;
            *discarded += 1;
        }
    }
    Ok(())
}

fn question(count: u64, selection: &Selection) -> String {
    let letters = if count == 1 { "letter" } else { "letters" };
    format!("discard {count} dead {letters}{selection}?")
}

#[cfg(test)]
mod tests {
    use super::super::select::Filters;
    use super::*;
    use crate::wire::{Class, JobId};

    #[test]
    fn the_question_says_what_goes() {
        let filters = Filters { class: Some(Class::Throttled), code: Some(130_429), number: None };
        let group = Selection { filters, ..Selection::default() };
        assert_eq!(
            question(12, &group),
            "discard 12 dead letters of class throttled, code 130429?"
        );
        let id = vec![JobId::parse("order-1").unwrap()];
        let one = Selection { id, ..Selection::default() };
        assert_eq!(question(1, &one), "discard 1 dead letter of job order-1?");
        let all = Selection { all: true, ..Selection::default() };
        assert_eq!(question(2, &all), "discard 2 dead letters?");
    }
}
