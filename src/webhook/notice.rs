//! One word of what became of a message, as it came by webhook, and the event that it becomes. Knows
//! neither where it came from nor where it goes; who received the message is not kept.

use crate::policy::Failure;
use crate::wire::{DeliveryStatus, JobId, NumberId, StatusEvent};
use jiff::Timestamp;

/// What became of one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The sender, where it could be read.
    pub number: Option<NumberId>,
    /// Meta's id of the message (`wamid.…`): visible ASCII, at most [`super::MAX_MESSAGE_ID_BYTES`].
    pub message_id: String,
    /// How far it came.
    pub status: DeliveryStatus,
    /// When it happened, by Meta's clock; when it arrived here where that was not told.
    pub at: Timestamp,
    /// `biz_opaque_callback_data`: our job's id, or the producer's own.
    pub opaque: Option<String>,
    /// Why it failed: there for `failed`, and only there.
    pub fault: Option<Fault>,
}

/// Why a message failed, in the vendor's words. They may name the recipient: not for logs as they stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Meta's code, where one was given.
    pub code: Option<u32>,
    /// Meta's sentence.
    pub message: String,
}

/// Which job a notice is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// None where it cannot be told.
    pub job: Option<JobId>,
    /// The producer's own data, where it is not the job's id.
    pub opaque: Option<String>,
}

impl Notice {
    /// Which job it is about. `known` is the job that the message id is known to belong to. Without it
    /// data that is a lawful job id is taken for the id that we put there.
    pub fn subject(&self, known: Option<JobId>) -> Subject {
        let named = || self.opaque.as_deref().and_then(|opaque| JobId::parse(opaque).ok());
        let job = known.or_else(named);
        let is_id = job.as_ref().is_some_and(|job| self.opaque.as_deref() == Some(job.as_str()));
        Subject { job, opaque: self.opaque.clone().filter(|_| !is_id) }
    }
}

/// A notice with all that is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// As it came.
    pub notice: Notice,
    /// Which job it is about.
    pub subject: Subject,
    /// What its fault means, where it has one.
    pub failure: Option<Failure>,
}

impl Resolved {
    /// The event for the producers.
    pub fn event(&self) -> StatusEvent {
        let Resolved { notice, subject, failure } = self;
        StatusEvent {
            id: subject.job.clone(),
            phone_number_id: notice.number.clone(),
            status: notice.status,
            whatsapp_message_id: notice.message_id.clone(),
            at: notice.at,
            opaque: subject.opaque.clone(),
            error: failure.as_ref().map(Failure::to_body),
            metadata: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(opaque: Option<&str>) -> Notice {
        Notice {
            number: None,
            message_id: "wamid.1".into(),
            status: DeliveryStatus::Sent,
            at: Timestamp::UNIX_EPOCH,
            opaque: opaque.map(str::to_owned),
            fault: None,
        }
    }

    fn subject(opaque: Option<&str>, known: Option<&str>) -> (Option<String>, Option<String>) {
        let Subject { job, opaque } =
            about(opaque).subject(known.map(|id| JobId::parse(id).unwrap()));
        (job.map(|job| job.to_string()), opaque)
    }

    #[test]
    fn the_id_that_we_put_there_names_the_job() {
        assert_eq!(subject(Some("order-1"), None), (Some("order-1".into()), None));
        assert_eq!(subject(Some("order-1"), Some("order-1")), (Some("order-1".into()), None));
    }

    #[test]
    fn data_of_the_producers_own_is_carried_beside_the_job() {
        let own = Some("campaign 12".to_owned());
        assert_eq!(subject(Some("campaign 12"), None), (None, own.clone()));
        assert_eq!(subject(Some("campaign 12"), Some("order-1")), (Some("order-1".into()), own));
        let own = Some("campaign-12".to_owned());
        assert_eq!(subject(Some("campaign-12"), Some("order-1")), (Some("order-1".into()), own));
    }

    #[test]
    fn a_message_of_which_nothing_is_known_has_no_job() {
        assert_eq!(subject(None, None), (None, None));
        assert_eq!(subject(None, Some("order-1")), (Some("order-1".into()), None));
    }
}
