//! One job's way, from arrival to what follows. Read this first. It awaits the gates and the
//! service, and decides nothing itself: the decisions are `policy`'s.

use super::lanes::{Lane, Rank, Turn, sleep_until};
use super::order::Place;
use super::{Hall, lock};
use crate::clock;
use crate::ledger::Seen;
use crate::metrics::WaitGate;
use crate::policy::{self, Answer, Failure, Settlement, Timing, Why};
use crate::queue::{Incoming, Receipt};
use crate::wire::{Class, Kind, Priority, Scope, SendJob};
use std::time::Duration;
use tokio::time::Instant;

/// Before a call starts, a job stays no longer in hand than this. RabbitMQ takes jobs back after 30
/// minutes (`consumer_timeout`); by then it waits in a wait queue.
const MAX_IN_HAND: Duration = Duration::from_secs(600);

/// Why no request was made.
enum Stopped {
    /// The job has its settlement.
    Settled(Box<Settlement>),
    /// The queue has given the job to somebody else: nothing may be done with it here.
    Void,
}

impl Stopped {
    fn settled(settlement: Settlement) -> Stopped {
        Stopped::Settled(Box::new(settlement))
    }
}

impl Hall {
    /// What follows for this job; none when it is no longer ours.
    pub(super) async fn handle<R: Receipt>(
        &self,
        incoming: &Incoming<R>,
        lane: &Lane,
        place: &mut Place,
    ) -> Option<Settlement> {
        // Read.
        let job = match &incoming.job {
            Ok(job) => job,
            Err(invalid) => {
                return Some(policy::unreadable(invalid, &incoming.history, clock::wall()));
            }
        };

        // Seen before? May it go now?
        let turn = self.wait_for_turn(job, incoming, lane, place);
        let turn = match tokio::time::timeout(MAX_IN_HAND, turn).await {
            Ok(Ok(turn)) => turn,
            Ok(Err(Stopped::Settled(settlement))) => return Some(*settlement),
            Ok(Err(Stopped::Void)) => return None,
            Err(_) => {
                let now = clock::wall();
                return Some(policy::later(job, &incoming.history, now, Why::Hold));
            }
        };

        // Begin. From here silence is doubt, not failure.
        if let Err(error) = self.ledger.begin(&job.phone_number_id, &job.id) {
            tracing::error!(job = %job.id, %error, "not sent: its beginning could not be recorded");
            return Some(policy::given_back(&incoming.history));
        }

        // Send.
        let began = clock::wall();
        let answer = self.send(job, lane, turn).await;

        // Conclude.
        let now = clock::wall();
        let settlement = policy::conclude(
            job,
            &incoming.history,
            answer,
            &self.retry,
            (began, now),
            fastrand::f64(),
        );
        if let Settlement::Reschedule(_) = settlement
            && let Err(error) = self.ledger.answered(&job.phone_number_id, &job.id)
        {
            tracing::error!(job = %job.id, %error, "the end of its attempt could not be recorded");
        }
        Some(settlement)
    }

    /// Passes its recipient's line, the job's own times, its recipient's gate, its number's and the
    /// account's, each once.
    async fn wait_for_turn<R: Receipt>(
        &self,
        job: &SendJob,
        incoming: &Incoming<R>,
        lane: &Lane,
        place: &mut Place,
    ) -> Result<Turn, Stopped> {
        let arrived = clock::monotonic();
        // A second delivery of a job waits here until the first one is settled, drain or not.
        place.first().await;
        self.recall(job, incoming)?;
        self.wait_until_due(job, incoming).await?;
        self.wait_for_recipient(job, incoming, arrived).await?;

        let ready = clock::monotonic();
        let turn = self.unless_drained(incoming, lane.turn(rank(incoming)));
        let in_time = job.expires_at.map_or(MAX_IN_HAND, |end| policy::rest(end, clock::wall()));
        let Ok(turn) = tokio::time::timeout(in_time, turn).await else {
            return Err(Stopped::settled(self.expired(job, incoming)));
        };
        self.metrics.waited(WaitGate::Lane, ready.elapsed());
        let Some(turn) = turn? else { return Err(Stopped::Void) };

        // The last look before the request: time has passed at the gates.
        if policy::is_expired(job, clock::wall()) {
            return Err(Stopped::settled(self.expired(job, incoming)));
        }
        match incoming.receipt.is_ours() {
            true => Ok(turn),
            false => Err(Stopped::Void),
        }
    }

    /// What an earlier delivery of the job came to stands; one that left no answer is in doubt.
    fn recall<R: Receipt>(&self, job: &SendJob, incoming: &Incoming<R>) -> Result<(), Stopped> {
        match self.ledger.look_up(&job.phone_number_id, &job.id) {
            Seen::Unseen => Ok(()),
            Seen::Finished(settlement) => Err(Stopped::Settled(settlement)),
            Seen::Begun => {
                let failure = Failure::new(
                    Class::Ambiguous,
                    "its request was begun and left no answer: it may have been sent",
                );
                let (history, now) = (&incoming.history, clock::wall());
                Err(Stopped::settled(policy::turned_away(job, history, &failure, now)))
            }
        }
    }

    async fn wait_until_due<R: Receipt>(
        &self,
        job: &SendJob,
        incoming: &Incoming<R>,
    ) -> Result<(), Stopped> {
        let (history, waited_for) = (&incoming.history, incoming.waited_for);
        match policy::timing(job, history, waited_for, self.max_wait, clock::wall()) {
            Timing::Now => Ok(()),
            Timing::Sleep(rest) => {
                self.metrics.waited(WaitGate::Due, rest);
                self.unless_drained(incoming, tokio::time::sleep(rest)).await
            }
            Timing::Later(due, why) => Err(Stopped::settled(policy::later(job, history, due, why))),
            Timing::Expired => Err(Stopped::settled(self.expired(job, incoming))),
        }
    }

    async fn wait_for_recipient<R: Receipt>(
        &self,
        job: &SendJob,
        incoming: &Incoming<R>,
        arrived: Instant,
    ) -> Result<(), Stopped> {
        let (history, waited_for) = (&incoming.history, incoming.waited_for);
        let Some(recipient) = job.message.recipient() else { return Ok(()) };
        if policy::keeps_promise(history, waited_for, clock::wall()) {
            return Ok(());
        }
        let now = clock::monotonic();
        let free = lock(&self.recipients).reserve(&job.phone_number_id, recipient, now);
        let rest = free.saturating_duration_since(now);
        if rest > self.max_wait {
            let due = clock::wall() + rest;
            return Err(Stopped::settled(policy::later(job, history, due, Why::Recipient)));
        }
        self.unless_drained(incoming, sleep_until(free)).await?;
        self.metrics.waited(WaitGate::Recipient, arrived.elapsed());
        Ok(())
    }

    async fn send(&self, job: &SendJob, lane: &Lane, turn: Turn) -> Answer {
        let expects_id = matches!(job.message.kind(), Kind::Message(_));
        let request = job.message.to_request(&job.id);
        self.metrics.send_started();
        let started = clock::monotonic();
        let answer = self.chakra.send(&job.phone_number_id, request, expects_id).await;
        self.metrics.send_ended(&job.phone_number_id, &answer, started.elapsed());
        drop(turn);
        if let Answer::Failed(failure) = &answer {
            self.heed(failure, lane);
        }
        answer
    }

    /// A number or an account that is throttled or blocked is left alone for a while by all its jobs.
    fn heed(&self, failure: &Failure, lane: &Lane) {
        let held = matches!(failure.class, Class::Throttled | Class::Blocked);
        let Some(wait) = failure.wait.filter(|_| held) else { return };
        match failure.scope {
            Scope::Number => lane.hold(wait),
            Scope::Account => self.shared.hold_account(wait),
            Scope::Message | Scope::Recipient | Scope::Template => {}
        }
    }

    /// Waits for `what`, unless the worker drains: then a job that has not begun goes back unchanged.
    async fn unless_drained<R: Receipt, T>(
        &self,
        incoming: &Incoming<R>,
        what: impl Future<Output = T>,
    ) -> Result<T, Stopped> {
        tokio::select! {
            biased;
            () = self.drain.cancelled() => {
                Err(Stopped::settled(policy::given_back(&incoming.history)))
            }
            done = what => Ok(done),
        }
    }

    fn expired<R: Receipt>(&self, job: &SendJob, incoming: &Incoming<R>) -> Settlement {
        policy::expired(job, &incoming.history, clock::wall())
    }
}

fn rank<R>(incoming: &Incoming<R>) -> Rank {
    match (incoming.history.attempts, incoming.priority) {
        (1.., _) => Rank::Returned,
        (0, Priority::Urgent) => Rank::Urgent,
        (0, Priority::Normal) => Rank::Normal,
    }
}
