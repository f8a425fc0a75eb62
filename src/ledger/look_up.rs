//! What is known of a job by its id alone, for people who ask. Changes nothing, and keeps nothing in
//! memory that was not there.

use super::identity;
use super::{Ledger, LedgerError};
use crate::policy::Past;
use crate::wire::JobId;
use jiff::Timestamp;

/// Replays of one job that are looked for: each costs a look into the folder, and more than a few of
/// one job are rare.
const REPLAYS: u32 = 8;

/// What is known of a job, or of one replay of it.
#[derive(Debug, Clone)]
pub struct Known {
    /// Which replay; none: the first send.
    pub replay: Option<u32>,
    /// When it last changed.
    pub changed: Timestamp,
    /// What its deliveries came to. An outcome names no phone number: no entry has it.
    pub past: Past,
}

impl Ledger {
    /// What is known of the job and of its replays, in their order; nothing where it is not known.
    pub fn look_up(&self, id: &JobId) -> Result<Vec<Known>, LedgerError> {
        let replays = std::iter::once(None).chain((1..=REPLAYS).map(Some));
        replays.filter_map(|replay| self.known(id, replay).transpose()).collect()
    }

    fn known(&self, id: &JobId, replay: Option<u32>) -> Result<Option<Known>, LedgerError> {
        let key = identity::key(id, replay);
        let in_memory = self.0.memory().entry(key).cloned();
        let entry = match (in_memory, &self.0.disk) {
            (Some(entry), _) => Some(entry),
            (None, Some(disk)) => disk.entry(key)?,
            (None, None) => None,
        };
        Ok(entry.map(|entry| Known {
            replay,
            changed: entry.changed(),
            past: entry.past((id, None, replay), entry.deliveries),
        }))
    }
}
