//! Decisions as values: what an answer means for a job, and when it is tried again. Never awaits,
//! reads no clock, rolls no dice; knows neither HTTP nor AMQP nor Meta's numbers.

mod conclude;
mod failure;
mod history;
mod retry;
mod timing;

pub use conclude::{
    Reschedule, Settlement, Why, conclude, expired, given_back, later, turned_away, unreadable,
};
pub use failure::{Answer, Failure};
pub use history::History;
pub use retry::RetryPolicy;
pub use timing::{Timing, is_expired, keeps_promise, rest, timing};
