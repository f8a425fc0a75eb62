//! What the demo's consumer was told: results, and what became of messages later. Everything as it reads
//! it from events.

use super::table::Outcome;
use crate::cli::webhook::Outlet;
use crate::clock;
use crate::sandbox::Record;
use crate::wire::DeliveryStatus;
use futures_util::FutureExt;
use indicatif::ProgressBar;
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// Statuses come within 3 s after the last send (`[webhook]` of config/demo.toml). What has not come by
/// then is not waited for.
const STATUSES_AT_MOST: Duration = Duration::from_secs(5);

/// What has come so far; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Gathered {
    told: watch::Sender<Told>,
    bar: ProgressBar,
    /// The sandbox's book: it says when nothing more is to come.
    book: Arc<Record>,
}

/// All that was told.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    pub(super) results: Vec<Outcome>,
    pub(super) last_result: Option<Instant>,
    pub(super) statuses: HashMap<DeliveryStatus, u64>,
    /// Statuses that the broker has taken; some are still on their way to the consumer.
    published: u64,
}

/// An event, as far as the demo shows it.
#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Event {
    Result(Outcome),
    Status { status: DeliveryStatus },
}

impl Gathered {
    pub(super) fn new(bar: ProgressBar, book: Arc<Record>) -> Gathered {
        Gathered { told: watch::Sender::default(), bar, book }
    }

    /// Takes an event as a consumer gets it.
    pub(super) fn take(&self, event: &[u8]) {
        match serde_json::from_slice(event) {
            Ok(Event::Result(outcome)) => {
                self.told.send_modify(|told| {
                    told.results.push(outcome);
                    told.last_result = Some(clock::monotonic());
                });
                self.bar.inc(1);
            }
            Ok(Event::Status { status }) => {
                self.told.send_modify(|told| *told.statuses.entry(status).or_default() += 1);
            }
            Err(error) => tracing::error!(%error, "an event that its own consumer cannot read"),
        }
    }

    /// Counts what goes out here: so much is to be heard.
    pub(super) fn expecting(&self, outlet: Outlet) -> Outlet {
        let (told, Outlet { publish, has_lane }) = (self.told.clone(), outlet);
        let publish = move |event| {
            let (told, published) = (told.clone(), publish(event));
            async move {
                let published = published.await;
                told.send_modify(|told| told.published += u64::from(published));
                published
            }
            .boxed()
        };
        Outlet { publish: Box::new(publish), has_lane }
    }

    /// Comes with so many results.
    pub(super) async fn results(&self, count: usize) {
        self.until(|told| told.results.len() >= count).await;
    }

    /// Comes when all statuses that the sandbox has planned were heard of, or will not be in time.
    pub(super) async fn last_status(&self) {
        self.bar.set_message("waiting for the last statuses");
        let last = async {
            self.book.wait_for(nothing_waits).await;
            self.until(|told| told.statuses.values().sum::<u64>() >= told.published).await;
        };
        if timeout(STATUSES_AT_MOST, last).await.is_err() {
            tracing::warn!("some statuses did not come in time");
        }
    }

    pub(super) fn all(&self) -> Told {
        self.told.borrow().clone()
    }

    async fn until(&self, is_so: impl FnMut(&Told) -> bool) {
        // It fails when the sender is gone, and that is here.
        drop(self.told.subscribe().wait_for(is_so).await);
    }
}

/// Whether each webhook that was planned has found its end.
fn nothing_waits(book: &Record) -> bool {
    let counts = book.webhook_counts();
    counts.planned == counts.acknowledged + counts.given_up + counts.dropped
}
