//! Decisions as values: what an answer means for a job, and when it is tried again. Never awaits,
//! reads no clock, rolls no dice; knows neither HTTP nor AMQP nor Meta's numbers.

mod conclude;
mod doubt;
mod drop;
mod failure;
mod history;
mod recall;
mod retry;
mod sight;
mod timing;

use conclude::after;
pub use conclude::{
    Reschedule, Settlement, Why, accepted, conclude, expired, given_back, later, turned_away,
    unreadable,
};
pub use doubt::{
    Doubt, DoubtPolicy, Match, Sighting, Strength, Verdict, found, in_doubt, is_told, judge,
    look_crowded, look_due, read_chat, sent_after,
};
pub use drop::{DROPPED, DropRule, MetadataFilter, dropped, drops};
pub use failure::{Answer, Failure};
pub use history::History;
pub use recall::{Outcome, Past, Standing, recall};
pub use retry::RetryPolicy;
pub use sight::{Form, Sight};
pub use timing::{Timing, is_expired, keeps_promise, ready_since, rest, timing};
