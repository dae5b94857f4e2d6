//! Building guest memory: new RAM in a sealed memfd, RAM shared by another process, or saved RAM mapped back.

use crate::memory::GuestMemory;
use crate::region::{Backing, Layout, Region};
use crate::{ADDRESS_LIMIT, MemoryError, PAGE_SIZE};
use bulkhead_linux::{Mapping, is_sealed_against_shrinking, sealed_memfd};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

enum Source {
    Anonymous,
    Shared(Arc<OwnedFd>, u64),
    CopyOnWrite(Arc<OwnedFd>, u64),
}

struct Planned {
    gpa: u64,
    len: u64,
    source: Source,
}

/// Collects regions, in any order. RAM that the guest may get later (dynamic memory) is a region from the start: what
/// it has not touched costs nothing.
#[derive(Default)]
pub struct GuestMemoryBuilder {
    planned: Vec<Planned>,
}

impl GuestMemoryBuilder {
    /// `len` bytes of new, zeroed RAM at `gpa`. All such regions of a VM share one memfd, sealed against resizing.
    pub fn anonymous(self, gpa: u64, len: u64) -> Self {
        self.region(gpa, len, Source::Anonymous)
    }

    /// RAM that another process made: `len` bytes at `offset` of its memfd, which must be sealed against shrinking
    /// (else its owner could kill us by cutting it off).
    pub fn shared(self, gpa: u64, len: u64, memfd: Arc<OwnedFd>, offset: u64) -> Self {
        self.region(gpa, len, Source::Shared(memfd, offset))
    }

    /// Saved RAM: `len` bytes at `offset` of `file` (readable), read page by page when touched and never written to;
    /// holes read as zeros. The file must keep its length while the memory lives: cutting it off kills the process.
    pub fn copy_on_write(self, gpa: u64, len: u64, file: Arc<OwnedFd>, offset: u64) -> Self {
        self.region(gpa, len, Source::CopyOnWrite(file, offset))
    }

    fn region(mut self, gpa: u64, len: u64, source: Source) -> Self {
        self.planned.push(Planned { gpa, len, source });
        self
    }

    /// Maps everything.
    ///
    /// # Errors
    /// Regions that are empty, not page-aligned, beyond 2^52 or overlapping; files that are too short or not sealed;
    /// refusals of the host.
    pub fn build(mut self) -> Result<GuestMemory, MemoryError> {
        self.planned.sort_by_key(|region| region.gpa);
        self.check()?;
        let new_len = self.planned.iter().filter(|p| matches!(p.source, Source::Anonymous)).map(|p| p.len).sum();
        let new_memfd = match new_len {
            0 => None,
            len => Some(Arc::new(sealed_memfd("bulkhead-ram", len).map_err(MemoryError::system("create RAM"))?)),
        };
        let mut next_offset = 0;
        let mut regions = Vec::with_capacity(self.planned.len());
        for Planned { gpa, len, source } in self.planned {
            let (backing, file_offset) = match (source, &new_memfd) {
                (Source::Anonymous, Some(memfd)) => {
                    next_offset += len;
                    (Backing::Shared(memfd.clone()), next_offset - len)
                }
                (Source::Anonymous, None) => unreachable!("an anonymous region makes the memfd's length positive"),
                (Source::Shared(memfd, offset), _) => (Backing::Shared(memfd), offset),
                (Source::CopyOnWrite(file, offset), _) => (Backing::CopyOnWrite(file), offset),
            };
            let mapping = map(gpa, len, &backing, file_offset)?;
            regions.push(Region { gpa, len, backing, file_offset, mapping });
        }
        let layout = Layout::new(regions.iter().map(|region| (region.gpa, region.len)).collect());
        Ok(GuestMemory::new(layout, regions))
    }

    fn check(&self) -> Result<(), MemoryError> {
        let mut previous_end = 0;
        for &Planned { gpa, len, ref source } in &self.planned {
            let bad = |reason| Err(MemoryError::BadRegion { gpa, len, reason });
            let offset = match source {
                Source::Anonymous => 0,
                Source::Shared(_, offset) | Source::CopyOnWrite(_, offset) => *offset,
            };
            if len == 0 {
                return bad("is empty; leave it out");
            }
            if !(gpa | len | offset).is_multiple_of(PAGE_SIZE) {
                return bad("address, length and file offset must be multiples of 4096");
            }
            if len > ADDRESS_LIMIT || gpa > ADDRESS_LIMIT - len {
                return bad("ends beyond 2^52, the highest address that a processor has");
            }
            if gpa < previous_end {
                return bad("overlaps the region before it");
            }
            previous_end = gpa + len;
        }
        Ok(())
    }
}

fn map(gpa: u64, len: u64, backing: &Backing, offset: u64) -> Result<Mapping, MemoryError> {
    let (file, shared) = match backing {
        Backing::Shared(file) => (file.as_fd(), true),
        Backing::CopyOnWrite(file) => (file.as_fd(), false),
    };
    let file_len = rustix::fs::fstat(file).map_err(MemoryError::system("read the length of a RAM file"))?.st_size;
    let file_len = u64::try_from(file_len).unwrap_or(0);
    let needed = offset.saturating_add(len);
    if file_len < needed {
        return Err(MemoryError::FileTooShort { gpa, len, file_len, needed });
    }
    if shared && !is_sealed_against_shrinking(file) {
        return Err(MemoryError::BadRegion { gpa, len, reason: "its file is not a memfd sealed against shrinking" });
    }
    let map = if shared { Mapping::shared } else { Mapping::copy_on_write };
    map(file, offset, len as usize).map_err(MemoryError::system("map RAM"))
}
