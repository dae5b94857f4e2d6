//! What a disk tells about itself.

use uuid::Uuid;

/// The unit of VHD and of 512-byte guests.
pub const SECTOR: u64 = 512;

/// Cylinders, heads, sectors per track, as IDE firmware shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Cylinders.
    pub cylinders: u16,
    /// Heads per cylinder.
    pub heads: u8,
    /// Sectors per track.
    pub sectors: u8,
}

/// Facts of a disk. They change only by an explicit resize.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskFacts {
    /// Guest-visible bytes; a multiple of `logical_sector`.
    pub size: u64,
    /// Smallest request unit: 512 or 4096.
    pub logical_sector: u32,
    /// Unit below which the host does read-modify-write.
    pub physical_sector: u32,
    /// Writes are refused.
    pub read_only: bool,
    /// Unit in which a discard frees space; 0 = discard frees nothing.
    pub discard_granularity: u32,
    /// Identity of the disk (VHD unique id, VHDX virtual disk id); nil where the format has none.
    pub identity: Uuid,
    /// The geometry that the format records; None = the device derives one from the size.
    pub geometry: Option<Geometry>,
    /// Short format name: `vhd`, `vhdx`, `raw`, `ram`, …
    pub format: &'static str,
}

impl DiskFacts {
    /// A plain 512-byte-sector disk of `size` bytes.
    pub fn plain(size: u64, format: &'static str) -> Self {
        Self {
            size,
            logical_sector: 512,
            physical_sector: 4096,
            read_only: false,
            discard_granularity: 0,
            identity: Uuid::nil(),
            geometry: None,
            format,
        }
    }
}
