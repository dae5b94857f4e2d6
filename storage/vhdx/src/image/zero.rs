//! Clearing ranges: write-zeroes and discard.

use super::write::pieces;
use super::{Anchor, Inner};
use crate::format::SECTOR;
use crate::format::bat::{BlockState, PayloadEntry};
use bulkhead_disk::{Result, ZeroMode};
use std::ops::Range;

/// Freed places that are remembered; beyond it a block keeps its place and only its bytes are given back.
const MAX_ANCHORS: usize = 1 << 20;

impl Inner {
    /// See [`bulkhead_disk::Layer::zero`].
    pub(crate) async fn zero(&self, range: Range<u64>, mode: ZeroMode) -> Result<()> {
        self.check_writable()?;
        let geometry = self.geometry();
        let block_size = geometry.block_size();
        let size = geometry.disk_size();
        for (block, piece) in pieces(range, block_size) {
            let block_end = block_size.min(size - block * block_size);
            let whole = piece.start == 0 && piece.end >= block_end;
            let _turn = self.allocation.lock().await;
            let entry = self.block(block).await?;
            let parent_shows = entry.state == BlockState::NotPresent && geometry.is_differencing();
            if !entry.state.is_allocated() && !parent_shows {
                continue;
            }
            let keep = self.state.borrow().metadata.leave_blocks_allocated;
            if keep && mode == ZeroMode::Discard {
                continue;
            }
            self.begin_data_change().await?;
            if whole && !keep && (parent_shows || mode != ZeroMode::KeepSpace) {
                self.clear_block(block, entry).await?;
            } else if entry.state.is_allocated() {
                self.clear_part(block, entry, piece, mode, keep).await?;
            } else if mode != ZeroMode::Discard {
                self.clear_parent_part(block, piece).await?;
            }
        }
        Ok(())
    }

    /// The whole block reads as zeros from now on, without a place of its own.
    async fn clear_block(&self, block: u64, entry: PayloadEntry) -> Result<()> {
        if entry.state.is_allocated() && self.state.borrow().anchors.len() >= MAX_ANCHORS {
            let end = entry.offset + self.geometry().block_size();
            return self.file.punch(entry.offset..end.min(self.file.len())).await;
        }
        // In a differencing disk "unmapped" means zeros too, but other readers take it for the parent's data.
        let differencing = self.geometry().is_differencing();
        let state = if differencing { BlockState::Zero } else { BlockState::Unmapped };
        self.set_block(block, PayloadEntry::empty(state), false).await?;
        let state = &mut *self.state.borrow_mut();
        state.next_epoch += 1;
        if entry.state.is_allocated() {
            let anchor = Anchor { offset: entry.offset, fresh: false, users: 0, epoch: state.next_epoch };
            state.anchors.insert(block, anchor);
            state.freed.push(block);
        } else if let Some(planned) = state.anchors.get_mut(&block) {
            // Writes on their way count as having come first, and what they put there is cleared before it can show.
            *planned = Anchor { fresh: false, users: 0, epoch: state.next_epoch, ..*planned };
        }
        Ok(())
    }

    /// Part of a block that is in the file.
    async fn clear_part(
        &self,
        block: u64,
        entry: PayloadEntry,
        piece: Range<u64>,
        mode: ZeroMode,
        keep: bool,
    ) -> Result<()> {
        self.grow(entry.offset + self.geometry().block_size()).await?;
        let mut runs = vec![(piece.end - piece.start, true)];
        if entry.state == BlockState::PartiallyPresent {
            runs = self.bitmap_runs(block, piece.clone()).await?;
        }
        let mut at = piece.start;
        for (length, here) in runs {
            // A discard need not hide what is the parent's: it is what the disk held there.
            if here || mode != ZeroMode::Discard {
                let target = entry.offset + at..entry.offset + at + length;
                let aligned = target.start % SECTOR == 0 && target.end % SECTOR == 0;
                if mode != ZeroMode::KeepSpace && aligned && !keep {
                    self.file.punch(target).await?;
                } else {
                    self.file.zero_range(target).await?;
                }
            }
            if !here && mode != ZeroMode::Discard {
                self.set_bits(block, at..at + length, true).await?;
            }
            at += length;
        }
        Ok(())
    }

    /// Part of a block that is the parent's: zeros must hide it.
    async fn clear_parent_part(&self, block: u64, piece: Range<u64>) -> Result<()> {
        self.ensure_bitmap(block / self.geometry().chunk_ratio()).await?;
        let anchor = self.anchor(block).await?;
        let result = self.hide_parent(block, piece, anchor).await;
        self.release_anchor(block, anchor.epoch, result.is_ok());
        if result.is_ok() {
            self.state.borrow_mut().anchors.remove(&block);
        }
        result
    }

    async fn hide_parent(&self, block: u64, piece: Range<u64>, anchor: Anchor) -> Result<()> {
        if !anchor.fresh || anchor.users > 1 {
            self.file.zero_range(anchor.offset + piece.start..anchor.offset + piece.end).await?;
        }
        self.set_bits(block, 0..self.geometry().block_size(), false).await?;
        let entry = PayloadEntry::present(BlockState::PartiallyPresent, anchor.offset);
        self.set_block(block, entry, true).await?;
        self.set_bits(block, piece, true).await
    }
}
