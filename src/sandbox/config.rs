//! What the sandbox can be told. `config/sandbox.toml` is the reference of all keys.
//!
//! Reads and checks values; it does not read files.

use std::{net::SocketAddr, time::Duration};

use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::{
    faults::Fault,
    latency::{Latency, duration},
    numbers::Number,
    webhook::Webhook,
};

/// The compiled-in configuration, the reference of all keys.
pub const COMPILED_IN: &str = include_str!("../../config/sandbox.toml");

/// The whole configuration of a sandbox.
///
/// Its [`Default`] is the compiled-in file, except that it listens on any free port.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SandboxConfig {
    /// Where to listen. Port 0 takes any free port.
    #[serde(default = "any_free_port")]
    pub listen: SocketAddr,
    /// The bearer token that callers must show.
    #[serde(default = "default_token")]
    pub token: String,
    /// The plugin id that stands in the paths.
    #[serde(default = "default_plugin_id")]
    pub plugin_id: String,
    /// The seed of all chance.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// The delay before each answer to a send.
    #[serde(default)]
    pub latency: Latency,
    /// Whether numbers that are not listed may send too.
    #[serde(default)]
    pub any_number: bool,
    /// The ceiling of such numbers in messages a second, 0 for none.
    #[serde(default = "default_any_number_rate")]
    pub any_number_rate: u32,
    /// The sending numbers of the plugin.
    #[serde(default)]
    pub numbers: Vec<Number>,
    /// How the plugin's configuration is answered.
    #[serde(default)]
    pub plugin: Plugin,
    /// The limit for one number and one recipient.
    #[serde(default)]
    pub pair: Pair,
    /// How the chat listings behave.
    #[serde(default)]
    pub listings: Listings,
    /// Whether and how webhooks are posted.
    #[serde(default)]
    pub webhook: Webhook,
    /// What goes wrong, in order.
    #[serde(default)]
    pub faults: Vec<Fault>,
}

impl SandboxConfig {
    /// Reads TOML and checks it.
    ///
    /// # Errors
    /// Names the key, its line and what was expected, or the rule that contradicts itself.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(ConfigError::Toml)?;
        config.check()?;
        Ok(config)
    }

    /// Whether the parts fit together.
    ///
    /// # Errors
    /// Names the first key that does not, and why.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.latency.check("latency")?;
        self.listings.check()?;
        self.webhook.check()?;
        if self.pair.enabled && (self.pair.burst == 0 || self.pair.every.is_zero()) {
            return Err(ConfigError::invalid("pair", "`burst` and `every` must be above zero"));
        }
        Number::check_all(&self.numbers)?;
        Fault::check_all(&self.faults)
    }
}

impl Default for SandboxConfig {
    fn default() -> Self {
        #[expect(clippy::expect_used, reason = "the text is compiled in and a test reads it")]
        let compiled_in = Self::from_toml(COMPILED_IN).expect("the compiled-in file is valid");
        Self { listen: any_free_port(), ..compiled_in }
    }
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not TOML, an unknown key or a wrong type.
    #[error("sandbox configuration: {}", .0.to_string().trim_end())]
    Toml(toml::de::Error),
    /// A value that cannot be meant.
    #[error("sandbox configuration: `{key}`: {reason}")]
    Invalid {
        /// The key, with the position in its list.
        key: String,
        /// Why, and what would be lawful.
        reason: &'static str,
    },
}

impl ConfigError {
    pub(super) fn invalid(key: impl Into<String>, reason: &'static str) -> Self {
        Self::Invalid { key: key.into(), reason }
    }
}

/// How `GET …/config` behaves.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Plugin {
    /// Whether it answers at all.
    pub mode: PluginMode,
    /// Fields of the document that are shown in place of the true ones.
    pub shown: Map<String, Value>,
}

/// Whether the plugin's configuration is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PluginMode {
    /// It is, with all numbers.
    #[default]
    Ok,
    /// A bare 500.
    Error,
    /// 403, as for a role without the privilege.
    Forbidden,
    /// 200 with no number in it.
    Empty,
    /// 200 with half a document.
    Garbage,
    /// No answer until the caller leaves.
    Hang,
}

/// The limit for one number and one recipient: a bucket.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pair {
    /// Whether it holds.
    pub enabled: bool,
    /// How many messages may go at once.
    pub burst: u32,
    /// How long one refill takes.
    #[serde(deserialize_with = "duration")]
    pub every: Duration,
}

impl Default for Pair {
    /// Meta's: 45 at once, one in 6 s.
    fn default() -> Self {
        Self { enabled: true, burst: 45, every: Duration::from_secs(6) }
    }
}

/// How the chat listings behave.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listings {
    /// Whether they answer at all.
    pub mode: ListingMode,
    /// How long after its acceptance a message appears.
    #[serde(deserialize_with = "duration")]
    pub lag: Duration,
    /// The share of messages that never appear, 0 to 1.
    pub omit: f64,
    /// File Mexican and Brazilian recipients under the number as Meta rewrites it.
    pub rewrite_numbers: bool,
    /// List bodies in another shape than they were sent.
    pub reshape: bool,
}

impl Listings {
    /// Whether a message accepted at `accepted`, which drew `chance` then, can be seen at `now`.
    pub(super) fn shows(&self, accepted: Instant, chance: f64, now: Instant) -> bool {
        chance >= self.omit && now.saturating_duration_since(accepted) >= self.lag
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if !(0.0..=1.0).contains(&self.omit) {
            return Err(ConfigError::invalid("listings.omit", "must be between 0 and 1"));
        }
        Ok(())
    }
}

/// Whether the listings answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListingMode {
    /// They do.
    #[default]
    Ok,
    /// 403, as for a role without the privilege.
    Forbidden,
    /// A bare 500.
    Error,
    /// 200 with nothing in it.
    Empty,
}

fn any_free_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn default_token() -> String {
    "sandbox-token".into()
}

fn default_plugin_id() -> String {
    "5a6db0c5-7d3a-4a39-9ae6-0c1f7e2b9d11".into()
}

fn default_seed() -> u64 {
    1
}

fn default_any_number_rate() -> u32 {
    80
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_leaves_out_is_as_in_the_compiled_in_file() {
        let compiled_in = SandboxConfig::default();
        let empty = SandboxConfig::from_toml("").unwrap();
        assert_eq!(SandboxConfig { numbers: compiled_in.numbers.clone(), ..empty }, compiled_in);
        assert_eq!(compiled_in.numbers.len(), 3);
    }

    #[test]
    fn a_mistake_is_named() {
        for (text, named) in [
            ("tokn = 'x'", "tokn"),
            ("[listings]\nomit = 2.0", "listings.omit"),
            ("[pair]\nburst = 0", "pair"),
            ("[plugin]\nmode = 'broken'", "broken"),
            ("numbers = [{ id = '1' }, { id = '1' }]", "numbers[1].id"),
            ("[[faults]]\nfirst = 1", "faults[0]"),
            ("[[faults]]\ndelay = '1x'", "expected a duration"),
        ] {
            let error = SandboxConfig::from_toml(text).unwrap_err().to_string();
            assert!(error.contains(named), "{text:?}: {error}");
        }
    }
}
