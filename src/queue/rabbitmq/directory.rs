//! Which numbers may have a lane. Asks the plugin again before it refuses one, though not often.

use crate::clock;
use crate::wire::NumberId;
use futures_util::future::BoxFuture;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// The plugin is not asked more often.
const ASK_EVERY: Duration = Duration::from_secs(10);

/// Asks which numbers the plugin has; the error is a sentence.
pub type AskForNumbers =
    Arc<dyn Fn() -> BoxFuture<'static, Result<Vec<NumberId>, String>> + Send + Sync>;

/// Who may have a lane.
#[derive(Clone)]
pub enum Accept {
    /// Any number, at first sight.
    Any,
    /// The plugin's numbers alone.
    Plugin(AskForNumbers),
}

impl fmt::Debug for Accept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Accept::Any => "Any",
            Accept::Plugin(_) => "Plugin",
        })
    }
}

/// What is known about a number.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// It may have a lane.
    Lane,
    /// Not known yet: ask again after a wait.
    Later,
    /// It may not, and this is why.
    Refuse(String),
}

/// The numbers that may have a lane.
#[derive(Debug)]
pub(super) struct Directory {
    accept: Accept,
    /// Held while asking, so that many ask once.
    known: Mutex<Known>,
}

impl Directory {
    pub(super) fn new(accept: Accept, numbers: &[NumberId]) -> Directory {
        let known = Known::new(numbers.iter().cloned().collect());
        Directory { accept, known: Mutex::new(known) }
    }

    /// Judges about a job that arrived at `arrived`.
    pub(super) async fn judge(&self, number: &NumberId, arrived: Instant) -> Verdict {
        let Accept::Plugin(ask) = &self.accept else { return Verdict::Lane };
        let mut known = self.known.lock().await;
        let now = clock::monotonic();
        if let Some(verdict) = known.consult(number, arrived, now) {
            return verdict;
        }
        let answer = ask().await;
        if let Err(reason) = &answer {
            tracing::warn!(%reason, "the plugin's numbers cannot be asked for");
        }
        known.hear(answer.ok(), now);
        known.consult(number, arrived, now).unwrap_or(Verdict::Later)
    }
}

/// What is known of the plugin's numbers.
#[derive(Debug)]
struct Known {
    numbers: HashSet<NumberId>,
    asked: Option<Instant>,
    /// When the latest list that came was asked for.
    listed: Option<Instant>,
}

impl Known {
    fn new(numbers: HashSet<NumberId>) -> Known {
        Known { numbers, asked: None, listed: None }
    }

    /// The verdict; none when the plugin is to be asked. Only a list that was asked for after the
    /// job's arrival may say no.
    fn consult(&self, number: &NumberId, arrived: Instant, now: Instant) -> Option<Verdict> {
        if self.numbers.contains(number) {
            return Some(Verdict::Lane);
        }
        if self.listed.is_some_and(|listed| listed >= arrived) {
            let reason = format!("phone number {number} is not one of the plugin's");
            return Some(Verdict::Refuse(reason));
        }
        let recently = self.asked.is_some_and(|asked| now.duration_since(asked) < ASK_EVERY);
        recently.then_some(Verdict::Later)
    }

    /// Takes what the plugin answered when it was asked at `asked`.
    fn hear(&mut self, numbers: Option<Vec<NumberId>>, asked: Instant) {
        self.asked = Some(asked);
        if let Some(numbers) = numbers {
            self.numbers = numbers.into_iter().collect();
            self.listed = Some(asked);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(digits: &str) -> NumberId {
        NumberId::parse(digits).unwrap()
    }

    fn knows_1() -> Known {
        Known::new(HashSet::from([number("1")]))
    }

    #[test]
    fn a_known_number_is_not_asked_for() {
        let now = clock::monotonic();
        assert_eq!(knows_1().consult(&number("1"), now, now), Some(Verdict::Lane));
        assert_eq!(knows_1().consult(&number("2"), now, now), None);
    }

    #[test]
    fn a_new_number_of_the_plugin_is_found_by_asking() {
        let (mut known, now) = (knows_1(), clock::monotonic());
        known.hear(Some(vec![number("1"), number("2")]), now);
        assert_eq!(known.consult(&number("2"), now, now), Some(Verdict::Lane));
    }

    #[test]
    fn only_a_list_asked_for_after_the_arrival_says_no_and_it_is_asked_for_every_ten_seconds() {
        let (mut known, start) = (knows_1(), clock::monotonic());
        let at = |seconds| start + Duration::from_secs(seconds);
        known.hear(Some(vec![number("1")]), start);
        let verdict = |arrived, now| known.consult(&number("2"), at(arrived), at(now));
        assert!(matches!(verdict(0, 0), Some(Verdict::Refuse(_))));
        assert_eq!(verdict(3, 3), Some(Verdict::Later));
        assert_eq!(verdict(3, 10), None);
    }

    #[test]
    fn a_plugin_that_cannot_be_asked_refuses_nobody() {
        let (mut known, now) = (knows_1(), clock::monotonic());
        known.hear(None, now);
        assert_eq!(known.consult(&number("2"), now, now), Some(Verdict::Later));
    }
}
