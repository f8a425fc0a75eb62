//! The sandbox's own book: what reached `/messages`, and what became of it.
//!
//! Records and counts. It decides nothing, and no answer depends on it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use serde::Serialize;
use tokio::{sync::Notify, time::Instant};

/// Requests kept with all their details, raw body included; later ones are only counted.
pub const KEPT_REQUESTS: usize = 10_000;
/// Arrival times kept, over all numbers; the highest second is exact up to here.
pub const KEPT_TIMES: usize = 2_000_000;
/// Different `biz_opaque_callback_data` kept; duplicates are exact up to here.
pub const KEPT_OPAQUE: usize = 2_000_000;
/// Sending numbers told apart; the rest is counted in the totals alone.
pub const KEPT_NUMBERS: usize = 10_000;

const SECOND: Duration = Duration::from_secs(1);

/// One request to `/messages`.
#[derive(Debug, Clone)]
pub struct Request {
    /// When it was taken in, its body read.
    pub at: Instant,
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

/// The book. All questions are answered from the same moment's state; see the constants for bounds.
#[derive(Debug, Default)]
pub struct Record {
    book: Mutex<Book>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Book {
    requests: Vec<Request>,
    numbers: HashMap<String, Times>,
    times_kept: usize,
    opaque: HashMap<String, u32>,
    total: u64,
    accepted: u64,
    cut: u64,
    hung: u64,
    by_status: BTreeMap<u16, u64>,
    by_code: BTreeMap<u32, u64>,
}

#[derive(Debug, Default)]
struct Times {
    requests: Vec<Instant>,
    accepted: Vec<Instant>,
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
    /// Answers by HTTP status.
    pub answered_by_status: BTreeMap<u16, u64>,
    /// Refusals by Meta's code.
    pub refused_by_code: BTreeMap<u32, u64>,
    /// The sending numbers.
    pub numbers: BTreeMap<String, NumberSummary>,
}

/// One number in the [`Summary`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NumberSummary {
    /// Requests in all.
    pub requests: usize,
    /// Messages accepted.
    pub accepted: usize,
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
        self.book().opaque.get(opaque).copied().unwrap_or(0)
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
        self.book().numbers.get(number).map_or(0, |times| highest(&times.requests))
    }

    /// Most accepted messages of this number in any second `[t, t + 1 s)`.
    pub fn highest_accepted_in_any_second(&self, number: &str) -> usize {
        self.book().numbers.get(number).map_or(0, |times| highest(&times.accepted))
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
        let book = self.book();
        let numbers = book.numbers.iter().map(|(id, times)| {
            let number = NumberSummary {
                requests: times.requests.len(),
                accepted: times.accepted.len(),
                highest_second: highest(&times.requests),
                highest_accepted_second: highest(&times.accepted),
            };
            (id.clone(), number)
        });
        Summary {
            requests: book.total,
            accepted: book.accepted,
            duplicates: duplicates(&book),
            cut: book.cut,
            hung: book.hung,
            answered_by_status: book.by_status.clone(),
            refused_by_code: book.by_code.clone(),
            numbers: numbers.collect(),
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
            Ending::Answered { status, code } => {
                *self.by_status.entry(status).or_default() += 1;
                if let Some(code) = code.filter(|_| !accepted) {
                    *self.by_code.entry(code).or_default() += 1;
                }
            }
            Ending::Cut => self.cut += 1,
            Ending::Hung => self.hung += 1,
        }
        self.enter_times(&request, accepted);
        if accepted && let Some(opaque) = &request.opaque {
            if let Some(count) = self.opaque.get_mut(opaque) {
                *count += 1;
            } else if self.opaque.len() < KEPT_OPAQUE {
                self.opaque.insert(opaque.clone(), 1);
            }
        }
        if self.requests.len() < KEPT_REQUESTS {
            // A copy: the original would hold on to the connection's whole read buffer.
            request.body = Bytes::copy_from_slice(&request.body);
            self.requests.push(request);
        }
    }

    fn enter_times(&mut self, request: &Request, accepted: bool) {
        if self.times_kept >= KEPT_TIMES {
            return;
        }
        if !self.numbers.contains_key(&request.number) {
            if self.numbers.len() >= KEPT_NUMBERS {
                return;
            }
            self.numbers.insert(request.number.clone(), Times::default());
        }
        if let Some(times) = self.numbers.get_mut(&request.number) {
            times.requests.push(request.at);
            self.times_kept += 1;
            if accepted {
                times.accepted.push(request.at);
                self.times_kept += 1;
            }
        }
    }
}

fn duplicates(book: &Book) -> BTreeMap<String, u32> {
    let more_than_once = book.opaque.iter().filter(|(_, count)| **count > 1);
    more_than_once.map(|(opaque, count)| (opaque.clone(), *count)).collect()
}

/// Most instants in any half-open second. The book may hold them slightly out of order.
fn highest(times: &[Instant]) -> usize {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let mut first = 0;
    let mut most = 0;
    for (last, at) in sorted.iter().enumerate() {
        while *at - sorted[first] >= SECOND {
            first += 1;
        }
        most = most.max(last - first + 1);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(opaque: &str, wamid: Option<&str>) -> Request {
        Request {
            at: Instant::now(),
            number: "1".into(),
            to: "49".into(),
            opaque: Some(opaque.into()),
            wamid: wamid.map(str::to_owned),
            ending: Ending::Answered { status: 200, code: None },
            body: Bytes::from_static(br#"{"text":{"body":"Hi"}}"#),
        }
    }

    #[test]
    fn the_highest_second_is_found_wherever_it_lies() {
        let start = Instant::now();
        for (offsets, expected) in [
            (&[][..], 0),
            (&[0], 1),
            (&[0, 999], 2),
            (&[0, 1_000], 1),
            (&[0, 900, 1_000, 1_800, 1_899], 4),
            (&[1_899, 0, 1_800, 900, 1_000], 4),
        ] {
            let times: Vec<_> =
                offsets.iter().map(|ms| start + Duration::from_millis(*ms)).collect();
            assert_eq!(highest(&times), expected, "{offsets:?}");
        }
    }

    #[test]
    fn only_what_was_accepted_twice_is_a_duplicate() {
        let record = Record::default();
        record.note(request("twice", Some("wamid.1")));
        record.note(request("twice", Some("wamid.2")));
        record.note(request("once", Some("wamid.3")));
        record.note(request("once", None));
        assert_eq!(record.duplicates(), BTreeMap::from([("twice".to_owned(), 2)]));
        assert_eq!((record.count_requests(), record.count_accepted()), (4, 3));
        assert_eq!(record.accepted_by_opaque("once"), 1);
        assert_eq!(record.accepted_by_text("Hi"), 3);
        record.clear();
        assert_eq!(record.summary(), Record::default().summary());
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
