//! Who may come in: the path, the signature where one is asked for, and Meta's challenge. Values in, values
//! out; no secret is ever shown.

use super::signature::{Signature, Verifier, same};
use secrecy::{ExposeSecret, SecretString};

/// What the path is, or begins with where it ends with a secret segment.
const PATH: &str = "/webhook";

/// Meta's challenge is a number of ten digits. What is longer is none, and is not echoed.
const MOST_CHALLENGE_BYTES: usize = 256;

/// How a sender shows that it may tell us anything.
#[derive(Debug, Clone)]
pub enum Proof {
    /// By signing each body with the team's HMAC secret.
    Signature(SecretString),
    /// By knowing the last segment of the path.
    Path(SecretString),
    /// By both.
    Both {
        /// The HMAC secret.
        secret: SecretString,
        /// The last segment.
        segment: SecretString,
    },
}

impl Proof {
    /// By what is given; none where that is nothing, since anybody could come in then.
    pub fn new(secret: Option<SecretString>, segment: Option<SecretString>) -> Option<Proof> {
        match (secret, segment) {
            (Some(secret), Some(segment)) => Some(Proof::Both { secret, segment }),
            (Some(secret), None) => Some(Proof::Signature(secret)),
            (None, Some(segment)) => Some(Proof::Path(segment)),
            (None, None) => None,
        }
    }
}

impl Proof {
    /// The last segment of the path, where it is a secret.
    pub fn segment(&self) -> Option<&SecretString> {
        match self {
            Proof::Signature(_) => None,
            Proof::Path(segment) | Proof::Both { segment, .. } => Some(segment),
        }
    }
}

/// The door.
#[derive(Debug)]
pub(super) struct Door {
    path: SecretString,
    verifier: Option<Verifier>,
    verify_token: Option<SecretString>,
}

/// What is asked of a body before it is read: a signature, or nothing more.
#[derive(Debug)]
pub(super) struct Seal<'a>(Option<(&'a Verifier, Signature)>);

impl Seal<'_> {
    pub(super) fn is_on(&self, body: &[u8]) -> bool {
        self.0.is_none_or(|(verifier, signature)| verifier.accepts(body, &signature))
    }
}

impl Door {
    pub(super) fn new(proof: &Proof, verify_token: Option<SecretString>) -> Door {
        let (secret, segment) = match proof {
            Proof::Signature(secret) => (Some(secret), None),
            Proof::Path(segment) => (None, Some(segment)),
            Proof::Both { secret, segment } => (Some(secret), Some(segment)),
        };
        let path = segment
            .map_or_else(|| PATH.to_owned(), |secret| format!("{PATH}/{}", secret.expose_secret()));
        Door {
            path: path.into(),
            verifier: secret.map(|secret| Verifier::new(secret.expose_secret().as_bytes())),
            verify_token,
        }
    }

    /// Whether a path leads here. A slash at its end, which people add, is all the same.
    pub(super) fn is_at(&self, path: &str) -> bool {
        same(path.strip_suffix('/').unwrap_or(path), self.path.expose_secret())
    }

    /// What the body must bear out; none where the signature is missing or can be none.
    pub(super) fn seal(&self, signature: Option<&[u8]>) -> Option<Seal<'_>> {
        let Some(verifier) = &self.verifier else { return Some(Seal(None)) };
        Some(Seal(Some((verifier, Signature::parse(signature?)?))))
    }

    /// What to answer to Meta's challenge: it comes once, when the address is entered, with the token
    /// that was entered beside it.
    pub(super) fn answer(&self, query: &str) -> Option<String> {
        let value = |name: &str| {
            let mut pairs = form_urlencoded::parse(query.as_bytes());
            pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
        };
        let token = self.verify_token.as_ref()?.expose_secret();
        let is_lawful = |text: &String| {
            text.len() <= MOST_CHALLENGE_BYTES && text.bytes().all(|byte| byte.is_ascii_graphic())
        };
        let is_ours = value("hub.mode").as_deref() == Some("subscribe")
            && value("hub.verify_token").is_some_and(|given| same(&given, token));
        value("hub.challenge").filter(is_lawful).filter(|_| is_ours)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn door(secret: Option<&str>, segment: Option<&str>) -> Door {
        let [secret, segment] = [secret, segment].map(|text| text.map(SecretString::from));
        Door::new(&Proof::new(secret, segment).unwrap(), Some("a token&".into()))
    }

    #[test]
    fn without_any_proof_there_is_no_door() {
        assert!(Proof::new(None, None).is_none());
    }

    #[test]
    fn the_path_is_the_whole_path() {
        let open = door(Some("sesame"), None);
        let secret = door(None, Some("s3gment"));
        assert!(open.is_at("/webhook") && secret.is_at("/webhook/s3gment"));
        assert!(open.is_at("/webhook/") && secret.is_at("/webhook/s3gment/"));
        for path in ["", "/", "/webhook//", "/webhook/s3gment//", "/webhook/s3gmenT", "/x"] {
            assert!(!open.is_at(path) && !secret.is_at(path), "{path}");
        }
        assert!(!secret.is_at("/webhook") && !open.is_at("/webhook/s3gment"));
    }

    #[test]
    fn a_signature_is_asked_for_where_there_is_a_secret() {
        let signed = door(Some("sesame"), Some("s3gment"));
        assert!(signed.seal(None).is_none() && signed.seal(Some(b"sha256=00")).is_none());
        let another = signed.seal(Some(&[b'0'; 64]));
        assert!(another.is_some_and(|seal| !seal.is_on(b"{}")));
        let unsigned = door(None, Some("s3gment"));
        assert!(unsigned.seal(None).is_some_and(|seal| seal.is_on(b"{}")));
    }

    #[test]
    fn a_challenge_with_our_token_is_answered() {
        let door = door(Some("sesame"), None);
        let answer = |query: &str| door.answer(query);
        let asked = "hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=a+token%26";
        assert_eq!(answer(asked).as_deref(), Some("1158201444"));
        for wrong in [
            "",
            &asked.replace("subscribe", "unsubscribe"),
            &asked.replace("token%26", "token"),
            &asked.replace("1158201444", "%3Cscript%3E%20"),
            &asked.replace("1158201444", &"1".repeat(MOST_CHALLENGE_BYTES + 1)),
            "hub.mode=subscribe&hub.verify_token=a+token%26",
        ] {
            assert_eq!(answer(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn without_a_token_of_ours_no_challenge_is_answered() {
        let door = Door::new(&Proof::Signature("sesame".into()), None);
        assert_eq!(door.answer("hub.mode=subscribe&hub.challenge=1&hub.verify_token="), None);
    }

    #[test]
    fn no_secret_shows() {
        let shown = format!("{:?}", door(Some("sesame"), Some("s3gment")));
        assert!(!shown.contains("sesame") && !shown.contains("s3g") && !shown.contains("token&"));
    }

    proptest! {
        #[test]
        fn no_path_and_no_query_makes_it_panic(text in any::<String>()) {
            let door = door(Some("sesame"), Some("s3gment"));
            prop_assert!(!door.is_at(&text) && door.answer(&text).is_none());
        }
    }
}
