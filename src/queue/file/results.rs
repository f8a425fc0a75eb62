//! The results file: one event a line, appended and flushed before a job counts as settled. Beside
//! it stands `….dead-letters`, with the originals that a person may want to repair.

use super::kept::{Kept, OpenError};
use crate::wire::{Class, Event, JobId, NumberId, ResultEvent};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where results go, and which jobs already have one.
pub struct Results {
    out: Mutex<Out>,
    told: Told,
}

/// Files of results that can be used, and were not changed yet.
#[derive(Debug)]
pub struct Found {
    results: Kept,
    dead_letters: Kept,
    told: Told,
}

/// What is read back.
#[derive(Debug, Default)]
struct Told {
    /// Jobs with a result, but for unlawful ones: an unlawful line can bear the id of a lawful job.
    done: HashSet<(NumberId, JobId)>,
    /// Hashes of the unlawful lines that were told.
    unlawful: HashSet<u64>,
}

struct Out {
    results: Box<dyn Write + Send>,
    /// None where results go to a pipe: then a dead letter is told on the result alone.
    dead_letters: Option<File>,
    broken: Option<String>,
}

/// What is read back of a line of results.
#[derive(Deserialize)]
struct Done {
    event: String,
    id: String,
    phone_number_id: Option<String>,
    error: Option<DoneError>,
}

#[derive(Deserialize)]
struct DoneError {
    class: String,
}

/// A line of the dead letters.
#[derive(Serialize, Deserialize)]
struct DeadLetter {
    line: u64,
    class: String,
    reason: String,
    /// The line as it stands in the jobs, lossy where it is not UTF-8.
    original: String,
}

impl Results {
    /// Results to a pipe, with nothing remembered.
    pub fn to(out: impl Write + Send + 'static) -> Results {
        Results {
            out: Mutex::new(Out { results: Box::new(out), dead_letters: None, broken: None }),
            told: Told::default(),
        }
    }

    /// Looks at the file at `path`, which is made where there is none, and at the one beside it. Nothing in
    /// them is changed, so that another run may have them.
    pub fn find(path: &Path) -> Result<Found, OpenError> {
        let mut told = Told::default();
        let mut results = Kept::open(path, r#"{"event":"#)?;
        results.read(|line| told.result(line))?;
        let mut dead_letters = Kept::open(&beside(path, "dead-letters"), r#"{"line":"#)?;
        dead_letters.read(|line| told.dead_letter(line))?;
        Ok(Found { results, dead_letters, told })
    }

    pub(super) fn has(&self, number: &NumberId, id: &JobId) -> bool {
        self.told.done.contains(&(number.clone(), id.clone()))
    }

    /// Whether the line was told to be unlawful.
    pub(super) fn has_dead_letter(&self, line: &[u8]) -> bool {
        let unlawful = &self.told.unlawful;
        !unlawful.is_empty() && unlawful.contains(&hash(&String::from_utf8_lossy(line)))
    }

    /// Why results can no longer be written.
    pub(super) fn broken(&self) -> Option<String> {
        self.lock().broken.clone()
    }

    pub(super) fn fail(&self, reason: String) {
        self.lock().broken.get_or_insert(reason);
    }

    /// One line, in one write, so that a kill leaves it whole or not at all.
    pub(super) fn write(&self, event: &ResultEvent) -> Result<(), String> {
        let line = json_line(&Event::Result(event))?;
        let mut out = self.lock();
        out.whole()?;
        let written = out.results.write_all(&line).and_then(|()| out.results.flush());
        out.check(written, "results")
    }

    pub(super) fn dead_letter(
        &self,
        line: u64,
        class: Class,
        reason: &str,
        original: &[u8],
    ) -> Result<(), String> {
        let letter = DeadLetter {
            line,
            class: class.name().to_owned(),
            reason: reason.to_owned(),
            original: String::from_utf8_lossy(original).into_owned(),
        };
        let letter = json_line(&letter)?;
        let mut out = self.lock();
        out.whole()?;
        let Some(file) = &mut out.dead_letters else { return Ok(()) };
        let written = file.write_all(&letter);
        out.check(written, "dead letters")
    }

    fn lock(&self) -> MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Found {
    /// Appends to them. Call it when no other run has them any more.
    pub fn open(self) -> Result<Results, OpenError> {
        let Found { results, dead_letters, mut told } = self;
        let results = results.take(|line| told.result(line))?;
        let dead_letters = dead_letters.take(|line| told.dead_letter(line))?;
        let out =
            Out { results: Box::new(results), dead_letters: Some(dead_letters), broken: None };
        Ok(Results { out: Mutex::new(out), told })
    }
}

impl Told {
    fn result(&mut self, line: &[u8]) -> Result<(), serde_json::Error> {
        let Done { event, id, phone_number_id, error } = serde_json::from_slice(line)?;
        let unlawful = error.is_some_and(|error| error.class == Class::Invalid.name());
        let number = phone_number_id.and_then(|number| NumberId::parse(&number).ok());
        if let ("result", false, Some(number), Ok(id)) =
            (event.as_str(), unlawful, number, JobId::parse(&id))
        {
            self.done.insert((number, id));
        }
        Ok(())
    }

    fn dead_letter(&mut self, line: &[u8]) -> Result<(), serde_json::Error> {
        let letter: DeadLetter = serde_json::from_slice(line)?;
        if letter.class == Class::Invalid.name() {
            self.unlawful.insert(hash(&letter.original));
        }
        Ok(())
    }
}

impl Out {
    /// After a line that was not written whole nothing may follow: it would be read as its end.
    fn whole(&self) -> Result<(), String> {
        self.broken.clone().map_or(Ok(()), Err)
    }

    fn check(&mut self, written: io::Result<()>, what: &str) -> Result<(), String> {
        written.map_err(|error| {
            let reason = format!("the {what} cannot be written: {error}");
            self.broken.get_or_insert(reason).clone()
        })
    }
}

fn hash(line: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    line.hash(&mut hasher);
    hasher.finish()
}

fn json_line(value: &impl Serialize) -> Result<Vec<u8>, String> {
    let mut line = serde_json::to_vec(value).map_err(|error| error.to_string())?;
    line.push(b'\n');
    Ok(line)
}

/// `results.jsonl` -> `results.jsonl.<what>`.
pub fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(what);
    PathBuf::from(name)
}
