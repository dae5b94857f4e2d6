//! `vm.toml`: the description as a file.

use crate::{Limit, VERSION, VmDescription};
use serde::Deserialize;

/// Longest `vm.toml` that is read.
const MAX_TEXT: usize = 1 << 20;

/// A text that is no description.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// Larger than any description.
    #[error("the description has {len} bytes; the limit is {MAX_TEXT}")]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// No TOML, a key that does not exist, or a value of the wrong type.
    #[error("the description cannot be read")]
    Syntax(#[from] toml::de::Error),
    /// A broken limit.
    #[error("the description is refused")]
    Limit(#[from] Limit),
    /// Not expressible as TOML.
    #[error("the description cannot be written")]
    Write(#[from] toml::ser::Error),
}

#[derive(Deserialize)]
struct OnlyVersion {
    version: u32,
}

/// Reads and checks a `vm.toml`.
///
/// # Errors
/// [`TextError`]: a wrong version is told before anything else, because a newer file has keys that this build does not know.
pub fn from_toml(text: &str) -> Result<VmDescription, TextError> {
    if text.len() > MAX_TEXT {
        return Err(TextError::TooLong { len: text.len() });
    }
    let OnlyVersion { version } = toml::from_str(text)?;
    if version != VERSION {
        return Err(Limit::Version { found: version }.into());
    }
    let description: VmDescription = toml::from_str(text)?;
    description.check()?;
    Ok(description)
}

/// Writes a `vm.toml`.
///
/// # Errors
/// A broken limit: what could not be read again is not written.
pub fn to_toml(description: &VmDescription) -> Result<String, TextError> {
    description.check()?;
    Ok(toml::to_string(description)?)
}
