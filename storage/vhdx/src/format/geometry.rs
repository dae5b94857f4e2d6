//! The numbers that follow from disk size, block size and sector size: block counts, chunk ratio, BAT positions.

use super::{FormatError, MIB, SECTOR};

/// The largest virtual disk: 64 TiB.
pub const MAX_DISK_SIZE: u64 = 64 << 40;
/// Sectors that one sector bitmap block (1 MiB) describes.
const SECTORS_PER_BITMAP: u64 = 8 * MIB;
/// Bytes of a BAT entry.
pub const BAT_ENTRY: u64 = 8;
const STRUCTURE: &str = "disk geometry";

/// Shape of a virtual disk. Only [`Geometry::new`] makes one, so that the divisions below are safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    disk_size: u64,
    block_size: u64,
    logical_sector: u64,
    physical_sector: u32,
    differencing: bool,
}

impl Geometry {
    /// Validates the five numbers (MS-VHDX 2.6.2).
    pub fn new(
        disk_size: u64,
        block_size: u64,
        logical_sector: u32,
        physical_sector: u32,
        differencing: bool,
    ) -> Result<Self, FormatError> {
        let damaged = |problem: String| Err(FormatError::damaged(STRUCTURE, problem));
        for (name, size) in [("logical", logical_sector), ("physical", physical_sector)] {
            if size != 512 && size != 4096 {
                return damaged(format!("{name} sector size {size} (must be 512 or 4096)"));
            }
        }
        if !block_size.is_power_of_two() || !(MIB..=256 * MIB).contains(&block_size) {
            return damaged(format!("block size {block_size} (must be a power of two from 1 MiB to 256 MiB)"));
        }
        let logical_sector = u64::from(logical_sector);
        if disk_size == 0 || disk_size > MAX_DISK_SIZE || !disk_size.is_multiple_of(logical_sector) {
            return damaged(format!(
                "disk size {disk_size} (must be a positive multiple of the sector size {logical_sector}, at most 64 TiB)"
            ));
        }
        Ok(Self { disk_size, block_size, logical_sector, physical_sector, differencing })
    }

    /// The same disk with another size.
    pub fn with_size(self, disk_size: u64) -> Result<Self, FormatError> {
        Self::new(disk_size, self.block_size, self.logical_sector as u32, self.physical_sector, self.differencing)
    }

    /// Bytes of the virtual disk.
    pub fn disk_size(self) -> u64 {
        self.disk_size
    }

    /// Bytes of a payload block.
    pub fn block_size(self) -> u64 {
        self.block_size
    }

    /// Bytes of a logical sector: 512 or 4096.
    pub fn logical_sector(self) -> u64 {
        self.logical_sector
    }

    /// Bytes of a physical sector: 512 or 4096.
    pub fn physical_sector(self) -> u32 {
        self.physical_sector
    }

    /// Whether the disk has a parent.
    pub fn is_differencing(self) -> bool {
        self.differencing
    }

    /// Payload blocks per sector bitmap block.
    pub fn chunk_ratio(self) -> u64 {
        SECTORS_PER_BITMAP * self.logical_sector / self.block_size
    }

    /// Payload blocks of the disk.
    pub fn block_count(self) -> u64 {
        self.disk_size.div_ceil(self.block_size)
    }

    /// Chunks (= sector bitmap blocks, when they exist) of the disk.
    pub fn chunk_count(self) -> u64 {
        self.block_count().div_ceil(self.chunk_ratio())
    }

    /// BAT entries that the disk needs.
    pub fn bat_entries(self) -> u64 {
        if self.differencing {
            self.chunk_count() * (self.chunk_ratio() + 1)
        } else {
            self.block_count() + (self.block_count() - 1) / self.chunk_ratio()
        }
    }

    /// BAT bytes that the disk needs, whole sectors.
    pub fn bat_bytes(self) -> u64 {
        (self.bat_entries() * BAT_ENTRY).next_multiple_of(SECTOR)
    }

    /// BAT index of payload block `block`.
    pub fn payload_index(self, block: u64) -> u64 {
        block + block / self.chunk_ratio()
    }

    /// BAT index of the sector bitmap block of `chunk`.
    pub fn bitmap_index(self, chunk: u64) -> u64 {
        (chunk + 1) * self.chunk_ratio() + chunk
    }

    /// What BAT index `index` describes.
    pub fn slot(self, index: u64) -> BatSlot {
        let stride = self.chunk_ratio() + 1;
        let (chunk, position) = (index / stride, index % stride);
        if position == self.chunk_ratio() {
            BatSlot::Bitmap(chunk)
        } else {
            BatSlot::Payload(chunk * self.chunk_ratio() + position)
        }
    }
}

/// The two kinds of BAT entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatSlot {
    /// A payload block, by number.
    Payload(u64),
    /// The sector bitmap block of a chunk, by number.
    Bitmap(u64),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(size: u64, block: u64, sector: u32, differencing: bool) -> Geometry {
        Geometry::new(size, block, sector, 4096, differencing).unwrap()
    }

    #[test]
    fn counts_match_the_published_vectors() {
        let disk = shape(127 << 30, 32 * MIB, 512, false);
        assert_eq!((disk.chunk_ratio(), disk.block_count(), disk.bat_entries()), (128, 4064, 4095));
        assert_eq!(shape(127 << 30, 32 * MIB, 512, true).bat_entries(), 4128);
        let disk = shape(2040 << 30, 2 * MIB, 512, false);
        assert_eq!((disk.chunk_ratio(), disk.block_count(), disk.bat_entries()), (2048, 1_044_480, 1_044_989));
        assert_eq!(shape(64 << 40, MIB, 512, false).bat_bytes().div_ceil(MIB), 513);
        assert_eq!(shape(1 << 40, MIB, 4096, false).chunk_ratio(), 32_768);
    }

    #[test]
    fn every_index_has_one_meaning() {
        let disk = shape(3 << 40, 256 * MIB, 512, true);
        for index in 0..disk.bat_entries() {
            match disk.slot(index) {
                BatSlot::Payload(block) => assert_eq!(disk.payload_index(block), index),
                BatSlot::Bitmap(chunk) => assert_eq!(disk.bitmap_index(chunk), index),
            }
        }
    }
}
