//! BAT entries: state and place of a block (MS-VHDX 2.5).

use super::{FormatError, HEADER_AREA, MIB};

const STATE: u64 = 0b111;
const RESERVED: u64 = 0xF_FFF8;
const STRUCTURE: &str = "BAT entry";

/// State of a payload block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockState {
    /// Never written: zeros, or the parent's data.
    NotPresent,
    /// Content undefined: reads as zeros, the parent is not asked.
    Undefined,
    /// Zeros.
    Zero,
    /// Trimmed: reads as zeros.
    Unmapped,
    /// The whole block is in the file.
    FullyPresent,
    /// The sector bitmap tells which sectors are in the file (differencing disks only).
    PartiallyPresent,
}

impl BlockState {
    /// Whether the block has a place in the file.
    pub fn is_allocated(self) -> bool {
        matches!(self, Self::FullyPresent | Self::PartiallyPresent)
    }

    fn code(self) -> u64 {
        match self {
            Self::NotPresent => 0,
            Self::Undefined => 1,
            Self::Zero => 2,
            Self::Unmapped => 3,
            Self::FullyPresent => 6,
            Self::PartiallyPresent => 7,
        }
    }
}

/// Entry of a payload block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayloadEntry {
    /// What a reader gets.
    pub state: BlockState,
    /// Byte offset in the file; 0 = none. States without data may keep one from earlier; it means nothing.
    pub offset: u64,
}

impl PayloadEntry {
    /// An allocated block.
    pub fn present(state: BlockState, offset: u64) -> Self {
        Self { state, offset }
    }

    /// A block without a place.
    pub fn empty(state: BlockState) -> Self {
        Self { state, offset: 0 }
    }

    /// Decodes `raw`; `block_size` and `file_end` bound the place of an allocated block.
    pub fn decode(raw: u64, differencing: bool, block_size: u64, file_end: u64) -> Result<Self, FormatError> {
        let state = match raw & STATE {
            0 => BlockState::NotPresent,
            1 => BlockState::Undefined,
            2 => BlockState::Zero,
            3 => BlockState::Unmapped,
            6 => BlockState::FullyPresent,
            7 if differencing => BlockState::PartiallyPresent,
            other => return Err(FormatError::damaged(STRUCTURE, format!("{raw:#018x} has invalid state {other}"))),
        };
        if !state.is_allocated() {
            return Ok(Self { state, offset: 0 });
        }
        Ok(Self { state, offset: place(raw, block_size, file_end)? })
    }

    /// The eight bytes of the entry as a number.
    pub fn encode(self) -> u64 {
        self.state.code() | (self.offset & !(MIB - 1))
    }
}

/// Decodes the entry of a sector bitmap block: its offset, or nothing.
pub fn decode_bitmap(raw: u64, differencing: bool, file_end: u64) -> Result<Option<u64>, FormatError> {
    match raw & STATE {
        0 => Ok(None),
        6 if differencing => place(raw, MIB, file_end).map(Some),
        // A disk without a parent has no use for bitmaps; entries left behind by other writers are ignored.
        6 => Ok(None),
        other => Err(FormatError::damaged(STRUCTURE, format!("{raw:#018x} of a bitmap block has state {other}"))),
    }
}

/// The eight bytes of a bitmap block's entry as a number.
pub fn encode_bitmap(offset: Option<u64>) -> u64 {
    offset.map_or(0, |offset| offset | 6)
}

fn place(raw: u64, length: u64, file_end: u64) -> Result<u64, FormatError> {
    let offset = raw & !(MIB - 1);
    if raw & RESERVED != 0 {
        return Err(FormatError::damaged(STRUCTURE, format!("{raw:#018x} has reserved bits set")));
    }
    match offset.checked_add(length) {
        // The end may lie behind the file's: old qemu versions wrote the last block only as far as the disk goes.
        Some(_) if offset >= HEADER_AREA && offset < file_end => Ok(offset),
        _ => Err(FormatError::damaged(
            STRUCTURE,
            format!("{raw:#018x} places {length} bytes at {offset:#x}, outside of the file ({file_end} bytes)"),
        )),
    }
}
