//! What came of one attempt, in our own words.

use crate::wire::{Class, ErrorBody, Scope};
use std::time::Duration;

/// The longest text of a vendor that is carried on, in characters.
const MAX_MESSAGE_CHARS: usize = 500;

/// What one request came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Meta took it in. A receipt has no message id.
    Accepted {
        /// `wamid.…`
        whatsapp_message_id: Option<String>,
    },
    /// It did not.
    Failed(Failure),
}

/// Why an attempt failed, with all that the decision about it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Why.
    pub class: Class,
    /// About what.
    pub scope: Scope,
    /// Meta's code, where one was given.
    pub code: Option<u32>,
    /// The HTTP status, where an answer came.
    pub http_status: Option<u16>,
    /// A sentence for a person, cut to a bounded length.
    pub message: String,
    /// Not to be tried again before this has passed, by the answer itself or by the code table.
    pub wait: Option<Duration>,
    /// Fewer tries than the schedule's, where the vendor says that more do not help.
    pub max_attempts: Option<u32>,
}

impl Failure {
    /// A failure that is about one message and carries no hint.
    pub fn new(class: Class, message: impl Into<String>) -> Failure {
        let message: String = message.into();
        Failure {
            class,
            scope: Scope::Message,
            code: None,
            http_status: None,
            message: message.chars().take(MAX_MESSAGE_CHARS).collect(),
            wait: None,
            max_attempts: None,
        }
    }

    /// As it stands in an event.
    pub fn to_body(&self) -> ErrorBody {
        ErrorBody {
            class: self.class,
            scope: self.scope,
            code: self.code,
            http_status: self.http_status,
            message: self.message.clone(),
        }
    }

    /// What an operator does about it, where ChakraHQ refuses who we are and not what we send: answers
    /// without a code of Meta's are ChakraHQ's own.
    pub fn remedy(&self) -> Option<&'static str> {
        match (self.code, self.http_status) {
            (None, Some(401 | 403)) => Some("check chakra.token, and what its role may do"),
            (None, Some(404)) => {
                Some("check chakra.plugin_id, and that the number is the plugin's")
            }
            (_, _) => None,
        }
    }

    /// One word and a code, for headers, logs and metrics: `throttled 130429`.
    pub fn short(&self) -> String {
        match (self.code, self.http_status) {
            (Some(code), _) => format!("{} {code}", self.class.name()),
            (None, Some(status)) => format!("{} http {status}", self.class.name()),
            (None, None) => self.class.name().to_owned(),
        }
    }
}
