//! One connection's life: declare, read which lanes there are and who is here, consume our share of the
//! lanes and the unrouted jobs, follow all of it. Loud; which lanes are to be open is `assignment`'s to
//! say. When the connection goes, so does the epoch: nothing held from it is ours any more.

mod making;
mod retiring;

use super::assignment::{Hindrance, SETTLES_AFTER, Stand, stand};
use super::connection::Pauses;
use super::control::Control;
use super::declare::{DeclareError, declare};
use super::depth::{Shared, watch_queues};
use super::ear::Ear;
use super::inbox::{End, Inbox, InboxState, LaneRequest, NoLane};
use super::leaving::Leaving;
use super::members::WorkerId;
use super::opened::{Opened, Parts};
use super::presence::Presence;
use super::record::Record;
use super::share::share;
use super::traffic::Traffic;
use super::unrouted::Unrouted;
use crate::clock;
use crate::policy;
use crate::wire::NumberId;
use jiff::Timestamp;
use lapin::Connection;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Requests for lanes on their way here.
const REQUESTS: usize = 16;

/// With nothing happening, the lanes are looked over so often: their pace may have outgrown their prefetch.
const LOOK_OVER: Duration = Duration::from_secs(30);

/// Who waits for a lane, and whether its queues are being declared.
#[derive(Default)]
struct Asked {
    waiting: Vec<oneshot::Sender<Result<(), NoLane>>>,
    declaring: bool,
}

/// What a task of an epoch came to.
pub(super) enum Step {
    /// It has ended, and with it the epoch where it did not end by order.
    Ended(End),
    /// The queues of this lane stand, or could not be declared.
    Stands(NumberId, Result<(), DeclareError>),
    /// So many jobs wait in this lane, which is on its way out; none where the broker did not say.
    Looked(NumberId, Option<u32>),
    /// This lane was not deleted: it is not empty, or the broker did not say.
    Kept(NumberId),
}

/// One connection's life.
pub(super) struct Epoch {
    connection: Arc<Connection>,
    opened: Opened,
    /// Those that were here when the shares were computed last.
    workers: BTreeSet<WorkerId>,
    /// Our share of the lanes, consumed or not.
    assigned: watch::Sender<BTreeMap<NumberId, Traffic>>,
    /// Those of them that are not consumed for now, and whose queues were declared.
    shut: HashSet<NumberId>,
    /// Those of them whose numbers are gone.
    leaving: Leaving,
    /// All lanes of the record.
    recorded: watch::Sender<BTreeSet<NumberId>>,
    /// Waiting for lanes that are being recorded or declared.
    asked: HashMap<NumberId, Asked>,
    /// When the view is settled, unless something changes before.
    settles_at: Option<Instant>,
    tasks: JoinSet<Step>,
}

impl Epoch {
    pub(super) fn new(
        connection: &Arc<Connection>,
        stop: &CancellationToken,
        close: CancellationToken,
    ) -> Epoch {
        Epoch {
            connection: Arc::clone(connection),
            opened: Opened::new(connection, stop, close),
            workers: BTreeSet::new(),
            assigned: watch::Sender::default(),
            shut: HashSet::new(),
            leaving: Leaving::default(),
            recorded: watch::Sender::default(),
            asked: HashMap::new(),
            settles_at: None,
            tasks: JoinSet::new(),
        }
    }

    /// Until told to stop, or until it cannot go on.
    pub(super) async fn work(&mut self, inbox: &Inbox, pauses: &mut Pauses) -> End {
        let (mut control, mut presence) =
            match inbox.stop.run_until_cancelled(self.begin(inbox)).await {
                None => return End::Stopped,
                Some(Err(end)) => return end,
                Some(Ok(begun)) => begun,
            };
        pauses.reset();
        inbox.state.send_replace(InboxState::Up);
        let end = self.follow(inbox, &mut control, &mut presence).await;
        if let End::Stopped = end {
            // Before anything is handed back: the others are ready when it comes.
            presence.leave().await;
        }
        end
    }

    /// The lanes keep their channels until what they handed on is settled.
    pub(super) async fn finish(&mut self) {
        // Who still waits for a lane gets none.
        self.asked.clear();
        while self.tasks.join_next().await.is_some() {}
    }

    /// Ends everything that is left.
    pub(super) async fn end(mut self) {
        self.tasks.shutdown().await;
    }

    /// Declares what all share, learns who is here, and opens our share of the lanes.
    async fn begin(&mut self, inbox: &Inbox) -> Result<(Control, Presence), End> {
        let Inbox { desk, settings, .. } = inbox;
        inbox.tenures.unsettle();
        declare(&self.connection, &inbox.shared, settings.declare).await?;
        let lost = |error: &dyn std::error::Error| End::Lost(error.to_string());
        let mut control = Control::open(&self.connection, &desk.publisher, &desk.names)
            .await
            .map_err(|error| lost(&error))?;
        making::record_lacking(inbox, &mut control).await?;
        // Before the first job comes.
        inbox.board.show(control.record(), clock::wall());
        let presence = Presence::join(
            &self.connection,
            &desk.publisher,
            &desk.names,
            &inbox.me,
            Arc::clone(&inbox.report),
        )
        .await
        .map_err(|error| lost(&error))?;
        self.changed(inbox, &control, &presence);
        self.look_over(inbox, &control);
        self.opened.all_tried().await;
        Ok((control, presence))
    }

    async fn follow(
        &mut self,
        inbox: &Inbox,
        control: &mut Control,
        presence: &mut Presence,
    ) -> End {
        let mut asking = self.serve_beside(inbox);
        let mut holds = inbox.holds.watch();
        let mut listed = inbox.directory.changes();
        let mut look_again = clock::monotonic();
        loop {
            let looks = tokio::select! {
                biased;
                () = inbox.stop.cancelled() => return End::Stopped,
                change = control.next() => match change {
                    Ok(_) => {
                        inbox.board.show(control.record(), clock::wall());
                        Ok(true)
                    }
                    Err(lost) => Err(End::Lost(lost.to_string())),
                },
                seen = presence.changed() => match seen {
                    Ok(()) => Ok(true),
                    Err(lost) => Err(End::Lost(lost.to_string())),
                },
                Some(()) = holds.next() => Ok(true),
                () = listed.next() => {
                    self.make_lacking(inbox);
                    Ok(true)
                }
                () = tokio::time::sleep_until(look_again) => Ok(true),
                Some(step) = self.tasks.join_next() => self.step(inbox, step),
                Some(request) = asking.recv() => {
                    self.ask(inbox, request);
                    Ok(false)
                }
            };
            match looks {
                Ok(true) => {
                    self.changed(inbox, control, presence);
                    look_again = self.look_over(inbox, control);
                }
                Ok(false) => {}
                Err(end) => return end,
            }
        }
    }

    /// True where the lanes are to be looked over.
    fn step(&mut self, inbox: &Inbox, step: Result<Step, JoinError>) -> Result<bool, End> {
        match step {
            Ok(Step::Ended(End::Stopped)) => Ok(false),
            Ok(Step::Ended(end)) => Err(end),
            Ok(Step::Stands(number, stands)) => self.stands(&number, stands).map(|()| false),
            Ok(Step::Looked(number, jobs)) => {
                self.looked(inbox, number, jobs);
                Ok(true)
            }
            Ok(Step::Kept(number)) => {
                self.leaving.kept(&number, clock::monotonic());
                Ok(true)
            }
            Err(panic) => Err(End::Lost(format!("a defect of the worker: {panic}"))),
        }
    }

    /// Workers or lanes changed: who has which lane is computed anew.
    fn changed(&mut self, inbox: &Inbox, control: &Control, presence: &Presence) {
        let (lanes, workers) = (control.record().lanes(), presence.workers());
        if *self.recorded.borrow() != *lanes || self.workers != *workers {
            inbox.tenures.unsettle();
            self.settles_at = Some(clock::monotonic() + SETTLES_AFTER);
            self.workers.clone_from(workers);
            inbox.desk.metrics.workers_seen(workers.len());
            inbox.desk.metrics.lanes(lanes.len());
            let before = self.recorded.send_replace(lanes.clone());
            let gone: Vec<NumberId> = before.difference(lanes).cloned().collect();
            let deleted_here = gone.iter().any(|number| self.leaving.is_closed(number));
            let ours = share(inbox.me.id(), workers, lanes);
            inbox.directory.refresh_for(ours.difference(&inbox.served.numbers()));
            inbox.served.replace(ours.clone(), workers.len());
            self.assign(inbox, ours);
            for number in &gone {
                self.gone(inbox, number);
            }
            if deleted_here {
                // What returned meanwhile still had its lane, and its return is not told again.
                self.make_lacking(inbox);
            }
        }
        let recorded: Vec<NumberId> =
            self.asked.keys().filter(|number| lanes.contains(*number)).cloned().collect();
        for number in recorded {
            self.declare_asked(inbox, &number);
        }
    }

    fn assign(&mut self, inbox: &Inbox, ours: BTreeSet<NumberId>) {
        let before = self.assigned.borrow().clone();
        if before.keys().eq(&ours) {
            return;
        }
        for left in before.keys().filter(|number| !ours.contains(*number)) {
            self.shut.remove(left);
            // Now, since no step is taken until the view is settled.
            self.leaving.left(left);
            inbox.desk.metrics.lane_left(left);
        }
        let (share, lanes, workers) =
            (ours.len(), self.recorded.borrow().len(), self.workers.len());
        tracing::info!(ours = share, lanes, workers, "this worker's share of the lanes");
        inbox.desk.metrics.lanes_owned(share);
        let known = |number: NumberId| {
            let traffic = before.get(&number).cloned().unwrap_or_default();
            (number, traffic)
        };
        self.assigned.send_replace(ours.into_iter().map(known).collect());
    }

    /// Opens what is ours and may go, leaves the rest. Returns when to look again.
    fn look_over(&mut self, inbox: &Inbox, control: &Control) -> Instant {
        let (now, wall) = (clock::monotonic(), clock::wall());
        if self.settles_at.is_some_and(|at| at <= now) {
            self.settles_at = None;
            inbox.tenures.settle();
        }
        self.retire(inbox);
        let soon = [self.settles_at, self.leaving.next()].into_iter().flatten().min();
        let mut next = (now + LOOK_OVER).min(soon.unwrap_or(now + LOOK_OVER));
        let ours = self.assigned.borrow().clone();
        let left: Vec<NumberId> =
            self.opened.numbers().filter(|number| !ours.contains_key(*number)).cloned().collect();
        for number in &left {
            self.opened.leave(number);
        }
        let parts = Parts::among(ours.keys().map(|lane| (inbox.prefetch)(lane)), inbox.max_held);
        for (number, traffic) in &ours {
            if self.leaving.is_closed(number) {
                continue;
            }
            let hindrance = hindrance(inbox, control.record(), number, (now, wall));
            match stand(hindrance, self.opened.has(number), now) {
                Stand::Shut(until) => {
                    next = next.min(until);
                    self.opened.stand(number);
                    // Nobody consumes it, but its jobs are to find it.
                    if inbox.settings.declare && self.shut.insert(number.clone()) {
                        self.declare(inbox, number, true);
                    }
                }
                Stand::Open => {
                    if self.opened.is_outgrown(inbox, number, parts) {
                        self.opened.leave(number);
                    }
                    self.shut.remove(number);
                    self.open(inbox, number, traffic, parts);
                }
            }
        }
        next
    }

    fn open(&mut self, inbox: &Inbox, number: &NumberId, traffic: &Traffic, parts: Parts) {
        if self.opened.has(number) {
            return;
        }
        let Some(lane) = self.opened.open(inbox, number, traffic.clone(), parts) else { return };
        self.tasks.spawn(async move {
            Step::Ended(match lane.run().await {
                Some(unfit) => End::Broken(unfit),
                None => End::Stopped,
            })
        });
    }

    /// What is served beside the lanes: jobs without one, the counting of what waits, statuses. Returns what
    /// is asked for.
    fn serve_beside(&mut self, inbox: &Inbox) -> mpsc::Receiver<LaneRequest> {
        let (requests, asking) = mpsc::channel(REQUESTS);
        let astray = Arc::new(Notify::new());
        let unrouted = Unrouted {
            desk: Arc::clone(&inbox.desk),
            directory: Arc::clone(&inbox.directory),
            lanes: requests,
            numbers: self.recorded.subscribe(),
            astray: Arc::clone(&astray),
        };
        let (connection, stop) = (Arc::clone(&self.connection), inbox.stop.clone());
        self.tasks.spawn(async move {
            Step::Ended(match unrouted.run(connection, stop).await {
                Some(reason) => End::Lost(reason),
                None => End::Stopped,
            })
        });
        let (connection, desk) = (Arc::clone(&self.connection), Arc::clone(&inbox.desk));
        let (numbers, stop) = (self.assigned.subscribe(), inbox.stop.clone());
        let (topology, create) = (Arc::clone(&inbox.shared), inbox.settings.declare);
        let shared = Shared { topology, create, astray, served: inbox.served.clone() };
        self.tasks.spawn(async move {
            let watching = watch_queues(&connection, &desk, &shared, numbers);
            let ended = stop.run_until_cancelled(watching).await;
            Step::Ended(ended.map_or(End::Stopped, End::Lost))
        });
        self.listen(inbox);
        asking
    }

    fn listen(&mut self, inbox: &Inbox) {
        let names = Arc::clone(&inbox.desk.names);
        let ear = Ear { names, numbers: inbox.listening.watch(), out: inbox.heard.clone() };
        let (connection, stop) = (Arc::clone(&self.connection), inbox.stop.clone());
        self.tasks.spawn(async move {
            stop.run_until_cancelled(ear.run(connection)).await;
            Step::Ended(End::Stopped)
        });
    }
}

/// What keeps a lane from being consumed.
fn hindrance(
    inbox: &Inbox,
    record: &Record,
    number: &NumberId,
    (now, wall): (Instant, Timestamp),
) -> Hindrance {
    let paused = record.paused(number, wall).map(|pause| match pause.until {
        // Until somebody resumes it, as far as this look goes.
        None => now + 2 * LOOK_OVER,
        Some(until) => now + policy::rest(until, wall),
    });
    Hindrance {
        held_until: inbox.holds.until(number, now),
        paused_until: paused,
        is_dropping: record.is_dropping(number, wall),
    }
}
