//! The only place that reads the clocks. Everything quiet takes `now` as an argument.

use jiff::Timestamp;
use tokio::time::Instant;

/// The wall clock, for times that other programs read. Whole milliseconds: what events, headers and
/// the ledger keep, so that a time which was written compares equal when it is read back.
#[expect(clippy::disallowed_methods, reason = "this is the edge where the clock is read")]
pub fn wall() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}

/// The monotonic clock, for waits and limits.
pub fn monotonic() -> Instant {
    Instant::now()
}
