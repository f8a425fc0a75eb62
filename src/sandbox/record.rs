//! The sandbox's own book: what reached `/messages`, what became of it, and which webhooks told of it.
//!
//! Records and counts. It decides nothing, and no answer depends on it.

mod webhooks;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use serde::Serialize;
use tokio::{sync::Notify, time::Instant};

use self::webhooks::Webhooks;
pub use self::webhooks::{
    AnswerTimes, Counts, KEPT_ANSWER_TIMES, KEPT_POSTS, Post, WebhookSummary,
};
use super::times::Times;

/// Requests kept with all their details, raw body included; later ones are only counted.
pub const KEPT_REQUESTS: usize = 10_000;
/// Arrival times kept, over all numbers; the highest second is exact up to here.
pub const KEPT_TIMES: usize = 2_000_000;
/// Different `biz_opaque_callback_data` kept; duplicates are exact up to here.
pub const KEPT_OPAQUE: usize = 2_000_000;
/// Sending numbers told apart; the rest is counted in the totals alone.
pub const KEPT_NUMBERS: usize = 10_000;

/// One request to `/messages`.
#[derive(Debug, Clone)]
pub struct Request {
    /// When it reached this machine, however late it was read: by the kernel's timestamp, where there is one.
    pub at: Instant,
    /// When it was taken in, its body read: what limits go by.
    pub read: Instant,
    /// The sending number in the path.
    pub number: String,
    /// The recipient in digits; empty where none could be read.
    pub to: String,
    /// Its `biz_opaque_callback_data`.
    pub opaque: Option<String>,
    /// The id under which the message was accepted, whatever the caller was told.
    pub wamid: Option<String>,
    /// What the caller was told.
    pub ending: Ending,
    /// The raw body.
    pub body: Bytes,
}

impl Request {
    /// Meta's code, where it was refused.
    fn refused(&self) -> Option<u32> {
        match self.ending {
            Ending::Answered { code, .. } => code.filter(|_| self.wamid.is_none()),
            Ending::Cut | Ending::Hung => None,
        }
    }
}

/// What the caller was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// An answer with this HTTP status, and Meta's code where it was a refusal.
    Answered {
        /// The HTTP status.
        status: u16,
        /// Meta's code.
        code: Option<u32>,
    },
    /// The connection was closed.
    Cut,
    /// Nothing, until it left.
    Hung,
}

/// The book. Each question is answered from one moment's state; see the constants for bounds.
#[derive(Debug, Default)]
pub struct Record {
    book: Mutex<Book>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Book {
    requests: Vec<Request>,
    numbers: HashMap<String, OfNumber>,
    times_kept: usize,
    opaque: HashMap<String, Accepted>,
    plugin_asked: u64,
    total: u64,
    accepted: u64,
    cut: u64,
    hung: u64,
    by_status: BTreeMap<u16, u64>,
    by_code: BTreeMap<u32, u64>,
    webhooks: Webhooks,
}

/// One number's requests.
#[derive(Debug, Default)]
struct OfNumber {
    requests: Vec<Instant>,
    accepted: Vec<Instant>,
    /// By Meta's code: as many as the codes of the sandbox and its faults.
    refused: BTreeMap<u32, u64>,
}

/// What was accepted under one `biz_opaque_callback_data`.
#[derive(Debug, Clone, Copy)]
struct Accepted {
    first: Instant,
    times: u32,
}

/// The book in short, as `GET /sandbox/record` gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Requests in all.
    pub requests: u64,
    /// Messages accepted, whatever the caller was told.
    pub accepted: u64,
    /// Each `biz_opaque_callback_data` accepted more than once, with how often.
    pub duplicates: BTreeMap<String, u32>,
    /// Connections closed instead of an answer.
    pub cut: u64,
    /// Requests never answered.
    pub hung: u64,
    /// How often the plugin's configuration was asked for, whatever was answered.
    pub plugin_asked: u64,
    /// Answers by HTTP status.
    pub answered_by_status: BTreeMap<u16, u64>,
    /// Refusals by Meta's code.
    pub refused_by_code: BTreeMap<u32, u64>,
    /// The sending numbers.
    pub numbers: BTreeMap<String, NumberSummary>,
    /// Webhooks.
    pub webhook: WebhookSummary,
}

/// One number in the [`Summary`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NumberSummary {
    /// Requests in all.
    pub requests: usize,
    /// Messages accepted.
    pub accepted: usize,
    /// Refusals by Meta's code.
    pub refused_by_code: BTreeMap<u32, u64>,
    /// Most requests in any second.
    pub highest_second: usize,
    /// Most accepted messages in any second.
    pub highest_accepted_second: usize,
}

impl Record {
    /// The first [`KEPT_REQUESTS`] requests, oldest first.
    pub fn requests(&self) -> Vec<Request> {
        self.book().requests.clone()
    }

    /// Those of [`Record::requests`] whose message was accepted.
    pub fn accepted(&self) -> Vec<Request> {
        self.book().requests.iter().filter(|request| request.wamid.is_some()).cloned().collect()
    }

    /// How many requests came.
    pub fn count_requests(&self) -> u64 {
        self.book().total
    }

    /// How many messages were accepted, whatever the caller was told.
    pub fn count_accepted(&self) -> u64 {
        self.book().accepted
    }

    /// How many connections were closed instead of an answer.
    pub fn count_cut(&self) -> u64 {
        self.book().cut
    }

    /// How many requests were left without an answer.
    pub fn count_hung(&self) -> u64 {
        self.book().hung
    }

    /// How often a message with this `biz_opaque_callback_data` was accepted.
    pub fn accepted_by_opaque(&self, opaque: &str) -> u32 {
        self.book().opaque.get(opaque).map_or(0, |accepted| accepted.times)
    }

    /// When the first message with this `biz_opaque_callback_data` was accepted.
    pub fn first_accepted(&self, opaque: &str) -> Option<Instant> {
        self.book().opaque.get(opaque).map(|accepted| accepted.first)
    }

    /// When this number's messages were accepted.
    pub fn accepted_times(&self, number: &str) -> Times {
        self.book().numbers.get(number).map_or_else(Times::default, |of| Times::of(&of.accepted))
    }

    /// When this number's requests came, whatever became of them.
    pub fn request_times(&self, number: &str) -> Times {
        self.book().numbers.get(number).map_or_else(Times::default, |of| Times::of(&of.requests))
    }

    /// How many requests of this number were refused with this code of Meta's.
    pub fn count_refused(&self, number: &str, code: u32) -> u64 {
        let book = self.book();
        book.numbers.get(number).and_then(|of| of.refused.get(&code).copied()).unwrap_or(0)
    }

    /// How often the plugin's configuration was asked for with a good key, whatever was answered.
    pub fn count_plugin_asked(&self) -> u64 {
        self.book().plugin_asked
    }

    /// How many of [`Record::accepted`] carry this text.
    pub fn accepted_by_text(&self, text: &str) -> usize {
        let carries = |request: &&Request| {
            let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap_or_default();
            body["text"]["body"] == text
        };
        self.accepted().iter().filter(carries).count()
    }

    /// Each `biz_opaque_callback_data` accepted more than once, with how often.
    pub fn duplicates(&self) -> BTreeMap<String, u32> {
        duplicates(&self.book())
    }

    /// Most requests of this number in any second `[t, t + 1 s)`.
    pub fn highest_in_any_second(&self, number: &str) -> usize {
        self.request_times(number).highest_second()
    }

    /// Most accepted messages of this number in any second `[t, t + 1 s)`.
    pub fn highest_accepted_in_any_second(&self, number: &str) -> usize {
        self.accepted_times(number).highest_second()
    }

    /// Refusals by Meta's code.
    pub fn refused_by_code(&self) -> BTreeMap<u32, u64> {
        self.book().by_code.clone()
    }

    /// Answers by HTTP status.
    pub fn answered_by_status(&self) -> BTreeMap<u16, u64> {
        self.book().by_status.clone()
    }

    /// The book in short.
    pub fn summary(&self) -> Summary {
        let webhook = self.webhook_summary();
        let book = self.book();
        let numbers = book.numbers.iter().map(|(id, of)| {
            let number = NumberSummary {
                requests: of.requests.len(),
                accepted: of.accepted.len(),
                refused_by_code: of.refused.clone(),
                highest_second: Times::of(&of.requests).highest_second(),
                highest_accepted_second: Times::of(&of.accepted).highest_second(),
            };
            (id.clone(), number)
        });
        Summary {
            requests: book.total,
            accepted: book.accepted,
            duplicates: duplicates(&book),
            cut: book.cut,
            hung: book.hung,
            plugin_asked: book.plugin_asked,
            answered_by_status: book.by_status.clone(),
            refused_by_code: book.by_code.clone(),
            numbers: numbers.collect(),
            webhook,
        }
    }

    /// Forgets everything.
    pub fn clear(&self) {
        *self.book() = Book::default();
        self.changed.notify_waiters();
    }

    /// Waits until `reached` holds; looks after each change. Give it the counting questions, not the
    /// listing ones, where many requests come. It has no deadline of its own.
    pub async fn wait_for(&self, mut reached: impl FnMut(&Self) -> bool) {
        loop {
            // Made before the look, so that no change between look and wait is missed.
            let changed = self.changed.notified();
            if reached(self) {
                return;
            }
            changed.await;
        }
    }

    /// Enters one request.
    pub(super) fn note(&self, request: Request) {
        self.book().enter(request);
        self.changed.notify_waiters();
    }

    /// Enters that the plugin's configuration was asked for.
    pub(super) fn note_plugin_asked(&self) {
        self.book().plugin_asked += 1;
        self.changed.notify_waiters();
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn enter(&mut self, mut request: Request) {
        let accepted = request.wamid.is_some();
        self.total += 1;
        self.accepted += u64::from(accepted);
        match request.ending {
            Ending::Answered { status, .. } => *self.by_status.entry(status).or_default() += 1,
            Ending::Cut => self.cut += 1,
            Ending::Hung => self.hung += 1,
        }
        if let Some(code) = request.refused() {
            *self.by_code.entry(code).or_default() += 1;
        }
        self.enter_number(&request, accepted);
        if accepted && let Some(opaque) = &request.opaque {
            if let Some(accepted) = self.opaque.get_mut(opaque) {
                accepted.times += 1;
            } else if self.opaque.len() < KEPT_OPAQUE {
                self.opaque.insert(opaque.clone(), Accepted { first: request.at, times: 1 });
            }
        }
        if self.requests.len() < KEPT_REQUESTS {
            // A copy: the original would hold on to the connection's whole read buffer.
            request.body = Bytes::copy_from_slice(&request.body);
            self.requests.push(request);
        }
    }

    fn enter_number(&mut self, request: &Request, accepted: bool) {
        if !self.numbers.contains_key(&request.number) {
            if self.numbers.len() >= KEPT_NUMBERS {
                return;
            }
            self.numbers.insert(request.number.clone(), OfNumber::default());
        }
        let Some(of) = self.numbers.get_mut(&request.number) else { return };
        if let Some(code) = request.refused() {
            *of.refused.entry(code).or_default() += 1;
        }
        if self.times_kept < KEPT_TIMES {
            of.requests.push(request.at);
            self.times_kept += 1;
            if accepted {
                of.accepted.push(request.read);
                self.times_kept += 1;
            }
        }
    }
}

fn duplicates(book: &Book) -> BTreeMap<String, u32> {
    let more_than_once = book.opaque.iter().filter(|(_, accepted)| accepted.times > 1);
    more_than_once.map(|(opaque, accepted)| (opaque.clone(), accepted.times)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(opaque: &str, wamid: Option<&str>) -> Request {
        let now = Instant::now();
        Request {
            at: now,
            read: now,
            number: "1".into(),
            to: "49".into(),
            opaque: Some(opaque.into()),
            wamid: wamid.map(str::to_owned),
            ending: Ending::Answered { status: 200, code: None },
            body: Bytes::from_static(br#"{"text":{"body":"Hi"}}"#),
        }
    }

    #[test]
    fn only_what_was_accepted_twice_is_a_duplicate() {
        let record = Record::default();
        record.note(request("twice", Some("wamid.1")));
        record.note(request("twice", Some("wamid.2")));
        record.note(request("once", Some("wamid.3")));
        record.note(request("once", None));
        assert_eq!(record.accepted_times("1").count(), 3);
        assert_eq!(record.first_accepted("twice"), record.accepted_times("1").first());
        assert_eq!(record.duplicates(), BTreeMap::from([("twice".to_owned(), 2)]));
        assert_eq!((record.count_requests(), record.count_accepted()), (4, 3));
        assert_eq!(record.accepted_by_opaque("once"), 1);
        assert_eq!(record.accepted_by_text("Hi"), 3);
        record.clear();
        assert_eq!(record.summary(), Record::default().summary());
    }

    #[test]
    fn refusals_are_told_apart_by_number_and_code() {
        let record = Record::default();
        let refused = |number: &str, code| Request {
            number: number.into(),
            ending: Ending::Answered { status: 400, code: Some(code) },
            ..request("a", None)
        };
        record.note(refused("1", 130_429));
        record.note(refused("1", 131_056));
        record.note(refused("2", 130_429));
        record.note(refused("2", 130_429));
        assert_eq!(record.refused_by_code(), BTreeMap::from([(130_429, 3), (131_056, 1)]));
        assert_eq!(record.count_refused("1", 130_429), 1);
        assert_eq!(record.count_refused("2", 130_429), 2);
        assert_eq!(record.count_refused("2", 131_056), 0);
    }

    #[tokio::test]
    async fn a_waiter_wakes_when_what_it_waits_for_has_come() {
        let record = Record::default();
        let waits = record.wait_for(|record| record.count_requests() == 2);
        let comes = async {
            record.note(request("a", None));
            tokio::task::yield_now().await;
            record.note(request("b", None));
        };
        tokio::join!(waits, comes);
    }

    #[test]
    fn details_are_bounded_and_counts_go_on() {
        let record = Record::default();
        for _ in 0..=KEPT_REQUESTS {
            record.note(request("same", Some("wamid.1")));
        }
        assert_eq!(record.requests().len(), KEPT_REQUESTS);
        assert_eq!(record.count_requests(), KEPT_REQUESTS as u64 + 1);
        assert_eq!(record.accepted_by_opaque("same"), u32::try_from(KEPT_REQUESTS).unwrap() + 1);
    }
}
