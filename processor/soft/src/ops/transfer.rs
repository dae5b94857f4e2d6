//! MOV, MOVZX, MOVSX, MOVSXD, LEA, MOVBE, BSWAP, XLAT, and the sign extensions of the accumulator.

use crate::cpu::Cpu;
use crate::int::Int;
use crate::memory::{Address, Full};
use crate::op::{Fault, Flow, Handler, Op, fallible, handler};
use crate::ops::Selection;
use crate::ops::form::{Form, by_rare_address, by_size, by_wide_size};
use crate::ops::word::WideWord;
use iced_x86::Mnemonic;

const RAX: u8 = 0;
const RDX: u8 = 2;
const RBX: usize = 3;

/// The group's handlers.
pub(crate) fn select(s: &Selection, _: &mut Op) -> Option<Handler> {
    match s.instruction.mnemonic() {
        Mnemonic::Mov => select_mov(s),
        Mnemonic::Lea => Some(by_wide_size!(s.size(0), T => by_address!(s.address, A => handler(lea::<T, A>)))),
        Mnemonic::Movzx => select_extend::<Zero>(s),
        Mnemonic::Movsx | Mnemonic::Movsxd => select_extend::<Sign>(s),
        Mnemonic::Movbe => select_movbe(s),
        Mnemonic::Bswap => Some(by_wide_size!(s.size(0), T => handler(bswap::<T>))),
        Mnemonic::Xlatb => Some(fallible(xlat)),
        Mnemonic::Cbw => Some(handler(extend_accumulator::<u16, u8>)),
        Mnemonic::Cwde => Some(handler(extend_accumulator::<u32, u16>)),
        Mnemonic::Cdqe => Some(handler(extend_accumulator::<u64, u32>)),
        Mnemonic::Cwd => Some(handler(spread_sign::<u16>)),
        Mnemonic::Cdq => Some(handler(spread_sign::<u32>)),
        Mnemonic::Cqo => Some(handler(spread_sign::<u64>)),
        _ => None,
    }
}

fn select_mov(s: &Selection) -> Option<Handler> {
    let form = s.form()?;
    Some(by_size!(s.size(0), T => match form {
        Form::Register => handler(mov_register::<T>),
        Form::RegisterImmediate => handler(mov_immediate::<T>),
        Form::RegisterMemory => by_address!(s.address, A => fallible(load::<T, A>)),
        Form::Memory => by_address!(s.address, A => fallible(store::<T, A>)),
        Form::MemoryImmediate => by_address!(s.address, A => fallible(store_immediate::<T, A>)),
    }))
}

fn select_extend<E: Extend>(s: &Selection) -> Option<Handler> {
    let memory = s.form()? == Form::RegisterMemory;
    macro_rules! from {
        ($s:ty) => {
            by_wide_size!(s.size(0), T => match memory {
                true => by_address!(s.address, A => fallible(extend_memory::<E, T, $s, A>)),
                false => handler(extend_register::<E, T, $s>),
            })
        };
    }
    Some(match s.size(1) {
        1 => from!(u8),
        2 => from!(u16),
        4 => from!(u32),
        _ => return None,
    })
}

fn select_movbe(s: &Selection) -> Option<Handler> {
    let load = s.form()? == Form::RegisterMemory;
    Some(by_wide_size!(s.size(0), T => match load {
        true => by_rare_address!(s.address, A => fallible(movbe_load::<T, A>)),
        false => by_rare_address!(s.address, A => fallible(movbe_store::<T, A>)),
    }))
}

/// How MOVZX and MOVSX widen.
trait Extend: 'static {
    fn extend<S: Int>(value: S) -> u64;
}
struct Zero;
struct Sign;

impl Extend for Zero {
    #[inline(always)]
    fn extend<S: Int>(value: S) -> u64 {
        value.to_u64()
    }
}

impl Extend for Sign {
    #[inline(always)]
    fn extend<S: Int>(value: S) -> u64 {
        value.to_i64() as u64
    }
}

#[inline(always)]
fn mov_register<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    cpu.set_reg::<T>(op.reg, cpu.reg(op.rm));
    Flow::Next
}

#[inline(always)]
fn mov_immediate<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    cpu.set_reg(op.reg, T::from_u64(op.imm));
    Flow::Next
}

#[inline(always)]
fn load<T: Int, A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let value = cpu.read::<T, A>(op)?;
    cpu.set_reg(op.reg, value);
    Ok(())
}

#[inline(always)]
fn store<T: Int, A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let value = cpu.reg::<T>(op.reg);
    cpu.write::<T, A>(op, value)
}

#[inline(always)]
fn store_immediate<T: Int, A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    cpu.write::<T, A>(op, T::from_u64(op.imm))
}

#[inline(always)]
fn lea<T: Int, A: Address>(cpu: &mut Cpu, op: &Op) -> Flow {
    let offset = A::offset(cpu, op);
    cpu.set_reg(op.reg, T::from_u64(offset));
    Flow::Next
}

#[inline(always)]
fn extend_register<E: Extend, T: Int, S: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = E::extend::<S>(cpu.reg(op.rm));
    cpu.set_reg(op.reg, T::from_u64(value));
    Flow::Next
}

#[inline(always)]
fn extend_memory<E: Extend, T: Int, S: Int, A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let value = E::extend(cpu.read::<S, A>(op)?);
    cpu.set_reg(op.reg, T::from_u64(value));
    Ok(())
}

#[inline(always)]
fn movbe_load<T: WideWord, A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let value = cpu.read::<T, A>(op)?;
    cpu.set_reg(op.reg, value.reverse());
    Ok(())
}

#[inline(always)]
fn movbe_store<T: WideWord, A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let value = cpu.reg::<T>(op.reg).reverse();
    cpu.write::<T, A>(op, value)
}

#[inline(always)]
fn bswap<T: WideWord>(cpu: &mut Cpu, op: &Op) -> Flow {
    cpu.set_reg(op.reg, cpu.reg::<T>(op.reg).bswap());
    Flow::Next
}

/// The index is AL alone, which no ordinary memory operand can say.
#[inline(always)]
fn xlat(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let offset = cpu.regs[RBX].wrapping_add(u64::from(cpu.reg::<u8>(RAX)));
    let mask = u64::MAX >> (64 - 8 * u32::from(op.address_size & 15));
    let value = cpu.read_at::<u8, Full>(op.seg, offset & mask)?;
    cpu.set_reg(RAX, value);
    Ok(())
}

/// CBW, CWDE, CDQE.
#[inline(always)]
fn extend_accumulator<T: Int, S: Int>(cpu: &mut Cpu, _: &Op) -> Flow {
    let value = cpu.reg::<S>(RAX).to_i64() as u64;
    cpu.set_reg(RAX, T::from_u64(value));
    Flow::Next
}

/// CWD, CDQ, CQO.
#[inline(always)]
fn spread_sign<T: Int>(cpu: &mut Cpu, _: &Op) -> Flow {
    let sign = cpu.reg::<T>(RAX).to_i64() >> 63;
    cpu.set_reg(RDX, T::from_u64(sign as u64));
    Flow::Next
}
