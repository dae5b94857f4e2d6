//! The file identifier at offset 0: signature and creator (MS-VHDX 2.2.1).

use super::FormatError;
use super::bytes::{from_utf16le, put, utf16le};

/// Bytes of the identifier that carry meaning.
pub const SIZE: usize = 8 + 512;
const SIGNATURE: &[u8; 8] = b"vhdxfile";

/// Who wrote the file: diagnostic text only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileIdentifier {
    /// Name of the program that created the file (at most 256 UTF-16 units).
    pub creator: String,
}

impl FileIdentifier {
    /// Reads the identifier from the first [`SIZE`] bytes of a file.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        if bytes.len() < SIZE {
            return Err(FormatError::damaged("file identifier", format!("the file has only {} bytes", bytes.len())));
        }
        if &bytes[..8] != SIGNATURE {
            return Err(FormatError::damaged(
                "file identifier",
                "the signature `vhdxfile` is missing: not a VHDX file",
            ));
        }
        let creator = from_utf16le(&bytes[8..SIZE]);
        Ok(Self { creator: creator.split('\0').next().unwrap_or_default().to_owned() })
    }

    /// The bytes for offset 0; a creator that is too long is cut.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; SIZE];
        put(&mut bytes, 0, SIGNATURE);
        let creator = utf16le(&self.creator);
        put(&mut bytes, 8, &creator[..creator.len().min(510)]);
        bytes
    }
}
