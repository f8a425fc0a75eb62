//! Every name in RabbitMQ. What stands behind each is `topology`'s.

use super::topology::Step;
use crate::wire::{NumberId, Priority};

/// All names of one prefix.
#[derive(Debug, Clone)]
pub struct Names {
    prefix: String,
}

impl Names {
    /// The names that begin with `prefix`.
    pub fn new(prefix: &str) -> Names {
        Names { prefix: prefix.to_owned() }
    }

    /// The exchange that producers publish to.
    pub fn sends(&self) -> String {
        format!("{}.sends", self.prefix)
    }

    /// One of a lane's two queues.
    pub fn lane(&self, number: &NumberId, priority: Priority) -> String {
        format!("{}.sends.{}", self.prefix, lane_key(number, priority))
    }

    /// Whether a queue is one of a lane's.
    pub fn is_lane(&self, queue: &str) -> bool {
        let rest = queue.strip_prefix(&self.prefix).and_then(|rest| rest.strip_prefix(".sends."));
        rest.and_then(read_lane_key).is_some()
    }

    /// The exchange and the queue of jobs without a lane, and of what the broker throws out of lanes.
    pub fn unrouted(&self) -> String {
        format!("{}.unrouted", self.prefix)
    }

    /// The stream that records the lanes.
    pub fn control(&self) -> String {
        format!("{}.control", self.prefix)
    }

    /// The exchange and the queue of one wait.
    pub fn wait(&self, step: Step) -> String {
        format!("{}.wait.{}", self.prefix, step.name())
    }

    /// Whether an exchange is that of a wait.
    pub fn is_wait(&self, exchange: &str) -> bool {
        Step::ALL.into_iter().any(|step| self.wait(step) == exchange)
    }

    /// The exchange by which workers tell each other that they are here.
    pub fn presence(&self) -> String {
        format!("{}.presence", self.prefix)
    }

    /// A queue of one reader of that exchange. It goes with its connection.
    pub fn presence_queue(&self, reader: u128) -> String {
        format!("{}.presence.{reader:032x}", self.prefix)
    }

    /// Whether a queue is such a reader's.
    pub fn is_presence_queue(&self, queue: &str) -> bool {
        let reader = queue.strip_prefix(&self.presence()).and_then(|rest| rest.strip_prefix('.'));
        reader.is_some_and(|reader| reader.len() == 32)
    }

    /// The exchange that events go to, and the queue that keeps them.
    pub fn results(&self) -> String {
        format!("{}.results", self.prefix)
    }

    /// A queue by which one worker hears statuses. It goes with its connection.
    pub fn statuses_queue(&self, reader: u128) -> String {
        format!("{}.statuses.{reader:032x}", self.prefix)
    }

    /// The queue of originals that a person may want to repair.
    pub fn dead_letters(&self) -> String {
        format!("{}.dead-letters", self.prefix)
    }
}

/// The routing key of a job: `<number>` or `<number>.urgent`.
pub fn lane_key(number: &NumberId, priority: Priority) -> String {
    match priority {
        Priority::Normal => number.to_string(),
        Priority::Urgent => format!("{number}.urgent"),
    }
}

/// Reads a routing key; none where it is neither of the two forms.
pub fn read_lane_key(key: &str) -> Option<(NumberId, Priority)> {
    let (number, priority) = match key.strip_suffix(".urgent") {
        Some(number) => (number, Priority::Urgent),
        None => (key, Priority::Normal),
    };
    Some((NumberId::parse(number).ok()?, priority))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_routing_key_is_a_number_or_a_number_and_urgent() {
        for priority in [Priority::Normal, Priority::Urgent] {
            let lane = (NumberId::parse("1027").unwrap(), priority);
            assert_eq!(read_lane_key(&lane_key(&lane.0, lane.1)), Some(lane));
        }
        for key in ["", ".urgent", "1027.normal", "1027.urgent.urgent", "order", "+491"] {
            assert_eq!(read_lane_key(key), None, "{key}");
        }
        let names = Names::new("chakra");
        assert!(names.is_lane("chakra.sends.1027") && names.is_lane("chakra.sends.1027.urgent"));
        assert!(!names.is_lane("chakra.wait.1s") && !names.is_lane("other.sends.1027"));
    }
}
