//! Many ids in little room, and the id of a job whose author gave it none.

use crate::wire::{JobId, SendJob};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use xxhash_rust::xxh3::xxh3_128;

/// A set of ids, as digests of 16 bytes: a million take about 36 MB.
#[derive(Debug, Default)]
pub(super) struct Ids(HashSet<u128>);

impl Ids {
    /// False where it is in it already.
    pub(super) fn insert(&mut self, id: &str) -> bool {
        self.0.insert(xxh3_128(id.as_bytes()))
    }

    /// False where it is not in it.
    pub(super) fn remove(&mut self, id: &str) -> bool {
        self.0.remove(&xxh3_128(id.as_bytes()))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Made of the sender and the message alone: the same row gives the same id whenever it is read, wherever it
/// stands in its table, and whatever else (a time, metadata) is said of the job.
pub(super) fn derived(job: &SendJob) -> Result<JobId, String> {
    let mut digest = Sha256::new();
    digest.update(job.phone_number_id.as_str());
    digest.update(b"\0");
    digest.update(job.message.bytes());
    let hex: String = digest.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    JobId::parse(&format!("csv-{hex}"))
}
