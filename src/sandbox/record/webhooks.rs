//! The book's pages on webhooks: what was posted, how it was answered, and how fast.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use tokio::time::Instant;

use super::{
    super::{Event, Form, webhook::Course},
    Record,
};

/// Posts kept with their details; later ones are only counted.
pub const KEPT_POSTS: usize = 20_000;
/// Times to an answer kept; the quantiles are exact up to here.
pub const KEPT_ANSWER_TIMES: usize = 1_000_000;

/// One post of a webhook, repetitions included.
#[derive(Debug, Clone)]
pub struct Post {
    /// When it began.
    pub at: Instant,
    /// How long until the whole answer, or until it was given up.
    pub took: Duration,
    /// The status of the answer; none when there was none.
    pub status: Option<u16>,
    /// In which form.
    pub form: Form,
    /// Which try it was, from 1.
    pub tries: u32,
    /// The ids of the messages, and what was told of each.
    pub events: Vec<(String, Event)>,
}

/// Everything about webhooks.
#[derive(Debug, Default)]
pub(super) struct Webhooks {
    counts: Counts,
    posts: Vec<Post>,
    /// In microseconds.
    answer_times: Vec<u32>,
    longest: Duration,
}

/// Webhooks in short. `planned` is `acknowledged`, `given_up`, `dropped`, and what still waits.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct WebhookSummary {
    /// The counts.
    #[serde(flatten)]
    pub counts: Counts,
    /// How fast answers came.
    pub answer_times: AnswerTimes,
}

/// What is counted of webhooks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// Events that were to be posted.
    pub planned: u64,
    /// Events that were posted at least once, by name.
    pub emitted: BTreeMap<String, u64>,
    /// Events that were answered with 200.
    pub acknowledged: u64,
    /// Events that were posted as often as allowed and not answered with 200.
    pub given_up: u64,
    /// Events that found the queue full, or webhooks switched off.
    pub dropped: u64,
    /// Events withheld on purpose; no part of `planned`.
    pub lost: u64,
    /// Events repeated on purpose; a part of `planned`.
    pub repeated: u64,
    /// Posts, repetitions included.
    pub posts: u64,
    /// Posts by the status of their answer.
    pub answered_by_status: BTreeMap<u16, u64>,
    /// Posts without an answer.
    pub unanswered: u64,
}

/// Times from a post to its whole answer, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct AnswerTimes {
    /// Half of them are no longer.
    pub p50_us: u64,
    /// 99 of 100 are no longer.
    pub p99_us: u64,
    /// The longest.
    pub max_us: u64,
}

impl Record {
    /// The first [`KEPT_POSTS`] posts of webhooks, in the order in which they ended.
    pub fn posts(&self) -> Vec<Post> {
        self.book().webhooks.posts.clone()
    }

    /// Those of [`Record::posts`] that told of this message.
    pub fn posts_of(&self, wamid: &str) -> Vec<Post> {
        let tells = |post: &&Post| post.events.iter().any(|(of, _)| of == wamid);
        self.book().webhooks.posts.iter().filter(tells).cloned().collect()
    }

    /// What is counted of webhooks.
    pub fn webhook_counts(&self) -> Counts {
        self.book().webhooks.counts.clone()
    }

    /// Webhooks in short.
    pub fn webhook_summary(&self) -> WebhookSummary {
        let (counts, times, longest) = {
            let book = self.book();
            let webhooks = &book.webhooks;
            (webhooks.counts.clone(), webhooks.answer_times.clone(), webhooks.longest)
        };
        WebhookSummary { counts, answer_times: answer_times(times, longest) }
    }

    /// Enters what is to be posted about one message.
    pub(in crate::sandbox) fn note_planned(&self, course: &Course) {
        let mut book = self.book();
        let counts = &mut book.webhooks.counts;
        counts.planned += course.planned();
        counts.lost += course.lost;
        counts.repeated += course.repeated;
        drop(book);
        self.changed.notify_waiters();
    }

    /// Enters events that will not be posted.
    pub(in crate::sandbox) fn note_dropped(&self, events: u64) {
        if events > 0 {
            self.book().webhooks.counts.dropped += events;
            self.changed.notify_waiters();
        }
    }

    /// Enters a post.
    pub(in crate::sandbox) fn note_post(&self, post: Post, is_taken: bool, is_given_up: bool) {
        self.book().webhooks.enter(post, is_taken, is_given_up);
        self.changed.notify_waiters();
    }
}

impl Webhooks {
    fn enter(&mut self, post: Post, is_taken: bool, is_given_up: bool) {
        let counts = &mut self.counts;
        let events = post.events.len() as u64;
        counts.posts += 1;
        counts.acknowledged += if is_taken { events } else { 0 };
        counts.given_up += if is_given_up { events } else { 0 };
        match post.status {
            Some(status) => *counts.answered_by_status.entry(status).or_default() += 1,
            None => counts.unanswered += 1,
        }
        if post.tries == 1 {
            for (_, event) in &post.events {
                let emitted = counts.emitted.entry(event.to_string());
                *emitted.or_default() += 1;
            }
        }
        if post.status.is_some() {
            self.longest = self.longest.max(post.took);
            if self.answer_times.len() < KEPT_ANSWER_TIMES {
                let micros = post.took.as_micros();
                self.answer_times.push(u32::try_from(micros).unwrap_or(u32::MAX));
            }
        }
        if self.posts.len() < KEPT_POSTS {
            self.posts.push(post);
        }
    }
}

fn answer_times(mut micros: Vec<u32>, longest: Duration) -> AnswerTimes {
    micros.sort_unstable();
    // The least that a share of them does not exceed.
    let quantile = |percent: usize| {
        let rank = (micros.len() * percent).div_ceil(100);
        micros.get(rank.saturating_sub(1)).copied().map_or(0, u64::from)
    };
    AnswerTimes {
        p50_us: quantile(50),
        p99_us: quantile(99),
        max_us: u64::try_from(longest.as_micros()).unwrap_or(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(status: Option<u16>, micros: u64) -> Post {
        Post {
            at: Instant::now(),
            took: Duration::from_micros(micros),
            status,
            form: Form::Chakra,
            tries: 1,
            events: vec![("wamid.1".into(), Event::Sent)],
        }
    }

    #[test]
    fn answers_are_told_apart_and_timed_and_silence_is_not_timed() {
        let record = Record::default();
        for micros in 1..=200 {
            record.note_post(post(Some(200), micros), true, false);
        }
        record.note_post(post(Some(503), 900), false, false);
        record.note_post(Post { tries: 2, ..post(None, 5_000) }, false, true);
        let WebhookSummary { counts, answer_times } = record.webhook_summary();
        assert_eq!(counts.answered_by_status, BTreeMap::from([(200, 200), (503, 1)]));
        assert_eq!((counts.posts, counts.unanswered, counts.given_up), (202, 1, 1));
        assert_eq!(counts.emitted["sent"], 201, "a repetition is the same event");
        assert_eq!(answer_times, AnswerTimes { p50_us: 101, p99_us: 199, max_us: 900 });
        assert_eq!(record.posts_of("wamid.1").len(), 202);
        assert!(record.posts_of("wamid.2").is_empty());
    }

    #[test]
    fn details_are_bounded_and_counts_go_on() {
        let record = Record::default();
        for _ in 0..=KEPT_POSTS {
            record.note_post(post(Some(200), 1), true, false);
        }
        assert_eq!(record.posts().len(), KEPT_POSTS);
        assert_eq!(record.webhook_counts().acknowledged, KEPT_POSTS as u64 + 1);
    }
}
