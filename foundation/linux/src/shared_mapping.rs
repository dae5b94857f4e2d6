//! [`SharedMapping`]: a whole memfd, mapped to share rings with another process.

use crate::{Mapping, is_sealed_against_shrinking, volatile};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// An offset or length that came from the other process, and that is not in the mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("shared memory at {offset:#x}, {len:#x} bytes: not in the {size:#x} bytes that are mapped")]
pub struct OutOfMapping {
    /// First byte asked for.
    pub offset: u64,
    /// Bytes asked for.
    pub len: u64,
    /// Bytes there are.
    pub size: u64,
}

/// A sealed memfd and its mapping. The other side is not trusted: whatever is read here may differ the next time, so
/// copy first, then check the copy.
#[derive(Debug)]
pub struct SharedMapping {
    memfd: OwnedFd,
    mapping: Mapping,
}

impl SharedMapping {
    /// Maps all of a memfd.
    ///
    /// # Errors
    /// `InvalidInput` if it is empty or not sealed against shrinking (then whoever made it could kill us);
    /// refusals of the kernel.
    pub fn new(memfd: OwnedFd) -> io::Result<Self> {
        if !is_sealed_against_shrinking(&memfd) {
            let reason = "shared memory: the descriptor is not a memfd sealed against shrinking";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        let len = usize::try_from(rustix::fs::fstat(&memfd)?.st_size).unwrap_or(0);
        let mapping = Mapping::shared(&memfd, 0, len)?;
        Ok(Self { memfd, mapping })
    }

    /// Bytes mapped.
    #[allow(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> u64 {
        self.mapping.len() as u64
    }

    /// Where `len` bytes at `offset` are. The contract of [`Mapping`] holds.
    ///
    /// # Errors
    /// They are not all in the mapping.
    #[inline]
    pub fn pointer(&self, offset: u64, len: u64) -> Result<NonNull<u8>, OutOfMapping> {
        if offset.checked_add(len).is_none_or(|end| end > self.len()) {
            return Err(OutOfMapping { offset, len, size: self.len() });
        }
        // SAFETY: `offset` is at most the length of the mapping.
        Ok(unsafe { self.mapping.pointer().add(offset as usize) })
    }

    /// Copies out of the mapping.
    ///
    /// # Errors
    /// Not all in the mapping; nothing was copied.
    #[inline]
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), OutOfMapping> {
        let from = self.pointer(offset, buffer.len() as u64)?;
        // SAFETY: both sides have `buffer.len()` bytes; the buffer is our own, elsewhere.
        unsafe { volatile::copy(buffer.as_mut_ptr(), from.as_ptr(), buffer.len()) };
        Ok(())
    }

    /// Copies into the mapping.
    ///
    /// # Errors
    /// Not all in the mapping; nothing was copied.
    #[inline]
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), OutOfMapping> {
        let to = self.pointer(offset, bytes.len() as u64)?;
        // SAFETY: both sides have `bytes.len()` bytes; the bytes are our own, elsewhere.
        unsafe { volatile::copy(to.as_ptr(), bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    /// Copies `len` bytes straight into another mapping.
    ///
    /// # Errors
    /// Not all in the mappings; nothing was copied.
    #[inline]
    pub fn copy_to(&self, offset: u64, target: &SharedMapping, at: u64, len: usize) -> Result<(), OutOfMapping> {
        let from = self.pointer(offset, len as u64)?;
        let to = target.pointer(at, len as u64)?;
        // SAFETY: both sides have `len` bytes; if they are the same bytes, others may change them meanwhile anyway.
        unsafe { volatile::copy(to.as_ptr(), from.as_ptr(), len) };
        Ok(())
    }

    /// The integer at `offset`, a multiple of 4, as an atomic: ring indexes and flags.
    ///
    /// # Errors
    /// Not in the mapping, or misaligned.
    #[inline]
    pub fn atomic_u32(&self, offset: u64) -> Result<&AtomicU32, OutOfMapping> {
        let at = self.aligned(offset, 4)?;
        // SAFETY: mapped while `self` lives, and aligned; an atomic may be changed by others.
        Ok(unsafe { AtomicU32::from_ptr(at.as_ptr().cast()) })
    }

    /// The integer at `offset`, a multiple of 8, as an atomic.
    ///
    /// # Errors
    /// Not in the mapping, or misaligned.
    #[inline]
    pub fn atomic_u64(&self, offset: u64) -> Result<&AtomicU64, OutOfMapping> {
        let at = self.aligned(offset, 8)?;
        // SAFETY: mapped while `self` lives, and aligned; an atomic may be changed by others.
        Ok(unsafe { AtomicU64::from_ptr(at.as_ptr().cast()) })
    }

    fn aligned(&self, offset: u64, len: u64) -> Result<NonNull<u8>, OutOfMapping> {
        if !offset.is_multiple_of(len) {
            return Err(OutOfMapping { offset, len, size: self.len() });
        }
        self.pointer(offset, len)
    }
}

/// The memfd, to pass to the other process.
impl AsFd for SharedMapping {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memfd.as_fd()
    }
}
