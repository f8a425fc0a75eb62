//! Which lanes were found open, so that the inbox is not asked for each job; and which did not open, so
//! that not each of their jobs waits in hand for that, and holds up those of other numbers. Asks nobody.

use crate::wire::NumberId;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// Numbers remembered at once, more than may have a lane. All are forgotten when there are more.
const MOST: usize = 4_096;

/// A lane that did not open is asked for again after this.
const SHUT: Duration = Duration::from_secs(5);

/// And one that is open too, so that a lane which lost its binding is bound again while its jobs come.
const OPEN: Duration = Duration::from_secs(1);

/// What is known of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    /// Its queues stand.
    Open,
    /// It did not open, and is not to be waited for now.
    Shut,
}

/// What is remembered of the lanes.
#[derive(Debug, Default)]
pub(super) struct Doors(HashMap<NumberId, (Door, Instant)>);

impl Doors {
    /// None: ask.
    pub(super) fn look(&self, number: &NumberId, now: Instant) -> Option<Door> {
        let (door, at) = self.0.get(number)?;
        let lasts = match door {
            Door::Open => OPEN,
            Door::Shut => SHUT,
        };
        (now < *at + lasts).then_some(*door)
    }

    /// What came of asking.
    pub(super) fn note(&mut self, number: &NumberId, door: Door, now: Instant) {
        if self.0.len() >= MOST {
            self.0.clear();
        }
        self.0.insert(number.clone(), (door, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_lane_is_asked_for_again_after_a_while() {
        let (mut doors, now) = (Doors::default(), clock::monotonic());
        let number = NumberId::parse("1").unwrap();
        assert_eq!(doors.look(&number, now), None);
        doors.note(&number, Door::Shut, now);
        assert_eq!(doors.look(&number, now), Some(Door::Shut));
        assert_eq!(doors.look(&number, now + SHUT), None);
        doors.note(&number, Door::Open, now);
        assert_eq!(doors.look(&number, now), Some(Door::Open));
        assert_eq!(doors.look(&number, now + OPEN), None);
    }

    #[test]
    fn strangers_do_not_fill_the_memory() {
        let (mut doors, now) = (Doors::default(), clock::monotonic());
        for number in 0..3 * MOST {
            doors.note(&NumberId::parse(&number.to_string()).unwrap(), Door::Open, now);
        }
        assert!(doors.0.len() <= MOST);
    }
}
