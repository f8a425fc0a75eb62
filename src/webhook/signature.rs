//! Who may tell us anything: the signature over a body's bytes, the secret segment of the path, the token
//! of Meta's challenge. All are compared in constant time. Reads no body before its signature is right.

use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// The header, by ChakraHQ's documentation; in small letters, as HTTP libraries keep names.
pub(super) const HEADER: &str = "x-chakra-signature-256";

/// Meta writes this before a signature and ChakraHQ does not; both are taken.
const PREFIX: &[u8] = b"sha256=";

/// HMAC-SHA256 has so many bytes.
const BYTES: usize = 32;

/// Checks signatures by one secret, which it never shows.
#[derive(Clone)]
pub(super) struct Verifier(Hmac<Sha256>);

/// A signature that could be one: so many bytes in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Signature([u8; BYTES]);

impl Verifier {
    /// By the team's HMAC secret.
    pub(super) fn new(secret: &[u8]) -> Verifier {
        Verifier(Hmac::new_from_slice(secret).expect("HMAC takes a key of any length"))
    }

    /// Whether the body is signed by it. `body` is what came over the line, byte for byte.
    pub(super) fn accepts(&self, body: &[u8], signature: &Signature) -> bool {
        self.0.clone().chain_update(body).verify_slice(&signature.0).is_ok()
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verifier")
    }
}

impl Signature {
    /// Reads the header's value: hexadecimal in small or capital letters, with or without its prefix.
    pub(super) fn parse(value: &[u8]) -> Option<Signature> {
        let value = value.trim_ascii();
        let digits = value.strip_prefix(PREFIX).unwrap_or(value);
        if digits.len() != 2 * BYTES {
            return None;
        }
        let mut bytes = [0; BYTES];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Signature(bytes))
    }
}

fn digit(character: u8) -> Option<u8> {
    let digit = char::from(character).to_digit(16)?;
    u8::try_from(digit).ok()
}

/// Whether two secrets are the same. Only their lengths may be learned from the time that it takes.
pub(super) fn same(one: &str, other: &str) -> bool {
    one.as_bytes().ct_eq(other.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BODY: &[u8] = b"what do ya want for nothing?";

    /// RFC 4231, test case 2.
    const SIGNED: &str = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";

    fn accepts(body: &[u8], signature: &str) -> bool {
        let signature = Signature::parse(signature.as_bytes());
        signature.is_some_and(|signature| Verifier::new(b"Jefe").accepts(body, &signature))
    }

    #[test]
    fn a_signature_is_taken_in_each_of_its_spellings() {
        for signature in [
            SIGNED.to_owned(),
            SIGNED.to_uppercase(),
            format!("sha256={SIGNED}"),
            format!(" sha256={SIGNED} "),
        ] {
            assert!(accepts(BODY, &signature), "{signature}");
        }
    }

    #[test]
    fn another_body_another_secret_or_another_spelling_is_refused() {
        assert!(!accepts(b"what do ya want for nothing!", SIGNED));
        assert!(
            !Verifier::new(b"jefe").accepts(BODY, &Signature::parse(SIGNED.as_bytes()).unwrap())
        );
        let long = format!("{SIGNED}00");
        for signature in ["", "sha256=", &SIGNED[1..], &long, &SIGNED.replace('5', "g"), "sha1=00"]
        {
            assert!(!accepts(BODY, signature), "{signature}");
        }
    }

    #[test]
    fn no_secret_shows() {
        assert_eq!(format!("{:?}", Verifier::new(b"Jefe")), "Verifier");
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic_and_no_chance_signature_passes(
            value in prop::collection::vec(any::<u8>(), 0..80), bytes in any::<[u8; BYTES]>(),
        ) {
            let verifier = Verifier::new(b"Jefe");
            let by_chance = Signature::parse(&value).is_some_and(|given| verifier.accepts(BODY, &given));
            prop_assert!(!by_chance && !verifier.accepts(BODY, &Signature(bytes)));
        }

        #[test]
        fn one_changed_bit_is_enough_to_be_refused(at in 0..BYTES, bit in 0..8_u8) {
            let Signature(mut bytes) = Signature::parse(SIGNED.as_bytes()).unwrap();
            bytes[at] ^= 1 << bit;
            prop_assert!(!Verifier::new(b"Jefe").accepts(BODY, &Signature(bytes)));
        }
    }
}
