//! What one worker knows of a job, as JSON: the page `/jobs/{id}`, and what `why` reads.

use crate::cli::numbers::worker_name;
use crate::wire::JobId;
use crate::worker::{Found, JobViews};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The worker and its jobs, as they are when asked.
#[derive(Debug)]
pub(in crate::cli) struct JobPage {
    worker: String,
    jobs: JobViews,
}

/// What one worker answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Report {
    /// Which worker, for people.
    pub(super) worker: String,
    /// The job, and its replays.
    #[serde(flatten)]
    pub(super) found: Found,
}

impl Report {
    /// What cannot be read is left out.
    pub(super) fn read(answers: Vec<Value>) -> Vec<Report> {
        answers.into_iter().filter_map(|answer| serde_json::from_value(answer).ok()).collect()
    }
}

impl JobPage {
    /// Of this process.
    pub(in crate::cli) fn new(jobs: JobViews) -> JobPage {
        JobPage { worker: worker_name(), jobs }
    }

    /// All jobs.
    pub(in crate::cli) fn jobs(&self) -> &JobViews {
        &self.jobs
    }

    /// What is known of the job; an empty list where nothing is.
    pub(in crate::cli) fn to_json(&self, id: &JobId) -> Value {
        let report = Report { worker: self.worker.clone(), found: self.jobs.find(id) };
        serde_json::to_value(report).unwrap_or_default()
    }
}
