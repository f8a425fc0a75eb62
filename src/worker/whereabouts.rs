//! Where each job in hand stands and what it waits for, and where the last ones went: for people who ask
//! (`why`). Nothing is decided by it, so what is forgotten costs nobody a message.
//!
//! A job in hand costs about 130 bytes, of which its own task writes the changing part; the list of all
//! is written by the one task that admits jobs. So no two jobs wait for each other here. One that went
//! through without a failure or an earlier delivery leaves nothing behind: the ledger has its outcome.

use super::failures::{Failures, Recent};
use super::lock;
use super::step::{Fault, Step};
use crate::clock;
use crate::policy::{Answer, History, Outcome, Settlement, Why};
use crate::queue::Incoming;
use crate::wire::{JobId, NumberId, Recipient, ResultEvent, SendJob};
use jiff::Timestamp;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, Weak};

/// A shorter wait is not told afterwards. In a lane with a backlog each job waits for the 2.25 s that
/// the worker reads ahead.
const NOTABLE_MILLIS: i64 = 3_000;

/// Steps that are kept of one job: the first, and the last ones.
const MOST_STEPS: usize = 24;

/// Steps that are kept of jobs that went elsewhere, at 72 bytes each. Each job has two at least, and some 300
/// bytes of its own: 10 MB at most. An outage puts off more than 20,000; of those the earliest are forgotten.
const MOST_GONE: usize = 40_000;

/// The list of jobs in hand is looked over no earlier than at this length.
const SHORT: usize = 1_024;

/// What a job in hand is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    /// Its record is asked for: the ledger cannot be read.
    Ledger,
    /// Its recipient's earlier jobs go first.
    Line,
    /// It may have been sent: it is looked for.
    Look,
    /// Its own time, or the end of an earlier wait.
    Due,
    /// Its recipient's pace.
    Recipient,
    /// Its number's turn.
    Lane,
    /// Its request is under way.
    Call,
    /// What came of it is recorded and told.
    Settlement,
}

impl At {
    /// The word for operators.
    pub(super) fn name(self) -> &'static str {
        match self {
            At::Ledger => "ledger",
            At::Line => "line",
            At::Look => "look",
            At::Due => "due",
            At::Recipient => "recipient",
            At::Lane => "lane",
            At::Call => "call",
            At::Settlement => "settlement",
        }
    }
}

/// One delivery of a job, as long as it is in hand.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) id: JobId,
    pub(super) number: NumberId,
    pub(super) recipient: Option<Recipient>,
    pub(super) replay: Option<u32>,
    now: Mutex<Now>,
}

/// Times are in milliseconds of Unix time.
#[derive(Debug)]
struct Now {
    at: At,
    since: i64,
    /// Until when at the latest, where that is known.
    until: Option<i64>,
    arrived: i64,
    /// How often the queue had delivered it before.
    earlier: u32,
    /// Of earlier deliveries, and what is worth telling of this one.
    steps: Option<Box<Steps>>,
}

/// What happened to a job, within a bound.
#[derive(Debug, Clone, Default)]
pub(super) struct Steps {
    pub(super) kept: VecDeque<Step>,
    /// Left out, after the first.
    pub(super) left_out: u32,
}

impl Steps {
    fn push(&mut self, step: Step) {
        if self.kept.len() >= MOST_STEPS {
            self.kept.remove(1);
            self.left_out = self.left_out.saturating_add(1);
        }
        self.kept.push_back(step);
    }
}

/// A job in hand, as it is when asked.
#[derive(Debug)]
pub(super) struct Here {
    pub(super) at: At,
    pub(super) since: Timestamp,
    pub(super) until: Option<Timestamp>,
    pub(super) steps: Steps,
}

impl Track {
    /// From now on it is at this.
    pub(super) fn is_at(&self, at: At) {
        self.turn(at, None, clock::wall());
    }

    /// From now on it is at this, until then at the latest.
    pub(super) fn is_at_until(&self, at: At, until: Timestamp) {
        self.turn(at, Some(until), clock::wall());
    }

    fn failed(&self, attempt: u32, fault: Fault, (began, now): (Timestamp, Timestamp)) {
        let seconds = seconds(now.as_millisecond() - began.as_millisecond());
        lock(&self.now).note(Step::Attempted { at: began, attempt, seconds, fault });
    }

    fn turn(&self, at: At, until: Option<Timestamp>, now: Timestamp) {
        let (until, now) = (until.map(Timestamp::as_millisecond), now.as_millisecond());
        let mut state = lock(&self.now);
        let waited = now.saturating_sub(state.since);
        if waited >= NOTABLE_MILLIS && !matches!(state.at, At::Call | At::Settlement) {
            let (at, of) = (moment(state.since), state.at.name().into());
            state.note(Step::Waited { at, of, seconds: seconds(waited) });
        }
        (state.at, state.since, state.until) = (at, now, until);
    }

    /// As it is now.
    pub(super) fn here(&self) -> Here {
        let state = lock(&self.now);
        Here {
            at: state.at,
            since: moment(state.since),
            until: state.until.map(moment),
            steps: state.all_steps(),
        }
    }

    /// Whether it is before another one of its recipient: it is not in the line any more.
    pub(super) fn is_before(&self, other: &Track) -> bool {
        let same = (&self.number, &self.recipient) == (&other.number, &other.recipient);
        same && lock(&self.now).at != At::Line
    }
}

impl Now {
    fn note(&mut self, step: Step) {
        if self.steps.is_none() {
            self.steps = Some(Box::new(Steps { kept: [self.received()].into(), left_out: 0 }));
        }
        if let Some(steps) = &mut self.steps {
            steps.push(step);
        }
    }

    /// Whether more happened than that it came and waited.
    fn has_a_story(&self) -> bool {
        let told = |step: &Step| !matches!(step, Step::Received { .. } | Step::Waited { .. });
        self.steps.as_ref().is_some_and(|steps| steps.kept.iter().any(told))
    }

    fn received(&self) -> Step {
        Step::Received { at: moment(self.arrived), earlier: self.earlier }
    }

    fn all_steps(&self) -> Steps {
        match &self.steps {
            Some(steps) => (**steps).clone(),
            None => Steps { kept: [self.received()].into(), left_out: 0 },
        }
    }
}

/// A job that is no longer in hand.
#[derive(Debug, Clone)]
pub(super) struct Gone {
    pub(super) number: NumberId,
    pub(super) recipient: Option<Recipient>,
    pub(super) replay: Option<u32>,
    pub(super) steps: Steps,
}

/// All that is known of jobs.
#[derive(Debug, Default)]
pub(super) struct Whereabouts {
    here: Mutex<Vec<Weak<Track>>>,
    gone: Mutex<AllGone>,
    failures: Mutex<Failures>,
}

/// The last that went elsewhere. Of one id the latest.
#[derive(Debug, Default)]
struct AllGone {
    jobs: HashMap<JobId, (u64, Gone)>,
    /// The same by their serials, which is the order of their leaving.
    order: BTreeMap<u64, JobId>,
    serial: u64,
    /// Of all of them.
    steps: usize,
}

impl Whereabouts {
    /// A delivery of a job came.
    pub(super) fn enter<R>(&self, job: &SendJob, incoming: &Incoming<R>) -> Arc<Track> {
        let history = &incoming.history;
        let before = is_known(history, incoming.waited_for, incoming.earlier);
        let steps = before.then(|| self.before(job, history, incoming.waited_for));
        let now = clock::wall();
        let mut state = Now {
            at: At::Ledger,
            since: now.as_millisecond(),
            until: None,
            arrived: now.as_millisecond(),
            earlier: incoming.earlier,
            steps: steps.map(Box::new),
        };
        let received = state.received();
        if let Some(steps) = &mut state.steps {
            steps.push(received);
        }
        let track = Arc::new(Track {
            id: job.id.clone(),
            number: job.phone_number_id.clone(),
            recipient: job.message.recipient().cloned(),
            replay: history.replay,
            now: Mutex::new(state),
        });
        let mut here = lock(&self.here);
        if here.len() == here.capacity() && here.len() >= SHORT {
            // It grows by then only if more than half are still here.
            here.retain(|track| track.strong_count() > 0);
            let room = here.len().max(SHORT);
            // What has left keeps its memory as long as it is in the list.
            here.shrink_to(2 * room);
            here.reserve(room);
        }
        here.push(Arc::downgrade(&track));
        track
    }

    /// A request, which began and ended then, was answered.
    pub(super) fn answered(
        &self,
        track: &Track,
        attempt: u32,
        answer: &Answer,
        times: (Timestamp, Timestamp),
    ) {
        if let Answer::Failed(failure) = answer {
            let fault = Fault::of(&failure.to_body());
            track.failed(attempt, fault, times);
            lock(&self.failures).note(&track.number, fault, times.1);
        }
    }

    /// What failed of the number lately.
    pub(super) fn failures(&self, number: &NumberId) -> Vec<Recent> {
        lock(&self.failures).recent(number, clock::wall())
    }

    /// The delivery was settled.
    pub(super) fn left(&self, track: &Track, settlement: &Settlement) {
        let mut state = lock(&track.now);
        let is_in_ledger = Outcome::is_remembered(settlement);
        if is_in_ledger && !state.has_a_story() {
            return;
        }
        let end = match settlement {
            Settlement::Finish(event) => ended(event, false),
            Settlement::DeadLetter { event: Some(event), .. } => ended(event, true),
            Settlement::DeadLetter { event: None, .. } => return,
            Settlement::Reschedule(wait) => Step::PutOff {
                at: clock::wall(),
                why: wait.why.name().into(),
                due: wait.history.due,
                in_doubt: wait.history.doubt.is_some(),
            },
        };
        state.note(end);
        let mut steps = state.steps.take().map(|steps| *steps).unwrap_or_default();
        drop(state);
        steps.kept.shrink_to_fit();
        let (number, recipient) = (track.number.clone(), track.recipient.clone());
        let gone = Gone { number, recipient, replay: track.replay, steps };
        lock(&self.gone).push(track.id.clone(), gone);
    }

    /// Of these names: what is in hand, and what went elsewhere last.
    pub(super) fn find(&self, id: &JobId) -> (Vec<Arc<Track>>, Option<Gone>) {
        let of_it = |track: &Arc<Track>| track.id == *id;
        let here = lock(&self.here).iter().filter_map(Weak::upgrade).filter(of_it).collect();
        let gone = lock(&self.gone).jobs.get(id).map(|(_, gone)| gone.clone());
        (here, gone)
    }

    /// The job of the same recipient that goes before this one now.
    pub(super) fn before_it(&self, track: &Track) -> Option<JobId> {
        let here = lock(&self.here);
        let mut all = here.iter().filter_map(Weak::upgrade);
        all.find(|other| other.is_before(track)).map(|other| other.id.clone())
    }

    /// What happened to a job before it came back: as remembered here, else as it brought along.
    fn before(&self, job: &SendJob, history: &History, waited_for: Option<Why>) -> Steps {
        if let Some(steps) = lock(&self.gone).take(job, history) {
            return steps;
        }
        let brought = Step::Brought {
            at: history.first_received,
            attempts: history.attempts,
            last_error: history.last_error.clone(),
            waited_for: waited_for.map(|why| why.name().into()),
        };
        Steps { kept: [brought].into(), left_out: 0 }
    }
}

impl AllGone {
    fn push(&mut self, id: JobId, gone: Gone) {
        self.remove(&id);
        self.serial += 1;
        self.steps += gone.steps.kept.len();
        self.order.insert(self.serial, id.clone());
        self.jobs.insert(id, (self.serial, gone));
        while self.steps > MOST_GONE
            && let Some((_, earliest)) = self.order.pop_first()
        {
            self.remove(&earliest);
        }
    }

    fn take(&mut self, job: &SendJob, history: &History) -> Option<Steps> {
        let (_, gone) = self.jobs.get(&job.id)?;
        let is_same = gone.number == job.phone_number_id && gone.replay == history.replay;
        is_same.then(|| self.remove(&job.id))?
    }

    fn remove(&mut self, id: &JobId) -> Option<Steps> {
        let (serial, gone) = self.jobs.remove(id)?;
        self.order.remove(&serial);
        self.steps -= gone.steps.kept.len();
        Some(gone.steps)
    }
}

/// Whether it was in some worker's hand before.
fn is_known(history: &History, waited_for: Option<Why>, earlier: u32) -> bool {
    waited_for.is_some() || earlier > 0 || history.attempts > 0 || history.doubt.is_some()
}

fn ended(event: &ResultEvent, is_dead_letter: bool) -> Step {
    Step::Ended {
        at: event.finished_at,
        status: event.status.name().into(),
        fault: event.error.as_ref().map(Fault::of),
        is_dead_letter,
    }
}

fn moment(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of a wait")]
fn seconds(millis: i64) -> f64 {
    millis as f64 / 1_000.0
}

#[cfg(test)]
mod tests;
