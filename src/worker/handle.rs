//! One job's way, from arrival to what follows. Read this first. It awaits the ledger, the gates and
//! the service, and decides nothing itself: the decisions are `policy`'s.

use super::lanes::{Call, Lane, Turn, sleep_until};
use super::limits;
use super::order::Place;
use super::templates::Use;
use super::waiting::Rank;
use super::whereabouts::{At, Track};
use super::{Hall, lock};
use crate::clock;
use crate::crash::{self, Stage};
use crate::ledger::{Delivery, Mark};
use crate::metrics::{Limit, WaitGate};
use crate::policy::{
    self, Answer, Doubt, Failure, History, Outcome, Settlement, Standing, Timing, Why,
};
use crate::queue::{Incoming, Receipt, Tenure};
use crate::wire::{Class, Kind, Priority, Scope, SendJob};
use futures_util::FutureExt;
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Before a call starts, a job stays no longer in hand than this. RabbitMQ takes jobs back after 30
/// minutes (`consumer_timeout`); by then it waits in a wait queue.
const MAX_IN_HAND: Duration = Duration::from_secs(600);

/// A call that takes longer than most may end in doubt: from then on statuses of its message are listened
/// for, of which the first may come long before the call is given up.
const SLOW_CALL: Duration = Duration::from_secs(1);

/// How long a job waits for another one's doubt, before it asks again.
pub(super) const IDENTICAL_WAITS: Duration = Duration::from_secs(5);

/// A ledger that cannot be read is asked again after this.
const LEDGER_PAUSE: Duration = Duration::from_secs(1);

/// A job that was delivered more often than this may be what ends the worker.
const SUSPECT_AFTER: u32 = 3;

/// What is held for a job until it is settled.
#[derive(Debug, Default)]
pub(super) struct InHand {
    /// The ledger's view of it.
    pub(super) delivery: Option<Delivery>,
    /// Once it was sent: its place among the calls, until what came of it is safe. While results cannot be
    /// recorded, no more is sent than can be told of.
    pub(super) call: Option<Call>,
}

/// What a job needs to be sent now.
struct Ready {
    history: History,
    turn: Turn,
    template: Use,
}

/// Why no request was made.
pub(super) enum Stopped {
    /// The job has its settlement.
    Settled(Box<Settlement>),
    /// The queue has given the job to somebody else: nothing may be done with it here.
    Void,
}

impl Stopped {
    pub(super) fn settled(settlement: Settlement) -> Stopped {
        Stopped::Settled(Box::new(settlement))
    }
}

impl Hall {
    /// What follows for this job; none when it is no longer ours. What is held for it is put in hand,
    /// `track` tells operators what it is at.
    pub(super) async fn handle<R: Receipt>(
        &self,
        incoming: &Incoming<R>,
        lane: &Arc<Lane>,
        place: &mut Place,
        track: &Track,
        InHand { delivery, call }: &mut InHand,
    ) -> Option<Settlement> {
        // Read.
        let job = match &incoming.job {
            Ok(job) => job,
            Err(invalid) => {
                return Some(policy::unreadable(invalid, &incoming.history, clock::wall()));
            }
        };

        // Seen before? In doubt? May it go now?
        let ready = self.wait_for_turn(job, incoming, (lane, place), track, delivery);
        let Ready { history, turn, template } = match tokio::time::timeout(MAX_IN_HAND, ready).await
        {
            Ok(Ok(ready)) => ready,
            Ok(Err(Stopped::Settled(settlement))) => {
                // One that only waits does so where it is by now.
                let is_void = !Outcome::is_remembered(&settlement) && !incoming.receipt.is_ours();
                return (!is_void).then_some(*settlement);
            }
            Ok(Err(Stopped::Void)) => return None,
            Err(_) => return Some(unrecalled(job, incoming)),
        };
        let delivery = delivery.as_ref()?;
        let _mark = match self.suspect(job, incoming, "send").await {
            Ok(mark) => mark,
            Err(settlement) => return Some(*settlement),
        };

        crash::point(Stage::BeforeBegin);
        // Begin. From here silence is doubt, not failure.
        let (began, attempt) = (clock::wall(), history.attempts.saturating_add(1));
        if let Err(error) = delivery.begin(attempt, began).await {
            tracing::error!(job = %job.id, %error, "not sent: its beginning could not be recorded");
            return Some(policy::given_back(&history));
        }
        // The fence: what is somebody else's by now, or expired while a slow disk recorded it, was not begun.
        let (is_ours, now) = (incoming.receipt.is_ours(), clock::wall());
        if !is_ours || policy::is_expired(job, now) {
            self.noted(job, delivery.retract(&history, now).await);
            return is_ours.then(|| policy::expired(job, &history, now));
        }

        crash::point(Stage::AfterBegin);
        // Send.
        track.is_at(At::Call);
        // Boxed: thousands of jobs wait for their turn, and none holds room for its call meanwhile.
        let mut sending = Box::pin(self.send(job, turn, template, call));
        let answer = match tokio::time::timeout(SLOW_CALL, &mut sending).await {
            Ok(answer) => answer,
            Err(_) => {
                lock(&self.awaited).listen(job, clock::monotonic());
                sending.await
            }
        };

        crash::point(Stage::Answered);
        // Conclude.
        let now = clock::wall();
        if let Answer::Accepted { whatsapp_message_id: Some(id) } = &answer {
            self.looking.accepted(job, id, now);
        }
        self.whereabouts.answered(track, attempt, &answer, (began, now));
        let settlement = {
            let retry = &self.live.borrow().retry;
            policy::conclude(job, &history, answer, retry, (began, now), fastrand::f64())
        };
        if !Outcome::is_remembered(&settlement) {
            let history = History { attempts: attempt, ..history };
            self.attempted(job, delivery, &history, &settlement, now).await;
        }
        Some(settlement)
    }

    /// Records what came of an attempt that no outcome tells of: an answer, so that a second delivery of the
    /// job is not in doubt, or a doubt.
    async fn attempted(
        &self,
        job: &SendJob,
        delivery: &Delivery,
        history: &History,
        settlement: &Settlement,
        now: Timestamp,
    ) {
        let recorded = match settlement {
            Settlement::Reschedule(wait) => match wait.history.doubt {
                None => delivery.answered(&wait.history, now).await,
                Some(doubt) => self.doubt(job, delivery, doubt).await,
            },
            Settlement::Finish(_) | Settlement::DeadLetter { .. } => {
                delivery.answered(history, now).await
            }
        };
        self.noted(job, recorded);
    }

    /// Passes its recipient's line, what earlier deliveries left, the job's own times, its template's
    /// pause, its recipient's gate, its number's and the account's, each once.
    async fn wait_for_turn<R: Receipt>(
        &self,
        job: &SendJob,
        incoming: &Incoming<R>,
        (lane, place): (&Arc<Lane>, &mut Place),
        track: &Track,
        delivery: &mut Option<Delivery>,
    ) -> Result<Ready, Stopped> {
        let arrived = clock::monotonic();
        let delivery = delivery.insert(self.receive(job, incoming).await?);
        track.is_at(At::Line);
        // A second delivery of a job waits here until the first one is settled, drain or not.
        place.first().await;
        track.is_at(At::Look);
        let (history, is_unsent) = self.recall(job, incoming, delivery).await?;
        self.obey_operators(job, &history, is_unsent)?;
        self.wait_until_due(job, incoming, &history, track).await?;
        if delivery.identical_in_doubt(job) > 0 {
            let due = clock::wall() + IDENTICAL_WAITS;
            return Err(Stopped::settled(policy::later(job, &history, due, Why::Identical)));
        }
        if !incoming.receipt.is_ours() {
            // Neither its recipient's pace nor its number's is spent on it.
            return Err(Stopped::Void);
        }
        let template = self.templates.pass(job).map_err(|rest| held(job, &history, rest))?;
        self.wait_for_recipient(job, incoming, &history, track, arrived).await?;

        track.is_at(At::Lane);
        let ready = clock::monotonic();
        let turn = wait_for_lane(job, incoming, &history, lane, &template);
        let turn = match job.expires_at {
            None => turn.await,
            Some(end) => {
                let in_time = policy::rest(end, clock::wall());
                let in_time = tokio::time::timeout(in_time, turn).await;
                in_time.map_err(|_| expired(job, &history))?
            }
        };
        self.metrics.waited(WaitGate::Lane, ready.elapsed());
        let turn = turn?;

        // The last look before its beginning is recorded: time has passed at the gates.
        if policy::is_expired(job, clock::wall()) {
            return Err(expired(job, &history));
        }
        self.obey_operators(job, &history, is_unsent)?;
        match incoming.receipt.is_ours() {
            true => Ok(Ready { history, turn, template }),
            false => Err(Stopped::Void),
        }
    }

    /// The ledger's view of the delivery. While it cannot be had, nothing is known to be unsent.
    async fn receive<R: Receipt>(
        &self,
        job: &SendJob,
        incoming: &Incoming<R>,
    ) -> Result<Delivery, Stopped> {
        loop {
            match self.ledger.receive(job, incoming.history.replay, clock::wall()) {
                Ok(delivery) => return Ok(delivery),
                Err(error) => tracing::debug!(job = %job.id, %error, "waits for the ledger"),
            }
            let pause = tokio::time::sleep(LEDGER_PAUSE);
            if incoming.tenure.unless_over(pause).await.is_none() {
                return Err(Stopped::settled(unrecalled(job, incoming)));
            }
        }
    }

    /// The job's past, with what earlier deliveries of it left, and whether it surely was not sent. One
    /// that may have been is looked for first.
    async fn recall<R: Receipt>(
        &self,
        job: &SendJob,
        incoming: &Incoming<R>,
        delivery: &Delivery,
    ) -> Result<(History, bool), Stopped> {
        let (history, earlier) = (&incoming.history, incoming.earlier);
        match policy::recall(job, history, earlier, delivery.past(), clock::wall()) {
            Standing::Clear(history) => Ok((*history, true)),
            Standing::Settled(settlement) => Err(Stopped::Settled(settlement)),
            Standing::Doubt(doubt, history) => {
                // Boxed, since few jobs are in doubt: all that wait would hold room for it.
                let resolved = Box::pin(self.resolve(job, incoming, delivery, doubt, *history));
                Ok((resolved.await?, false))
            }
        }
    }

    /// Ends a job that operators drop, unless it may have been sent: nobody could say that it failed. One
    /// that lives waits elsewhere while its lane, although paused, is read for a drop.
    fn obey_operators(
        &self,
        job: &SendJob,
        history: &History,
        is_unsent: bool,
    ) -> Result<(), Stopped> {
        let (operators, now) = (&self.notices.operators, clock::wall());
        if is_unsent && let Some(rule) = operators.drop_of(job, history, now) {
            return Err(Stopped::settled(policy::dropped(&rule, job, history, now)));
        }
        match operators.put_off(&job.phone_number_id, now) {
            Some(due) => Err(Stopped::settled(policy::later(job, history, due, Why::Hold))),
            None => Ok(()),
        }
    }

    async fn wait_until_due<R: Receipt>(
        &self,
        job: &SendJob,
        incoming: &Incoming<R>,
        history: &History,
        track: &Track,
    ) -> Result<(), Stopped> {
        let max_wait = self.live.borrow().max_wait;
        match policy::timing(job, history, incoming.waited_for, max_wait, clock::wall()) {
            Timing::Now => Ok(()),
            Timing::Sleep(rest) => {
                track.is_at_until(At::Due, clock::wall() + rest);
                self.metrics.waited(WaitGate::Due, rest);
                unless_over(&incoming.tenure, history, tokio::time::sleep(rest)).await
            }
            Timing::Later(due, why) => Err(Stopped::settled(policy::later(job, history, due, why))),
            Timing::Expired => Err(expired(job, history)),
        }
    }

    async fn wait_for_recipient<R: Receipt>(
        &self,
        job: &SendJob,
        incoming: &Incoming<R>,
        history: &History,
        track: &Track,
        arrived: Instant,
    ) -> Result<(), Stopped> {
        let Some(recipient) = job.message.recipient() else { return Ok(()) };
        let (number, now) = (&job.phone_number_id, clock::monotonic());
        let free = {
            let mut recipients = lock(&self.recipients);
            if policy::keeps_promise(history, incoming.waited_for, clock::wall())
                && !recipients.is_set_back(number, recipient, now)
            {
                return Ok(());
            }
            recipients.reserve(number, recipient, now)
        };
        let rest = free.saturating_duration_since(now);
        if !rest.is_zero() {
            self.metrics.limit_delayed(number, Limit::Recipient);
            let due = clock::wall() + rest;
            if rest > self.live.borrow().max_wait {
                return Err(Stopped::settled(policy::later(job, history, due, Why::Recipient)));
            }
            track.is_at_until(At::Recipient, due);
        }
        unless_over(&incoming.tenure, history, sleep_until(free)).await?;
        self.metrics.waited(WaitGate::Recipient, arrived.elapsed());
        Ok(())
    }

    async fn send(
        &self,
        job: &SendJob,
        mut turn: Turn,
        template: Use,
        call: &mut Option<Call>,
    ) -> Answer {
        let expects_id = matches!(job.message.kind(), Kind::Message(_));
        let request = job.message.to_request(&job.id);
        self.metrics.send_started();
        let started = clock::monotonic();
        turn.starts(started);
        let mut answer = self.chakra.send(&job.phone_number_id, request, expects_id).await;
        self.metrics.send_ended(&job.phone_number_id, &answer, started.elapsed());
        if let Answer::Failed(failure) = &answer
            && limits::is_beyond_a_limit(failure)
        {
            self.metrics.limit_refused(&job.phone_number_id, failure.scope);
        }
        self.heed_recipient(job, &mut answer);
        template.ended(job, &answer, started);
        *call = Some(turn.ended(&answer));
        answer
    }

    /// A pair that is refused waits with all its jobs, this one included.
    fn heed_recipient(&self, job: &SendJob, answer: &mut Answer) {
        let Some(recipient) = job.message.recipient() else { return };
        let number = &job.phone_number_id;
        let mut recipients = lock(&self.recipients);
        match answer {
            Answer::Accepted { .. } => recipients.accepted(number, recipient),
            Answer::Failed(failure)
                if (failure.class, failure.scope) == (Class::Throttled, Scope::Recipient) =>
            {
                let (asked, now) = (failure.wait, clock::monotonic());
                failure.wait = Some(recipients.refused(number, recipient, asked, now));
            }
            Answer::Failed(_) => {}
        }
    }

    /// Marks a job that may be what ends the worker, for as long as it is touched here. One that has
    /// done so too often gets its outcome.
    pub(super) async fn suspect<R: Receipt>(
        &self,
        job: &SendJob,
        incoming: &Incoming<R>,
        section: &str,
    ) -> Result<Option<Mark>, Box<Settlement>> {
        if incoming.earlier <= SUSPECT_AFTER {
            return Ok(None);
        }
        match self.ledger.touch(section, job.id.as_str().as_bytes(), incoming.history.replay).await
        {
            Ok(Some(mark)) => Ok(Some(mark)),
            Ok(None) => {
                let reason =
                    "the worker ended each time that it was handled: it may have been sent";
                let failure = Failure::new(Class::Ambiguous, reason);
                let history = &incoming.history;
                Err(Box::new(policy::turned_away(job, history, &failure, clock::wall())))
            }
            Err(error) => {
                self.noted(job, Err(error));
                Ok(None)
            }
        }
    }
}

/// Waits for the lane's turn, unless the lane goes elsewhere or the job's template is paused first.
async fn wait_for_lane<R: Receipt>(
    job: &SendJob,
    incoming: &Incoming<R>,
    history: &History,
    lane: &Arc<Lane>,
    template: &Use,
) -> Result<Turn, Stopped> {
    let ready_since = policy::ready_since(job, history, incoming.waited_for);
    let entry = (incoming.priority, ready_since);
    let turn = async {
        tokio::select! {
            // A free turn first, before anything is made to wait for the other.
            biased;
            turn = lane.turn(rank(incoming.priority, history), entry) => turn.ok_or(Stopped::Void),
            rest = template.withdrawn(job) => Err(held(job, history, rest)),
        }
    };
    unless_over(&incoming.tenure, history, turn).await?
}

/// A job whose scope is paused for so long.
fn held(job: &SendJob, history: &History, rest: Duration) -> Stopped {
    Stopped::settled(policy::later(job, history, clock::wall() + rest, Why::Hold))
}

/// Waits for `what`, unless the lane goes elsewhere: then a job that has not begun goes back unchanged.
fn unless_over<T>(
    tenure: &Tenure,
    history: &History,
    what: impl Future<Output = T>,
) -> impl Future<Output = Result<T, Stopped>> {
    let done = tenure.unless_over(what);
    done.map(|done| done.ok_or_else(|| Stopped::settled(policy::given_back(history))))
}

/// A job that goes on before it is known what its earlier deliveries came to. Its next message is not
/// counted with them: the doubt must travel along.
fn unrecalled<R>(job: &SendJob, incoming: &Incoming<R>) -> Settlement {
    let (history, now) = (&incoming.history, clock::wall());
    match history.doubt.or((incoming.earlier > 0).then(|| Doubt::weak(now))) {
        Some(doubt) => policy::in_doubt(history, doubt, now),
        None => policy::later(job, history, now, Why::Hold),
    }
}

fn expired(job: &SendJob, history: &History) -> Stopped {
    Stopped::settled(policy::expired(job, history, clock::wall()))
}

fn rank(priority: Priority, history: &History) -> Rank {
    match (history.attempts, priority) {
        (1.., _) => Rank::Returned,
        (0, Priority::Urgent) => Rank::Urgent,
        (0, Priority::Normal) => Rank::Normal,
    }
}
