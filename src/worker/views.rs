//! What the worker believes of each of its numbers, for `/numbers`, `numbers list` and the metrics, and
//! the rates that it goes by. Decides nothing.

use super::account::Account;
use super::lanes::Lane;
use super::lock;
use crate::clock;
use crate::limiter::{Rate, Rates, Source};
use crate::wire::NumberId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The metrics of all lanes are compared with the truth so often: a rate that climbs and a pause that
/// ends do so without an event. A thousand lanes take less than a millisecond.
const SHOW_EVERY: Duration = Duration::from_secs(1);

/// One number as its worker sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LaneView {
    /// Meta's phone number ID.
    pub number: NumberId,
    /// The pace in jobs a second that holds now.
    pub rate: f64,
    /// Who says so: a word of the limiter, or `learned`.
    pub source: String,
    /// Jobs in this worker that wait for the number's pace.
    pub waiting: usize,
    /// Requests under way.
    pub in_flight: usize,
    /// Until when the number is left alone, after an answer that asked for it.
    pub held_until: Option<Timestamp>,
    /// What that answer said, as a short word.
    pub held_for: Option<String>,
}

/// All numbers of a worker, as they are when asked; clones are the same.
#[derive(Debug, Clone)]
pub struct LaneViews {
    all: Arc<Mutex<All>>,
    account: Arc<Account>,
}

#[derive(Debug)]
struct All {
    lanes: HashMap<NumberId, Arc<Lane>>,
    rates: Rates,
}

impl LaneViews {
    pub(super) fn new(rates: Rates, account: Arc<Account>) -> LaneViews {
        LaneViews { all: Arc::new(Mutex::new(All { lanes: HashMap::new(), rates })), account }
    }

    /// By number.
    pub fn list(&self) -> Vec<LaneView> {
        let now = (clock::monotonic(), clock::wall());
        let all = lock(&self.all);
        let mut views: Vec<LaneView> =
            all.lanes.iter().map(|(number, lane)| lane.view(number, now)).collect();
        views.sort_by(|one, other| one.number.cmp(&other.number));
        views
    }

    /// Goes on with other rates, in all lanes that there are and those to come. No debt is lost, no
    /// burst granted; what was learned below the new rate stays.
    pub fn retune(&self, rates: &Rates) {
        let mut all = lock(&self.all);
        all.rates = rates.clone();
        for (number, lane) in &all.lanes {
            lane.retune(rates.of(number));
        }
    }

    /// The same for the account's own pace; none is no limit.
    pub fn retune_account(&self, rate: Option<Rate>) {
        self.account.retune(rate);
    }

    /// The number's lane, which is made at its first job; none where there are `most` already.
    pub(super) fn lane(
        &self,
        number: &NumberId,
        most: usize,
        make: impl FnOnce((Rate, Source)) -> Arc<Lane>,
    ) -> Option<Arc<Lane>> {
        let mut all = lock(&self.all);
        if let Some(lane) = all.lanes.get(number) {
            return Some(Arc::clone(lane));
        }
        if all.lanes.len() >= most {
            return None;
        }
        let lane = make(all.rates.of(number));
        all.lanes.insert(number.clone(), Arc::clone(&lane));
        Some(lane)
    }

    /// Keeps the metrics true, until it is dropped.
    pub(super) async fn keep_shown(self) {
        let mut ticks = tokio::time::interval(SHOW_EVERY);
        loop {
            ticks.tick().await;
            let now = clock::monotonic();
            let is_account_paused = self.account.held_until(now).is_some();
            for lane in lock(&self.all).lanes.values() {
                lane.show(now, is_account_paused);
            }
        }
    }
}
