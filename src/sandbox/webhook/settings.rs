//! What the sandbox can be told about webhooks. `config/sandbox.toml` is the reference of all keys.
//!
//! Reads and checks values.

use std::time::Duration;

use hyper::Uri;
use serde::Deserialize;

use super::{
    super::{
        config::ConfigError,
        latency::{Latency, duration},
    },
    Form,
};

/// Most messages made up in a second; more than one process posts.
const MOST_LOAD: u32 = 100_000;

/// Which webhooks are posted, how they go wrong, and how hard they try.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Webhook {
    /// Where to post, by plain HTTP. Unset: no webhooks.
    pub url: Option<String>,
    /// In which shape.
    pub shape: WebhookShape,
    /// Signs each body in `X-Chakra-Signature-256`. Unset: unsigned.
    pub secret: Option<String>,
    /// How long after the answer to the send `sent` is told.
    pub sent_after: Latency,
    /// How long after `sent` comes `delivered`, or `failed` in its place.
    pub delivered_after: Latency,
    /// How long after `delivered` comes `read`.
    pub read_after: Latency,
    /// How long after `read` comes `played`, of audio.
    pub played_after: Latency,
    /// The share of delivered messages that are read, 0 to 1.
    pub read: f64,
    /// Which messages fail, by code.
    pub failed: Vec<Failure>,
    /// The share of messages whose first event is posted before the send is answered, 0 to 1.
    pub early: f64,
    /// The share of messages whose events come out of order, 0 to 1.
    pub shuffled: f64,
    /// The share of events that come twice, 0 to 1.
    pub repeat: f64,
    /// How long after the first the repetition comes.
    pub repeat_after: Latency,
    /// The share of events that never come, 0 to 1.
    pub loss: f64,
    /// The share of messages that bring an event of another kind too, 0 to 1.
    pub other_events: f64,
    /// Whether `failed` carries the sender's `biz_opaque_callback_data`.
    pub opaque_on_failed: bool,
    /// Most statuses in one pass-through webhook. ChakraHQ's own shape holds one.
    pub batch: usize,
    /// How long a webhook waits for company.
    #[serde(deserialize_with = "duration")]
    pub batch_within: Duration,
    /// How long an answer may take.
    #[serde(deserialize_with = "duration")]
    pub timeout: Duration,
    /// How often a webhook is posted again that was not answered with 200.
    pub retries: u32,
    /// The pause before the first repetition; it doubles with each.
    #[serde(deserialize_with = "duration")]
    pub backoff: Duration,
    /// Most posts at once. With one the events keep their order.
    pub concurrency: usize,
    /// Messages a second that are made up, as if they had been sent; for a receiver's load.
    pub load: u32,
    /// Most events held; further ones are dropped and counted.
    pub queue: usize,
}

impl Default for Webhook {
    fn default() -> Self {
        let between =
            |min, max| Latency { min: Duration::from_millis(min), max: Duration::from_millis(max) };
        Self {
            url: None,
            shape: WebhookShape::default(),
            secret: None,
            sent_after: between(50, 300),
            delivered_after: between(200, 1_500),
            read_after: between(500, 5_000),
            played_after: between(500, 3_000),
            read: 0.6,
            failed: Vec::new(),
            early: 0.0,
            shuffled: 0.0,
            repeat: 0.0,
            repeat_after: between(0, 1_000),
            loss: 0.0,
            other_events: 0.0,
            opaque_on_failed: true,
            batch: 1,
            batch_within: Duration::from_millis(5),
            timeout: Duration::from_secs(5),
            retries: 0,
            backoff: Duration::from_secs(1),
            concurrency: 16,
            load: 0,
            queue: 100_000,
        }
    }
}

/// The shape of the webhooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WebhookShape {
    /// Meta's envelope, as the pass-through webhook relays it.
    #[default]
    PassThrough,
    /// ChakraHQ's own.
    Chakra,
    /// Each event in both.
    Both,
}

impl WebhookShape {
    /// The forms in which an event is posted.
    pub(in crate::sandbox) fn forms(self) -> &'static [Form] {
        match self {
            Self::PassThrough => &[Form::PassThrough],
            Self::Chakra => &[Form::Chakra],
            Self::Both => &[Form::PassThrough, Form::Chakra],
        }
    }
}

/// A share of messages that fail with a code.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// Meta's code.
    pub code: u32,
    /// The share, 0 to 1.
    pub share: f64,
}

impl Webhook {
    /// Where to post; none where webhooks are off.
    pub(super) fn address(&self) -> Option<Uri> {
        self.url.as_deref().and_then(|url| url.parse().ok())
    }

    pub(in crate::sandbox) fn check(&self) -> Result<(), ConfigError> {
        let plain = |uri: &Uri| uri.scheme_str() == Some("http") && uri.host().is_some();
        if self.url.is_some() && !self.address().as_ref().is_some_and(plain) {
            return Err(invalid("url", "must be a whole http:// address; there is no TLS here"));
        }
        self.check_shares()?;
        for (key, delay) in [
            ("sent_after", &self.sent_after),
            ("delivered_after", &self.delivered_after),
            ("read_after", &self.read_after),
            ("played_after", &self.played_after),
            ("repeat_after", &self.repeat_after),
        ] {
            delay.check(&format!("webhook.{key}"))?;
        }
        for (key, amount) in
            [("batch", self.batch), ("concurrency", self.concurrency), ("queue", self.queue)]
        {
            if amount == 0 {
                return Err(invalid(key, "must be above zero"));
            }
        }
        if self.load > MOST_LOAD {
            return Err(invalid("load", "must not be above 100000"));
        }
        if self.timeout.is_zero() {
            return Err(invalid("timeout", "must be above zero"));
        }
        Ok(())
    }

    fn check_shares(&self) -> Result<(), ConfigError> {
        let failed: f64 = self.failed.iter().map(|failure| failure.share).sum();
        let shares = [
            ("read", self.read),
            ("failed", failed),
            ("early", self.early),
            ("shuffled", self.shuffled),
            ("repeat", self.repeat),
            ("loss", self.loss),
            ("other_events", self.other_events),
        ];
        let lawful = |share: f64| (0.0..=1.0).contains(&share);
        match shares.into_iter().find(|(_, share)| !lawful(*share)) {
            Some((key, _)) => Err(invalid(key, "a share lies between 0 and 1, their sum too")),
            None if self.failed.iter().all(|failure| lawful(failure.share)) => Ok(()),
            None => Err(invalid("failed", "a share lies between 0 and 1")),
        }
    }
}

fn invalid(key: &str, reason: &'static str) -> ConfigError {
    ConfigError::invalid(format!("webhook.{key}"), reason)
}

#[cfg(test)]
mod tests {
    use crate::sandbox::SandboxConfig;

    #[test]
    fn a_mistake_is_named() {
        for (line, named) in [
            ("url = 'https://example.com'", "webhook.url"),
            ("url = '/path'", "webhook.url"),
            ("shape = 'meta'", "meta"),
            ("loss = 1.5", "webhook.loss"),
            ("failed = [{ code = 1, share = 0.6 }, { code = 2, share = 0.6 }]", "webhook.failed"),
            ("failed = [{ code = 1, share = 0.6 }, { code = 2, share = -0.1 }]", "webhook.failed"),
            ("read_after = { min = '2s', max = '1s' }", "webhook.read_after"),
            ("queue = 0", "webhook.queue"),
            ("timeout = '0ms'", "webhook.timeout"),
            ("secert = 'x'", "secert"),
        ] {
            let error = SandboxConfig::from_toml(&format!("[webhook]\n{line}")).unwrap_err();
            assert!(error.to_string().contains(named), "{line:?}: {error}");
        }
    }
}
