//! Which deliveries of one channel may be acknowledged with one frame. Decides, writes nothing.
//!
//! A frame that says `multiple` acknowledges all up to its tag, also what nobody here has seen yet (AMQP 0-9-1,
//! `basic.ack`). So it is made only where each tag up to its own is known to be through.

use lapin::types::DeliveryTag;
use std::collections::BTreeSet;

/// What one frame acknowledges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) tag: DeliveryTag,
    /// All up to the tag.
    pub(super) multiple: bool,
}

/// The deliveries of one channel, from its first.
#[derive(Debug, Default)]
pub(super) struct Tags {
    /// The highest that is through: acknowledged, or given back.
    highest: DeliveryTag,
    /// Those below that are not: no more than the broker has outstanding.
    missing: BTreeSet<DeliveryTag>,
}

impl Tags {
    /// The fewest frames that acknowledge these, each of which was delivered and is not acknowledged yet, and
    /// nothing else.
    pub(super) fn acknowledge(&mut self, finished: &[DeliveryTag]) -> Vec<Frame> {
        for tag in finished {
            self.through(*tag);
        }
        // All below it are through.
        let gap = self.missing.first().copied().unwrap_or(DeliveryTag::MAX);
        let (below, above): (Vec<_>, Vec<_>) = finished.iter().partition(|tag| **tag < gap);
        let together = below.iter().max().map(|tag| Frame { tag: *tag, multiple: below.len() > 1 });
        let singly = above.into_iter().map(|tag| Frame { tag, multiple: false });
        together.into_iter().chain(singly).collect()
    }

    /// One is acknowledged, or was given back.
    pub(super) fn through(&mut self, tag: DeliveryTag) {
        if tag > self.highest {
            self.missing.extend(self.highest + 1..tag);
            self.highest = tag;
        } else {
            self.missing.remove(&tag);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn one(tag: DeliveryTag) -> Frame {
        Frame { tag, multiple: false }
    }

    fn all_to(tag: DeliveryTag) -> Frame {
        Frame { tag, multiple: true }
    }

    #[test]
    fn those_that_end_in_their_order_share_a_frame() {
        let mut tags = Tags::default();
        assert_eq!(tags.acknowledge(&[1]), [one(1)]);
        assert_eq!(tags.acknowledge(&[4, 2, 3]), [all_to(4)]);
        assert_eq!(tags.acknowledge(&[]), []);
    }

    #[test]
    fn one_that_is_still_in_hand_is_passed_over() {
        let mut tags = Tags::default();
        assert_eq!(tags.acknowledge(&[2, 3]), [one(2), one(3)]);
        assert_eq!(tags.acknowledge(&[4, 6, 1]), [all_to(4), one(6)]);
        assert_eq!(tags.acknowledge(&[5]), [one(5)]);
    }

    #[test]
    fn one_that_was_given_back_is_in_nobodys_way() {
        let mut tags = Tags::default();
        tags.through(2);
        assert_eq!(tags.acknowledge(&[1, 3]), [all_to(3)]);
        tags.through(4);
        assert_eq!(tags.acknowledge(&[6, 5]), [all_to(6)]);
    }

    #[test]
    fn one_that_stays_in_hand_makes_nothing_grow_and_is_forgotten_once_it_ends() {
        let mut tags = Tags::default();
        for tag in 2..=100_000 {
            assert_eq!(tags.acknowledge(&[tag]), [one(tag)]);
        }
        assert_eq!(tags.missing.len(), 1);
        assert_eq!(tags.acknowledge(&[1]), [one(1)]);
        assert_eq!(tags.acknowledge(&[100_001, 100_002]), [all_to(100_002)]);
    }

    proptest! {
        #[test]
        fn whatever_the_order_each_is_acknowledged_once_and_none_that_is_in_hand(
            order in Just((1..=60_u64).collect::<Vec<_>>()).prop_shuffle(),
            ends in prop::collection::vec((1..8_usize, any::<bool>()), 60),
        ) {
            let (mut tags, mut rest) = (Tags::default(), &order[..]);
            // As the broker sees it.
            let mut outstanding: BTreeSet<u64> = order.iter().copied().collect();
            let mut in_hand = outstanding.clone();
            for (count, is_given_back) in ends {
                let (finished, later) = rest.split_at(count.min(rest.len()));
                rest = later;
                in_hand.retain(|tag| !finished.contains(tag));
                if is_given_back {
                    for tag in finished {
                        prop_assert!(outstanding.remove(tag));
                        tags.through(*tag);
                    }
                    continue;
                }
                for Frame { tag, multiple } in tags.acknowledge(finished) {
                    // Else the broker closes the channel.
                    prop_assert!(outstanding.remove(&tag));
                    outstanding.retain(|other| !multiple || *other > tag);
                }
                prop_assert!(outstanding.is_superset(&in_hand));
                prop_assert!(finished.iter().all(|tag| !outstanding.contains(tag)));
            }
        }
    }
}
