//! What this worker knows of one job, for who asks (`why`, `/jobs/{id}`): where it stands if it is in hand,
//! where it went, and what the ledger has of it. Decides nothing, and names no recipient in full: so it leaves
//! out Meta's id of the message, which has the phone number in it. The result has that id.

use super::Hall;
use super::failures::Recent;
use super::step::{Fault, Step, Word, millis, millis_or_null};
use super::views::LaneViews;
use super::whereabouts::{At, Gone, Here, Track};
use crate::ledger::Known;
use crate::policy::{Outcome, Past};
use crate::wire::{Class, JobId, NumberId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;

/// What one worker knows of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// Each delivery in hand, and each replay that left. None where the job is not known.
    pub jobs: Vec<JobView>,
    /// The ledger could not be read, and may know more. Older workers do not say it.
    #[serde(default)]
    pub ledger_unread: bool,
}

/// One job, or one replay of it, as one worker knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobView {
    /// Its sender; none where only the ledger knows the job.
    pub phone_number_id: Option<NumberId>,
    /// Its last two characters.
    pub recipient: Option<String>,
    /// Which replay; none: the first send.
    pub replay: Option<u32>,
    /// How it stands.
    pub stands: Stands,
    /// What happened to it, in order.
    pub steps: VecDeque<Step>,
    /// Steps that were too many, left out after the first.
    pub left_out: u32,
}

/// How it stands with a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Stands {
    /// In this worker's hand.
    InHand {
        /// What it is at, or waits for.
        at: Word,
        /// Since when.
        #[serde(serialize_with = "millis")]
        since: Timestamp,
        /// Until when at the latest, where that is known.
        #[serde(serialize_with = "millis_or_null")]
        until: Option<Timestamp>,
        /// What the next turn of its number waits for, where it waits for its turn.
        because: Option<Word>,
        /// Jobs of its number that wait for their turn in this worker, this one among them.
        waiting: Option<usize>,
        /// At so many a second.
        rate: Option<f64>,
        /// The job of the same recipient that goes before it.
        behind: Option<String>,
    },
    /// In a wait queue, unless it has come back to another worker since.
    PutOff {
        /// Since when.
        #[serde(serialize_with = "millis")]
        since: Timestamp,
        /// What for.
        why: Word,
        /// Until when; none: the shortest wait.
        #[serde(serialize_with = "millis_or_null")]
        due: Option<Timestamp>,
        /// Whether it may have been sent, and is looked for.
        in_doubt: bool,
    },
    /// A request began and left no answer; it is looked for when the queue brings it again.
    Begun {
        /// Since when.
        #[serde(serialize_with = "millis")]
        since: Timestamp,
        /// Which attempt.
        attempt: u32,
    },
    /// Its last request was answered, and it is tried again.
    Answered {
        /// Since when.
        #[serde(serialize_with = "millis")]
        since: Timestamp,
        /// Requests made.
        attempts: u32,
        /// Why the last one failed, as one word and a code.
        last_error: Option<String>,
        /// Not before.
        #[serde(serialize_with = "millis_or_null")]
        due: Option<Timestamp>,
    },
    /// It was here and nothing was begun: the queue has it.
    Returned {
        /// Since when.
        #[serde(serialize_with = "millis")]
        since: Timestamp,
    },
    /// It has its outcome.
    Over {
        /// Since when.
        #[serde(serialize_with = "millis")]
        since: Timestamp,
        /// The result's.
        status: Word,
        /// Requests made, where that is still known.
        attempts: Option<u32>,
        /// Why it was not accepted.
        fault: Option<Fault>,
        /// Whether its original went to the dead letters.
        is_dead_letter: bool,
    },
    /// In the dead letters, as they tell it: no worker says so.
    DeadLetter {
        /// Since when.
        #[serde(serialize_with = "millis_or_null")]
        since: Option<Timestamp>,
        /// Why.
        class: Option<Class>,
        /// Meta's code, where its last error has one.
        code: Option<u32>,
        /// Requests made.
        attempts: Option<u32>,
        /// When a worker first saw it.
        #[serde(serialize_with = "millis_or_null")]
        first_received: Option<Timestamp>,
    },
    /// What a later version tells.
    #[serde(other)]
    Unknown,
}

impl Stands {
    /// Since when it stands so.
    pub fn since(&self) -> Option<Timestamp> {
        match self {
            Stands::InHand { since, .. }
            | Stands::PutOff { since, .. }
            | Stands::Begun { since, .. }
            | Stands::Answered { since, .. }
            | Stands::Returned { since }
            | Stands::Over { since, .. } => Some(*since),
            Stands::DeadLetter { since, .. } => *since,
            Stands::Unknown => None,
        }
    }
}

/// All jobs of a worker, as they are when asked; clones are the same.
#[derive(Debug, Clone)]
pub struct JobViews {
    hall: Arc<Hall>,
    lanes: LaneViews,
}

impl JobViews {
    pub(super) fn new(hall: Arc<Hall>, lanes: LaneViews) -> JobViews {
        JobViews { hall, lanes }
    }

    /// What is known of the job. Reads the disk, and blocks meanwhile.
    pub fn find(&self, id: &JobId) -> Found {
        let (here, mut gone) = self.hall.whereabouts.find(id);
        let mut jobs: Vec<JobView> = here.iter().map(|track| self.in_hand(track)).collect();
        let is_here = |replay: Option<u32>| here.iter().any(|track| track.replay == replay);
        if gone.as_ref().is_some_and(|gone| is_here(gone.replay)) {
            gone = None;
        }
        let known = self.hall.ledger.look_up(id).inspect_err(|error| {
            tracing::warn!(job = %id, %error, "what is known of it cannot be read");
        });
        let ledger_unread = known.is_err();
        for known in known.unwrap_or_default() {
            if !is_here(known.replay) {
                let same = gone.take_if(|gone| gone.replay == known.replay);
                jobs.push(remembered(known, same));
            }
        }
        jobs.extend(gone.and_then(JobView::gone));
        Found { jobs, ledger_unread }
    }

    /// What failed of the number in the last 15 minutes, the most frequent first.
    pub fn failures(&self, number: &NumberId) -> Vec<Recent> {
        self.hall.whereabouts.failures(number)
    }

    fn in_hand(&self, track: &Track) -> JobView {
        let Here { at, since, until, steps } = track.here();
        let lane = (at == At::Lane).then(|| self.lanes.explain(&track.number)).flatten();
        let before = (at == At::Line).then(|| self.hall.whereabouts.before_it(track)).flatten();
        let until_turn = lane.as_ref().and_then(|(.., until)| *until);
        JobView {
            phone_number_id: Some(track.number.clone()),
            recipient: track.recipient.as_ref().map(ToString::to_string),
            replay: track.replay,
            stands: Stands::InHand {
                at: at.name().into(),
                since,
                until: until.or(until_turn),
                because: lane.as_ref().map(|(_, because, _)| because.clone()),
                waiting: lane.as_ref().map(|(view, ..)| view.waiting),
                rate: lane.as_ref().map(|(view, ..)| view.rate),
                behind: before.map(|id| id.as_str().to_owned()),
            },
            steps: steps.kept,
            left_out: steps.left_out,
        }
    }
}

/// What the ledger has, with what is remembered of its way. Where both tell how it stands, the later word
/// counts; of an outcome the ledger knows more.
fn remembered(known: Known, gone: Option<Gone>) -> JobView {
    let is_over = matches!(known.past, Past::Finished(_));
    let (of_ledger, received) = read(&known);
    let Some(mut view) = gone.and_then(JobView::gone) else {
        let steps = received.into_iter().collect();
        let replay = known.replay;
        return JobView {
            phone_number_id: None,
            recipient: None,
            replay,
            stands: of_ledger,
            steps,
            left_out: 0,
        };
    };
    if is_over || view.stands.since() < of_ledger.since() {
        view.stands = of_ledger;
    }
    view
}

/// How a job stands by the ledger, and its first step where that is known.
fn read(Known { changed, past, .. }: &Known) -> (Stands, Option<Step>) {
    let since = *changed;
    let received = |at: Timestamp, attempts: u32, last_error: Option<String>| {
        Some(Step::Brought { at, attempts, last_error, waited_for: None })
    };
    match past {
        Past::Begun { attempt, at } => (Stands::Begun { since: *at, attempt: *attempt }, None),
        Past::Answered { history, .. } => {
            let (attempts, last_error) = (history.attempts, history.last_error.clone());
            let step = received(history.first_received, attempts, last_error.clone());
            (Stands::Answered { since, attempts, last_error, due: history.due }, step)
        }
        Past::Finished(outcome) => {
            let Outcome { event, dead_letter } = &**outcome;
            let fault = event.error.as_ref().map(Fault::of);
            let stands = Stands::Over {
                since: event.finished_at,
                status: event.status.name().into(),
                attempts: Some(event.attempts),
                fault,
                is_dead_letter: dead_letter.is_some(),
            };
            (stands, received(event.received_at, event.attempts, None))
        }
        Past::Unseen { .. } | Past::Another => (Stands::Returned { since }, None),
    }
}

impl JobView {
    /// Of a job that left; none where it is not remembered how.
    fn gone(gone: Gone) -> Option<JobView> {
        let stands = match gone.steps.kept.back()?.clone() {
            Step::PutOff { at, why, due, in_doubt } => {
                Stands::PutOff { since: at, why, due, in_doubt }
            }
            Step::Ended { at, status, fault, is_dead_letter } => {
                Stands::Over { since: at, status, attempts: None, fault, is_dead_letter }
            }
            Step::Brought { .. }
            | Step::Received { .. }
            | Step::Waited { .. }
            | Step::Attempted { .. }
            | Step::Unknown => return None,
        };
        Some(JobView {
            phone_number_id: Some(gone.number),
            recipient: gone.recipient.as_ref().map(ToString::to_string),
            replay: gone.replay,
            stands,
            steps: gone.steps.kept,
            left_out: gone.steps.left_out,
        })
    }
}
