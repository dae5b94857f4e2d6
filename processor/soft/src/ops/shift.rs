//! SHL, SHR, SAR, ROL, ROR, RCL, RCR, SHLD, SHRD.

use crate::cpu::Cpu;
use crate::flags::Flags;
use crate::memory::Address;
use crate::op::{Fault, Flow, Handler, Op, handler};
use crate::ops::Selection;
use crate::ops::form::{Form, by_rare_address, by_size, by_wide_size};
use crate::ops::word::{WideWord, Word, count_mask};
use iced_x86::Mnemonic;

/// CL, the count register.
const CL: u8 = 1;

/// A shift or rotate.
trait Shift: 'static {
    /// Whether the operation, done with an immediate count, may set OF. A rotation through the carry by a multiple of
    /// its period does not; done with CL it does, and so it is if the host does it.
    fn sets_overflow<T: Word>(count: u8) -> bool;
    /// Result and flags for any count.
    fn apply<T: Word>(a: T, count: u8, flags: Flags) -> (T, Flags);
}

/// SHLD or SHRD.
trait DoubleShift: 'static {
    /// Result and flags for any count.
    fn apply<T: WideWord>(a: T, from: T, count: u8, flags: Flags) -> (T, Flags);
}

macro_rules! shifts {
    ($sets_overflow:expr; $($name:ident $method:ident)*) => {
        $(
            struct $name;
            impl Shift for $name {
                #[inline(always)]
                fn sets_overflow<T: Word>(count: u8) -> bool {
                    $sets_overflow(u32::from(count & count_mask::<T>()), T::BITS)
                }
                #[inline(always)]
                fn apply<T: Word>(a: T, count: u8, flags: Flags) -> (T, Flags) {
                    a.$method(count, flags)
                }
            }
        )*
    };
}
shifts!(|_, _| true; Shl shl Shr shr Sar sar Rol rol Ror ror);
shifts!(|count, bits| count % (bits + 1) == 1; Rcl rcl Rcr rcr);

macro_rules! double_shifts {
    ($($name:ident $method:ident)*) => {
        $(
            struct $name;
            impl DoubleShift for $name {
                #[inline(always)]
                fn apply<T: WideWord>(a: T, from: T, count: u8, flags: Flags) -> (T, Flags) {
                    a.$method(from, count, flags)
                }
            }
        )*
    };
}
double_shifts!(Shld shld Shrd shrd);

/// Where the count comes from.
trait Count: 'static {
    const IMMEDIATE: bool;
    fn count(cpu: &Cpu, op: &Op) -> u8;
}
struct Immediate;
struct Register;

impl Count for Immediate {
    const IMMEDIATE: bool = true;
    #[inline(always)]
    fn count(_: &Cpu, op: &Op) -> u8 {
        op.imm as u8
    }
}

impl Count for Register {
    const IMMEDIATE: bool = false;
    #[inline(always)]
    fn count(cpu: &Cpu, _: &Op) -> u8 {
        cpu.reg(CL)
    }
}

/// The group's handlers.
pub(crate) fn select(s: &Selection, _: &mut Op) -> Option<Handler> {
    match s.instruction.mnemonic() {
        Mnemonic::Shl | Mnemonic::Sal => select_shift::<Shl>(s),
        Mnemonic::Shr => select_shift::<Shr>(s),
        Mnemonic::Sar => select_shift::<Sar>(s),
        Mnemonic::Rol => select_shift::<Rol>(s),
        Mnemonic::Ror => select_shift::<Ror>(s),
        Mnemonic::Rcl => select_shift::<Rcl>(s),
        Mnemonic::Rcr => select_shift::<Rcr>(s),
        Mnemonic::Shld => select_double::<Shld>(s),
        Mnemonic::Shrd => select_double::<Shrd>(s),
        _ => None,
    }
}

fn select_shift<O: Shift>(s: &Selection) -> Option<Handler> {
    if s.counted_by_cl(1) { select_counted::<O, Register>(s) } else { select_counted::<O, Immediate>(s) }
}

fn select_counted<O: Shift, C: Count>(s: &Selection) -> Option<Handler> {
    let form = s.form()?;
    Some(by_size!(s.size(0), T => match form {
        Form::Register | Form::RegisterImmediate => handler(shift_register::<O, C, T>),
        Form::Memory | Form::MemoryImmediate => by_rare_address!(s.address, A => fallible(shift_memory::<O, C, T, A>)),
        Form::RegisterMemory => return None,
    }))
}

fn select_double<O: DoubleShift>(s: &Selection) -> Option<Handler> {
    if s.counted_by_cl(2) { select_double_counted::<O, Register>(s) } else { select_double_counted::<O, Immediate>(s) }
}

fn select_double_counted<O: DoubleShift, C: Count>(s: &Selection) -> Option<Handler> {
    let form = s.form()?;
    Some(by_wide_size!(s.size(0), T => match form {
        Form::Register => handler(double_register::<O, C, T>),
        Form::Memory => by_rare_address!(s.address, A => fallible(double_memory::<O, C, T, A>)),
        _ => return None,
    }))
}

#[inline(always)]
fn apply<O: Shift, C: Count, T: Word>(a: T, count: u8, old: Flags) -> (T, Flags) {
    let (result, flags) = O::apply(a, count, old);
    if C::IMMEDIATE && !O::sets_overflow::<T>(count) {
        return (result, Flags { overflow: old.overflow, ..flags });
    }
    (result, flags)
}

#[inline(always)]
fn shift_register<O: Shift, C: Count, T: Word>(cpu: &mut Cpu, op: &Op) -> Flow {
    let (result, flags) = apply::<O, C, T>(cpu.reg(op.reg), C::count(cpu, op), cpu.flags);
    cpu.set_reg(op.reg, result);
    cpu.flags = flags;
    Flow::Next
}

#[inline(always)]
fn shift_memory<O: Shift, C: Count, T: Word, A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let count = C::count(cpu, op);
    cpu.update::<T, A>(op, |cpu, a| {
        let (result, flags) = apply::<O, C, T>(a, count, cpu.flags);
        cpu.flags = flags;
        result
    })
}

#[inline(always)]
fn double_register<O: DoubleShift, C: Count, T: WideWord>(cpu: &mut Cpu, op: &Op) -> Flow {
    let (result, flags) = O::apply::<T>(cpu.reg(op.reg), cpu.reg(op.rm), C::count(cpu, op), cpu.flags);
    cpu.set_reg(op.reg, result);
    cpu.flags = flags;
    Flow::Next
}

#[inline(always)]
fn double_memory<O: DoubleShift, C: Count, T: WideWord, A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let (from, count) = (cpu.reg(op.reg), C::count(cpu, op));
    cpu.update::<T, A>(op, |cpu, a| {
        let (result, flags) = O::apply(a, from, count, cpu.flags);
        cpu.flags = flags;
        result
    })
}
