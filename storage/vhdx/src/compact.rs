//! Compacting: zero blocks lose their place, the last blocks of the file move into gaps, the file gets shorter.

use crate::format::MIB;
use crate::format::bat::{BlockState, PayloadEntry};
use crate::format::geometry::{BatSlot, Geometry};
use crate::image::{Inner, Vhdx};
use bulkhead_disk::{DiskError, Durability, ErrorKind, Layer, Result};

/// Payload that is moved between two commits.
const MOVE_BATCH: u64 = 64 * MIB;

/// What a compaction did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Blocks that held only zeros and lost their place.
    pub dropped_blocks: u64,
    /// Blocks that moved towards the start of the file.
    pub moved_blocks: u64,
    /// Length of the file before.
    pub before: u64,
    /// Length of the file after.
    pub after: u64,
}

/// A step of the work, for progress; answering `false` cancels at a point where the image is whole.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> bool;

impl Vhdx {
    /// Blocks whose payload is all zeros lose their place; returns how many. The content of the disk stays the same.
    ///
    /// # Errors
    /// `Cancelled` by `progress(done, all blocks)`; those of the file.
    pub async fn drop_zero_blocks(&self, progress: Progress<'_>) -> Result<u64> {
        let inner = self.inner();
        inner.check_writable()?;
        let geometry = inner.geometry();
        let mut dropped = 0;
        let mut next = 0;
        while next < geometry.block_count() {
            let block = inner.next_stored(next).await?;
            next = block + 1;
            if block == geometry.block_count() {
                break;
            }
            if block % 64 == 0 && !progress(block, geometry.block_count()) {
                return Err(cancelled());
            }
            let entry = inner.block(block).await?;
            let candidate = match entry.state {
                BlockState::FullyPresent => true,
                BlockState::PartiallyPresent => {
                    matches!(inner.bitmap_runs(block, 0..geometry.block_size()).await?[..], [(_, true)])
                }
                _ => false,
            };
            if !candidate || !inner.reads_zero(entry.offset, geometry.block_size()).await? {
                continue;
            }
            let _turn = inner.allocation.lock().await;
            inner.begin_change().await?;
            let state = if geometry.is_differencing() { BlockState::Zero } else { BlockState::NotPresent };
            inner.set_block(block, PayloadEntry::empty(state), false).await?;
            inner.state.borrow_mut().space.release(entry.offset..entry.offset + geometry.block_size());
            dropped += 1;
        }
        inner.flush_now().await?;
        Ok(dropped)
    }

    /// Makes the file as short as its data allows, then closes it. `zero_blocks` also looks for blocks of zeros, which reads
    /// all data. Nobody else may use the image meanwhile. Fixed disks stay as they are.
    ///
    /// # Errors
    /// `Cancelled` by `progress(done, all)`; `ReadOnly`; those of the file. The image is whole after every error.
    pub async fn compact(&self, zero_blocks: bool, progress: Progress<'_>) -> Result<Compacted> {
        let inner = self.inner();
        inner.check_writable()?;
        let mut result = Compacted { before: inner.file.len(), after: inner.file.len(), ..Compacted::default() };
        if inner.state.borrow().metadata.leave_blocks_allocated {
            return Ok(result);
        }
        if !inner.state.borrow().space.is_complete() {
            inner.scan_bat().await?;
        }
        if zero_blocks {
            result.dropped_blocks = self.drop_zero_blocks(progress).await?;
        }
        inner.begin_change().await?;
        // The new gaps may be used when no durable BAT names them any more.
        inner.flush_now().await?;
        result.moved_blocks = inner.pack(progress).await?;
        self.close().await?;
        result.after = inner.file.len();
        Ok(result)
    }
}

fn cancelled() -> DiskError {
    DiskError::new(ErrorKind::Cancelled, "compact the image", "it was cancelled")
}

impl Inner {
    /// Moves blocks from the end of the file into gaps, as long as that makes the file shorter.
    async fn pack(&self, progress: Progress<'_>) -> Result<u64> {
        let mut owners = self.owners().await?;
        owners.sort_unstable_by_key(|(offset, _)| std::cmp::Reverse(*offset));
        let all = owners.len() as u64;
        let mut moved = 0;
        let mut pending: Vec<(u64, u64, BatSlot)> = Vec::new();
        for (index, (offset, slot)) in owners.into_iter().enumerate() {
            let length = self.length_of(slot);
            let mut target = self.state.borrow_mut().space.take_below(length, offset);
            if target.is_none() && !pending.is_empty() {
                // Gaps that the pending moves leave can be used once the moves are durable.
                moved += self.finish_moves(&mut pending).await?;
                target = self.state.borrow_mut().space.take_below(length, offset);
            }
            let Some(target) = target else { continue };
            self.copy(offset, target, length).await?;
            pending.push((offset, target, slot));
            if pending.iter().map(|(_, _, slot)| self.length_of(*slot)).sum::<u64>() >= MOVE_BATCH {
                moved += self.finish_moves(&mut pending).await?;
                if !progress(index as u64, all) {
                    return Err(cancelled());
                }
            }
        }
        Ok(moved + self.finish_moves(&mut pending).await?)
    }

    /// Every block with a place, with that place.
    async fn owners(&self) -> Result<Vec<(u64, BatSlot)>> {
        let geometry = self.geometry();
        let mut owners = Vec::new();
        let mut next = 0;
        while next < geometry.block_count() {
            let block = self.next_stored(next).await?;
            next = block + 1;
            if block == geometry.block_count() {
                break;
            }
            let entry = self.block(block).await?;
            if entry.state.is_allocated() {
                owners.push((entry.offset, BatSlot::Payload(block)));
            }
        }
        if geometry.is_differencing() {
            for chunk in 0..geometry.chunk_count() {
                if let Some(offset) = self.bitmap_block(chunk).await? {
                    owners.push((offset, BatSlot::Bitmap(chunk)));
                }
            }
        }
        Ok(owners)
    }

    fn length_of(&self, slot: BatSlot) -> u64 {
        length_in(self.geometry(), slot)
    }

    /// Copies bytes of the file; holes stay holes.
    async fn copy(&self, from: u64, to: u64, length: u64) -> Result<()> {
        self.file.punch(to..(to + length).min(self.file.len())).await?;
        let end = (from + length).min(self.file.len());
        let mut at = from;
        while at < end {
            let Some(data) = self.file.data_after(at).await? else { break };
            let start = data.start.max(at);
            let stop = data.end.min(end).min(start + MIB);
            if start >= end {
                break;
            }
            let buffer = bulkhead_disk::Buffer::zeroed((stop - start) as usize);
            let buffer = self.file.read(start, buffer).await.into_result()?;
            self.file.write(to + (start - from), buffer, Durability::Cached).await.result?;
            at = stop;
        }
        Ok(())
    }

    /// Points the BAT to the copies (which become durable first), and frees the old places.
    async fn finish_moves(&self, pending: &mut Vec<(u64, u64, BatSlot)>) -> Result<u64> {
        for (_, target, slot) in pending.iter() {
            match slot {
                BatSlot::Payload(block) => {
                    let state = self.block(*block).await?.state;
                    self.set_block(*block, PayloadEntry::present(state, *target), true).await?;
                }
                BatSlot::Bitmap(chunk) => self.set_bitmap_block(*chunk, Some(*target), true).await?,
            }
        }
        self.flush_now().await?;
        let mut state = self.state.borrow_mut();
        for (old, _, slot) in pending.iter() {
            let range = *old..*old + length_in(state.metadata.geometry, *slot);
            match slot {
                BatSlot::Payload(_) => state.space.release(range),
                // The log of this session may name sectors of the old bitmap block.
                BatSlot::Bitmap(_) => {
                    state.cache.forget(&range);
                    state.abandoned.push(range);
                }
            }
        }
        let count = pending.len() as u64;
        pending.clear();
        Ok(count)
    }
}

fn length_in(geometry: Geometry, slot: BatSlot) -> u64 {
    match slot {
        BatSlot::Payload(_) => geometry.block_size(),
        BatSlot::Bitmap(_) => MIB,
    }
}
