//! [`GuestMemory`]: the regions of one VM, and the way from an address to a pointer.

use crate::bitmap::pages_below;
use crate::region::{Layout, Region};
use crate::{AccessError, DirtyBitmap, GuestMemoryBuilder, PageBitmap, WriteObserver};
use parking_lot::RwLock;
use std::ptr::NonNull;
use std::sync::Arc;

/// The RAM of a VM. Cheap to clone; the mappings live until the last clone (and the last
/// [`ScatterList`](crate::ScatterList)) is gone.
#[derive(Clone)]
pub struct GuestMemory {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) layout: Layout,
    pub(crate) regions: Vec<Region>,
    pub(crate) dirty: DirtyBitmap,
    pub(crate) watched: PageBitmap,
    pub(crate) observer: RwLock<Option<Arc<dyn WriteObserver>>>,
}

impl GuestMemory {
    /// Starts building: add regions, then `build()`.
    pub fn builder() -> GuestMemoryBuilder {
        GuestMemoryBuilder::default()
    }

    pub(crate) fn new(layout: Layout, regions: Vec<Region>) -> Self {
        let pages = pages_below(layout.end());
        let (dirty, watched) = (DirtyBitmap::new(pages), PageBitmap::new(pages));
        Self { inner: Arc::new(Inner { layout, regions, dirty, watched, observer: RwLock::new(None) }) }
    }

    /// The regions, ascending by address.
    pub fn regions(&self) -> &[Region] {
        &self.inner.regions
    }

    /// Bytes of RAM.
    pub fn total_len(&self) -> u64 {
        self.inner.regions.iter().map(Region::len).sum()
    }

    /// Guest-physical address just after the last byte of RAM.
    pub fn end(&self) -> u64 {
        self.inner.layout.end()
    }

    /// The dirty log, shared with the engines.
    pub fn dirty(&self) -> &DirtyBitmap {
        &self.inner.dirty
    }

    /// Succeeds if all of `gpa..gpa + len` is RAM. An empty range always is.
    ///
    /// # Errors
    /// [`AccessError::OutOfRange`].
    pub fn check(&self, gpa: u64, len: u64) -> Result<(), AccessError> {
        if self.inner.layout.contains(gpa, len) { Ok(()) } else { Err(AccessError::OutOfRange { gpa, len }) }
    }

    /// Where `len` bytes at `gpa` are mapped, if they all lie in one region.
    ///
    /// The pointer is good for those bytes while any clone of this memory lives. The guest, the kernel and other
    /// threads change them at any time: access only by volatile or atomic operations or by assembly, never through a
    /// reference to plain data; whoever writes calls [`mark_written`](Self::mark_written) afterwards (an engine may
    /// keep the dirty bits and its own decoded code in order by its own means instead).
    #[inline]
    pub fn host_pointer(&self, gpa: u64, len: u64) -> Option<NonNull<u8>> {
        let (pointer, here) = self.piece(gpa)?;
        (len <= here).then_some(pointer)
    }

    /// The pointer to `gpa` and how many bytes of its region begin there.
    #[inline]
    pub(crate) fn piece(&self, gpa: u64) -> Option<(NonNull<u8>, u64)> {
        let (index, offset) = self.inner.layout.find(gpa)?;
        let region = &self.inner.regions[index];
        // SAFETY: `offset < region.len`, the length of the mapping.
        Some((unsafe { region.host().add(offset as usize) }, region.len - offset))
    }

    /// Calls `each(gpa, pointer, length)` for the host-contiguous pieces of a range, in order; not at all unless the
    /// whole range is RAM.
    #[inline]
    pub(crate) fn for_each_piece(
        &self,
        gpa: u64,
        len: u64,
        mut each: impl FnMut(u64, NonNull<u8>, usize),
    ) -> Result<(), AccessError> {
        if let Some(pointer) = self.host_pointer(gpa, len) {
            each(gpa, pointer, len as usize);
            return Ok(());
        }
        self.check(gpa, len)?;
        let mut done = 0;
        while done < len {
            let (pointer, here) = self.piece(gpa + done).ok_or(AccessError::OutOfRange { gpa, len })?;
            let here = here.min(len - done);
            each(gpa + done, pointer, here as usize);
            done += here;
        }
        Ok(())
    }
}

impl std::fmt::Debug for GuestMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ranges = self.regions().iter().map(|region| format!("{:#x}..{:#x}", region.gpa(), region.end()));
        f.debug_list().entries(ranges).finish()
    }
}
