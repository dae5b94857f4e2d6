//! A mapping of a file into this process that lives as long as its owner.

use crate::MemoryError;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

/// Readable and writable memory at a fixed place, unmapped on drop.
pub(crate) struct Mapping {
    pointer: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread; all access to its bytes is volatile, atomic or by
// assembly (`raw.rs`), so that sharing it between threads is sound.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes at `offset` of a file, both multiples of the page size, `shared` or copy-on-write.
    pub(crate) fn new(file: BorrowedFd<'_>, offset: u64, len: usize, shared: bool) -> Result<Self, MemoryError> {
        // No reservation: guests are commonly promised more than they touch.
        let kind = if shared { MapFlags::SHARED } else { MapFlags::PRIVATE };
        let flags = kind | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address that the kernel chooses takes nothing from anybody.
        let pointer =
            unsafe { mmap(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags, file, offset) }
                .map_err(MemoryError::system("map RAM"))?;
        // A core dump of the worker must not hold the guest's memory. Advice only: a refusal changes nothing else.
        // SAFETY: advice about our own new mapping, which does not change its content.
        let _ = unsafe { madvise(pointer, len, Advice::LinuxDontDump) };
        let pointer = NonNull::new(pointer.cast()).expect("the kernel maps nothing at address 0");
        Ok(Self { pointer, len })
    }

    pub(crate) fn pointer(&self) -> NonNull<u8> {
        self.pointer
    }

    /// Replaces a page-aligned part by fresh zero pages, which frees what was there.
    pub(crate) fn replace_by_zeros(&self, offset: usize, len: usize) -> Result<(), MemoryError> {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.len), "part lies inside the mapping");
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
        // SAFETY: the part lies inside this mapping (asserted), whose bytes nobody holds references to; the kernel
        // exchanges the pages in one step, so that a concurrent access sees old bytes or zeros.
        unsafe {
            let at = self.pointer.as_ptr().add(offset).cast();
            mmap_anonymous(at, len, ProtFlags::READ | ProtFlags::WRITE, flags)
                .map_err(MemoryError::system("replace RAM by zero pages"))?;
            let _ = madvise(at, len, Advice::LinuxDontDump);
        }
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: pointer and length are those of our own mapping; every user holds the `Arc` that this drop ends.
        let _ = unsafe { munmap(self.pointer.as_ptr().cast(), self.len) };
    }
}
