//! Conservation: every delivery that enters this worker leaves it in one named way, or is still here.
//! received = settled + held, at every instant and within every scrape.
//!
//! What is held is counted from the tokens that exist, never by subtraction. So a delivery that was
//! let slip, settled in no way, shows as a gap. It knows no job: what becomes of one is told to it.

use super::declare::{About, Counters, Declare, Lane, Word, words};
use crate::wire::{NumberId, Priority};
use prometheus::core::{Collector, Desc};
use prometheus::{Error, IntCounter, IntGauge, proto};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

words! {
    /// In which way a delivery left.
    pub enum Departure as "how" {
        /// Its job has its outcome.
        Finished = "finished",
        /// Its job is in the dead letters.
        DeadLetter = "dead-letter",
        /// Its job waits and comes back by itself.
        Rescheduled = "rescheduled",
        /// Its job was moved into the lane that it lacked.
        Moved = "moved",
        /// It was given back unchanged, to be delivered again.
        Returned = "returned",
        /// It was not ours any more: the queue delivers it again, or has. Its outcome, if it had one by
        /// then, was recorded all the same.
        Void = "void",
    }
}

const WAYS: usize = Departure::ALL.len();

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
    settled: [u64; WAYS],
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
            write!(f, " {}={}", how.name(), self.settled(*how))?;
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
    received: Counters<(Lane, Priority)>,
    total: u64,
    settled: Counters<Departure>,
    /// Its children, in the order of [`Departure`]: each is shown from the start.
    settled_by: [IntCounter; WAYS],
    held: IntGauge,
    gap: IntGauge,
}

impl Pages {
    fn shown(&self) -> [&dyn Collector; 4] {
        [self.received.collector(), self.settled.collector(), &self.held, &self.gap]
    }

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
    /// An empty book. What it has is registered together, so that a scrape balances.
    pub(super) fn declare(new: &mut Declare) -> Result<Conservation, Error> {
        let received = new.unregistered_counters::<(Lane, Priority)>(About {
            name: "jobs_received_total",
            help: "Deliveries that reached this worker, redeliveries included. A job without a lane counts \
                   as it comes (number unknown) and again as it comes by its lane.",
            tells: "What producers ask for, by number. None for a while is a silent producer or a lane that \
                    stands: look at `lane_ready`.",
        })?;
        let settled = new.unregistered_counters::<Departure>(About {
            name: "jobs_settled_total",
            help: "Deliveries that left this worker, by how: finished (it has its outcome), dead-letter, \
                   rescheduled (it waits and comes back), moved (into the lane that it lacked), returned \
                   (given back unchanged), void (not ours any more: it comes again).",
            tells: "Much `rescheduled` against `finished`: jobs go round, see `reschedules_total`. `returned` \
                    and `void` come with drains, handovers and lost connections, and stop with them.",
        })?;
        let held = new.unregistered_gauge(About {
            name: "held_jobs",
            help: "Deliveries in this worker, counted one by one.",
            tells: "Never far above `worker.max_held`. 0 while `lane_ready` is not: this worker is given \
                    nothing.",
        })?;
        let gap = new.unregistered_gauge(About {
            name: "conservation_gap",
            help: "Deliveries received that neither left nor are held. Anything but 0 is a defect.",
            tells: "Anything but 0: a job slipped away inside the worker. A restart has the broker deliver it \
                    again; please report it.",
        })?;
        let settled_by = std::array::from_fn(|at| settled.of(Departure::ALL[at]));
        let pages = Pages { received, total: 0, settled, settled_by, held, gap };
        let descriptions = pages.shown().iter().flat_map(|metric| metric.desc()).cloned().collect();
        let book = Book { pages: Mutex::new(pages), presence: Arc::default(), descriptions };
        new.register(Conservation(Arc::new(book)))
    }

    /// A delivery enters.
    pub(super) fn received(&self, lane: Option<&NumberId>, priority: Priority) -> Token {
        let mut pages = self.0.open();
        pages.total += 1;
        pages.received.of((lane, priority)).inc();
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
        pages.shown().iter().flat_map(|metric| metric.collect()).collect()
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
        for entered in 1..=WAYS as u64 {
            tokens.push(metrics.received(None, Priority::Normal));
            let balance = metrics.balance();
            assert_eq!((balance.received, balance.held, balance.gap()), (entered, entered, 0));
        }
        for (how, token) in Departure::ALL.iter().copied().zip(tokens) {
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
