//! Workers tell each other that they are here: signs of life through a fanout exchange, heard by an
//! exclusive queue of each worker. Who counts as here is decided in `members`, which lanes follow from
//! that in `share`; who asks all workers for a report is in `gather`.
//!
//! Two tasks of their own, so that a worker which is busy elsewhere does not look dead. They speak by
//! the publishing connection and listen on the consuming one: while this worker cannot publish, it
//! does not hear itself, and takes nobody's silence for an end.

use super::members::{Heard, Identity, Members, Sign, WorkerId};
use super::publisher::{Outgoing, PublishError, Publisher};
use super::reason::explain;
use super::signs::{MAX_BODY, Message, Subscription, transient};
use super::topology::Names;
use crate::clock;
use crate::metrics::PublishKind;
use crate::wire::JobId;
use futures_util::StreamExt;
use lapin::types::ShortString;
use lapin::{Connection, Consumer};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Between two signs of life; a quarter of the silence that counts as gone.
const BEAT: Duration = Duration::from_millis(500);

/// All who are asked answer at once: within this time their answers are here.
pub(super) const ANSWERS: Duration = Duration::from_millis(300);

/// Askers that wait for a report, and reports that are being made. Who is not among them is told nothing and asks again.
const ASKERS: usize = 16;

/// After so long without hearing itself a worker binds a new queue: somebody may have deleted the
/// exchange, or the binding alone.
const UNHEARD: Duration = Duration::from_secs(5);

/// A goodbye that is not confirmed by then (the broker takes nothing) is left to the publisher.
const GOODBYE: Duration = Duration::from_secs(1);

/// What somebody asks of all workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// How it stands with each number.
    Numbers,
    /// What is known of this job. A worker of an older version passes it over.
    Job(JobId),
}

/// What this worker says when somebody asks. It may block.
pub type ReportOf = Arc<dyn Fn(&Question) -> Value + Send + Sync>;

/// Nothing is heard or said any more by this connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the presence of other workers cannot be followed: {0}")]
pub struct PresenceLost(String);

/// This worker among the others, as long as one connection lasts. Dropped, it falls silent, and the
/// others find it gone two seconds later.
#[derive(Debug)]
pub struct Presence {
    workers: BTreeSet<WorkerId>,
    changes: watch::Receiver<BTreeSet<WorkerId>>,
    leaving: CancellationToken,
    tasks: JoinSet<PresenceLost>,
}

impl Presence {
    /// Binds a queue, says hello, and waits for the answers. While the broker takes nothing it waits
    /// on: who is not heard may not take anything for its own.
    pub async fn join(
        connection: &Arc<Connection>,
        publisher: &Publisher,
        names: &Names,
        me: &Identity,
        report: ReportOf,
    ) -> Result<Presence, PresenceLost> {
        let leaving = CancellationToken::new();
        let members = Members::new(me.id(), clock::monotonic());
        let (view, mut changes) = watch::channel(members.view().clone());
        let (heard_myself, joined) = oneshot::channel();
        let (askers, asked) = mpsc::channel(ASKERS);
        let answer = Arc::new(Notify::new());
        let bound = Subscription::bind(connection, names).await;
        let subscription = bound.map_err(|error| PresenceLost(explain(&error)))?;
        let listener = Listener {
            connection: Arc::clone(connection),
            names: names.clone(),
            me: me.id(),
            members,
            view,
            heard_myself: Some(heard_myself),
            answer: Arc::clone(&answer),
            askers,
            passed_over: 0,
            is_full: false,
        };
        let speaker = Speaker {
            publisher: publisher.clone(),
            exchange: names.presence().into(),
            me: me.clone(),
            report,
            answer,
            asked,
            reports: JoinSet::new(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(listener.run(subscription, leaving.clone()));
        tasks.spawn(speaker.run(leaving.clone()));
        // When the hello came back to us, it had come to all others.
        let answered = async {
            joined.await.ok()?;
            tokio::time::sleep(ANSWERS).await;
            Some(())
        };
        tokio::select! {
            biased;
            lost = lost(&mut tasks) => return Err(lost),
            Some(()) = answered => {}
        }
        let workers = changes.borrow_and_update().clone();
        Ok(Presence { workers, changes, leaving, tasks })
    }

    /// All workers that are here, this one included.
    pub fn workers(&self) -> &BTreeSet<WorkerId> {
        &self.workers
    }

    /// Returns when there are other workers than before. Cancelled, it misses nothing.
    pub async fn changed(&mut self) -> Result<(), PresenceLost> {
        tokio::select! {
            biased;
            lost = lost(&mut self.tasks) => Err(lost),
            Ok(()) = self.changes.changed() => {
                self.workers.clone_from(&self.changes.borrow_and_update());
                Ok(())
            }
        }
    }

    /// Says goodbye, so that the others take over at once, and says nothing after it.
    pub async fn leave(self) {
        let Presence { leaving, mut tasks, .. } = self;
        leaving.cancel();
        let left = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(GOODBYE, left).await.is_err() {
            tracing::debug!("the broker does not confirm the goodbye to the other workers");
            tasks.shutdown().await;
        }
    }
}

/// Why one of the tasks has ended.
async fn lost(tasks: &mut JoinSet<PresenceLost>) -> PresenceLost {
    match tasks.join_next().await {
        Some(Ok(lost)) => lost,
        Some(Err(panic)) => PresenceLost(format!("a defect of the worker: {panic}")),
        None => left(),
    }
}

fn left() -> PresenceLost {
    PresenceLost("this worker has left".into())
}

/// The one that publishes, so that our signs are under way one at a time and in their order.
struct Speaker {
    publisher: Publisher,
    exchange: ShortString,
    me: Identity,
    report: ReportOf,
    /// Somebody wants a sign now.
    answer: Arc<Notify>,
    /// The queues of those who want a report, and of what.
    asked: mpsc::Receiver<(String, Question)>,
    /// Those that are being made, and for whom: they may read a disk, and no sign of life waits for that.
    reports: JoinSet<(String, Value)>,
}

impl Speaker {
    async fn run(mut self, leaving: CancellationToken) -> PresenceLost {
        let silenced = match leaving.run_until_cancelled(self.speak()).await {
            Some(silenced) => silenced,
            None => self.say(|worker, sequence| Message::Bye { worker, sequence }).await,
        };
        silenced.map_or_else(|error| PresenceLost(error.to_string()), |()| left())
    }

    /// Until the publisher ends.
    async fn speak(&mut self) -> Result<(), PublishError> {
        let here = |worker, sequence| Message::Here { worker, sequence };
        self.say(|worker, sequence| Message::Hello { worker, sequence }).await?;
        let mut beats = tokio::time::interval_at(clock::monotonic() + BEAT, BEAT);
        // While one is under way, the next are left out.
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = self.answer.notified() => self.say(here).await?,
                _ = beats.tick() => self.say(here).await?,
                Some(made) = self.reports.join_next() => match made {
                    Ok((reply, report)) => self.report(reply, report).await?,
                    Err(defect) => tracing::error!(%defect, "what somebody asked is not answered"),
                },
                Some((reply, question)) = self.asked.recv(), if self.reports.len() < ASKERS => {
                    let report = Arc::clone(&self.report);
                    self.reports.spawn_blocking(move || (reply, report(&question)));
                }
            }
        }
    }

    /// Tells all workers.
    async fn say(&self, sign: impl FnOnce(WorkerId, u64) -> Message) -> Result<(), PublishError> {
        let sign = sign(self.me.id(), self.me.next_sign());
        self.publish(self.exchange.clone(), "".into(), sign.write()).await
    }

    /// Tells one asker. If it is gone, so is the report.
    async fn report(&self, reply: String, report: Value) -> Result<(), PublishError> {
        let report = Message::Report { worker: self.me.id(), report }.write();
        let bytes = report.len();
        if bytes > MAX_BODY {
            tracing::warn!(bytes, "the report of this worker is too large to be sent");
            return Ok(());
        }
        self.publish("".into(), reply.into(), report).await
    }

    /// A sign that the broker refuses is not repeated: the next one follows.
    async fn publish(
        &self,
        exchange: ShortString,
        routing_key: ShortString,
        body: Vec<u8>,
    ) -> Result<(), PublishError> {
        let kind = PublishKind::Presence;
        let properties = transient();
        let outgoing = Outgoing { exchange, routing_key, body: body.into(), properties, kind };
        match self.publisher.publish(outgoing).await {
            Err(error @ (PublishError::Stopped | PublishError::Lost)) => Err(error),
            Ok(()) | Err(PublishError::Refused | PublishError::NotOurs) => Ok(()),
        }
    }
}

/// The one that reads, and tells the view.
struct Listener {
    connection: Arc<Connection>,
    names: Names,
    me: WorkerId,
    members: Members,
    view: watch::Sender<BTreeSet<WorkerId>>,
    /// Taken when this worker hears itself for the first time.
    heard_myself: Option<oneshot::Sender<()>>,
    answer: Arc<Notify>,
    askers: mpsc::Sender<(String, Question)>,
    /// Messages that could not be read.
    passed_over: u64,
    /// There were more workers than are remembered, and it was said.
    is_full: bool,
}

impl Listener {
    async fn run(mut self, first: Subscription, leaving: CancellationToken) -> PresenceLost {
        let mut subscription = first;
        loop {
            let began = clock::monotonic();
            let listening = self.listen(&mut subscription.consumer);
            let Some(reason) = leaving.run_until_cancelled(listening).await else {
                subscription.close().await;
                return left();
            };
            // In place, as long as that helps: the end of the connection would void all that is in hand.
            if began.elapsed() < UNHEARD {
                return PresenceLost(reason);
            }
            tracing::debug!(%reason, "listening to the other workers anew");
            subscription.close().await;
            subscription = match Subscription::bind(&self.connection, &self.names).await {
                Ok(subscription) => subscription,
                Err(error) => return PresenceLost(format!("{reason}; {}", explain(&error))),
            };
        }
    }

    /// Returns why it is of no use to listen on.
    async fn listen(&mut self, consumer: &mut Consumer) -> String {
        let began = clock::monotonic();
        loop {
            let now = clock::monotonic();
            if self.members.pass(now) {
                self.tell();
            }
            let deaf = began.max(self.members.heard_myself()) + UNHEARD;
            if now >= deaf {
                return "its own signs of life do not come back".into();
            }
            let next = self.members.next_change_at(now).map_or(deaf, |next| next.min(deaf));
            tokio::select! {
                biased;
                delivery = consumer.next() => match delivery {
                    Some(Ok(delivery)) => self.take(&delivery.data),
                    Some(Err(error)) => return explain(&error),
                    None => return "the broker cancelled the subscription".into(),
                },
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    fn take(&mut self, body: &[u8]) {
        let (worker, sequence, sign) = match Message::read(body) {
            Some(Message::Here { worker, sequence }) => (worker, sequence, Sign::Here),
            Some(Message::Hello { worker, sequence }) => {
                if worker != self.me {
                    self.answer.notify_one();
                }
                (worker, sequence, Sign::Here)
            }
            Some(Message::Bye { worker, sequence }) => (worker, sequence, Sign::Bye),
            Some(Message::Ask { reply }) => return self.asked(reply, Some(Question::Numbers)),
            Some(Message::AskJob { reply, job }) => {
                return self.asked(reply, JobId::parse(&job).ok().map(Question::Job));
            }
            Some(Message::Report { .. } | Message::Unknown) | None => return self.pass_over(),
        };
        if worker == self.me
            && let Some(heard) = self.heard_myself.take()
        {
            // Nobody waits where joining was cancelled.
            let _nobody = heard.send(());
        }
        match self.members.heard(worker, sequence, sign, clock::monotonic()) {
            Heard::Unchanged => {}
            Heard::Changed => self.tell(),
            Heard::TooMany => {
                if !std::mem::replace(&mut self.is_full, true) {
                    let known = self.members.view().len();
                    tracing::warn!(known, "more workers than are remembered: the rest are ignored");
                }
            }
        }
    }

    /// Who finds no place is not answered, and asks again.
    fn asked(&mut self, reply: String, question: Option<Question>) {
        let Some(question) = question.filter(|_| self.names.is_presence_queue(&reply)) else {
            return self.pass_over();
        };
        self.answer.notify_one();
        let _full = self.askers.try_send((reply, question));
    }

    fn pass_over(&mut self) {
        self.passed_over += 1;
        let so_far = self.passed_over;
        tracing::debug!(so_far, "a message between workers was passed over");
    }

    fn tell(&self) {
        self.view.send_replace(self.members.view().clone());
    }
}
