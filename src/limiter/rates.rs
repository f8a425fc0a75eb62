//! Which rate a number has, and who says so.

use super::Rate;
use crate::wire::NumberId;
use std::collections::HashMap;

/// The pace of a number of which nothing is known, in jobs a second: 87.5% of 20, the lowest ceiling
/// that Meta gives (numbers in the WhatsApp Business app, meta/throughput). The rest is for inbound.
const UNKNOWN_PER_SECOND: f64 = 17.0;

/// Who says how fast a number may send. Later ones yield to earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The configuration, for this number.
    Override,
    /// The configuration, for all numbers.
    Configured,
    /// Nobody: the lowest ceiling there is.
    Default,
}

impl Source {
    /// The word in labels and for operators.
    pub fn name(self) -> &'static str {
        match self {
            Source::Override => "override",
            Source::Configured => "configured",
            Source::Default => "default",
        }
    }
}

/// The rates of all numbers.
#[derive(Debug, Clone)]
pub struct Rates {
    configured: Option<Rate>,
    overrides: HashMap<NumberId, Rate>,
    unknown: Rate,
}

impl Rates {
    /// `default` is the configured rate of all numbers that have no override.
    pub fn new(default: Option<Rate>, overrides: HashMap<NumberId, Rate>) -> Rates {
        let unknown = Rate::new(UNKNOWN_PER_SECOND, None).expect("a lawful rate");
        Rates { configured: default, overrides, unknown }
    }

    /// The rate of a number.
    pub fn of(&self, number: &NumberId) -> (Rate, Source) {
        match (self.overrides.get(number), self.configured) {
            (Some(rate), _) => (*rate, Source::Override),
            (None, Some(rate)) => (rate, Source::Configured),
            (None, None) => (self.unknown, Source::Default),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_override_wins_over_the_configured_rate_and_that_over_the_default() {
        let one = NumberId::parse("1").unwrap();
        let two = NumberId::parse("2").unwrap();
        let rate = |per_second| Rate::new(per_second, None).unwrap();
        let overrides = HashMap::from([(one.clone(), rate(5.0))]);
        let rates = Rates::new(Some(rate(70.0)), overrides.clone());
        assert_eq!(rates.of(&one), (rate(5.0), Source::Override));
        assert_eq!(rates.of(&two), (rate(70.0), Source::Configured));
        let rates = Rates::new(None, overrides);
        assert_eq!(rates.of(&one), (rate(5.0), Source::Override));
        assert_eq!(rates.of(&two), (Rate::new(17.0, Some(2)).unwrap(), Source::Default));
    }
}
