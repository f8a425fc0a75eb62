//! What each number may do now: its pace and who says so, and why it is paused. One number has one
//! series of pace, and one of pause for each reason that holds.

use crate::wire::NumberId;
use prometheus::core::Collector;
use prometheus::{GaugeVec, IntGaugeVec, Opts, Registry};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Why a number is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PauseReason {
    /// Somebody paused it.
    Operator,
    /// It was refused for going too fast, with a word for how long.
    Throttled,
    /// It may not send.
    Blocked,
    /// Meta works on it, often to raise its throughput.
    Maintenance,
    /// The account's brake is on: one probe at a time goes out, of whatever number.
    Account,
}

impl PauseReason {
    /// All but an operator's.
    const OF_ANSWERS: [PauseReason; 4] = [
        PauseReason::Throttled,
        PauseReason::Blocked,
        PauseReason::Maintenance,
        PauseReason::Account,
    ];

    /// The word in labels and for operators.
    pub fn name(self) -> &'static str {
        match self {
            PauseReason::Operator => "operator",
            PauseReason::Throttled => "throttled",
            PauseReason::Blocked => "blocked",
            PauseReason::Maintenance => "maintenance",
            PauseReason::Account => "account",
        }
    }
}

#[derive(Debug)]
pub(super) struct Paces {
    rate: GaugeVec,
    paused: IntGaugeVec,
    /// The present source of each number: bounded by the lanes there are.
    sources: Mutex<HashMap<NumberId, &'static str>>,
}

impl Paces {
    pub(super) fn new(namespace: &str, registry: &Registry) -> Result<Paces, prometheus::Error> {
        let rate = Opts::new(
            "rate_limit",
            "The pace of a number in jobs a second, and where it comes from: override, configured, \
             plugin, default, or learned from refusals.",
        );
        let paused = Opts::new(
            "paused",
            "1 while a number is paused: by operator, or since an answer said throttled, blocked or \
             maintenance, or by the account's brake.",
        );
        let rate = GaugeVec::new(rate.namespace(namespace), &["number", "source"])?;
        let paused = IntGaugeVec::new(paused.namespace(namespace), &["number", "reason"])?;
        let of_all: [Box<dyn Collector>; 2] = [Box::new(rate.clone()), Box::new(paused.clone())];
        for metric in of_all {
            registry.register(metric)?;
        }
        Ok(Paces { rate, paused, sources: Mutex::default() })
    }

    pub(super) fn rate(&self, number: &NumberId, source: &'static str, per_second: f64) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if sources.get(number) != Some(&source)
            && let Some(before) = sources.insert(number.clone(), source)
        {
            remove(self.rate.remove_label_values(&[number.as_str(), before]));
        }
        self.rate.with_label_values(&[number.as_str(), source]).set(per_second);
    }

    /// An operator's pause stays: it holds wherever the number is served.
    pub(super) fn forget(&self, number: &NumberId) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(source) = sources.remove(number) {
            remove(self.rate.remove_label_values(&[number.as_str(), source]));
        }
        for reason in PauseReason::OF_ANSWERS {
            self.paused(number, reason, false);
        }
    }

    pub(super) fn paused(&self, number: &NumberId, reason: PauseReason, is_paused: bool) {
        let labels = [number.as_str(), reason.name()];
        match is_paused {
            true => self.paused.with_label_values(&labels).set(1),
            false => remove(self.paused.remove_label_values(&labels)),
        }
    }
}

/// An error says that there is no such series, which is what was wanted.
fn remove(removed: Result<(), prometheus::Error>) {
    drop(removed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn one_number_has_one_pace_and_a_pause_that_is_over_has_no_series() {
        let (metrics, number) = (Metrics::new().unwrap(), NumberId::parse("1").unwrap());
        metrics.rate_limit(&number, "plugin", 70.0);
        metrics.rate_limit(&number, "learned", 39.0);
        metrics.paused(&number, PauseReason::Blocked, true);
        metrics.paused(&number, PauseReason::Account, false);
        let series = |metrics: &Metrics| -> Vec<String> {
            let text = metrics.render().unwrap();
            let own = ["chakra_sender_rate_limit{", "chakra_sender_paused{"];
            let shown = text.lines().filter(|line| own.iter().any(|name| line.starts_with(name)));
            shown.map(str::to_owned).collect()
        };
        let paused = r#"chakra_sender_paused{number="1",reason="blocked"} 1"#;
        let rate = r#"chakra_sender_rate_limit{number="1",source="learned"} 39"#;
        assert_eq!(series(&metrics), [paused, rate]);
        metrics.paused(&number, PauseReason::Blocked, false);
        assert_eq!(series(&metrics), [rate]);
        metrics.paused(&number, PauseReason::Operator, true);
        metrics.paused(&number, PauseReason::Throttled, true);
        metrics.pace_gone(&number);
        assert_eq!(series(&metrics), [r#"chakra_sender_paused{number="1",reason="operator"} 1"#]);
    }
}
