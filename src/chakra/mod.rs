//! ChakraHQ over HTTP: the only place that knows ChakraHQ's JSON and Meta's numbers.
//!
//! [`Client`] makes the calls and decides nothing. What an answer means is read by `envelope`,
//! looked up in `codes` and put into our words by `classify`: these are quiet, they take values and
//! the time and return values. Nothing here retries, waits or limits.

mod chats;
mod classify;
mod client;
mod codes;
mod envelope;
mod exchange;
mod later;
mod listing;
mod plugins;
mod redact;
mod retry_after;
mod token;

pub use client::{Client, ClientError, ClientSettings};
pub use codes::{Codes, Line, Override, Row, Verdict, is_maintenance, rows};
pub use listing::LookError;
pub use plugins::{Plugin, PluginError, PluginNumber, Webhooks};
pub use token::NewTokens;
