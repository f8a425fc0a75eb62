//! Jobs that may have been sent, and the looks for their messages.

use super::declare::{About, Counters, Declare, words};
use super::{Metrics, whole};
use crate::policy::Sighting;
use prometheus::{Error, IntCounter, IntGauge};

words! {
    /// What a look at a chat showed.
    pub enum Look as "outcome" {
        /// The message.
        Found = "found",
        /// Several that may be it.
        Several = "several",
        /// Not the message.
        Nothing = "nothing",
        /// Nothing that can be believed.
        Blind = "blind",
        /// No chat with the recipient.
        NoChat = "no-chat",
    }
}

impl From<&Sighting> for Look {
    fn from(sighting: &Sighting) -> Look {
        match sighting {
            Sighting::Found { .. } => Look::Found,
            Sighting::Several => Look::Several,
            Sighting::Nothing { .. } => Look::Nothing,
            Sighting::Blind(_) => Look::Blind,
            Sighting::NoChat => Look::NoChat,
        }
    }
}

/// Doubt.
#[derive(Debug)]
pub(super) struct Doubt {
    jobs: IntGauge,
    looks: Counters<Look>,
    settled_by_status: IntCounter,
}

impl Doubt {
    pub(super) fn declare(new: &mut Declare) -> Result<Doubt, Error> {
        new.theme("Doubt", "What may have been sent, and nobody knows?");
        Ok(Doubt {
            jobs: new.gauge(About {
                name: "doubt_jobs",
                help: "Jobs that may have been sent and wait to be looked for.",
                tells: "It rises with each answer that never came, and falls within about a minute. Where it \
                        stays, looks fail: see `looks_total`.",
            })?,
            looks: new.counters(About {
                name: "looks_total",
                help: "Looks at chats for messages of jobs in doubt, by what they showed.",
                tells: "`blind`: the listing cannot be asked or is not believed, so these jobs end as \
                        `unknown`. `several`: identical messages to one recipient.",
            })?,
            settled_by_status: new.counter(About {
                name: "doubts_settled_by_status_total",
                help: "Jobs in doubt that were known to be sent by a status of their message, without a look.",
                tells: "Webhooks spare looks. 0 while `doubt_jobs` comes and goes: no webhook reaches the \
                        workers.",
            })?,
        })
    }
}

impl Metrics {
    /// How many jobs are in doubt.
    pub fn doubt_jobs(&self, jobs: usize) {
        self.doubt.jobs.set(whole(jobs as u64));
    }

    /// A look at a chat for a job in doubt.
    pub fn looked(&self, sighting: &Sighting) {
        self.doubt.looks.of(sighting.into()).inc();
    }

    /// A job in doubt was known to be sent by a status.
    pub fn doubt_settled_by_status(&self) {
        self.doubt.settled_by_status.inc();
    }
}
