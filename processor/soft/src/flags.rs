//! Arithmetic flags, evaluated when somebody asks.

/// How [`Flags`] stand for OF, SF, ZF, AF, PF, CF. The low two bits of [`Flags::kind`] are log2 of the operand size,
/// the rest is one of these.
pub(crate) mod kind {
    /// The flags are in [`super::Flags::bits`].
    pub const EXPLICIT: u32 = 0;
}

/// The arithmetic flags of a VP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub(crate) struct Flags {
    /// [`kind`] << 2 | log2 of the operand size.
    pub kind: u32,
    /// Unused.
    pub spare: u32,
    /// First operand (zero-extended).
    pub a: u64,
    /// Result (zero-extended).
    pub result: u64,
    /// With `kind::EXPLICIT`: the flags at their places in RFLAGS.
    pub bits: u64,
}

/// OF, SF, ZF, AF, PF, CF.
pub(crate) const ARITHMETIC: u64 = 0x8d5;

impl Flags {
    /// The flags at their places in RFLAGS; all other bits zero.
    pub fn get(&self) -> u64 {
        self.bits
    }

    /// Sets all six from RFLAGS bits; other bits are ignored.
    pub fn set(&mut self, rflags: u64) {
        self.kind = kind::EXPLICIT;
        self.bits = rflags & ARITHMETIC;
    }
}
