//! What the processor can do with integers of its operand sizes: result and arithmetic flags, by the host's own
//! instructions.

use core::arch::asm;

use crate::flags::Flags;
use crate::int::Int;

/// An operand of 8, 16, 32 or 64 bits, and what can be done with it.
pub(crate) trait Word: Int {
    /// `a + b`.
    fn add(self, b: Self) -> (Self, Flags);
    /// `a - b`.
    fn sub(self, b: Self) -> (Self, Flags);
    /// `a & b`.
    fn and(self, b: Self) -> (Self, Flags);
    /// `a | b`.
    fn or(self, b: Self) -> (Self, Flags);
    /// `a ^ b`.
    fn xor(self, b: Self) -> (Self, Flags);
    /// The flags of `a - b`.
    fn compare(self, b: Self) -> Flags;
    /// The flags of `a & b`.
    fn test(self, b: Self) -> Flags;
    /// `a + b + CF`.
    fn adc(self, b: Self, flags: Flags) -> (Self, Flags);
    /// `a - b - CF`.
    fn sbb(self, b: Self, flags: Flags) -> (Self, Flags);
    /// `a + 1`; CF stays.
    fn inc(self, flags: Flags) -> (Self, Flags);
    /// `a - 1`; CF stays.
    fn dec(self, flags: Flags) -> (Self, Flags);
    /// `-a`.
    fn neg(self) -> (Self, Flags);

    /// SHL. All shifts and rotates mask the count as the processor does, and leave the flags alone if it is then 0.
    fn shl(self, count: u8, flags: Flags) -> (Self, Flags);
    /// SHR.
    fn shr(self, count: u8, flags: Flags) -> (Self, Flags);
    /// SAR.
    fn sar(self, count: u8, flags: Flags) -> (Self, Flags);
    /// ROL.
    fn rol(self, count: u8, flags: Flags) -> (Self, Flags);
    /// ROR.
    fn ror(self, count: u8, flags: Flags) -> (Self, Flags);
    /// RCL.
    fn rcl(self, count: u8, flags: Flags) -> (Self, Flags);
    /// RCR.
    fn rcr(self, count: u8, flags: Flags) -> (Self, Flags);

    /// MUL: low half, high half.
    fn mul_wide(self, b: Self) -> (Self, Self, Flags);
    /// IMUL with one operand: low half, high half.
    fn imul_wide(self, b: Self) -> (Self, Self, Flags);
    /// DIV of `high:self`: quotient and remainder, or `None` for #DE.
    fn div_wide(self, high: Self, divisor: Self) -> Option<(Self, Self)>;
    /// IDIV of `high:self`: quotient and remainder, or `None` for #DE.
    fn idiv_wide(self, high: Self, divisor: Self) -> Option<(Self, Self)>;
}

/// The bits of a shift count that count.
pub(crate) const fn count_mask<T: Int>() -> u8 {
    if T::BITS == 64 { 63 } else { 31 }
}

/// `a op b` with result and flags.
macro_rules! binary {
    ($name:ident, $class:ident, $m:literal, $instruction:literal) => {
        #[inline(always)]
        fn $name(self, b: Self) -> (Self, Flags) {
            let mut a = self;
            let ax: u16;
            // SAFETY: registers and flags only.
            unsafe {
                asm!(concat!($instruction, " {a", $m, "}, {b", $m, "}"), "lahf", "seto al",
                    a = inout($class) a, b = in($class) b, out("ax") ax, options(pure, nomem, nostack));
            }
            (a, Flags::from_ax(ax))
        }
    };
}

/// The flags of `a op b`.
macro_rules! flags_of {
    ($name:ident, $class:ident, $m:literal, $instruction:literal) => {
        #[inline(always)]
        fn $name(self, b: Self) -> Flags {
            let ax: u16;
            // SAFETY: registers and flags only.
            unsafe {
                asm!(concat!($instruction, " {a", $m, "}, {b", $m, "}"), "lahf", "seto al",
                    a = in($class) self, b = in($class) b, out("ax") ax, options(pure, nomem, nostack));
            }
            Flags::from_ax(ax)
        }
    };
}

/// `a op b` that reads CF.
macro_rules! with_carry {
    ($name:ident, $class:ident, $m:literal, $instruction:literal) => {
        #[inline(always)]
        fn $name(self, b: Self, flags: Flags) -> (Self, Flags) {
            let (mut a, mut ax) = (self, flags.to_ax());
            // SAFETY: registers and flags only.
            unsafe {
                asm!("bt ax, 8", concat!($instruction, " {a", $m, "}, {b", $m, "}"), "lahf", "seto al",
                    a = inout($class) a, b = in($class) b, inout("ax") ax, options(pure, nomem, nostack));
            }
            (a, Flags::from_ax(ax))
        }
    };
}

/// INC and DEC: as ADD and SUB of 1, but CF stays. The old flags are needed last, so that a chain of these is short.
macro_rules! keeps_carry {
    ($name:ident, $like:ident) => {
        #[inline(always)]
        fn $name(self, flags: Flags) -> (Self, Flags) {
            let (result, new) = Word::$like(self, 1);
            (result, Flags { low: new.low & !Flags::CF | flags.low & Flags::CF, ..new })
        }
    };
}

/// Shifts: they set all flags unless the masked count is 0.
macro_rules! shift {
    ($name:ident, $class:ident, $m:literal, $instruction:literal) => {
        #[inline(always)]
        fn $name(self, count: u8, flags: Flags) -> (Self, Flags) {
            if count & count_mask::<Self>() == 0 {
                return (self, flags);
            }
            let mut a = self;
            let ax: u16;
            // SAFETY: registers and flags only.
            unsafe {
                asm!(concat!($instruction, " {a", $m, "}, cl"), "lahf", "seto al",
                    a = inout($class) a, in("cl") count, out("ax") ax, options(pure, nomem, nostack));
            }
            (a, Flags::from_ax(ax))
        }
    };
}

/// Rotates: they set only CF and OF. `$before` loads CF if the rotate reads it.
macro_rules! rotate {
    ($name:ident, $class:ident, $m:literal, $instruction:literal, $before:literal) => {
        #[inline(always)]
        fn $name(self, count: u8, flags: Flags) -> (Self, Flags) {
            if count & count_mask::<Self>() == 0 {
                return (self, flags);
            }
            let (mut a, mut ax) = (self, flags.to_ax());
            // SAFETY: registers and flags only.
            unsafe {
                asm!($before, concat!($instruction, " {a", $m, "}, cl"), "setc cl", "seto al", "and ah, 0xfe",
                    "or ah, cl", a = inout($class) a, inout("cl") count => _, inout("ax") ax,
                    options(pure, nomem, nostack));
            }
            (a, Flags::from_ax(ax))
        }
    };
}

/// Everything that is alike at all four sizes.
macro_rules! common_methods {
    ($t:ty, $class:ident, $m:literal) => {
        binary!(add, $class, $m, "add");
        binary!(sub, $class, $m, "sub");
        binary!(and, $class, $m, "and");
        binary!(or, $class, $m, "or");
        binary!(xor, $class, $m, "xor");
        flags_of!(compare, $class, $m, "cmp");
        flags_of!(test, $class, $m, "test");
        with_carry!(adc, $class, $m, "adc");
        with_carry!(sbb, $class, $m, "sbb");
        keeps_carry!(inc, add);
        keeps_carry!(dec, sub);
        #[inline(always)]
        fn neg(self) -> (Self, Flags) {
            <$t as Word>::sub(0, self)
        }
        shift!(shl, $class, $m, "shl");
        shift!(shr, $class, $m, "shr");
        shift!(sar, $class, $m, "sar");
        rotate!(rol, $class, $m, "rol", "");
        rotate!(ror, $class, $m, "ror", "");
        rotate!(rcl, $class, $m, "rcl", "bt ax, 8");
        rotate!(rcr, $class, $m, "rcr", "bt ax, 8");
    };
}

/// MUL and IMUL above 8 bits: the halves are in AX and DX, EAX and EDX, or RAX and RDX.
macro_rules! multiply {
    ($name:ident, $m:literal, $instruction:literal) => {
        #[inline(always)]
        fn $name(self, b: Self) -> (Self, Self, Flags) {
            let mut rax = u64::from(self);
            let (low, high): (u64, u64);
            // SAFETY: registers and flags only.
            unsafe {
                asm!(concat!($instruction, " {b", $m, "}"), "mov {low}, rax", "lahf", "seto al",
                    b = in(reg) b, low = out(reg) low, inout("rax") rax, out("rdx") high,
                    options(pure, nomem, nostack));
            }
            (low as Self, high as Self, Flags::from_ax(rax as u16))
        }
    };
}

/// DIV and IDIV whose dividend fits the host's 64-bit integers.
macro_rules! divide_narrow {
    ($signed:ty) => {
        #[inline(always)]
        fn div_wide(self, high: Self, divisor: Self) -> Option<(Self, Self)> {
            let dividend = u64::from(high) << Self::BITS | u64::from(self);
            let quotient = dividend.checked_div(u64::from(divisor))?;
            Some((Self::try_from(quotient).ok()?, (dividend % u64::from(divisor)) as Self))
        }
        #[inline(always)]
        fn idiv_wide(self, high: Self, divisor: Self) -> Option<(Self, Self)> {
            let dividend = i64::from(high as $signed) << Self::BITS | i64::from(self);
            let divisor = i64::from(divisor as $signed);
            let quotient = <$signed>::try_from(dividend.checked_div(divisor)?).ok()?;
            Some((quotient as Self, (dividend % divisor) as Self))
        }
    };
}

impl Word for u8 {
    common_methods!(u8, reg_byte, "");
    divide_narrow!(i8);
    #[inline(always)]
    fn mul_wide(self, b: Self) -> (Self, Self, Flags) {
        let mut rax = u64::from(self);
        let product: u64;
        // SAFETY: registers and flags only.
        unsafe {
            asm!("mul {b}", "mov {product}, rax", "lahf", "seto al",
                b = in(reg_byte) b, product = out(reg) product, inout("rax") rax, options(pure, nomem, nostack));
        }
        (product as u8, (product >> 8) as u8, Flags::from_ax(rax as u16))
    }
    #[inline(always)]
    fn imul_wide(self, b: Self) -> (Self, Self, Flags) {
        let mut rax = u64::from(self);
        let product: u64;
        // SAFETY: registers and flags only.
        unsafe {
            asm!("imul {b}", "mov {product}, rax", "lahf", "seto al",
                b = in(reg_byte) b, product = out(reg) product, inout("rax") rax, options(pure, nomem, nostack));
        }
        (product as u8, (product >> 8) as u8, Flags::from_ax(rax as u16))
    }
}

impl Word for u16 {
    common_methods!(u16, reg, ":x");
    divide_narrow!(i16);
    multiply!(mul_wide, ":x", "mul");
    multiply!(imul_wide, ":x", "imul");
}

impl Word for u32 {
    common_methods!(u32, reg, ":e");
    divide_narrow!(i32);
    multiply!(mul_wide, ":e", "mul");
    multiply!(imul_wide, ":e", "imul");
}

impl Word for u64 {
    common_methods!(u64, reg, "");
    multiply!(mul_wide, "", "mul");
    multiply!(imul_wide, "", "imul");
    #[inline(always)]
    fn div_wide(self, high: Self, divisor: Self) -> Option<(Self, Self)> {
        if high >= divisor {
            return None;
        }
        let (quotient, remainder): (u64, u64);
        // SAFETY: registers only; the quotient fits because the high half is below the divisor.
        unsafe {
            asm!("div {divisor}", divisor = in(reg) divisor, inout("rax") self => quotient,
                inout("rdx") high => remainder, options(pure, nomem, nostack));
        }
        Some((quotient, remainder))
    }
    #[inline(always)]
    fn idiv_wide(self, high: Self, divisor: Self) -> Option<(Self, Self)> {
        let dividend = (u128::from(high) << 64 | u128::from(self)) as i128;
        let divisor = divisor as i64;
        let magnitude = dividend.unsigned_abs();
        let (quotient, remainder) = (magnitude as u64).div_wide((magnitude >> 64) as u64, divisor.unsigned_abs())?;
        let remainder = if dividend < 0 { remainder.wrapping_neg() } else { remainder };
        if (dividend < 0) != (divisor < 0) {
            (quotient <= 1 << 63).then(|| (quotient.wrapping_neg(), remainder))
        } else {
            (quotient < 1 << 63).then_some((quotient, remainder))
        }
    }
}

/// What only 16-, 32- and 64-bit operands have.
pub(crate) trait WideWord: Word {
    /// IMUL with two or three operands.
    fn imul(self, b: Self) -> (Self, Flags);
    /// SHLD of `self` with bits of `from`.
    fn shld(self, from: Self, count: u8, flags: Flags) -> (Self, Flags);
    /// SHRD of `self` with bits of `from`.
    fn shrd(self, from: Self, count: u8, flags: Flags) -> (Self, Flags);
    /// BSF; without a result for 0: the destination stays.
    fn bsf(self) -> (Option<Self>, Flags);
    /// BSR; without a result for 0: the destination stays.
    fn bsr(self) -> (Option<Self>, Flags);
    /// BSWAP; of 16 bits the result is undefined, and 0 on the processors of today.
    fn bswap(self) -> Self;
    /// Bytes in reverse order, for MOVBE.
    fn reverse(self) -> Self;
    /// Number of ones.
    fn popcnt(self) -> Self;
    /// LZCNT.
    fn lzcnt(self) -> Self;
    /// TZCNT.
    fn tzcnt(self) -> Self;
}

/// SHLD and SHRD: they set all flags unless the masked count is 0.
macro_rules! double_shift {
    ($name:ident, $m:literal, $instruction:literal) => {
        #[inline(always)]
        fn $name(self, from: Self, count: u8, flags: Flags) -> (Self, Flags) {
            if count & count_mask::<Self>() == 0 {
                return (self, flags);
            }
            let mut a = self;
            let ax: u16;
            // SAFETY: registers and flags only.
            unsafe {
                asm!(concat!($instruction, " {a", $m, "}, {from", $m, "}, cl"), "lahf", "seto al",
                    a = inout(reg) a, from = in(reg) from, in("cl") count, out("ax") ax,
                    options(pure, nomem, nostack));
            }
            (a, Flags::from_ax(ax))
        }
    };
}

/// BSF and BSR.
macro_rules! bit_scan {
    ($name:ident, $m:literal, $instruction:literal) => {
        #[inline(always)]
        fn $name(self) -> (Option<Self>, Flags) {
            let mut found: Self = 0;
            let ax: u16;
            // SAFETY: registers and flags only.
            unsafe {
                asm!(concat!($instruction, " {found", $m, "}, {from", $m, "}"), "lahf", "seto al",
                    found = inout(reg) found, from = in(reg) self, out("ax") ax, options(pure, nomem, nostack));
            }
            ((self != 0).then_some(found), Flags::from_ax(ax))
        }
    };
}

macro_rules! wide_word {
    ($t:ty, $m:literal, $bswap:expr) => {
        impl WideWord for $t {
            binary!(imul, reg, $m, "imul");
            double_shift!(shld, $m, "shld");
            double_shift!(shrd, $m, "shrd");
            bit_scan!(bsf, $m, "bsf");
            bit_scan!(bsr, $m, "bsr");
            #[inline(always)]
            fn bswap(self) -> Self {
                $bswap(self)
            }
            #[inline(always)]
            fn reverse(self) -> Self {
                self.swap_bytes()
            }
            #[inline(always)]
            fn popcnt(self) -> Self {
                self.count_ones() as Self
            }
            #[inline(always)]
            fn lzcnt(self) -> Self {
                self.leading_zeros() as Self
            }
            #[inline(always)]
            fn tzcnt(self) -> Self {
                self.trailing_zeros() as Self
            }
        }
    };
}

wide_word!(u16, ":x", |_| 0);
wide_word!(u32, ":e", u32::swap_bytes);
wide_word!(u64, "", u64::swap_bytes);

/// CRC-32C of `bytes` bytes of `value` (little-endian) from `sum` on, without any inversion: what CRC32 computes.
pub(crate) fn crc32c(mut sum: u32, value: u64, bytes: u32) -> u32 {
    for index in 0..bytes {
        let byte = (value >> (8 * index)) as u8;
        sum = sum >> 8 ^ CRC32C[usize::from(sum as u8 ^ byte)];
    }
    sum
}

/// What one byte does to the sum, for the reflected polynomial of CRC-32C.
static CRC32C: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut sum = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            sum = sum >> 1 ^ if sum & 1 != 0 { 0x82f6_3b78 } else { 0 };
            bit += 1;
        }
        table[byte] = sum;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests;
