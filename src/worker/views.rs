//! What the worker believes of each of its numbers, for `/numbers`, `numbers list` and the metrics, and
//! the rates that it goes by. Decides nothing.

use super::account::Account;
use super::lag::Lag;
use super::lanes::Lane;
use super::lock;
use super::step::{Word, millis_or_null};
use crate::clock;
use crate::fast_map::FastMap;
use crate::limiter::{Rate, Rates, Source};
use crate::metrics::{Metrics, RateSource};
use crate::queue::{Ready, Served};
use crate::wire::NumberId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// The metrics of all lanes are compared with the truth so often: a rate that climbs and a pause that
/// ends do so without an event.
const SHOW_EVERY: Duration = Duration::from_secs(1);

/// Who knows an idle lane: the list of lanes, and who hands out its turns.
const IDLE: usize = 2;

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
    #[serde(serialize_with = "millis_or_null")]
    pub held_until: Option<Timestamp>,
    /// What that answer said, as a short word.
    pub held_for: Option<String>,
    /// Jobs ready in the broker, when they were counted last; older workers do not tell.
    pub ready: Option<Ready>,
    /// How long the job at the head has been ready, 0 where nothing waits; nor do they tell this.
    pub oldest_seconds: Option<f64>,
}

/// All numbers of a worker, as they are when asked; clones are the same.
#[derive(Debug, Clone)]
pub struct LaneViews {
    all: Arc<Mutex<All>>,
    account: Arc<Account>,
    served: Served,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct All {
    /// Of numbers that had a job since they are served here, or have one still.
    lanes: FastMap<NumberId, Arc<Lane>>,
    /// The other numbers that are served here.
    idle: HashMap<NumberId, Idle>,
    rates: Rates,
}

/// A number that has had no job here. In the broker jobs may wait, as while it is paused.
#[derive(Debug)]
struct Idle {
    /// What is shown of its pace.
    pace: (Rate, Source),
    lag: Lag,
}

impl LaneViews {
    pub(super) fn new(
        rates: Rates,
        account: Arc<Account>,
        served: Served,
        metrics: Arc<Metrics>,
    ) -> LaneViews {
        let all = All { lanes: FastMap::default(), idle: HashMap::new(), rates };
        LaneViews { all: Arc::new(Mutex::new(all)), account, served, metrics }
    }

    /// By number: those that are served here, and those of which something is still in hand.
    pub fn list(&self) -> Vec<LaneView> {
        let now = (clock::monotonic(), clock::wall());
        let served = self.served.numbers();
        // Showing a lane takes its own locks: not while an admission waits for this one.
        let (mut views, lanes): (Vec<LaneView>, Vec<Arc<Lane>>) = {
            let mut all = lock(&self.all);
            let All { lanes, idle, rates } = &mut *all;
            let without_a_lane = served.into_iter().filter(|number| !lanes.contains_key(number));
            let views = without_a_lane.map(|number| {
                let ready = self.served.ready(&number);
                let oldest = idle.get_mut(&number);
                let oldest = oldest.map(|idle| idle.lag.oldest(ready.unwrap_or_default(), now.1));
                LaneView::idle(rates.of(&number), number, ready, oldest)
            });
            (views.collect(), lanes.values().cloned().collect())
        };
        views.extend(lanes.iter().map(|lane| lane.view(self.served.ready(&lane.number), now)));
        views.sort_by(|one, other| one.number.cmp(&other.number));
        views
    }

    /// One number's, and what its next turn waits for; none where it has had no job here.
    pub(super) fn explain(&self, number: &NumberId) -> Option<(LaneView, Word, Option<Timestamp>)> {
        let now = (clock::monotonic(), clock::wall());
        let lane = lock(&self.all).lanes.get(number).cloned()?;
        let (word, until) = lane.waits_for(now);
        Some((lane.view(self.served.ready(number), now), word, until))
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
        if let Some(idle) = all.idle.remove(number) {
            lane.follow(idle.lag);
        }
        all.lanes.insert(number.clone(), Arc::clone(&lane));
        Some(lane)
    }

    /// Keeps the metrics true, and forgets numbers that are served elsewhere, until it is dropped.
    pub(super) async fn keep_shown(self) {
        let mut ticks = tokio::time::interval(SHOW_EVERY);
        loop {
            ticks.tick().await;
            let (now, wall) = (clock::monotonic(), clock::wall());
            self.account.show(now);
            let is_account_paused = self.account.held_until(now).is_some();
            for (number, lane) in self.look_over(now, wall) {
                lane.show(now, is_account_paused);
                let ready = self.served.ready(&number);
                self.metrics.lane_oldest(&number, lane.oldest(ready, wall));
            }
        }
    }

    /// Forgets what is served elsewhere and shows who had no job here. Returns the lanes: looking at each takes
    /// its own time, in which jobs are admitted by the list of all.
    fn look_over(&self, now: Instant, wall: Timestamp) -> Vec<(NumberId, Arc<Lane>)> {
        let served = self.served.numbers();
        let mut all = lock(&self.all);
        self.forget_others(&mut all, now);
        self.show_idle(&mut all, served, wall);
        all.lanes.iter().map(|(number, lane)| (number.clone(), Arc::clone(lane))).collect()
    }

    /// What was asked to be left alone is remembered until its end: the number may come back.
    fn forget_others(&self, all: &mut All, now: Instant) {
        all.lanes.retain(|number, lane| {
            // Nobody can come to know it meanwhile: they come by the same list.
            let is_known = Arc::strong_count(lane) > IDLE;
            let stays = self.served.has(number) || is_known || lane.is_held(now);
            if !stays {
                lane.close();
                self.metrics.number_gone(number);
            }
            stays
        });
    }

    fn show_idle(&self, all: &mut All, served: BTreeSet<NumberId>, now: Timestamp) {
        let All { lanes, idle, rates } = all;
        idle.retain(|number, _| {
            let stays = served.contains(number);
            if !stays {
                self.metrics.number_gone(number);
            }
            stays
        });
        for number in served.into_iter().filter(|number| !lanes.contains_key(number)) {
            let pace @ (rate, source) = rates.of(&number);
            let show_pace = || self.metrics.rate_limit(&number, source.into(), rate.per_second());
            let known = idle.entry(number.clone()).or_insert_with(|| {
                show_pace();
                Idle { pace, lag: Lag::new(now) }
            });
            if known.pace != pace {
                show_pace();
                known.pace = pace;
            }
            let oldest = known.lag.oldest(self.served.ready(&number).unwrap_or_default(), now);
            self.metrics.lane_oldest(&number, oldest);
        }
    }
}

impl LaneView {
    /// Of a number that has had no job here.
    fn idle(
        (rate, source): (Rate, Source),
        number: NumberId,
        ready: Option<Ready>,
        oldest: Option<Duration>,
    ) -> LaneView {
        LaneView {
            number,
            rate: rate.per_second(),
            source: RateSource::from(source).name().to_owned(),
            waiting: 0,
            in_flight: 0,
            held_until: None,
            held_for: None,
            ready,
            oldest_seconds: oldest.map(|oldest| oldest.as_secs_f64()),
        }
    }
}
