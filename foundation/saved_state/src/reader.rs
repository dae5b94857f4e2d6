//! Reads a saved-state file strictly: what no writer makes is refused.

use crate::error::{Corruption, SavedStateError};
use crate::layout::{FILE_HEAD, FORMAT, Head, MAGIC, MAX_BODY, MAX_FILE, MAX_SECTIONS, is_name};
use crate::state::SavedState;
use minicbor::Decode;
use std::collections::HashSet;
use std::io::{ErrorKind, Read};
use std::ops::RangeInclusive;

/// All sections of a file, checked. The restorer takes them one by one and finishes with [`SavedFile::finish`].
#[derive(Debug)]
pub struct SavedFile {
    sections: Vec<Section>,
}

/// One object's state and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    name: String,
    state: SavedState,
}

impl Section {
    /// The object's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What kind of object it is.
    pub fn kind(&self) -> &str {
        &self.state.kind
    }

    /// The version of the body.
    pub fn version(&self) -> u32 {
        self.state.version
    }

    /// The state without the name, to hand to the object's constructor.
    pub fn into_state(self) -> SavedState {
        self.state
    }

    /// Decodes the body: see [`SavedState::decode`].
    ///
    /// # Errors
    /// `NewerSection`, `OlderSection`, `Decode`.
    pub fn decode<'b, T: Decode<'b, ()>>(&'b self, versions: RangeInclusive<u32>) -> Result<T, SavedStateError> {
        self.state.decode(versions)
    }
}

impl SavedFile {
    /// Reads a whole file, to the end of `input`, and checks everything but the bodies' meaning. Memory is bounded by what `input` delivers and by the
    /// limits of the format, whatever the file claims.
    ///
    /// # Errors
    /// `Io`, `Corrupt`, `NewerFile`, `TooLarge`.
    pub fn read(input: impl Read) -> Result<SavedFile, SavedStateError> {
        let mut source = Source { input, offset: 0, unit: 0 };
        source.file_head()?;
        let (mut sections, mut names, mut bytes) = (Vec::new(), HashSet::new(), 0u64);
        while let Some(section) = source.section(sections.len())? {
            bytes += section.state.body.len() as u64;
            limit("the sum of all sections", bytes, MAX_FILE)?;
            limit("the number of sections", sections.len() as u64 + 1, MAX_SECTIONS as u64)?;
            if !names.insert(section.name.clone()) {
                return Err(source.corrupt(Corruption::Duplicate(section.name)));
            }
            sections.push(section);
        }
        Ok(SavedFile { sections })
    }

    /// The sections that were not taken yet, in file order.
    pub fn sections(&self) -> impl Iterator<Item = &Section> {
        self.sections.iter()
    }

    /// Takes the section `name`.
    ///
    /// # Errors
    /// `Missing` when there is none (any more).
    pub fn take(&mut self, name: &str) -> Result<Section, SavedStateError> {
        self.take_optional(name).ok_or_else(|| SavedStateError::Missing { name: name.into() })
    }

    /// Takes the section `name`, which must be of `kind`.
    ///
    /// # Errors
    /// `Missing`, `WrongKind`.
    pub fn take_kind(&mut self, name: &str, kind: &str) -> Result<Section, SavedStateError> {
        let section = self.take(name)?;
        if section.kind() != kind {
            let (found, wanted) = (section.state.kind, kind.into());
            return Err(SavedStateError::WrongKind { name: section.name, found, wanted });
        }
        Ok(section)
    }

    /// Takes the section `name` if there is one: for objects that older releases did not save.
    pub fn take_optional(&mut self, name: &str) -> Option<Section> {
        let place = self.sections.iter().position(|section| section.name == name)?;
        Some(self.sections.remove(place))
    }

    /// Ends a restore.
    ///
    /// # Errors
    /// `Leftover` when sections were not taken: state would be lost silently.
    pub fn finish(self) -> Result<(), SavedStateError> {
        if self.sections.is_empty() {
            return Ok(());
        }
        Err(SavedStateError::Leftover { names: self.sections.into_iter().map(|section| section.name).collect() })
    }
}

struct Source<R> {
    input: R,
    offset: u64,
    /// Where the header, section or end mark starts that is being read.
    unit: u64,
}

impl<R: Read> Source<R> {
    fn corrupt(&self, problem: Corruption) -> SavedStateError {
        SavedStateError::Corrupt { offset: self.unit, problem }
    }

    fn file_head(&mut self) -> Result<(), SavedStateError> {
        let head: [u8; FILE_HEAD] = self.array()?;
        let (magic, rest) = head.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(self.corrupt(Corruption::Magic));
        }
        let format = u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]);
        if format > FORMAT {
            return Err(SavedStateError::NewerFile { found: format, supported: FORMAT });
        }
        if format == 0 {
            return Err(self.corrupt(Corruption::Magic));
        }
        if rest[4..] != [0; 4] {
            return Err(self.corrupt(Corruption::Reserved));
        }
        Ok(())
    }

    /// The next section, or `None` after a valid end.
    fn section(&mut self, read_so_far: usize) -> Result<Option<Section>, SavedStateError> {
        self.unit = self.offset;
        let head = Head::from_bytes(&self.array()?);
        if head.is_end() {
            return self.end(head, read_so_far).map(|()| None);
        }
        limit("a section", head.length, MAX_BODY)?;
        let name = self.bytes(head.name.into())?;
        let kind = self.bytes(head.kind.into())?;
        let body = self.bytes(head.length)?;
        self.check(head, &name, &kind, &body)?;
        let (name, kind) = (self.text(name)?, self.text(kind)?);
        Ok(Some(Section { name, state: SavedState { kind, version: head.version, body } }))
    }

    fn end(&mut self, head: Head, actual: usize) -> Result<(), SavedStateError> {
        self.check(head, &[], &[], &[])?;
        if head.version != 0 {
            return Err(self.corrupt(Corruption::Reserved));
        }
        if head.length != actual as u64 {
            return Err(self.corrupt(Corruption::Count { found: head.length, actual: actual as u64 }));
        }
        match self.bytes(1) {
            Err(SavedStateError::Corrupt { problem: Corruption::Truncated, .. }) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Err(self.corrupt(Corruption::TrailingData)),
        }
    }

    fn check(&self, head: Head, name: &[u8], kind: &[u8], body: &[u8]) -> Result<(), SavedStateError> {
        let computed = head.checksum(name, kind, body);
        if computed != head.crc {
            return Err(self.corrupt(Corruption::Checksum { found: head.crc, computed }));
        }
        if head.reserved != 0 {
            return Err(self.corrupt(Corruption::Reserved));
        }
        Ok(())
    }

    fn text(&self, bytes: Vec<u8>) -> Result<String, SavedStateError> {
        let text = String::from_utf8(bytes).ok().filter(|text| is_name(text.as_bytes()));
        text.ok_or_else(|| self.corrupt(Corruption::Name))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], SavedStateError> {
        let bytes = self.bytes(N as u64)?;
        <[u8; N]>::try_from(bytes).map_err(|_short| self.corrupt(Corruption::Truncated))
    }

    /// Exactly `length` bytes. Grows with what arrives, so that a false length costs nothing.
    fn bytes(&mut self, length: u64) -> Result<Vec<u8>, SavedStateError> {
        let mut bytes = Vec::new();
        match self.input.by_ref().take(length).read_to_end(&mut bytes) {
            Ok(count) if count as u64 == length => {
                self.offset += length;
                Ok(bytes)
            }
            Ok(_) => Err(self.corrupt(Corruption::Truncated)),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(self.corrupt(Corruption::Truncated)),
            Err(source) => Err(SavedStateError::Io { action: "read", source }),
        }
    }
}

fn limit(what: &'static str, found: u64, limit: u64) -> Result<(), SavedStateError> {
    if found > limit { Err(SavedStateError::TooLarge { what, found, limit }) } else { Ok(()) }
}
