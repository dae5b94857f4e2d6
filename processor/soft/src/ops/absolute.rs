//! MOV between the accumulator and a 64-bit absolute address that does not fit a displacement.

use crate::cpu::Cpu;
use crate::int::Int;
use crate::memory::Full;
use crate::op::{Fault, Handler, Op, fallible};
use crate::ops::Selection;
use iced_x86::Code;

fn load<T: Int>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let value = cpu.read_at::<T, Full>(op.seg, op.imm)?;
    cpu.set_reg(0, value);
    Ok(())
}

fn store<T: Int>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let value = cpu.reg::<T>(0);
    cpu.write_at::<T, Full>(op.seg, op.imm, value)
}

/// The group's handlers.
pub(crate) fn select(s: &Selection, _: &mut Op) -> Option<Handler> {
    Some(match s.instruction.code() {
        Code::Mov_AL_moffs8 => fallible(load::<u8>),
        Code::Mov_AX_moffs16 => fallible(load::<u16>),
        Code::Mov_EAX_moffs32 => fallible(load::<u32>),
        Code::Mov_RAX_moffs64 => fallible(load::<u64>),
        Code::Mov_moffs8_AL => fallible(store::<u8>),
        Code::Mov_moffs16_AX => fallible(store::<u16>),
        Code::Mov_moffs32_EAX => fallible(store::<u32>),
        Code::Mov_moffs64_RAX => fallible(store::<u64>),
        _ => return None,
    })
}
