//! The folder behind the ledger: one thread writes what has come together as one commit, and tells
//! those who wait for it. It looks after the disk's room, and opens the folder anew after a failure.

use super::folder::has_room;
use super::record::{Claim, Entry};
use super::store::{self, Change, Opened, Record, Store};
use super::{LedgerBounds, LedgerError};
use crate::clock;
use jiff::Timestamp;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

/// How often the disk's room is looked at, old entries are dropped, and a failed folder is opened anew.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// Of the time that it took to find that a folder is still damaged it rests so many times before the next look: to
/// read all tables again and again must not keep the disk busy.
const RESTS: u32 = 10;

/// Commits begin no closer than this, so that those of a busy worker are few and large: each costs system calls and
/// a wake-up of this thread, however little is in it. What somebody waits for after a pause is committed at once; what
/// nobody waits for takes no longer than this either.
const GATHERED: Duration = Duration::from_millis(2);

/// The key of what others keep beside the entries. No digest has this value.
const NOTE: u128 = 0;

/// The folder, and the thread that writes into it.
#[derive(Debug)]
pub(super) struct Disk {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    bounds: store::Bounds,
    min_free: u64,
    pending: Mutex<Pending>,
    wake: Condvar,
    /// None while it could not be opened anew.
    store: RwLock<Option<Store>>,
    trouble: watch::Sender<Option<String>>,
    /// The number of the last change that was committed, or could not be.
    committed: AtomicU64,
    /// A commit or a look-up failed: the folder is opened anew, and all of it checked.
    failed: AtomicBool,
    marks: Mutex<HashMap<u128, u32>>,
    note: Option<Vec<u8>>,
}

/// What waits for the next commit. Bounded by the jobs in hand, each of which waits for its own.
#[derive(Debug, Default)]
struct Pending {
    changes: Vec<Change>,
    waiting: Vec<oneshot::Sender<Result<(), LedgerError>>>,
    closing: bool,
    /// Nothing is written any more.
    ended: bool,
    /// The number of the last change that came.
    number: u64,
}

/// Until a change is safe.
#[derive(Debug)]
pub(super) struct Safe(Option<oneshot::Receiver<Result<(), LedgerError>>>);

impl Safe {
    /// Nothing is to be written.
    pub(super) fn at_once() -> Safe {
        Safe(None)
    }

    pub(super) async fn wait(self) -> Result<(), LedgerError> {
        match self.0 {
            None => Ok(()),
            Some(safe) => safe.await.unwrap_or(Err(LedgerError::Closed)),
        }
    }
}

impl Disk {
    /// Opens the folder and starts the thread. Returns what was left unfinished.
    pub(super) fn open(
        folder: &Path,
        bounds: LedgerBounds,
        max_entries: u64,
        now: Timestamp,
    ) -> Result<(Disk, Vec<(u128, Entry)>), LedgerError> {
        let store_bounds = store::Bounds { keep: bounds.keep, max_entries };
        let begun = clock::monotonic();
        let opened = Store::open(folder, store_bounds, now).map_err(wrapped)?;
        let Opened { store, unfinished: records, marks, lost_commits, checked_bytes } = opened;
        tracing::info!(folder = %folder.display(), checked_bytes, took = ?begun.elapsed(), "the ledger is open");
        if lost_commits > 0 {
            tracing::warn!(
                folder = %folder.display(),
                lost_commits,
                "the machine went down before the ledger's last commits were on its disk: what was \
                 under way then is not remembered, and is looked for"
            );
        }
        let mut note = None;
        let mut unfinished = Vec::with_capacity(records.len());
        for (key, value) in records {
            match key {
                NOTE => note = Some(value),
                key => unfinished.push((key, read(&value)?)),
            }
        }
        let shared = Arc::new(Shared {
            folder: folder.to_owned(),
            bounds: store_bounds,
            min_free: bounds.min_free,
            pending: Mutex::default(),
            wake: Condvar::new(),
            store: RwLock::new(Some(store)),
            trouble: watch::Sender::new(None),
            committed: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            marks: Mutex::new(marks.into_iter().collect()),
            note,
        });
        shared.tell(has_room(folder, bounds.min_free).err());
        let writer = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("ledger".into());
        let thread = thread.spawn(move || writer.run()).map_err(|_| LedgerError::Closed)?;
        Ok((Disk { shared, thread: Mutex::new(Some(thread)) }, unfinished))
    }

    /// What the folder has of a job.
    pub(super) fn entry(&self, key: u128) -> Result<Option<Entry>, LedgerError> {
        match self.shared.using(|store| store.get(key))? {
            Some(Record::Unfinished(value) | Record::Finished(value)) => read(&value).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn claim_on(&self, message: u128) -> Result<Option<Claim>, LedgerError> {
        let Some(claim) = self.shared.using(|store| store.claim_on(message))? else {
            return Ok(None);
        };
        Claim::from_bytes(&claim).map(Some).ok_or(LedgerError::Unreadable)
    }

    /// With the next commit; nobody waits for it. Returns the change's number.
    pub(super) fn write(&self, change: Change) -> u64 {
        self.shared.put(change, None)
    }

    /// With the next commit. Returns the change's number.
    pub(super) fn write_and_tell(&self, change: Change) -> (u64, Safe) {
        let (told, safe) = oneshot::channel();
        (self.shared.put(change, Some(told)), Safe(Some(safe)))
    }

    /// The folder has all changes up to this number.
    pub(super) fn committed(&self) -> u64 {
        self.shared.committed.load(SeqCst)
    }

    /// Why nothing new may be begun.
    pub(super) fn trouble(&self) -> watch::Receiver<Option<String>> {
        self.shared.trouble.subscribe()
    }

    /// How often what has this mark ended the process.
    pub(super) fn strikes(&self, key: u128) -> u32 {
        self.shared.marks().get(&key).copied().unwrap_or(0)
    }

    pub(super) async fn mark(&self, key: u128, strikes: u32) -> Result<(), LedgerError> {
        self.write_and_tell(Change::Mark { key, strikes }).1.wait().await
    }

    pub(super) fn unmark(&self, key: u128) {
        self.shared.marks().remove(&key);
        self.write(Change::Unmark { key });
    }

    pub(super) fn note(&self) -> Option<Vec<u8>> {
        self.shared.note.clone()
    }

    pub(super) fn keep_note(&self, bytes: &[u8]) {
        self.write(Change::Open { key: NOTE, value: bytes.to_vec() });
    }

    /// Writes what waits, and lets go of the folder.
    pub(super) fn close(&self) {
        self.shared.pending().closing = true;
        self.shared.wake.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the ledger's thread ended by a defect");
        }
        self.shared.swap(None);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn run(self: Arc<Self>) {
        let _tells = TellsItsEnd(&self);
        let (mut looked, mut rest) = (clock::monotonic(), HOUSEKEEPING);
        let mut due = looked;
        loop {
            let Pending { changes, waiting, closing, number, .. } = self.take(due);
            if !changes.is_empty() {
                due = clock::monotonic() + GATHERED;
                let committed = self.using(|store| store.commit(&changes, clock::wall()));
                self.committed.store(number, SeqCst);
                for waits in waiting {
                    // Who no longer waits has given its job up.
                    let _gone = waits.send(committed.clone());
                }
            }
            if closing {
                return;
            }
            if looked.elapsed() >= rest {
                let begun = clock::monotonic();
                self.keep_house();
                looked = clock::monotonic();
                rest = match self.failed.load(SeqCst) {
                    true => HOUSEKEEPING.max(RESTS * (looked - begun)),
                    false => HOUSEKEEPING,
                };
            }
        }
    }

    /// With the next commit. Returns the change's number.
    fn put(&self, change: Change, told: Option<oneshot::Sender<Result<(), LedgerError>>>) -> u64 {
        let mut pending = self.pending();
        pending.number += 1;
        let number = pending.number;
        if pending.ended {
            // `told` is dropped, which tells who waits.
            return number;
        }
        let is_first_told = told.is_some() && pending.waiting.is_empty();
        pending.waiting.extend(told);
        pending.changes.push(change);
        // It sleeps while there is no change, and while nobody waits for one: each call costs a system call.
        let wakes = is_first_told || pending.changes.len() == 1;
        drop(pending);
        if wakes {
            self.wake.notify_one();
        }
        number
    }

    /// All that waits by `due`; empty after a while without any.
    fn take(&self, due: Instant) -> Pending {
        let pending =
            self.sleep(self.pending(), HOUSEKEEPING, |pending| pending.changes.is_empty());
        let pending = self.sleep(pending, GATHERED, |pending| pending.waiting.is_empty());
        let rest = due.saturating_duration_since(clock::monotonic());
        let mut pending = self.sleep(pending, rest, |_| true);
        Pending {
            changes: std::mem::take(&mut pending.changes),
            waiting: std::mem::take(&mut pending.waiting),
            ..*pending
        }
    }

    /// For so long, while that is so and nothing closes.
    fn sleep<'a>(
        &'a self,
        pending: MutexGuard<'a, Pending>,
        most: Duration,
        reason: impl Fn(&Pending) -> bool,
    ) -> MutexGuard<'a, Pending> {
        let stays = |pending: &mut Pending| reason(pending) && !pending.closing;
        let slept = self.wake.wait_timeout_while(pending, most, stays);
        slept.unwrap_or_else(PoisonError::into_inner).0
    }

    /// A reader or the writer uses the store; only opening it anew takes it away. What cannot be read tells of a
    /// folder that cannot be trusted, as what cannot be written does: nothing new is begun.
    fn using<T>(
        &self,
        ask: impl FnOnce(&Store) -> Result<T, super::StoreError>,
    ) -> Result<T, LedgerError> {
        let store = self.store.read().unwrap_or_else(PoisonError::into_inner);
        let store = store.as_ref().ok_or(LedgerError::Closed)?;
        ask(store).map_err(|error| {
            self.failed.store(true, SeqCst);
            self.tell(Some(error.to_string()));
            wrapped(error)
        })
    }

    fn keep_house(&self) {
        let well =
            has_room(&self.folder, self.min_free).and_then(|()| match self.failed.load(SeqCst) {
                true => self.open_anew(),
                false => self
                    .using(|store| store.sweep(clock::wall()))
                    .map_err(|error| error.to_string()),
            });
        match well {
            Err(reason) => self.tell(Some(reason)),
            Ok(()) if !self.failed.load(SeqCst) => self.tell(None),
            // A read failed meanwhile, and has told so.
            Ok(()) => {}
        }
    }

    /// Who reads meanwhile is told that it is closed, and comes again: nobody waits for the disk.
    fn open_anew(&self) -> Result<(), String> {
        // The folder is locked until the old one is gone.
        self.swap(None);
        let opened = Store::open(&self.folder, self.bounds, clock::wall());
        let store = opened.map_err(|error| error.to_string())?.store;
        self.failed.store(false, SeqCst);
        self.swap(Some(store));
        Ok(())
    }

    fn swap(&self, store: Option<Store>) {
        *self.store.write().unwrap_or_else(PoisonError::into_inner) = store;
    }

    fn tell(&self, trouble: Option<String>) {
        self.trouble.send_if_modified(|told| {
            match (told.as_deref(), trouble.as_deref()) {
                (None, Some(reason)) => tracing::error!(%reason, "the ledger: no new send starts"),
                (Some(_), None) => tracing::info!("the ledger is written again"),
                (None, None) | (Some(_), Some(_)) => {}
            }
            let changed = *told != trouble;
            *told = trouble;
            changed
        });
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn marks(&self) -> MutexGuard<'_, HashMap<u128, u32>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// However the thread ends: nothing is written any more.
struct TellsItsEnd<'a>(&'a Shared);

impl Drop for TellsItsEnd<'_> {
    fn drop(&mut self) {
        let mut pending = self.0.pending();
        (pending.ended, pending.waiting) = (true, Vec::new());
        drop(pending);
        if std::thread::panicking() {
            self.0.tell(Some("the ledger's thread ended by a defect: restart the worker".into()));
        }
    }
}

fn wrapped(error: super::StoreError) -> LedgerError {
    LedgerError::Store(Arc::new(error))
}

fn read(value: &[u8]) -> Result<Entry, LedgerError> {
    Entry::from_bytes(value).ok_or(LedgerError::Unreadable)
}
