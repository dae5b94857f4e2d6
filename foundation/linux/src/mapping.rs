//! [`Mapping`]: a part of a file, mapped into this process for as long as its owner lives.

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use std::io;
use std::os::fd::AsFd;
use std::ptr::NonNull;

/// Readable and writable memory at a fixed place, unmapped on drop. Left out of core dumps: it holds guests' data.
///
/// Its bytes may be changed by others (another process, the guest, the kernel) at any time, so access is only by
/// [`volatile`](crate::volatile) and atomic operations, never through a reference to plain data.
#[derive(Debug)]
pub struct Mapping {
    pointer: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread; all access to its bytes is volatile or atomic (the
// type's contract), so that sharing it between threads is sound.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes at `offset` (both multiples of the page size) of a memfd: what one process writes, all see.
    /// Pages beyond the end of the file kill whoever touches them, so the caller checks length and seals.
    ///
    /// # Errors
    /// The kernel refuses: misaligned, not mappable, out of address space.
    pub fn shared(file: impl AsFd, offset: u64, len: usize) -> io::Result<Self> {
        Self::map(file, offset, len, MapFlags::SHARED)
    }

    /// The same, copy-on-write: pages are read from the file when touched; what is written stays in this process.
    ///
    /// # Errors
    /// As for [`shared`](Self::shared).
    pub fn copy_on_write(file: impl AsFd, offset: u64, len: usize) -> io::Result<Self> {
        Self::map(file, offset, len, MapFlags::PRIVATE)
    }

    fn map(file: impl AsFd, offset: u64, len: usize, kind: MapFlags) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // No reservation: guests are commonly promised more than they touch.
        let flags = kind | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address that the kernel chooses takes nothing from anybody.
        let pointer = unsafe { mmap(std::ptr::null_mut(), len, protection, flags, file, offset) }?;
        let pointer = NonNull::new(pointer.cast()).ok_or(io::ErrorKind::InvalidData)?;
        let mapping = Self { pointer, len };
        mapping.keep_out_of_core_dumps(0, len);
        Ok(mapping)
    }

    /// The first byte. Good for [`len`](Self::len) bytes while the mapping lives, under the type's contract.
    pub fn pointer(&self) -> NonNull<u8> {
        self.pointer
    }

    /// Length in bytes.
    #[allow(clippy::len_without_is_empty, reason = "the kernel maps no empty range")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Replaces a page-aligned part by fresh zero pages that belong to this process alone, which frees what was there.
    ///
    /// # Errors
    /// Not inside the mapping, misaligned, or out of mappings.
    pub fn replace_by_zeros(&self, offset: usize, len: usize) -> io::Result<()> {
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
        // SAFETY: the part lies inside this mapping (checked), whose bytes nobody holds references to. The kernel
        // exchanges the pages under its lock: a concurrent access finds old bytes or zeros.
        unsafe {
            let at = self.pointer.as_ptr().add(offset).cast();
            mmap_anonymous(at, len, ProtFlags::READ | ProtFlags::WRITE, flags)?;
        }
        self.keep_out_of_core_dumps(offset, len);
        Ok(())
    }

    /// Advice only: a refusal changes nothing else, so it is not an error.
    fn keep_out_of_core_dumps(&self, offset: usize, len: usize) {
        // SAFETY: the part lies inside the mapping; the advice does not change its content.
        let _ = unsafe { madvise(self.pointer.as_ptr().add(offset).cast(), len, Advice::LinuxDontDump) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: pointer and length are those of our own mapping, and its last owner is going away.
        let _ = unsafe { munmap(self.pointer.as_ptr().cast(), self.len) };
    }
}
