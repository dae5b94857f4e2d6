//! `Cpu`: the live state of a VP. Hot fields first; plain layout, because generated code will use it too.

use crate::flags::{ARITHMETIC, Flags};
use crate::int::Int;
use crate::memory::TlbEntry;
use crate::op::{Fault, OpPointer};
use std::ptr::NonNull;

/// A segment register with what limit and rights boil down to.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct SegmentRegister {
    /// Base address. In 64-bit mode zero except for FS and GS.
    pub base: u64,
    /// Lowest valid offset.
    pub low: u32,
    /// Highest valid offset.
    pub high: u32,
    /// Limit in bytes as loaded.
    pub limit: u32,
    /// Visible selector.
    pub selector: u16,
    /// As in `bulkhead_engine::Segment`.
    pub attributes: u16,
    /// May be read, may be written (false for null selectors).
    pub readable: bool,
    /// May be written.
    pub writable: bool,
}

/// What the instruction decoder and block keys need to know of a VP's mode. A block is only run in its own mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub(crate) struct Mode(pub u32);

impl Mode {
    /// 64-bit code (CS.L in long mode).
    pub const LONG64: u32 = 1;
    /// CS.D: 32-bit code (neither this nor `LONG64`: 16-bit code).
    pub const CODE32: u32 = 1 << 1;
    /// SS.B: 32-bit stack.
    pub const STACK32: u32 = 1 << 2;
    /// CPL is 3.
    pub const USER: u32 = 1 << 3;
    /// CR0.PE, and not virtual-8086: selectors are looked up in descriptor tables.
    pub const PROTECTED: u32 = 1 << 4;
    /// ES, CS, SS, DS have base 0 and limit 4 GiB, are readable, and all but CS writable.
    pub const FLAT: u32 = 1 << 5;
    /// Blocks of one instruction (single step, breakpoints, exact instruction limits).
    pub const SINGLE: u32 = 1 << 6;
    /// CR0.TS or CR0.EM: x87 instructions raise #NM.
    pub const NO_X87: u32 = 1 << 7;
    /// CR0.TS: SSE instructions raise #NM.
    pub const TASK_SWITCHED: u32 = 1 << 8;
    /// CR0.EM or no CR4.OSFXSR: SSE instructions raise #UD.
    pub const NO_SSE: u32 = 1 << 9;
    /// CR4.OSXSAVE and XCR0[2:1] = 3: AVX instructions are allowed.
    pub const AVX: u32 = 1 << 10;
    /// EFER.LMA: long mode, also while in compatibility code.
    pub const LMA: u32 = 1 << 11;
    /// EFLAGS.VM.
    pub const VIRTUAL_8086: u32 = 1 << 12;

    /// Whether all bits of `bits` are set.
    #[inline(always)]
    pub const fn has(self, bits: u32) -> bool {
        self.0 & bits == bits
    }

    /// 16, 32 or 64.
    pub const fn code_bits(self) -> u32 {
        if self.has(Self::LONG64) {
            64
        } else if self.has(Self::CODE32) {
            32
        } else {
            16
        }
    }
}

/// An exception on its way: what [`Fault`] stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Exception {
    /// Vector.
    pub vector: u8,
    /// Error code, for vectors that push one.
    pub error_code: Option<u32>,
    /// CR2 for #PF, DR6 bits for #DB.
    pub payload: u64,
}

/// Exception vectors.
pub(crate) mod vector {
    pub const DE: u8 = 0;
    pub const DB: u8 = 1;
    pub const NMI: u8 = 2;
    pub const BP: u8 = 3;
    pub const OF: u8 = 4;
    pub const BR: u8 = 5;
    pub const UD: u8 = 6;
    pub const NM: u8 = 7;
    pub const DF: u8 = 8;
    pub const TS: u8 = 10;
    pub const NP: u8 = 11;
    pub const SS: u8 = 12;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
    pub const MF: u8 = 16;
    pub const AC: u8 = 17;
    pub const XM: u8 = 19;
}

/// Bits of RFLAGS.
pub(crate) mod rflags {
    pub const CF: u64 = 1;
    pub const FIXED: u64 = 1 << 1;
    pub const PF: u64 = 1 << 2;
    pub const AF: u64 = 1 << 4;
    pub const ZF: u64 = 1 << 6;
    pub const SF: u64 = 1 << 7;
    pub const TF: u64 = 1 << 8;
    pub const IF: u64 = 1 << 9;
    pub const DF: u64 = 1 << 10;
    pub const OF: u64 = 1 << 11;
    pub const IOPL: u64 = 3 << 12;
    pub const NT: u64 = 1 << 14;
    pub const RF: u64 = 1 << 16;
    pub const VM: u64 = 1 << 17;
    pub const AC: u64 = 1 << 18;
    pub const VIF: u64 = 1 << 19;
    pub const VIP: u64 = 1 << 20;
    pub const ID: u64 = 1 << 21;
}

/// The live state of a VP.
#[repr(C)]
pub(crate) struct Cpu {
    /// 0–15 RAX RCX RDX RBX RSP RBP RSI RDI R8–R15, then [`Cpu::ZERO`] and [`Cpu::RIP`]. 32, so that a masked number
    /// needs no bounds check.
    pub regs: [u64; 32],
    /// OF, SF, ZF, AF, PF, CF.
    pub flags: Flags,
    /// All other bits of RFLAGS.
    pub system_flags: u64,
    /// The TLB of the current privilege level, [`crate::memory::TLB_ENTRIES`] entries.
    pub tlb: NonNull<TlbEntry>,
    /// The op whose handler returned something else than `Next`.
    pub last_op: Option<OpPointer>,
    /// Mode of the running block.
    pub mode: Mode,
    /// Current privilege level.
    pub cpl: u8,
    /// ES CS SS DS FS GS.
    pub segments: [SegmentRegister; 6],
    /// The exception that a [`Fault`] stands for.
    pub fault: Exception,
}

impl Cpu {
    /// Register number that always reads zero: absent base or index.
    pub const ZERO: u8 = 16;
    /// RIP of the running block's first byte; between blocks the RIP of the next instruction.
    pub const RIP: u8 = 17;

    /// A register by number; 8-bit widths: 16–19 are AH CH DH BH.
    #[inline(always)]
    pub fn reg<T: Int>(&self, number: u8) -> T {
        if T::BITS == 8 {
            T::from_u64(self.regs[usize::from(number & 15)] >> (number >> 4 << 3))
        } else {
            T::from_u64(self.regs[usize::from(number & 31)])
        }
    }

    /// Writes a register: 8 and 16 bits keep the rest, 32 bits clear the upper half.
    #[inline(always)]
    pub fn set_reg<T: Int>(&mut self, number: u8, value: T) {
        if T::BITS == 8 {
            let shift = number >> 4 << 3;
            let register = &mut self.regs[usize::from(number & 15)];
            *register = *register & !(0xff << shift) | value.to_u64() << shift;
        } else if T::BITS == 16 {
            let register = &mut self.regs[usize::from(number & 31)];
            *register = *register & !0xffff | value.to_u64();
        } else {
            self.regs[usize::from(number & 31)] = value.to_u64();
        }
    }

    /// RIP of the block's first byte (see [`Cpu::RIP`]).
    #[inline(always)]
    pub fn rip(&self) -> u64 {
        self.regs[Self::RIP as usize]
    }

    /// Sets where execution goes on.
    #[inline(always)]
    pub fn set_rip(&mut self, rip: u64) {
        self.regs[Self::RIP as usize] = rip;
    }

    /// The whole RFLAGS register.
    pub fn rflags(&self) -> u64 {
        self.flags.get() | self.system_flags
    }

    /// Sets the whole RFLAGS register, without any check or side effect.
    pub fn set_rflags(&mut self, value: u64) {
        self.flags.set(value);
        self.system_flags = value & !ARITHMETIC | rflags::FIXED;
    }

    /// Raises an exception without an error code: #DE, #UD, #BR, #OF, #NM …
    #[cold]
    pub fn raise(&mut self, vector: u8) -> Fault {
        self.fault = Exception { vector, error_code: None, payload: 0 };
        Fault
    }

    /// Raises an exception with an error code: #GP, #SS, #NP, #TS.
    #[cold]
    pub fn raise_code(&mut self, vector: u8, error_code: u32) -> Fault {
        self.fault = Exception { vector, error_code: Some(error_code), payload: 0 };
        Fault
    }
}
