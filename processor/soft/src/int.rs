//! The four operand widths.

use std::fmt::Debug;
use std::ops::{BitAnd, BitOr, BitXor, Not};

/// An operand of 1, 2, 4 or 8 bytes. Handlers are generic over it.
pub(crate) trait Int:
    Copy + Eq + Ord + Debug + BitAnd<Output = Self> + BitOr<Output = Self> + BitXor<Output = Self> + Not<Output = Self>
{
    /// Width in bits.
    const BITS: u32;
    /// Width in bytes.
    const SIZE: u64 = Self::BITS as u64 / 8;
    /// log2 of the width in bytes: 0, 1, 2, 3.
    const LOG: u8 = Self::SIZE.trailing_zeros() as u8;
    /// All ones, as a 64-bit value.
    const MASK: u64 = u64::MAX >> (64 - Self::BITS);

    /// The low bits of a 64-bit value.
    fn from_u64(value: u64) -> Self;
    /// Zero-extended.
    fn to_u64(self) -> u64;
    /// Sign-extended.
    fn to_i64(self) -> i64;

    /// A plain load at any alignment.
    ///
    /// # Safety
    /// `SIZE` bytes at `pointer` are mapped and readable.
    unsafe fn load(pointer: *const u8) -> Self;
    /// A plain store at any alignment.
    ///
    /// # Safety
    /// `SIZE` bytes at `pointer` are mapped and writable.
    unsafe fn store(pointer: *mut u8, value: Self);
    /// LOCK CMPXCHG at any alignment: (what was there, whether it was replaced).
    ///
    /// # Safety
    /// `SIZE` bytes at `pointer` are mapped and writable.
    unsafe fn compare_exchange(pointer: *mut u8, current: Self, new: Self) -> (Self, bool);
}

macro_rules! int {
    ($int:ty, $signed:ty, $class:ident, $acc:tt, $v:literal, $size:literal) => {
        impl Int for $int {
            const BITS: u32 = <$int>::BITS;

            #[inline(always)]
            fn from_u64(value: u64) -> Self {
                value as $int
            }
            #[inline(always)]
            fn to_u64(self) -> u64 {
                u64::from(self)
            }
            #[inline(always)]
            fn to_i64(self) -> i64 {
                i64::from(self as $signed)
            }
            #[inline(always)]
            unsafe fn load(pointer: *const u8) -> Self {
                let value;
                // SAFETY: a load of mapped memory, by the caller's promise. Assembly, because others write it meanwhile.
                unsafe {
                    std::arch::asm!(concat!("mov ", $v, ", ", $size, " ptr [{p}]"), v = out($class) value,
                        p = in(reg) pointer, options(nostack, preserves_flags, readonly));
                }
                value
            }
            #[inline(always)]
            unsafe fn store(pointer: *mut u8, value: Self) {
                // SAFETY: a store to mapped writable memory, by the caller's promise.
                unsafe {
                    std::arch::asm!(concat!("mov ", $size, " ptr [{p}], ", $v), v = in($class) value,
                        p = in(reg) pointer, options(nostack, preserves_flags));
                }
            }
            #[inline(always)]
            unsafe fn compare_exchange(pointer: *mut u8, current: Self, new: Self) -> (Self, bool) {
                let found;
                // SAFETY: mapped writable memory, by the caller's promise.
                unsafe {
                    std::arch::asm!(concat!("lock cmpxchg ", $size, " ptr [{p}], ", $v), v = in($class) new,
                        p = in(reg) pointer, inout($acc) current => found, options(nostack));
                }
                (found, found == current)
            }
        }
    };
}
int!(u8, i8, reg_byte, "al", "{v}", "byte");
int!(u16, i16, reg, "ax", "{v:x}", "word");
int!(u32, i32, reg, "eax", "{v:e}", "dword");
int!(u64, i64, reg, "rax", "{v}", "qword");
