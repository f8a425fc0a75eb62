//! The records on disk, in an embedded store (docs/decisions/0006-ledger-store.md, the only place that
//! names it). A commit survives SIGKILL once it returns. It knows keys and bytes, and what is
//! finished; it knows no jobs and no threads.
//!
//! Unfinished records stand in one keyspace, so that a start reads them alone. Finished ones go into
//! *generations*, one for each eighth of the time that they are kept: the oldest is dropped as a
//! whole, and nothing is ever searched for what is old.

use super::tip::Tip;
use fjall::compaction::Leveled;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use jiff::Timestamp;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What the folder holds. A store of another format is not opened.
const FORMAT: &str = "chakra-sender ledger 1\n";

/// Generations that are kept at once, the newest not counted.
const GENERATIONS: u32 = 8;

/// Memory for blocks that were read, and for what is not yet written out of the journal.
const CACHE_BYTES: u64 = 4 << 20;
const MEMTABLE_BYTES: u64 = 4 << 20;

/// A generation is written once, hardly read and dropped as a whole: merging its tables often costs
/// more than twice the CPU of all else. Beyond 20 tables the store slows writers down.
const TABLES_BEFORE_COMPACTION: u8 = 16;
const TABLE_BYTES: u64 = 16 << 20;

/// The journal is cut by writing its oldest part out once it has grown beyond this.
const JOURNAL_BYTES: u64 = 128 << 20;

/// Files that are kept open.
const OPEN_FILES: usize = 64;

/// Keyspaces, and what the finished ones' names begin with.
const OPEN: &str = "open";
const MARKS: &str = "marks";
const META: &str = "meta";
const GENERATION: &str = "finished-";

/// The key of the count of commits.
const COMMITS: &str = "commits";

/// What stands before a key in a generation.
const ENTRY: u8 = b'e';
const CLAIM: u8 = b'c';

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct StoreBounds {
    pub(super) keep: Duration,
    /// Finished records, roughly.
    pub(super) max_entries: u64,
}

/// One change of a commit.
#[derive(Debug)]
pub(super) enum Change {
    /// An unfinished record.
    Open { key: u128, value: Vec<u8> },
    /// It is finished. `claim` belongs to it from now on.
    Finish { key: u128, value: Vec<u8>, claim: Option<u128> },
    /// It was not worth keeping.
    Remove { key: u128 },
    /// Something is touched that may end the process.
    Mark { key: u128, strikes: u32 },
    /// It did not.
    Unmark { key: u128 },
}

/// What an earlier process left.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// Unfinished records.
    pub(super) open: Vec<(u128, Vec<u8>)>,
    /// Marks with their strikes.
    pub(super) marks: Vec<(u128, u32)>,
}

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It has an owner.
    #[error("{folder}: another process uses this ledger; each worker needs a folder of its own", folder = .0.display())]
    Locked(PathBuf),
    /// Somebody else's folder, or another version's.
    #[error("{file}: not a ledger of this version of chakra-sender", file = .0.display())]
    Format(PathBuf),
    /// What was committed is not all there.
    #[error(
        "{folder}: the ledger is damaged: {what}. Restore it, or move it away and start with an empty \
         one: then what it knew is lost, so jobs that were under way are looked for before they are \
         sent, and ids of the last ledger.keep are no longer recognised",
        folder = .folder.display()
    )]
    Damaged {
        /// The folder.
        folder: PathBuf,
        /// What is wrong in it.
        what: String,
    },
    /// It cannot be read or written.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The folder or a file of it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// An open folder.
pub(super) struct Store {
    folder: PathBuf,
    bounds: StoreBounds,
    database: Database,
    open: Keyspace,
    marks: Keyspace,
    meta: Keyspace,
    /// The newest last; never empty.
    generations: Mutex<Vec<Generation>>,
    tip: Mutex<Tip>,
    /// Held while the folder is open.
    _lock: File,
}

#[derive(Clone)]
struct Generation {
    /// In milliseconds of Unix time.
    began: i64,
    keyspace: Keyspace,
}

impl Store {
    /// Opens the folder, or makes it; tells what was left unfinished in it.
    pub(super) fn open(
        folder: &Path,
        bounds: StoreBounds,
        now: Timestamp,
    ) -> Result<(Store, Left), StoreError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Io { path, source }
        };
        std::fs::create_dir_all(folder).map_err(at(folder))?;
        let lock = lock(folder)?;
        check_format(folder)?;
        let tip = Tip::open(&folder.join("tip")).map_err(at(&folder.join("tip")))?;
        let wrong = |error| explain(folder, error);
        let database = open_database(folder)?;
        let keyspace = |name: &str| database.keyspace(name, options).map_err(wrong);
        let (open, marks, meta) = (keyspace(OPEN)?, keyspace(MARKS)?, keyspace(META)?);
        let mut generations = Vec::new();
        for name in database.list_keyspace_names() {
            if let Some(began) = name.strip_prefix(GENERATION).and_then(|began| began.parse().ok())
            {
                generations.push(Generation { began, keyspace: keyspace(&name)? });
            }
        }
        generations.sort_unstable_by_key(|generation| generation.began);
        let store = Store {
            folder: folder.to_owned(),
            bounds,
            database,
            open,
            marks,
            meta,
            generations: Mutex::new(generations),
            tip: Mutex::new(tip),
            _lock: lock,
        };
        store.check_tip()?;
        store.sweep(now)?;
        let left = store.left()?;
        Ok((store, left))
    }

    /// A record, finished or not.
    pub(super) fn get(&self, key: u128) -> Result<Option<Vec<u8>>, StoreError> {
        let wrong = |error| explain(&self.folder, error);
        if let Some(value) = self.open.get(key.to_be_bytes()).map_err(wrong)? {
            return Ok(Some(value.to_vec()));
        }
        self.find(ENTRY, key)
    }

    /// Whose claim this is.
    pub(super) fn claimed_by(&self, claim: u128) -> Result<Option<u128>, StoreError> {
        let Some(value) = self.find(CLAIM, claim)? else { return Ok(None) };
        self.number(&value).map(Some)
    }

    /// Makes all changes or none.
    pub(super) fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        let newest = {
            let generations = self.generations();
            generations.last().expect("a sweep makes one").keyspace.clone()
        };
        let mut tip = self.tip.lock().unwrap_or_else(PoisonError::into_inner);
        // To the operating system: a death of the process takes nothing of it away.
        let mut batch = self.database.batch().durability(Some(PersistMode::Buffer));
        for change in changes {
            match change {
                Change::Open { key, value } => {
                    batch.insert(&self.open, key.to_be_bytes(), value.as_slice());
                }
                Change::Finish { key, value, claim } => {
                    batch.remove(&self.open, key.to_be_bytes());
                    batch.insert(&newest, within(ENTRY, *key), value.as_slice());
                    if let Some(claim) = claim {
                        batch.insert(&newest, within(CLAIM, *claim), key.to_be_bytes());
                    }
                }
                Change::Remove { key } => batch.remove(&self.open, key.to_be_bytes()),
                Change::Mark { key, strikes } => {
                    batch.insert(&self.marks, key.to_be_bytes(), strikes.to_be_bytes());
                }
                Change::Unmark { key } => batch.remove(&self.marks, key.to_be_bytes()),
            }
        }
        let next = tip.commits() + 1;
        batch.insert(&self.meta, COMMITS, next.to_be_bytes());
        batch.commit().map_err(|error| explain(&self.folder, error))?;
        tip.advance(next).map_err(|source| StoreError::Io { path: self.folder.join("tip"), source })
    }

    /// Begins a new generation and drops old ones, where it is time.
    pub(super) fn sweep(&self, now: Timestamp) -> Result<(), StoreError> {
        let wrong = |error| explain(&self.folder, error);
        let now = now.as_millisecond();
        let keep = millis(self.bounds.keep);
        let of_one = millis(self.bounds.keep / GENERATIONS).max(1);
        let most_of_one = usize::try_from(self.bounds.max_entries / u64::from(GENERATIONS));
        let most_of_one = most_of_one.unwrap_or(usize::MAX).max(1);
        let mut generations = self.generations();
        let is_over = generations.last().is_none_or(|newest| {
            // Each entry comes with a claim, as a rule.
            let entries = newest.keyspace.approximate_len() / 2;
            newest.began + of_one <= now || entries >= most_of_one
        });
        if is_over {
            let name = format!("{GENERATION}{now}");
            let keyspace = self.database.keyspace(&name, options).map_err(wrong)?;
            generations.push(Generation { began: now, keyspace });
        }
        // One ends where the next began.
        while let Some(next) = generations.get(1).map(|next| next.began)
            && (next + keep <= now || generations.len() > GENERATIONS as usize + 1)
        {
            let oldest = generations.remove(0);
            self.database.delete_keyspace(oldest.keyspace).map_err(wrong)?;
        }
        Ok(())
    }

    fn find(&self, what: u8, key: u128) -> Result<Option<Vec<u8>>, StoreError> {
        let key = within(what, key);
        for generation in self.generations().iter().rev() {
            let found =
                generation.keyspace.get(key).map_err(|error| explain(&self.folder, error))?;
            if let Some(value) = found {
                return Ok(Some(value.to_vec()));
            }
        }
        Ok(None)
    }

    fn left(&self) -> Result<Left, StoreError> {
        let wrong = |error| explain(&self.folder, error);
        let mut left = Left::default();
        for record in self.open.iter() {
            let (key, value) = record.into_inner().map_err(wrong)?;
            left.open.push((self.number(&key)?, value.to_vec()));
        }
        for record in self.marks.iter() {
            let (key, value) = record.into_inner().map_err(wrong)?;
            let strikes = value.as_ref().try_into().map(u32::from_be_bytes);
            let strikes = strikes.map_err(|_| self.damaged("a mark is no number"))?;
            left.marks.push((self.number(&key)?, strikes));
        }
        Ok(left)
    }

    /// The store drops what follows a broken place of its journal. What was committed must be there.
    fn check_tip(&self) -> Result<(), StoreError> {
        let wrong = |error| explain(&self.folder, error);
        let commits = match self.meta.get(COMMITS).map_err(wrong)? {
            None => 0,
            Some(value) => value.as_ref().try_into().map(u64::from_be_bytes).unwrap_or(0),
        };
        let mut tip = self.tip.lock().unwrap_or_else(PoisonError::into_inner);
        match tip.commits().checked_sub(commits) {
            None | Some(0) => {}
            Some(missing) if tip.is_of_this_boot() => {
                return Err(self.damaged(&format!("the last {missing} commits are missing")));
            }
            Some(missing) => {
                let folder = self.folder.display();
                tracing::warn!(
                    %folder, missing,
                    "the machine went down before the ledger's last commits were on disk: what was \
                     under way then is not remembered, and is looked for"
                );
            }
        }
        let path = self.folder.join("tip");
        tip.advance(commits).map_err(|source| StoreError::Io { path, source })
    }

    fn number(&self, bytes: &[u8]) -> Result<u128, StoreError> {
        bytes.try_into().map(u128::from_be_bytes).map_err(|_| self.damaged("a key is no digest"))
    }

    fn damaged(&self, what: &str) -> StoreError {
        StoreError::Damaged { folder: self.folder.clone(), what: what.to_owned() }
    }

    fn generations(&self) -> MutexGuard<'_, Vec<Generation>> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// Bytes that are free for us on the folder's disk.
pub(super) fn free_space(folder: &Path) -> io::Result<u64> {
    let room = rustix::fs::statvfs(folder)?;
    Ok(room.f_bavail.saturating_mul(room.f_frsize))
}

/// Some damage makes the store's reader panic: that is told like other damage.
fn open_database(folder: &Path) -> Result<Database, StoreError> {
    let opened = std::panic::catch_unwind(|| {
        Database::builder(folder.join("store"))
            .cache_size(CACHE_BYTES)
            .max_journaling_size(JOURNAL_BYTES)
            .max_cached_files(Some(OPEN_FILES))
            .worker_threads(1)
            .open()
    });
    let what = "its journal cannot be read".to_owned();
    opened
        .map_err(|_| StoreError::Damaged { folder: folder.to_owned(), what })?
        .map_err(|error| explain(folder, error))
}

fn lock(folder: &Path) -> Result<File, StoreError> {
    let path = folder.join("lock");
    let file = File::options().create(true).append(true).open(&path);
    let file = file.map_err(|source| StoreError::Io { path, source })?;
    file.try_lock().map_err(|_| StoreError::Locked(folder.to_owned()))?;
    Ok(file)
}

/// A new folder gets the mark of this format; one with another mark, or with none but with other
/// things in it, is not ours.
fn check_format(folder: &Path) -> Result<(), StoreError> {
    let path = folder.join("format");
    match std::fs::read_to_string(&path) {
        Ok(format) if format == FORMAT => Ok(()),
        Ok(_) => Err(StoreError::Format(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match folder.join("store").exists() {
                true => Err(StoreError::Format(path)),
                false => {
                    std::fs::write(&path, FORMAT).map_err(|source| StoreError::Io { path, source })
                }
            }
        }
        Err(source) => Err(StoreError::Io { path, source }),
    }
}

fn options() -> KeyspaceCreateOptions {
    let compaction = Leveled::default()
        .with_l0_threshold(TABLES_BEFORE_COMPACTION)
        .with_table_target_size(TABLE_BYTES);
    KeyspaceCreateOptions::default()
        .max_memtable_size(MEMTABLE_BYTES)
        .compaction_strategy(Arc::new(compaction))
}

fn within(what: u8, key: u128) -> [u8; 17] {
    let mut bytes = [what; 17];
    bytes[1..].copy_from_slice(&key.to_be_bytes());
    bytes
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn explain(folder: &Path, error: fjall::Error) -> StoreError {
    let path = folder.to_owned();
    match error {
        fjall::Error::Io(source) => StoreError::Io { path, source },
        fjall::Error::Locked => StoreError::Locked(path),
        // It refuses all further writes; the writer opens it anew.
        fjall::Error::Poisoned => {
            StoreError::Io { path, source: io::Error::other("an earlier write failed") }
        }
        error => match io_within(&error) {
            Some(source) => StoreError::Io { path, source },
            None => StoreError::Damaged { folder: path, what: error.to_string() },
        },
    }
}

/// An error of the operating system, wherever it stands among the causes.
fn io_within(error: &fjall::Error) -> Option<io::Error> {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io::Error::new(io.kind(), io.to_string()));
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
