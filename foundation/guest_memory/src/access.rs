//! Reading and writing guest RAM by value: slices, integers, atomics.
//!
//! Every operation checks the whole range first: on an error nothing was read or written.

use crate::AccessError;
use crate::memory::GuestMemory;
use bulkhead_linux::{SharedMapping, volatile};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// Bytes moved at a time by `copy_within`, through the stack.
const BOUNCE: usize = 4096;

impl GuestMemory {
    /// Reads `buffer.len()` bytes at `gpa`.
    ///
    /// # Errors
    /// [`AccessError::OutOfRange`]; the buffer is then unchanged.
    #[inline]
    pub fn read(&self, gpa: u64, buffer: &mut [u8]) -> Result<(), AccessError> {
        self.for_each_piece(gpa, buffer.len() as u64, |at, pointer, len| {
            let target = &mut buffer[(at - gpa) as usize..][..len];
            // SAFETY: the piece is mapped; `target` is `len` bytes of our own, elsewhere.
            unsafe { volatile::copy(target.as_mut_ptr(), pointer.as_ptr(), len) };
        })
    }

    /// Reads `N` bytes at `gpa`: a descriptor or a packet header.
    ///
    /// # Errors
    /// [`AccessError::OutOfRange`].
    #[inline]
    pub fn read_array<const N: usize>(&self, gpa: u64) -> Result<[u8; N], AccessError> {
        let mut bytes = [0; N];
        self.read(gpa, &mut bytes)?;
        Ok(bytes)
    }

    /// Writes `bytes` at `gpa`.
    ///
    /// # Errors
    /// [`AccessError::OutOfRange`]; memory is then unchanged.
    #[inline]
    pub fn write(&self, gpa: u64, bytes: &[u8]) -> Result<(), AccessError> {
        self.for_each_piece(gpa, bytes.len() as u64, |at, pointer, len| {
            let source = &bytes[(at - gpa) as usize..][..len];
            // SAFETY: the piece is mapped and writable; `source` is `len` bytes of our own, elsewhere.
            unsafe { volatile::copy(pointer.as_ptr(), source.as_ptr(), len) };
        })?;
        self.mark_written(gpa, bytes.len() as u64);
        Ok(())
    }

    /// Sets `len` bytes at `gpa` to `byte`.
    ///
    /// # Errors
    /// [`AccessError::OutOfRange`]; memory is then unchanged.
    pub fn fill(&self, gpa: u64, len: u64, byte: u8) -> Result<(), AccessError> {
        self.for_each_piece(gpa, len, |_, pointer, len| {
            // SAFETY: the piece is mapped and writable.
            unsafe { volatile::fill(pointer.as_ptr(), byte, len) };
        })?;
        self.mark_written(gpa, len);
        Ok(())
    }

    /// Copies `len` bytes from `from` to `to`; the ranges may overlap.
    ///
    /// # Errors
    /// [`AccessError::OutOfRange`] for the range that is not RAM; memory is then unchanged.
    pub fn copy_within(&self, from: u64, to: u64, len: u64) -> Result<(), AccessError> {
        self.check(from, len)?;
        self.check(to, len)?;
        let mut bounce = [0; BOUNCE];
        let mut done = 0;
        while done < len {
            let step = (len - done).min(BOUNCE as u64);
            // Upwards moves go from the end, so that no source byte is overwritten before it was read.
            let at = if to > from { len - done - step } else { done };
            let chunk = &mut bounce[..step as usize];
            self.read(from + at, chunk)?;
            self.write(to + at, chunk)?;
            done += step;
        }
        Ok(())
    }

    /// Copies `len` bytes at `gpa` straight into memory shared with another process (a packet into a ring).
    ///
    /// # Errors
    /// [`AccessError::OutOfRange`], [`AccessError::OutOfMapping`]; nothing was copied.
    pub fn copy_to_mapping(&self, gpa: u64, len: u64, mapping: &SharedMapping, offset: u64) -> Result<(), AccessError> {
        let target = mapping.pointer(offset, len)?;
        self.for_each_piece(gpa, len, |at, pointer, len| {
            // SAFETY: both sides are mapped for `len` bytes, `target` from `at - gpa` on.
            unsafe { volatile::copy(target.add((at - gpa) as usize).as_ptr(), pointer.as_ptr(), len) };
        })
    }

    /// Copies `len` bytes at `offset` of memory shared with another process straight to `gpa`.
    ///
    /// # Errors
    /// [`AccessError::OutOfRange`], [`AccessError::OutOfMapping`]; nothing was copied.
    pub fn copy_from_mapping(
        &self,
        gpa: u64,
        len: u64,
        mapping: &SharedMapping,
        offset: u64,
    ) -> Result<(), AccessError> {
        let source = mapping.pointer(offset, len)?;
        self.for_each_piece(gpa, len, |at, pointer, len| {
            // SAFETY: both sides are mapped (ours writable) for `len` bytes, `source` from `at - gpa` on.
            unsafe { volatile::copy(pointer.as_ptr(), source.add((at - gpa) as usize).as_ptr(), len) };
        })?;
        self.mark_written(gpa, len);
        Ok(())
    }
}

/// `read_*` and `write_*` of one integer type.
macro_rules! integer {
    ($int:ty, $atomic:ty, $read:ident, $write:ident) => {
        impl GuestMemory {
            /// Reads a little-endian integer at any alignment. Naturally aligned: one atomic load that acquires.
            ///
            /// # Errors
            /// [`AccessError::OutOfRange`].
            #[inline]
            pub fn $read(&self, gpa: u64) -> Result<$int, AccessError> {
                const LEN: u64 = size_of::<$int>() as u64;
                if gpa.is_multiple_of(LEN)
                    && let Some(pointer) = self.host_pointer(gpa, LEN)
                {
                    // SAFETY: mapped, and aligned because regions and mappings are page-aligned; lives while `self` does.
                    let cell = unsafe { <$atomic>::from_ptr(pointer.as_ptr().cast()) };
                    return Ok(<$int>::from_le(cell.load(Ordering::Acquire)));
                }
                Ok(<$int>::from_le_bytes(self.read_array(gpa)?))
            }

            /// Writes a little-endian integer at any alignment. Naturally aligned: one atomic store that releases.
            ///
            /// # Errors
            /// [`AccessError::OutOfRange`].
            #[inline]
            pub fn $write(&self, gpa: u64, value: $int) -> Result<(), AccessError> {
                const LEN: u64 = size_of::<$int>() as u64;
                if gpa.is_multiple_of(LEN)
                    && let Some(pointer) = self.host_pointer(gpa, LEN)
                {
                    // SAFETY: mapped, and aligned because regions and mappings are page-aligned; lives while `self` does.
                    let cell = unsafe { <$atomic>::from_ptr(pointer.as_ptr().cast()) };
                    cell.store(value.to_le(), Ordering::Release);
                    self.mark_written(gpa, LEN);
                    return Ok(());
                }
                self.write(gpa, &value.to_le_bytes())
            }
        }
    };
}
integer!(u8, AtomicU8, read_u8, write_u8);
integer!(u16, AtomicU16, read_u16, write_u16);
integer!(u32, AtomicU32, read_u32, write_u32);
integer!(u64, AtomicU64, read_u64, write_u64);

/// Atomic read-modify-write of one integer type.
macro_rules! atomic {
    ($int:ty, $atomic:ty, $cell:ident, $compare_exchange:ident, $fetch_or:ident, $fetch_and:ident) => {
        impl GuestMemory {
            fn $cell(&self, gpa: u64) -> Result<&$atomic, AccessError> {
                const LEN: u64 = size_of::<$int>() as u64;
                if !gpa.is_multiple_of(LEN) {
                    return Err(AccessError::Misaligned { gpa, len: LEN, align: LEN });
                }
                let pointer = self.host_pointer(gpa, LEN).ok_or(AccessError::OutOfRange { gpa, len: LEN })?;
                // SAFETY: mapped and aligned (regions and mappings are page-aligned); lives while `self` does.
                Ok(unsafe { <$atomic>::from_ptr(pointer.as_ptr().cast()) })
            }

            /// Atomically replaces the integer at `gpa` by `new` if it is `current`. `Ok(Ok(current))` if it did,
            /// `Ok(Err(found))` if another value was there.
            ///
            /// # Errors
            /// [`AccessError::Misaligned`], [`AccessError::OutOfRange`].
            pub fn $compare_exchange(
                &self,
                gpa: u64,
                current: $int,
                new: $int,
            ) -> Result<Result<$int, $int>, AccessError> {
                let result =
                    self.$cell(gpa)?.compare_exchange(current.to_le(), new.to_le(), Ordering::SeqCst, Ordering::SeqCst);
                if result.is_ok() {
                    self.mark_written(gpa, size_of::<$int>() as u64);
                }
                Ok(result.map(<$int>::from_le).map_err(<$int>::from_le))
            }

            /// Atomically sets bits; returns the value before.
            ///
            /// # Errors
            /// [`AccessError::Misaligned`], [`AccessError::OutOfRange`].
            pub fn $fetch_or(&self, gpa: u64, bits: $int) -> Result<$int, AccessError> {
                let before = self.$cell(gpa)?.fetch_or(bits.to_le(), Ordering::SeqCst);
                self.mark_written(gpa, size_of::<$int>() as u64);
                Ok(<$int>::from_le(before))
            }

            /// Atomically keeps only `bits`; returns the value before.
            ///
            /// # Errors
            /// [`AccessError::Misaligned`], [`AccessError::OutOfRange`].
            pub fn $fetch_and(&self, gpa: u64, bits: $int) -> Result<$int, AccessError> {
                let before = self.$cell(gpa)?.fetch_and(bits.to_le(), Ordering::SeqCst);
                self.mark_written(gpa, size_of::<$int>() as u64);
                Ok(<$int>::from_le(before))
            }
        }
    };
}
atomic!(u32, AtomicU32, cell_u32, compare_exchange_u32, fetch_or_u32, fetch_and_u32);
atomic!(u64, AtomicU64, cell_u64, compare_exchange_u64, fetch_or_u64, fetch_and_u64);
