//! Reads back what the gauges of each number show, for the status page: it cannot say anything else than
//! the metrics do.

use super::{Metrics, NAMESPACE};
use std::collections::HashMap;

/// What is shown of one number; none where nothing is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Shown {
    /// Normal jobs ready in the broker.
    pub normal: Option<f64>,
    /// Urgent ones.
    pub urgent: Option<f64>,
    /// How long the one at the head has been ready, in seconds.
    pub oldest: Option<f64>,
}

impl Metrics {
    /// By number.
    pub fn shown(&self) -> HashMap<String, Shown> {
        let mut shown: HashMap<String, Shown> = HashMap::new();
        for family in self.registry.gather() {
            let name = family.name().strip_prefix(NAMESPACE).unwrap_or_default();
            for metric in family.get_metric() {
                let label = |name: &str| {
                    let mut labels = metric.get_label().iter();
                    labels.find(|label| label.name() == name).map(|label| label.value())
                };
                let (number, value) = (label("number"), Some(metric.get_gauge().get_value()));
                let of_number = || number.unwrap_or_default().to_owned();
                match (name, label("priority")) {
                    ("_lane_ready", Some("normal")) => {
                        shown.entry(of_number()).or_default().normal = value;
                    }
                    ("_lane_ready", Some("urgent")) => {
                        shown.entry(of_number()).or_default().urgent = value;
                    }
                    ("_lane_oldest_seconds", _) => {
                        shown.entry(of_number()).or_default().oldest = value;
                    }
                    _ => {}
                }
            }
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{NumberId, Priority};

    #[test]
    fn what_the_gauges_of_a_number_show_is_read_back() {
        let (metrics, number) = (Metrics::new().unwrap(), NumberId::parse("1").unwrap());
        metrics.lane_ready(&number, Priority::Normal, 7);
        metrics.lane_ready(&number, Priority::Urgent, 2);
        let shown = metrics.shown();
        let expected = Shown { normal: Some(7.0), urgent: Some(2.0), oldest: None };
        assert_eq!((shown.len(), shown["1"]), (1, expected));
    }
}
