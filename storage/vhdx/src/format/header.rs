//! The two headers and the choice of the current one (MS-VHDX 2.2.2).

use super::bytes::{crc_without, guid_at, put, put_guid, u16_at, u32_at, u64_at};
use super::{FormatError, HEADER_AREA, MIB};
use uuid::Uuid;

/// Bytes of a header.
pub const SIZE: usize = 4096;
const SIGNATURE: &[u8; 4] = b"head";
const STRUCTURE: &str = "header";

/// One header: the root of everything in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The valid header with the larger number is current.
    pub sequence: u64,
    /// Changes at the first modification after each writable open.
    pub file_write_guid: Uuid,
    /// Changes at the first guest-visible modification; children record it as `parent_linkage`.
    pub data_write_guid: Uuid,
    /// Names the entries of the log that count; nil = the log is empty.
    pub log_guid: Uuid,
    /// 0.
    pub log_version: u16,
    /// 1.
    pub version: u16,
    /// Bytes of the log, a multiple of 1 MiB.
    pub log_length: u32,
    /// Where the log begins, a multiple of 1 MiB.
    pub log_offset: u64,
}

impl Header {
    /// All fields 0: what is shown for a slot that is not valid.
    pub const EMPTY: Self = Self {
        sequence: 0,
        file_write_guid: Uuid::nil(),
        data_write_guid: Uuid::nil(),
        log_guid: Uuid::nil(),
        log_version: 0,
        version: 0,
        log_length: 0,
        log_offset: 0,
    };

    /// Parses one slot. The checksum and all fields must be right.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let damaged = |problem: String| Err(FormatError::damaged(STRUCTURE, problem));
        if bytes.len() < SIZE || &bytes[..4] != SIGNATURE {
            return damaged("the signature `head` is missing".into());
        }
        let (found, computed) = (u32_at(bytes, 4), crc_without(&bytes[..SIZE], 4));
        if found != computed {
            return damaged(format!("checksum is {found:#010x}, its bytes give {computed:#010x}"));
        }
        let header = Self {
            sequence: u64_at(bytes, 8),
            file_write_guid: guid_at(bytes, 16),
            data_write_guid: guid_at(bytes, 32),
            log_guid: guid_at(bytes, 48),
            log_version: u16_at(bytes, 64),
            version: u16_at(bytes, 66),
            log_length: u32_at(bytes, 68),
            log_offset: u64_at(bytes, 72),
        };
        if header.version != 1 {
            return Err(FormatError::unsupported(STRUCTURE, format!("version {} (only 1 is known)", header.version)));
        }
        Ok(header)
    }

    /// Checks what only the current header must fulfil: log version, place and size of the log.
    pub fn validate(&self) -> Result<(), FormatError> {
        if self.log_version != 0 && !self.log_guid.is_nil() {
            let problem = format!("log version {} with a log in use (only 0 is known)", self.log_version);
            return Err(FormatError::unsupported(STRUCTURE, problem));
        }
        let length = u64::from(self.log_length);
        let fits = self.log_offset.checked_add(length).is_some();
        if self.log_offset < HEADER_AREA
            || !self.log_offset.is_multiple_of(MIB)
            || length == 0
            || length % MIB != 0
            || !fits
        {
            let problem = format!(
                "the log ({length} bytes at {:#x}) must be a positive number of MiB at a MiB boundary behind the first",
                self.log_offset
            );
            return Err(FormatError::damaged(STRUCTURE, problem));
        }
        Ok(())
    }

    /// The 4 KiB of a slot, checksum included.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; SIZE];
        put(&mut bytes, 0, SIGNATURE);
        put(&mut bytes, 8, &self.sequence.to_le_bytes());
        put_guid(&mut bytes, 16, self.file_write_guid);
        put_guid(&mut bytes, 32, self.data_write_guid);
        put_guid(&mut bytes, 48, self.log_guid);
        put(&mut bytes, 64, &self.log_version.to_le_bytes());
        put(&mut bytes, 66, &self.version.to_le_bytes());
        put(&mut bytes, 68, &self.log_length.to_le_bytes());
        put(&mut bytes, 72, &self.log_offset.to_le_bytes());
        let crc = crc_without(&bytes, 4);
        put(&mut bytes, 4, &crc.to_le_bytes());
        bytes
    }
}

/// The current header and the slot (0 or 1) that it was found in.
///
/// Equal sequence numbers are accepted only for identical headers (Disk2vhd writes such pairs).
pub fn choose(slots: &[Result<Header, FormatError>; 2]) -> Result<(Header, usize), FormatError> {
    match slots {
        [Ok(first), Ok(second)] if first.sequence == second.sequence && first != second => {
            let problem = format!("both headers have sequence number {} but differ", first.sequence);
            Err(FormatError::damaged(STRUCTURE, problem))
        }
        [Ok(first), Ok(second)] if second.sequence > first.sequence => Ok((second.clone(), 1)),
        [Ok(first), _] => Ok((first.clone(), 0)),
        [Err(_), Ok(second)] => Ok((second.clone(), 1)),
        [Err(unsupported @ FormatError::Unsupported { .. }), Err(_)] => Err(unsupported.clone()),
        [Err(first), Err(second)] => {
            Err(FormatError::damaged(STRUCTURE, format!("no valid copy (first: {first}; second: {second})")))
        }
    }
}
