//! The little of ELF that loading a kernel needs: 32- and 64-bit, little-endian, its segments and notes.

use std::ops::Range;

/// Segments beyond this many are no kernel.
const MAX_SEGMENTS: usize = 64;
const LOAD: u32 = 1;
const NOTE: u32 = 4;

/// An ELF file's header and segments.
pub struct Elf<'a> {
    file: &'a [u8],
    wide: bool,
    /// Entry point.
    pub entry: u64,
    segments: Vec<Segment>,
}

/// A program header.
#[derive(Clone)]
pub struct Segment {
    kind: u32,
    file: Range<usize>,
    /// Physical address.
    pub address: u64,
    /// Bytes in memory, at least those in the file.
    pub memory: u64,
}

pub fn is_one(file: &[u8]) -> bool {
    file.starts_with(b"\x7fELF")
}

impl<'a> Elf<'a> {
    /// Reads the headers; the error says what is wrong.
    pub fn parse(file: &'a [u8]) -> Result<Elf<'a>, String> {
        let wide = match file.get(4..6) {
            Some([1, 1]) => false,
            Some([2, 1]) => true,
            _ => return Err("it is not a little-endian ELF".into()),
        };
        let number = |at: usize, size: usize| number(file, at, size).ok_or_else(|| format!("it ends before {at:#x}"));
        let (entry, table, entry_size, count) = if wide {
            (number(0x18, 8)?, number(0x20, 8)?, number(0x36, 2)?, number(0x38, 2)?)
        } else {
            (number(0x18, 4)?, number(0x1c, 4)?, number(0x2a, 2)?, number(0x2c, 2)?)
        };
        if entry_size < if wide { 56 } else { 32 } || count as usize > MAX_SEGMENTS {
            return Err(format!("{count} program headers of {entry_size} bytes"));
        }
        let mut segments = Vec::new();
        for index in 0..count {
            let at = table.checked_add(index * entry_size).and_then(|at| usize::try_from(at).ok());
            let at = at.ok_or("its program headers are behind the end")?;
            let (offset, address, in_file, memory) = if wide {
                (number(at + 8, 8)?, number(at + 24, 8)?, number(at + 32, 8)?, number(at + 40, 8)?)
            } else {
                (number(at + 4, 4)?, number(at + 12, 4)?, number(at + 16, 4)?, number(at + 20, 4)?)
            };
            let end = offset.checked_add(in_file).filter(|end| *end <= file.len() as u64);
            let end = end.ok_or_else(|| format!("segment {index} ends behind the file: it is cut off"))?;
            let file = offset as usize..end as usize;
            segments.push(Segment { kind: number(at, 4)? as u32, file, address, memory: memory.max(in_file) });
        }
        Ok(Elf { file, wide, entry, segments })
    }

    /// Whether it is an ELF64.
    pub fn is_wide(&self) -> bool {
        self.wide
    }

    /// What has to be loaded: bytes, address, length in memory.
    pub fn loads(&self) -> impl Iterator<Item = (&'a [u8], u64, u64)> + '_ {
        let loads = self.segments.iter().filter(|segment| segment.kind == LOAD && segment.memory > 0);
        loads.map(|segment| (&self.file[segment.file.clone()], segment.address, segment.memory))
    }

    /// The content of a note.
    pub fn note(&self, owner: &[u8], kind: u32) -> Option<&'a [u8]> {
        let notes = self.segments.iter().filter(|segment| segment.kind == NOTE);
        notes.filter_map(|segment| find_note(&self.file[segment.file.clone()], owner, kind)).next()
    }
}

fn find_note<'a>(mut notes: &'a [u8], owner: &[u8], kind: u32) -> Option<&'a [u8]> {
    loop {
        let (name, content, this) = (number(notes, 0, 4)?, number(notes, 4, 4)?, number(notes, 8, 4)?);
        let name = 12..12usize.checked_add(usize::try_from(name).ok()?)?;
        let start = name.end.checked_next_multiple_of(4)?;
        let content = start..start.checked_add(usize::try_from(content).ok()?)?;
        if notes.get(name)? == owner && this == u64::from(kind) {
            return notes.get(content);
        }
        notes = notes.get(content.end.checked_next_multiple_of(4)?..)?;
    }
}

/// A little-endian number of `size` bytes.
pub fn number(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(size)?)?;
    Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}
