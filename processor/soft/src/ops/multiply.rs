//! MUL, IMUL, DIV, IDIV.

use crate::cpu::{Cpu, vector};
use crate::memory::Address;
use crate::op::{Fault, Flow, Handler, Op, fallible, handler};
use crate::ops::Selection;
use crate::ops::form::{Form, by_rare_address, by_size, by_wide_size};
use crate::ops::word::{WideWord, Word};
use iced_x86::Mnemonic;

const RAX: u8 = 0;
const RDX: u8 = 2;
const AH: u8 = 16;

/// The group's handlers.
pub(crate) fn select(s: &Selection, _: &mut Op) -> Option<Handler> {
    match s.instruction.mnemonic() {
        Mnemonic::Mul => select_accumulator::<Mul>(s),
        Mnemonic::Imul if s.instruction.op_count() == 1 => select_accumulator::<Imul>(s),
        Mnemonic::Imul => select_imul(s),
        Mnemonic::Div => select_accumulator::<Div>(s),
        Mnemonic::Idiv => select_accumulator::<Idiv>(s),
        _ => None,
    }
}

fn select_accumulator<O: Accumulator>(s: &Selection) -> Option<Handler> {
    let form = s.form()?;
    Some(by_size!(s.size(0), T => match form {
        Form::Register => fallible(accumulator_register::<O, T>),
        Form::Memory => by_rare_address!(s.address, A => fallible(accumulator_memory::<O, T, A>)),
        _ => return None,
    }))
}

fn select_imul(s: &Selection) -> Option<Handler> {
    let (form, three) = (s.form()?, s.instruction.op_count() == 3);
    Some(by_wide_size!(s.size(0), T => match (form, three) {
        (Form::Register, false) => handler(imul_register::<T>),
        (Form::Register, true) => handler(imul_register_immediate::<T>),
        (Form::RegisterMemory, false) => by_rare_address!(s.address, A => fallible(imul_memory::<T, A>)),
        (Form::RegisterMemory, true) => by_rare_address!(s.address, A => fallible(imul_memory_immediate::<T, A>)),
        _ => return None,
    }))
}

/// An operation between the double accumulator and one operand.
trait Accumulator: 'static {
    fn apply<T: Word>(cpu: &mut Cpu, b: T) -> Result<(), Fault>;
}
struct Mul;
struct Imul;
struct Div;
struct Idiv;

impl Accumulator for Mul {
    #[inline(always)]
    fn apply<T: Word>(cpu: &mut Cpu, b: T) -> Result<(), Fault> {
        let (low, high, flags) = cpu.reg::<T>(RAX).mul_wide(b);
        set_halves(cpu, low, high);
        cpu.flags = flags;
        Ok(())
    }
}

impl Accumulator for Imul {
    #[inline(always)]
    fn apply<T: Word>(cpu: &mut Cpu, b: T) -> Result<(), Fault> {
        let (low, high, flags) = cpu.reg::<T>(RAX).imul_wide(b);
        set_halves(cpu, low, high);
        cpu.flags = flags;
        Ok(())
    }
}

impl Accumulator for Div {
    #[inline(always)]
    fn apply<T: Word>(cpu: &mut Cpu, b: T) -> Result<(), Fault> {
        let (low, high) = halves::<T>(cpu);
        match low.div_wide(high, b) {
            Some((quotient, remainder)) => set_halves(cpu, quotient, remainder),
            None => return Err(cpu.raise(vector::DE)),
        }
        Ok(())
    }
}

impl Accumulator for Idiv {
    #[inline(always)]
    fn apply<T: Word>(cpu: &mut Cpu, b: T) -> Result<(), Fault> {
        let (low, high) = halves::<T>(cpu);
        match low.idiv_wide(high, b) {
            Some((quotient, remainder)) => set_halves(cpu, quotient, remainder),
            None => return Err(cpu.raise(vector::DE)),
        }
        Ok(())
    }
}

/// Number of the register with the upper half: AH, DX, EDX, RDX.
const fn upper<T: Word>() -> u8 {
    if T::BITS == 8 { AH } else { RDX }
}

#[inline(always)]
fn halves<T: Word>(cpu: &Cpu) -> (T, T) {
    (cpu.reg(RAX), cpu.reg(upper::<T>()))
}

#[inline(always)]
fn set_halves<T: Word>(cpu: &mut Cpu, low: T, high: T) {
    cpu.set_reg(RAX, low);
    cpu.set_reg(upper::<T>(), high);
}

#[inline(always)]
fn accumulator_register<O: Accumulator, T: Word>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let b = cpu.reg::<T>(op.reg);
    O::apply(cpu, b)
}

#[inline(always)]
fn accumulator_memory<O: Accumulator, T: Word, A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let b = cpu.read::<T, A>(op)?;
    O::apply(cpu, b)
}

#[inline(always)]
fn imul<T: WideWord>(cpu: &mut Cpu, op: &Op, a: T, b: T) {
    let (result, flags) = a.imul(b);
    cpu.set_reg(op.reg, result);
    cpu.flags = flags;
}

#[inline(always)]
fn imul_register<T: WideWord>(cpu: &mut Cpu, op: &Op) -> Flow {
    imul::<T>(cpu, op, cpu.reg(op.reg), cpu.reg(op.rm));
    Flow::Next
}

#[inline(always)]
fn imul_register_immediate<T: WideWord>(cpu: &mut Cpu, op: &Op) -> Flow {
    imul::<T>(cpu, op, cpu.reg(op.rm), T::from_u64(op.imm));
    Flow::Next
}

#[inline(always)]
fn imul_memory<T: WideWord, A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let b = cpu.read::<T, A>(op)?;
    imul(cpu, op, cpu.reg(op.reg), b);
    Ok(())
}

#[inline(always)]
fn imul_memory_immediate<T: WideWord, A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let a = cpu.read::<T, A>(op)?;
    imul(cpu, op, a, T::from_u64(op.imm));
    Ok(())
}
