//! What each number and the account may do now: the pace and who says so, why a number is paused, what
//! our own limits delay and what is refused in spite of them. One number has one series of pace, and one
//! of pause for each reason that holds.

use super::Metrics;
use super::declare::{About, Counters, Declare, Gauges, Number, RealGauges, Word, words};
use crate::wire::{NumberId, Scope};
use prometheus::{Error, IntGauge};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

words! {
    /// Why a number is paused.
    pub enum PauseReason as "reason" {
        /// Somebody paused it.
        Operator = "operator",
        /// It was refused for going too fast, with a word for how long.
        Throttled = "throttled",
        /// It may not send.
        Blocked = "blocked",
        /// Meta works on it, often to raise its throughput.
        Maintenance = "maintenance",
        /// The account's brake is on: one probe at a time goes out, of whatever number.
        Account = "account",
    }
}

words! {
    /// Where a pace comes from.
    pub enum RateSource as "source" {
        /// The configuration, for this number.
        Override = "override",
        /// The configuration, for all numbers.
        Configured = "configured",
        /// The plugin, by the number's ceiling.
        Plugin = "plugin",
        /// Nobody: the lowest ceiling there is.
        Default = "default",
        /// Refusals.
        Learned = "learned",
    }
}

words! {
    /// Where the account's pace comes from.
    pub enum AccountRateSource as "source" {
        /// The configuration.
        Configured = "configured",
        /// Refusals.
        Learned = "learned",
    }
}

words! {
    /// Whose limit of ours made a request wait.
    pub enum Limit as "scope" {
        /// The recipient's, from this number.
        Recipient = "recipient",
        /// The number's.
        Number = "number",
        /// The account's.
        Account = "account",
    }
}

impl Word for Scope {
    const LABEL: &'static str = "scope";
    const ALL: &'static [Scope] =
        &[Scope::Message, Scope::Recipient, Scope::Template, Scope::Number, Scope::Account];

    fn word(self) -> &'static str {
        self.name()
    }
}

/// Paces, pauses and refusals.
#[derive(Debug)]
pub(super) struct Limits {
    rate: RealGauges<(Number, RateSource)>,
    account_rate: RealGauges<AccountRateSource>,
    delays: Counters<(Number, Limit)>,
    refusals: Counters<(Number, Scope)>,
    paused: Gauges<(Number, PauseReason)>,
    brake: IntGauge,
    /// The present source of each number: bounded by the lanes there are.
    sources: Mutex<HashMap<NumberId, RateSource>>,
}

impl Limits {
    pub(super) fn declare(new: &mut Declare) -> Result<Limits, Error> {
        new.theme("Limits", "How fast may each number go, and what holds it back?");
        Ok(Limits {
            rate: new.real_gauges(About {
                name: "rate_limit",
                help: "The pace of a number in jobs a second, and where it comes from: override, configured, \
                       plugin, default, or learned from refusals.",
                tells: "`learned` is below what the configuration or the plugin says: Meta refused more. It \
                        climbs again by itself. `default`: nobody says anything of this number.",
            })?,
            account_rate: new.real_gauges(About {
                name: "account_rate_limit",
                help: "This worker's part of the account's pace in jobs a second, where it has one, and where \
                       it comes from.",
                tells: "`learned`: the account was refused for going too fast. No series: only the numbers' \
                        own paces hold.",
            })?,
            delays: new.counters(About {
                name: "limit_delays_total",
                help: "Requests that waited for a limit of ours, by whose limit.",
                tells: "The limiter works. `number`: the lane has more than its rate, which is normal in a \
                        campaign. `account`: all numbers together have more than `limits.account.rate`.",
            })?,
            refusals: new.counters(About {
                name: "limit_refusals_total",
                help: "Requests refused for going too fast in spite of our limits, by what for. Maintenance \
                       is none.",
                tells: "The limiter failed. Now and then at `number`: a ceiling lower than believed, being \
                        learned. Steady: somebody else sends by the same number or account, or a configured \
                        rate is too high. `recipient`: somebody else writes to the same people.",
            })?,
            paused: new.gauges(About {
                name: "paused",
                help: "1 while a number is paused: by operator, or since an answer said throttled, blocked or \
                       maintenance, or by the account's brake.",
                tells: "Why a lane stands. `operator` ends by `numbers resume`, the others by themselves; \
                        `blocked` often needs somebody at Meta's Business Manager.",
            })?,
            brake: new.gauge(About {
                name: "brake",
                help: "1 while ChakraHQ fails or bars the account: one probe at a time goes out.",
                tells: "Nothing flows, of any number. The log says after which answers; a new API key is \
                        tried at once.",
            })?,
            sources: Mutex::default(),
        })
    }

    fn rate(&self, number: &NumberId, source: RateSource, per_second: f64) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if sources.get(number) != Some(&source)
            && let Some(before) = sources.insert(number.clone(), source)
        {
            self.rate.remove((number, before));
        }
        self.rate.of((number, source)).set(per_second);
    }

    /// An operator's pause stays: it holds wherever the number is served.
    pub(super) fn forget(&self, number: &NumberId) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(source) = sources.remove(number) {
            self.rate.remove((number, source));
        }
        for reason in PauseReason::ALL {
            if *reason != PauseReason::Operator {
                self.paused.remove((number, *reason));
            }
        }
    }
}

impl Metrics {
    /// The pace of a number, in place of what it was.
    pub fn rate_limit(&self, number: &NumberId, source: RateSource, per_second: f64) {
        self.limits.rate(number, source, per_second);
    }

    /// The account's pace, in place of what it was; none where it has none.
    pub fn account_rate_limit(&self, pace: Option<(AccountRateSource, f64)>) {
        for source in AccountRateSource::ALL {
            match pace {
                Some((of, per_second)) if of == *source => {
                    self.limits.account_rate.of(of).set(per_second);
                }
                Some(_) | None => self.limits.account_rate.remove(*source),
            }
        }
    }

    /// A request waited for a limit of ours.
    pub fn limit_delayed(&self, number: &NumberId, limit: Limit) {
        self.limits.delays.of((number, limit)).inc();
    }

    /// A request was refused for going too fast.
    pub fn limit_refused(&self, number: &NumberId, scope: Scope) {
        self.limits.refusals.of((number, scope)).inc();
    }

    /// Whether a number is paused for this reason.
    pub fn paused(&self, number: &NumberId, reason: PauseReason, is_paused: bool) {
        match is_paused {
            true => self.limits.paused.of((number, reason)).set(1),
            false => self.limits.paused.remove((number, reason)),
        }
    }

    /// Whether only probes go out.
    pub fn brake(&self, on: bool) {
        self.limits.brake.set(on.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_number_has_one_pace_and_a_pause_that_is_over_has_no_series() {
        let (metrics, number) = (Metrics::new().unwrap(), NumberId::parse("1").unwrap());
        metrics.rate_limit(&number, RateSource::Plugin, 70.0);
        metrics.rate_limit(&number, RateSource::Learned, 39.0);
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
        metrics.number_gone(&number);
        assert_eq!(series(&metrics), [r#"chakra_sender_paused{number="1",reason="operator"} 1"#]);
    }

    #[test]
    fn the_account_has_one_pace_or_none() {
        let metrics = Metrics::new().unwrap();
        let series = |pace| -> Vec<String> {
            metrics.account_rate_limit(pace);
            let text = metrics.render().unwrap();
            let own =
                text.lines().filter_map(|l| l.strip_prefix("chakra_sender_account_rate_limit{"));
            own.map(str::to_owned).collect()
        };
        assert_eq!(
            series(Some((AccountRateSource::Configured, 50.0))),
            [r#"source="configured"} 50"#]
        );
        assert_eq!(series(Some((AccountRateSource::Learned, 12.5))), [r#"source="learned"} 12.5"#]);
        assert_eq!(series(None), Vec::<String>::new());
    }
}
