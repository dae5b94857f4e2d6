//! Everything that the headers of a VHD say.

use crate::footer::DiskType;
use crate::header::Header;
use crate::image::{Body, VhdImage};
use crate::locator::Locator;
use crate::read_metadata::{ABSENT, FooterPlace, Metadata, bitmap_size};
use bulkhead_disk::{File, Layer, Result, SECTOR, read_vec};
use serde::Serialize;

/// A parent locator with its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LocatorInfo {
    /// Platform code (`W2ru`, `W2ku`, `MacX`, …).
    pub code: String,
    /// The path, where the code holds one.
    pub path: Option<String>,
    /// Bytes reserved.
    pub space: u32,
    /// Bytes of text.
    pub length: u32,
    /// Where the text is in the file.
    pub offset: u64,
}

/// What `disk info` shows of a VHD.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VhdInfo {
    /// `fixed`, `dynamic`, `differencing`.
    pub kind: &'static str,
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes at creation.
    pub original_size: u64,
    /// Bytes by cylinders · heads · sectors; qemu takes this as the size of disks by `vpc ` and `qemu`.
    pub chs_size: u64,
    /// Cylinders.
    pub cylinders: u16,
    /// Heads.
    pub heads: u8,
    /// Sectors per track.
    pub sectors: u8,
    /// The identity.
    pub id: String,
    /// Seconds since the Unix epoch at creation.
    pub created: u64,
    /// The program that made the file.
    pub creator: String,
    /// Its version.
    pub creator_version: u32,
    /// The system that it ran on.
    pub creator_os: String,
    /// Feature bits.
    pub features: u32,
    /// Format version.
    pub version: u32,
    /// Where the dynamic header is; all ones for fixed disks.
    pub data_offset: u64,
    /// Footer checksum as stored.
    pub checksum: u32,
    /// The machine that holds the disk is in saved state.
    pub saved_state: bool,
    /// The end of the file has a valid footer.
    pub footer_at_end: bool,
    /// The copy at the start is valid and equal (fixed disks have none).
    pub footer_copy: bool,
    /// Bytes of the file.
    pub file_size: u64,
    /// What dynamic and differencing disks have on top.
    pub sparse: Option<SparseInfo>,
}

/// Header fields of dynamic and differencing disks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SparseInfo {
    /// Header version.
    pub header_version: u32,
    /// Data bytes per block.
    pub block_size: u32,
    /// Bytes of the bitmap before each block.
    pub bitmap_size: u64,
    /// Where the block table is.
    pub table_offset: u64,
    /// Entries of the table.
    pub table_entries: u32,
    /// Blocks of the disk.
    pub blocks: u64,
    /// Blocks that are in the file.
    pub allocated_blocks: u64,
    /// Data of every block starts at a multiple of 4 KiB.
    pub aligned: bool,
    /// The parent's identity (differencing).
    pub parent_id: Option<String>,
    /// Seconds since the Unix epoch: the parent's footer timestamp.
    pub parent_created: Option<u64>,
    /// The parent's name.
    pub parent_name: Option<String>,
    /// The parent locators.
    pub locators: Vec<LocatorInfo>,
}

/// Reads all header fields, also of files that [`VhdImage::open`] refuses for overlapping blocks.
///
/// # Errors
/// `Corrupt` without a valid footer, header or table; those of the file.
pub async fn inspect(file: &dyn File) -> Result<VhdInfo> {
    let metadata = Metadata::read(file).await?;
    let footer = &metadata.footer;
    let differencing = footer.disk_type() == DiskType::Differencing;
    let sparse = match &metadata.sparse {
        None => None,
        Some(sparse) => {
            let mut locators = Vec::new();
            for locator in sparse.header.locators() {
                locators.push(locator_info(file, &locator).await?);
            }
            Some(sparse_info(&sparse.header, &sparse.table, differencing, locators))
        }
    };
    let geometry = footer.geometry();
    Ok(VhdInfo {
        kind: match footer.disk_type() {
            DiskType::Fixed => "fixed",
            DiskType::Dynamic => "dynamic",
            DiskType::Differencing => "differencing",
        },
        size: footer.size(),
        original_size: footer.original_size(),
        chs_size: footer.chs_size(),
        cylinders: geometry.cylinders,
        heads: geometry.heads,
        sectors: geometry.sectors,
        id: footer.id().to_string(),
        created: u64::from(footer.timestamp()) + crate::EPOCH,
        creator: footer.creator(),
        creator_version: footer.creator_version(),
        creator_os: footer.creator_os(),
        features: footer.features(),
        version: footer.version(),
        data_offset: footer.data_offset(),
        checksum: footer.stored_checksum(),
        saved_state: footer.saved_state(),
        footer_at_end: metadata.place != FooterPlace::Copy,
        footer_copy: metadata.copy_is_good && metadata.sparse.is_some(),
        file_size: file.len(),
        sparse,
    })
}

fn sparse_info(header: &Header, table: &[u32], differencing: bool, locators: Vec<LocatorInfo>) -> SparseInfo {
    let bitmap = bitmap_size(header.block_size());
    let present = || table.iter().filter(|sector| **sector != ABSENT);
    SparseInfo {
        header_version: header.version(),
        block_size: header.block_size(),
        bitmap_size: bitmap,
        table_offset: header.table_offset(),
        table_entries: header.entries(),
        blocks: table.len() as u64,
        allocated_blocks: present().count() as u64,
        aligned: present().all(|sector| (u64::from(*sector) * SECTOR + bitmap).is_multiple_of(4096)),
        parent_id: differencing.then(|| header.parent_id().to_string()),
        parent_created: differencing.then(|| u64::from(header.parent_timestamp()) + crate::EPOCH),
        parent_name: differencing.then(|| header.parent_name()),
        locators,
    }
}

async fn locator_info(file: &dyn File, locator: &Locator) -> Result<LocatorInfo> {
    let text = match locator.check(file.len()) {
        Ok(()) => read_vec(file, locator.offset, locator.length as usize).await?,
        Err(_) => Vec::new(),
    };
    Ok(LocatorInfo {
        code: String::from_utf8_lossy(&locator.code).into_owned(),
        path: if text.is_empty() { None } else { locator.decode(&text) },
        space: locator.space,
        length: locator.length,
        offset: locator.offset,
    })
}

impl VhdImage {
    /// All header fields of the open image (as they are in the file).
    ///
    /// # Errors
    /// Those of the file.
    pub async fn info(&self) -> Result<VhdInfo> {
        // The file shows committed blocks only after a flush.
        if let Body::Sparse(_) = &self.body
            && !self.file.facts().read_only
        {
            self.flush().await?;
        }
        inspect(&*self.file).await
    }
}
