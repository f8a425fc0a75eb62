//! What the plugin was last heard to say of its numbers: a value that grows with each answer, and how
//! to have the plugin asked again. Asks nobody itself, and decides nothing about a lane.

use crate::wire::NumberId;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// Lists that cannot be read as a whole remove nobody, so they add only up to this many numbers: far
/// more than may have a lane.
const MOST_NUMBERS: usize = 10_000;

/// What the plugin says of one number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The most messages a second that may be sent by it.
    pub ceiling: u32,
    /// Such as `CONNECTED`. Advice only: sends have worked while it said otherwise.
    pub status: Option<String>,
}

/// One answer of the plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The numbers that could be read.
    pub numbers: BTreeMap<NumberId, Listed>,
    /// Whether these are surely all.
    pub is_complete: bool,
}

/// What is known of the plugin's numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    numbers: BTreeMap<NumberId, Listed>,
    complete: Option<(Instant, Timestamp)>,
    asking: Option<(Instant, Timestamp)>,
    asked: Option<Instant>,
    failure: Option<String>,
    failures: u32,
}

impl Listing {
    /// The plugin is being asked from now on.
    pub fn begin(&mut self, now: (Instant, Timestamp)) {
        self.asking = Some(now);
    }

    /// What came of it; the error is a sentence. Only a complete list removes numbers, and one that is
    /// suddenly empty is not believed.
    pub fn hear(&mut self, answer: Result<Answer, String>) {
        let Some(begun) = self.asking.take() else { return };
        self.asked = Some(begun.0);
        match answer {
            Err(reason) => self.fail(reason),
            Ok(Answer { numbers, is_complete: true })
                if !numbers.is_empty() || self.numbers.is_empty() =>
            {
                self.numbers = numbers;
                self.complete = Some(begun);
                (self.failure, self.failures) = (None, 0);
            }
            Ok(Answer { is_complete: true, .. }) => {
                self.fail("its list of numbers is suddenly empty".into());
            }
            Ok(Answer { numbers, is_complete: false }) => {
                if self.numbers.len() < MOST_NUMBERS {
                    self.numbers.extend(numbers);
                }
                self.fail("its list of numbers cannot be read as a whole".into());
            }
        }
    }

    fn fail(&mut self, reason: String) {
        self.failure = Some(reason);
        self.failures = self.failures.saturating_add(1);
    }

    /// What the plugin says of a number; none where it has no such number, as far as is known.
    pub fn get(&self, number: &NumberId) -> Option<&Listed> {
        self.numbers.get(number)
    }

    /// All numbers, in their order: of the latest complete list, and what others added since.
    pub fn numbers(&self) -> &BTreeMap<NumberId, Listed> {
        &self.numbers
    }

    /// The most messages a second of each number.
    pub fn ceilings(&self) -> impl Iterator<Item = (NumberId, u32)> {
        self.numbers.iter().map(|(number, listed)| (number.clone(), listed.ceiling))
    }

    /// When the latest complete list was asked for; none where there was none.
    pub fn complete(&self) -> Option<(Instant, Timestamp)> {
        self.complete
    }

    /// Since when an answer is waited for.
    pub fn asking(&self) -> Option<Instant> {
        self.asking.map(|(at, _)| at)
    }

    /// When the latest question was asked that has ended, well or not; none before the first.
    pub fn asked(&self) -> Option<Instant> {
        self.asked
    }

    /// Why the latest question got no list that is believed as a whole; none where it did.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// How many questions in a row failed so.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

/// Has the plugin asked; clones do the same.
#[derive(Debug, Clone, Default)]
pub struct Refresher(Arc<Notify>);

impl Refresher {
    /// As soon as may be. Many who ask at once get one answer, which the listing shows to all.
    pub fn ask_now(&self) {
        self.0.notify_one();
    }

    /// Somebody wants it asked. For the one who asks the plugin.
    pub async fn wanted(&self) {
        self.0.notified().await;
    }
}

/// The plugin's numbers as they are heard of, for those who need them.
#[derive(Debug, Clone)]
pub struct PluginNumbers {
    /// The latest, as it changes.
    pub listing: watch::Receiver<Listing>,
    /// To have the plugin asked again.
    pub refresher: Refresher,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn numbers(all: &[&str]) -> BTreeMap<NumberId, Listed> {
        let listed = Listed { ceiling: 80, status: None };
        all.iter().map(|id| (NumberId::parse(id).unwrap(), listed.clone())).collect()
    }

    fn hear(listing: &mut Listing, all: &[&str], is_complete: bool) {
        listing.begin((clock::monotonic(), clock::wall()));
        listing.hear(Ok(Answer { numbers: numbers(all), is_complete }));
    }

    #[test]
    fn a_complete_list_replaces_all_and_an_incomplete_one_removes_nobody() {
        let mut listing = Listing::default();
        hear(&mut listing, &["1", "2"], true);
        let complete = listing.complete();
        assert!(complete.is_some());
        hear(&mut listing, &["3"], false);
        assert_eq!(listing.numbers(), &numbers(&["1", "2", "3"]));
        assert_eq!(listing.complete(), complete, "it may not say no");
        assert!(listing.failure().unwrap().contains("as a whole"));
        hear(&mut listing, &["3"], true);
        assert_eq!(listing.numbers(), &numbers(&["3"]));
        assert_ne!(listing.complete(), complete);
    }

    #[test]
    fn a_list_that_is_suddenly_empty_is_not_believed_and_one_that_was_never_else_is() {
        let mut listing = Listing::default();
        hear(&mut listing, &[], true);
        assert!(listing.complete().is_some());
        hear(&mut listing, &["1"], true);
        let complete = listing.complete();
        hear(&mut listing, &[], true);
        assert_eq!((listing.numbers(), listing.complete()), (&numbers(&["1"]), complete));
        assert!(listing.failure().unwrap().contains("empty"));
    }

    #[test]
    fn a_failing_call_keeps_what_is_known_and_is_counted_until_an_answer_comes() {
        let mut listing = Listing::default();
        hear(&mut listing, &["1"], true);
        for count in 1..=2 {
            listing.begin((clock::monotonic(), clock::wall()));
            assert!(listing.asking().is_some());
            listing.hear(Err("HTTP 502".into()));
            assert_eq!((listing.failure(), listing.failures()), (Some("HTTP 502"), count));
        }
        assert_eq!((listing.numbers(), listing.asking()), (&numbers(&["1"]), None));
        hear(&mut listing, &["1"], true);
        assert_eq!((listing.failure(), listing.failures()), (None, 0));
    }
}
