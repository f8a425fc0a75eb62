//! The records of the ledger on disk: what is unfinished, what is finished and not yet old, which
//! message ids are claimed, which jobs are marked. One commit is whole, and survives the death of the
//! process as soon as it returns; not surely a power cut. It knows no jobs and decides nothing: keys
//! and values are the caller's.
//!
//! Finished records and claims lie in generations, of which the oldest is dropped as a whole. What the
//! database does not tell of damage is looked for at opening (docs/decisions/0006-ledger-store.md).

use super::folder::{Folder, check_table, free_space};
use crate::fast_map::FastMap;
use fjall::{
    AbstractTree, Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode,
};
use jiff::Timestamp;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

/// Generations that `keep` and `max_entries` are cut into: records outlive a bound by an eighth.
const GENERATIONS: u32 = 8;

/// The database writes its tables behind our back, and a commit may wait for it without an end once
/// it cannot. So we stop well before the disk is full: room for two journals of 64 MiB at most.
pub(super) const MIN_FREE_BYTES: u64 = 128 << 20;

/// Blocks kept in memory. Most look-ups miss, and are answered by filters.
const CACHE_BYTES: u64 = 4 << 20;

/// Written but not yet in a table, for each keyspace; up to five of these live at once under load.
const MEMTABLE_BYTES: u64 = 2 << 20;

/// The least that the database allows.
const MAX_JOURNAL_BYTES: u64 = 64 << 20;

/// Tables are merged late: a generation is dropped before merging pays.
const MERGE_FROM_TABLES: u8 = 8;

/// How long finished records stay at least, and how many may stay.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Younger ones stay, unless there are too many.
    pub(super) keep: Duration,
    /// Finished records; beyond it the oldest leave.
    pub(super) max_entries: u64,
}

/// What the store knows of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    /// Its last value, and it stays until it is finished or removed.
    Unfinished(Vec<u8>),
    /// Its last value, and it leaves by age.
    Finished(Vec<u8>),
}

/// One step of a commit.
#[derive(Debug, Clone)]
pub(super) enum Change {
    /// Writes an unfinished record, new or over the one before.
    Open { key: u128, value: Vec<u8> },
    /// Makes it a finished one, and writes its claim on a message id.
    Finish { key: u128, value: Vec<u8>, claim: Option<(u128, Vec<u8>)> },
    /// Forgets an unfinished record. Finished ones leave by age alone.
    Remove { key: u128 },
    /// Writes how often the job was under way when the process died.
    Mark { key: u128, strikes: u32 },
    /// Forgets that.
    Unmark { key: u128 },
}

/// Why the store could not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A second process, or a second store of this one.
    #[error("{path}: another process uses this ledger: each process needs a folder of its own", path = .0.display())]
    InUse(PathBuf),
    /// Written by another version of this program, or not by this program at all.
    #[error(
        "{path}: the format is {found:?}, and this version knows {known:?} alone: use the version that wrote it, or another folder",
        path = .path.display()
    )]
    Version {
        /// The file that says so.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What it should say.
        known: &'static str,
    },
    /// What was committed cannot be read.
    #[error(
        "{path}: the ledger is damaged ({what}). Do not delete it lightly: it knows which messages may have been sent. \
         To start anew, move the folder away: doubts and duplicates of the time it kept are then not known",
        path = .path.display()
    )]
    Damaged {
        /// The folder or a file of it.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Too little room, or none. It goes on as soon as there is room, after [`StoreError::Stopped`] reopened.
    #[error("{path}: {free} bytes are free on this disk, and {MIN_FREE_BYTES} are needed: make room", path = .path.display())]
    Full {
        /// The folder.
        path: PathBuf,
        /// What is free, in bytes.
        free: u64,
    },
    /// After a failed write the database takes no more.
    #[error("{path}: an earlier write failed: the ledger has to be opened again", path = .0.display())]
    Stopped(PathBuf),
    /// The operating system said no.
    #[error("{path}: {source}", path = .path.display())]
    File {
        /// The folder or a file of it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What [`Store::open`] found.
#[derive(Debug)]
pub(super) struct Opened {
    /// The store.
    pub(super) store: Store,
    /// All unfinished records.
    pub(super) unfinished: Vec<(u128, Vec<u8>)>,
    /// All marks.
    pub(super) marks: Vec<(u128, u32)>,
    /// The last commits, which were lost when the machine, not the process, went down.
    pub(super) lost_commits: u64,
    /// Bytes of the tables, all of which were held against their checksums.
    pub(super) checked_bytes: u64,
}

/// An open folder. Reads may run beside a commit; commits wait for each other.
pub(super) struct Store {
    /// Its lock falls after the database is closed: fields are dropped in order.
    database: Database,
    /// Unfinished records, marks and counts: whatever is small and always needed.
    state: Keyspace,
    /// Oldest first, and never none.
    generations: RwLock<Vec<Generation>>,
    commits: Mutex<u64>,
    bounds: Bounds,
    folder: Folder,
}

#[derive(Clone)]
struct Generation {
    keyspace: Keyspace,
    number: u64,
    begun: Timestamp,
    finished: u64,
}

/// First bytes of the keys of `state`, and of a generation.
const UNFINISHED: u8 = b'u';
const MARK: u8 = b'm';
const COMMITS: &[u8] = b"c";
const COUNT: u8 = b'g';
const FINISHED: u8 = b'f';
const CLAIM: u8 = b'c';

impl Store {
    /// Locks the folder, and opens what is there or begins anew where nothing is. Reads all of it once: a second
    /// for each few GB that the page cache has, else as long as the disk takes.
    pub(super) fn open(
        folder: &Path,
        bounds: Bounds,
        now: Timestamp,
    ) -> Result<Opened, StoreError> {
        let folder = Folder::open(folder)?;
        let opened = unpanicked(|| {
            Database::builder(folder.database())
                .cache_size(CACHE_BYTES)
                .worker_threads(1)
                .max_journaling_size(MAX_JOURNAL_BYTES)
                .open()
        });
        let database = opened.map_err(|error| failed(&folder, error))?;
        let state = database.keyspace("state", options).map_err(|error| failed(&folder, error))?;
        let mut checked_bytes = check_tables(&state)?;
        let (generations, commits) = (RwLock::default(), Mutex::default());
        let mut store = Store { database, state, generations, commits, bounds, folder };
        let commits = store.committed()?;
        let lost_commits = store.folder.lost_commits(commits)?;
        store.commits = Mutex::new(commits + lost_commits);
        let generations = store.recovered(now)?;
        for generation in &generations {
            checked_bytes += check_tables(&generation.keyspace)?;
        }
        store.generations = RwLock::new(generations);
        let unfinished = store.family(UNFINISHED, |value| Some(value.to_vec()))?;
        let marks = store.family(MARK, |value| value.try_into().ok().map(u32::from_be_bytes))?;
        Ok(Opened { store, unfinished, marks, lost_commits, checked_bytes })
    }

    /// What is known of this key; the newest where it is known twice.
    pub(super) fn get(&self, key: u128) -> Result<Option<Record>, StoreError> {
        if let Some(value) = self.value(&self.state, UNFINISHED, key)? {
            return Ok(Some(Record::Unfinished(value.to_vec())));
        }
        Ok(self.newest(FINISHED, key)?.map(|value| Record::Finished(value.to_vec())))
    }

    /// The claim of a finished record on this message id.
    pub(super) fn claim_on(&self, message: u128) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.newest(CLAIM, message)?.map(|claim| claim.to_vec()))
    }

    /// Finished records that are known; one that was finished twice counts twice.
    #[cfg(test)]
    pub(super) fn finished_count(&self) -> u64 {
        let generations = self.generations.read().unwrap_or_else(PoisonError::into_inner);
        generations.iter().map(|generation| generation.finished).sum()
    }

    /// Writes all of it or nothing. When it returns, the death of the process does not undo it.
    /// After an error it is not known whether it was written: ask again after reopening.
    pub(super) fn commit(&self, batch: &[Change], now: Timestamp) -> Result<(), StoreError> {
        let mut commits = self.writing();
        self.make_room(&mut commits, now)?;
        let newest = self.newest_generation();
        let mut finished = newest.finished;
        let mut write = self.database.batch();
        let last = last_of_each(batch);
        for (nth, change) in batch.iter().enumerate() {
            match change {
                Change::Open { key, .. } if last.get(key) != Some(&nth) => {}
                Change::Open { key, value } => {
                    write.insert(&self.state, tagged(UNFINISHED, *key), value.as_slice());
                }
                Change::Finish { key, value, claim } => {
                    write.remove(&self.state, tagged(UNFINISHED, *key));
                    finished += 1;
                    write.insert(&newest.keyspace, tagged(FINISHED, *key), value.as_slice());
                    if let Some((message, claim)) = claim {
                        write.insert(&newest.keyspace, tagged(CLAIM, *message), claim.as_slice());
                    }
                }
                Change::Remove { key } => write.remove(&self.state, tagged(UNFINISHED, *key)),
                Change::Mark { key, strikes } => {
                    write.insert(&self.state, tagged(MARK, *key), strikes.to_be_bytes());
                }
                Change::Unmark { key } => write.remove(&self.state, tagged(MARK, *key)),
            }
        }
        if finished > newest.finished {
            write.insert(&self.state, count_key(newest.number), finished.to_be_bytes());
        }
        self.write(&mut commits, write)?;
        let mut generations = self.generations.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = generations.last_mut() {
            last.finished = finished;
        }
        Ok(())
    }

    /// Drops what is too old or too much. A commit does so by itself; call it where none comes.
    pub(super) fn sweep(&self, now: Timestamp) -> Result<(), StoreError> {
        self.make_room(&mut self.writing(), now)
    }

    fn writing(&self) -> MutexGuard<'_, u64> {
        self.commits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a generation where the newest has had its share, and drops those that are due.
    fn make_room(&self, commits: &mut u64, now: Timestamp) -> Result<(), StoreError> {
        let newest = self.newest_generation();
        let full = self.bounds.max_entries.div_ceil(u64::from(GENERATIONS)).max(1);
        let aged = age(newest.begun, now) >= self.bounds.keep / GENERATIONS;
        if newest.finished >= full || (aged && newest.finished > 0) {
            let next = self.begin_generation(newest.number + 1, now)?;
            self.generations.write().unwrap_or_else(PoisonError::into_inner).push(next);
        }
        while let Some(due) = self.due(now) {
            // The count first: a count without a generation is read as damage.
            let mut write = self.database.batch();
            write.remove(&self.state, count_key(due.number));
            self.write(commits, write)?;
            self.generations.write().unwrap_or_else(PoisonError::into_inner).remove(0);
            self.database.delete_keyspace(due.keyspace).map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    /// The oldest generation, if all that is in it may go.
    fn due(&self, now: Timestamp) -> Option<Generation> {
        let generations = self.generations.read().unwrap_or_else(PoisonError::into_inner);
        let [oldest, next, ..] = generations.as_slice() else { return None };
        let finished: u64 = generations.iter().map(|each| each.finished).sum();
        let old = age(next.begun, now) >= self.bounds.keep;
        (old || finished > self.bounds.max_entries).then(|| oldest.clone())
    }

    fn newest_generation(&self) -> Generation {
        let generations = self.generations.read().unwrap_or_else(PoisonError::into_inner);
        generations.last().cloned().expect("there is always a generation")
    }

    /// Its name says when it began, so that it needs no record of its own.
    fn begin_generation(&self, number: u64, begun: Timestamp) -> Result<Generation, StoreError> {
        let name = format!("generation-{number}-{}", begun.as_second());
        let keyspace = self.database.keyspace(&name, options);
        let keyspace = keyspace.map_err(|error| self.failed(error))?;
        Ok(Generation { keyspace, number, begun, finished: 0 })
    }

    /// The generations that are there; none of those that were counted may be missing.
    fn recovered(&self, now: Timestamp) -> Result<Vec<Generation>, StoreError> {
        let mut generations = Vec::new();
        for name in self.database.list_keyspace_names() {
            let mut words = name.split('-');
            let ("generation", Some(number), Some(begun)) =
                (words.next().unwrap_or_default(), words.next(), words.next())
            else {
                continue;
            };
            let number = number.parse().ok();
            let begun = begun.parse().ok().and_then(|second| Timestamp::from_second(second).ok());
            let (number, begun) =
                number.zip(begun).ok_or_else(|| self.damaged("a generation has no number"))?;
            generations.push(self.begin_generation(number, begun)?);
        }
        generations.sort_unstable_by_key(|generation| generation.number);
        for pair in self.state.prefix([COUNT]) {
            let (key, value) = pair.into_inner().map_err(|error| self.failed(error))?;
            let read = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_be_bytes);
            let number = key.get(1..).and_then(read);
            let counted = generations.iter_mut().find(|found| Some(found.number) == number);
            let (counted, finished) =
                counted.zip(read(&value)).ok_or_else(|| self.damaged("a generation is missing"))?;
            counted.finished = finished;
        }
        if generations.is_empty() {
            generations.push(self.begin_generation(0, now)?);
        }
        Ok(generations)
    }

    /// Hands the batch to the operating system, and counts it beside the database.
    fn write(&self, commits: &mut u64, mut write: OwnedWriteBatch) -> Result<(), StoreError> {
        let free = free_space(self.folder.path())?;
        if free < MIN_FREE_BYTES {
            return Err(StoreError::Full { path: self.folder.path().to_owned(), free });
        }
        write.insert(&self.state, COMMITS, (*commits + 1).to_be_bytes());
        let written = write.durability(Some(PersistMode::Buffer)).commit();
        written.map_err(|error| self.failed(error))?;
        *commits += 1;
        self.folder.count(*commits)
    }

    fn committed(&self) -> Result<u64, StoreError> {
        let value = self.state.get(COMMITS).map_err(|error| self.failed(error))?;
        let Some(value) = value else { return Ok(0) };
        let count = value.as_ref().try_into().map_err(|_| self.damaged("a count is unreadable"));
        Ok(u64::from_be_bytes(count?))
    }

    fn family<T>(
        &self,
        family: u8,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<(u128, T)>, StoreError> {
        let mut found = Vec::new();
        for pair in self.state.prefix([family]) {
            let (key, value) = pair.into_inner().map_err(|error| self.failed(error))?;
            let key = key.get(1..).and_then(|key| key.try_into().ok()).map(u128::from_be_bytes);
            let record = key.zip(read(&value));
            found.push(record.ok_or_else(|| self.damaged("a record is unreadable"))?);
        }
        Ok(found)
    }

    fn newest(&self, family: u8, key: u128) -> Result<Option<fjall::Slice>, StoreError> {
        let generations = self.generations.read().unwrap_or_else(PoisonError::into_inner);
        for generation in generations.iter().rev() {
            if let Some(value) = self.value(&generation.keyspace, family, key)? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    fn value(
        &self,
        keyspace: &Keyspace,
        family: u8,
        key: u128,
    ) -> Result<Option<fjall::Slice>, StoreError> {
        unpanicked(|| keyspace.get(tagged(family, key))).map_err(|error| self.failed(error))
    }

    fn failed(&self, error: fjall::Error) -> StoreError {
        failed(&self.folder, error)
    }

    fn damaged(&self, what: &str) -> StoreError {
        StoreError::Damaged { path: self.folder.database(), what: what.to_owned() }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("folder", &self.folder.path()).finish_non_exhaustive()
    }
}

/// Holds every table of a keyspace against its checksum. Returns the bytes read.
fn check_tables(keyspace: &Keyspace) -> Result<u64, StoreError> {
    // As long as this version lives, merging removes none of its tables.
    let version = keyspace.tree.current_version();
    let tables = version.iter_tables().map(|table| {
        let path = keyspace.path().join("tables").join(table.id().to_string());
        check_table(&path, table.checksum().into_u128())
    });
    tables.sum()
}

/// Which change of an unfinished record is its last: what is written over in the same commit need not be written.
fn last_of_each(batch: &[Change]) -> FastMap<u128, usize> {
    let of_record = |(nth, change): (usize, &Change)| match change {
        Change::Open { key, .. } | Change::Finish { key, .. } | Change::Remove { key } => {
            Some((*key, nth))
        }
        Change::Mark { .. } | Change::Unmark { .. } => None,
    };
    batch.iter().enumerate().filter_map(of_record).collect()
}

fn options() -> KeyspaceCreateOptions {
    let late = fjall::compaction::Leveled::default().with_l0_threshold(MERGE_FROM_TABLES);
    KeyspaceCreateOptions::default()
        .max_memtable_size(MEMTABLE_BYTES)
        .compaction_strategy(std::sync::Arc::new(late))
}

fn tagged(family: u8, key: u128) -> [u8; 17] {
    let mut tagged = [family; 17];
    tagged[1..].copy_from_slice(&key.to_be_bytes());
    tagged
}

fn count_key(number: u64) -> [u8; 9] {
    let mut key = [COUNT; 9];
    key[1..].copy_from_slice(&number.to_be_bytes());
    key
}

/// None where the clock went back.
fn age(begun: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(begun)).unwrap_or_default()
}

/// Some damage on disk makes the database panic.
fn unpanicked<T>(ask: impl FnOnce() -> fjall::Result<T>) -> fjall::Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(ask))
        .unwrap_or(Err(fjall::Error::Unrecoverable))
}

/// What the database's error means. What it cannot find or read to its end is damage as well.
fn failed(folder: &Folder, error: fjall::Error) -> StoreError {
    let path = folder.database();
    match error {
        fjall::Error::Io(source) | fjall::Error::Storage(fjall::LsmError::Io(source)) => {
            match source.kind() {
                io::ErrorKind::UnexpectedEof
                | io::ErrorKind::NotFound
                | io::ErrorKind::InvalidData => {
                    StoreError::Damaged { path, what: source.to_string() }
                }
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    StoreError::Full { path, free: 0 }
                }
                _ => StoreError::File { path, source },
            }
        }
        fjall::Error::Locked => StoreError::InUse(path),
        fjall::Error::Poisoned | fjall::Error::KeyspaceDeleted => StoreError::Stopped(path),
        other => StoreError::Damaged { path, what: other.to_string() },
    }
}

#[cfg(test)]
mod tests;
