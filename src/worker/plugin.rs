//! Asks the plugin for its numbers: at the start, from time to time, and when somebody wants to know.
//! Who asks is one task, and all see the same answer: as a listing, and as the numbers' rates. Decides
//! nothing about a lane, and stops nothing: where the plugin cannot be asked, what is known stays.

use crate::chakra::{Client, Plugin};
use crate::clock;
use crate::limiter::Rates;
use crate::queue::{Answer, Listed, Listing, PluginNumbers, Refresher};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Who did not get an answer asks again after this, or sooner where it asks more often anyway: a worker
/// that started while ChakraHQ was down would pace all numbers at the lowest rate for minutes.
const AGAIN: Duration = Duration::from_secs(30);

/// However many want to know, the plugin is not asked more often.
const AT_MOST_EVERY: Duration = Duration::from_secs(1);

/// What ChakraHQ says of a number with which nothing is wrong.
const WELL: &str = "CONNECTED";

/// The one who asks.
#[derive(Debug)]
pub struct PluginAsker {
    client: Client,
    every: Duration,
    refresher: Refresher,
    listing: watch::Sender<Listing>,
    rates: watch::Sender<Rates>,
}

impl PluginAsker {
    /// Asks every so often, and keeps the ceilings in `rates`; their other parts are left alone.
    pub fn new(client: Client, every: Duration, rates: watch::Sender<Rates>) -> PluginAsker {
        let (refresher, listing) = (Refresher::default(), watch::Sender::default());
        PluginAsker { client, every, refresher, listing, rates }
    }

    /// What is known, as it changes, and how to have it asked again.
    pub fn numbers(&self) -> PluginNumbers {
        PluginNumbers { listing: self.listing.subscribe(), refresher: self.refresher.clone() }
    }

    /// Asks at once, and goes on until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let asking = async {
            loop {
                self.ask().await;
                tokio::time::sleep(AT_MOST_EVERY).await;
                let pause = match self.listing.borrow().failure() {
                    None => self.every,
                    Some(_) => self.every.min(AGAIN),
                };
                let rest = pause.saturating_sub(AT_MOST_EVERY);
                // Either is a reason to ask.
                let _wanted = tokio::time::timeout(rest, self.refresher.wanted()).await;
            }
        };
        let _stopped = stop.run_until_cancelled(asking).await;
    }

    async fn ask(&self) {
        self.listing.send_if_modified(|listing| {
            listing.begin((clock::monotonic(), clock::wall()));
            // News is only what was heard.
            false
        });
        let answer = self.client.plugin().await.map(answer).map_err(|error| error.to_string());
        // Rates first: who makes a lane of what was listed finds its rate.
        let mut now = self.listing.borrow().clone();
        now.hear(answer);
        self.rates.send_if_modified(|rates| {
            let new = rates.clone().with_ceilings(now.ceilings());
            std::mem::replace(rates, new) != *rates
        });
        let before = self.listing.send_replace(now);
        tell(&before, &self.listing.borrow());
    }
}

fn answer(plugin: Plugin) -> Answer {
    let is_complete = plugin.is_complete();
    let listed = plugin.numbers.into_iter().map(|number| {
        let ceiling = number.ceiling();
        (number.id, Listed { ceiling, status: number.status })
    });
    Answer { numbers: listed.collect(), is_complete }
}

/// Each change once. IDs of numbers are no secret; their phone numbers are not known here.
fn tell(before: &Listing, now: &Listing) {
    match (before.failure(), now.failure()) {
        (was, Some(reason)) if was != Some(reason) => {
            tracing::warn!(reason, "the plugin's numbers cannot be asked for: the known ones stay");
        }
        (Some(_), None) => tracing::info!("the plugin tells its numbers again"),
        (_, Some(_)) | (None, None) => {}
    }
    let are_new = before.asked().is_none() || before.numbers().is_empty();
    if are_new && now.failure().is_none() {
        tracing::info!(numbers = now.numbers().len(), "the plugin's numbers");
    }
    for (number, listed) in now.numbers() {
        let known = before.get(number);
        if known.is_none() && !before.numbers().is_empty() {
            tracing::info!(%number, ceiling = listed.ceiling, "the plugin has a new number");
        }
        if known.is_some_and(|known| known.ceiling != listed.ceiling) {
            tracing::info!(%number, ceiling = listed.ceiling, "a number's ceiling has changed");
        }
        let status = listed.status.as_deref().filter(|status| *status != WELL);
        if let Some(status) = status
            && known.is_none_or(|known| known.status != listed.status)
        {
            tracing::warn!(%number, status, "ChakraHQ shows a number as not connected");
        }
    }
    for number in before.numbers().keys().filter(|number| now.get(number).is_none()) {
        tracing::warn!(%number, "the plugin has this number no more");
    }
}
