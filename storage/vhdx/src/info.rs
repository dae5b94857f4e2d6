//! Everything that the headers of a VHDX file say, for people and programs. Reads no BAT, so it costs the same for any size.

use crate::format::header::Header;
use crate::format::metadata::Item;
use crate::format::parent_locator::key;
use crate::format::region_table::Region;
use crate::image::open::read_headers;
use crate::image::{OpenOptions, Vhdx};
use bulkhead_disk::{File, Result};
use serde::Serialize;
use std::rc::Rc;
use uuid::Uuid;

/// One header slot.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HeaderInfo {
    /// Why the slot is not valid; the other fields are 0 then.
    pub problem: Option<String>,
    /// This header counts.
    pub current: bool,
    /// Sequence number.
    pub sequence: u64,
    /// Changes at every writable open with a change.
    pub file_write_guid: Uuid,
    /// Changes with the data; children record it.
    pub data_write_guid: Uuid,
    /// Nil when the log is empty.
    pub log_guid: Uuid,
    /// 0.
    pub log_version: u16,
    /// 1.
    pub version: u16,
    /// Bytes.
    pub log_length: u32,
    /// File offset.
    pub log_offset: u64,
}

/// A region of the file.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RegionInfo {
    /// Which.
    pub guid: Uuid,
    /// File offset.
    pub offset: u64,
    /// Bytes.
    pub length: u32,
    /// Must be understood.
    pub required: bool,
}

/// A metadata item.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ItemInfo {
    /// Which.
    pub guid: Uuid,
    /// Offset in the metadata region.
    pub offset: u32,
    /// Bytes.
    pub length: u32,
    /// Belongs to a user.
    pub is_user: bool,
    /// Goes along a chain.
    pub is_virtual_disk: bool,
    /// Must be understood.
    pub is_required: bool,
}

/// The parent locator.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentInfo {
    /// The parent's DataWriteGuid.
    pub linkage: Option<Uuid>,
    /// A second accepted one.
    pub linkage2: Option<Uuid>,
    /// Paths in the order to try.
    pub paths: Vec<String>,
    /// All pairs as they are.
    pub entries: Vec<(String, String)>,
}

/// What is in the file.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Info {
    /// `fixed`, `dynamic` or `differencing`.
    pub kind: &'static str,
    /// Bytes of the virtual disk.
    pub virtual_size: u64,
    /// Bytes of the file.
    pub file_size: u64,
    /// Bytes of a payload block.
    pub block_size: u64,
    /// Bytes.
    pub logical_sector_size: u64,
    /// Bytes.
    pub physical_sector_size: u32,
    /// SCSI page 83.
    pub virtual_disk_id: Uuid,
    /// Who created the file.
    pub creator: String,
    /// Payload blocks of the disk.
    pub block_count: u64,
    /// Payload blocks per sector bitmap block.
    pub chunk_ratio: u64,
    /// BAT entries that the disk needs.
    pub bat_entries: u64,
    /// The log has entries that are not in their place (they are replayed at the next writable open).
    pub log_dirty: bool,
    /// How many.
    pub log_entries: usize,
    /// Both slots.
    pub headers: Vec<HeaderInfo>,
    /// The region table.
    pub regions: Vec<RegionInfo>,
    /// The metadata table.
    pub metadata_items: Vec<ItemInfo>,
    /// Differencing disks.
    pub parent: Option<ParentInfo>,
    /// Damage that redundancy covered.
    pub warnings: Vec<String>,
}

/// Reads everything but the BAT. The file is not changed, also when its log is dirty.
///
/// # Errors
/// As for a read-only [`Vhdx::open`].
pub async fn info(file: Rc<dyn File>) -> Result<Info> {
    let options = OpenOptions { read_only: true, new_guid: Rc::new(Uuid::nil) };
    let creator = crate::image::open::read_identifier(&*file).await?.creator;
    let slots = read_headers(&*file).await?;
    let opened = Vhdx::open(Rc::clone(&file), options).await?;
    let state = opened.image.inner().state.borrow();
    let geometry = state.metadata.geometry;
    let kind = match (&state.metadata.parent, state.metadata.leave_blocks_allocated) {
        (Some(_), _) => "differencing",
        (None, true) => "fixed",
        (None, false) => "dynamic",
    };
    let headers = slots.iter().enumerate().map(|(slot, header)| match header {
        Ok(header) => HeaderInfo::new(header, slot == state.current_slot),
        Err(error) => HeaderInfo { problem: Some(error.to_string()), ..HeaderInfo::new(&Header::EMPTY, false) },
    });
    Ok(Info {
        kind,
        virtual_size: geometry.disk_size(),
        file_size: file.len(),
        block_size: geometry.block_size(),
        logical_sector_size: geometry.logical_sector(),
        physical_sector_size: geometry.physical_sector(),
        virtual_disk_id: state.metadata.page_83,
        creator,
        block_count: geometry.block_count(),
        chunk_ratio: geometry.chunk_ratio(),
        bat_entries: geometry.bat_entries(),
        log_dirty: opened.replayed_entries > 0,
        log_entries: opened.replayed_entries,
        headers: headers.collect(),
        regions: state.regions.regions.iter().map(RegionInfo::new).collect(),
        metadata_items: state.table.items.iter().map(ItemInfo::new).collect(),
        parent: state.metadata.parent.as_ref().map(|locator| ParentInfo {
            linkage: locator.linkage().ok(),
            linkage2: locator.guid(key::LINKAGE_2),
            paths: locator.paths().map(str::to_owned).collect(),
            entries: locator.entries.clone(),
        }),
        warnings: opened.warnings,
    })
}

impl HeaderInfo {
    fn new(header: &Header, current: bool) -> Self {
        Self {
            problem: None,
            current,
            sequence: header.sequence,
            file_write_guid: header.file_write_guid,
            data_write_guid: header.data_write_guid,
            log_guid: header.log_guid,
            log_version: header.log_version,
            version: header.version,
            log_length: header.log_length,
            log_offset: header.log_offset,
        }
    }
}

impl RegionInfo {
    fn new(region: &Region) -> Self {
        Self { guid: region.guid, offset: region.offset, length: region.length, required: region.required }
    }
}

impl ItemInfo {
    fn new(item: &Item) -> Self {
        Self {
            guid: item.guid,
            offset: item.offset,
            length: item.length,
            is_user: item.is_user,
            is_virtual_disk: item.is_virtual_disk,
            is_required: item.is_required,
        }
    }
}
