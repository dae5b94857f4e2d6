//! What a `select` asks of an instruction: operand size, operand kinds, condition; and the macros that turn the
//! answers into types.

use crate::ops::Selection;
use iced_x86::{OpKind, Register};

/// Kinds of the operands that matter, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// One or two general registers.
    Register,
    /// A register and an immediate.
    RegisterImmediate,
    /// A register and memory.
    RegisterMemory,
    /// Memory, alone or with a register.
    Memory,
    /// Memory and an immediate.
    MemoryImmediate,
}

impl Selection<'_> {
    /// The form of the first two operands; `None` if one is no general register, memory or immediate.
    pub(crate) fn form(&self) -> Option<Form> {
        let count = self.instruction.op_count();
        let second = if count > 1 { self.operand(1)? } else { Operand::Register };
        match (self.operand(0)?, second) {
            (Operand::Register, Operand::Register) => Some(Form::Register),
            (Operand::Register, Operand::Immediate) => Some(Form::RegisterImmediate),
            (Operand::Register, Operand::Memory) => Some(Form::RegisterMemory),
            (Operand::Memory, Operand::Register) => Some(Form::Memory),
            (Operand::Memory, Operand::Immediate) => Some(Form::MemoryImmediate),
            _ => None,
        }
    }

    /// Size in bytes of operand `index`; 0 for immediates.
    pub(crate) fn size(&self, index: u32) -> usize {
        match self.operand(index) {
            Some(Operand::Register) => self.instruction.op_register(index).size(),
            Some(Operand::Memory) => self.instruction.memory_size().size(),
            _ => 0,
        }
    }

    /// Condition of Jcc, SETcc and CMOVcc as in the low four bits of their opcodes.
    pub(crate) fn condition(&self) -> Option<u8> {
        (self.instruction.condition_code() as u8).checked_sub(1)
    }

    /// Whether a LOCK prefix makes the instruction atomic.
    pub(crate) fn locked(&self) -> bool {
        self.instruction.has_lock_prefix()
    }

    /// Whether operand 1 is CL.
    pub(crate) fn counted_by_cl(&self, index: u32) -> bool {
        self.instruction.op_kind(index) == OpKind::Register && self.instruction.op_register(index) == Register::CL
    }

    fn operand(&self, index: u32) -> Option<Operand> {
        match self.instruction.op_kind(index) {
            OpKind::Register if self.instruction.op_register(index).is_gpr() => Some(Operand::Register),
            OpKind::Memory => Some(Operand::Memory),
            OpKind::Immediate8
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64 => Some(Operand::Immediate),
            _ => None,
        }
    }
}

enum Operand {
    Register,
    Memory,
    Immediate,
}

/// `by_size!(bytes, T => expression)`: the expression with the integer type `T`, or `None` out of the function.
macro_rules! by_size {
    ($size:expr, $t:ident => $body:expr) => {
        match $size {
            1 => {
                type $t = u8;
                $body
            }
            2 => {
                type $t = u16;
                $body
            }
            4 => {
                type $t = u32;
                $body
            }
            8 => {
                type $t = u64;
                $body
            }
            _ => return None,
        }
    };
}
pub(crate) use by_size;

/// [`by_size`] without 8 bits.
macro_rules! by_wide_size {
    ($size:expr, $t:ident => $body:expr) => {
        match $size {
            2 => {
                type $t = u16;
                $body
            }
            4 => {
                type $t = u32;
                $body
            }
            8 => {
                type $t = u64;
                $body
            }
            _ => return None,
        }
    };
}
pub(crate) use by_wide_size;

/// As `by_address!`, for instructions too rare to deserve a handler for each way of addressing.
macro_rules! by_rare_address {
    ($kind:expr, $a:ident => fallible($f:expr)) => {{
        let complete = {
            type $a = $crate::memory::Full;
            $f
        };
        match $kind {
            $crate::ops::AddressKind::Flat | $crate::ops::AddressKind::FlatBase => {
                type $a = $crate::memory::FastFlat;
                $crate::op::retrying($f, complete)
            }
            _ => $crate::op::complete(complete),
        }
    }};
    ($kind:expr, $a:ident => $body:expr) => {{
        let _ = $kind;
        type $a = $crate::memory::Full;
        $body
    }};
}
pub(crate) use by_rare_address;

/// `by_condition!(cc, CC => expression)`: the expression with the constant `CC`, 0 to 15.
macro_rules! by_condition {
    ($condition:expr, $c:ident => $body:expr) => {
        by_condition!(@ $condition, $c, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@ $condition:expr, $c:ident, $body:expr, $($value:literal)*) => {
        match $condition {
            $($value => {
                const $c: u8 = $value;
                $body
            })*
            _ => return None,
        }
    };
}
pub(crate) use by_condition;
