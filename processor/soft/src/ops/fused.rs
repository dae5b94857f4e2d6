//! CMP and TEST together with the conditional jump behind them: one handler for the two ops that end most blocks of
//! 64-bit code. The jump's op stays in the block, for when the first one misses the TLB.

use crate::memory::{FastBase, Full};
use crate::op::{Handler, fused, fused_retrying};
use crate::ops::arithmetic::{
    Cmp, Test, examine_immediate, examine_memory_immediate, examine_memory_register, examine_register,
    examine_register_memory,
};
use crate::ops::control::jcc;
use crate::ops::form::{Form, by_condition};
use crate::ops::{AddressKind, Selection};
use iced_x86::{Instruction, Mnemonic, OpKind};

/// The handler of `s` and `jump`, or `None`: then each has its own.
pub(crate) fn select(s: &Selection, jump: &Instruction) -> Option<Handler> {
    let test = match s.instruction.mnemonic() {
        Mnemonic::Cmp => false,
        Mnemonic::Test => true,
        _ => return None,
    };
    if !jump.is_jcc_short_or_near() || jump.op0_kind() != OpKind::NearBranch64 {
        return None;
    }
    let condition = (jump.condition_code() as u8).checked_sub(1)?;
    macro_rules! by_plain_size {
        ($t:ident => $body:expr) => {
            match s.size(0) {
                1 => {
                    type $t = u8;
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
    macro_rules! memory {
        ($operation:ident, $f:ident, $t:ident, $c:ident) => {
            fused_retrying($f::<$operation, $t, FastBase>, $f::<$operation, $t, Full>, jcc::<u64, $c>)
        };
    }
    let based = s.address == AddressKind::FlatBase;
    let form = s.form()?;
    Some(by_condition!(condition, C => by_plain_size!(T => match (test, form) {
        (false, Form::Register) => fused(examine_register::<Cmp, T>, jcc::<u64, C>),
        (true, Form::Register) => fused(examine_register::<Test, T>, jcc::<u64, C>),
        (false, Form::RegisterImmediate) => fused(examine_immediate::<Cmp, T>, jcc::<u64, C>),
        (true, Form::RegisterImmediate) => fused(examine_immediate::<Test, T>, jcc::<u64, C>),
        (false, Form::RegisterMemory) if based => memory!(Cmp, examine_register_memory, T, C),
        (false, Form::Memory) if based => memory!(Cmp, examine_memory_register, T, C),
        (false, Form::MemoryImmediate) if based => memory!(Cmp, examine_memory_immediate, T, C),
        (true, Form::MemoryImmediate) if based => memory!(Test, examine_memory_immediate, T, C),
        _ => return None,
    })))
}
