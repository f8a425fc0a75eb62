//! Jobs from JSON Lines, results to JSON Lines: the same worker with no broker. A run that was
//! stopped anywhere goes on where it stopped: jobs whose result stands in the results file are
//! skipped. Decides nothing about a job; what was begun without an answer is the ledger's business.

mod kept;
mod lines;
mod results;

pub use kept::OpenError;
pub use results::{Found, Results, beside};

use super::{Incoming, Receipt, SettleError, Tenure};
use crate::clock;
use crate::metrics::Metrics;
use crate::policy::{History, Reschedule, Settlement, Why, rest};
use crate::wire::{InvalidJob, NumberId, Priority, ResultEvent, SendJob};
use bytes::Bytes;
pub use lines::Lines;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::BufRead;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Places among the jobs in hand that the reader takes at once, where there are many. One at a time it would
/// be woken for each job that ends.
const PLACES_AT_ONCE: usize = 64;

/// Called with each result once it is safely written.
pub type OnResult = Arc<dyn Fn(&ResultEvent) + Send + Sync>;

/// What a run over a file came to, beside its results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Lines read that hold something.
    pub lines: u64,
    /// Lines whose job already had its result in the results file.
    pub done_before: u64,
    /// Lines that repeat an earlier line's job to the letter.
    pub repeated: u64,
    /// Lines without a readable id, which have no result: they stand in the dead letters.
    pub unreadable: u64,
    /// Jobs that were given back unfinished, since the run was stopped.
    pub unfinished: u64,
}

#[derive(Debug, Default)]
struct Counts {
    lines: AtomicU64,
    done_before: AtomicU64,
    repeated: AtomicU64,
    unreadable: AtomicU64,
    unfinished: AtomicU64,
}

/// Jobs from a reader, results to [`Results`].
pub struct FileQueue {
    shared: Arc<Shared>,
    incoming: mpsc::Receiver<Incoming<FileReceipt>>,
    tasks: TaskTracker,
}

struct Shared {
    results: Results,
    metrics: Arc<Metrics>,
    on_result: OnResult,
    counts: Counts,
    /// Jobs held at once, those that wait for their time included.
    held: Arc<Semaphore>,
    /// Of those, as many as the reader takes at once.
    places_at_once: u32,
    stop: CancellationToken,
    /// The tasks that bring waiting jobs back.
    waits: TaskTracker,
}

impl FileQueue {
    /// Starts to read. At most `max_held` jobs are in hand at once. Cancelling `stop` ends the
    /// reading; it is also cancelled from here when results cannot be written.
    pub fn start(
        jobs: impl BufRead + Send + 'static,
        results: Results,
        max_held: usize,
        stop: CancellationToken,
        metrics: Arc<Metrics>,
        on_result: OnResult,
    ) -> FileQueue {
        let (out, incoming) = mpsc::channel(64);
        let shared = Arc::new(Shared {
            results,
            metrics,
            on_result,
            counts: Counts::default(),
            held: Arc::new(Semaphore::new(max_held)),
            places_at_once: places_at_once(max_held),
            stop,
            waits: TaskTracker::new(),
        });
        let tasks = TaskTracker::new();
        // The reader may block on a silent pipe for as long as it likes, so it does not keep the
        // channel open: this does, until the reader has ended or the run is stopped.
        let (reader, weak) = (Arc::clone(&shared), out.downgrade());
        let reading = tokio::task::spawn_blocking(move || reader.read(jobs, &weak));
        let stop = shared.stop.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                read = reading => if let Err(error) = read {
                    tracing::error!(%error, "the reader of jobs ended by a defect");
                    stop.cancel();
                }
            }
            drop(out);
        });
        tasks.close();
        FileQueue { shared, incoming, tasks }
    }

    /// The jobs, and what tells how it went once they are settled.
    pub fn split(self) -> (mpsc::Receiver<Incoming<FileReceipt>>, FileRun) {
        (self.incoming, FileRun { shared: self.shared, tasks: self.tasks })
    }
}

/// A run over a file, while its jobs are being settled.
pub struct FileRun {
    shared: Arc<Shared>,
    tasks: TaskTracker,
}

impl FileRun {
    /// Waits for the reader, then says how it went. `Err` names why results could not be written.
    pub async fn finish(self) -> Result<Tally, String> {
        self.tasks.wait().await;
        let counts = &self.shared.counts;
        match self.shared.results.broken() {
            Some(reason) => Err(reason),
            None => Ok(Tally {
                lines: counts.lines.load(Relaxed),
                done_before: counts.done_before.load(Relaxed),
                repeated: counts.repeated.load(Relaxed),
                unreadable: counts.unreadable.load(Relaxed),
                unfinished: counts.unfinished.load(Relaxed),
            }),
        }
    }
}

impl Shared {
    fn read(self: Arc<Self>, jobs: impl BufRead, out: &mpsc::WeakSender<Incoming<FileReceipt>>) {
        let mut met: HashSet<(u64, u64)> = HashSet::new();
        let mut places = None;
        for line in Lines::new(jobs) {
            let (number, body) = match line {
                Ok(line) => line,
                Err(error) => {
                    self.results.fail(format!("the jobs cannot be read further: {error}"));
                    self.stop.cancel();
                    return;
                }
            };
            self.counts.lines.fetch_add(1, Relaxed);
            let Some(job) = self.worth_doing(&body, &mut met) else { continue };
            if self.hand_over(number, body, job, &mut places, out).is_none() {
                self.counts.unfinished.fetch_add(1, Relaxed);
                return;
            }
        }
    }

    /// The line's job, unless it has its outcome already or will get it by an earlier line.
    fn worth_doing(
        &self,
        body: &Bytes,
        met: &mut HashSet<(u64, u64)>,
    ) -> Option<Result<SendJob, InvalidJob>> {
        let job = SendJob::parse(body, None);
        let skip = |count: &AtomicU64| {
            count.fetch_add(1, Relaxed);
            None
        };
        let told = self.results.has_dead_letter(body);
        let Ok(good) = &job else {
            // A result that bears its id may be a lawful job's.
            return if told { skip(&self.counts.done_before) } else { Some(job) };
        };
        let of_id = hash(&(&good.phone_number_id, &good.id));
        let of_body = hash(&(&good.phone_number_id, body));
        // What has its result is met as well: a later line may bear its id with another message.
        let first_use = met.insert((of_id, 0));
        if !met.insert((of_id, of_body)) {
            return skip(&self.counts.repeated);
        }
        if told || (first_use && self.results.has(&good.phone_number_id, &good.id)) {
            return skip(&self.counts.done_before);
        }
        match first_use {
            true => Some(job),
            false => Some(Err(InvalidJob {
                reason: "id already used for another message".into(),
                id: Some(good.id.clone()),
                phone_number_id: Some(good.phone_number_id.clone()),
                metadata: good.metadata.clone(),
            })),
        }
    }

    /// None when the run was stopped. Called by the reader alone, which may block.
    fn hand_over(
        self: &Arc<Self>,
        line: u64,
        body: Bytes,
        job: Result<SendJob, InvalidJob>,
        places: &mut Option<OwnedSemaphorePermit>,
        out: &mpsc::WeakSender<Incoming<FileReceipt>>,
    ) -> Option<()> {
        let out = out.upgrade()?;
        let (held, place) = tokio::runtime::Handle::current().block_on(async {
            let held = tokio::select! {
                biased;
                () = self.stop.cancelled() => return None,
                held = self.held_place(places) => held?,
            };
            Some((held, out.reserve().await.ok()?))
        })?;
        let receipt =
            FileReceipt { shared: Arc::clone(self), out: out.clone(), line, body, _held: held };
        place.send(receipt.incoming(job, History::fresh(clock::wall()), None));
        Some(())
    }

    /// One place among the jobs in hand: of those taken before, or of as many again.
    async fn held_place(
        &self,
        taken: &mut Option<OwnedSemaphorePermit>,
    ) -> Option<OwnedSemaphorePermit> {
        if let Some(place) = taken.as_mut().and_then(|taken| taken.split(1)) {
            return Some(place);
        }
        let more = Arc::clone(&self.held).acquire_many_owned(self.places_at_once).await.ok()?;
        taken.insert(more).split(1)
    }
}

/// What the reader has taken and not used is in nobody's hand, so it is an eighth of them at most.
fn places_at_once(max_held: usize) -> u32 {
    u32::try_from((max_held / 8).clamp(1, PLACES_AT_ONCE)).unwrap_or(1)
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Settles one line.
pub struct FileReceipt {
    shared: Arc<Shared>,
    out: mpsc::Sender<Incoming<FileReceipt>>,
    line: u64,
    body: Bytes,
    _held: OwnedSemaphorePermit,
}

impl Receipt for FileReceipt {
    fn is_ours(&self) -> bool {
        true
    }

    async fn settle(
        self,
        settlement: &Settlement,
        _until_safe: impl Send,
    ) -> Result<(), SettleError> {
        match settlement {
            Settlement::Finish(event) => self.finish(event),
            Settlement::DeadLetter { event, class, reason, .. } => {
                // The result first: a line in the dead letters counts as told by the next run.
                match event {
                    Some(event) => self.finish(event)?,
                    None => {
                        self.shared.counts.unreadable.fetch_add(1, Relaxed);
                        tracing::warn!(line = self.line, "no readable id: see the dead letters");
                    }
                }
                self.write(|results| results.dead_letter(self.line, *class, reason, &self.body))
            }
            Settlement::Reschedule(Reschedule { why: Why::HandedBack, .. }) => {
                // It stays in the file: the next run finds it.
                self.shared.counts.unfinished.fetch_add(1, Relaxed);
                Ok(())
            }
            Settlement::Reschedule(wait) => {
                self.wait(wait);
                Ok(())
            }
        }
    }
}

impl FileReceipt {
    fn finish(&self, event: &ResultEvent) -> Result<(), SettleError> {
        self.write(|results| results.write(event))?;
        (self.shared.on_result)(event);
        Ok(())
    }

    /// What cannot be written ends the run: going on would lose results.
    fn write(&self, what: impl FnOnce(&Results) -> Result<(), String>) -> Result<(), SettleError> {
        what(&self.shared.results).map_err(|reason| {
            self.shared.stop.cancel();
            SettleError::Unwritten(reason)
        })
    }

    /// Brings the job back when it is due, unless the run is stopped before.
    fn wait(self, wait: &Reschedule) {
        let shared = Arc::clone(&self.shared);
        let wait = wait.clone();
        let job = SendJob::parse(&self.body, None);
        shared.clone().waits.spawn(async move {
            let until =
                wait.history.due.map_or_else(Default::default, |due| rest(due, clock::wall()));
            tokio::select! {
                biased;
                () = shared.stop.cancelled() => {}
                () = tokio::time::sleep(until) => {
                    let out = self.out.clone();
                    if let Ok(place) = out.reserve().await {
                        return place.send(self.incoming(job, wait.history, Some(wait.why)));
                    }
                }
            }
            shared.counts.unfinished.fetch_add(1, Relaxed);
        });
    }

    fn incoming(
        self,
        job: Result<SendJob, InvalidJob>,
        history: History,
        waited_for: Option<Why>,
    ) -> Incoming<FileReceipt> {
        let lane: Option<NumberId> = job.as_ref().ok().map(|job| job.phone_number_id.clone());
        let priority = job.as_ref().ok().and_then(|job| job.priority).unwrap_or(Priority::Normal);
        let token = self.shared.metrics.received(lane.as_ref(), priority);
        let tenure = Tenure::alone(self.shared.stop.clone());
        let (earlier, receipt) = (0, self);
        Incoming { lane, job, history, waited_for, priority, earlier, tenure, receipt, token }
    }
}
