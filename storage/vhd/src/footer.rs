//! The 512-byte footer, at the end of every VHD and once more at the start of dynamic ones.

use crate::geometry;
use bulkhead_disk::{DiskError, Geometry, Result, SECTOR};
use uuid::Uuid;

/// Largest VHD: 2040 GiB. Block addresses are 32-bit sector numbers, and Windows refuses more.
pub const MAX_SIZE: u64 = 2040 << 30;

const COOKIE: &[u8; 8] = b"conectix";
const VERSION: u32 = 0x0001_0000;
/// Bytes that a footer takes.
pub(crate) const FOOTER: u64 = SECTOR;

/// What a VHD file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskType {
    /// All sectors, in order.
    Fixed,
    /// Blocks as they were first written.
    Dynamic,
    /// Blocks with what differs from a parent.
    Differencing,
}

impl DiskType {
    fn code(self) -> u32 {
        match self {
            Self::Fixed => 2,
            Self::Dynamic => 3,
            Self::Differencing => 4,
        }
    }
}

/// A valid footer. Fields that we do not know are kept as they were.
#[derive(Clone, PartialEq, Eq)]
pub struct Footer {
    raw: [u8; 512],
}

/// The one's complement of the sum of all bytes, the checksum field itself (4 bytes at `at`) taken as zero.
pub(crate) fn checksum(bytes: &[u8], at: usize) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().fold(0u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
    !(sum(bytes).wrapping_sub(sum(&bytes[at..at + 4])))
}

pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

pub(crate) fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from(be32(bytes, at)) << 32 | u64::from(be32(bytes, at + 4))
}

impl Footer {
    /// A new footer as Windows writes it.
    pub fn new(disk_type: DiskType, size: u64, id: Uuid, timestamp: u32) -> Self {
        let mut footer = Self { raw: [0; 512] };
        footer.raw[..8].copy_from_slice(COOKIE);
        footer.put32(8, 2);
        footer.put32(12, VERSION);
        footer.put64(16, if disk_type == DiskType::Fixed { u64::MAX } else { FOOTER });
        footer.put32(24, timestamp);
        footer.raw[28..32].copy_from_slice(b"win ");
        footer.put32(32, 0x000A_0000);
        footer.raw[36..40].copy_from_slice(b"Wi2k");
        footer.put64(40, size);
        footer.put32(60, disk_type.code());
        footer.raw[68..84].copy_from_slice(id.as_bytes());
        footer.set_size(size);
        footer
    }

    /// Reads 512 bytes (or 511, as old Virtual PC wrote them).
    ///
    /// # Errors
    /// `Corrupt`: the cookie, version, checksum, type or size is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let wrong = |what: String| DiskError::corrupt("read the VHD footer", what);
        if bytes.len() < 511 || bytes[..8] != *COOKIE {
            return Err(wrong("it does not begin with `conectix`".into()));
        }
        let mut raw = [0; 512];
        let len = bytes.len().min(512);
        raw[..len].copy_from_slice(&bytes[..len]);
        let footer = Self { raw };
        if footer.get32(64) != checksum(&footer.raw, 64) {
            return Err(wrong(format!(
                "its checksum is {:#x}, not {:#x}",
                footer.get32(64),
                checksum(&footer.raw, 64)
            )));
        }
        if footer.get32(12) >> 16 != VERSION >> 16 {
            return Err(wrong(format!("its version is {:#x}, only {VERSION:#x} is known", footer.get32(12))));
        }
        if !matches!(footer.get32(60), 2..=4) {
            return Err(wrong(format!("its disk type is {}, only 2, 3 and 4 exist", footer.get32(60))));
        }
        let size = footer.size();
        if size == 0 || !size.is_multiple_of(SECTOR) || size > u64::from(u32::MAX) * SECTOR {
            return Err(wrong(format!("its disk size {size} is impossible")));
        }
        Ok(footer)
    }

    /// The bytes, with a fresh checksum.
    pub fn encode(&self) -> [u8; 512] {
        let mut raw = self.raw;
        let sum = checksum(&raw, 64).to_be_bytes();
        raw[64..68].copy_from_slice(&sum);
        raw
    }

    fn get32(&self, at: usize) -> u32 {
        be32(&self.raw, at)
    }

    fn put32(&mut self, at: usize, value: u32) {
        self.raw[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }

    fn put64(&mut self, at: usize, value: u64) {
        self.raw[at..at + 8].copy_from_slice(&value.to_be_bytes());
    }

    /// Feature bits.
    pub fn features(&self) -> u32 {
        self.get32(8)
    }

    /// Format version.
    pub fn version(&self) -> u32 {
        self.get32(12)
    }

    /// Where the dynamic header is (all ones for fixed disks).
    pub fn data_offset(&self) -> u64 {
        be64(&self.raw, 16)
    }

    /// Creation time, seconds since [`crate::EPOCH`].
    pub fn timestamp(&self) -> u32 {
        self.get32(24)
    }

    /// The program that made the file.
    pub fn creator(&self) -> String {
        printable(&self.raw[28..32])
    }

    /// The version of that program.
    pub fn creator_version(&self) -> u32 {
        self.get32(32)
    }

    /// The system that it ran on.
    pub fn creator_os(&self) -> String {
        printable(&self.raw[36..40])
    }

    /// Bytes at creation.
    pub fn original_size(&self) -> u64 {
        be64(&self.raw, 40)
    }

    /// Bytes now: the size of the disk.
    pub fn size(&self) -> u64 {
        be64(&self.raw, 48)
    }

    /// The recorded geometry.
    pub fn geometry(&self) -> Geometry {
        Geometry { cylinders: (self.get32(56) >> 16) as u16, heads: self.raw[58], sectors: self.raw[59] }
    }

    /// Bytes by cylinders · heads · sectors: what qemu takes as the size of disks by `vpc ` and `qemu`.
    pub fn chs_size(&self) -> u64 {
        let geometry = self.geometry();
        u64::from(geometry.cylinders) * u64::from(geometry.heads) * u64::from(geometry.sectors) * SECTOR
    }

    /// What the file holds.
    pub fn disk_type(&self) -> DiskType {
        match self.get32(60) {
            2 => DiskType::Fixed,
            3 => DiskType::Dynamic,
            _ => DiskType::Differencing,
        }
    }

    /// The checksum as stored.
    pub fn stored_checksum(&self) -> u32 {
        self.get32(64)
    }

    /// The identity, which children remember.
    pub fn id(&self) -> Uuid {
        Uuid::from_slice(&self.raw[68..84]).unwrap_or_default()
    }

    /// The machine that holds the disk is in saved state: nothing may change the file's structure.
    pub fn saved_state(&self) -> bool {
        self.raw[84] != 0
    }

    /// Sets the identity.
    pub fn set_id(&mut self, id: Uuid) {
        self.raw[68..84].copy_from_slice(id.as_bytes());
    }

    /// Sets the saved-state mark.
    pub fn set_saved_state(&mut self, saved: bool) {
        self.raw[84] = saved.into();
    }

    /// Sets the current size and its geometry.
    pub fn set_size(&mut self, size: u64) {
        self.put64(48, size);
        let geometry = geometry(size);
        self.raw[56..58].copy_from_slice(&geometry.cylinders.to_be_bytes());
        self.raw[58] = geometry.heads;
        self.raw[59] = geometry.sectors;
    }

    /// Sets where the dynamic header is.
    pub(crate) fn set_data_offset(&mut self, offset: u64) {
        self.put64(16, offset);
    }
}

impl std::fmt::Debug for Footer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VHD footer {:?} of {} bytes, id {}", self.disk_type(), self.size(), self.id())
    }
}

fn printable(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_measured_footer() {
        let footer = Footer::new(DiskType::Fixed, 1 << 20, Uuid::nil(), 0);
        let bytes = footer.encode();
        assert_eq!(bytes[56..60], [0x00, 0x1e, 0x04, 0x11]);
        assert_eq!(bytes[64..68], [0xff, 0xff, 0xf1, 0x7d]);
        assert_eq!(Footer::parse(&bytes).unwrap().encode(), bytes);
    }

    #[test]
    fn every_flipped_byte_that_counts_is_noticed() {
        let bytes = Footer::new(DiskType::Dynamic, 1 << 30, Uuid::from_u128(7), 1).encode();
        for index in 0..512 {
            let mut broken = bytes;
            broken[index] ^= 0x10;
            assert!(Footer::parse(&broken).is_err(), "byte {index}");
        }
        assert!(Footer::parse(&bytes[..511]).is_ok(), "a 511-byte footer lacks only a zero");
        assert!(Footer::parse(&bytes[..100]).is_err());
    }
}
