//! Changing the size of the virtual disk. Growing is safe while the disk is in use; a shrink cuts only a tail without data.

use crate::format::bat::{BlockState, PayloadEntry};
use crate::format::geometry::{BAT_ENTRY, Geometry};
use crate::format::metadata::item;
use crate::format::region_table::BAT;
use crate::format::{MIB, REGION_TABLE_OFFSETS, SECTOR};
use crate::image::{Inner, Vhdx, format_error};
use bulkhead_disk::{DiskError, ErrorKind, Result, read_vec};
use std::ops::Range;

const RESIZING: &str = "resize the image";

impl Vhdx {
    /// Gives the disk `size` bytes, durably. Power can fail at any moment: the disk has the old or the new size then.
    ///
    /// # Errors
    /// `InvalidInput` for sizes that the format does not allow; `WrongState` when a shrink would cut data, with the place of
    /// the last data; those of the file.
    pub async fn resize(&self, size: u64) -> Result<()> {
        let inner = self.inner();
        inner.named(inner.resize(size).await)
    }
}

impl Inner {
    async fn resize(&self, size: u64) -> Result<()> {
        self.check_writable()?;
        let old = self.geometry();
        let new = old
            .with_size(size)
            .map_err(|error| DiskError::new(ErrorKind::InvalidInput, RESIZING, error.to_string()))?;
        if size == old.disk_size() {
            return Ok(());
        }
        // The BAT changes only under this lock, so nobody changes it while it moves.
        let _turn = self.allocation.lock().await;
        self.begin_data_change().await?;
        if size > old.disk_size() { self.grow_disk(old, new).await } else { self.shrink_disk(old, new).await }
    }

    async fn grow_disk(&self, old: Geometry, new: Geometry) -> Result<()> {
        self.clear_last_block(old).await?;
        let region = self.bat_region()?;
        if new.bat_bytes() > region.end - region.start {
            self.move_bat(region, new).await?;
        } else {
            self.clear_entries(old.bat_entries()..new.bat_entries()).await?;
        }
        if self.leaves_blocks_allocated() {
            self.allocate_blocks(old.block_count()..new.block_count()).await?;
        }
        self.flush_now().await?;
        self.set_size(new).await
    }

    /// What lies behind the old end in the last block was never part of the disk: it must be zeros from now on.
    async fn clear_last_block(&self, old: Geometry) -> Result<()> {
        let inside = old.disk_size() % old.block_size();
        if inside == 0 {
            return Ok(());
        }
        let entry = self.block(old.block_count() - 1).await?;
        if entry.state.is_allocated() {
            self.grow(entry.offset + old.block_size()).await?;
            self.file.zero_range(entry.offset + inside..entry.offset + old.block_size()).await?;
        }
        Ok(())
    }

    fn bat_region(&self) -> Result<Range<u64>> {
        let state = self.state.borrow();
        let region = state.regions.find(BAT).map_err(format_error(RESIZING))?;
        Ok(region.offset..region.end())
    }

    /// Copies the BAT to a larger region; one log entry switches over to it.
    async fn move_bat(&self, old: Range<u64>, new: Geometry) -> Result<()> {
        // Twice: the second flush makes durable what the first wrote to its place, so the file has the whole BAT.
        self.flush_now().await?;
        self.flush_now().await?;
        let length = new.bat_bytes().next_multiple_of(MIB);
        let found = self.state.borrow_mut().space.allocate(length).map_err(format_error(RESIZING))?;
        self.grow(found.offset + length).await?;
        if !found.fresh {
            self.file.zero_range(found.offset..found.offset + length).await?;
        }
        let used = self.geometry().bat_bytes();
        let mut at = 0;
        while at < used {
            let piece = (used - at).min(MIB);
            let bytes = read_vec(&*self.file, old.start + at, piece as usize).await?;
            if bytes.iter().any(|byte| *byte != 0) {
                self.write_file(found.offset + at, bytes).await?;
            }
            at += piece;
        }
        self.flush_now().await?;
        let mut regions = self.state.borrow().regions.clone();
        for region in regions.regions.iter_mut().filter(|region| region.guid == BAT) {
            region.offset = found.offset;
            region.length = length as u32;
        }
        let bytes = regions.to_bytes();
        self.write_metadata(&REGION_TABLE_OFFSETS.map(|copy| (copy, &bytes[..]))).await?;
        self.state.borrow_mut().regions = regions;
        // Log entries of this session still name the old place: nothing else may go there before the log is emptied.
        self.state.borrow_mut().abandoned.push(old);
        self.flush_now().await
    }

    /// Makes BAT entries behind the disk's end zero, should another writer have left something there.
    async fn clear_entries(&self, entries: Range<u64>) -> Result<()> {
        let bat = self.bat_region()?;
        let mut at = entries.start * BAT_ENTRY;
        let end = entries.end * BAT_ENTRY;
        while at < end {
            let stop = end.min((at + 1).next_multiple_of(MIB));
            let bytes = self.read_raw(bat.start + at, (stop - at) as usize).await?;
            if bytes.iter().any(|byte| *byte != 0) {
                for sector in (at..stop).step_by(SECTOR as usize) {
                    let piece = stop.min((sector + 1).next_multiple_of(SECTOR)) - sector;
                    self.write_metadata(&[(bat.start + sector, &vec![0; piece as usize])]).await?;
                }
            }
            at = stop;
        }
        Ok(())
    }

    /// Fixed disks: places for new blocks, one behind the other.
    async fn allocate_blocks(&self, blocks: Range<u64>) -> Result<()> {
        let size = self.geometry().block_size();
        let start = self.state.borrow().space.frontier();
        self.file.allocate(start..start + size * (blocks.end - blocks.start)).await?;
        for block in blocks {
            let found = self.state.borrow_mut().space.allocate_at_end(size).map_err(format_error(RESIZING))?;
            self.set_block(block, PayloadEntry::present(BlockState::FullyPresent, found), true).await?;
        }
        Ok(())
    }

    async fn shrink_disk(&self, old: Geometry, new: Geometry) -> Result<()> {
        if old.is_differencing() {
            let reason = "it is a differencing disk, and its parent would keep its size";
            return Err(DiskError::new(ErrorKind::WrongState, RESIZING, reason).advise("merge it first"));
        }
        for block in new.block_count()..old.block_count() {
            let entry = self.block(block).await?;
            if entry.state.is_allocated() && !self.reads_zero(entry.offset, old.block_size()).await? {
                let last = block * old.block_size();
                let reason = format!("the block at byte {last} of the disk holds data, behind the new end");
                return Err(DiskError::new(ErrorKind::WrongState, RESIZING, reason)
                    .advise("shrink the file systems in the guest and discard the space behind them"));
            }
        }
        // First the size: readers ignore the entries behind it, so a power cut in between leaves a whole disk.
        self.set_size(new).await?;
        for block in new.block_count()..old.block_count() {
            let entry = self.block(block).await?;
            if entry != PayloadEntry::empty(BlockState::NotPresent) {
                self.set_block(block, PayloadEntry::empty(BlockState::NotPresent), false).await?;
            }
            if entry.state.is_allocated() {
                self.state.borrow_mut().abandoned.push(entry.offset..entry.offset + old.block_size());
            }
        }
        self.flush_now().await
    }

    async fn set_size(&self, new: Geometry) -> Result<()> {
        self.write_item(item::DISK_SIZE, &new.disk_size().to_le_bytes()).await?;
        self.state.borrow_mut().metadata.geometry = new;
        self.flush_now().await
    }

    fn leaves_blocks_allocated(&self) -> bool {
        self.state.borrow().metadata.leave_blocks_allocated
    }

    /// Whether `length` bytes of payload are zeros; holes of the host file are not read.
    pub(crate) async fn reads_zero(&self, offset: u64, length: u64) -> Result<bool> {
        let end = (offset + length).min(self.file.len());
        let mut at = offset;
        while at < end {
            let Some(data) = self.file.data_after(at).await? else { break };
            let (start, stop) = (data.start.max(at), data.end.min(end).min(data.start.max(at) + MIB));
            if start >= end {
                break;
            }
            let bytes =
                self.file.read(start, bulkhead_disk::Buffer::zeroed((stop - start) as usize)).await.into_result()?;
            if !bytes.is_zero() {
                return Ok(false);
            }
            at = stop;
        }
        Ok(true)
    }
}
