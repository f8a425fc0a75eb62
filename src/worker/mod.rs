//! The hall where the rooms meet: takes jobs from a queue, gives each its own small task, settles
//! each by its receipt. What happens to one job stands in `handle.rs`: read that first.
//!
//! Invariants: jobs of one recipient are settled in their order of arrival; turns that are waited for are
//! handed out by one task a lane; nothing is sent after the drain began that had not begun before.

mod account;
mod awaited;
mod failures;
mod handle;
mod jobs;
mod lag;
mod lanes;
mod limits;
mod live;
mod looking;
mod order;
mod plugin;
mod resolve;
mod statuses;
mod step;
mod templates;
mod views;
mod waiting;
mod whereabouts;

pub use failures::Recent;
pub use jobs::{Found, JobView, JobViews, Stands};
pub use live::Tuner;
pub use plugin::PluginAsker;
pub use step::{Fault, Step, Word};
pub use views::{LaneView, LaneViews};

use crate::chakra::Client;
use crate::clock;
use crate::crash::{self, Stage};
use crate::ledger::{Ledger, LedgerError};
use crate::limiter::{Rate, Rates, RecipientLimit, Recipients};
use crate::metrics::Metrics;
use crate::policy::{self, DoubtPolicy, Failure, Outcome, RetryPolicy, Settlement};
use crate::queue::{Heard, Incoming, Notices, Receipt, SettleError};
use crate::wire::{Class, NumberId, Recipient, ResultEvent, SendJob};
use account::Account;
use awaited::Awaited;
use futures_util::FutureExt;
use handle::InHand;
use lanes::{Lane, Shared};
use live::Live;
use looking::Looking;
use order::Place;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use templates::Templates;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use whereabouts::{At, Track, Whereabouts};

/// Recipients remembered at once. One is forgotten when its bucket is full again: after 6 s for a
/// single message, so this is enough for 30,000 different recipients a second.
const MAX_RECIPIENTS: usize = 200_000;

/// So often jobs in doubt that were not heard of again are forgotten, and the statuses of numbers without such a
/// job no longer listened to.
const LOOK_OVER: Duration = Duration::from_secs(10);

/// What the hall needs to know.
#[derive(Debug)]
pub struct WorkerSettings {
    /// The pace of each number.
    pub rates: Rates,
    /// The pace of each pair of number and recipient; none where switched off.
    pub recipient: Option<RecipientLimit>,
    /// The pace of the account; none by default.
    pub account: Option<Rate>,
    /// Waits up to this are slept, longer ones go back to the queue.
    pub max_wait: Duration,
    /// When a job is tried again.
    pub retry: RetryPolicy,
    /// What follows where an answer never came.
    pub doubt: DoubtPolicy,
    /// The pace of looks at chats.
    pub looks: Rate,
    /// Calls at once, until what came of each is safe; one number has at most half of them.
    pub max_in_flight: usize,
    /// Lanes at once.
    pub max_lanes: usize,
}

/// Everything that a job's handling needs, shared by all jobs.
#[derive(Debug)]
struct Hall {
    chakra: Client,
    ledger: Ledger,
    metrics: Arc<Metrics>,
    recipients: Mutex<Recipients>,
    shared: Arc<Shared>,
    /// Replaced as a whole while jobs are under way.
    live: watch::Sender<Live>,
    looking: Arc<Looking>,
    awaited: Mutex<Awaited>,
    templates: Templates,
    /// For who asks about a job.
    whereabouts: Whereabouts,
    notices: Notices,
    drain: CancellationToken,
}

/// A worker, ready to run.
#[derive(Debug)]
pub struct Worker {
    hall: Arc<Hall>,
    max_lanes: usize,
    max_calls_a_lane: usize,
    lanes: LaneViews,
    /// Statuses that webhooks brought, where there are any.
    heard: mpsc::Receiver<Heard>,
    /// The tasks beside the jobs (handing out turns, probing, hearing of new API keys); they end with
    /// the worker.
    pacers: JoinSet<()>,
    /// Whether results could be recorded, by the queue.
    queue_may_send: watch::Receiver<bool>,
    may_send: watch::Sender<bool>,
    jobs: TaskTracker,
}

impl Worker {
    /// `may_send` is false while results could not be recorded. `notices` tell the queue which numbers
    /// are left alone, and the worker what operators ordered. `drain` is cancelled when the worker stops; what has not begun goes back when the
    /// queue ends its tenure.
    pub fn new(
        settings: WorkerSettings,
        chakra: Client,
        ledger: Ledger,
        metrics: Arc<Metrics>,
        may_send: watch::Receiver<bool>,
        notices: Notices,
        drain: CancellationToken,
    ) -> Worker {
        let (may_send_now, both_may_send) = watch::channel(false);
        let looking =
            Looking::new(chakra.clone(), settings.looks, Arc::clone(&metrics), ledger.clone());
        metrics.in_flight_limit(settings.max_in_flight);
        let now = clock::monotonic();
        let account =
            Account::new(settings.account, notices.holds.clone(), Arc::clone(&metrics), now);
        let account = Arc::new(account);
        let lanes = LaneViews::new(
            settings.rates,
            Arc::clone(&account),
            notices.served.clone(),
            Arc::clone(&metrics),
        );
        let shared = Arc::new(Shared {
            calls: Arc::new(Semaphore::new(settings.max_in_flight)),
            account,
            may_send: both_may_send,
            metrics: Arc::clone(&metrics),
            holds: notices.holds.clone(),
        });
        let recipients = Recipients::new(settings.recipient, MAX_RECIPIENTS);
        let WorkerSettings { max_wait, retry, doubt, .. } = settings;
        let live = Live { max_wait, retry, doubt };
        let hall = Hall {
            chakra,
            ledger,
            metrics,
            recipients: Mutex::new(recipients),
            shared,
            live: watch::Sender::new(live),
            looking: Arc::new(looking),
            awaited: Mutex::new(Awaited::new(notices.listening.clone())),
            templates: Templates::default(),
            whereabouts: Whereabouts::default(),
            notices,
            drain,
        };
        Worker {
            hall: Arc::new(hall),
            max_lanes: settings.max_lanes,
            max_calls_a_lane: (settings.max_in_flight / 2).max(1),
            lanes,
            heard: mpsc::channel(1).1,
            pacers: JoinSet::new(),
            queue_may_send: may_send,
            may_send: may_send_now,
            jobs: TaskTracker::new(),
        }
    }

    /// Heeds these statuses.
    pub fn hearing(self, heard: mpsc::Receiver<Heard>) -> Worker {
        Worker { heard, ..self }
    }

    /// What it believes of each number, as it goes on.
    pub fn views(&self) -> LaneViews {
        self.lanes.clone()
    }

    /// What it knows of each job, as it goes on.
    pub fn jobs(&self) -> JobViews {
        JobViews::new(Arc::clone(&self.hall), self.lanes.clone())
    }

    /// Changes its settings while it runs.
    pub fn tuner(&self) -> Tuner {
        Tuner { hall: Arc::clone(&self.hall), lanes: self.lanes.clone() }
    }

    /// Runs until the queue has ended and every job in hand is settled.
    pub async fn run<R: Receipt>(mut self, mut queue: mpsc::Receiver<Incoming<R>>) {
        let Worker { queue_may_send, may_send, .. } = &self;
        let ledger = self.hall.ledger.trouble();
        let metrics = Arc::clone(&self.hall.metrics);
        self.pacers.spawn(both(queue_may_send.clone(), ledger, may_send.clone(), metrics));
        self.pacers.spawn(Arc::clone(&self.hall.looking).run(self.hall.drain.clone()));
        let account = Arc::clone(&self.hall.shared.account);
        self.pacers.spawn(Arc::clone(&account).heed_tokens(self.hall.chakra.new_tokens()));
        self.pacers.spawn(account.share_with(self.hall.notices.served.workers()));
        self.pacers.spawn(self.lanes.clone().keep_shown());
        let mut look_over = tokio::time::interval(LOOK_OVER);
        loop {
            tokio::select! {
                incoming = queue.recv() => match incoming {
                    Some(incoming) => self.admit(incoming),
                    None => break,
                },
                Some(heard) = self.heard.recv() => self.heed(&heard),
                _ = look_over.tick() => lock(&self.hall.awaited).look_over(clock::monotonic()),
            }
        }
        self.jobs.close();
        self.jobs.wait().await;
        self.pacers.shutdown().await;
    }

    /// Gives a job its lane, its place and its task, in the order of arrival.
    fn admit<R: Receipt>(&mut self, incoming: Incoming<R>) {
        let hall = Arc::clone(&self.hall);
        // Boxed once: it goes from hand to hand, and each future on the way would hold room for it twice.
        let incoming = Box::new(incoming);
        let Some((lane, place, track)) = self.place(&incoming) else {
            self.jobs.spawn(hall.turn_away(incoming));
            return;
        };
        // Boxed here, not by its spawning, which would move it from hand to hand.
        self.jobs.spawn(Box::pin(hall.process(incoming, lane, place, track)));
    }

    /// The job's lane, its place in its recipient's line, and its track for who asks; none for what is no
    /// lawful job, and where there are too many lanes.
    fn place<R>(&mut self, incoming: &Incoming<R>) -> Option<(Arc<Lane>, Place, Arc<Track>)> {
        let job = incoming.job.as_ref().ok()?;
        let lane = self.lane(&job.phone_number_id)?;
        lane.begin(&incoming.tenure);
        let place = match job.message.recipient() {
            Some(recipient) => lane.lines.join(recipient),
            // A receipt goes to nobody: a line of its own holds back a second delivery of it.
            None => lane.lines.join(&Recipient::from_user_id(job.id.as_str())),
        };
        let track = self.hall.whereabouts.enter(job, incoming);
        Some((lane, place, track))
    }

    /// The number's lane, made at its first job; none when there are too many.
    fn lane(&mut self, number: &NumberId) -> Option<Arc<Lane>> {
        let (shared, max_calls) = (&self.hall.shared, self.max_calls_a_lane);
        let pacers = &mut self.pacers;
        // Of lanes that were forgotten.
        while pacers.try_join_next().is_some() {}
        self.lanes.lane(number, self.max_lanes, |rate| {
            let lane = Arc::new(Lane::new(number.clone(), rate, max_calls, Arc::clone(shared)));
            pacers.spawn(Arc::clone(&lane).pace());
            lane
        })
    }
}

impl Hall {
    /// Handles one job and settles it. The recipient's next job waits until this one is settled.
    async fn process<R: Receipt>(
        self: Arc<Self>,
        incoming: Box<Incoming<R>>,
        lane: Arc<Lane>,
        mut place: Place,
        track: Arc<Track>,
    ) {
        let mut in_hand = InHand::default();
        let handled = self.handle(&incoming, &lane, &mut place, &track, &mut in_hand);
        let settlement = match AssertUnwindSafe(handled).catch_unwind().await {
            Ok(settlement) => settlement,
            Err(_) => Some(panicked(&incoming)),
        };
        track.is_at(At::Settlement);
        self.settle(incoming, in_hand, Some(&track), settlement.as_ref()).await;
        drop(place);
    }

    /// Ends a job that has no lane: it is no lawful job, or there are too many lanes.
    async fn turn_away<R: Receipt>(self: Arc<Self>, incoming: Box<Incoming<R>>) {
        let now = clock::wall();
        let settlement = match &incoming.job {
            Err(invalid) => policy::unreadable(invalid, &incoming.history, now),
            Ok(job) => {
                let reason = "its number would need one more lane than numbers.max_lanes allows";
                let failure = Failure::new(Class::Invalid, reason);
                policy::turned_away(job, &incoming.history, &failure, now)
            }
        };
        self.settle(incoming, InHand::default(), None, Some(&settlement)).await;
    }

    /// The ledger first, then the queue: a job that comes again finds its outcome.
    async fn settle<R: Receipt>(
        &self,
        incoming: Box<Incoming<R>>,
        InHand { delivery, call }: InHand,
        track: Option<&Track>,
        settlement: Option<&Settlement>,
    ) {
        let Some(settlement) = settlement else {
            return incoming.let_go();
        };
        let outcome = Outcome::of(settlement);
        if let Ok(job) = &incoming.job
            && ends_doubt(settlement)
        {
            lock(&self.awaited).forget(job);
        }
        if let (Some(delivery), Ok(job)) = (&delivery, &incoming.job) {
            if let Some(outcome) = &outcome {
                self.noted(job, delivery.finish(outcome, clock::wall()).await);
            }
            self.metrics.doubt_jobs(self.ledger.doubts());
        }
        crash::point(Stage::Recorded);
        let settled = incoming.receipt.settle(settlement, call).await;
        incoming.token.leave(match &settled {
            Ok(()) => settlement.into(),
            Err(error) => error.into(),
        });
        match settled {
            Ok(()) => {
                match (&delivery, settlement) {
                    (Some(delivery), Settlement::Reschedule(_)) => delivery.put_off(),
                    (Some(delivery), _) if outcome.is_none() => delivery.forget(),
                    (Some(_) | None, _) => {}
                }
                if let Some(track) = track {
                    self.whereabouts.left(track, settlement);
                }
                self.note(incoming.lane.as_ref(), settlement);
            }
            Err(SettleError::Stopped) => {}
            Err(error) => tracing::warn!(%error, "not settled: the job comes again"),
        }
    }

    /// A record that failed is told, and harms nothing: at worst the job is looked for.
    fn noted(&self, job: &SendJob, recorded: Result<(), LedgerError>) {
        if let Err(error) = recorded {
            tracing::error!(job = %job.id, %error, "what came of it could not be recorded");
        }
    }

    /// Counts and logs a settlement. Its reason is not logged, since it can quote a body: it stands
    /// in the event and in the dead letter.
    fn note(&self, lane: Option<&NumberId>, settlement: &Settlement) {
        match settlement {
            Settlement::Finish(event) => self.note_result(lane, event),
            Settlement::DeadLetter { event, class, .. } => {
                self.metrics.dead_letter(*class);
                let job = event.as_ref().map(|event| event.id.as_str());
                tracing::warn!(job, class = class.name(), "dead letter");
                if let Some(event) = event {
                    self.note_result(lane, event);
                }
            }
            Settlement::Reschedule(wait) => {
                self.metrics.rescheduled(wait.why);
                tracing::debug!(why = wait.why.name(), due = ?wait.history.due, "rescheduled");
            }
        }
    }

    fn note_result(&self, lane: Option<&NumberId>, event: &ResultEvent) {
        let class = event.error.as_ref().map(|error| error.class);
        self.metrics.result(lane, event.status, class);
        tracing::debug!(
            job = %event.id,
            number = event.phone_number_id.as_ref().map(NumberId::as_str),
            status = event.status.name(),
            class = class.map(Class::name),
            attempts = event.attempts,
            "settled"
        );
    }
}

/// True while results could be recorded and beginnings be remembered. Ends with the queue.
async fn both(
    mut queue: watch::Receiver<bool>,
    mut ledger: watch::Receiver<Option<String>>,
    may_send: watch::Sender<bool>,
    metrics: Arc<Metrics>,
) {
    loop {
        let ledger_up = ledger.borrow_and_update().is_none();
        metrics.ledger_up(ledger_up);
        may_send.send_replace(*queue.borrow_and_update() && ledger_up);
        let changed = tokio::select! {
            changed = queue.changed() => changed,
            changed = ledger.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Whether it is known by now what became of the job. What is invalid may have the id of another that is in
/// doubt.
fn ends_doubt(settlement: &Settlement) -> bool {
    match settlement {
        Settlement::Reschedule(wait) => wait.history.doubt.is_none(),
        Settlement::DeadLetter { class, .. } => *class != Class::Invalid,
        Settlement::Finish(_) => true,
    }
}

/// A defect of ours struck in the middle of a job: what it did until then is not known.
fn panicked<R>(incoming: &Incoming<R>) -> Settlement {
    let failure = Failure::new(
        Class::Ambiguous,
        "a defect in the worker ended the handling of this job: it may have been sent",
    );
    let now = clock::wall();
    match &incoming.job {
        Ok(job) => policy::turned_away(job, &incoming.history, &failure, now),
        Err(invalid) => policy::unreadable(invalid, &incoming.history, now),
    }
}

/// No lock is held over an await, and a panic leaves no half-made change behind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::rabbitmq::RabbitReceipt;

    /// Bytes of the task that the function makes.
    fn room<A, B, C, D, E, F>(_: impl FnOnce(A, B, C, D, E) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_job_in_hand_takes_little_room() {
        // It was 5,024, and 4,432 more for its end: what an `async fn` is given, it has room for twice.
        let room = room(Hall::process::<RabbitReceipt>);
        assert!(room <= 2_560, "{room} bytes");
    }
}
