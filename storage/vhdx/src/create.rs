//! Creating images: the layout of a new file, and writing it so that a power cut leaves either no image or a whole one.

use crate::format::bat::{BlockState, PayloadEntry};
use crate::format::file_identifier::FileIdentifier;
use crate::format::geometry::{BAT_ENTRY, Geometry};
use crate::format::header::Header;
use crate::format::metadata::{self, Metadata};
use crate::format::parent_locator::ParentLocator;
use crate::format::region_table::{BAT, METADATA, Region, RegionTable};
use crate::format::{HEADER_OFFSETS, MIB, REGION_TABLE_OFFSETS};
use crate::image::NewGuid;
use bulkhead_disk::{Buffer, DiskError, Durability, ErrorKind, File, Result};
use uuid::Uuid;

/// What kind of disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// All space from the start.
    Fixed,
    /// Grows with what is written.
    Dynamic,
    /// Holds the changes against a parent.
    Differencing(ParentLocator),
}

/// How to create an image.
#[derive(Clone)]
pub struct CreateOptions {
    /// Bytes of the virtual disk.
    pub size: u64,
    /// Fixed, dynamic or differencing.
    pub kind: Kind,
    /// Bytes of a payload block; [`DEFAULT_BLOCK_SIZE`] is a good one.
    pub block_size: u64,
    /// 512 or 4096; a child must have its parent's.
    pub logical_sector: u32,
    /// 512 or 4096.
    pub physical_sector: u32,
    /// SCSI page 83 identity; a child must have its parent's.
    pub identity: Uuid,
    /// Shown as the file's creator.
    pub creator: String,
    /// Fixed disks: leave holes instead of reserving the space.
    pub sparse: bool,
    /// Source of the header's GUIDs.
    pub new_guid: NewGuid,
}

/// Small enough that sparse disks stay small, large enough that the BAT of a 2 TiB disk stays in memory.
pub const DEFAULT_BLOCK_SIZE: u64 = 2 * MIB;

const LOG_OFFSET: u64 = MIB;
/// Random writes to a large differencing disk touch many bitmap sectors: a larger log commits more of them at once.
const LARGE_DISK: u64 = 64 << 30;

impl CreateOptions {
    /// Options for a disk of `size` bytes with the usual sector sizes (512 logical, 4096 physical).
    pub fn new(size: u64, kind: Kind, new_guid: NewGuid) -> Self {
        Self {
            size,
            kind,
            block_size: DEFAULT_BLOCK_SIZE,
            logical_sector: 512,
            physical_sector: 4096,
            identity: new_guid(),
            creator: concat!("Bulkhead ", env!("CARGO_PKG_VERSION")).to_owned(),
            sparse: false,
            new_guid,
        }
    }
}

/// Where everything goes.
struct Layout {
    log_length: u64,
    metadata_offset: u64,
    bat_offset: u64,
    bat_length: u64,
    payload_offset: u64,
    /// Length of the new file.
    end: u64,
}

impl Layout {
    fn new(geometry: Geometry, fixed: bool) -> Self {
        let log_length = if geometry.disk_size() > LARGE_DISK { 4 * MIB } else { MIB };
        let metadata_offset = LOG_OFFSET + log_length;
        let bat_offset = metadata_offset + metadata::REGION_SIZE;
        let bat_length = geometry.bat_bytes().next_multiple_of(MIB);
        let payload_offset = bat_offset + bat_length;
        let payload = if fixed { geometry.block_count() * geometry.block_size() } else { 0 };
        Self { log_length, metadata_offset, bat_offset, bat_length, payload_offset, end: payload_offset + payload }
    }

    fn region_table(&self) -> RegionTable {
        let region = |guid, offset, length: u64| Region { guid, offset, length: length as u32, required: true };
        RegionTable {
            regions: vec![
                region(METADATA, self.metadata_offset, metadata::REGION_SIZE),
                region(BAT, self.bat_offset, self.bat_length),
            ],
        }
    }
}

/// Creates an image in `file`, which must be empty. Everything is durable at the end.
///
/// # Errors
/// `InvalidInput` with the value and the rule; those of the file (`NoSpace` when a fixed disk does not fit).
pub async fn create(file: &dyn File, options: &CreateOptions) -> Result<()> {
    write_image(file, options).await.map_err(|error| error.with_path(file.path()))
}

async fn write_image(file: &dyn File, options: &CreateOptions) -> Result<()> {
    const CREATING: &str = "create the VHDX image";
    let fixed = options.kind == Kind::Fixed;
    let parent = match &options.kind {
        Kind::Differencing(locator) => Some(locator.clone()),
        _ => None,
    };
    let (logical, physical) = (options.logical_sector, options.physical_sector);
    let geometry = Geometry::new(options.size, options.block_size, logical, physical, parent.is_some())
        .map_err(|error| DiskError::new(ErrorKind::InvalidInput, CREATING, error.to_string()))?;
    if !file.is_empty() {
        let reason = format!("the file already has {} bytes", file.len());
        return Err(DiskError::new(ErrorKind::InvalidInput, CREATING, reason).advise("give a new file"));
    }
    let layout = Layout::new(geometry, fixed);
    let metadata = Metadata { geometry, leave_blocks_allocated: fixed, page_83: options.identity, parent };
    if fixed && !options.sparse {
        file.allocate(0..layout.end).await?;
    } else {
        file.set_len(layout.end).await?;
        // What commits write later must not run out of space in the middle.
        file.allocate(0..layout.bat_offset).await?;
    }
    write(file, layout.metadata_offset, metadata.to_region()).await?;
    let regions = layout.region_table().to_bytes();
    for offset in REGION_TABLE_OFFSETS {
        write(file, offset, regions.clone()).await?;
    }
    if fixed {
        write_full_bat(file, geometry, &layout).await?;
    }
    // A file without identifier and headers is no image: they come when everything that they promise is durable.
    file.flush().await?;
    write_headers(file, options, &layout).await?;
    file.flush().await
}

async fn write_headers(file: &dyn File, options: &CreateOptions, layout: &Layout) -> Result<()> {
    let mut header = Header {
        sequence: 0,
        file_write_guid: (options.new_guid)(),
        data_write_guid: (options.new_guid)(),
        log_guid: Uuid::nil(),
        log_version: 0,
        version: 1,
        log_length: layout.log_length as u32,
        log_offset: LOG_OFFSET,
    };
    for offset in HEADER_OFFSETS {
        header.sequence += 1;
        write(file, offset, header.to_bytes()).await?;
    }
    file.flush().await?;
    let mut identifier = FileIdentifier { creator: options.creator.clone() }.to_bytes();
    identifier.resize(4096, 0);
    write(file, 0, identifier).await
}

/// All blocks of a fixed disk, one behind the other.
async fn write_full_bat(file: &dyn File, geometry: Geometry, layout: &Layout) -> Result<()> {
    let per_write = MIB / BAT_ENTRY;
    let entries = geometry.bat_entries();
    let mut first = 0;
    while first < entries {
        let last = entries.min(first + per_write);
        let mut bytes = Vec::with_capacity((MIB) as usize);
        for index in first..last {
            let raw = match geometry.slot(index) {
                crate::format::geometry::BatSlot::Payload(block) => {
                    let offset = layout.payload_offset + block * geometry.block_size();
                    PayloadEntry::present(BlockState::FullyPresent, offset).encode()
                }
                crate::format::geometry::BatSlot::Bitmap(_) => 0,
            };
            bytes.extend_from_slice(&raw.to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(4096), 0);
        write(file, layout.bat_offset + first * BAT_ENTRY, bytes).await?;
        first = last;
    }
    Ok(())
}

async fn write(file: &dyn File, offset: u64, bytes: Vec<u8>) -> Result<()> {
    file.write(offset, Buffer::copy_of(&bytes), Durability::Cached).await.result
}
