//! Which job is which: short digests of what the ledger compares. Quiet.

use crate::wire::{JobId, Kind, NumberId, SendJob};
use sha2::{Digest, Sha256};

/// A job by its names: id, number where that is known, and replay.
pub(super) type Named<'a> = (&'a JobId, Option<&'a NumberId>, Option<u32>);

/// A job as the ledger knows it.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) id: JobId,
    pub(super) number: NumberId,
    pub(super) replay: Option<u32>,
    /// Of id and replay: the key.
    pub(super) key: u128,
    /// Of number and message, byte for byte: the same id with another one is another job.
    pub(super) fingerprint: u128,
}

impl Identity {
    pub(super) fn named(&self) -> Named<'_> {
        (&self.id, Some(&self.number), self.replay)
    }

    pub(super) fn of(job: &SendJob, replay: Option<u32>) -> Identity {
        let number = &job.phone_number_id;
        Identity {
            id: job.id.clone(),
            number: number.clone(),
            replay,
            key: key(&job.id, replay),
            fingerprint: digest("message", &[number.as_str().as_bytes(), job.message.bytes()]),
        }
    }
}

/// The key of a job, and of each replay of it.
pub(super) fn key(id: &JobId, replay: Option<u32>) -> u128 {
    digest("job", &[id.as_str().as_bytes(), &replay.unwrap_or(0).to_be_bytes()])
}

/// What cannot be told apart in a chat: the same content to the same recipient, whichever number it
/// comes from, since no listing names that. None for what goes to nobody.
pub(super) fn content(job: &SendJob) -> Option<u128> {
    let (Kind::Message(kind), Some(recipient)) = (job.message.kind(), job.message.recipient())
    else {
        return None;
    };
    let content = job.message.content().unwrap_or_default();
    // Without the writer's white space and order of keys.
    let content = serde_json::from_str::<serde_json::Value>(content).unwrap_or_default();
    let parts = [recipient.key().as_bytes(), kind.as_bytes(), content.to_string().as_bytes()]
        .map(<[u8]>::to_vec);
    Some(digest("content", &[&parts[0], &parts[1], &parts[2]]))
}

/// Of one of Meta's message ids.
pub(super) fn message_id(whatsapp_message_id: &str) -> u128 {
    digest("wamid", &[whatsapp_message_id.as_bytes()])
}

/// Of what may end the worker, and where.
pub(super) fn mark(section: &str, bytes: &[u8], replay: Option<u32>) -> u128 {
    digest("mark", &[section.as_bytes(), &replay.unwrap_or(0).to_be_bytes(), bytes])
}

/// The first half of a SHA-256: no two things of one ledger share it by chance.
fn digest(what: &str, parts: &[&[u8]]) -> u128 {
    let mut hash = Sha256::new_with_prefix(what);
    for part in parts {
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(part);
    }
    let whole: [u8; 32] = hash.finalize().into();
    let mut half = [0; 16];
    half.copy_from_slice(&whole[..16]);
    u128::from_be_bytes(half)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn job(id: &str, number: &str, message: &str) -> SendJob {
        let body = format!(r#"{{"id":"{id}","phone_number_id":"{number}","message":{message}}}"#);
        SendJob::parse(&Bytes::from(body), None).unwrap()
    }

    const TEXT: &str = r#"{"messaging_product":"whatsapp","to":"+4915123456","text":{"body":"x"}}"#;

    /// The records of a ledger outlive the program that wrote them.
    #[test]
    fn digests_are_the_same_in_every_version() {
        let identity = Identity::of(&job("order-1", "1", TEXT), None);
        assert_eq!(format!("{:032x}", identity.key), "9241acae026251e686d6dc9f14a7d7b1");
        assert_eq!(format!("{:032x}", identity.fingerprint), "7f24f86aa58b434e67f80fa8d16492f1");
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_ne!(digest("x", &[b"ab", b"c"]), digest("x", &[b"a", b"bc"]));
    }

    #[test]
    fn a_receipt_has_no_content_in_any_chat() {
        let read = r#"{"messaging_product":"whatsapp","status":"read","message_id":"wamid.1"}"#;
        assert_eq!(content(&job("read", "1", read)), None);
    }
}
