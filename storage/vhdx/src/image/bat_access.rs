//! BAT entries of an open image: read through the sector cache, changed through it.

use super::{Inner, format_error};
use crate::format::SECTOR;
use crate::format::bat::{BlockState, PayloadEntry, decode_bitmap, encode_bitmap};
use crate::format::bytes::{put, u64_at};
use crate::format::geometry::{BAT_ENTRY, BatSlot};
use crate::format::region_table;
use crate::sector_cache::locate;
use bulkhead_disk::Result;
use std::ops::Range;

const READING: &str = "read the block allocation table";

impl Inner {
    /// Where the BAT region begins.
    pub(crate) fn bat_offset(&self) -> Result<u64> {
        let state = self.state.borrow();
        Ok(state.regions.find(region_table::BAT).map_err(format_error(READING))?.offset)
    }

    /// The common case at once, with nothing to wait for: the file offset of a range that lies in one block which is fully
    /// present, inside of the file, and whose BAT sector is cached.
    pub(crate) fn present_at(&self, range: &Range<u64>) -> Option<u64> {
        let state = &mut *self.state.borrow_mut();
        let geometry = state.metadata.geometry;
        let (block, inside) = (range.start / geometry.block_size(), range.start % geometry.block_size());
        let bat = state.regions.find(region_table::BAT).ok()?.offset;
        let (sector, position) = locate(bat + geometry.payload_index(block) * BAT_ENTRY);
        let raw = u64_at(state.cache.get(sector)?, position);
        let entry = PayloadEntry::decode(raw, false, geometry.block_size(), self.known_len()).ok()?;
        let fits = inside + (range.end - range.start) <= geometry.block_size();
        let whole = entry.state == BlockState::FullyPresent && entry.offset + geometry.block_size() <= self.file.len();
        (fits && whole).then(|| entry.offset + inside)
    }

    /// The raw entry at `index`; its sector is validated when it is seen for the first time.
    async fn bat_entry(&self, index: u64) -> Result<u64> {
        let bat = self.bat_offset()?;
        let (sector, inside) = locate(bat + index * BAT_ENTRY);
        loop {
            if let Some(data) = self.state.borrow_mut().cache.get(sector) {
                let raw = u64_at(data, inside);
                return Ok(raw);
            }
            let data = self.read_raw(sector, SECTOR as usize).await?;
            self.note_owners((sector - bat) / SECTOR, &data)?;
            self.state.borrow_mut().cache.insert(sector, &data);
        }
    }

    async fn set_bat_entry(&self, index: u64, raw: u64, barrier: bool) -> Result<()> {
        self.bat_entry(index).await?;
        let (sector, inside) = locate(self.bat_offset()? + index * BAT_ENTRY);
        self.change_sector(sector, barrier, |data| put(data, inside, &raw.to_le_bytes())).await
    }

    /// State and place of a payload block.
    pub(crate) async fn block(&self, block: u64) -> Result<PayloadEntry> {
        let geometry = self.geometry();
        let raw = self.bat_entry(geometry.payload_index(block)).await?;
        PayloadEntry::decode(raw, geometry.is_differencing(), geometry.block_size(), self.known_len())
            .map_err(format_error(READING))
    }

    /// Changes state and place of a payload block; `barrier`: the payload must be durable before the entry is.
    pub(crate) async fn set_block(&self, block: u64, entry: PayloadEntry, barrier: bool) -> Result<()> {
        self.set_bat_entry(self.geometry().payload_index(block), entry.encode(), barrier).await
    }

    /// Place of the sector bitmap block of `chunk`.
    pub(crate) async fn bitmap_block(&self, chunk: u64) -> Result<Option<u64>> {
        let geometry = self.geometry();
        let raw = self.bat_entry(geometry.bitmap_index(chunk)).await?;
        decode_bitmap(raw, geometry.is_differencing(), self.known_len()).map_err(format_error(READING))
    }

    /// Gives `chunk` a sector bitmap block.
    pub(crate) async fn set_bitmap_block(&self, chunk: u64, offset: Option<u64>, barrier: bool) -> Result<()> {
        self.set_bat_entry(self.geometry().bitmap_index(chunk), encode_bitmap(offset), barrier).await
    }

    /// Whether the host file has a hole where these bytes of the BAT are (so that all entries are 0).
    pub(crate) async fn is_bat_hole(&self, range: Range<u64>) -> Result<bool> {
        if self.overlay.is_some() {
            return Ok(false);
        }
        let bat = self.bat_offset()?;
        let data = self.file.data_after(bat + range.start).await?;
        Ok(data.is_none_or(|data| data.start >= bat + range.end))
    }

    /// The first block at or behind `block` whose BAT entry may be anything but "not present": holes of the host file in
    /// the BAT are skipped, so that a sparse disk of any size is walked in no time. At most the number of blocks.
    pub(crate) async fn next_stored(&self, block: u64) -> Result<u64> {
        let geometry = self.geometry();
        let bat = self.bat_offset()?;
        let (sector, inside) = locate(bat + geometry.payload_index(block) * BAT_ENTRY);
        if inside != 0 || self.overlay.is_some() || block >= geometry.block_count() {
            return Ok(block);
        }
        let end = bat + geometry.bat_bytes();
        let data = self.file.data_after(sector).await?.map_or(end, |data| data.start);
        // What is cached may be newer than the file.
        let cached = self.state.borrow().cache.first_in(sector..end);
        let stop = data.min(cached.unwrap_or(end)).min(end);
        let stop = stop - stop % SECTOR;
        if stop <= sector {
            return Ok(block);
        }
        let next = match geometry.slot((stop - bat) / BAT_ENTRY) {
            BatSlot::Payload(next) => next,
            BatSlot::Bitmap(chunk) => (chunk + 1) * geometry.chunk_ratio(),
        };
        Ok(next.clamp(block, geometry.block_count()))
    }
}
