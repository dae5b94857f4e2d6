//! Room for new blocks: from the cleared tail of the file, which grows in large steps.

use crate::footer::FOOTER;
use crate::sparse::Sparse;
use bulkhead_disk::{DiskError, ErrorKind, Result, SECTOR, write_vec};

/// Largest step by which a file grows.
const MAX_STEP: u64 = 64 << 20;
/// Data of a block starts at a multiple of this, for hosts with 4 KiB sectors.
pub(crate) const DATA_ALIGN: u64 = 4096;
/// File offsets must fit 32-bit sector numbers; the last number means "absent".
const ADDRESS_LIMIT: u64 = (u32::MAX as u64 - 1) * SECTOR;

impl Sparse {
    /// File bytes of a block with its padding.
    fn stride(&self) -> u64 {
        self.block_size + self.bitmap_size.next_multiple_of(DATA_ALIGN)
    }

    /// Where the bitmap of a block goes that is placed at or after `from`: its data is aligned.
    pub(crate) fn place_after(&self, from: u64) -> u64 {
        (from + self.bitmap_size).next_multiple_of(DATA_ALIGN) - self.bitmap_size
    }

    /// The bitmap offset of a block's room that durably reads as zeros.
    pub(crate) async fn take_space(&self) -> Result<u64> {
        loop {
            if let Some(offset) = self.take_ready() {
                return Ok(offset);
            }
            let _guard = self.structure.lock().await;
            // Another task may have made room while this one waited.
            if let Some(offset) = self.take_ready() {
                return Ok(offset);
            }
            let abandoned = self.space.borrow_mut().abandoned.pop();
            match abandoned {
                Some(offset) => self.reclaim(offset).await?,
                None => self.grow().await?,
            }
        }
    }

    fn take_ready(&self) -> Option<u64> {
        let mut space = self.space.borrow_mut();
        if let Some(offset) = space.spare.pop() {
            return Some(offset);
        }
        let offset = self.place_after(space.next);
        let end = offset + self.bitmap_size + self.block_size;
        if !space.clean || end > space.limit {
            return None;
        }
        space.next = end;
        space.tail_is_open = true;
        Some(offset)
    }

    /// Clears the room of an abandoned write.
    async fn reclaim(&self, offset: u64) -> Result<()> {
        let cleared = async {
            self.file.zero_range(offset..offset + self.bitmap_size + self.block_size).await?;
            self.file.flush().await
        };
        let result = cleared.await;
        let mut space = self.space.borrow_mut();
        match result {
            Ok(()) => space.spare.push(offset),
            Err(_) => space.abandoned.push(offset),
        }
        result
    }

    /// Moves the footer away, so that cleared room for some blocks is before it. Held: the structure lock.
    async fn grow(&self) -> Result<()> {
        self.secure_copy().await?;
        let (next, old_limit, clean) = {
            let space = self.space.borrow();
            (space.next, space.limit, space.clean)
        };
        let first = self.place_after(next);
        let smallest = first + self.bitmap_size + self.block_size;
        if smallest + FOOTER > ADDRESS_LIMIT {
            let reason = "the file has reached 2 TiB, the most that a VHD can address";
            return Err(DiskError::new(ErrorKind::NoSpace, "grow the VHD", reason)
                .with_path(self.file.path())
                .advise("convert it to VHDX"));
        }
        let step = (next / 2).clamp(self.stride(), MAX_STEP.max(self.stride()));
        let wanted = (first + step / self.stride() * self.stride()).min(ADDRESS_LIMIT - FOOTER).max(smallest);
        if !clean && self.file.len() > next {
            // Behind the last block there may be the rest of writes that never got a table entry.
            self.file.set_len(next).await?;
            self.space.borrow_mut().tail_is_open = true;
        }
        let limit = match self.extend(next, wanted).await {
            Err(error) if error.kind() == ErrorKind::NoSpace && wanted > smallest => {
                self.extend(next, smallest).await?
            }
            other => other?,
        };
        if clean && old_limit < limit {
            self.file.zero_range(old_limit..old_limit + FOOTER).await?;
        }
        // One flush for all: if the old footer is gone and the new one not there, the copy at 0 counts.
        self.file.flush().await?;
        let mut space = self.space.borrow_mut();
        space.limit = limit;
        space.clean = true;
        Ok(())
    }

    /// Reserves up to `limit` and writes the footer there.
    async fn extend(&self, next: u64, limit: u64) -> Result<u64> {
        self.space.borrow_mut().tail_is_open = true;
        let from = self.file.len().max(next);
        let reserved = self.file.allocate(from..limit + FOOTER).await;
        let written = match reserved {
            Ok(()) => {
                let footer = self.footer.borrow().encode();
                write_vec(&*self.file, limit, &footer).await
            }
            Err(error) => Err(error),
        };
        if written.is_err() {
            // Best effort: an unfinished tail is legal, only ugly.
            let _ = self.file.set_len(from).await;
        }
        written.map(|()| limit)
    }

    /// Makes sure that the copy at 0 is valid, because the end footer is about to move.
    pub(crate) async fn secure_copy(&self) -> Result<()> {
        if !self.space.borrow().copy_is_bad {
            return Ok(());
        }
        let footer = self.footer.borrow().encode();
        write_vec(&*self.file, 0, &footer).await?;
        self.file.flush().await?;
        self.space.borrow_mut().copy_is_bad = false;
        Ok(())
    }
}
