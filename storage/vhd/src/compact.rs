//! Makes a dynamic disk's file as small as its data: drops blocks of zeros, moves the last blocks into the holes.

use crate::allocate::DATA_ALIGN;
use crate::image::{Body, VhdImage};
use crate::read_metadata::ABSENT;
use crate::sparse::Sparse;
use bulkhead_disk::{DiskError, ErrorKind, File, Layer, Result, SECTOR, read_vec, write_vec};
use serde::Serialize;

/// Unit of copying and of looking for zeros.
const CHUNK: u64 = 1 << 20;

/// What [`VhdImage::compact`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CompactReport {
    /// Blocks that left the file.
    pub dropped_blocks: u64,
    /// Blocks that moved.
    pub moved_blocks: u64,
    /// File length before.
    pub bytes_before: u64,
    /// File length after.
    pub bytes_after: u64,
}

impl VhdImage {
    /// Compacts in place; no request may run meanwhile. `is_free(block)` names blocks whose data nobody needs (free space of a
    /// file system); `find_zeros` also drops blocks that hold only zeros. `progress(done, total)` returns false to stop
    /// early: the disk is then valid, only less compact.
    ///
    /// # Errors
    /// `WrongState` (saved state, differencing, fixed), those of the file. After any error the disk is valid.
    pub async fn compact(
        &self,
        find_zeros: bool,
        is_free: &dyn Fn(u32) -> bool,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<CompactReport> {
        self.check_editable("compact the VHD")?;
        let refuse = |reason: &'static str| {
            Err(DiskError::new(ErrorKind::WrongState, "compact the VHD", reason).with_path(self.file.path()))
        };
        match &self.body {
            Body::Fixed(_) => refuse("a fixed disk keeps its size"),
            Body::Sparse(sparse) if sparse.differencing => refuse("a differencing disk shrinks by merging"),
            Body::Sparse(sparse) => {
                let before = self.file.len();
                let mut report = CompactReport { bytes_before: before, ..CompactReport::default() };
                self.flush().await?;
                sparse.drop_blocks(find_zeros, is_free, progress, &mut report).await?;
                sparse.fill_holes(&mut report).await?;
                self.close().await?;
                report.bytes_after = self.file.len();
                Ok(report)
            }
        }
    }
}

impl Sparse {
    async fn drop_blocks(
        &self,
        find_zeros: bool,
        is_free: &dyn Fn(u32) -> bool,
        progress: &mut dyn FnMut(u64, u64) -> bool,
        report: &mut CompactReport,
    ) -> Result<()> {
        let blocks = self.table.borrow().entries.len() as u32;
        for block in 0..blocks {
            let Some(offset) = self.block_offset(block) else { continue };
            if is_free(block) || find_zeros && self.is_zero(offset).await? {
                self.table.borrow_mut().set(block, ABSENT);
                self.bitmaps.borrow_mut().forget(block);
                report.dropped_blocks += 1;
            }
            if !progress(u64::from(block) + 1, blocks.into()) {
                break;
            }
        }
        // Freed space may be reused only after the table says so durably.
        self.flush().await
    }

    /// True when the block's data is all zeros (sectors without a bit read as zeros too, whatever is there).
    async fn is_zero(&self, offset: u64) -> Result<bool> {
        let bits = read_vec(&*self.file, offset, self.bitmap_size as usize).await?;
        let mut at = 0;
        while at < self.block_size {
            let len = (self.block_size - at).min(CHUNK);
            let data = read_vec(&*self.file, offset + self.bitmap_size + at, len as usize).await?;
            let counts = |sector: u64| bits[(sector / 8) as usize] & 0x80 >> (sector % 8) != 0;
            let first = at / SECTOR;
            let mut sectors = data.chunks(SECTOR as usize).zip(first..);
            if sectors.any(|(bytes, sector)| bytes.iter().any(|byte| *byte != 0) && counts(sector)) {
                return Ok(false);
            }
            at += len;
        }
        Ok(true)
    }

    /// Moves blocks from the end into holes: all copies, a flush, all table entries, a flush.
    async fn fill_holes(&self, report: &mut CompactReport) -> Result<()> {
        let _guard = self.structure.lock().await;
        self.secure_copy().await?;
        loop {
            let moves = self.plan_moves();
            if moves.is_empty() {
                break;
            }
            for (_, from, to) in &moves {
                copy(&*self.file, *from, *to, self.bitmap_size + self.block_size).await?;
            }
            self.file.flush().await?;
            for (block, _, to) in &moves {
                self.table.borrow_mut().set(*block, (*to / SECTOR) as u32);
            }
            report.moved_blocks += moves.len() as u64;
            // Holes that these moves leave are used by the next round, after this flush.
            self.flush().await?;
        }
        let end = self.blocks_by_place().last().map(|(offset, _)| offset + self.bitmap_size + self.block_size);
        let end = end.unwrap_or(0).max(self.end_of_structures());
        let mut space = self.space.borrow_mut();
        space.tail_is_open = space.tail_is_open || end < space.limit;
        (space.next, space.clean) = (end, false);
        space.abandoned.clear();
        space.spare.clear();
        Ok(())
    }

    fn blocks_by_place(&self) -> Vec<(u64, u32)> {
        let table = self.table.borrow();
        let present = table.entries.iter().zip(0..).filter(|(sector, _)| **sector != ABSENT);
        let mut blocks: Vec<(u64, u32)> = present.map(|(sector, block)| (u64::from(*sector) * SECTOR, block)).collect();
        blocks.sort_unstable();
        blocks
    }

    /// The end of header, table and locators.
    fn end_of_structures(&self) -> u64 {
        let header = self.header.borrow();
        let table = header.table_offset() + (self.table.borrow().entries.len() as u64 * 4).next_multiple_of(SECTOR);
        let own = self.header_offset.get() + crate::header::HEADER;
        let texts = header.locators().into_iter().map(|locator| locator.offset + u64::from(locator.length));
        texts.fold(table.max(own), u64::max).next_multiple_of(DATA_ALIGN)
    }

    /// (block, from, to): the last blocks into the first holes.
    fn plan_moves(&self) -> Vec<(u32, u64, u64)> {
        let blocks = self.blocks_by_place();
        let len = self.bitmap_size + self.block_size;
        let mut busy: Vec<(u64, u64)> = blocks.iter().map(|(offset, _)| (*offset, offset + len)).collect();
        let header = self.header.borrow();
        let table = header.table_offset();
        busy.push((0, crate::footer::FOOTER));
        busy.push((self.header_offset.get(), self.header_offset.get() + crate::header::HEADER));
        busy.push((table, table + (self.table.borrow().entries.len() as u64 * 4).next_multiple_of(SECTOR)));
        busy.extend(
            header.locators().into_iter().map(|locator| (locator.offset, locator.offset + u64::from(locator.length))),
        );
        busy.sort_unstable();
        let mut holes = Vec::new();
        let mut end = 0;
        for (start, stop) in busy {
            let mut place = self.place_after(end);
            while place + len <= start {
                holes.push(place);
                place = self.place_after(place + len);
            }
            end = end.max(stop);
        }
        let from_end = blocks.iter().rev();
        holes
            .into_iter()
            .zip(from_end)
            .take_while(|(to, (from, _))| to < from)
            .map(|(to, (from, block))| (*block, *from, to))
            .collect()
    }
}

async fn copy(file: &dyn File, from: u64, to: u64, len: u64) -> Result<()> {
    let mut done = 0;
    while done < len {
        let step = (len - done).min(CHUNK);
        let data = read_vec(file, from + done, step as usize).await?;
        write_vec(file, to + done, &data).await?;
        done += step;
    }
    Ok(())
}
