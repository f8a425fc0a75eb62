//! The lines of the input and the jobs that they ask for, whatever the input is.

use crate::queue::file::Lines;
use crate::wire::SendJob;
use bytes::Bytes;
use std::io::{self, BufRead};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Entries read ahead of the window: enough that it never waits for the file.
const READ_AHEAD: usize = 16;

/// A line, and the job with its body; or why it is none.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) line: u64,
    pub(super) job: Result<(SendJob, Bytes), String>,
}

/// Jobs as they are written, one JSON object a line.
pub(super) fn of_lines(
    jobs: impl BufRead + Send,
) -> impl Iterator<Item = io::Result<Entry>> + Send {
    Lines::new(jobs).map(|line| {
        let (line, body) = line?;
        let job = SendJob::parse(&body, None).map_err(|invalid| invalid.reason);
        Ok(Entry { line, job: job.map(|job| (job, body)) })
    })
}

/// Reads on a thread of its own, since a pipe may be silent for as long as it likes.
pub(super) fn read(
    entries: impl Iterator<Item = io::Result<Entry>> + Send + 'static,
) -> (mpsc::Receiver<io::Result<Entry>>, JoinHandle<()>) {
    let (out, read) = mpsc::channel(READ_AHEAD);
    let reader = tokio::task::spawn_blocking(move || {
        for entry in entries {
            let failed = entry.is_err();
            if out.blocking_send(entry).is_err() || failed {
                return;
            }
        }
    });
    (read, reader)
}
