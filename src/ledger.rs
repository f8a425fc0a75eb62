//! What this worker has begun. In file mode it is a plain file that is only ever appended to, beside
//! the results, so that a run which was killed sends nothing twice that it knows of. Through RabbitMQ
//! nothing is remembered yet. It decides nothing: it answers what it saw.

use crate::wire::{JobId, NumberId};
use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// What is known of a job before it is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Nothing, or its last attempt was answered and may be repeated.
    Unseen,
    /// An earlier run began a request and left no answer.
    Begun,
}

/// A record of beginnings that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}", path = .path.display())]
pub struct LedgerError {
    path: PathBuf,
    source: io::Error,
}

/// The record of beginnings.
#[derive(Debug)]
pub struct Ledger(Option<Kept>);

#[derive(Debug)]
struct Kept {
    path: PathBuf,
    file: Mutex<File>,
    /// Begun by earlier runs and not answered. What this run begins is not looked up again: it is in
    /// hand until it is settled.
    begun: HashSet<(NumberId, JobId)>,
}

impl Ledger {
    /// Remembers nothing.
    pub fn forgetful() -> Ledger {
        Ledger(None)
    }

    /// Reads what earlier runs left at `path`, and appends to it.
    pub fn open(path: &Path) -> Result<Ledger, LedgerError> {
        let failed = |source| LedgerError { path: path.to_owned(), source };
        let file = OpenOptions::new().read(true).append(true).create(true).open(path);
        let file = file.map_err(failed)?;
        file.try_lock().map_err(|_| failed(io::Error::other("another run is using it")))?;
        let begun = read(&file).map_err(failed)?;
        Ok(Ledger(Some(Kept { path: path.to_owned(), file: Mutex::new(file), begun })))
    }

    /// What an earlier run left of this job.
    pub fn look_up(&self, number: &NumberId, id: &JobId) -> Seen {
        let begun = |kept: &Kept| kept.begun.contains(&(number.clone(), id.clone()));
        match self.0.as_ref().is_some_and(begun) {
            true => Seen::Begun,
            false => Seen::Unseen,
        }
    }

    /// Records that a request is about to be made. After an error it must not be made.
    pub fn begin(&self, number: &NumberId, id: &JobId) -> Result<(), LedgerError> {
        self.append("begun", number, id)
    }

    /// Records that the request was answered and the job may be tried again.
    pub fn answered(&self, number: &NumberId, id: &JobId) -> Result<(), LedgerError> {
        self.append("answered", number, id)
    }

    /// One line, in one write: it survives the death of the process, not of the machine.
    fn append(&self, what: &str, number: &NumberId, id: &JobId) -> Result<(), LedgerError> {
        let Some(kept) = &self.0 else { return Ok(()) };
        let line = format!("{what} {number} {id}\n");
        let mut file = kept.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(line.as_bytes())
            .map_err(|source| LedgerError { path: kept.path.clone(), source })
    }
}

/// Closes a line that was torn by a kill. No lawful line holds this control character.
const TORN: &[u8] = b"\x18\n";

/// Reads all whole lines. A last line without its end was never fully written, so its request was
/// never made: it is closed, and counts for nothing.
fn read(file: &File) -> io::Result<HashSet<(NumberId, JobId)>> {
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

fn apply(line: &str, begun: &mut HashSet<(NumberId, JobId)>) -> io::Result<()> {
    let mut words = line.split(' ');
    let (what, number, id) = (words.next(), words.next(), words.next());
    let number = number.and_then(|number| NumberId::parse(number).ok());
    let id = id.and_then(|id| JobId::parse(id).ok());
    match (what, number, id) {
        (Some("begun"), Some(number), Some(id)) => {
            begun.insert((number, id));
        }
        (Some("answered"), Some(number), Some(id)) => {
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
        assert_eq!(ledger.look_up(&number, &names("left").1), Seen::Begun);
        assert_eq!(ledger.look_up(&number, &retried), Seen::Unseen);
        assert_eq!(ledger.look_up(&number, &names("new").1), Seen::Unseen);
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
            prop_assert_eq!(ledger.look_up(&number, &after), Seen::Begun);
            for (index, id) in ids.iter().enumerate() {
                let (number, id) = names(id);
                let was_whole = kept.matches('\n').count() > index;
                let seen = ledger.look_up(&number, &id) == Seen::Begun;
                prop_assert_eq!(seen, was_whole);
            }
        }
    }
}
