//! Scatter-gather: a list of guest ranges as one buffer, for copies and for file I/O straight into guest RAM.

use crate::AccessError;
use crate::memory::GuestMemory;
use bulkhead_linux::{SharedMapping, volatile};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// The most pieces that one `preadv` takes (Linux UIO_MAXIOV).
const MAX_PIECES: usize = 1024;

/// A run of guest-physical addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestRange {
    /// First guest-physical address.
    pub gpa: u64,
    /// Length in bytes.
    pub len: u64,
}

/// Guest ranges, checked and resolved: one logical buffer of [`len`](Self::len) bytes. Holds the memory, so that the
/// I/O vectors stay valid as long as the list lives.
#[derive(Clone)]
pub struct ScatterList {
    memory: GuestMemory,
    iovecs: Vec<libc::iovec>,
    /// The guest address of each I/O vector.
    gpas: Vec<u64>,
    len: u64,
}

// SAFETY: the pointers lead into mappings that `memory` keeps alive and that any thread may use (see `Mapping`).
unsafe impl Send for ScatterList {}
// SAFETY: as above; the list itself does not change.
unsafe impl Sync for ScatterList {}

impl GuestMemory {
    /// Resolves ranges into one buffer, in their order; empty ranges vanish, neighbours merge. The caller bounds how
    /// many ranges a guest may give.
    ///
    /// # Errors
    /// [`AccessError::OutOfRange`] for the first range that is not RAM.
    pub fn scatter_list(&self, ranges: impl IntoIterator<Item = GuestRange>) -> Result<ScatterList, AccessError> {
        let mut list = ScatterList { memory: self.clone(), iovecs: Vec::new(), gpas: Vec::new(), len: 0 };
        for GuestRange { gpa, len } in ranges {
            let total = list.len.checked_add(len).ok_or(AccessError::OutOfRange { gpa, len })?;
            self.for_each_piece(gpa, len, |gpa, pointer, len| list.push(gpa, pointer.as_ptr(), len))?;
            list.len = total;
        }
        Ok(list)
    }
}

impl ScatterList {
    fn push(&mut self, gpa: u64, pointer: *mut u8, len: usize) {
        if len == 0 {
            return;
        }
        if let (Some(iovec), Some(&last_gpa)) = (self.iovecs.last_mut(), self.gpas.last())
            && last_gpa + iovec.iov_len as u64 == gpa
            && iovec.iov_base.wrapping_byte_add(iovec.iov_len) == pointer.cast()
        {
            iovec.iov_len += len;
            return;
        }
        self.iovecs.push(libc::iovec { iov_base: pointer.cast(), iov_len: len });
        self.gpas.push(gpa);
    }

    /// Bytes in all ranges together.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is no byte in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The I/O vectors for `readv`, `writev` or io_uring; valid while this list (or a clone) lives. After the kernel
    /// wrote into them, call [`mark_written`](Self::mark_written).
    pub fn iovecs(&self) -> &[libc::iovec] {
        &self.iovecs
    }

    /// The guest ranges, merged where they touch.
    pub fn ranges(&self) -> impl Iterator<Item = GuestRange> + '_ {
        self.gpas.iter().zip(&self.iovecs).map(|(&gpa, iovec)| GuestRange { gpa, len: iovec.iov_len as u64 })
    }

    /// Bytes `offset..offset + len` of the buffer as a list of its own; `None` if they are not all in it.
    pub fn slice(&self, offset: u64, len: u64) -> Option<ScatterList> {
        let mut part = ScatterList { memory: self.memory.clone(), iovecs: Vec::new(), gpas: Vec::new(), len };
        self.for_each_part(offset, len, |gpa, pointer, len| part.push(gpa, pointer, len))?;
        Some(part)
    }

    /// Copies `buffer.len()` bytes from `offset` of the list; `None`, and nothing copied, if it has fewer.
    pub fn copy_to_slice(&self, offset: u64, buffer: &mut [u8]) -> Option<()> {
        let mut done = 0;
        self.for_each_part(offset, buffer.len() as u64, |_, pointer, len| {
            // SAFETY: the part is mapped; the slice is `len` bytes of our own, elsewhere.
            unsafe { volatile::copy(buffer[done..][..len].as_mut_ptr(), pointer, len) };
            done += len;
        })
    }

    /// Copies `bytes` into the guest from `offset` of the list on; `None`, and nothing copied, if it has no room.
    pub fn copy_from_slice(&self, offset: u64, bytes: &[u8]) -> Option<()> {
        let mut done = 0;
        self.for_each_part(offset, bytes.len() as u64, |gpa, pointer, len| {
            // SAFETY: the part is mapped and writable; the slice is `len` bytes of our own, elsewhere.
            unsafe { volatile::copy(pointer, bytes[done..][..len].as_ptr(), len) };
            self.memory.mark_written(gpa, len as u64);
            done += len;
        })
    }

    /// Copies bytes `offset..offset + len` of the list to `at` in memory shared with another process; `None`, and
    /// nothing copied, if either side is too short.
    pub fn copy_to_mapping(&self, offset: u64, len: u64, mapping: &SharedMapping, at: u64) -> Option<()> {
        let target = mapping.pointer(at, len).ok()?;
        let mut done = 0;
        self.for_each_part(offset, len, |_, pointer, len| {
            // SAFETY: both sides are mapped for `len` bytes, the target from `done` on.
            unsafe { volatile::copy(target.add(done).as_ptr(), pointer, len) };
            done += len;
        })
    }

    /// Copies `len` bytes at `at` of memory shared with another process to `offset` of the list; `None`, and nothing
    /// copied, if either side is too short.
    pub fn copy_from_mapping(&self, offset: u64, len: u64, mapping: &SharedMapping, at: u64) -> Option<()> {
        let source = mapping.pointer(at, len).ok()?;
        let mut done = 0;
        self.for_each_part(offset, len, |gpa, pointer, len| {
            // SAFETY: both sides are mapped (ours writable) for `len` bytes, the source from `done` on.
            unsafe { volatile::copy(pointer, source.add(done).as_ptr(), len) };
            self.memory.mark_written(gpa, len as u64);
            done += len;
        })
    }

    /// Sets `len` bytes from `offset` on to `byte`; `None`, and nothing done, if the list has fewer.
    pub fn fill(&self, offset: u64, len: u64, byte: u8) -> Option<()> {
        self.for_each_part(offset, len, |gpa, pointer, len| {
            // SAFETY: the part is mapped and writable.
            unsafe { volatile::fill(pointer, byte, len) };
            self.memory.mark_written(gpa, len as u64);
        })
    }

    /// Reports that the kernel wrote bytes `offset..offset + len` of the buffer; `None` if they are not all in it.
    pub fn mark_written(&self, offset: u64, len: u64) -> Option<()> {
        self.for_each_part(offset, len, |gpa, _, len| self.memory.mark_written(gpa, len as u64))
    }

    /// Fills the list from a file at `file_offset`. Returns the bytes read: fewer than [`len`](Self::len) at the end
    /// of the file.
    ///
    /// # Errors
    /// What `preadv` says; part of the list may then have been filled.
    pub fn read_file_at(&self, file: impl AsFd, file_offset: u64) -> io::Result<u64> {
        let done = self.transfer(file.as_fd(), file_offset, libc::preadv);
        // On an error too: the kernel may have written some of it.
        self.mark_written(0, *done.as_ref().unwrap_or(&self.len));
        done
    }

    /// Writes the list to a file at `file_offset`. Returns the bytes written: fewer than [`len`](Self::len) only if
    /// the kernel stopped without an error.
    ///
    /// # Errors
    /// What `pwritev` says; part of the list may then have been written.
    pub fn write_file_at(&self, file: impl AsFd, file_offset: u64) -> io::Result<u64> {
        self.transfer(file.as_fd(), file_offset, libc::pwritev)
    }

    fn transfer(&self, file: BorrowedFd<'_>, file_offset: u64, call: VectorCall) -> io::Result<u64> {
        let mut done = 0;
        while done < self.len {
            let rest = if done == 0 { None } else { self.slice(done, self.len - done) };
            let iovecs = &rest.as_ref().unwrap_or(self).iovecs;
            let offset = file_offset.checked_add(done).and_then(|offset| i64::try_from(offset).ok());
            let offset = offset.ok_or(io::ErrorKind::InvalidInput)?;
            let count = iovecs.len().min(MAX_PIECES) as libc::c_int;
            // SAFETY: the vectors point into mappings that this list keeps alive; nobody holds references to them.
            let moved = unsafe { call(file.as_raw_fd(), iovecs.as_ptr(), count, offset) };
            match moved {
                0 => break,
                1.. => done += moved as u64,
                _ => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
        Ok(done)
    }

    /// Calls `each(gpa, pointer, length)` for the pieces of a part of the buffer; `None`, and no call, if the part is
    /// not all in it.
    fn for_each_part(&self, offset: u64, len: u64, mut each: impl FnMut(u64, *mut u8, usize)) -> Option<()> {
        let end = offset.checked_add(len).filter(|&end| end <= self.len)?;
        let mut start = 0;
        for (&gpa, iovec) in self.gpas.iter().zip(&self.iovecs) {
            let stop = start + iovec.iov_len as u64;
            let (from, to) = (offset.max(start), end.min(stop));
            if from < to {
                let skip = from - start;
                each(gpa + skip, iovec.iov_base.wrapping_byte_add(skip as usize).cast(), (to - from) as usize);
            }
            if stop >= end {
                break;
            }
            start = stop;
        }
        Some(())
    }
}

type VectorCall = unsafe extern "C" fn(libc::c_int, *const libc::iovec, libc::c_int, libc::off_t) -> libc::ssize_t;
