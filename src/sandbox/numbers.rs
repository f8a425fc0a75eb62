//! The plugin's sending numbers: what its configuration says of each, and what each really bears.
//!
//! Values and their check. The ceilings are enforced by `limits`.

use serde::{Deserialize, Serialize};

use super::config::ConfigError;

/// One sending number of the plugin.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Number {
    /// Meta's phone number id.
    pub id: String,
    /// As people read it.
    #[serde(default)]
    pub display_phone_number: String,
    /// What the plugin's configuration says of its throughput.
    #[serde(default)]
    pub throughput_level: ThroughputLevel,
    /// Whether the number lives in the WhatsApp Business app too.
    #[serde(default)]
    pub is_on_biz_app: bool,
    /// What the plugin's configuration says of its state; shown, never enforced.
    #[serde(default = "connected")]
    pub status: String,
    /// The real ceiling in messages a second, 0 for none. Unset: by level, as Meta has it.
    pub rate: Option<u32>,
}

impl Number {
    /// A connected number of level `STANDARD`.
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            display_phone_number: String::new(),
            throughput_level: ThroughputLevel::Standard,
            is_on_biz_app: false,
            status: connected(),
            rate: None,
        }
    }

    /// The ceiling that is enforced, in messages a second; none when the rate is 0.
    /// By level: Meta's page on throughput, and the flag decides over the level.
    pub fn ceiling(&self) -> Option<u32> {
        let by_level = match self.throughput_level {
            _ if self.is_on_biz_app => 20,
            ThroughputLevel::Standard => 80,
            ThroughputLevel::High => 1_000,
            ThroughputLevel::NotApplicable => 20,
        };
        Some(self.rate.unwrap_or(by_level)).filter(|rate| *rate > 0)
    }

    pub(super) fn check_all(numbers: &[Self]) -> Result<(), ConfigError> {
        for (index, number) in numbers.iter().enumerate() {
            if numbers[..index].iter().any(|earlier| earlier.id == number.id) {
                let key = format!("numbers[{index}].id");
                return Err(ConfigError::invalid(key, "stands in the list already"));
            }
        }
        Ok(())
    }
}

/// Meta's `throughput.level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ThroughputLevel {
    /// 80 messages a second.
    #[default]
    Standard,
    /// 1,000 messages a second.
    High,
    /// Unknown; here the lowest.
    NotApplicable,
}

fn connected() -> String {
    "CONNECTED".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_follows_the_flag_then_the_level_unless_it_is_set() {
        let high = Number { throughput_level: ThroughputLevel::High, ..Number::new("1") };
        assert_eq!(Number::new("1").ceiling(), Some(80));
        assert_eq!(high.ceiling(), Some(1_000));
        assert_eq!(Number { is_on_biz_app: true, ..high.clone() }.ceiling(), Some(20));
        assert_eq!(Number { rate: Some(0), ..high.clone() }.ceiling(), None);
        assert_eq!(Number { rate: Some(7), ..high }.ceiling(), Some(7));
    }
}
