//! Changing metadata items of an open image: parent, identity, size. Each change is one log entry, so it is atomic.

use super::{Inner, Vhdx, format_error};
use crate::format::metadata::{MetadataTable, TABLE_SIZE, item};
use crate::format::parent_locator::ParentLocator;
use crate::format::{FormatError, region_table};
use bulkhead_disk::{DiskError, ErrorKind, ParentLink, Result};
use uuid::Uuid;

impl Vhdx {
    /// Gives the virtual disk a new SCSI identity (page 83), durably.
    ///
    /// # Errors
    /// `ReadOnly`; those of the file.
    pub async fn set_identity(&self, identity: Uuid) -> Result<()> {
        let inner = self.inner();
        inner.begin_data_change().await?;
        inner.write_item(item::PAGE_83, &identity.to_bytes_le()).await?;
        inner.state.borrow_mut().metadata.page_83 = identity;
        inner.flush_now().await
    }
}

impl Inner {
    /// See [`bulkhead_disk::Layer::set_parent_link`]. Guests cannot see it, so the image's own id stays.
    pub(crate) async fn set_parent_link(&self, link: &ParentLink) -> Result<()> {
        let Some(mut locator) = self.state.borrow().metadata.parent.clone() else {
            let reason = "it is not a differencing disk";
            return Err(DiskError::new(ErrorKind::InvalidInput, "set the parent", reason));
        };
        locator.set_link(link);
        self.begin_change().await?;
        self.write_item(item::PARENT_LOCATOR, &locator.to_bytes()).await?;
        self.state.borrow_mut().metadata.parent = Some(locator);
        self.flush_now().await
    }

    /// Replaces the content of a known item; together with a changed table row when the length differs.
    pub(crate) async fn write_item(&self, guid: Uuid, content: &[u8]) -> Result<()> {
        let (region, row, table) = self.place_item(guid, content.len())?;
        let rows = table.to_bytes();
        let item = (region + u64::from(row), content);
        if table == self.state.borrow().table {
            self.write_metadata(&[item]).await?;
        } else {
            self.write_metadata(&[(region, &rows), item]).await?;
        }
        self.state.borrow_mut().table = table;
        Ok(())
    }

    /// Where the item goes: its old place when the new content fits there, else behind all others.
    fn place_item(&self, guid: Uuid, length: usize) -> Result<(u64, u32, MetadataTable)> {
        let failed = format_error("change the metadata");
        let damaged = |problem: String| failed(FormatError::Damaged { structure: "metadata", problem });
        let state = self.state.borrow();
        let region = state.regions.find(region_table::METADATA).map_err(&failed)?;
        let mut table = state.table.clone();
        let ends = table.items.iter().map(|item| item.offset + item.length);
        let end = ends.max().unwrap_or(0).max(TABLE_SIZE as u32).next_multiple_of(4096);
        let rows: Vec<(u32, u32)> = table.items.iter().map(|item| (item.offset, item.length)).collect();
        let row = table.items.iter_mut().find(|item| item.guid == guid && !item.is_user);
        let row = row.ok_or_else(|| damaged(format!("item {guid} is missing")))?;
        let room = rows.iter().map(|(offset, _)| *offset).filter(|offset| *offset > row.offset).min();
        let room = room.unwrap_or(region.length).min(region.length);
        if row.offset as usize + length > room as usize {
            row.offset = end;
        }
        if row.offset as usize + length > region.length as usize {
            return Err(damaged(format!("{length} bytes for item {guid} do not fit into its region")));
        }
        row.length = length as u32;
        let offset = row.offset;
        Ok((region.offset, offset, table))
    }
}

impl ParentLocator {
    /// Takes over ids and paths. The first path without a root is the relative one.
    pub(crate) fn set_link(&mut self, link: &ParentLink) {
        self.set_linkage(link.id);
        self.set_linkage_2(link.second_id);
        self.set_paths(&link.paths);
    }
}
