//! The API key as the calls use it: what stands in the header, and what must not show in any text.
//! It can be replaced while calls are under way. Reads no file.

use super::client::ClientError;
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use std::fmt;
use std::sync::Arc;
use tokio::sync::watch;

/// So many tokens are kept out of all texts: the present one, and those that a call which was under
/// way meanwhile may have shown.
const KEPT: usize = 4;

/// A token, ready to be shown. A clone is cheap.
#[derive(Clone)]
pub(super) struct Key(Arc<Parts>);

struct Parts {
    authorization: HeaderValue,
    /// This token and the last ones before it, newest first, separated by spaces.
    secrets: SecretString,
}

impl Key {
    pub(super) fn new(token: &SecretString) -> Result<Key, ClientError> {
        Ok(Key(Arc::new(Parts { authorization: bearer(token)?, secrets: token.clone() })))
    }

    /// None where it is the same token.
    pub(super) fn replaced_by(&self, token: &SecretString) -> Result<Option<Key>, ClientError> {
        let authorization = bearer(token)?;
        if authorization == self.0.authorization {
            return Ok(None);
        }
        let all = [token.expose_secret()].into_iter().chain(self.secrets().split(' '));
        let secrets = all.take(KEPT).collect::<Vec<_>>().join(" ").into();
        Ok(Some(Key(Arc::new(Parts { authorization, secrets }))))
    }

    pub(super) fn authorization(&self) -> HeaderValue {
        self.0.authorization.clone()
    }

    /// What must not show in any text, separated by spaces.
    pub(super) fn secrets(&self) -> &str {
        self.0.secrets.expose_secret()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

/// Tells when a client's token is replaced.
#[derive(Debug)]
pub struct NewTokens(pub(super) watch::Receiver<Key>);

impl NewTokens {
    /// Waits for the next replacement; none once the client is gone.
    pub async fn next(&mut self) -> Option<()> {
        self.0.changed().await.ok()
    }
}

fn bearer(token: &SecretString) -> Result<HeaderValue, ClientError> {
    let text = token.expose_secret();
    let visible = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    let value = HeaderValue::from_str(&format!("Bearer {text}")).ok().filter(|_| visible);
    let reason = "must be visible ASCII characters without spaces or line breaks";
    let mut value = value.ok_or(ClientError::Setting { key: "chakra.token", reason })?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_tokens_are_kept_out_of_all_texts() {
        let mut key = Key::new(&"one".into()).unwrap();
        for (token, secrets) in [
            ("two", "two one"),
            ("three", "three two one"),
            ("four", "four three two one"),
            ("five", "five four three two"),
        ] {
            key = key.replaced_by(&token.into()).unwrap().unwrap();
            assert_eq!(key.secrets(), secrets);
            assert_eq!(key.authorization().to_str().unwrap(), format!("Bearer {token}"));
        }
    }

    #[test]
    fn the_same_token_is_no_new_one_and_an_unlawful_one_is_refused() {
        let key = Key::new(&"one".into()).unwrap();
        assert!(key.replaced_by(&"one".into()).unwrap().is_none());
        for unlawful in ["", "two words", "two\n", "zw\u{f6}lf"] {
            let error = key.replaced_by(&unlawful.into()).unwrap_err().to_string();
            assert!(error.starts_with("chakra.token must be"), "{error}");
        }
    }
}
