//! ADD, OR, ADC, SBB, AND, SUB, XOR, CMP, TEST, INC, DEC, NEG, NOT.

use crate::cpu::Cpu;
use crate::flags::Flags;
use crate::memory::Address;
use crate::op::{Fault, Flow, Handler, Op, handler};
use crate::ops::Selection;
use crate::ops::form::{Form, by_rare_address, by_size};
use crate::ops::word::Word;
use iced_x86::Mnemonic;

/// An operation of two operands that replaces the first.
pub(crate) trait Binary: 'static {
    /// Result and flags.
    fn apply<T: Word>(a: T, b: T, flags: Flags) -> (T, Flags);
}

/// An operation of one operand.
pub(crate) trait Unary: 'static {
    /// Result and flags.
    fn apply<T: Word>(a: T, flags: Flags) -> (T, Flags);
}

/// An operation of two operands that only sets flags.
pub(crate) trait Examine: 'static {
    /// The flags.
    fn apply<T: Word>(a: T, b: T) -> Flags;
}

macro_rules! operation {
    ($trait:ident $name:ident($($argument:ident: $type:ty),*) -> $result:ty = $value:expr) => {
        pub(crate) struct $name;
        impl $trait for $name {
            #[inline(always)]
            fn apply<T: Word>($($argument: $type),*) -> $result {
                $value
            }
        }
    };
}

operation!(Binary Add(a: T, b: T, _f: Flags) -> (T, Flags) = a.add(b));
operation!(Binary Sub(a: T, b: T, _f: Flags) -> (T, Flags) = a.sub(b));
operation!(Binary And(a: T, b: T, _f: Flags) -> (T, Flags) = a.and(b));
operation!(Binary Or(a: T, b: T, _f: Flags) -> (T, Flags) = a.or(b));
operation!(Binary Xor(a: T, b: T, _f: Flags) -> (T, Flags) = a.xor(b));
operation!(Binary Adc(a: T, b: T, flags: Flags) -> (T, Flags) = a.adc(b, flags));
operation!(Binary Sbb(a: T, b: T, flags: Flags) -> (T, Flags) = a.sbb(b, flags));
operation!(Examine Cmp(a: T, b: T) -> Flags = a.compare(b));
operation!(Examine Test(a: T, b: T) -> Flags = a.test(b));
operation!(Unary Inc(a: T, flags: Flags) -> (T, Flags) = a.inc(flags));
operation!(Unary Dec(a: T, flags: Flags) -> (T, Flags) = a.dec(flags));
operation!(Unary Neg(a: T, _f: Flags) -> (T, Flags) = a.neg());
operation!(Unary Not(a: T, flags: Flags) -> (T, Flags) = (!a, flags));

/// The group's handlers.
pub(crate) fn select(s: &Selection, _: &mut Op) -> Option<Handler> {
    match s.instruction.mnemonic() {
        Mnemonic::Add => select_binary::<Add>(s),
        Mnemonic::Or => select_binary::<Or>(s),
        Mnemonic::Adc => select_binary::<Adc>(s),
        Mnemonic::Sbb => select_binary::<Sbb>(s),
        Mnemonic::And => select_binary::<And>(s),
        Mnemonic::Sub => select_binary::<Sub>(s),
        Mnemonic::Xor => select_binary::<Xor>(s),
        Mnemonic::Cmp => select_examine::<Cmp>(s),
        Mnemonic::Test => select_examine::<Test>(s),
        Mnemonic::Inc => select_unary::<Inc>(s),
        Mnemonic::Dec => select_unary::<Dec>(s),
        Mnemonic::Neg => select_unary::<Neg>(s),
        Mnemonic::Not => select_unary::<Not>(s),
        _ => None,
    }
}

fn select_binary<O: Binary>(s: &Selection) -> Option<Handler> {
    if s.locked() {
        return select_locked_binary::<O>(s);
    }
    let form = s.form()?;
    Some(by_size!(s.size(0), T => match form {
        Form::Register => handler(register::<O, T>),
        Form::RegisterImmediate => handler(register_immediate::<O, T>),
        Form::RegisterMemory => by_address!(s.address, A => fallible(register_memory::<O, T, A>)),
        Form::Memory => by_address!(s.address, A => fallible(memory_register::<O, T, A>)),
        Form::MemoryImmediate => by_address!(s.address, A => fallible(memory_immediate::<O, T, A>)),
    }))
}

fn select_locked_binary<O: Binary>(s: &Selection) -> Option<Handler> {
    let immediate = s.form()? == Form::MemoryImmediate;
    Some(by_size!(s.size(0), T => match immediate {
        true => by_rare_address!(s.address, A => fallible(locked_immediate::<O, T, A>)),
        false => by_rare_address!(s.address, A => fallible(locked_register::<O, T, A>)),
    }))
}

fn select_examine<O: Examine>(s: &Selection) -> Option<Handler> {
    let form = s.form()?;
    Some(by_size!(s.size(0), T => match form {
        Form::Register => handler(examine_register::<O, T>),
        Form::RegisterImmediate => handler(examine_immediate::<O, T>),
        Form::RegisterMemory => by_address!(s.address, A => fallible(examine_register_memory::<O, T, A>)),
        Form::Memory => by_address!(s.address, A => fallible(examine_memory_register::<O, T, A>)),
        Form::MemoryImmediate => by_address!(s.address, A => fallible(examine_memory_immediate::<O, T, A>)),
    }))
}

fn select_unary<O: Unary>(s: &Selection) -> Option<Handler> {
    let form = s.form()?;
    Some(by_size!(s.size(0), T => match form {
        Form::Register => handler(unary_register::<O, T>),
        Form::Memory if s.locked() => by_rare_address!(s.address, A => fallible(unary_locked::<O, T, A>)),
        Form::Memory => by_address!(s.address, A => fallible(unary_memory::<O, T, A>)),
        _ => return None,
    }))
}

#[inline(always)]
fn register<O: Binary, T: Word>(cpu: &mut Cpu, op: &Op) -> Flow {
    let (result, flags) = O::apply::<T>(cpu.reg(op.reg), cpu.reg(op.rm), cpu.flags);
    cpu.set_reg(op.reg, result);
    cpu.flags = flags;
    Flow::Next
}

#[inline(always)]
fn register_immediate<O: Binary, T: Word>(cpu: &mut Cpu, op: &Op) -> Flow {
    let (result, flags) = O::apply::<T>(cpu.reg(op.reg), T::from_u64(op.imm), cpu.flags);
    cpu.set_reg(op.reg, result);
    cpu.flags = flags;
    Flow::Next
}

#[inline(always)]
fn register_memory<O: Binary, T: Word, A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let b = cpu.read::<T, A>(op)?;
    let (result, flags) = O::apply::<T>(cpu.reg(op.reg), b, cpu.flags);
    cpu.set_reg(op.reg, result);
    cpu.flags = flags;
    Ok(())
}

#[inline(always)]
fn memory_register<O: Binary, T: Word, A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let b = cpu.reg(op.reg);
    change_memory::<O, T, A>(cpu, op, b)
}

#[inline(always)]
fn memory_immediate<O: Binary, T: Word, A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    change_memory::<O, T, A>(cpu, op, T::from_u64(op.imm))
}

#[inline(always)]
fn change_memory<O: Binary, T: Word, A: Address>(cpu: &mut Cpu, op: &Op, b: T) -> Result<(), Fault> {
    cpu.update::<T, A>(op, |cpu, a| {
        let (result, flags) = O::apply(a, b, cpu.flags);
        cpu.flags = flags;
        result
    })
}

#[inline(always)]
fn locked_register<O: Binary, T: Word, A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let b = cpu.reg(op.reg);
    change_locked::<O, T, A>(cpu, op, b)
}

#[inline(always)]
fn locked_immediate<O: Binary, T: Word, A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    change_locked::<O, T, A>(cpu, op, T::from_u64(op.imm))
}

#[inline(always)]
fn change_locked<O: Binary, T: Word, A: Address>(cpu: &mut Cpu, op: &Op, b: T) -> Result<(), Fault> {
    let flags = cpu.flags;
    let (old, _) = cpu.update_locked::<T, A>(op, |a| O::apply(a, b, flags).0)?;
    cpu.flags = O::apply(old, b, flags).1;
    Ok(())
}

#[inline(always)]
pub(super) fn examine_register<O: Examine, T: Word>(cpu: &mut Cpu, op: &Op) -> Flow {
    cpu.flags = O::apply::<T>(cpu.reg(op.reg), cpu.reg(op.rm));
    Flow::Next
}

#[inline(always)]
pub(super) fn examine_immediate<O: Examine, T: Word>(cpu: &mut Cpu, op: &Op) -> Flow {
    cpu.flags = O::apply::<T>(cpu.reg(op.reg), T::from_u64(op.imm));
    Flow::Next
}

#[inline(always)]
pub(super) fn examine_register_memory<O: Examine, T: Word, A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let b = cpu.read::<T, A>(op)?;
    cpu.flags = O::apply::<T>(cpu.reg(op.reg), b);
    Ok(())
}

#[inline(always)]
pub(super) fn examine_memory_register<O: Examine, T: Word, A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let a = cpu.read::<T, A>(op)?;
    cpu.flags = O::apply::<T>(a, cpu.reg(op.reg));
    Ok(())
}

#[inline(always)]
pub(super) fn examine_memory_immediate<O: Examine, T: Word, A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let a = cpu.read::<T, A>(op)?;
    cpu.flags = O::apply::<T>(a, T::from_u64(op.imm));
    Ok(())
}

#[inline(always)]
fn unary_register<O: Unary, T: Word>(cpu: &mut Cpu, op: &Op) -> Flow {
    let (result, flags) = O::apply::<T>(cpu.reg(op.reg), cpu.flags);
    cpu.set_reg(op.reg, result);
    cpu.flags = flags;
    Flow::Next
}

#[inline(always)]
fn unary_memory<O: Unary, T: Word, A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    cpu.update::<T, A>(op, |cpu, a| {
        let (result, flags) = O::apply(a, cpu.flags);
        cpu.flags = flags;
        result
    })
}

#[inline(always)]
fn unary_locked<O: Unary, T: Word, A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let flags = cpu.flags;
    let (old, _) = cpu.update_locked::<T, A>(op, |a| O::apply(a, flags).0)?;
    cpu.flags = O::apply(old, flags).1;
    Ok(())
}
