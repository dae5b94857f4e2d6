//! Writes a saved-state file, section by section.

use crate::error::SavedStateError;
use crate::layout::{FORMAT, Head, MAGIC, MAX_BODY, MAX_FILE, MAX_SECTIONS, is_name};
use crate::state::SavedState;
use minicbor::Encode;
use std::collections::HashSet;
use std::io::Write;

/// Writes sections to `W`. A file without [`SaveWriter::finish`] is refused by the reader, so a crash leaves nothing half valid.
pub struct SaveWriter<W> {
    out: W,
    names: HashSet<String>,
    bytes: u64,
}

impl<W: Write> SaveWriter<W> {
    /// Starts a file.
    ///
    /// # Errors
    /// `Io` when `out` cannot be written.
    pub fn new(mut out: W) -> Result<SaveWriter<W>, SavedStateError> {
        let mut head = Vec::from(MAGIC);
        head.extend_from_slice(&FORMAT.to_le_bytes());
        head.extend_from_slice(&[0; 4]);
        out.write_all(&head).map_err(|source| SavedStateError::Io { action: "write of the header", source })?;
        Ok(SaveWriter { out, names: HashSet::new(), bytes: 0 })
    }

    /// Encodes and writes one section: `name` is the object (`vp3`), `kind` what it is (`vp`).
    ///
    /// # Errors
    /// As [`SaveWriter::state`], and `Encode`.
    pub fn section<T: Encode<()>>(
        &mut self,
        name: &str,
        kind: &str,
        version: u32,
        value: &T,
    ) -> Result<(), SavedStateError> {
        self.state(name, &SavedState::encode(kind, version, value)?)
    }

    /// Writes one section from state that is already encoded.
    ///
    /// # Errors
    /// `BadName`, `Duplicate`, `TooLarge`, `Io`.
    pub fn state(&mut self, name: &str, state: &SavedState) -> Result<(), SavedStateError> {
        let (kind, length) = (state.kind.as_str(), state.body.len() as u64);
        if let Some(text) = [name, kind].into_iter().find(|text| !is_name(text.as_bytes())) {
            return Err(SavedStateError::BadName { text: text.into() });
        }
        check("a section", length, MAX_BODY)?;
        check("the sum of all sections", self.bytes + length, MAX_FILE)?;
        check("the number of sections", self.names.len() as u64 + 1, MAX_SECTIONS as u64)?;
        if !self.names.insert(name.into()) {
            return Err(SavedStateError::Duplicate { name: name.into() });
        }
        self.bytes += length;
        let head = Head {
            name: name.len() as u8,
            kind: kind.len() as u8,
            reserved: 0,
            version: state.version,
            length,
            crc: 0,
        };
        self.write(head, name, kind, &state.body)
    }

    /// Writes the end mark and gives the writer back, for fsync.
    ///
    /// # Errors
    /// `Io` when the end mark cannot be written or flushed.
    pub fn finish(mut self) -> Result<W, SavedStateError> {
        let end = Head { name: 0, kind: 0, reserved: 0, version: 0, length: self.names.len() as u64, crc: 0 };
        self.write(end, "", "", &[])?;
        self.out.flush().map_err(|source| SavedStateError::Io { action: "flush", source })?;
        Ok(self.out)
    }

    fn write(&mut self, mut head: Head, name: &str, kind: &str, body: &[u8]) -> Result<(), SavedStateError> {
        head.crc = head.checksum(name.as_bytes(), kind.as_bytes(), body);
        for part in [&head.to_bytes(), name.as_bytes(), kind.as_bytes(), body] {
            self.out.write_all(part).map_err(|source| SavedStateError::Io { action: "write of a section", source })?;
        }
        Ok(())
    }
}

fn check(what: &'static str, found: u64, limit: u64) -> Result<(), SavedStateError> {
    if found > limit { Err(SavedStateError::TooLarge { what, found, limit }) } else { Ok(()) }
}
