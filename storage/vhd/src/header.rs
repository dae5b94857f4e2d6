//! The 1024-byte header of dynamic and differencing disks.

use crate::footer::{be32, be64, checksum};
use crate::locator::{Locator, SLOTS};
use bulkhead_disk::{DiskError, ErrorKind, Result, SECTOR};
use uuid::Uuid;

const COOKIE: &[u8; 8] = b"cxsparse";
const VERSION: u32 = 0x0001_0000;
/// Bytes of the header.
pub(crate) const HEADER: u64 = 1024;
/// Characters (UTF-16) that fit into the parent name.
const NAME_UNITS: usize = 256;
/// Smallest block that is opened.
const MIN_BLOCK: u32 = 4096;
/// Largest block that is opened.
const MAX_BLOCK: u32 = 256 << 20;
/// Most table entries that are opened (64 MiB of table): a file that claims more is refused before anything is allocated.
const MAX_ENTRIES: u64 = 16 << 20;

/// A valid header.
#[derive(Clone, PartialEq, Eq)]
pub struct Header {
    raw: [u8; HEADER as usize],
}

impl Header {
    /// A new header; `entries` blocks of `block_size`, the table at `table_offset`.
    pub(crate) fn new(table_offset: u64, entries: u32, block_size: u32) -> Self {
        let mut header = Self { raw: [0; HEADER as usize] };
        header.raw[..8].copy_from_slice(COOKIE);
        header.raw[8..16].fill(0xFF);
        header.put32(24, VERSION);
        header.put32(32, block_size);
        header.set_table(table_offset, entries);
        header
    }

    /// Reads 1024 bytes.
    ///
    /// # Errors
    /// `Corrupt`, or `Unsupported` for block sizes outside 4 KiB … 256 MiB and tables above 64 MiB.
    pub fn parse(bytes: &[u8], size: u64) -> Result<Self> {
        let wrong = |what: String| DiskError::corrupt("read the VHD header", what);
        if bytes.len() != HEADER as usize || bytes[..8] != *COOKIE {
            return Err(wrong("it does not begin with `cxsparse`".into()));
        }
        let mut raw = [0; HEADER as usize];
        raw.copy_from_slice(bytes);
        let header = Self { raw };
        if be32(&raw, 36) != checksum(&raw, 36) {
            return Err(wrong(format!("its checksum is {:#x}, not {:#x}", be32(&raw, 36), checksum(&raw, 36))));
        }
        if be32(&raw, 24) >> 16 != VERSION >> 16 {
            return Err(wrong(format!("its version is {:#x}, only {VERSION:#x} is known", be32(&raw, 24))));
        }
        let block = header.block_size();
        if !block.is_power_of_two() || !(MIN_BLOCK..=MAX_BLOCK).contains(&block) {
            let reason = format!("its block size is {block}; only powers of two from 4 KiB to 256 MiB are supported");
            return Err(DiskError::new(ErrorKind::Unsupported, "read the VHD header", reason));
        }
        let blocks = size.div_ceil(block.into());
        if blocks > header.entries().into() {
            return Err(wrong(format!("its table has {} entries, the disk needs {blocks}", header.entries())));
        }
        if blocks > MAX_ENTRIES {
            let reason = format!("{blocks} blocks of {block} bytes are more than {MAX_ENTRIES}");
            return Err(DiskError::new(ErrorKind::Unsupported, "read the VHD header", reason));
        }
        if !header.table_offset().is_multiple_of(SECTOR) || header.table_offset() > u64::from(u32::MAX) * SECTOR {
            return Err(wrong(format!("its table offset {} is impossible", header.table_offset())));
        }
        Ok(header)
    }

    /// The bytes, with a fresh checksum.
    pub fn encode(&self) -> [u8; HEADER as usize] {
        let mut raw = self.raw;
        let sum = checksum(&raw, 36).to_be_bytes();
        raw[36..40].copy_from_slice(&sum);
        raw
    }

    fn put32(&mut self, at: usize, value: u32) {
        self.raw[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }

    /// Where the block table is.
    pub fn table_offset(&self) -> u64 {
        be64(&self.raw, 16)
    }

    /// Header version.
    pub fn version(&self) -> u32 {
        be32(&self.raw, 24)
    }

    /// Entries of the block table.
    pub fn entries(&self) -> u32 {
        be32(&self.raw, 28)
    }

    /// Data bytes of a block.
    pub fn block_size(&self) -> u32 {
        be32(&self.raw, 32)
    }

    /// The parent's identity.
    pub fn parent_id(&self) -> Uuid {
        Uuid::from_slice(&self.raw[40..56]).unwrap_or_default()
    }

    /// The parent's footer timestamp when this child was made.
    pub fn parent_timestamp(&self) -> u32 {
        be32(&self.raw, 56)
    }

    /// The parent's name; damaged characters are shown as such.
    pub fn parent_name(&self) -> String {
        let units: Vec<u16> = self.raw[64..64 + 2 * NAME_UNITS]
            .chunks_exact(2)
            .map(|pair| u16::from(pair[0]) << 8 | u16::from(pair[1]))
            .take_while(|unit| *unit != 0)
            .collect();
        String::from_utf16_lossy(&units)
    }

    /// The used locator slots.
    pub fn locators(&self) -> Vec<Locator> {
        (0..SLOTS).filter_map(|slot| Locator::parse(&self.raw[576 + 24 * slot..600 + 24 * slot])).collect()
    }

    /// Moves the table, changes its length. Both fields and the checksum are in the first 512 bytes: writing them is atomic.
    pub(crate) fn set_table(&mut self, offset: u64, entries: u32) {
        self.raw[16..24].copy_from_slice(&offset.to_be_bytes());
        self.put32(28, entries);
    }

    /// Sets all that is known about the parent. A name that is too long keeps its last characters: the file name counts.
    pub(crate) fn set_parent(&mut self, id: Uuid, timestamp: u32, name: &str, locators: &[Locator]) {
        self.raw[40..56].copy_from_slice(id.as_bytes());
        self.put32(56, timestamp);
        self.raw[64..768].fill(0);
        let units: Vec<u16> = name.encode_utf16().collect();
        let tail = units.len().saturating_sub(NAME_UNITS - 1);
        for (index, unit) in units[tail..].iter().enumerate() {
            self.raw[64 + 2 * index..66 + 2 * index].copy_from_slice(&unit.to_be_bytes());
        }
        for (slot, locator) in locators.iter().take(SLOTS).enumerate() {
            self.raw[576 + 24 * slot..600 + 24 * slot].copy_from_slice(&locator.encode());
        }
    }
}
