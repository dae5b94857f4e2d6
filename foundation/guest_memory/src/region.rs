//! One region of RAM, and the lookup from a guest-physical address to its region.

use bulkhead_linux::Mapping;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

/// Where the bytes of a region live.
#[derive(Debug, Clone)]
pub enum Backing {
    /// A memfd, mapped shared: every mapping of it, in any process, is the same RAM.
    Shared(Arc<OwnedFd>),
    /// A file of saved RAM, mapped private: pages are read when first touched, writes stay in this process.
    CopyOnWrite(Arc<OwnedFd>),
}

/// A page-aligned run of RAM, mapped for as long as its [`GuestMemory`](crate::GuestMemory) lives.
pub struct Region {
    pub(crate) gpa: u64,
    pub(crate) len: u64,
    pub(crate) backing: Backing,
    pub(crate) file_offset: u64,
    pub(crate) mapping: Mapping,
}

impl Region {
    /// First guest-physical address.
    pub fn gpa(&self) -> u64 {
        self.gpa
    }

    /// Length in bytes, a multiple of 4096.
    #[allow(clippy::len_without_is_empty, reason = "no region is empty")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Guest-physical address just after the region.
    pub fn end(&self) -> u64 {
        self.gpa + self.len
    }

    /// Where the region is mapped in this process. The contract of
    /// [`GuestMemory::host_pointer`](crate::GuestMemory::host_pointer) holds.
    pub fn host(&self) -> NonNull<u8> {
        self.mapping.pointer()
    }

    /// What is behind the mapping.
    pub fn backing(&self) -> &Backing {
        &self.backing
    }

    /// The memfd to map elsewhere or to pass on; `None` for copy-on-write regions, whose content is in no file.
    pub fn memfd(&self) -> Option<BorrowedFd<'_>> {
        match &self.backing {
            Backing::Shared(fd) => Some(fd.as_fd()),
            Backing::CopyOnWrite(_) => None,
        }
    }

    /// Byte offset of the region in its memfd or file.
    pub fn file_offset(&self) -> u64 {
        self.file_offset
    }
}

/// Start and length of each region, in order: the pure part of the lookup.
pub(crate) struct Layout {
    spans: Box<[(u64, u64)]>,
    largest: usize,
}

impl Layout {
    /// `spans` is ascending and does not overlap.
    pub(crate) fn new(spans: Box<[(u64, u64)]>) -> Self {
        let largest = (0..spans.len()).max_by_key(|&index| spans[index].1).unwrap_or(0);
        Self { spans, largest }
    }

    /// The region that holds `gpa`, and the offset in it. The largest region is tried first: most accesses hit it.
    #[inline]
    pub(crate) fn find(&self, gpa: u64) -> Option<(usize, u64)> {
        if let Some(&(start, len)) = self.spans.get(self.largest)
            && gpa.wrapping_sub(start) < len
        {
            return Some((self.largest, gpa - start));
        }
        let index = self.spans.partition_point(|&(start, _)| start <= gpa).checked_sub(1)?;
        let (start, len) = self.spans[index];
        (gpa - start < len).then_some((index, gpa - start))
    }

    /// Whether all of `gpa..gpa + len` is RAM, going through adjacent regions. An empty range always is.
    pub(crate) fn contains(&self, mut gpa: u64, mut len: u64) -> bool {
        while len > 0 {
            let Some((index, offset)) = self.find(gpa) else { return false };
            let here = (self.spans[index].1 - offset).min(len);
            len -= here;
            gpa += here;
        }
        true
    }

    /// Guest-physical address after the last byte of RAM.
    pub(crate) fn end(&self) -> u64 {
        self.spans.last().map_or(0, |&(start, len)| start + len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        Layout::new(Box::new([(0, 0xa0), (0x100, 0x1000), (0x1100, 0x20), (0x4000, 0x10)]))
    }

    #[test]
    fn every_address_is_found_in_its_region_or_in_none() {
        let spans = [(0u64, 0xa0u64), (0x100, 0x1000), (0x1100, 0x20), (0x4000, 0x10)];
        let layout = layout();
        for gpa in (0..0x4100).step_by(if cfg!(miri) { 16 } else { 1 }) {
            let expected = spans
                .iter()
                .position(|&(start, len)| (start..start + len).contains(&gpa))
                .map(|index| (index, gpa - spans[index].0));
            assert_eq!(layout.find(gpa), expected, "{gpa:#x}");
        }
        assert_eq!(layout.find(u64::MAX), None);
        assert_eq!(Layout::new(Box::new([])).find(0), None);
        assert_eq!(layout.end(), 0x4010);
    }

    #[test]
    fn ranges_go_through_neighbours_and_stop_at_holes() {
        let layout = layout();
        assert!(layout.contains(0x100, 0x1020));
        assert!(!layout.contains(0x100, 0x1021));
        assert!(!layout.contains(0x9f, 2));
        assert!(!layout.contains(0x400f, u64::MAX));
        assert!(layout.contains(0x3000, 0));
    }
}
