//! Fills an op's operand fields by convention (see `Op`), and chooses how its memory operand is addressed.

use crate::cpu::{Cpu, Mode};
use crate::op::Op;
use crate::ops::{self, AddressKind};
use iced_x86::{Instruction, OpKind, Register};

/// Number of a register as ops use it; control, debug and segment registers by their index.
pub(crate) fn number(register: Register) -> u8 {
    match register {
        Register::None => Cpu::ZERO,
        Register::AH => 16,
        Register::CH => 17,
        Register::DH => 18,
        Register::BH => 19,
        Register::RIP | Register::EIP => Cpu::RIP,
        // Through the full register: as 8-bit registers SPL and R8L have other numbers.
        _ => register.full_register().number() as u8,
    }
}

/// The op of an instruction, with everything but the handler.
pub(crate) fn fill(instruction: &Instruction, rip: u64, mode: Mode) -> Op {
    let mut op = Op {
        handler: ops::undefined(),
        imm: 0,
        disp: 0,
        reg: 0,
        rm: 0,
        base: Cpu::ZERO,
        index: Cpu::ZERO,
        scale: 0,
        seg: 3,
        len: instruction.len() as u8,
        address_size: (mode.code_bits() / 8) as u8,
        offset: instruction.ip().wrapping_sub(rip) as u16,
        extra: 0,
    };
    let (mut registers, mut immediates) = (0, 0);
    for index in 0..instruction.op_count() {
        match instruction.op_kind(index) {
            OpKind::Register => {
                let number = number(instruction.op_register(index));
                match registers {
                    0 => op.reg = number,
                    1 => op.rm = number,
                    2 => op.extra = u16::from(number),
                    _ => {}
                }
                registers += 1;
            }
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                op.imm = instruction.near_branch_target().wrapping_sub(rip);
            }
            OpKind::FarBranch16 => {
                op.imm = u64::from(instruction.far_branch16());
                op.extra = instruction.far_branch_selector();
            }
            OpKind::FarBranch32 => {
                op.imm = u64::from(instruction.far_branch32());
                op.extra = instruction.far_branch_selector();
            }
            OpKind::Memory => fill_memory(&mut op, instruction, rip),
            OpKind::MemorySegSI | OpKind::MemorySegDI => fill_string(&mut op, instruction, 2),
            OpKind::MemorySegESI | OpKind::MemorySegEDI => fill_string(&mut op, instruction, 4),
            OpKind::MemorySegRSI | OpKind::MemorySegRDI => fill_string(&mut op, instruction, 8),
            OpKind::MemoryESDI => op.address_size = 2,
            OpKind::MemoryESEDI => op.address_size = 4,
            OpKind::MemoryESRDI => op.address_size = 8,
            _ => {
                match immediates {
                    0 => op.imm = instruction.immediate(index),
                    _ => op.extra = instruction.immediate(index) as u16,
                }
                immediates += 1;
            }
        }
    }
    op
}

fn segment_number(instruction: &Instruction) -> u8 {
    instruction.memory_segment().number() as u8
}

fn fill_string(op: &mut Op, instruction: &Instruction, size: u8) {
    op.seg = segment_number(instruction);
    op.address_size = size;
}

/// `index` value of operands that keep a 64-bit address in `imm` (MOV moffs).
const PAGE_SLOT: u8 = Cpu::PAGE;

fn fill_memory(op: &mut Op, instruction: &Instruction, rip: u64) {
    op.seg = segment_number(instruction);
    op.base = number(instruction.memory_base());
    op.index = number(instruction.memory_index());
    op.scale = instruction.memory_index_scale().trailing_zeros() as u8;
    op.address_size = address_size(instruction);
    let displacement = instruction.memory_displacement64();
    if op.base == Cpu::RIP {
        let relative = displacement.wrapping_sub(rip) as i64;
        // Near the ends of the 32-bit range the block's start is out of reach: add a page by the index.
        match i32::try_from(relative) {
            Ok(disp) => op.disp = disp,
            Err(_) if relative > 0 => {
                op.index = PAGE_SLOT;
                op.disp = (relative - 4096) as i32;
            }
            Err(_) => {
                op.index = Cpu::MINUS_PAGE;
                op.disp = (relative + 4096) as i32;
            }
        }
        return;
    }
    op.disp = displacement as i32;
    if i64::from(op.disp) as u64 != displacement && op.address_size == 8 {
        op.imm = displacement;
        op.base = Cpu::ABSOLUTE;
    }
}

fn address_size(instruction: &Instruction) -> u8 {
    let register = match instruction.memory_base() {
        // A vector of indices says nothing about the size.
        Register::None if instruction.is_vsib() => Register::None,
        Register::None => instruction.memory_index(),
        base => base,
    };
    match register {
        Register::None => match instruction.memory_displ_size() {
            2 => 2,
            8 => 8,
            _ => 4,
        },
        Register::RIP => 8,
        Register::EIP => 4,
        _ => register.size() as u8,
    }
}

/// How the memory operand is addressed; without one, how the stack is.
pub(crate) fn address_kind(instruction: &Instruction, op: &Op, mode: Mode) -> AddressKind {
    let memory = (0..instruction.op_count()).map(|index| instruction.op_kind(index)).find(|kind| {
        matches!(
            kind,
            OpKind::Memory
                | OpKind::MemorySegSI
                | OpKind::MemorySegDI
                | OpKind::MemorySegESI
                | OpKind::MemorySegEDI
                | OpKind::MemorySegRSI
                | OpKind::MemorySegRDI
                | OpKind::MemoryESDI
                | OpKind::MemoryESEDI
                | OpKind::MemoryESRDI
        )
    });
    let (size, plain_segment) = match memory {
        None => (mode.code_bits() as u8 / 8, true),
        Some(OpKind::Memory) => (address_size(instruction), plain_segment(instruction, mode)),
        Some(OpKind::MemorySegSI | OpKind::MemorySegDI) => (2, plain_segment(instruction, mode)),
        Some(OpKind::MemorySegESI | OpKind::MemorySegEDI) => (4, plain_segment(instruction, mode)),
        Some(OpKind::MemorySegRSI | OpKind::MemorySegRDI) => (8, plain_segment(instruction, mode)),
        Some(OpKind::MemoryESDI) => (2, true),
        Some(OpKind::MemoryESEDI) => (4, true),
        Some(_) => (8, true),
    };
    if mode.has(Mode::LONG64) && (size == 8 || memory.is_none()) && plain_segment {
        let indexed = memory == Some(OpKind::Memory) && op.index != Cpu::ZERO;
        if indexed { AddressKind::Flat } else { AddressKind::FlatBase }
    } else if mode.has(Mode::FLAT | Mode::CODE32 | Mode::STACK32) && size == 4 && plain_segment {
        AddressKind::Flat32
    } else {
        AddressKind::Full
    }
}

fn plain_segment(instruction: &Instruction, mode: Mode) -> bool {
    match instruction.memory_segment() {
        Register::FS | Register::GS => false,
        // Not writable outside 64-bit mode.
        Register::CS => mode.has(Mode::LONG64),
        _ => true,
    }
}
