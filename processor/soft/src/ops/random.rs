//! RDRAND and RDSEED in deterministic mode: from the reactor's seeded entropy. Otherwise the host executes them.

use crate::cpu::Cpu;
use crate::int::Int;
use crate::op::{Flow, Handler, Op, handler};
use crate::ops::Selection;
use crate::ops::form::by_wide_size;
use iced_x86::Mnemonic;

fn random<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let mut bytes = [0; 8];
    cpu.partition.reactor.entropy(&mut bytes);
    cpu.set_reg(op.reg, T::from_u64(u64::from_le_bytes(bytes)));
    // CF: there was a number. The other flags are cleared.
    cpu.flags.set(1);
    Flow::Next
}

/// The group's handlers.
pub(crate) fn select(s: &Selection, _: &mut Op) -> Option<Handler> {
    if !s.deterministic || !matches!(s.instruction.mnemonic(), Mnemonic::Rdrand | Mnemonic::Rdseed) {
        return None;
    }
    Some(by_wide_size!(s.instruction.op0_register().size(), T => handler(random::<T>)))
}
