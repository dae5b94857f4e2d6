//! The state of one object: its kind, version and encoded body, without a name.

use crate::error::SavedStateError;
use minicbor::{Decode, Encode};
use std::ops::RangeInclusive;

/// What one device, processor or bus hands out when it is saved, and gets back when it is restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedState {
    pub(crate) kind: String,
    pub(crate) version: u32,
    pub(crate) body: Vec<u8>,
}

impl SavedState {
    /// Encodes `value`, a type made for saving, as a `kind` (what it is, e.g. `serial`) in `version`.
    ///
    /// # Errors
    /// `Encode` when the value's own encoder refuses.
    pub fn encode<T: Encode<()>>(kind: &str, version: u32, value: &T) -> Result<SavedState, SavedStateError> {
        let body = minicbor::to_vec(value)
            .map_err(|error| SavedStateError::Encode { kind: kind.into(), message: error.to_string() })?;
        Ok(SavedState { kind: kind.into(), version, body })
    }

    /// What kind of object this is the state of.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The version of the body.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The encoded body.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Decodes the body as a `T`, the type for `versions`. For an older version with another type look at
    /// [`SavedState::version`] first.
    ///
    /// # Errors
    /// `NewerSection`, `OlderSection` when the version is outside `versions`; `Decode` when the body is not exactly one `T`.
    pub fn decode<'b, T: Decode<'b, ()>>(&'b self, versions: RangeInclusive<u32>) -> Result<T, SavedStateError> {
        let (kind, found, oldest, newest) = (self.kind.clone(), self.version, *versions.start(), *versions.end());
        if found > newest {
            return Err(SavedStateError::NewerSection { kind, found, oldest, newest });
        }
        if found < oldest {
            return Err(SavedStateError::OlderSection { kind, found, oldest, newest });
        }
        let mut decoder = minicbor::Decoder::new(&self.body);
        let value = decoder.decode().and_then(|value| match decoder.position() == self.body.len() {
            true => Ok(value),
            false => Err(minicbor::decode::Error::message("data after the value").at(decoder.position())),
        });
        value.map_err(|source| SavedStateError::Decode { kind, version: found, source })
    }
}
