//! CMOVcc, SETcc, and the instructions on single flags: CLC, STC, CMC, CLD, STD, LAHF, SAHF, SALC.

use crate::cpu::{Cpu, rflags};
use crate::flags::Flags;
use crate::int::Int;
use crate::memory::Address;
use crate::op::{Fault, Flow, Handler, Op, handler};
use crate::ops::Selection;
use crate::ops::form::{Form, by_condition, by_rare_address, by_wide_size};
use iced_x86::{FlowControl, Mnemonic};

const AL: u8 = 0;
const AH: u8 = 16;

/// The group's handlers.
pub(crate) fn select(s: &Selection, _: &mut Op) -> Option<Handler> {
    Some(match s.instruction.mnemonic() {
        Mnemonic::Clc => handler(set_carry::<false>),
        Mnemonic::Stc => handler(set_carry::<true>),
        Mnemonic::Cmc => handler(complement_carry),
        Mnemonic::Cld => handler(set_direction::<false>),
        Mnemonic::Std => handler(set_direction::<true>),
        Mnemonic::Lahf => handler(lahf),
        Mnemonic::Sahf => handler(sahf),
        Mnemonic::Salc => handler(salc),
        _ => return select_conditional(s),
    })
}

fn select_conditional(s: &Selection) -> Option<Handler> {
    if s.instruction.flow_control() != FlowControl::Next {
        return None;
    }
    let condition = s.condition()?;
    let form = s.form()?;
    match s.instruction.op_count() {
        // CMOVcc.
        2 => Some(by_condition!(condition, C => by_wide_size!(s.size(0), T => match form {
            Form::Register => handler(cmov::<T, C>),
            Form::RegisterMemory => by_rare_address!(s.address, A => fallible(cmov_memory::<T, C, A>)),
            _ => return None,
        }))),
        // SETcc.
        1 => Some(by_condition!(condition, C => match form {
            Form::Register => handler(setcc::<C>),
            Form::Memory => by_rare_address!(s.address, A => fallible(setcc_memory::<C, A>)),
            _ => return None,
        })),
        _ => None,
    }
}

/// A destination of 32 bits is zero-extended even if the condition is false.
#[inline(always)]
fn cmov<T: Int, const C: u8>(cpu: &mut Cpu, op: &Op) -> Flow {
    let from = if cpu.flags.condition::<C>() { op.rm } else { op.reg };
    cpu.set_reg(op.reg, cpu.reg::<T>(from));
    Flow::Next
}

/// Memory is read, and may fault, even if the condition is false.
#[inline(always)]
fn cmov_memory<T: Int, const C: u8, A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let value = cpu.read::<T, A>(op)?;
    let value = if cpu.flags.condition::<C>() { value } else { cpu.reg(op.reg) };
    cpu.set_reg(op.reg, value);
    Ok(())
}

#[inline(always)]
fn setcc<const C: u8>(cpu: &mut Cpu, op: &Op) -> Flow {
    cpu.set_reg(op.reg, u8::from(cpu.flags.condition::<C>()));
    Flow::Next
}

#[inline(always)]
fn setcc_memory<const C: u8, A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let value = u8::from(cpu.flags.condition::<C>());
    cpu.write::<u8, A>(op, value)
}

#[inline(always)]
fn set_carry<const CARRY: bool>(cpu: &mut Cpu, _: &Op) -> Flow {
    cpu.flags = cpu.flags.with_carry(CARRY);
    Flow::Next
}

#[inline(always)]
fn complement_carry(cpu: &mut Cpu, _: &Op) -> Flow {
    cpu.flags.low ^= Flags::CF;
    Flow::Next
}

#[inline(always)]
fn set_direction<const DOWN: bool>(cpu: &mut Cpu, _: &Op) -> Flow {
    cpu.system_flags = cpu.system_flags & !rflags::DF | if DOWN { rflags::DF } else { 0 };
    Flow::Next
}

#[inline(always)]
fn lahf(cpu: &mut Cpu, _: &Op) -> Flow {
    cpu.set_reg(AH, cpu.flags.low & Flags::LOW | rflags::FIXED as u8);
    Flow::Next
}

#[inline(always)]
fn sahf(cpu: &mut Cpu, _: &Op) -> Flow {
    cpu.flags.low = cpu.reg(AH);
    Flow::Next
}

#[inline(always)]
fn salc(cpu: &mut Cpu, _: &Op) -> Flow {
    cpu.set_reg(AL, if cpu.flags.carry() { 0xff_u8 } else { 0 });
    Flow::Next
}
