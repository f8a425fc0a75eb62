//! What the worker believes of each of its numbers, for `/numbers` and `numbers list`. Changes nothing.

use super::lanes::Lane;
use super::lock;
use crate::wire::NumberId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// One number as its worker sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LaneView {
    /// Meta's phone number ID.
    pub number: NumberId,
    /// The pace in jobs a second that holds now.
    pub rate: f64,
    /// Who says so: a word of the limiter.
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
#[derive(Debug, Clone, Default)]
pub struct LaneViews(Arc<Mutex<HashMap<NumberId, Arc<Lane>>>>);

impl LaneViews {
    /// By number.
    pub fn list(&self) -> Vec<LaneView> {
        let lanes = lock(&self.0);
        let mut views: Vec<LaneView> =
            lanes.iter().map(|(number, lane)| lane.view(number)).collect();
        views.sort_by(|one, other| one.number.cmp(&other.number));
        views
    }

    pub(super) fn get(&self, number: &NumberId) -> Option<Arc<Lane>> {
        lock(&self.0).get(number).cloned()
    }

    pub(super) fn insert(&self, number: NumberId, lane: Arc<Lane>) {
        lock(&self.0).insert(number, lane);
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.0).len()
    }
}
