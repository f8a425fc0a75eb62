//! The only place that reads the clocks. Everything quiet takes `now` as an argument.

use jiff::Timestamp;
use tokio::time::Instant;

/// The wall clock, for times that other programs read.
#[expect(clippy::disallowed_methods, reason = "this is the edge where the clock is read")]
pub fn wall() -> Timestamp {
    Timestamp::now()
}

/// The monotonic clock, for waits and limits.
pub fn monotonic() -> Instant {
    Instant::now()
}
