//! Saving RAM: the pages that are not zero, into a sparse file that can be mapped back copy-on-write.
//!
//! In the file the regions follow each other in order of address, without the gaps between them; zero pages are holes.

use crate::memory::GuestMemory;
use crate::pagemap::candidate_pages;
use crate::{AccessError, GuestRange, MemoryError, PAGE_SIZE};
use bulkhead_linux::volatile;
use rustix::fs::FallocateFlags;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

/// The longest extent reported or written at once, in pages: 4 MiB, so that a cancel is heard soon.
const EXTENT_PAGES: u64 = 1024;

impl GuestMemory {
    /// Calls `visit` for every extent of pages that are not all zero, ascending, each within one region and at most
    /// 4 MiB. Does not allocate holes. Pages that change meanwhile belong to the dirty log.
    ///
    /// # Errors
    /// What `visit` returned (it ends the visit), or a refusal of the host.
    pub fn visit_data<E: From<MemoryError>>(
        &self,
        mut visit: impl FnMut(GuestRange) -> Result<(), E>,
    ) -> Result<(), E> {
        for region in self.regions() {
            for candidate in candidate_pages(region)? {
                let pages = candidate.start + region.gpa / PAGE_SIZE..candidate.end + region.gpa / PAGE_SIZE;
                for (run, zero) in self.runs(pages) {
                    if !zero {
                        visit(GuestRange { gpa: run.start * PAGE_SIZE, len: (run.end - run.start) * PAGE_SIZE })?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The length of the file that [`save`](Self::save) writes.
    pub fn saved_len(&self) -> u64 {
        self.total_len()
    }

    /// Where in the saved file the byte at `gpa` is; `None` if it is not RAM.
    pub fn saved_offset(&self, gpa: u64) -> Option<u64> {
        let (index, offset) = self.inner.layout.find(gpa)?;
        Some(self.regions()[..index].iter().map(|region| region.len).sum::<u64>() + offset)
    }

    /// Writes all of RAM to `file`, replacing what was in it; zero pages become holes. Returns the bytes of data.
    /// While the guest runs: enable the dirty log first, then bring the file up to date with
    /// [`save_range`](Self::save_range). Does not sync.
    ///
    /// # Errors
    /// Refusals of the host; the file is then incomplete.
    pub fn save(&self, file: impl AsFd) -> Result<u64, MemoryError> {
        let file = file.as_fd();
        for len in [0, self.saved_len()] {
            rustix::fs::ftruncate(file, len).map_err(MemoryError::system("set the size of saved RAM"))?;
        }
        let mut saved = 0;
        self.visit_data(|extent| {
            saved += extent.len;
            self.write_extent(file, extent)
        })?;
        Ok(saved)
    }

    /// Writes a page-aligned range to its place in a file that [`save`](Self::save) has written; pages that are zero
    /// by now become holes.
    ///
    /// # Errors
    /// Misaligned, not RAM, or a refusal of the host.
    pub fn save_range(&self, file: impl AsFd, gpa: u64, len: u64) -> Result<(), MemoryError> {
        if !(gpa | len).is_multiple_of(PAGE_SIZE) {
            return Err(AccessError::Misaligned { gpa, len, align: PAGE_SIZE }.into());
        }
        self.check(gpa, len)?;
        let file = file.as_fd();
        for (run, zero) in self.runs(gpa / PAGE_SIZE..(gpa + len) / PAGE_SIZE) {
            let extent = GuestRange { gpa: run.start * PAGE_SIZE, len: (run.end - run.start) * PAGE_SIZE };
            if zero { self.punch(file, extent)? } else { self.write_extent(file, extent)? }
        }
        Ok(())
    }

    /// Splits pages (all RAM) into runs that are zero (`true`) or not, of at most 4 MiB.
    fn runs(&self, pages: Range<u64>) -> impl Iterator<Item = (Range<u64>, bool)> + '_ {
        let mut start = pages.start;
        std::iter::from_fn(move || {
            if start >= pages.end {
                return None;
            }
            let zero = self.page_is_zero(start);
            let limit = pages.end.min(start + EXTENT_PAGES);
            let end = (start + 1..limit).find(|&page| self.page_is_zero(page) != zero).unwrap_or(limit);
            Some((std::mem::replace(&mut start, end)..end, zero))
        })
    }

    fn page_is_zero(&self, page: u64) -> bool {
        let Some(pointer) = self.host_pointer(page * PAGE_SIZE, PAGE_SIZE) else { return true };
        // SAFETY: one mapped page.
        unsafe { volatile::page_is_zero(pointer.as_ptr()) }
    }

    fn write_extent(&self, file: BorrowedFd<'_>, extent: GuestRange) -> Result<(), MemoryError> {
        let offset = self.offset_of(extent)?;
        let written = self.scatter_list([extent])?.write_file_at(file, offset);
        match written.map_err(MemoryError::system("write saved RAM"))? {
            all if all == extent.len => Ok(()),
            _ => Err(MemoryError::System { action: "write saved RAM", source: io::ErrorKind::WriteZero.into() }),
        }
    }

    fn punch(&self, file: BorrowedFd<'_>, extent: GuestRange) -> Result<(), MemoryError> {
        let offset = self.offset_of(extent)?;
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(file, mode, offset, extent.len) {
            // A file system without holes: write the zeros.
            Err(rustix::io::Errno::OPNOTSUPP) => self.write_extent(file, extent),
            result => result.map_err(MemoryError::system("make a hole in saved RAM")),
        }
    }

    fn offset_of(&self, GuestRange { gpa, len }: GuestRange) -> Result<u64, AccessError> {
        self.saved_offset(gpa).ok_or(AccessError::OutOfRange { gpa, len })
    }
}
