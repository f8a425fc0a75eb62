//! What the worker does with a status that a webhook brought: a job in doubt is known to be sent, and a
//! number or the account is left alone, as after an answer that says the same. What is about one message,
//! one recipient or a template stops nobody else.

use super::{Worker, limits, lock};
use crate::clock;
use crate::policy::{self, Failure};
use crate::queue::Heard;
use crate::wire::{Class, Scope};
use std::time::Duration;
use tokio::time::Instant;

/// A failure that names no wait says nothing of now when it is older than this: webhooks can come late.
const FRESH: Duration = Duration::from_secs(60);

impl Worker {
    /// Heeds a status, whichever worker it came to.
    pub(super) fn heed(&mut self, heard: &Heard) {
        lock(&self.hall.awaited).hear(heard);
        let Some((code, text)) = &heard.fault else { return };
        let failure = self.hall.chakra.told_later(Some(*code), text);
        let now = clock::monotonic();
        let Some(then) = when(heard, now).filter(|then| holds(&failure, now - *then)) else {
            return;
        };
        if limits::is_beyond_a_limit(&failure)
            && let Some(number) = &heard.number
            && self.hall.notices.served.has(number)
        {
            self.hall.metrics.limit_refused(number, failure.scope);
        }
        match (failure.class, failure.scope) {
            // Each worker has a brake of its own.
            (Class::Throttled | Class::Blocked, Scope::Account) => {
                self.hall.shared.account.heard(failure, then);
            }
            // Only the number's own worker sends by it.
            (Class::Throttled | Class::Blocked, Scope::Number) => {
                if let Some(number) = &heard.number
                    && self.hall.notices.served.has(number)
                    && let Some(lane) = self.lane(number)
                {
                    lane.heard(failure, then);
                }
            }
            (_, Scope::Message | Scope::Recipient | Scope::Template)
            | (
                Class::Invalid | Class::Refused | Class::Unavailable | Class::Ambiguous,
                Scope::Number | Scope::Account,
            ) => {}
        }
    }
}

/// When it happened; none before the clock began. A clock that goes ahead of ours says: now.
fn when(heard: &Heard, now: Instant) -> Option<Instant> {
    now.checked_sub(policy::rest(clock::wall(), heard.at))
}

/// Whether what failed so long ago still says something.
fn holds(failure: &Failure, age: Duration) -> bool {
    age < failure.wait.unwrap_or(FRESH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_word_holds_as_long_as_the_wait_that_it_names() {
        let blocked = Failure::new(Class::Blocked, "");
        let hour = Failure { wait: Some(Duration::from_secs(3_600)), ..blocked.clone() };
        for (failure, age, is_heeded) in [
            (&blocked, 59, true),
            (&blocked, 60, false),
            (&hour, 3_599, true),
            (&hour, 3_600, false),
        ] {
            assert_eq!(holds(failure, Duration::from_secs(age)), is_heeded, "{age}");
        }
    }
}
