//! Settings that change while the worker runs. Gates are changed where they stand, so that what was taken
//! from them and what they promised stays; the rest is read anew for each job.

use super::views::LaneViews;
use super::{Hall, WorkerSettings, lock};
use crate::clock;
use crate::policy::{DoubtPolicy, RetryPolicy};
use std::sync::Arc;
use std::time::Duration;

/// What a job's handling reads of the settings. A job that is under way meets the new ones at its next
/// step.
#[derive(Debug)]
pub(super) struct Live {
    /// Waits up to this are slept.
    pub(super) max_wait: Duration,
    /// When a job is tried again.
    pub(super) retry: RetryPolicy,
    /// What follows where an answer never came.
    pub(super) doubt: DoubtPolicy,
}

/// Changes the settings of a running worker; a clone changes the same ones.
#[derive(Debug, Clone)]
pub struct Tuner {
    pub(super) hall: Arc<Hall>,
    pub(super) lanes: LaneViews,
}

impl Tuner {
    /// From now on these hold, but for `max_in_flight` and `max_lanes`, which stay, and `rates`, of which
    /// the plugin knows a part ([`LaneViews::retune`]). No change grants a burst, and a gate whose pace
    /// stays keeps what it has saved.
    pub fn apply(&self, settings: WorkerSettings) {
        let WorkerSettings { recipient, account, max_wait, retry, doubt, looks, .. } = settings;
        let now = clock::monotonic();
        self.hall.live.send_replace(Live { max_wait, retry, doubt });
        self.hall.looking.change_rate(looks, now);
        lock(&self.hall.recipients).change_limit(recipient, now);
        self.lanes.retune_account(account);
    }
}
