//! The calls to ChakraHQ. One call is one request: nothing is retried, redirected or limited here,
//! and what an answer means is read elsewhere.

use super::chats::Chats;
use super::classify::classify;
use super::codes::Codes;
use super::exchange::{Exchange, perform};
use super::later::told_later;
use super::plugins::{self, Plugin, PluginError};
use super::token::{Key, NewTokens};
use crate::clock;
use crate::policy::{Answer, Failure};
use crate::wire::{Class, NumberId, Scope};
use bytes::Bytes;
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use secrecy::SecretString;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// The longest answer to a send that is read. The documented one has under 200 bytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// The longest plugin configuration that is read: thousands of numbers.
const MAX_CONFIG_BYTES: usize = 4 * 1024 * 1024;

/// The longest page of a chat that is read: a hundred messages of 20 KiB.
const MAX_PAGE_BYTES: usize = 2 * 1024 * 1024;

/// Shorter than common servers' own: a request that meets a connection just being closed is in
/// doubt although nothing was processed.
const POOL_IDLE: Duration = Duration::from_secs(20);

const USER_AGENT: &str = concat!("chakra-sender/", env!("CARGO_PKG_VERSION"));

/// `[chakra]` of the configuration.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    /// Scheme, host and perhaps a path in front of `/v1`.
    pub base_url: String,
    /// The API key.
    pub token: SecretString,
    /// The UUID of the WhatsApp plugin.
    pub plugin_id: String,
    /// Meta's Graph version, such as `v24.0`.
    pub api_version: String,
    /// For a whole call, its answer included.
    pub timeout: Duration,
    /// For reaching the server: name, connection, TLS.
    pub connect_timeout: Duration,
    /// The most calls at once, so the most connections that are worth keeping.
    pub max_in_flight: usize,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A setting is not lawful.
    #[error("{key} {reason}")]
    Setting {
        /// Its name in the configuration.
        key: &'static str,
        /// What it must be.
        reason: &'static str,
    },
    /// TLS could not be set up.
    #[error("cannot set up HTTPS: {0}; are the CA certificates of the system installed?")]
    Tls(#[source] reqwest::Error),
}

/// A client for one plugin. A clone is cheap and shares the connections.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    plugin: Arc<Target>,
    chats: Arc<Mutex<Chats>>,
}

struct Target {
    /// What all addresses begin with.
    base: Url,
    /// `…/plugin/whatsapp/{pluginId}/config`
    config: Url,
    /// `…/plugin/whatsapp/{pluginId}/api/{version}`
    api: Url,
    /// Replaced while calls are under way: each keeps the one that it began with.
    key: watch::Sender<Key>,
    /// Replaced likewise: an answer is read by the table of its moment.
    codes: watch::Sender<Codes>,
    /// ChakraHQ refused the key.
    refused: Notify,
}

impl Client {
    /// Checks the settings and sets up TLS; connects nowhere. Answers are read by the built-in table of
    /// codes, see [`Client::replace_codes`].
    pub fn new(settings: ClientSettings) -> Result<Client, ClientError> {
        let base = base_url(&settings.base_url)?;
        let plugin_id = segment("chakra.plugin_id", &settings.plugin_id)?;
        let version = segment("chakra.api_version", &settings.api_version)?;
        let key = Key::new(&settings.token)?;
        let mut http = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .timeout(settings.timeout)
            .connect_timeout(settings.connect_timeout)
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(settings.max_in_flight)
            .tcp_nodelay(true)
            // The key goes to nobody else.
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            // What may be repeated is decided elsewhere.
            .retry(reqwest::retry::never());
        if is_loopback(&base) {
            // Elsewhere a company's proxy from the environment is honoured.
            http = http.no_proxy();
        }
        let plugin = extend(&base, &["v1", "ext", "plugin", "whatsapp", plugin_id]);
        let target = Target {
            base,
            config: extend(&plugin, &["config"]),
            api: extend(&plugin, &["api", version]),
            key: watch::Sender::new(key),
            codes: watch::Sender::default(),
            refused: Notify::new(),
        };
        let http = http.build().map_err(ClientError::Tls)?;
        Ok(Client { http, plugin: Arc::new(target), chats: Arc::default() })
    }

    /// Posts Meta's message object as it stands, once. `expects_id` is false for read receipts and
    /// typing indicators, whose answers have no id. Dropping the future leaves the message in doubt.
    pub async fn send(&self, number: &NumberId, request: Bytes, expects_id: bool) -> Answer {
        let post = self
            .http
            .post(extend(&self.plugin.api, &[number.as_str(), "messages"]))
            .header(AUTHORIZATION, self.key().authorization())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(request);
        let exchange = perform(post, MAX_ANSWER_BYTES).await;
        let key = self.key();
        let codes = &self.plugin.codes.borrow();
        let answer = classify(&exchange, expects_id, codes, key.secrets(), clock::wall());
        if refuses_token(&answer) {
            self.plugin.refused.notify_one();
        }
        answer
    }

    /// Asks for the plugin's numbers. Also shows whether token and plugin id are right.
    pub async fn plugin(&self) -> Result<Plugin, PluginError> {
        let get = self
            .http
            .get(self.plugin.config.clone())
            .header(AUTHORIZATION, self.key().authorization());
        let exchange = perform(get, MAX_CONFIG_BYTES).await;
        let plugin = plugins::read(exchange, self.key().secrets());
        if let Err(PluginError::Token { .. }) = plugin {
            self.plugin.refused.notify_one();
        }
        plugin
    }

    /// From now on calls show this token. False where it is the present one.
    pub fn replace_token(&self, token: &SecretString) -> Result<bool, ClientError> {
        let Some(key) = self.key().replaced_by(token)? else { return Ok(false) };
        self.plugin.key.send_replace(key);
        Ok(true)
    }

    /// From now on answers are read by this table.
    pub fn replace_codes(&self, codes: Codes) {
        self.plugin.codes.send_replace(codes);
    }

    /// What a failure means that Meta told by webhook, by the table of this moment.
    pub fn told_later(&self, code: Option<u32>, text: &str) -> Failure {
        told_later(code, text, &self.plugin.codes.borrow(), self.key().secrets())
    }

    /// Waits until ChakraHQ refuses the token. For one caller: a refusal is told once.
    pub async fn token_refused(&self) {
        self.plugin.refused.notified().await;
    }

    /// Tells when the token is replaced from now on.
    pub fn new_tokens(&self) -> NewTokens {
        NewTokens(self.plugin.key.subscribe())
    }

    fn key(&self) -> Key {
        self.plugin.key.borrow().clone()
    }
}

/// Whether the token is what is wrong. A role that is too narrow looks alike.
fn refuses_token(answer: &Answer) -> bool {
    matches!(
        answer,
        Answer::Failed(Failure {
            class: Class::Blocked,
            scope: Scope::Account,
            http_status: Some(401 | 403),
            ..
        })
    )
}

/// For the calls that look at chats.
impl Client {
    /// Posts JSON to a path under the base.
    pub(super) async fn ask(&self, path: &[&str], body: serde_json::Value) -> Exchange {
        let post = self
            .http
            .post(extend(&self.plugin.base, path))
            .header(AUTHORIZATION, self.key().authorization())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(body.to_string());
        perform(post, MAX_PAGE_BYTES).await
    }

    /// What must not show in any text.
    pub(super) fn secret(&self) -> String {
        self.key().secrets().to_owned()
    }

    pub(super) fn known_chat(&self, number: &str) -> Option<String> {
        self.chats.lock().unwrap_or_else(PoisonError::into_inner).get(number)
    }

    pub(super) fn remember_chat(&self, number: String, chat: &str) {
        self.chats.lock().unwrap_or_else(PoisonError::into_inner).remember(number, chat);
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("api", &self.plugin.api.as_str()).finish_non_exhaustive()
    }
}

fn base_url(text: &str) -> Result<Url, ClientError> {
    let wrong = |reason| ClientError::Setting { key: "chakra.base_url", reason };
    let url = Url::parse(text).map_err(|_| wrong("must be an address such as https://host"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(wrong("must begin with https:// (or http://)"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("must not hold a user or password"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("must end before any ? or #"));
    }
    Ok(url)
}

/// A text that stands in a path as it is.
fn segment<'a>(key: &'static str, text: &'a str) -> Result<&'a str, ClientError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    // `.` and `..` would leave the path.
    let lawful = text.bytes().all(plain) && text.bytes().any(|byte| byte.is_ascii_alphanumeric());
    let reason = "must be letters, digits, dots, hyphens and underscores";
    lawful.then_some(text).ok_or(ClientError::Setting { key, reason })
}

fn extend(url: &Url, segments: &[&str]) -> Url {
    let mut url = url.clone();
    let mut path = url.path_segments_mut().expect("an http address has a path");
    path.pop_if_empty().extend(segments);
    drop(path);
    url
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_built_under_the_base() {
        for base in ["https://api.example.com/gate", "https://api.example.com/gate/"] {
            let client = Client::new(settings(base, "v24.0", "key")).unwrap();
            let send = extend(&client.plugin.api, &["123", "messages"]);
            let root = "https://api.example.com/gate/v1/ext/plugin/whatsapp/7-a";
            assert_eq!(send.as_str(), format!("{root}/api/v24.0/123/messages"));
            assert_eq!(client.plugin.config.as_str(), format!("{root}/config"));
        }
    }

    #[test]
    fn a_wrong_setting_is_named() {
        let cases = [
            ("api.example.com", "v24.0", "key", "chakra.base_url"),
            ("ftp://example.com", "v24.0", "key", "chakra.base_url"),
            ("https://me:pw@example.com", "v24.0", "key", "chakra.base_url"),
            ("https://example.com/?a", "v24.0", "key", "chakra.base_url"),
            ("https://example.com", "..", "key", "chakra.api_version"),
            ("https://example.com", "v24/x", "key", "chakra.api_version"),
            ("https://example.com", "", "key", "chakra.api_version"),
            ("https://example.com", "v24.0", "", "chakra.token"),
            ("https://example.com", "v24.0", "key\n", "chakra.token"),
        ];
        for (base, version, token, expected) in cases {
            let error = Client::new(settings(base, version, token)).unwrap_err();
            assert!(error.to_string().starts_with(expected), "{error}");
        }
    }

    #[test]
    fn only_a_loopback_host_skips_the_proxy() {
        let cases = [
            ("http://127.0.0.1:8080", true),
            ("http://[::1]:8080", true),
            ("http://localhost", true),
            ("http://127.0.0.1.example.com", false),
            ("https://api.example.com", false),
        ];
        for (base, expected) in cases {
            assert_eq!(is_loopback(&Url::parse(base).unwrap()), expected, "{base}");
        }
    }

    #[test]
    fn nothing_shows_the_token() {
        let settings = settings("https://example.com", "v24.0", "sesame");
        let client = Client::new(settings.clone()).unwrap();
        client.replace_token(&"sesame-too".into()).unwrap();
        assert!(!format!("{settings:?} {client:?}").contains("sesame"));
        assert!(!format!("{:?} {:?}", client.key(), client.new_tokens()).contains("sesame"));
    }

    fn settings(base_url: &str, version: &str, token: &str) -> ClientSettings {
        ClientSettings {
            base_url: base_url.into(),
            token: token.into(),
            plugin_id: "7-a".into(),
            api_version: version.into(),
            timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(1),
            max_in_flight: 2,
        }
    }
}
