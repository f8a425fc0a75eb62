//! Which numbers may have a lane. Asks the plugin again before it refuses one, though not often.

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

#[derive(Debug)]
struct Known {
    numbers: HashSet<NumberId>,
    asked: Option<Instant>,
    /// When the latest list that came was asked for.
    listed: Option<Instant>,
}

impl Directory {
    pub(super) fn new(accept: Accept, numbers: &[NumberId]) -> Directory {
        let numbers = numbers.iter().cloned().collect();
        Directory { accept, known: Mutex::new(Known { numbers, asked: None, listed: None }) }
    }

    /// Judges about a job that arrived at `now`: only a list asked for later may say no.
    pub(super) async fn judge(&self, number: &NumberId, arrived: Instant) -> Verdict {
        let Accept::Plugin(ask) = &self.accept else { return Verdict::Lane };
        let mut known = self.known.lock().await;
        if let Some(verdict) = known.verdict(number, arrived) {
            return verdict;
        }
        // The lock was waited for: this may be long after the arrival, and is after it in any case.
        let now = crate::clock::monotonic();
        if known.asked.is_some_and(|asked| now.duration_since(asked) < ASK_EVERY) {
            return Verdict::Later;
        }
        known.asked = Some(now);
        match ask().await {
            Ok(numbers) => {
                known.numbers = numbers.into_iter().collect();
                known.listed = Some(now);
            }
            Err(reason) => tracing::warn!(%reason, "the plugin's numbers cannot be asked for"),
        }
        known.verdict(number, arrived).unwrap_or(Verdict::Later)
    }
}

impl Known {
    fn verdict(&self, number: &NumberId, arrived: Instant) -> Option<Verdict> {
        if self.numbers.contains(number) {
            return Some(Verdict::Lane);
        }
        let heard = self.listed.is_some_and(|listed| listed >= arrived);
        heard.then(|| Verdict::Refuse(format!("phone number {number} is not one of the plugin's")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    fn number(digits: &str) -> NumberId {
        NumberId::parse(digits).unwrap()
    }

    /// A plugin that has `known`, and how often it was asked.
    fn plugin(answer: Result<Vec<NumberId>, String>) -> (Directory, Arc<AtomicU32>) {
        let asked = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&asked);
        let ask: AskForNumbers = Arc::new(move || {
            count.fetch_add(1, SeqCst);
            std::future::ready(answer.clone()).boxed()
        });
        (Directory::new(Accept::Plugin(ask), &[number("1")]), asked)
    }

    #[tokio::test(start_paused = true)]
    async fn a_known_number_is_not_asked_for() {
        let (directory, asked) = plugin(Ok(vec![]));
        assert_eq!(directory.judge(&number("1"), Instant::now()).await, Verdict::Lane);
        assert_eq!(asked.load(SeqCst), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_number_of_the_plugin_is_found_by_asking() {
        let (directory, _) = plugin(Ok(vec![number("1"), number("2")]));
        assert_eq!(directory.judge(&number("2"), Instant::now()).await, Verdict::Lane);
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_list_asked_for_after_the_arrival_says_no() {
        let (directory, asked) = plugin(Ok(vec![number("1")]));
        let verdict = directory.judge(&number("2"), Instant::now()).await;
        assert!(matches!(verdict, Verdict::Refuse(_)));
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(directory.judge(&number("2"), Instant::now()).await, Verdict::Later);
        assert_eq!(asked.load(SeqCst), 1);
        tokio::time::advance(Duration::from_secs(7)).await;
        let verdict = directory.judge(&number("2"), Instant::now()).await;
        assert!(matches!(verdict, Verdict::Refuse(_)));
        assert_eq!(asked.load(SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_plugin_that_cannot_be_asked_refuses_nobody() {
        let (directory, asked) = plugin(Err("down".into()));
        for _ in 0..5 {
            assert_eq!(directory.judge(&number("2"), Instant::now()).await, Verdict::Later);
        }
        assert_eq!(asked.load(SeqCst), 1);
    }
}
