//! A job that no worker knows: whether it is in the dead letters, and else where it may be.

use super::life::Life;
use super::{Workers, print_lives};
use crate::cli::dead_letters;
use crate::cli::numbers::about;
use crate::cli::output::tell;
use crate::cli::{End, parts, progress};
use crate::clock;
use crate::config::Settings;
use crate::policy::rest;
use crate::queue::rabbitmq::{Console, DeadLetters, Letter};
use crate::wire::{JobId, NumberId};
use crate::worker::{JobView, Stands};
use std::collections::VecDeque;
use tokio_util::sync::CancellationToken;

/// With more dead letters than this nobody waits for an answer: `dead-letters show` reads them all.
const MOST_LETTERS: u32 = 20_000;

/// Lanes with a backlog that are named.
const MOST_LANES: usize = 10;

/// What is looked for.
pub(super) struct Search<'a> {
    pub(super) id: &'a JobId,
    pub(super) number: Option<&'a NumberId>,
    pub(super) json: bool,
    pub(super) settings: &'a Settings,
}

impl Search<'_> {
    pub(super) async fn run(
        &self,
        workers: &Workers,
        stop: &CancellationToken,
    ) -> anyhow::Result<End> {
        let (connection, prefix) =
            (parts::connection(self.settings), &self.settings.rabbitmq.prefix);
        let letters = match DeadLetters::connect(&connection, prefix).await {
            Ok(letters) => {
                let found = self.letters(&letters, stop).await;
                letters.close().await;
                found
            }
            Err(reason) => Letters::NotRead(reason),
        };
        if let Letters::Found(letters) = &letters {
            let lives: Vec<Life> = letters.iter().map(dead).collect();
            print_lives(self.id, &lives, self.json)?;
            return Ok(End::Done);
        }
        workers.tell_unknown(self.id);
        let lanes = match Console::connect(&connection, prefix).await {
            Ok(mut console) => {
                let lanes = self.lanes(&mut console).await;
                console.close().await;
                lanes
            }
            Err(reason) => Err(reason),
        };
        tell(format_args!("it may be:"));
        for line in places(self.id, &lanes, &letters) {
            tell(format_args!("  - {line}"));
        }
        Ok(End::NotWell)
    }

    async fn letters(&self, letters: &DeadLetters, stop: &CancellationToken) -> Letters {
        let mut pass = match letters.pass().await {
            Ok(pass) => pass,
            Err(reason) => return Letters::NotRead(reason),
        };
        if pass.total() > MOST_LETTERS {
            return Letters::NotRead(format!("there are {}", pass.total()));
        }
        let bar = progress::bar(Some(pass.total().into()), "reading");
        let mut found = Vec::new();
        let read = loop {
            match dead_letters::next(&mut pass, stop).await {
                Ok(Some(letter)) if self.is_it(&letter) => found.push(letter),
                Ok(Some(_)) => {}
                Ok(None) => break Ok(()),
                Err(error) => break Err(format!("{error:#}")),
            }
            bar.inc(1);
        };
        bar.finish_and_clear();
        let closed = pass.close().await;
        match (found.is_empty(), read.and(closed)) {
            (false, _) => Letters::Found(found),
            (true, Ok(())) if !stop.is_cancelled() => Letters::NotThere,
            (true, Ok(())) => Letters::NotRead("the reading was stopped".to_owned()),
            (true, Err(reason)) => Letters::NotRead(reason),
        }
    }

    fn is_it(&self, letter: &Letter) -> bool {
        let number = letter.lane.as_ref().map(|(number, _)| number);
        letter.id.as_ref() == Some(self.id) && (self.number.is_none() || self.number == number)
    }

    /// The lanes with jobs that no worker has in hand.
    async fn lanes(&self, console: &mut Console) -> Result<Vec<String>, String> {
        let record = console.record().await?;
        let now = clock::wall();
        let mut lanes = Vec::new();
        let numbers =
            record.lanes().iter().filter(|number| self.number.is_none_or(|own| own == *number));
        for number in numbers {
            let ready = console.depths(number).await?.map_or(0, |depths| depths.ready());
            if ready == 0 {
                continue;
            }
            let paused = record.paused(number, now).map(|pause| match pause.until {
                Some(until) => format!(", paused for {}", about(rest(until, now))),
                None => ", paused until it is resumed".to_owned(),
            });
            lanes.push(format!("{number} ({ready}{})", paused.unwrap_or_default()));
        }
        Ok(lanes)
    }
}

/// What a dead letter tells. Its reason is not among it: it can quote the message. `dead-letters show` is asked
/// for this very job.
fn dead(letter: &Letter) -> Life {
    let Letter { died_at, class, code, attempts, first_received, .. } = *letter;
    let stands = Stands::DeadLetter { since: died_at, class, code, attempts, first_received };
    let view = JobView {
        phone_number_id: letter.lane.as_ref().map(|(number, _)| number.clone()),
        recipient: None,
        replay: letter.replay,
        stands,
        steps: VecDeque::new(),
        left_out: 0,
    };
    Life { view, worker: None, steps: Vec::new() }
}

/// What came of looking into the dead letters.
enum Letters {
    Found(Vec<Letter>),
    NotThere,
    /// And why not.
    NotRead(String),
}

/// Where a job may be that nobody knows, the likeliest first.
fn places(id: &JobId, lanes: &Result<Vec<String>, String>, letters: &Letters) -> Vec<String> {
    let lane = match lanes {
        Ok(lanes) if lanes.is_empty() => None,
        Ok(lanes) => {
            let more = lanes.len().saturating_sub(MOST_LANES);
            let more = if more > 0 { format!(" and {more} more lanes") } else { String::new() };
            let named = lanes.iter().take(MOST_LANES).cloned().collect::<Vec<_>>().join(", ");
            Some(format!("in RabbitMQ, in its number's lane behind others: {named}{more}"))
        }
        Err(reason) => Some(format!("in RabbitMQ, whose lanes cannot be counted: {reason}")),
    };
    let letters = match letters {
        Letters::NotRead(reason) => Some(format!(
            "in the dead letters, which were not read ({reason}): chakra-sender dead-letters show {id}"
        )),
        Letters::Found(_) | Letters::NotThere => None,
    };
    let always = [
        "in a wait queue, put there by a worker that has ended since, or too long ago to be remembered",
        "over for longer than ledger.keep, or known to a worker that has ended (without ledger.path each \
         forgets all)",
        "never enqueued, or under another id or rabbitmq.prefix",
    ];
    lane.into_iter().chain(letters).chain(always.map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> JobId {
        JobId::parse("order-1").unwrap()
    }

    #[test]
    fn the_lanes_with_a_backlog_are_named_and_no_more_than_a_few() {
        let lanes = Ok((0..12).map(|n| format!("{n} (7)")).collect());
        let places = places(&id(), &lanes, &Letters::NotThere);
        assert!(
            places[0].contains("0 (7), 1 (7)") && places[0].ends_with("9 (7) and 2 more lanes")
        );
        assert_eq!(places.len(), 4);
    }

    #[test]
    fn what_could_not_be_looked_at_is_named_as_a_place() {
        let letters = Letters::NotRead("there are 30000".into());
        let places = places(&id(), &Err("refused".into()), &letters);
        assert!(places[0].contains("refused") && places[1].contains("30000"), "{places:?}");
        assert!(places[1].ends_with("dead-letters show order-1"), "{places:?}");
    }
}
