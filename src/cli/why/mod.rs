//! `why`: the life of one job, from whichever worker has it or had it: what it waits for now, what happened
//! to it, what came of it. Takes nothing and changes nothing.

mod life;
mod nowhere;
mod page;
mod words;

pub(super) use page::JobPage;

use super::output::{print, tame, tell};
use super::{End, parts, under_signals};
use crate::clock;
use crate::config::Settings;
use crate::queue::rabbitmq::{Gathered, PATIENCE, Question, gather};
use crate::wire::{JobId, NumberId};
use clap::Args;
use life::{Life, lives};
use page::Report;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct WhyArguments {
    /// The job's id
    #[arg(value_name = "JOB_ID", value_parser = JobId::parse)]
    id: JobId,
    /// Only the job of this phone number ID, where several numbers have the id
    #[arg(long, value_name = "ID", value_parser = NumberId::parse)]
    number: Option<NumberId>,
    /// One JSON object a job
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  chakra-sender why order-8812-shipped              what it waits for, or what came of it
  chakra-sender why order-8812-shipped --json | jq .stands

Exit codes: 0 it is known, 1 nobody knows it, 2 usage.";

pub(super) async fn run(arguments: WhyArguments, settings: Settings) -> anyhow::Result<End> {
    parts::start_log(&settings)?;
    let WhyArguments { id, number, json } = arguments;
    let (connection, prefix) = (parts::connection(&settings), &settings.rabbitmq.prefix);
    let question = Question::Job(id.clone());
    let gathered = gather(&connection, prefix, &question, PATIENCE).await;
    let Gathered { reports, silent } = gathered.map_err(anyhow::Error::msg)?;
    let (answered, silent) = (reports.len(), silent.len());
    let reports = Report::read(reports);
    let unread = reports.iter().filter(|report| report.found.ledger_unread);
    let unread = unread.map(|report| tame(&report.worker)).collect();
    let workers = Workers { answered, silent, unread };
    let lives = lives(reports, number.as_ref());
    if !lives.is_empty() {
        print_lives(&id, &lives, json)?;
        workers.tell();
        return Ok(End::Done);
    }
    let stop = CancellationToken::new();
    let search = nowhere::Search { id: &id, number: number.as_ref(), json, settings: &settings };
    under_signals(&stop, search.run(&workers, &stop)).await
}

/// Who answered, and who did not.
struct Workers {
    answered: usize,
    silent: usize,
    /// Who cannot read its ledger, and may know more than it tells.
    unread: Vec<String>,
}

impl Workers {
    fn tell_unknown(&self, id: &JobId) {
        if self.unread.is_empty() {
            tell(format_args!("no worker knows {id}"));
        }
        self.tell();
    }

    /// What keeps the answer from being all that there is to know.
    fn tell(&self) {
        for worker in &self.unread {
            tell(format_args!(
                "worker {worker} cannot read its ledger, which may know more: its log says why"
            ));
        }
        match (self.answered, self.silent) {
            (0, 0) => tell(format_args!(
                "no worker answers: start one (chakra-sender worker), or look why none reaches this \
                 broker (chakra-sender check; /readyz of a worker that runs)"
            )),
            (_, 0) => {}
            (_, silent) => tell(format_args!(
                "workers that do not answer: {silent}. They are busy, or of a version that does not \
                 know the question: each of a newer one has /jobs/ID on its admin listener"
            )),
        }
    }
}

fn print_lives(id: &JobId, lives: &[Life], json: bool) -> anyhow::Result<()> {
    let now = clock::wall();
    let texts: Vec<String> = lives
        .iter()
        .map(|life| match json {
            true => format!("{}\n", life.to_json(id)),
            false => words::life(id, life, now),
        })
        .collect();
    let between = if json { "" } else { "\n" };
    print(texts.join(between))
}
