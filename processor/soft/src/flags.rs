//! Arithmetic flags: CF, PF, AF, ZF, SF and OF, kept as the host's LAHF and SETO give them.
//!
//! Every arithmetic handler lets the host execute the guest's instruction and takes the flags from it, so they are
//! exact, the undefined ones included, and cost three host instructions. Nothing about flags is lazy.

/// OF, SF, ZF, AF, PF, CF at their places in RFLAGS.
pub(crate) const ARITHMETIC: u64 = Flags::LOW as u64 | 1 << 11;

/// The arithmetic flags of a VP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C, align(2))]
pub(crate) struct Flags {
    /// OF: 0 or 1.
    pub overflow: u8,
    /// SF, ZF, AF, PF and CF where RFLAGS has them. The other bits mean nothing.
    pub low: u8,
}

impl Flags {
    /// Carry, in [`Self::low`] and RFLAGS.
    pub const CF: u8 = 1;
    /// Parity of the low byte.
    pub const PF: u8 = 1 << 2;
    /// Carry out of bit 3.
    pub const AF: u8 = 1 << 4;
    /// Zero.
    pub const ZF: u8 = 1 << 6;
    /// Sign.
    pub const SF: u8 = 1 << 7;
    /// All of [`Self::low`] that has a meaning.
    pub const LOW: u8 = Self::CF | Self::PF | Self::AF | Self::ZF | Self::SF;

    /// From AX after `lahf; seto al`.
    #[inline(always)]
    pub(crate) const fn from_ax(ax: u16) -> Self {
        Self { overflow: ax as u8, low: (ax >> 8) as u8 }
    }

    /// What [`Self::from_ax`] takes: CF is bit 8.
    #[inline(always)]
    pub(crate) const fn to_ax(self) -> u16 {
        self.overflow as u16 | (self.low as u16) << 8
    }

    /// The arithmetic flags of an RFLAGS value.
    #[inline(always)]
    pub const fn from_rflags(rflags: u64) -> Self {
        Self { overflow: (rflags >> 11 & 1) as u8, low: rflags as u8 }
    }

    /// Sets all six from RFLAGS bits; other bits are ignored.
    #[inline(always)]
    pub const fn set(&mut self, rflags: u64) {
        *self = Self::from_rflags(rflags);
    }

    /// The flags at their places in RFLAGS; all other bits zero.
    #[inline(always)]
    pub const fn get(self) -> u64 {
        (self.low & Self::LOW) as u64 | (self.overflow as u64) << 11
    }

    /// Carry.
    #[inline(always)]
    pub const fn carry(self) -> bool {
        self.low & Self::CF != 0
    }

    /// The same flags with another carry.
    #[inline(always)]
    pub const fn with_carry(self, carry: bool) -> Self {
        Self { low: self.low & !Self::CF | carry as u8, ..self }
    }

    /// The same flags with another zero flag.
    #[inline(always)]
    pub const fn with_zero(self, zero: bool) -> Self {
        Self { low: self.low & !Self::ZF | (zero as u8) << 6, ..self }
    }

    /// Condition `CC` of Jcc, SETcc and CMOVcc: the low four bits of their opcodes (SDM vol. 2, appendix B.1.4.7).
    #[inline(always)]
    pub const fn condition<const CC: u8>(self) -> bool {
        let value = match CC >> 1 {
            0 => self.overflow != 0,
            1 => self.low & Self::CF != 0,
            2 => self.low & Self::ZF != 0,
            3 => self.low & (Self::CF | Self::ZF) != 0,
            4 => self.low & Self::SF != 0,
            5 => self.low & Self::PF != 0,
            6 => self.low >> 7 != self.overflow,
            _ => self.low >> 7 != self.overflow || self.low & Self::ZF != 0,
        };
        value != (CC & 1 != 0)
    }
}
