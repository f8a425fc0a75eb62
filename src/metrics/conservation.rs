//! Conservation: every delivery that enters this worker leaves it in one named way, or is still here.
//! received = settled + held, at every instant and within every scrape.
//!
//! What is held is counted from the tokens that exist, never by subtraction. So a delivery that was
//! let slip, settled in no way, shows as a gap. It knows no job: what becomes of one is told to it.

use super::label;
use crate::wire::{NumberId, Priority};
use prometheus::core::{Collector, Desc};
use prometheus::{IntCounter, IntCounterVec, IntGauge, proto};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// In which way a delivery left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// Its job has its outcome.
    Finished,
    /// Its job is in the dead letters.
    DeadLetter,
    /// Its job waits and comes back by itself.
    Rescheduled,
    /// Its job was moved into the lane that it lacked.
    Moved,
    /// It was given back unchanged, to be delivered again.
    Returned,
    /// It was not ours any more: the queue delivers it again, or has. Its outcome, if it had one by
    /// then, was recorded all the same.
    Void,
}

impl Departure {
    const ALL: [Departure; 6] = [
        Departure::Finished,
        Departure::DeadLetter,
        Departure::Rescheduled,
        Departure::Moved,
        Departure::Returned,
        Departure::Void,
    ];

    /// The label's value.
    pub fn name(self) -> &'static str {
        match self {
            Departure::Finished => "finished",
            Departure::DeadLetter => "dead-letter",
            Departure::Rescheduled => "rescheduled",
            Departure::Moved => "moved",
            Departure::Returned => "returned",
            Departure::Void => "void",
        }
    }
}

/// One delivery in this worker, for as long as it is here. Dropped without having left, it leaves a
/// gap: that is the alarm.
#[derive(Debug)]
#[must_use = "a delivery must leave by it"]
pub struct Token {
    book: Arc<Book>,
    presence: Arc<()>,
}

impl Token {
    /// The delivery leaves in this way.
    pub fn leave(self, how: Departure) {
        let Token { book, presence } = self;
        let pages = book.open();
        pages.settled(how).inc();
        // Before the book is closed: no reader sees it both here and gone.
        drop(presence);
    }
}

/// How it stands at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Balance {
    /// Deliveries that entered.
    pub received: u64,
    /// Those that left, by how, in the order of [`Departure`].
    settled: [u64; Departure::ALL.len()],
    /// Those that are here.
    pub held: u64,
}

impl Balance {
    /// How many left in this way.
    pub fn settled(&self, how: Departure) -> u64 {
        self.settled[how as usize]
    }

    /// What is neither here nor has left: zero, or a defect of ours.
    pub fn gap(&self) -> i64 {
        let accounted = self.settled.iter().sum::<u64>() + self.held;
        self.received.wrapping_sub(accounted).cast_signed()
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "received={}", self.received)?;
        for how in Departure::ALL {
            write!(f, " {}={}", how.name(), self.settled(how))?;
        }
        write!(f, " held={} gap={}", self.held, self.gap())
    }
}

/// The book of deliveries; clones are the same book.
#[derive(Debug, Clone)]
pub(super) struct Conservation(Arc<Book>);

#[derive(Debug)]
struct Book {
    pages: Mutex<Pages>,
    /// Each token has a clone of it.
    presence: Arc<()>,
    descriptions: Vec<Desc>,
}

/// Written and shown under one lock, so that a scrape balances.
#[derive(Debug)]
struct Pages {
    received: IntCounterVec,
    total: u64,
    settled: IntCounterVec,
    /// Its children, in the order of [`Departure`]: each is shown from the start.
    settled_by: [IntCounter; Departure::ALL.len()],
    held: IntGauge,
    gap: IntGauge,
}

impl Pages {
    fn settled(&self, how: Departure) -> &IntCounter {
        &self.settled_by[how as usize]
    }
}

impl Book {
    /// A panic leaves no half-written line behind.
    fn open(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn balance(&self, pages: &Pages) -> Balance {
        Balance {
            received: pages.total,
            settled: pages.settled_by.each_ref().map(IntCounter::get),
            // But for the book's own.
            held: Arc::strong_count(&self.presence) as u64 - 1,
        }
    }
}

impl Conservation {
    /// An empty book over metrics that are shown by it alone.
    pub(super) fn new(
        (received, settled): (IntCounterVec, IntCounterVec),
        (held, gap): (IntGauge, IntGauge),
    ) -> Conservation {
        let shown: [&dyn Collector; 4] = [&received, &settled, &held, &gap];
        let descriptions = shown.iter().flat_map(|metric| metric.desc()).cloned().collect();
        let settled_by = Departure::ALL.map(|how| settled.with_label_values(&[how.name()]));
        let pages = Pages { received, total: 0, settled, settled_by, held, gap };
        Conservation(Arc::new(Book {
            pages: Mutex::new(pages),
            presence: Arc::default(),
            descriptions,
        }))
    }

    /// A delivery enters.
    pub(super) fn received(&self, lane: Option<&NumberId>, priority: Priority) -> Token {
        let mut pages = self.0.open();
        pages.total += 1;
        pages.received.with_label_values(&[label(lane), priority.name()]).inc();
        Token { book: Arc::clone(&self.0), presence: Arc::clone(&self.0.presence) }
    }

    pub(super) fn balance(&self) -> Balance {
        self.0.balance(&self.0.open())
    }
}

impl Collector for Conservation {
    fn desc(&self) -> Vec<&Desc> {
        self.0.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let pages = self.0.open();
        let balance = self.0.balance(&pages);
        pages.held.set(i64::try_from(balance.held).unwrap_or(i64::MAX));
        pages.gap.set(balance.gap());
        let shown: [&dyn Collector; 4] = [&pages.received, &pages.settled, &pages.held, &pages.gap];
        shown.iter().flat_map(|metric| metric.collect()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn what_enters_is_held_until_it_leaves_in_one_way() {
        let metrics = Metrics::new().unwrap();
        let mut tokens = Vec::new();
        for entered in 1..=Departure::ALL.len() as u64 {
            tokens.push(metrics.received(None, Priority::Normal));
            let balance = metrics.balance();
            assert_eq!((balance.received, balance.held, balance.gap()), (entered, entered, 0));
        }
        for (how, token) in Departure::ALL.into_iter().zip(tokens) {
            token.leave(how);
            assert_eq!((metrics.balance().settled(how), metrics.balance().gap()), (1, 0));
        }
        let said = "received=6 finished=1 dead-letter=1 rescheduled=1 moved=1 returned=1 void=1";
        assert_eq!(metrics.balance().to_string(), format!("{said} held=0 gap=0"));
    }

    #[test]
    fn a_delivery_that_slips_away_is_a_gap() {
        let metrics = Metrics::new().unwrap();
        let kept = metrics.received(None, Priority::Urgent);
        drop(metrics.received(None, Priority::Normal));
        let balance = metrics.balance();
        assert_eq!((balance.received, balance.held, balance.gap()), (2, 1, 1));
        kept.leave(Departure::Finished);
        assert_eq!(metrics.balance().gap(), 1);
    }

    #[test]
    fn every_scrape_balances_while_many_come_and_go() {
        const EACH: u64 = 20_000;
        let metrics = Metrics::new().unwrap();
        let number = NumberId::parse("1027").unwrap();
        std::thread::scope(|scope| {
            let come_and_go = |how: Departure| {
                let (metrics, number) = (&metrics, &number);
                move || {
                    (0..EACH)
                        .for_each(|_| metrics.received(Some(number), Priority::Normal).leave(how))
                }
            };
            let busy =
                [Departure::Finished, Departure::Void].map(|how| scope.spawn(come_and_go(how)));
            while !busy.iter().all(|thread| thread.is_finished()) {
                let page = metrics.render().unwrap();
                assert!(page.contains("chakra_sender_conservation_gap 0"), "{page}");
                let sum = |name: &str| -> u64 {
                    let lines = page.lines().filter(|line| line.starts_with(name));
                    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
                };
                let [received, settled, held] =
                    ["jobs_received_total{", "jobs_settled_total{", "held_jobs "]
                        .map(|name| sum(&format!("chakra_sender_{name}")));
                assert_eq!(received, settled + held);
            }
        });
        assert_eq!(metrics.balance().received, 2 * EACH);
    }
}
