//! What a lowered instruction looks like to the interpreter.

use crate::{Gather, NativeState};

/// A stub's entry point: guest state, the sixteen GPRs in encoding order, then operands as pointers.
///
/// `a`, `b`, `c` point at the slots named by [`Stub::registers`]; `m` is the memory operand's host address, or the
/// slot of a fourth register. Unused ones may be null. Returns 0, or the vector of the exception that the instruction
/// raised; then no register, flag or memory has changed, except sticky bits of MXCSR and FSW.
///
/// # Safety
/// All used pointers must be valid for the operand's size, `state` must have been entered on this thread, and x87
/// must be resident for a stub that uses it.
pub type StubEntry = unsafe extern "sysv64" fn(
    state: *mut NativeState,
    gprs: *mut u64,
    a: *mut u8,
    b: *mut u8,
    c: *mut u8,
    m: *mut u8,
) -> u32;

/// How an instruction is executed.
#[derive(Debug, Clone, Copy)]
pub enum Lowered {
    /// One call.
    Stub(Stub),
    /// A loop over elements.
    Gather(Gather),
}

/// A stub with this instruction's operands.
#[derive(Debug, Clone, Copy)]
pub struct Stub {
    /// Where to call.
    pub entry: StubEntry,
    /// `entry` as a distance from [`crate::Stubs::base`].
    pub offset: u32,
    /// Register operands in order: `a`, `b`, `c`, and a fourth passed as `m`.
    pub registers: [Slot; 4],
    /// The memory operand, passed as `m`.
    pub memory: Option<MemoryOperand>,
    /// [`NativeState::flags`] must hold the guest's status flags before the call.
    pub reads_flags: bool,
    /// [`NativeState::flags`] holds all six status flags after the call.
    pub writes_flags: bool,
    /// Needs [`NativeState::use_x87`] before the call.
    pub uses_x87: bool,
    /// Raises #MF if an x87 exception pends, before anything about its memory operand: when that operand faults, ask
    /// [`NativeState::x87_exception_pending`] first.
    pub waits: bool,
    /// Sets FIP, FCS and FOP, and with a memory operand FDP and FDS.
    pub x87_pointers: bool,
}

/// A register operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Slot {
    /// No operand.
    #[default]
    None,
    /// A general-purpose register by number; `byte` is 1 for AH, CH, DH and BH.
    Gpr {
        /// 0–15.
        register: u8,
        /// Byte of the register where the operand starts.
        byte: u8,
    },
    /// XMM or YMM by number.
    Vector(u8),
}

/// A memory operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryOperand {
    /// Bytes.
    pub size: u8,
    /// The instruction reads it.
    pub read: bool,
    /// The instruction writes it.
    pub write: bool,
    /// The linear address must be a multiple of this, or the instruction raises #GP(0).
    pub alignment: u8,
    /// Only some elements are accessed.
    pub masked: Option<Masked>,
}

/// A memory operand of which a register's sign bits select the elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Masked {
    /// Bytes per element: 1, 4 or 8.
    pub element: u8,
    /// Elements.
    pub count: u8,
    /// Number of the register with the mask.
    pub(crate) register: u8,
    /// The mask is an MMX register.
    pub(crate) mmx: bool,
}

impl Masked {
    /// All of it in ten bits.
    pub const fn to_bits(self) -> u16 {
        let sizes = self.element.trailing_zeros() | self.count.trailing_zeros() << 2;
        sizes as u16 | (self.register as u16) << 5 | (self.mmx as u16) << 9
    }

    /// The reverse of [`Self::to_bits`]; other bits are ignored.
    pub const fn from_bits(bits: u16) -> Self {
        Self {
            element: 1 << (bits & 3),
            count: 1 << (bits >> 2 & 7),
            register: (bits >> 5 & 15) as u8,
            mmx: bits >> 9 & 1 != 0,
        }
    }

    /// Which elements the instruction will access: bit i is element i.
    pub fn active(&self, state: &mut NativeState) -> u32 {
        let mask = if self.mmx {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&state.mmx(self.register));
            bytes
        } else {
            state.vector[usize::from(self.register)].0
        };
        let size = usize::from(self.element);
        (0..usize::from(self.count)).fold(0, |active, i| active | u32::from(mask[i * size + size - 1] >> 7) << i)
    }
}
