//! Which rate a number has, and who says so.

use super::Rate;
use crate::wire::NumberId;
use std::collections::HashMap;

/// The pace of a number of which nothing is known, in jobs a second: [`SHARE`] of 20, rounded down,
/// the lowest ceiling that Meta gives (numbers in the WhatsApp Business app, meta/throughput).
const UNKNOWN_PER_SECOND: f64 = 17.0;

/// What we use of a number's ceiling. The rest is for inbound messages, which count too, and for
/// requests that come closer together at Meta than they left here.
const SHARE: f64 = 0.875;

/// Who says how fast a number may send. Later ones yield to earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The configuration, for this number.
    Override,
    /// The configuration, for all numbers.
    Configured,
    /// The plugin, by the number's ceiling.
    Plugin,
    /// Nobody: the lowest ceiling there is.
    Default,
}

/// The rates of all numbers, as they are known now. A value: what is learned makes another.
#[derive(Debug, Clone, PartialEq)]
pub struct Rates {
    configured: Option<Rate>,
    overrides: HashMap<NumberId, Rate>,
    plugin: HashMap<NumberId, Rate>,
    unknown: Rate,
}

impl Rates {
    /// `default` is the configured rate of all numbers that have no override.
    pub fn new(default: Option<Rate>, overrides: HashMap<NumberId, Rate>) -> Rates {
        let unknown = Rate::new(UNKNOWN_PER_SECOND, None).expect("a lawful rate");
        Rates { configured: default, overrides, plugin: HashMap::new(), unknown }
    }

    /// The same with what the plugin says now: the most messages a second that each number may send.
    /// A ceiling of which no lawful rate can be made counts as not told.
    pub fn with_ceilings(self, ceilings: impl IntoIterator<Item = (NumberId, u32)>) -> Rates {
        let pace = |ceiling: u32| Rate::new(f64::from(ceiling) * SHARE, None).ok();
        let rates = ceilings.into_iter().filter_map(|(number, top)| Some((number, pace(top)?)));
        Rates { plugin: rates.collect(), ..self }
    }

    /// Other settings, with what the plugin said before.
    pub fn with_ceilings_of(self, other: &Rates) -> Rates {
        Rates { plugin: other.plugin.clone(), ..self }
    }

    /// The rate of a number.
    pub fn of(&self, number: &NumberId) -> (Rate, Source) {
        let overridden = self.overrides.get(number).map(|rate| (*rate, Source::Override));
        let configured = self.configured.map(|rate| (rate, Source::Configured));
        let told = self.plugin.get(number).map(|rate| (*rate, Source::Plugin));
        overridden.or(configured).or(told).unwrap_or((self.unknown, Source::Default))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(digits: &str) -> NumberId {
        NumberId::parse(digits).unwrap()
    }

    fn rate(per_second: f64) -> Rate {
        Rate::new(per_second, None).unwrap()
    }

    #[test]
    fn an_override_wins_over_the_configured_rate_that_over_the_plugin_and_that_over_the_default() {
        let [one, two, three] = ["1", "2", "3"].map(number);
        let overrides = HashMap::from([(one.clone(), rate(5.0))]);
        let ceilings = || [(one.clone(), 80), (two.clone(), 1_000)];
        let rates = Rates::new(Some(rate(70.0)), overrides.clone()).with_ceilings(ceilings());
        assert_eq!(rates.of(&one), (rate(5.0), Source::Override));
        assert_eq!(rates.of(&two), (rate(70.0), Source::Configured));
        let rates = Rates::new(None, overrides).with_ceilings(ceilings());
        assert_eq!(rates.of(&one), (rate(5.0), Source::Override));
        assert_eq!(rates.of(&two), (rate(875.0), Source::Plugin));
        assert_eq!(rates.of(&three), (Rate::new(17.0, Some(2)).unwrap(), Source::Default));
    }

    #[test]
    fn no_sliding_second_reaches_the_ceiling() {
        let one = number("1");
        for (ceiling, per_second, burst) in [(20, 17.5, 2), (80, 70.0, 2), (1_000, 875.0, 9)] {
            let rates = Rates::new(None, HashMap::new()).with_ceilings([(one.clone(), ceiling)]);
            let (rate, source) = rates.of(&one);
            assert_eq!(
                (rate, source),
                (Rate::new(per_second, Some(burst)).unwrap(), Source::Plugin)
            );
            assert!(rate.per_second() + f64::from(rate.burst()) <= f64::from(ceiling));
        }
    }

    #[test]
    fn the_latest_list_counts_alone_and_a_ceiling_of_nothing_counts_as_none() {
        let [one, two] = ["1", "2"].map(number);
        let rates = Rates::new(None, HashMap::new()).with_ceilings([(one.clone(), 80)]);
        let later = rates.clone().with_ceilings([(two.clone(), 0)]);
        assert_eq!([later.of(&one).1, later.of(&two).1], [Source::Default; 2]);
        let other = Rates::new(None, HashMap::from([(two.clone(), rate(5.0))]));
        let other = other.with_ceilings_of(&rates);
        assert_eq!([other.of(&one).1, other.of(&two).1], [Source::Plugin, Source::Override]);
    }
}
