//! PUSH, POP, PUSHA, POPA, ENTER, LEAVE.

use crate::cpu::Cpu;
use crate::int::Int;
use crate::memory::{Address, Full};
use crate::op::{Fault, Handler, Op, fallible};
use crate::ops::Selection;
use crate::ops::form::{by_rare_address, by_wide_size};
use iced_x86::{Mnemonic, OpKind};

const RSP: u8 = 4;
const RBP: u8 = 5;
const SS: u8 = 2;

/// The group's handlers.
pub(crate) fn select(s: &Selection, _: &mut Op) -> Option<Handler> {
    match s.instruction.mnemonic() {
        Mnemonic::Push => select_push(s),
        Mnemonic::Pop => select_pop(s),
        Mnemonic::Pusha => Some(fallible(pusha::<u16>)),
        Mnemonic::Pushad => Some(fallible(pusha::<u32>)),
        Mnemonic::Popa => Some(fallible(popa::<u16>)),
        Mnemonic::Popad => Some(fallible(popa::<u32>)),
        Mnemonic::Leave => {
            // ENTER and LEAVE tell their operand size only by their code.
            Some(by_wide_size!(frame_size(s)?, T => by_address!(s.address, A => fallible(leave::<T, A>))))
        }
        Mnemonic::Enter => Some(by_wide_size!(frame_size(s)?, T => by_rare_address!(s.address, A => {
            fallible(enter::<T, A>)
        }))),
        _ => None,
    }
}

fn frame_size(s: &Selection) -> Option<usize> {
    use iced_x86::Code::*;
    Some(match s.instruction.code() {
        Leavew | Enterw_imm16_imm8 => 2,
        Leaved | Enterd_imm16_imm8 => 4,
        Leaveq | Enterq_imm16_imm8 => 8,
        _ => return None,
    })
}

fn select_push(s: &Selection) -> Option<Handler> {
    // The size that goes to the stack, also for immediates, which have none of their own.
    let size = s.instruction.stack_pointer_increment().unsigned_abs() as usize;
    Some(by_wide_size!(size, T => match s.instruction.op_kind(0) {
        OpKind::Register if s.instruction.op_register(0).is_gpr() => {
            by_address!(s.address, A => fallible(push_register::<T, A>))
        }
        OpKind::Register => return None,
        OpKind::Memory => by_address!(s.address, A => fallible(push_memory::<T, A>)),
        _ => by_address!(s.address, A => fallible(push_immediate::<T, A>)),
    }))
}

fn select_pop(s: &Selection) -> Option<Handler> {
    let size = s.instruction.stack_pointer_increment().unsigned_abs() as usize;
    Some(by_wide_size!(size, T => match s.instruction.op_kind(0) {
        OpKind::Register if s.instruction.op_register(0).is_gpr() => {
            by_address!(s.address, A => fallible(pop_register::<T, A>))
        }
        OpKind::Memory => by_rare_address!(s.address, A => fallible(pop_memory::<T, A>)),
        _ => return None,
    }))
}

#[inline(always)]
fn push_register<T: Int, A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let value = cpu.reg(op.reg);
    cpu.push::<T, A>(value)
}

#[inline(always)]
fn push_immediate<T: Int, A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    cpu.push::<T, A>(T::from_u64(op.imm))
}

#[inline(always)]
fn push_memory<T: Int, A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let value = cpu.read::<T, A>(op)?;
    cpu.push::<T, A>(value)
}

#[inline(always)]
fn pop_register<T: Int, A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let value = cpu.pop::<T, A>()?;
    cpu.set_reg(op.reg, value);
    Ok(())
}

/// An address based on the stack pointer is computed after the increment.
#[inline(always)]
fn pop_memory<T: Int, A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let before = cpu.regs[usize::from(RSP)];
    let value = cpu.pop::<T, A>()?;
    let written = cpu.write::<T, A>(op, value);
    if written.is_err() {
        cpu.regs[usize::from(RSP)] = before;
    }
    written
}

/// Only in 16- and 32-bit code. Registers AX to DI, with the stack pointer as it was before.
fn pusha<T: Int>(cpu: &mut Cpu, _: &Op) -> Result<(), Fault> {
    let before = cpu.regs[usize::from(RSP)];
    for number in 0..8 {
        let value = if number == RSP { T::from_u64(before) } else { cpu.reg(number) };
        let pushed = cpu.push::<T, Full>(value);
        if pushed.is_err() {
            cpu.regs[usize::from(RSP)] = before;
            return pushed;
        }
    }
    Ok(())
}

/// The stack pointer's own slot is skipped. On a fault the registers popped before it keep their new values; the stack
/// pointer is the old one, so that nothing is lost.
fn popa<T: Int>(cpu: &mut Cpu, _: &Op) -> Result<(), Fault> {
    let before = cpu.regs[usize::from(RSP)];
    for number in (0..8).rev() {
        match cpu.pop::<T, Full>() {
            Ok(_) if number == RSP => {}
            Ok(value) => cpu.set_reg(number, value),
            Err(fault) => {
                cpu.regs[usize::from(RSP)] = before;
                return Err(fault);
            }
        }
    }
    Ok(())
}

#[inline(always)]
fn leave<T: Int, A: Address>(cpu: &mut Cpu, _: &Op) -> Result<(), Fault> {
    let frame = A::cut_stack_pointer(cpu, cpu.regs[usize::from(RBP)]);
    let value = cpu.read_at::<T, A>(SS, frame)?;
    A::set_stack_pointer(cpu, frame.wrapping_add(T::SIZE));
    cpu.set_reg(RBP, value);
    Ok(())
}

/// `imm` is the size of the locals, `extra` the nesting level.
fn enter<T: Int, A: Address>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let before = cpu.regs[usize::from(RSP)];
    let result = enter_frame::<T, A>(cpu, op.imm & 0xffff, op.extra & 31);
    match result {
        Ok(frame) => cpu.set_reg(RBP, T::from_u64(frame)),
        Err(_) => cpu.regs[usize::from(RSP)] = before,
    }
    result.map(drop)
}

/// Moves the stack pointer only; the new frame pointer is returned.
fn enter_frame<T: Int, A: Address>(cpu: &mut Cpu, locals: u64, level: u16) -> Result<u64, Fault> {
    let old_frame = cpu.regs[usize::from(RBP)];
    cpu.push::<T, A>(T::from_u64(old_frame))?;
    let frame = cpu.regs[usize::from(RSP)];
    for index in 1..level {
        let outer = A::cut_stack_pointer(cpu, old_frame.wrapping_sub(u64::from(index) * T::SIZE));
        let pointer = cpu.read_at::<T, A>(SS, outer)?;
        cpu.push::<T, A>(pointer)?;
    }
    if level > 0 {
        cpu.push::<T, A>(T::from_u64(frame))?;
    }
    let top = A::cut_stack_pointer(cpu, cpu.regs[usize::from(RSP)].wrapping_sub(locals));
    // The new top must be writable, although nothing is written.
    let linear = A::linear(cpu, SS, top, T::SIZE, true)?;
    cpu.probe_write(linear, T::SIZE as u32, SS)?;
    A::set_stack_pointer(cpu, top);
    Ok(frame)
}
