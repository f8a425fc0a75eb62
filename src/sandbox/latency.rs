//! Durations as they are written, and delays that chance chooses.
//!
//! Reads values. It does not wait.

use std::{fmt, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::config::ConfigError;

/// A delay between `min` and `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Latency {
    /// At least this long.
    pub min: Duration,
    /// At most this long.
    pub max: Duration,
}

impl Latency {
    /// Always the same delay.
    pub const fn fixed(delay: Duration) -> Self {
        Self { min: delay, max: delay }
    }

    /// The delay for a throw of the dice in 0..1.
    pub fn draw(&self, chance: f64) -> Duration {
        self.min + self.max.saturating_sub(self.min).mul_f64(chance)
    }

    /// `key` is where it stands.
    pub(super) fn check(&self, key: &str) -> Result<(), ConfigError> {
        if self.max < self.min {
            return Err(ConfigError::invalid(key, "`max` must not be below `min`"));
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Latency {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Latency;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration, or a table of `min` and `max`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Latency, E> {
                let delay = parse_duration(text);
                delay.map(Latency::fixed).ok_or_else(|| E::custom(DURATION))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Latency, A::Error> {
                #[derive(Deserialize)]
                #[serde(deny_unknown_fields)]
                struct Range {
                    #[serde(deserialize_with = "duration")]
                    min: Duration,
                    #[serde(deserialize_with = "duration")]
                    max: Duration,
                }
                let Range { min, max } = Range::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Latency { min, max })
            }
        }
        from.deserialize_any(Either)
    }
}

/// Reads `"250ms"`, `"5s"`, `"10m"`, `"1h"`.
pub(super) fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    parse_duration(&text).ok_or_else(|| de::Error::custom(format_args!("{text:?}: {DURATION}")))
}

const DURATION: &str = "expected a duration such as \"250ms\", \"5s\", \"10m\" or \"1h\"";

fn parse_duration(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(amount)),
        "s" => Some(Duration::from_secs(amount)),
        "m" => amount.checked_mul(60).map(Duration::from_secs),
        "h" => amount.checked_mul(3_600).map(Duration::from_secs),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::SandboxConfig, *};

    #[test]
    fn durations_are_read_or_refused() {
        for (text, expected) in [
            ("0ms", Some(Duration::ZERO)),
            ("250ms", Some(Duration::from_millis(250))),
            ("5s", Some(Duration::from_secs(5))),
            ("10m", Some(Duration::from_secs(600))),
            ("1h", Some(Duration::from_secs(3_600))),
            ("5", None),
            ("s", None),
            ("", None),
            ("1.5s", None),
            ("99999999999999999999s", None),
        ] {
            assert_eq!(parse_duration(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_latency_is_one_duration_or_a_range() {
        let read = |text: &str| SandboxConfig::from_toml(text).map(|config| config.latency);
        let ms = Duration::from_millis;
        assert_eq!(read("latency = '5ms'").unwrap(), Latency::fixed(ms(5)));
        let range = read("latency = { min = '10ms', max = '30ms' }").unwrap();
        assert_eq!((range.draw(0.0), range.draw(0.5)), (ms(10), ms(20)));
        assert!(read("latency = { min = '30ms', max = '10ms' }").is_err());
        assert!(read("latency = 5").is_err());
    }
}
