//! Who may change anything: what follows from the token that is set and from a request's header. The tokens
//! are compared in constant time. Changes nothing.

use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

/// What goes before the token, in large or small letters (RFC 9110, 11.1; RFC 6750, 2.1).
const SCHEME: &[u8] = b"Bearer ";

/// Whether a request may come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// It may.
    Open,
    /// It brings no token, or another one.
    Unauthorized,
    /// Nobody may: there is no token to bring.
    Closed,
}

/// `token` is what was set, `header` the value of the request's `Authorization`.
pub(super) fn entry(token: Option<&SecretString>, header: Option<&[u8]>) -> Entry {
    let Some(token) = token else { return Entry::Closed };
    let given = header.and_then(given).unwrap_or_default();
    // Only the token's length may be learned from the time that it takes.
    match given.ct_eq(token.expose_secret().as_bytes()).into() {
        true => Entry::Open,
        false => Entry::Unauthorized,
    }
}

/// The token in a header.
fn given(header: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = header.split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(token: Option<&str>, header: Option<&str>) -> Entry {
        entry(token.map(SecretString::from).as_ref(), header.map(str::as_bytes))
    }

    const SET: Option<&str> = Some("open-sesame-1234");

    #[test]
    fn who_brings_the_token_may_come_in() {
        for header in
            ["Bearer open-sesame-1234", "bearer open-sesame-1234", "BEARER  open-sesame-1234 "]
        {
            assert_eq!(by(SET, Some(header)), Entry::Open, "{header}");
        }
    }

    #[test]
    fn nobody_else_may() {
        assert_eq!(by(SET, None), Entry::Unauthorized);
        for header in [
            "",
            "Bearer",
            "Bearer ",
            "open-sesame-1234",
            "Basic open-sesame-1234",
            "Bearer open-sesame-123",
            "Bearer open-sesame-12345",
            "Bearer Open-sesame-1234",
            "Béarer open-sesame-1234",
        ] {
            assert_eq!(by(SET, Some(header)), Entry::Unauthorized, "{header}");
        }
    }

    #[test]
    fn without_a_token_there_is_none_to_bring() {
        assert_eq!(by(None, None), Entry::Closed);
        assert_eq!(by(None, Some("Bearer ")), Entry::Closed);
    }
}
