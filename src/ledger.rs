//! What this worker has begun, and what came of it until that is safe with the queue. A job that the
//! broker delivers again while its first delivery is still known here is not sent again. In file mode
//! a plain file that is only ever appended to stands behind it, beside the results, so that a run
//! which was killed sends nothing twice that it knows of. It decides nothing: it answers what it saw.

use crate::policy::Settlement;
use crate::wire::{JobId, NumberId};
use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Jobs remembered at once: those in hand, and those whose delivery was lost before they were settled
/// and that have not come back. Beyond it the finished ones of these are forgotten first, and where
/// all are begun, nothing new is begun.
const MAX_REMEMBERED: usize = 100_000;

/// What is known of a job before it is handled.
#[derive(Debug, Clone)]
pub enum Seen {
    /// Nothing, or its last attempt was answered and may be repeated.
    Unseen,
    /// A request was begun and left no answer.
    Begun,
    /// It has its settlement, which was not let go of.
    Finished(Box<Settlement>),
}

/// A record of beginnings that cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Its file could not be read or written.
    #[error("{path}: {source}", path = .path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Too much is in doubt already.
    #[error("{MAX_REMEMBERED} requests were begun and left no answer")]
    Full,
}

/// The record of beginnings.
#[derive(Debug, Default)]
pub struct Ledger {
    /// By this process.
    begun: Mutex<HashMap<Key, Option<Box<Settlement>>>>,
    kept: Option<Kept>,
}

type Key = (NumberId, JobId);

#[derive(Debug)]
struct Kept {
    path: PathBuf,
    file: Mutex<Appending>,
    /// Begun by earlier runs and not answered.
    earlier: HashSet<Key>,
}

#[derive(Debug)]
struct Appending {
    file: File,
    /// After a torn line nothing may be appended: the next one would be read as a part of it.
    torn: bool,
}

impl Ledger {
    /// Remembers as long as the process lives.
    pub fn in_memory() -> Ledger {
        Ledger::default()
    }

    /// Reads what earlier runs left at `path`, and appends to it.
    pub fn open(path: &Path) -> Result<Ledger, LedgerError> {
        let failed = |source| LedgerError::File { path: path.to_owned(), source };
        let file = OpenOptions::new().read(true).append(true).create(true).open(path);
        let file = file.map_err(failed)?;
        file.try_lock().map_err(|_| failed(io::Error::other("another run is using it")))?;
        let earlier = read(&file).map_err(failed)?;
        let file = Mutex::new(Appending { file, torn: false });
        let kept = Some(Kept { path: path.to_owned(), file, earlier });
        Ok(Ledger { kept, ..Ledger::default() })
    }

    /// What is known of this job. Ask only once no earlier delivery of it is under way.
    pub fn look_up(&self, number: &NumberId, id: &JobId) -> Seen {
        let key = (number.clone(), id.clone());
        match lock(&self.begun).get(&key) {
            Some(Some(settlement)) => return Seen::Finished(settlement.clone()),
            Some(None) => return Seen::Begun,
            None => {}
        }
        match self.kept.as_ref().is_some_and(|kept| kept.earlier.contains(&key)) {
            true => Seen::Begun,
            false => Seen::Unseen,
        }
    }

    /// Records that a request is about to be made. After an error it must not be made.
    pub fn begin(&self, number: &NumberId, id: &JobId) -> Result<(), LedgerError> {
        {
            let mut begun = lock(&self.begun);
            if begun.len() >= MAX_REMEMBERED {
                begun.retain(|_, settlement| settlement.is_none());
            }
            if begun.len() >= MAX_REMEMBERED {
                return Err(LedgerError::Full);
            }
            begun.insert((number.clone(), id.clone()), None);
        }
        let appended = self.append("begun", number, id);
        if appended.is_err() {
            self.forget(number, id);
        }
        appended
    }

    /// Records that the request was answered and the job may be tried again.
    pub fn answered(&self, number: &NumberId, id: &JobId) -> Result<(), LedgerError> {
        self.forget(number, id);
        self.append("answered", number, id)
    }

    /// Keeps what came of a job that was begun, until it is safe.
    pub fn finish(&self, number: &NumberId, id: &JobId, settlement: &Settlement) {
        if let Some(begun) = lock(&self.begun).get_mut(&(number.clone(), id.clone())) {
            *begun = Some(Box::new(settlement.clone()));
        }
    }

    /// The queue has let go of the job: it does not come again.
    pub fn forget(&self, number: &NumberId, id: &JobId) {
        lock(&self.begun).remove(&(number.clone(), id.clone()));
    }

    /// One line, in one write: it survives the death of the process, not of the machine.
    fn append(&self, what: &str, number: &NumberId, id: &JobId) -> Result<(), LedgerError> {
        let Some(kept) = &self.kept else { return Ok(()) };
        let line = format!("{what} {number} {id}\n");
        let mut appending = lock(&kept.file);
        let written = match appending.torn {
            true => Err(io::Error::other("an earlier line could not be written as a whole")),
            false => appending.file.write_all(line.as_bytes()),
        };
        appending.torn = written.is_err();
        written.map_err(|source| LedgerError::File { path: kept.path.clone(), source })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Closes a line that was torn by a kill. No lawful line holds this control character.
const TORN: &[u8] = b"\x18\n";

/// Reads all whole lines. A last line without its end was never fully written, so its request was
/// never made: it is closed, and counts for nothing.
fn read(file: &File) -> io::Result<HashSet<Key>> {
    let mut begun = HashSet::new();
    let mut lines = BufReader::new(file);
    let mut line = String::new();
    while lines.read_line(&mut line)? > 0 {
        match line.strip_suffix('\n') {
            None => return (&mut &*file).write_all(TORN).map(|()| begun),
            Some(torn) if torn.ends_with(char::from(TORN[0])) => {}
            Some(whole) => apply(whole, &mut begun)?,
        }
        line.clear();
    }
    Ok(begun)
}

fn apply(line: &str, begun: &mut HashSet<Key>) -> io::Result<()> {
    let mut words = line.split(' ');
    let (what, number, id) = (words.next(), words.next(), words.next());
    let whole = words.next().is_none();
    let number = number.and_then(|number| NumberId::parse(number).ok());
    let id = id.and_then(|id| JobId::parse(id).ok());
    match (what, number, id) {
        (Some("begun"), Some(number), Some(id)) if whole => {
            begun.insert((number, id));
        }
        (Some("answered"), Some(number), Some(id)) if whole => {
            begun.remove(&(number, id));
        }
        _ => {
            let reason = "a line is neither `begun NUMBER ID` nor `answered NUMBER ID`";
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(id: &str) -> (NumberId, JobId) {
        (NumberId::parse("1027729340496751").unwrap(), JobId::parse(id).unwrap())
    }

    fn is_begun(ledger: &Ledger, id: &str) -> bool {
        let (number, id) = names(id);
        matches!(ledger.look_up(&number, &id), Seen::Begun)
    }

    #[test]
    fn what_came_of_a_job_is_known_until_the_queue_has_let_go_of_it() {
        let ledger = Ledger::in_memory();
        let (number, id) = names("order-1");
        let settlement = Settlement::DeadLetter {
            event: None,
            class: crate::wire::Class::Ambiguous,
            reason: "cut".into(),
            history: crate::policy::History::fresh(jiff::Timestamp::UNIX_EPOCH),
        };
        ledger.finish(&number, &id, &settlement);
        assert!(matches!(ledger.look_up(&number, &id), Seen::Unseen), "it was never begun");
        ledger.begin(&number, &id).unwrap();
        assert!(is_begun(&ledger, "order-1"));
        ledger.finish(&number, &id, &settlement);
        assert!(matches!(ledger.look_up(&number, &id), Seen::Finished(_)));
        ledger.forget(&number, &id);
        assert!(matches!(ledger.look_up(&number, &id), Seen::Unseen));
    }

    #[test]
    fn what_was_begun_and_not_answered_is_known_to_the_next_run() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.begun");
        let ledger = Ledger::open(&path).unwrap();
        for id in ["left", "retried"] {
            let (number, id) = names(id);
            ledger.begin(&number, &id).unwrap();
        }
        let (number, retried) = names("retried");
        ledger.answered(&number, &retried).unwrap();
        drop(ledger);

        let ledger = Ledger::open(&path).unwrap();
        assert!(is_begun(&ledger, "left"));
        assert!(!is_begun(&ledger, "retried") && !is_begun(&ledger, "new"));
    }

    #[test]
    fn a_file_that_is_something_else_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.begun");
        std::fs::write(&path, "dear diary\n").unwrap();
        assert!(Ledger::open(&path).unwrap_err().to_string().contains("results.begun"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "dear diary\n");
    }

    proptest! {
        /// Whole lines count, and a torn one does not spoil what follows it.
        #[test]
        fn a_file_cut_at_any_byte_reads_as_its_whole_lines(cut in 0usize..80) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("results.begun");
            let ledger = Ledger::open(&path).unwrap();
            let ids = ["one", "two", "three"];
            for id in ids {
                let (number, id) = names(id);
                ledger.begin(&number, &id).unwrap();
            }
            drop(ledger);
            let whole = std::fs::read_to_string(&path).unwrap();
            let kept = &whole[..cut.min(whole.len())];
            std::fs::write(&path, kept).unwrap();

            let ledger = Ledger::open(&path).unwrap();
            let (number, after) = names("after");
            ledger.begin(&number, &after).unwrap();
            drop(ledger);
            let ledger = Ledger::open(&path).unwrap();
            prop_assert!(is_begun(&ledger, "after"));
            for (index, id) in ids.iter().enumerate() {
                let was_whole = kept.matches('\n').count() > index;
                prop_assert_eq!(is_begun(&ledger, id), was_whole);
            }
        }
    }
}
