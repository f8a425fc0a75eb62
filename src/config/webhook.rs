//! The section `[webhook]`: where to listen, and what shows that a sender may tell us anything. A listener
//! that anybody could write to is refused.

use super::reader::Reader;
use super::sections::url;
use super::settings::WebhookSettings;
use crate::webhook::Proof;
use secrecy::SecretString;
use std::net::SocketAddr;

/// Shorter ones could be guessed by trying.
const SHORTEST_SEGMENT: usize = 16;

/// Longer ones are refused by some on the way.
const LONGEST_TEXT: usize = 128;

/// Reads the section; none where it is unset, which is lawful.
pub(super) fn webhook(from: &mut Reader) -> Option<WebhookSettings> {
    const LISTEN: &str = "webhook.listen";
    let listen = from.text(LISTEN, |text| {
        text.parse::<SocketAddr>().map_err(|_| {
            "must be an IP address and a port, like \"127.0.0.1:9465\" or \"[::]:9465\"".into()
        })
    });
    let secret = from.secret("webhook.secret", |secret| match secret.is_empty() {
        false => Ok(SecretString::from(secret)),
        true => Err("must not be empty".into()),
    });
    let segment = from.secret("webhook.path_secret", |segment| {
        let lawful = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        match (SHORTEST_SEGMENT..=LONGEST_TEXT).contains(&segment.len())
            && segment.bytes().all(lawful)
        {
            true => Ok(SecretString::from(segment)),
            false => Err(format!(
                "must be {SHORTEST_SEGMENT} to {LONGEST_TEXT} of a-z, A-Z, 0-9, \"-\" and \"_\""
            )),
        }
    });
    let verify_token = from.secret("webhook.verify_token", |token| {
        let is_visible = token.bytes().all(|byte| byte.is_ascii_graphic());
        match (1..=LONGEST_TEXT).contains(&token.len()) && is_visible {
            true => Ok(SecretString::from(token)),
            false => {
                Err(format!("must be 1 to {LONGEST_TEXT} visible ASCII characters without spaces"))
            }
        }
    });
    let public_url =
        from.text("webhook.public_url", |text| url(text, "https://example.com/webhook"));
    let keys = ["secret", "secret_file", "path_secret", "path_secret_file"];
    let is_proof_given = keys.iter().any(|key| from.is_given(&format!("webhook.{key}")));
    if from.is_given(LISTEN) && !is_proof_given {
        let reason = "needs webhook.secret (ChakraHQ: Admin, Team, Secrets) or webhook.path_secret: \
                      without either anybody could tell of deliveries";
        from.problem(LISTEN, reason);
    }
    let proof = Proof::new(secret, segment)?;
    Some(WebhookSettings { listen: listen?, proof, verify_token, public_url })
}
