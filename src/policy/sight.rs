//! Whether looking is to be believed: only where it has been seen to work. For each type of message,
//! and apart for numbers that Meta files under another form, it is known when an accepted message was
//! last found in its chat, and how long that took at most.

use crate::wire::Recipient;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// A proof is good for so long.
const PROOF_LASTS: Duration = Duration::from_secs(3_600);

/// With traffic, it is proven anew after this.
const PROVE_AGAIN: Duration = Duration::from_secs(60);

/// Types that are remembered. Meta has about fifteen.
const MAX_TYPES: usize = 100;

/// What is known of looking, over all types.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sight(BTreeMap<String, Proof>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Proof {
    /// When a message was last seen; none: the last one was not.
    seen: Option<Timestamp>,
    /// The longest time that one took.
    lag: Duration,
    /// When it was last tried.
    tried: Timestamp,
}

impl Sight {
    /// How long a message of this type takes until it shows; none where it is not known to show.
    pub fn lag(&self, kind: &str, recipient: &Recipient, now: Timestamp) -> Option<Duration> {
        let proof = self.0.get(&class(kind, recipient))?;
        let seen = proof.seen?;
        (since(seen, now) <= PROOF_LASTS).then_some(proof.lag)
    }

    /// Whether an accepted message is to be looked for now; then that counts as tried.
    pub fn takes(&mut self, kind: &str, recipient: &Recipient, now: Timestamp) -> bool {
        let (class, full) = (class(kind, recipient), self.0.len() >= MAX_TYPES);
        match self.0.get_mut(&class) {
            Some(proof) if since(proof.tried, now) < PROVE_AGAIN => false,
            Some(proof) => {
                proof.tried = now;
                true
            }
            None if full => false,
            None => {
                self.0.insert(class, Proof { seen: None, lag: Duration::ZERO, tried: now });
                true
            }
        }
    }

    /// A message that was accepted then shows by now.
    pub fn saw(&mut self, kind: &str, recipient: &Recipient, accepted: Timestamp, now: Timestamp) {
        if let Some(proof) = self.0.get_mut(&class(kind, recipient)) {
            proof.seen = Some(now);
            proof.lag = proof.lag.max(since(accepted, now));
        }
    }

    /// A message does not show, after all that time: what was proven is proven no more.
    pub fn missed(&mut self, kind: &str, recipient: &Recipient) {
        if let Some(proof) = self.0.get_mut(&class(kind, recipient)) {
            proof.seen = None;
        }
    }
}

/// A number that is filed under another form is looked for in two places: a proof for others says
/// nothing of it.
fn class(kind: &str, recipient: &Recipient) -> String {
    match recipient.chat_numbers().len() {
        0 | 1 => kind.to_owned(),
        _ => format!("{kind} {}", recipient.key().chars().take(2).collect::<String>()),
    }
}

fn since(then: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn german() -> Recipient {
        Recipient::from_to("+4915123456789")
    }

    fn mexican() -> Recipient {
        Recipient::from_to("+5215512345678")
    }

    #[test]
    fn nothing_is_believed_until_one_message_was_seen() {
        let mut sight = Sight::default();
        assert_eq!(sight.lag("text", &german(), at(0)), None);
        assert!(sight.takes("text", &german(), at(0)));
        assert_eq!(sight.lag("text", &german(), at(1)), None);
        sight.saw("text", &german(), at(0), at(5));
        assert_eq!(sight.lag("text", &german(), at(6)), Some(Duration::from_secs(5)));
        assert_eq!(sight.lag("image", &german(), at(6)), None, "another type");
        assert_eq!(sight.lag("text", &mexican(), at(6)), None, "filed in another way");
    }

    #[test]
    fn the_longest_lag_counts() {
        let mut sight = Sight::default();
        for (accepted, seen) in [(0, 2), (100, 120), (200, 201)] {
            assert!(sight.takes("text", &german(), at(accepted)));
            sight.saw("text", &german(), at(accepted), at(seen));
        }
        assert_eq!(sight.lag("text", &german(), at(202)), Some(Duration::from_secs(20)));
    }

    #[test]
    fn a_proof_is_renewed_once_in_a_minute_and_lapses_after_an_hour() {
        let mut sight = Sight::default();
        assert!(sight.takes("text", &german(), at(0)));
        sight.saw("text", &german(), at(0), at(1));
        assert!(!sight.takes("text", &german(), at(59)));
        assert!(sight.takes("text", &german(), at(60)));
        assert!(sight.lag("text", &german(), at(3_601)).is_some());
        assert!(sight.lag("text", &german(), at(3_602)).is_none());
    }

    #[test]
    fn one_message_that_does_not_show_ends_the_proof() {
        let mut sight = Sight::default();
        assert!(sight.takes("text", &german(), at(0)));
        sight.saw("text", &german(), at(0), at(1));
        sight.missed("text", &german());
        assert_eq!(sight.lag("text", &german(), at(2)), None);
    }

    #[test]
    fn it_is_written_and_read_back() {
        let mut sight = Sight::default();
        assert!(sight.takes("text", &mexican(), at(0)));
        sight.saw("text", &mexican(), at(0), at(1));
        let written = serde_json::to_vec(&sight).unwrap();
        assert_eq!(serde_json::from_slice::<Sight>(&written).unwrap(), sight);
    }
}
