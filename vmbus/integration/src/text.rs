//! UTF-16 in fields of fixed size, as all services carry their text.

use crate::ServiceError;

/// `text` with a zero at its end, padded with zeros to `units` UTF-16 units.
///
/// # Errors
/// `TooLong`, with `what` as its name.
pub fn utf16_field(what: &'static str, text: &str, units: usize) -> Result<Vec<u8>, ServiceError> {
    let encoded: Vec<u16> = text.encode_utf16().collect();
    if encoded.len() >= units {
        return Err(ServiceError::TooLong { what, len: encoded.len(), most: units - 1 });
    }
    let mut bytes = Vec::with_capacity(2 * units);
    bytes.extend(encoded.iter().flat_map(|unit| unit.to_le_bytes()));
    bytes.resize(2 * units, 0);
    Ok(bytes)
}

/// The text in a field, up to its first zero. Broken surrogates become replacement characters.
pub fn text_of(field: &[u8]) -> String {
    let units = field.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let units: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
    String::from_utf16_lossy(&units)
}
