//! What is known of each job across its deliveries: what was begun, what was answered, what came of
//! it. In memory within a bound, or in a folder that survives a kill at any instant. It decides
//! nothing: it answers what it saw (`policy::recall` says what that means).
//!
//! A job is known by its id and replay. Its entry holds a fingerprint of number and message, so the
//! same id with another message is noticed.

mod folder;
mod identity;
mod look_up;
mod memory;
mod record;
mod store;
mod writer;

use crate::clock;
use crate::policy::{History, Outcome, Past, Strength};
use crate::wire::{JobId, SendJob};
use identity::Identity;
use jiff::Timestamp;
pub use look_up::Known;
use memory::{Bounds, Memory};
use record::{Answered, Finished, State};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use store::Change;
pub use store::StoreError;
use tokio::sync::watch;
use writer::{Disk, Safe};

/// Entries in memory where nothing else is configured: about 35 MB.
const IN_MEMORY: u64 = 100_000;

/// Finished entries in a folder where nothing else is configured: a few GB.
const ON_DISK: u64 = 20_000_000;

/// A job that ended the worker so often while it was being touched is touched no more.
pub const MOST_STRIKES: u32 = 3;

/// `[ledger]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerBounds {
    /// How long a finished job is remembered.
    pub keep: Duration,
    /// Jobs remembered; none: the default for memory or for a folder.
    pub max_entries: Option<u64>,
    /// Bytes that the folder's disk must have left for a new send.
    pub min_free: u64,
}

/// What could not be remembered or recalled.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LedgerError {
    /// The folder.
    #[error("{0}")]
    Store(Arc<StoreError>),
    /// An entry that this version cannot read.
    #[error("an entry of the ledger was written by another version, or is broken")]
    Unreadable,
    /// Too many jobs are in doubt.
    #[error(
        "ledger.max_entries jobs were begun and left no answer: nothing new is begun until looking \
         has settled some"
    )]
    Full,
    /// The worker ends.
    #[error("the ledger is closed")]
    Closed,
}

/// The record. A clone is another handle to the same.
#[derive(Debug, Clone)]
pub struct Ledger(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    memory: Mutex<Memory>,
    disk: Option<Disk>,
    /// Without a folder: always.
    writable: watch::Receiver<Option<String>>,
    _always: Option<watch::Sender<Option<String>>>,
}

impl Ledger {
    /// Remembers as long as the process lives.
    pub fn in_memory(bounds: LedgerBounds) -> Ledger {
        let most = bounds.max_entries.unwrap_or(IN_MEMORY);
        let max_entries = usize::try_from(most).unwrap_or(usize::MAX);
        let memory = Memory::new(Bounds { keep: bounds.keep, max_entries, on_disk: false });
        let (always, writable) = watch::channel(None);
        let memory = Mutex::new(memory);
        Ledger(Arc::new(Inner { memory, disk: None, writable, _always: Some(always) }))
    }

    /// Opens the folder, or makes it, and reads what was left unfinished in it. Starts the thread
    /// that writes.
    pub fn open(
        folder: &Path,
        bounds: LedgerBounds,
        now: Timestamp,
    ) -> Result<Ledger, LedgerError> {
        let most = bounds.max_entries.unwrap_or(ON_DISK);
        let (disk, unfinished) = Disk::open(folder, bounds, most, now)?;
        let on_disk = Bounds { keep: bounds.keep, max_entries: usize::MAX, on_disk: true };
        let mut memory = Memory::new(on_disk);
        let keep = i64::try_from(bounds.keep.as_millis()).unwrap_or(i64::MAX);
        let oldest = now.as_millisecond().saturating_sub(keep);
        for (key, entry) in unfinished {
            if entry.changed < oldest {
                // Its job went another way.
                disk.write(Change::Remove { key });
            } else if let State::Begun { .. } = entry.state {
                memory.doubt(key, entry.content, Strength::Strong, now);
            }
        }
        let writable = disk.trouble();
        let memory = Mutex::new(memory);
        Ok(Ledger(Arc::new(Inner { memory, disk: Some(disk), writable, _always: None })))
    }

    /// Whether [`Ledger::open`] could open or make this folder, as far as can be seen without touching it; else why
    /// not. A worker may have it meanwhile.
    pub fn look_at(folder: &Path, bounds: LedgerBounds) -> Result<(), String> {
        folder::look_at(folder, bounds.min_free)
    }

    /// Takes note of a delivery of the job. Ask what it means only once no earlier delivery of it is
    /// being handled.
    pub fn receive(
        &self,
        job: &SendJob,
        replay: Option<u32>,
        now: Timestamp,
    ) -> Result<Delivery, LedgerError> {
        let identity = Identity::of(job, replay);
        // Read under the lock: between two looks another delivery could come and end.
        let mut memory = self.0.memory();
        let known = match &self.0.disk {
            Some(disk) if !memory.has(identity.key) => disk.entry(identity.key)?,
            Some(_) | None => None,
        };
        let before = memory.take(&identity, known, now);
        if before.is_some()
            && let Some(disk) = &self.0.disk
            && let Some(entry) = memory.entry(identity.key)
            && matches!(entry.state, State::Received | State::Answered(_))
        {
            let number = disk.write(Change::Open { key: identity.key, value: entry.to_bytes() });
            memory.is_written(identity.key, number);
        }
        drop(memory);
        Ok(Delivery { ledger: Arc::clone(&self.0), job: identity, before })
    }

    /// Why nothing new may be begun (a full disk, for one); none while all is well.
    pub fn trouble(&self) -> watch::Receiver<Option<String>> {
        self.0.writable.clone()
    }

    /// The job that is known to have been accepted as this message, and when. It is known for as long as its
    /// outcome.
    pub fn owner_of(&self, whatsapp_message_id: &str) -> Option<(JobId, Timestamp)> {
        let message = identity::message_id(whatsapp_message_id);
        let in_memory = self.0.memory().claim_on(message).cloned();
        let claim = match (in_memory, &self.0.disk) {
            (Some(claim), _) => Some(claim),
            // Nobody is worse off without it.
            (None, Some(disk)) => disk.claim_on(message).ok().flatten(),
            (None, None) => None,
        };
        claim?.owner()
    }

    /// How many jobs are in doubt.
    pub fn doubts(&self) -> usize {
        self.0.memory().doubts()
    }

    /// Marks what is about to be touched and may end the process, until the mark is dropped. None
    /// where it has done so [`MOST_STRIKES`] times. For the few jobs that were delivered
    /// suspiciously often. Without a folder nothing is marked: no mark would survive.
    pub async fn touch(
        &self,
        section: &str,
        bytes: &[u8],
        replay: Option<u32>,
    ) -> Result<Option<Mark>, LedgerError> {
        let key = identity::mark(section, bytes, replay);
        if let Some(disk) = &self.0.disk {
            let strikes = disk.strikes(key);
            if strikes >= MOST_STRIKES {
                return Ok(None);
            }
            disk.mark(key, strikes + 1).await?;
        }
        Ok(Some(Mark { ledger: Arc::clone(&self.0), key }))
    }

    /// What was kept by [`Ledger::keep_note`], by this process or an earlier one.
    pub fn note(&self) -> Option<Vec<u8>> {
        self.0.disk.as_ref().and_then(Disk::note)
    }

    /// Keeps a few bytes of somebody else's beside the entries.
    pub fn keep_note(&self, bytes: &[u8]) {
        if let Some(disk) = &self.0.disk {
            disk.keep_note(bytes);
        }
    }

    /// Waits until all that was written is safe, and lets go of the folder.
    pub fn close(&self) {
        if let Some(disk) = &self.0.disk {
            disk.close();
        }
    }
}

/// One delivery of a job, as the ledger sees it, from its arrival until it is dropped.
#[derive(Debug)]
pub struct Delivery {
    ledger: Arc<Inner>,
    job: Identity,
    /// Deliveries that came to us before; none where the id belongs to another message.
    before: Option<u32>,
}

impl Delivery {
    /// What earlier deliveries of the job came to.
    pub fn past(&self) -> Past {
        let Some(before) = self.before else { return Past::Another };
        let memory = self.ledger.memory();
        memory.entry(self.job.key).map_or(Past::Unseen { deliveries: before }, |entry| {
            entry.past(self.job.named(), before)
        })
    }

    /// Records that an attempt is about to be made. After an error it must not be made.
    pub async fn begin(&self, attempt: u32, now: Timestamp) -> Result<(), LedgerError> {
        if self.ledger.disk.is_none() && !self.ledger.memory().has_room(now) {
            return Err(LedgerError::Full);
        }
        self.write(State::Begun { attempt, at: now.as_millisecond() }, now).await
    }

    /// The attempt that was begun was surely not made: all is as before.
    pub async fn retract(&self, history: &History, now: Timestamp) -> Result<(), LedgerError> {
        match history.attempts {
            0 => self.write(State::Received, now).await,
            1.. => self.answered(history, now).await,
        }
    }

    /// Records that the attempt was answered, or settled to be none, and that the job goes on.
    pub async fn answered(&self, history: &History, now: Timestamp) -> Result<(), LedgerError> {
        self.write(State::Answered(Box::new(Answered::of(history))), now).await
    }

    /// Records the job's outcome, for all its deliveries.
    pub async fn finish(&self, outcome: &Outcome, now: Timestamp) -> Result<(), LedgerError> {
        self.write(State::Finished(Box::new(Finished::of(outcome))), now).await
    }

    /// Records that the job is in doubt: nothing of the same content goes to its recipient meanwhile.
    pub async fn doubt(&self, job: &SendJob, strength: Strength) -> Result<(), LedgerError> {
        if self.before.is_none() {
            return Ok(());
        }
        let safe = {
            let mut memory = self.ledger.memory();
            memory.doubt(self.job.key, identity::content(job), strength, clock::wall());
            self.ledger.put(&self.job, &mut memory)
        };
        safe.wait().await
    }

    /// How many other jobs with the same content to the same recipient are in doubt.
    pub fn identical_in_doubt(&self, job: &SendJob) -> usize {
        let memory = self.ledger.memory();
        match memory.doubts() {
            0 => 0,
            _ => identity::content(job)
                .map_or(0, |content| memory.in_doubt(content, self.job.key, clock::wall())),
        }
    }

    /// Whether another job in doubt, with the same content to the same recipient, is to be looked for
    /// before this one: what was begun goes before what may have been.
    pub fn is_behind_in_doubt(&self, job: &SendJob) -> bool {
        let memory = self.ledger.memory();
        memory.doubts() > 1
            && identity::content(job)
                .is_some_and(|content| memory.is_behind(content, self.job.key, clock::wall()))
    }

    /// Whether another job than this one was accepted as this message.
    pub fn is_claimed(&self, whatsapp_message_id: &str) -> bool {
        self.is_anothers(&self.ledger.memory(), identity::message_id(whatsapp_message_id))
    }

    /// Takes this message for the job, unless another one has taken it meanwhile.
    pub fn claim(&self, whatsapp_message_id: &str) -> bool {
        let message = identity::message_id(whatsapp_message_id);
        let mut memory = self.ledger.memory();
        let free = !self.is_anothers(&memory, message);
        if free {
            memory.claim(message, &self.job, clock::wall());
        }
        free
    }

    fn is_anothers(&self, memory: &Memory, message: u128) -> bool {
        match (memory.claim_on(message), &self.ledger.disk) {
            (Some(claim), _) => claim.key != self.job.key,
            (None, Some(disk)) => match disk.claim_on(message) {
                Ok(claim) => claim.is_some_and(|claim| claim.key != self.job.key),
                // A claim that cannot be read counts: a message is given to one job only.
                Err(_) => true,
            },
            (None, None) => false,
        }
    }

    /// The present message has left, to wait elsewhere: deliveries of the next one are counted anew,
    /// so that what another worker does with it is not taken for ours.
    pub fn put_off(&self) {
        if self.before.is_none() {
            return;
        }
        let mut memory = self.ledger.memory();
        match memory.entry(self.job.key).map(|entry| &entry.state) {
            Some(State::Received) => {
                drop(memory);
                self.forget();
            }
            Some(State::Answered(_)) => {
                memory.count_anew(self.job.key);
                // Nobody waits for it: an old count errs to the side of doubt.
                let _unwatched = self.ledger.put(&self.job, &mut memory);
            }
            Some(State::Begun { .. } | State::Finished(_)) | None => {}
        }
    }

    /// The job has an outcome that is not remembered.
    pub fn forget(&self) {
        if self.before.is_none() {
            return;
        }
        let mut memory = self.ledger.memory();
        memory.forget(self.job.key);
        if let Some(disk) = &self.ledger.disk {
            let number = disk.write(Change::Remove { key: self.job.key });
            memory.is_written(self.job.key, number);
        }
    }

    async fn write(&self, state: State, now: Timestamp) -> Result<(), LedgerError> {
        if self.before.is_none() {
            return Ok(());
        }
        let key = self.job.key;
        let begins = matches!(state, State::Begun { .. });
        let (safe, former) = {
            let mut memory = self.ledger.memory();
            let former = memory.entry(key).map(|entry| entry.state.clone());
            memory.change(&self.job, state, now);
            (self.ledger.put(&self.job, &mut memory), former)
        };
        let written = safe.wait().await;
        // What could not be recorded is not begun. What has ended has ended, recorded or not.
        if begins
            && written.is_err()
            && let Some(former) = former
        {
            self.ledger.memory().change(&self.job, former, now);
        }
        written
    }
}

impl Inner {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        // Each change is whole before anything can panic.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an entry into the folder, where there is one. Called under the memory's lock, so that the
    /// folder sees the changes of a job in their order.
    fn put(&self, job: &Identity, memory: &mut Memory) -> Safe {
        let key = job.key;
        let (Some(disk), Some(entry)) = (&self.disk, memory.entry(key)) else {
            return Safe::at_once();
        };
        let value = entry.to_bytes();
        let (number, safe) = disk.write_and_tell(match entry.is_finished() {
            true => {
                let claim = entry.claim(job);
                let claim = claim.map(|(message, claim)| (message, claim.to_bytes()));
                Change::Finish { key, value, claim }
            }
            false => Change::Open { key, value },
        });
        memory.is_written(key, number);
        safe
    }

    fn release(&self, key: u128) {
        let committed = self.disk.as_ref().map_or(0, Disk::committed);
        self.memory().release(key, committed);
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if self.before.is_some() {
            self.ledger.release(self.job.key);
        }
    }
}

/// Something that may end the process is being touched.
#[derive(Debug)]
pub struct Mark {
    ledger: Arc<Inner>,
    key: u128,
}

impl Drop for Mark {
    fn drop(&mut self) {
        if let Some(disk) = &self.ledger.disk {
            disk.unmark(self.key);
        }
    }
}
