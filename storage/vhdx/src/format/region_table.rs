//! The region table: where BAT and metadata are (MS-VHDX 2.2.3).

use super::bytes::{crc_without, guid_at, put, put_guid, u32_at, u64_at};
use super::{FormatError, HEADER_AREA, MIB, REGION_TABLE_SIZE};
use uuid::{Uuid, uuid};

/// The block allocation table.
pub const BAT: Uuid = uuid!("2DC27766-F623-4200-9D64-115E9BFD4A08");
/// The metadata region.
pub const METADATA: Uuid = uuid!("8B7CA206-4790-4B9A-B8FE-575F050F886E");

const SIGNATURE: &[u8; 4] = b"regi";
const STRUCTURE: &str = "region table";
const MAX_ENTRIES: u32 = 2047;
const ENTRY: usize = 32;

/// A region of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// What it holds.
    pub guid: Uuid,
    /// Where it begins (multiple of 1 MiB).
    pub offset: u64,
    /// Its bytes (multiple of 1 MiB).
    pub length: u32,
    /// Who does not know the GUID must not open the file.
    pub required: bool,
}

impl Region {
    /// First byte behind the region. Cannot overflow after [`RegionTable::parse`].
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.length)
    }
}

/// All regions; BAT and metadata are certainly among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionTable {
    /// In the order of the file.
    pub regions: Vec<Region>,
}

impl RegionTable {
    /// Parses and validates one copy (64 KiB).
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let damaged = |problem: String| Err(FormatError::damaged(STRUCTURE, problem));
        if bytes.len() != REGION_TABLE_SIZE as usize || &bytes[..4] != SIGNATURE {
            return damaged("the signature `regi` is missing".into());
        }
        let (found, computed) = (u32_at(bytes, 4), crc_without(bytes, 4));
        if found != computed {
            return damaged(format!("checksum is {found:#010x}, its bytes give {computed:#010x}"));
        }
        let count = u32_at(bytes, 8);
        if count > MAX_ENTRIES {
            return damaged(format!("{count} entries (at most {MAX_ENTRIES})"));
        }
        let regions: Vec<Region> = bytes[16..].chunks_exact(ENTRY).take(count as usize).map(parse_entry).collect();
        let table = Self { regions };
        table.validate()?;
        Ok(table)
    }

    fn validate(&self) -> Result<(), FormatError> {
        for region in &self.regions {
            let length = u64::from(region.length);
            let aligned = region.offset % MIB == 0 && length % MIB == 0 && length > 0;
            if !aligned || region.offset < HEADER_AREA || region.offset.checked_add(length).is_none() {
                let problem = format!("region {} has {length} bytes at {:#x}", region.guid, region.offset);
                return Err(FormatError::damaged(STRUCTURE, problem + ": both must be MiB multiples behind the first"));
            }
            if region.required && region.guid != BAT && region.guid != METADATA {
                let problem = format!("region {} is required and unknown", region.guid);
                return Err(FormatError::unsupported(STRUCTURE, problem));
            }
        }
        let mut sorted: Vec<&Region> = self.regions.iter().collect();
        sorted.sort_by_key(|region| region.offset);
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0].end() > pair[1].offset) {
            let problem = format!("regions {} and {} overlap", pair[0].guid, pair[1].guid);
            return Err(FormatError::damaged(STRUCTURE, problem));
        }
        for guid in [BAT, METADATA] {
            if self.regions.iter().filter(|region| region.guid == guid).count() != 1 {
                return Err(FormatError::damaged(STRUCTURE, format!("region {guid} must be there exactly once")));
            }
        }
        Ok(())
    }

    /// The region `guid`; BAT and metadata are always found.
    pub fn find(&self, guid: Uuid) -> Result<&Region, FormatError> {
        let missing = || FormatError::damaged(STRUCTURE, format!("region {guid} is missing"));
        self.regions.iter().find(|region| region.guid == guid).ok_or_else(missing)
    }

    /// The 64 KiB of one copy, checksum included.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; REGION_TABLE_SIZE as usize];
        put(&mut bytes, 0, SIGNATURE);
        put(&mut bytes, 8, &(self.regions.len() as u32).to_le_bytes());
        for (index, region) in self.regions.iter().enumerate() {
            let at = 16 + index * ENTRY;
            put_guid(&mut bytes, at, region.guid);
            put(&mut bytes, at + 16, &region.offset.to_le_bytes());
            put(&mut bytes, at + 24, &region.length.to_le_bytes());
            put(&mut bytes, at + 28, &u32::from(region.required).to_le_bytes());
        }
        let crc = crc_without(&bytes, 4);
        put(&mut bytes, 4, &crc.to_le_bytes());
        bytes
    }
}

fn parse_entry(entry: &[u8]) -> Region {
    Region {
        guid: guid_at(entry, 0),
        offset: u64_at(entry, 16),
        length: u32_at(entry, 24),
        required: u32_at(entry, 28) & 1 != 0,
    }
}
