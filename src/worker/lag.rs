//! How long the job at the head of a lane has been ready to be sent, as far as can be told without looking
//! at it: it stands in the broker. Jobs leave each of a lane's queues about in the order in which they came
//! to it, so its head is about as old as the one that left last, and not older than the moment at which
//! nothing waited. Quiet: times come as arguments.

use super::lock;
use crate::policy;
use crate::queue::Ready;
use crate::wire::Priority;
use jiff::Timestamp;
use std::sync::Mutex;
use std::time::Duration;

/// Of one lane.
#[derive(Debug, Clone)]
pub(super) struct Lag {
    urgent: Head,
    normal: Head,
}

/// The head of one of its queues.
#[derive(Debug, Clone, Copy)]
struct Head {
    /// Jobs in this worker that wait for their turn.
    in_line: usize,
    /// Since when the one that left last was ready, or when nothing waited.
    since: Timestamp,
}

impl Head {
    fn age(&mut self, ready: u32, now: Timestamp) -> Duration {
        if self.in_line == 0 && ready == 0 {
            self.since = now;
        }
        // A producer's clock may be ahead of ours.
        policy::rest(now, self.since)
    }
}

impl Lag {
    /// Of a lane of which nothing was known before.
    pub(super) fn new(now: Timestamp) -> Lag {
        let head = Head { in_line: 0, since: now };
        Lag { urgent: head, normal: head }
    }

    /// The longer one of its two queues, with so many ready in the broker; zero where nothing waits. To be
    /// asked often: what it does not see to be empty was not.
    pub(super) fn oldest(&mut self, ready: Ready, now: Timestamp) -> Duration {
        self.urgent.age(ready.urgent, now).max(self.normal.age(ready.normal, now))
    }

    /// Jobs in this worker that wait for their turn.
    pub(super) fn in_line(&self) -> usize {
        self.urgent.in_line + self.normal.in_line
    }

    fn head(&mut self, priority: Priority) -> &mut Head {
        match priority {
            Priority::Urgent => &mut self.urgent,
            Priority::Normal => &mut self.normal,
        }
    }
}

/// One job that waits for its turn. It leaves when this is dropped.
pub(super) struct InLine<'a> {
    lag: &'a Mutex<Lag>,
    priority: Priority,
}

impl InLine<'_> {
    pub(super) fn join(lag: &Mutex<Lag>, priority: Priority) -> InLine<'_> {
        lock(lag).head(priority).in_line += 1;
        InLine { lag, priority }
    }

    /// It has its turn, and was ready since then.
    pub(super) fn taken_up(self, ready_since: Timestamp) {
        lock(self.lag).head(self.priority).since = ready_since;
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        lock(self.lag).head(self.priority).in_line -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Ready = Ready { urgent: 0, normal: 0 };
    const BACKLOG: Ready = Ready { urgent: 0, normal: 500 };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn oldest(lag: &Mutex<Lag>, ready: Ready, second: i64) -> u64 {
        lock(lag).oldest(ready, at(second)).as_secs()
    }

    fn lag() -> Mutex<Lag> {
        Mutex::new(Lag::new(at(0)))
    }

    /// A job is taken up at once.
    fn take(lag: &Mutex<Lag>, priority: Priority, ready_since: i64) {
        InLine::join(lag, priority).taken_up(at(ready_since));
    }

    #[test]
    fn a_backlog_that_flows_is_as_old_as_the_job_that_left_last() {
        let lag = lag();
        for second in 100..110 {
            take(&lag, Priority::Normal, second - 60);
            assert_eq!(oldest(&lag, BACKLOG, second), 60);
        }
        assert_eq!(oldest(&lag, NOTHING, 110), 0, "all has left");
    }

    #[test]
    fn while_a_lane_stands_it_grows_with_the_time_since_the_last_one_left() {
        let lag = lag();
        take(&lag, Priority::Normal, 100);
        for (second, age) in [(100, 0), (130, 30), (3_700, 3_600)] {
            assert_eq!(oldest(&lag, BACKLOG, second), age);
        }
    }

    #[test]
    fn what_comes_to_a_lane_that_stands_is_not_older_than_the_moment_when_nothing_waited() {
        let lag = lag();
        take(&lag, Priority::Normal, 10);
        assert_eq!(oldest(&lag, NOTHING, 500), 0);
        assert_eq!(oldest(&lag, BACKLOG, 520), 20);
    }

    #[test]
    fn jobs_in_hand_that_get_no_turn_count_and_one_that_gives_up_does_not() {
        let lag = lag();
        let place = InLine::join(&lag, Priority::Normal);
        let urgent = InLine::join(&lag, Priority::Urgent);
        assert_eq!((oldest(&lag, NOTHING, 40), lock(&lag).in_line()), (40, 2));
        drop((place, urgent));
        assert_eq!((oldest(&lag, NOTHING, 41), lock(&lag).in_line()), (0, 0));
    }

    #[test]
    fn urgent_jobs_that_overtake_a_backlog_do_not_make_it_younger() {
        let lag = lag();
        take(&lag, Priority::Normal, 100);
        take(&lag, Priority::Urgent, 699);
        assert_eq!(oldest(&lag, BACKLOG, 700), 600);
    }

    #[test]
    fn a_producers_clock_that_is_ahead_makes_no_age() {
        let lag = lag();
        take(&lag, Priority::Normal, 1_000);
        assert_eq!(oldest(&lag, BACKLOG, 10), 0);
    }
}
