//! Copies, fills and scans of memory that others change meanwhile: guest RAM, rings shared with another process.
//!
//! A race gives a mix of old and new bytes, never undefined behaviour. Inline assembly, because Rust has no byte-wise atomic copy: `ptr::copy` on memory that others write is undefined
//! behaviour, and volatile loops are several times slower. Under miri, and on other processors, volatile byte loops.
//!
//! Safety contract of every function here: `len` bytes at each pointer are mapped (readable, writable where written)
//! for the whole call. Other writers are allowed. Source and destination may be any alignment.

/// From this length on `rep movsb`/`rep stosb` beats a loop of 64-byte moves.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const STRING_INSTRUCTION_FROM: usize = 2048;

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod machine {
    use std::arch::asm;

    macro_rules! load_store {
        ($load:ident, $store:ident, $int:ty, $class:ident, $load_text:literal, $store_text:literal) => {
            /// # Safety
            /// The module's contract, for the size of the integer.
            #[inline(always)]
            pub(super) unsafe fn $load(from: *const u8) -> $int {
                let value;
                // SAFETY: a load of mapped memory, by the caller's promise; no other effect.
                unsafe { asm!($load_text, v = out($class) value, p = in(reg) from, options(nostack, preserves_flags, readonly)) };
                value
            }
            /// # Safety
            /// The module's contract, for the size of the integer.
            #[inline(always)]
            pub(super) unsafe fn $store(to: *mut u8, value: $int) {
                // SAFETY: a store to mapped writable memory, by the caller's promise; no other effect.
                unsafe { asm!($store_text, v = in($class) value, p = in(reg) to, options(nostack, preserves_flags)) };
            }
        };
    }
    /// Copies 64 bytes.
    ///
    /// # Safety
    /// The module's contract, for 64 bytes.
    #[inline(always)]
    pub(super) unsafe fn copy_line(to: *mut u8, from: *const u8) {
        // SAFETY: loads and stores of 64 mapped bytes, by the caller's promise; no other effect.
        unsafe {
            asm!(
                "movups {a}, xmmword ptr [{from}]",
                "movups {b}, xmmword ptr [{from} + 16]",
                "movups {c}, xmmword ptr [{from} + 32]",
                "movups {d}, xmmword ptr [{from} + 48]",
                "movups xmmword ptr [{to}], {a}",
                "movups xmmword ptr [{to} + 16], {b}",
                "movups xmmword ptr [{to} + 32], {c}",
                "movups xmmword ptr [{to} + 48], {d}",
                from = in(reg) from, to = in(reg) to, a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _,
                d = out(xmm_reg) _, options(nostack, preserves_flags),
            );
        }
    }
    load_store!(load8, store8, u8, reg_byte, "mov {v}, byte ptr [{p}]", "mov byte ptr [{p}], {v}");
    load_store!(load16, store16, u16, reg, "mov {v:x}, word ptr [{p}]", "mov word ptr [{p}], {v:x}");
    load_store!(load32, store32, u32, reg, "mov {v:e}, dword ptr [{p}]", "mov dword ptr [{p}], {v:e}");
    load_store!(load64, store64, u64, reg, "mov {v}, qword ptr [{p}]", "mov qword ptr [{p}], {v}");
}

/// Copies `len` bytes; the ranges must not overlap unless `len <= 16`.
///
/// # Safety
/// The module's contract.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
pub unsafe fn copy(to: *mut u8, from: *const u8, len: usize) {
    use machine::*;
    use std::arch::asm;
    // SAFETY: every access lies inside the `len` bytes that the caller vouches for: short lengths use two overlapping
    // moves, longer ones whole 16-byte moves plus one that ends at the last byte.
    unsafe {
        match len {
            0 => {}
            1 => store8(to, load8(from)),
            2..=3 => {
                let (head, tail) = (load16(from), load16(from.add(len - 2)));
                store16(to, head);
                store16(to.add(len - 2), tail);
            }
            4..=7 => {
                let (head, tail) = (load32(from), load32(from.add(len - 4)));
                store32(to, head);
                store32(to.add(len - 4), tail);
            }
            8..=16 => {
                let (head, tail) = (load64(from), load64(from.add(len - 8)));
                store64(to, head);
                store64(to.add(len - 8), tail);
            }
            17..=64 => asm!(
                "2:",
                "movups {x}, xmmword ptr [{from} + {at}]",
                "movups xmmword ptr [{to} + {at}], {x}",
                "add {at}, 16",
                "cmp {at}, {last}",
                "jb 2b",
                "movups {x}, xmmword ptr [{from} + {last}]",
                "movups xmmword ptr [{to} + {last}], {x}",
                at = inout(reg) 0usize => _, last = in(reg) len - 16, from = in(reg) from, to = in(reg) to,
                x = out(xmm_reg) _, options(nostack),
            ),
            _ if len < STRING_INSTRUCTION_FROM => {
                let last = len - 64;
                for at in (0..last).step_by(64).chain([last]) {
                    copy_line(to.add(at), from.add(at));
                }
            }
            _ => asm!(
                "rep movsb",
                inout("rcx") len => _, inout("rsi") from => _, inout("rdi") to => _,
                options(nostack, preserves_flags),
            ),
        }
    }
}

/// Sets `len` bytes to `byte`.
///
/// # Safety
/// The module's contract.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
pub unsafe fn fill(to: *mut u8, byte: u8, len: usize) {
    // SAFETY: stores to the `len` writable bytes that the caller vouches for.
    unsafe {
        std::arch::asm!(
            "rep stosb",
            inout("rcx") len => _, inout("rdi") to => _, in("al") byte,
            options(nostack, preserves_flags),
        );
    }
}

/// Copies `len` bytes; the ranges must not overlap.
///
/// # Safety
/// The module's contract.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
pub unsafe fn copy(to: *mut u8, from: *const u8, len: usize) {
    for at in 0..len {
        // SAFETY: inside the `len` bytes that the caller vouches for.
        unsafe { to.add(at).write_volatile(from.add(at).read_volatile()) };
    }
}

/// Sets `len` bytes to `byte`.
///
/// # Safety
/// The module's contract.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
pub unsafe fn fill(to: *mut u8, byte: u8, len: usize) {
    for at in 0..len {
        // SAFETY: inside the `len` bytes that the caller vouches for.
        unsafe { to.add(at).write_volatile(byte) };
    }
}

/// Whether a page (4096 bytes, aligned to 8 at least) holds only zeros. Stops at the first 64 bytes that do not.
///
/// # Safety
/// The module's contract, for 4096 bytes.
pub unsafe fn page_is_zero(page: *const u8) -> bool {
    let words = page.cast::<u64>();
    (0..4096 / 64).all(|line| {
        let mut any = 0;
        for word in 0..8 {
            // SAFETY: word `8 * line + word` is below 512, inside the page that the caller vouches for; aligned.
            any |= unsafe { words.add(8 * line + word).read_volatile() };
        }
        any == 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every length around the switches between methods, at odd alignments, with guard bytes on both sides.
    #[test]
    fn copy_and_fill_touch_exactly_their_bytes() {
        let source: Vec<u8> = (0..5100u32).map(|i| (i * 7 + 1) as u8).collect();
        let long = [63, 64, 65, 127, 128, 129, 191, 192, 1000, 2047, 2048, 2049, 4096];
        // Under miri there is one method only, a slow one.
        let lengths = (0..40).chain(long).filter(|&len| !cfg!(miri) || len < 20);
        for len in lengths {
            for offset in [0, 1, 7, 8, 13] {
                let mut target = vec![0xEE; len + 40];
                // SAFETY: both vectors are longer than offset + len.
                unsafe { copy(target.as_mut_ptr().add(offset), source.as_ptr().add(3), len) };
                assert_eq!(&target[offset..offset + len], &source[3..3 + len], "len {len} offset {offset}");
                assert!(target[..offset].iter().chain(&target[offset + len..]).all(|&b| b == 0xEE));
                // SAFETY: as above.
                unsafe { fill(target.as_mut_ptr().add(offset), 0x5A, len) };
                assert!(target[offset..offset + len].iter().all(|&b| b == 0x5A));
                assert!(target[..offset].iter().chain(&target[offset + len..]).all(|&b| b == 0xEE));
            }
        }
    }

    #[test]
    fn a_page_is_zero_only_without_any_bit() {
        let mut page = [0u64; 512];
        // SAFETY: 512 words are one page.
        assert!(unsafe { page_is_zero(page.as_ptr().cast()) });
        for word in [0, 7, 8, 300, 511] {
            page[word] = 1 << 63;
            // SAFETY: as above.
            assert!(!unsafe { page_is_zero(page.as_ptr().cast()) }, "word {word}");
            page[word] = 0;
        }
    }
}
