//! The write planner: where payload goes, and the guard that completes the metadata when it is there.

use super::{Anchor, Inner};
use crate::format::MIB;
use crate::format::bat::{BlockState, PayloadEntry};
use bulkhead_disk::{FileExtent, LocalFuture, Result, WriteGuard, WritePlan};
use std::ops::Range;
use std::rc::Rc;

/// The file grows by this much at a time; the rest is cut off at a clean close.
const GROWTH: u64 = 64 * MIB;

/// What becomes true of one block when its payload is written.
#[derive(Debug, Clone)]
struct Change {
    block: u64,
    /// Bytes inside the block.
    range: Range<u64>,
    /// The place was taken for this write, during this stay of its anchor; none: the block was there already.
    epoch: Option<u64>,
}

/// Completes (or, dropped uncommitted, forgets) the changes of one write.
struct Guard {
    inner: Rc<Inner>,
    changes: Vec<Change>,
}

impl WriteGuard for Guard {
    fn commit(mut self: Box<Self>) -> LocalFuture<'static, Result<()>> {
        Box::pin(async move {
            while let Some(change) = self.changes.last().cloned() {
                self.inner.finish(&change).await?;
                self.inner.release(&change, true);
                self.changes.pop();
            }
            Ok(())
        })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        for change in &self.changes {
            self.inner.release(change, false);
        }
    }
}

impl Inner {
    /// See [`bulkhead_disk::Layer::plan_write`].
    pub(crate) async fn plan_write(self: &Rc<Self>, range: Range<u64>) -> Result<WritePlan> {
        self.begin_data_change().await?;
        let mut guard = Guard { inner: Rc::clone(self), changes: Vec::new() };
        let mut extents: Vec<FileExtent> = Vec::new();
        for (block, piece) in pieces(range, self.geometry().block_size()) {
            let offset = self.plan_block(block, &piece, &mut guard.changes).await? + piece.start;
            let len = piece.end - piece.start;
            match extents.last_mut() {
                Some(last) if last.offset + last.len == offset => last.len += len,
                _ => extents.push(FileExtent { len, offset }),
            }
        }
        let guard: Option<Box<dyn WriteGuard>> = if guard.changes.is_empty() { None } else { Some(Box::new(guard)) };
        let stable_in_place = guard.is_none() && self.is_settled();
        Ok(WritePlan { extents, guard, stable_in_place })
    }

    /// No metadata is waiting to become durable.
    pub(crate) fn is_settled(&self) -> bool {
        let state = self.state.borrow();
        state.cache.dirty_count() == 0 && !state.committing
    }

    /// Place of `block`, and the change that a write of `piece` makes, if it makes one.
    async fn plan_block(&self, block: u64, piece: &Range<u64>, changes: &mut Vec<Change>) -> Result<u64> {
        let mut entry = self.block(block).await?;
        if !entry.state.is_allocated() {
            let _turn = self.allocation.lock().await;
            entry = self.block(block).await?;
            if !entry.state.is_allocated() {
                return self.plan_absent(block, piece, entry.state, changes).await;
            }
        }
        let end = entry.offset + self.geometry().block_size();
        if self.file.len() < end {
            let _growing = self.allocation.lock().await;
            self.grow(end).await?;
        }
        if entry.state == BlockState::PartiallyPresent {
            let here = matches!(self.bitmap_runs(block, piece.clone()).await?[..], [(_, true)]);
            if !here {
                changes.push(Change { block, range: piece.clone(), epoch: None });
            }
        }
        Ok(entry.offset)
    }

    /// As `plan_block` for a block without a place. The caller holds the allocation lock.
    async fn plan_absent(
        &self,
        block: u64,
        piece: &Range<u64>,
        state: BlockState,
        changes: &mut Vec<Change>,
    ) -> Result<u64> {
        let anchor = self.anchor(block).await?;
        changes.push(Change { block, range: piece.clone(), epoch: Some(anchor.epoch) });
        let partial = piece.end - piece.start < self.geometry().block_size();
        if self.geometry().is_differencing() && state == BlockState::NotPresent && partial {
            self.ensure_bitmap(block / self.geometry().chunk_ratio()).await?;
        }
        Ok(anchor.offset)
    }

    /// A place for a block that has none, with one more user; zeros, as far as nobody wrote to it yet. The caller holds the
    /// allocation lock.
    pub(crate) async fn anchor(&self, block: u64) -> Result<Anchor> {
        let size = self.geometry().block_size();
        let known = self.state.borrow().anchors.get(&block).copied();
        let anchor = match known {
            Some(anchor) => anchor,
            None => {
                let state = &mut *self.state.borrow_mut();
                let found = state.space.allocate(size).map_err(super::format_error("find space for a block"))?;
                state.next_epoch += 1;
                Anchor { offset: found.offset, fresh: found.fresh, users: 0, epoch: state.next_epoch }
            }
        };
        // Entered before the first await: a dropped future must not lose the space.
        self.state.borrow_mut().anchors.insert(block, anchor);
        self.grow(anchor.offset + size).await?;
        if !anchor.fresh && anchor.users == 0 {
            self.file.zero_range(anchor.offset..anchor.offset + size).await?;
        }
        // Read again: plans may have ended meanwhile.
        let mut state = self.state.borrow_mut();
        let entered = state.anchors.entry(block).or_insert(anchor);
        entered.users += 1;
        Ok(*entered)
    }

    /// Makes the file reach `end`, in large steps. New bytes are zeros.
    pub(crate) async fn grow(&self, end: u64) -> Result<()> {
        let len = self.file.len();
        if len >= end {
            return Ok(());
        }
        let wanted = end.max(len + GROWTH.min(len / 4).next_multiple_of(MIB)).next_multiple_of(MIB);
        match self.file.set_len(wanted).await {
            Err(_) if wanted > end => self.file.set_len(end).await,
            result => result,
        }
    }

    /// Makes sure that `chunk` has a sector bitmap block: all bits clear, which means the parent. The caller holds the
    /// allocation lock.
    pub(crate) async fn ensure_bitmap(&self, chunk: u64) -> Result<()> {
        if self.bitmap_block(chunk).await?.is_some() {
            return Ok(());
        }
        let found =
            self.state.borrow_mut().space.allocate(MIB).map_err(super::format_error("find space for a bitmap"))?;
        self.grow(found.offset + MIB).await?;
        if !found.fresh {
            self.file.zero_range(found.offset..found.offset + MIB).await?;
            self.state.borrow_mut().cache.forget(&(found.offset..found.offset + MIB));
        }
        self.set_bitmap_block(chunk, Some(found.offset), !found.fresh).await
    }

    /// The payload of `change` is in the file.
    async fn finish(&self, change: &Change) -> Result<()> {
        let _turn = self.allocation.lock().await;
        let entry = self.block(change.block).await?;
        if entry.state.is_allocated() {
            return self.finish_present(change, entry).await;
        }
        let anchor = self.state.borrow().anchors.get(&change.block).copied();
        let Some(anchor) = anchor.filter(|anchor| Some(anchor.epoch) == change.epoch) else {
            // The block was cleared as a whole while the payload was on its way: as if the write had come first.
            return Ok(());
        };
        let whole = change.range == (0..self.geometry().block_size());
        let parent_shows = self.geometry().is_differencing() && entry.state == BlockState::NotPresent;
        if parent_shows && !whole {
            // Bits may be left from an earlier life of the block.
            self.set_bits(change.block, 0..self.geometry().block_size(), false).await?;
            let entry = PayloadEntry::present(BlockState::PartiallyPresent, anchor.offset);
            self.set_block(change.block, entry, true).await?;
            self.set_bits(change.block, change.range.clone(), true).await?;
        } else {
            let barrier = parent_shows || !anchor.fresh;
            let entry = PayloadEntry::present(BlockState::FullyPresent, anchor.offset);
            self.set_block(change.block, entry, barrier).await?;
        }
        self.state.borrow_mut().anchors.remove(&change.block);
        Ok(())
    }

    /// A block that is in the file (perhaps through another write since): only its bitmap can change.
    async fn finish_present(&self, change: &Change, entry: PayloadEntry) -> Result<()> {
        if entry.state != BlockState::PartiallyPresent {
            return Ok(());
        }
        let size = self.geometry().block_size();
        if change.range == (0..size) {
            let entry = PayloadEntry::present(BlockState::FullyPresent, entry.offset);
            return self.set_block(change.block, entry, true).await;
        }
        self.set_bits(change.block, change.range.clone(), true).await
    }

    /// A plan for the anchor of `change` ended.
    fn release(&self, change: &Change, committed: bool) {
        if let Some(epoch) = change.epoch {
            self.release_anchor(change.block, epoch, committed);
        }
    }

    /// One user less of this stay of the anchor of `block`.
    pub(crate) fn release_anchor(&self, block: u64, epoch: u64, committed: bool) {
        let mut state = self.state.borrow_mut();
        if let Some(anchor) = state.anchors.get_mut(&block).filter(|anchor| anchor.epoch == epoch) {
            anchor.users = anchor.users.saturating_sub(1);
            // An abandoned write may have left payload there.
            anchor.fresh &= committed;
        }
    }
}

/// Cuts a range of the disk at block borders: (block, bytes inside it).
pub(crate) fn pieces(range: Range<u64>, block_size: u64) -> impl Iterator<Item = (u64, Range<u64>)> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        if at >= range.end {
            return None;
        }
        let (block, start) = (at / block_size, at % block_size);
        let end = block_size.min(start + (range.end - at));
        at += end - start;
        Some((block, start..end))
    })
}
