//! XCHG, XADD, CMPXCHG, CMPXCHG8B, CMPXCHG16B.

use crate::cpu::Cpu;
use crate::memory::Address;
use crate::op::{Fault, Flow, Handler, Op, handler};
use crate::ops::Selection;
use crate::ops::form::{Form, by_rare_address, by_size};
use crate::ops::word::Word;
use iced_x86::Mnemonic;

const RAX: u8 = 0;
const RCX: u8 = 1;
const RDX: u8 = 2;
const RBX: u8 = 3;

/// The group's handlers.
pub(crate) fn select(s: &Selection, _: &mut Op) -> Option<Handler> {
    match s.instruction.mnemonic() {
        Mnemonic::Xchg => select_xchg(s),
        Mnemonic::Xadd => select_xadd(s),
        Mnemonic::Cmpxchg => select_cmpxchg(s),
        Mnemonic::Cmpxchg8b => Some(by_rare_address!(s.address, A => fallible(cmpxchg_8b::<A>))),
        Mnemonic::Cmpxchg16b => Some(by_rare_address!(s.address, A => fallible(cmpxchg_16b::<A>))),
        _ => None,
    }
}

fn select_xchg(s: &Selection) -> Option<Handler> {
    let form = s.form()?;
    // With memory the register is always in `reg`, whichever operand iced names first.
    Some(by_size!(s.size(0), T => match form {
        Form::Register => handler(xchg_register::<T>),
        Form::Memory | Form::RegisterMemory => by_rare_address!(s.address, A => fallible(xchg_memory::<T, A>)),
        _ => return None,
    }))
}

fn select_xadd(s: &Selection) -> Option<Handler> {
    let form = s.form()?;
    Some(by_size!(s.size(0), T => match form {
        Form::Register => handler(xadd_register::<T>),
        Form::Memory if s.locked() => by_rare_address!(s.address, A => fallible(xadd_locked::<T, A>)),
        Form::Memory => by_rare_address!(s.address, A => fallible(xadd_memory::<T, A>)),
        _ => return None,
    }))
}

fn select_cmpxchg(s: &Selection) -> Option<Handler> {
    let form = s.form()?;
    Some(by_size!(s.size(0), T => match form {
        Form::Register => handler(cmpxchg_register::<T>),
        Form::Memory if s.locked() => by_rare_address!(s.address, A => fallible(cmpxchg_locked::<T, A>)),
        Form::Memory => by_rare_address!(s.address, A => fallible(cmpxchg_memory::<T, A>)),
        _ => return None,
    }))
}

#[inline(always)]
fn xchg_register<T: Word>(cpu: &mut Cpu, op: &Op) -> Flow {
    let (a, b) = (cpu.reg::<T>(op.reg), cpu.reg::<T>(op.rm));
    cpu.set_reg(op.reg, b);
    cpu.set_reg(op.rm, a);
    Flow::Next
}

/// Atomic with and without LOCK.
#[inline(always)]
fn xchg_memory<T: Word, A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let value = cpu.reg(op.reg);
    let old = cpu.exchange::<T, A>(op, value)?;
    cpu.set_reg(op.reg, old);
    Ok(())
}

#[inline(always)]
fn xadd_register<T: Word>(cpu: &mut Cpu, op: &Op) -> Flow {
    let (a, b) = (cpu.reg::<T>(op.reg), cpu.reg::<T>(op.rm));
    let (sum, flags) = a.add(b);
    // In this order: the sum stays if both are the same register.
    cpu.set_reg(op.rm, a);
    cpu.set_reg(op.reg, sum);
    cpu.flags = flags;
    Flow::Next
}

#[inline(always)]
fn xadd_memory<T: Word, A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    cpu.update::<T, A>(op, |cpu, a| {
        let (sum, flags) = a.add(cpu.reg(op.reg));
        cpu.set_reg(op.reg, a);
        cpu.flags = flags;
        sum
    })
}

#[inline(always)]
fn xadd_locked<T: Word, A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let b = cpu.reg::<T>(op.reg);
    let (old, _) = cpu.update_locked::<T, A>(op, |a| a.add(b).0)?;
    cpu.set_reg(op.reg, old);
    cpu.flags = old.add(b).1;
    Ok(())
}

#[inline(always)]
fn cmpxchg_register<T: Word>(cpu: &mut Cpu, op: &Op) -> Flow {
    let (accumulator, old) = (cpu.reg::<T>(RAX), cpu.reg::<T>(op.reg));
    cpu.flags = accumulator.compare(old);
    if accumulator == old {
        cpu.set_reg(op.reg, cpu.reg::<T>(op.rm));
    } else {
        cpu.set_reg(RAX, old);
    }
    Flow::Next
}

#[inline(always)]
fn cmpxchg_memory<T: Word, A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let (accumulator, new) = (cpu.reg::<T>(RAX), cpu.reg::<T>(op.reg));
    // Memory is written in either case, as the processor does.
    cpu.update::<T, A>(op, |cpu, old| {
        cpu.flags = accumulator.compare(old);
        if accumulator == old {
            return new;
        }
        cpu.set_reg(RAX, old);
        old
    })
}

#[inline(always)]
fn cmpxchg_locked<T: Word, A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let (accumulator, new) = (cpu.reg::<T>(RAX), cpu.reg::<T>(op.reg));
    let (old, replaced) = cpu.compare_exchange::<T, A>(op, accumulator, new)?;
    cpu.flags = accumulator.compare(old);
    if !replaced {
        cpu.set_reg(RAX, old);
    }
    Ok(())
}

/// Atomic with and without LOCK.
fn cmpxchg_8b<A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let pair = |high: u8, low: u8| u64::from(cpu.reg::<u32>(high)) << 32 | u64::from(cpu.reg::<u32>(low));
    let (expected, new) = (pair(RDX, RAX), pair(RCX, RBX));
    let (old, replaced) = cpu.compare_exchange::<u64, A>(op, expected, new)?;
    if !replaced {
        cpu.set_reg(RDX, (old >> 32) as u32);
        cpu.set_reg(RAX, old as u32);
    }
    cpu.flags = cpu.flags.with_zero(replaced);
    Ok(())
}

/// Atomic with and without LOCK.
fn cmpxchg_16b<A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let pair = |high: u8, low: u8| u128::from(cpu.reg::<u64>(high)) << 64 | u128::from(cpu.reg::<u64>(low));
    let (expected, new) = (pair(RDX, RAX), pair(RCX, RBX));
    let (old, replaced) = cpu.compare_exchange_16::<A>(op, expected, new)?;
    if !replaced {
        cpu.set_reg(RDX, (old >> 64) as u64);
        cpu.set_reg(RAX, old as u64);
    }
    cpu.flags = cpu.flags.with_zero(replaced);
    Ok(())
}
