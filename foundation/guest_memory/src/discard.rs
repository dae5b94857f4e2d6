//! Giving pages back to the host: what a balloon does.

use crate::memory::GuestMemory;
use crate::region::{Backing, Region};
use crate::{AccessError, MemoryError, PAGE_SIZE};
use rustix::fs::FallocateFlags;

impl GuestMemory {
    /// Frees the host memory behind a page-aligned range; it reads as zeros afterwards and may be written again at
    /// any time. Counts as a write to those pages.
    ///
    /// # Errors
    /// Misaligned, not RAM, or the host refuses (then part of the range may have been freed).
    pub fn discard(&self, gpa: u64, len: u64) -> Result<(), MemoryError> {
        if !(gpa | len).is_multiple_of(PAGE_SIZE) {
            return Err(AccessError::Misaligned { gpa, len, align: PAGE_SIZE }.into());
        }
        self.check(gpa, len)?;
        let end = gpa.saturating_add(len);
        for region in self.regions() {
            let (from, to) = (gpa.max(region.gpa), end.min(region.end()));
            if from >= to {
                continue;
            }
            region.discard(from - region.gpa, to - from)?;
            self.mark_written(from, to - from);
        }
        Ok(())
    }
}

impl Region {
    fn discard(&self, offset: u64, len: u64) -> Result<(), MemoryError> {
        match &self.backing {
            Backing::Shared(memfd) => {
                let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(memfd, mode, self.file_offset + offset, len)
                    .map_err(MemoryError::system("free pages of RAM"))
            }
            // Dropping private pages would bring the file's content back, so zero pages take their place.
            Backing::CopyOnWrite(_) => self
                .mapping
                .replace_by_zeros(offset as usize, len as usize)
                .map_err(MemoryError::system("replace pages of RAM by zeros")),
        }
    }
}
