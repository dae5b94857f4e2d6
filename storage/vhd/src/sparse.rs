//! Dynamic and differencing disks: where bytes are, room for writes, commit.

use crate::bitmaps::{Bitmaps, sectors};
use crate::footer::{DiskType, Footer};
use crate::header::Header;
use crate::read_metadata::{ABSENT, FooterPlace, SparseMetadata, bitmap_size};
use bulkhead_disk::{
    Extent, File, FileExtent, FlushGate, LocalFuture, LocalLock, MetadataCounters, ParentLink, Place, Result, SECTOR,
    WriteGuard, WritePlan, ZeroMode, read_vec,
};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::rc::Rc;

/// Blocks whose bitmaps may wait for the guest's flush.
const MAX_DIRTY: usize = 16 << 10;

/// The live state of a dynamic or differencing image.
pub(crate) struct Sparse {
    pub(crate) file: Rc<dyn File>,
    pub(crate) differencing: bool,
    pub(crate) block_size: u64,
    pub(crate) bitmap_size: u64,
    pub(crate) footer: RefCell<Footer>,
    pub(crate) header: RefCell<Header>,
    pub(crate) header_offset: Cell<u64>,
    pub(crate) table: RefCell<Table>,
    pub(crate) bitmaps: RefCell<Bitmaps>,
    /// Of bitmaps; the block table is in memory.
    pub(crate) lookups: Cell<MetadataCounters>,
    pub(crate) space: RefCell<Space>,
    /// Blocks that have room but no table entry yet.
    pub(crate) pending: RefCell<HashMap<u32, Pending>>,
    /// Held while the file grows or its structures move.
    pub(crate) structure: LocalLock,
    pub(crate) gate: FlushGate,
    /// What a differencing image says about its parent.
    pub(crate) link: RefCell<Option<ParentLink>>,
}

/// The block table with what is not on disk yet.
pub(crate) struct Table {
    pub(crate) entries: Vec<u32>,
    /// Changed 512-byte sectors of the table.
    pub(crate) dirty: BTreeSet<u32>,
}

impl Table {
    pub(crate) fn set(&mut self, block: u32, sector: u32) {
        self.entries[block as usize] = sector;
        self.dirty.insert(block / 128);
    }
}

/// Room in the file.
pub(crate) struct Space {
    /// Everything before is used.
    pub(crate) next: u64,
    /// Blocks may end here: the footer's place.
    pub(crate) limit: u64,
    /// From `next` to `limit` the file durably reads as zeros.
    pub(crate) clean: bool,
    /// Bitmap offsets of abandoned blocks: reusable after clearing.
    pub(crate) abandoned: Vec<u64>,
    /// Bitmap offsets of blocks that are clear and unused.
    pub(crate) spare: Vec<u64>,
    /// The end of the file has no valid footer, or `close` should cut the tail.
    pub(crate) tail_is_open: bool,
    /// The copy at 0 must be written before anything else changes.
    pub(crate) copy_is_bad: bool,
}

impl Space {
    /// Everything before `next` is used; the footer is at `place`.
    pub(crate) fn new(next: u64, place: FooterPlace, copy_is_good: bool) -> Self {
        let limit = match place {
            FooterPlace::End(offset) => offset,
            FooterPlace::Copy => next,
        };
        Self {
            next,
            limit,
            clean: false,
            abandoned: Vec::new(),
            spare: Vec::new(),
            tail_is_open: place == FooterPlace::Copy,
            copy_is_bad: !copy_is_good,
        }
    }
}

/// A block on its way into the table.
pub(crate) struct Pending {
    /// Bitmap offset.
    pub(crate) offset: u64,
    writers: u32,
}

/// Blocks of one write that wait for their payload: block and sectors.
struct SparseWrite {
    sparse: Rc<Sparse>,
    parts: Vec<(u32, Range<u32>)>,
}

impl Sparse {
    pub(crate) fn new(file: Rc<dyn File>, footer: Footer, sparse: SparseMetadata, space: Space) -> Self {
        let block_size = u64::from(sparse.header.block_size());
        let bitmap_size = bitmap_size(sparse.header.block_size());
        Self {
            file,
            differencing: footer.disk_type() == DiskType::Differencing,
            block_size,
            bitmap_size,
            bitmaps: RefCell::new(Bitmaps::new(sparse.table.len(), bitmap_size, block_size / SECTOR)),
            lookups: Cell::default(),
            footer: RefCell::new(footer),
            header: RefCell::new(sparse.header),
            header_offset: Cell::new(sparse.header_offset),
            table: RefCell::new(Table { entries: sparse.table, dirty: BTreeSet::new() }),
            space: RefCell::new(space),
            pending: RefCell::default(),
            structure: LocalLock::default(),
            gate: FlushGate::default(),
            link: RefCell::new(None),
        }
    }

    /// The bitmap's offset of a present block.
    pub(crate) fn block_offset(&self, block: u32) -> Option<u64> {
        let sector = self.table.borrow().entries[block as usize];
        (sector != ABSENT).then(|| u64::from(sector) * SECTOR)
    }

    /// Cuts a range at block borders: (block, bytes inside it).
    fn pieces(&self, range: &Range<u64>) -> impl Iterator<Item = (u32, Range<u64>)> + use<> {
        let (block_size, end, mut at) = (self.block_size, range.end, range.start);
        std::iter::from_fn(move || {
            (at < end).then(|| {
                let (block, inside) = (at / block_size, at % block_size);
                let stop = (inside + (end - at)).min(block_size);
                at += stop - inside;
                (block as u32, inside..stop)
            })
        })
    }

    fn count_lookup(&self, is_hit: bool) {
        let MetadataCounters { reads, hits } = self.lookups.get();
        self.lookups.set(MetadataCounters { reads: reads + u64::from(!is_hit), hits: hits + u64::from(is_hit) });
    }

    /// Reads the bitmap of a present block unless it is known.
    pub(crate) async fn know(&self, block: u32, offset: u64) -> Result<()> {
        let is_known = self.bitmaps.borrow().is_known(block);
        self.count_lookup(is_known);
        if is_known {
            return Ok(());
        }
        let bits = read_vec(&*self.file, offset, self.bitmap_size as usize).await?;
        // The block may have moved meanwhile only under the structure lock, when no request runs.
        self.bitmaps.borrow_mut().learn(block, bits);
        Ok(())
    }

    pub(crate) async fn resolve(&self, range: Range<u64>) -> Result<Vec<Extent>> {
        let mut extents: Vec<Extent> = Vec::with_capacity(1);
        for (block, inside) in self.pieces(&range) {
            let Some(offset) = self.block_offset(block) else {
                push(&mut extents, inside.end - inside.start, Place::Absent);
                continue;
            };
            let data = offset + self.bitmap_size + inside.start;
            if self.bitmaps.borrow_mut().has(block, sectors(&inside)) {
                self.count_lookup(true);
                push(&mut extents, inside.end - inside.start, Place::File(data));
                continue;
            }
            self.know(block, offset).await?;
            let mut at = data;
            for (count, set) in self.bitmaps.borrow_mut().runs(block, sectors(&inside)) {
                let len = u64::from(count) * SECTOR;
                push(&mut extents, len, if set { Place::File(at) } else { Place::Absent });
                at += len;
            }
        }
        Ok(extents)
    }

    pub(crate) async fn plan_write(self: &Rc<Self>, range: Range<u64>) -> Result<WritePlan> {
        let mut extents: Vec<FileExtent> = Vec::with_capacity(1);
        // Abandons what it has when an error or a dropped future ends this early.
        let mut write = SparseWrite { sparse: Rc::clone(self), parts: Vec::new() };
        let mut settled = true;
        for (block, inside) in self.pieces(&range) {
            let (offset, complete) = self.room_for(block, &inside, &mut write).await?;
            settled &= complete && !self.bitmaps.borrow().is_unsettled(block);
            let (offset, len) = (offset + self.bitmap_size + inside.start, inside.end - inside.start);
            match extents.last_mut() {
                Some(last) if last.offset + last.len == offset => last.len += len,
                _ => extents.push(FileExtent { len, offset }),
            }
        }
        let guard: Option<Box<dyn WriteGuard>> = if write.parts.is_empty() { None } else { Some(Box::new(write)) };
        Ok(WritePlan { extents, guard, stable_in_place: settled })
    }

    /// The bitmap offset of the block, and whether the sectors are already readable there.
    async fn room_for(&self, block: u32, inside: &Range<u64>, write: &mut SparseWrite) -> Result<(u64, bool)> {
        loop {
            if let Some(offset) = self.block_offset(block) {
                if self.bitmaps.borrow().is_full(block) {
                    self.count_lookup(true);
                    return Ok((offset, true));
                }
                self.know(block, offset).await?;
                let has = self.bitmaps.borrow_mut().has(block, sectors(inside));
                if !has {
                    write.parts.push((block, sectors(inside)));
                }
                return Ok((offset, has));
            }
            if let Some(pending) = self.pending.borrow_mut().get_mut(&block) {
                pending.writers += 1;
                write.parts.push((block, sectors(inside)));
                return Ok((pending.offset, false));
            }
            let offset = self.take_space().await?;
            if self.block_offset(block).is_none() && !self.pending.borrow().contains_key(&block) {
                self.pending.borrow_mut().insert(block, Pending { offset, writers: 0 });
            } else {
                // Somebody else was faster while the file grew.
                self.space.borrow_mut().spare.push(offset);
            }
        }
    }

    /// The payload of these sectors is in the file.
    async fn commit(&self, block: u32, sectors: Range<u32>) -> Result<()> {
        let pending = self.pending.borrow_mut().remove(&block);
        if let Some(pending) = pending {
            self.table.borrow_mut().set(block, (pending.offset / SECTOR) as u32);
            self.bitmaps.borrow_mut().create(block, !self.differencing);
        } else if let Some(offset) = self.block_offset(block) {
            self.know(block, offset).await?;
        }
        self.bitmaps.borrow_mut().set(block, sectors);
        // A guest that never flushes must not fill our memory with bitmaps.
        if self.bitmaps.borrow().dirty_blocks() > MAX_DIRTY {
            self.flush().await?;
        }
        Ok(())
    }

    pub(crate) async fn zero(self: &Rc<Self>, range: Range<u64>, mode: ZeroMode) -> Result<()> {
        if self.differencing && mode != ZeroMode::Discard {
            return self.hide_parent(range, mode).await;
        }
        // Absent sectors read as zeros already, or a discard leaves them to the parent.
        for extent in self.resolve(range).await? {
            if let Place::File(offset) = extent.place {
                clear(&*self.file, offset..offset + extent.len, mode).await?;
            }
        }
        Ok(())
    }

    /// Zeros that cover the parent: room for all sectors, cleared, then their bits.
    async fn hide_parent(self: &Rc<Self>, range: Range<u64>, mode: ZeroMode) -> Result<()> {
        for (block, inside) in self.pieces(&range) {
            let start = u64::from(block) * self.block_size;
            let plan = self.plan_write(start + inside.start..start + inside.end).await?;
            for extent in &plan.extents {
                clear(&*self.file, extent.offset..extent.offset + extent.len, mode).await?;
            }
            if let Some(guard) = plan.guard {
                guard.commit().await?;
            }
        }
        Ok(())
    }
}

async fn clear(file: &dyn File, range: Range<u64>, mode: ZeroMode) -> Result<()> {
    match mode {
        ZeroMode::KeepSpace => file.zero_range(range).await,
        ZeroMode::MayFree | ZeroMode::Discard => file.punch(range).await,
    }
}

/// Adds a run, joining it to the last one where they touch.
fn push(extents: &mut Vec<Extent>, len: u64, place: Place) {
    if let Some(last) = extents.last_mut() {
        let touches = match (last.place, place) {
            (Place::File(a), Place::File(b)) => a + last.len == b,
            (a, b) => a == b,
        };
        if touches {
            last.len += len;
            return;
        }
    }
    extents.push(Extent { len, place });
}

impl WriteGuard for SparseWrite {
    fn commit(mut self: Box<Self>) -> LocalFuture<'static, Result<()>> {
        let (sparse, parts) = (Rc::clone(&self.sparse), std::mem::take(&mut self.parts));
        Box::pin(async move {
            for (block, sectors) in parts {
                sparse.commit(block, sectors).await?;
            }
            Ok(())
        })
    }
}

impl Drop for SparseWrite {
    fn drop(&mut self) {
        let mut pending = self.sparse.pending.borrow_mut();
        for (block, _) in &self.parts {
            let Some(entry) = pending.get_mut(block) else { continue };
            entry.writers -= 1;
            if entry.writers == 0
                && let Some(entry) = pending.remove(block)
            {
                self.sparse.space.borrow_mut().abandoned.push(entry.offset);
            }
        }
    }
}
