//! The only place that reads the clocks. Everything quiet takes `now` as an argument.

use jiff::Timestamp;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// The wall clock, for times that other programs read. Whole milliseconds: what events, headers and
/// the ledger keep, so that a time which was written compares equal when it is read back.
#[expect(clippy::disallowed_methods, reason = "this is the edge where the clock is read")]
pub fn wall() -> Timestamp {
    // Not by `Timestamp::now`, which costs more: each job asks some twenty times.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let millis = since.as_secs().saturating_mul(1_000).saturating_add(since.subsec_millis().into());
    let millis = i64::try_from(millis).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX)
}

/// The monotonic clock, for waits and limits.
pub fn monotonic() -> Instant {
    Instant::now()
}
