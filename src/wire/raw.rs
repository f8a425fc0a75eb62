//! JSON kept byte for byte as the producer wrote it.

use bytes::Bytes;
use serde_json::value::RawValue;
use std::fmt;

/// The deepest lawful nesting. A common reader stops at 127 levels, and what we pass on stands one
/// level deeper in an event.
const MAX_DEPTH: usize = 126;

/// A piece of valid JSON, exactly as it was written. A slice of the body it came in, not a copy.
#[derive(Clone, PartialEq, Eq)]
pub struct RawJson(Bytes);

impl RawJson {
    /// `raw` must have been read from `body`: the slice shares its memory. Its depth is not bounded:
    /// its reader bounds it (`check_depth`).
    pub fn slice_of(body: &Bytes, raw: &RawValue) -> RawJson {
        RawJson(body.slice_ref(raw.get().as_bytes()))
    }

    /// Checks that `bytes` are one JSON value that common readers can read: of bounded depth, with
    /// numbers in range and whole characters.
    pub fn parse(bytes: Bytes) -> Result<RawJson, String> {
        serde_json::from_slice::<serde_json::Value>(&bytes).map_err(|error| error.to_string())?;
        let raw = RawJson(bytes);
        raw.check_depth().map_err(|error| format!("it is {error}"))?;
        Ok(raw)
    }

    /// The bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// The same as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.0).expect("valid JSON is valid UTF-8")
    }

    /// Refuses nesting that a reader would refuse, or not survive. `RawValue` itself skips over any
    /// depth without recursion.
    pub(super) fn check_depth(&self) -> Result<(), String> {
        // Nearly all: what opens no more than that nowhere stands deeper. One look that a processor does
        // sixteen bytes at a time.
        let opened = self.0.iter().filter(|byte| matches!(byte, b'{' | b'[')).count();
        if opened <= MAX_DEPTH {
            return Ok(());
        }
        let mut depth = 0usize;
        let mut in_string = false;
        let mut bytes = self.0.iter();
        while let Some(byte) = bytes.next() {
            match byte {
                b'\\' if in_string => {
                    bytes.next();
                }
                b'"' => in_string = !in_string,
                b'{' | b'[' if !in_string => depth += 1,
                b'}' | b']' if !in_string => depth -= 1,
                _ => {}
            }
            if depth > MAX_DEPTH {
                return Err(format!("nested deeper than {MAX_DEPTH} levels"));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for RawJson {
    /// Content is a producer's business: only its size is shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RawJson({} bytes)", self.0.len())
    }
}

impl serde::Serialize for RawJson {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue = serde_json::from_slice(&self.0).map_err(serde::ser::Error::custom)?;
        raw.serialize(to)
    }
}
