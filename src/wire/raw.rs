//! JSON kept byte for byte as the producer wrote it.

use bytes::Bytes;
use serde_json::value::RawValue;
use std::fmt;

/// A piece of valid JSON, exactly as it was written. A slice of the body it came in, not a copy.
#[derive(Clone, PartialEq, Eq)]
pub struct RawJson(Bytes);

impl RawJson {
    /// `raw` must have been read from `body`: the slice shares its memory.
    pub fn slice_of(body: &Bytes, raw: &RawValue) -> RawJson {
        RawJson(body.slice_ref(raw.get().as_bytes()))
    }

    /// Checks that `bytes` are one JSON value of bounded depth.
    pub fn parse(bytes: Bytes) -> Result<RawJson, serde_json::Error> {
        serde_json::from_slice::<serde_json::Value>(&bytes)?;
        Ok(RawJson(bytes))
    }

    /// The bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.0
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
