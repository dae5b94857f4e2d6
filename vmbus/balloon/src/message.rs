//! Messages of dynamic memory. Every one begins with {u16 type, u16 size of the whole message, u32 transaction}.

use std::ops::Range;

/// Bytes of the header.
const HEADER: usize = 8;
/// Ranges that one message to the guest carries: its receive buffer has 8 KiB.
pub const MAX_RANGES: usize = 256;
/// Pages that one range can name: 24 bits.
pub const MAX_RANGE_PAGES: u64 = (1 << 24) - 1;

const VERSION_REQUEST: u16 = 1;
const VERSION_RESPONSE: u16 = 2;
const CAPABILITIES_REPORT: u16 = 3;
const CAPABILITIES_RESPONSE: u16 = 4;
const STATUS_REPORT: u16 = 5;
const BALLOON_REQUEST: u16 = 6;
const BALLOON_RESPONSE: u16 = 7;
const UNBALLOON_REQUEST: u16 = 8;
const UNBALLOON_RESPONSE: u16 = 9;
const HOT_ADD_REQUEST: u16 = 10;
const HOT_ADD_RESPONSE: u16 = 11;

/// What the guest's driver can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// It has a balloon.
    pub balloon: bool,
    /// It takes more memory.
    pub hot_add: bool,
    /// Unit and alignment of hot added ranges, in pages.
    pub hot_add_unit: u64,
}

/// What the guest says about its memory, in pages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Status {
    /// Free, or easily made free.
    pub available: u64,
    /// In use, what the balloon holds included.
    pub committed: u64,
}

/// A message of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromGuest {
    /// The version that it wants to speak.
    Version {
        /// `major << 16 | minor`.
        version: u32,
        /// It will not try another one.
        last: bool,
    },
    /// What it can do.
    Capabilities(Capabilities),
    /// How it is.
    Status(Status),
    /// Pages that its balloon took.
    Ballooned {
        /// Page numbers.
        ranges: Vec<Range<u64>>,
        /// More such messages follow.
        more: bool,
    },
    /// It has taken pages back.
    Unballooned,
    /// How much of a range it added.
    HotAdded {
        /// From the range's start.
        pages: u64,
        /// It did what it was asked to.
        success: bool,
    },
}

/// Why a message cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Shorter than its type needs.
    #[error("a message of {len} bytes is too short for its type")]
    Short {
        /// Its length.
        len: usize,
    },
    /// No type that guests send.
    #[error("a message of type {kind} does not come from guests")]
    Kind {
        /// Its type.
        kind: u16,
    },
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, MessageError> {
    let field = bytes.get(at..at + 8).and_then(|field| field.first_chunk());
    field.map(|field| u64::from_le_bytes(*field)).ok_or(MessageError::Short { len: bytes.len() })
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, MessageError> {
    let field = bytes.get(at..at + 4).and_then(|field| field.first_chunk());
    field.map(|field| u32::from_le_bytes(*field)).ok_or(MessageError::Short { len: bytes.len() })
}

/// Reads a message.
///
/// # Errors
/// [`MessageError`].
pub fn read(bytes: &[u8]) -> Result<FromGuest, MessageError> {
    let kind = u32_at(bytes, 0)? as u16;
    Ok(match kind {
        VERSION_REQUEST => FromGuest::Version { version: u32_at(bytes, 8)?, last: u32_at(bytes, 12)? & 1 != 0 },
        CAPABILITIES_REPORT => {
            let bits = u64_at(bytes, 8)?;
            // The exponent counts in MiB.
            let unit = 256u64 << (bits >> 2 & 0xf);
            FromGuest::Capabilities(Capabilities { balloon: bits & 1 != 0, hot_add: bits & 2 != 0, hot_add_unit: unit })
        }
        STATUS_REPORT => FromGuest::Status(Status { available: u64_at(bytes, 8)?, committed: u64_at(bytes, 16)? }),
        BALLOON_RESPONSE => {
            let head = u32_at(bytes, 12)?;
            let len = bytes.len();
            let table = bytes.get(16..).unwrap_or_default();
            let table = table.get(..(head >> 1) as usize * 8).ok_or(MessageError::Short { len })?;
            let ranges = table.as_chunks().0.iter().map(|range| {
                let bits = u64::from_le_bytes(*range);
                let first = bits & 0xff_ffff_ffff;
                first..first + (bits >> 40)
            });
            FromGuest::Ballooned { ranges: ranges.collect(), more: head & 1 != 0 }
        }
        UNBALLOON_RESPONSE => FromGuest::Unballooned,
        HOT_ADD_RESPONSE => FromGuest::HotAdded { pages: u32_at(bytes, 8)?.into(), success: u32_at(bytes, 12)? == 1 },
        kind => return Err(MessageError::Kind { kind }),
    })
}

fn message(kind: u16, transaction: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend(kind.to_le_bytes());
    bytes.extend(((HEADER + body.len()) as u16).to_le_bytes());
    bytes.extend(transaction.to_le_bytes());
    bytes.extend(body);
    bytes
}

fn wire_range(range: &Range<u64>) -> [u8; 8] {
    let count = (range.end - range.start).min(MAX_RANGE_PAGES);
    (range.start & 0xff_ffff_ffff | count << 40).to_le_bytes()
}

/// Whether a version is spoken.
pub fn version_response(transaction: u32, accepted: bool) -> Vec<u8> {
    message(VERSION_RESPONSE, transaction, &u64::from(accepted).to_le_bytes())
}

/// The driver may go on.
pub fn capabilities_response(transaction: u32) -> Vec<u8> {
    message(CAPABILITIES_RESPONSE, transaction, &1u64.to_le_bytes())
}

/// The balloon is to take pages.
pub fn balloon_request(transaction: u32, pages: u32) -> Vec<u8> {
    message(BALLOON_REQUEST, transaction, &u64::from(pages).to_le_bytes())
}

/// The guest may have pages back; at most [`MAX_RANGES`] ranges of at most [`MAX_RANGE_PAGES`].
pub fn unballoon_request(transaction: u32, ranges: &[Range<u64>]) -> Vec<u8> {
    let mut body = 0u32.to_le_bytes().to_vec();
    body.extend((ranges.len() as u32).to_le_bytes());
    body.extend(ranges.iter().flat_map(wire_range));
    message(UNBALLOON_REQUEST, transaction, &body)
}

/// The guest gets more memory.
pub fn hot_add_request(transaction: u32, range: &Range<u64>) -> Vec<u8> {
    message(HOT_ADD_REQUEST, transaction, &wire_range(range))
}
