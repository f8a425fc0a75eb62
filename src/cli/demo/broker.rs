//! The demo through a broker: under names of its own, which are deleted at the end.

use crate::cli::parts;
use crate::clock;
use crate::config::Settings;
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::queue::file::OnResult;
use crate::queue::rabbitmq::{
    Accept, Follower, Producer, RabbitQueue, RabbitSettings, delete_everything,
};
use crate::wire::{ResultEvent, SendJob};
use crate::worker::Worker;
use bytes::Bytes;
use secrecy::SecretString;
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The settings through this broker, under a prefix that nobody else uses.
pub(super) fn settings(mut settings: Settings, uri: String) -> Settings {
    settings.rabbitmq.uris = vec![SecretString::from(uri)];
    settings.rabbitmq.prefix = format!("chakra-demo-{:08x}", fastrand::u32(..));
    settings
}
