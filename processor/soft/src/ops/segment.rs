//! Segment registers as operands, and the instructions that look at descriptors.

use crate::cpu::{Cpu, rflags, vector};
use crate::int::Int;
use crate::memory::{Address, Full};
use crate::op::{Fault, Flow, Handler, Op, fallible, handler};
use crate::ops::Selection;
use crate::ops::form::by_wide_size;
use crate::segment::{FS, SS, system};
use bulkhead_engine::{InterruptShadow, Segment};
use iced_x86::{Code, Mnemonic, OpKind};

/// After a segment register was loaded: the block goes on only if nothing that blocks depend on may have changed.
fn loaded(cpu: &mut Cpu, seg: usize, result: Result<(), Fault>) -> Flow {
    match result {
        Err(Fault) => Flow::Fault,
        Ok(()) if seg == SS => {
            cpu.shadow = InterruptShadow::MovSs;
            Flow::Sync
        }
        Ok(()) if seg < FS && !cpu.is_long64() => Flow::Sync,
        Ok(()) => Flow::Next,
    }
}

fn move_from_register(cpu: &mut Cpu, op: &Op) -> Flow {
    let selector = cpu.reg::<u16>(op.rm);
    let seg = usize::from(op.reg);
    let result = cpu.load_segment(seg, selector);
    loaded(cpu, seg, result)
}

fn move_from_memory(cpu: &mut Cpu, op: &Op) -> Flow {
    let seg = usize::from(op.reg);
    let result = cpu.read::<u16, Full>(op).and_then(|selector| cpu.load_segment(seg, selector));
    loaded(cpu, seg, result)
}

fn move_to_register<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let selector = cpu.segments[usize::from(op.rm & 7)].selector;
    cpu.set_reg(op.reg, T::from_u64(u64::from(selector)));
    Flow::Next
}

fn move_to_memory(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let selector = cpu.segments[usize::from(op.reg & 7)].selector;
    cpu.write::<u16, Full>(op, selector)
}

fn push<T: Int>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let selector = cpu.segments[usize::from(op.reg & 7)].selector;
    if T::BITS == 16 {
        return cpu.push::<u16, Full>(selector);
    }
    cpu.push::<T, Full>(T::from_u64(u64::from(selector)))
}

fn pop<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let seg = usize::from(op.reg & 7);
    let old = cpu.regs[4];
    let (sp, mask) = (cpu.regs[4].wrapping_add(T::SIZE), cpu.stack_mask());
    let result = cpu.peek(T::SIZE as u32, 0).and_then(|selector| cpu.load_segment(seg, selector as u16));
    if result.is_ok() {
        // With the width of the old stack segment.
        cpu.regs[4] = old;
        cpu.set_stack_pointer(sp, mask);
    }
    loaded(cpu, seg, result)
}

/// LES, LDS, LSS, LFS, LGS.
fn load_pointer<T: Int, const SEG: usize>(cpu: &mut Cpu, op: &Op) -> Flow {
    let mask = u64::MAX >> (64 - 8 * u32::from(op.address_size & 15));
    let offset = Full::offset(cpu, op);
    let result = cpu.read_at::<T, Full>(op.seg, offset).and_then(|value| {
        let selector = cpu.read_at::<u16, Full>(op.seg, offset.wrapping_add(T::SIZE) & mask)?;
        cpu.load_segment(SEG, selector)?;
        cpu.set_reg(op.reg, value);
        Ok(())
    });
    let flow = loaded(cpu, SEG, result);
    if SEG == SS {
        // Unlike MOV SS, LSS holds nothing off.
        cpu.shadow = InterruptShadow::None;
    }
    flow
}

fn read_selector(cpu: &mut Cpu, op: &Op, memory: bool, register: u8) -> Result<u16, Fault> {
    if memory { cpu.read::<u16, Full>(op) } else { Ok(cpu.reg(register)) }
}

fn set_zero(cpu: &mut Cpu, zero: bool) {
    let flags = cpu.flags.get() & !rflags::ZF;
    cpu.flags.set(flags | if zero { rflags::ZF } else { 0 });
}

/// Whether LAR, LSL, VERR and VERW may look at a descriptor at all.
fn is_visible(cpu: &Cpu, descriptor: &crate::segment::Descriptor, selector: u16) -> bool {
    let rpl = (selector & 3) as u8;
    descriptor.is_conforming() || rpl.max(cpu.cpl) <= descriptor.dpl()
}

/// VERR, VERW.
fn verify<const WRITE: bool, const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    if cpu.is_real_or_v86() {
        return Err(cpu.raise(vector::UD));
    }
    let selector = read_selector(cpu, op, MEMORY, op.reg)?;
    let found = if selector & !3 == 0 { None } else { cpu.find_descriptor(selector)? };
    let good = found.is_some_and(|descriptor| {
        let right = if WRITE { descriptor.is_writable() } else { descriptor.is_readable() };
        right && is_visible(cpu, &descriptor, selector)
    });
    set_zero(cpu, good);
    Ok(())
}

/// LAR, LSL.
fn load_rights<T: Int, const LIMIT: bool, const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    if cpu.is_real_or_v86() {
        return Err(cpu.raise(vector::UD));
    }
    let selector = read_selector(cpu, op, MEMORY, op.rm)?;
    let found = if selector & !3 == 0 { None } else { cpu.find_descriptor(selector)? };
    let value = found.and_then(|descriptor| {
        let lma = cpu.is_lma();
        let kind_fits = descriptor.is_segment()
            || match descriptor.kind() {
                system::LDT | system::TSS_AVAILABLE | system::TSS_BUSY => true,
                system::TSS_AVAILABLE_16 | system::TSS_BUSY_16 => !lma,
                system::CALL_GATE => !LIMIT,
                system::CALL_GATE_16 | system::TASK_GATE => !LIMIT && !lma,
                _ => false,
            };
        let value = if LIMIT { u64::from(descriptor.limit()) } else { descriptor.raw >> 32 & 0x00ff_ff00 };
        (kind_fits && is_visible(cpu, &descriptor, selector)).then_some(value)
    });
    if let Some(value) = value {
        cpu.set_reg(op.reg, T::from_u64(value));
    }
    set_zero(cpu, value.is_some());
    Ok(())
}

fn arpl<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    if cpu.is_real_or_v86() {
        return Err(cpu.raise(vector::UD));
    }
    let source = cpu.reg::<u16>(if MEMORY { op.reg } else { op.rm }) & 3;
    let adjust = |selector: u16| if selector & 3 < source { selector & !3 | source } else { selector };
    let old = if MEMORY {
        let mut old = 0;
        cpu.update::<u16, Full>(op, |_, selector| {
            old = selector;
            adjust(selector)
        })?;
        old
    } else {
        let old = cpu.reg::<u16>(op.reg);
        cpu.set_reg(op.reg, adjust(old));
        old
    };
    set_zero(cpu, old & 3 < source);
    Ok(())
}

fn bound<T: Int>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let offset = Full::offset(cpu, op);
    let index = cpu.reg::<T>(op.reg).to_i64();
    if index < cpu.read_at::<T, Full>(op.seg, offset)?.to_i64() {
        return Err(cpu.raise(vector::BR));
    }
    let upper = offset.wrapping_add(T::SIZE) & 0xffff_ffff;
    if index > cpu.read_at::<T, Full>(op.seg, upper)?.to_i64() {
        return Err(cpu.raise(vector::BR));
    }
    Ok(())
}

/// LLDT.
fn load_ldt<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let selector = system_selector::<MEMORY>(cpu, op)?;
    if selector & !3 == 0 {
        cpu.ldtr = Segment { selector, ..Segment::default() }.into();
        return Ok(());
    }
    let code = u32::from(selector & !3);
    let found = if selector & 4 != 0 { None } else { cpu.find_descriptor(selector)? };
    match found {
        Some(descriptor) if !descriptor.is_segment() && descriptor.kind() == system::LDT => {
            if !descriptor.is_present() {
                return Err(cpu.raise_code(vector::NP, code));
            }
            cpu.ldtr = descriptor.register(selector);
            Ok(())
        }
        _ => Err(cpu.raise_code(vector::GP, code)),
    }
}

/// LTR.
fn load_task<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let selector = system_selector::<MEMORY>(cpu, op)?;
    if selector & !3 == 0 {
        return Err(cpu.gp());
    }
    let code = u32::from(selector & !3);
    let found = if selector & 4 != 0 { None } else { cpu.find_descriptor(selector)? };
    let Some(mut descriptor) = found else { return Err(cpu.raise_code(vector::GP, code)) };
    let available =
        descriptor.kind() == system::TSS_AVAILABLE || descriptor.kind() == system::TSS_AVAILABLE_16 && !cpu.is_lma();
    if descriptor.is_segment() || !available {
        return Err(cpu.raise_code(vector::GP, code));
    }
    if !descriptor.is_present() {
        return Err(cpu.raise_code(vector::NP, code));
    }
    // Busy.
    descriptor.raw |= 1 << 41;
    cpu.store_system(descriptor.address.wrapping_add(5), 1, descriptor.raw >> 40 & 0xff)?;
    cpu.tr = descriptor.register(selector);
    Ok(())
}

fn system_selector<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Result<u16, Fault> {
    if cpu.is_real_or_v86() {
        return Err(cpu.raise(vector::UD));
    }
    if cpu.cpl != 0 {
        return Err(cpu.gp());
    }
    read_selector(cpu, op, MEMORY, op.reg)
}

/// SLDT, STR.
fn store_selector<const TASK: bool, const MEMORY: bool, T: Int>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    if cpu.is_real_or_v86() {
        return Err(cpu.raise(vector::UD));
    }
    let selector = if TASK { cpu.tr.selector } else { cpu.ldtr.selector };
    if MEMORY {
        return cpu.write::<u16, Full>(op, selector);
    }
    cpu.set_reg(op.reg, T::from_u64(u64::from(selector)));
    Ok(())
}

/// The group's handlers.
pub(crate) fn select(s: &Selection, op: &mut Op) -> Option<Handler> {
    let memory = (0..s.instruction.op_count()).any(|index| s.instruction.op_kind(index) == OpKind::Memory);
    let register_size = |index| s.instruction.op_register(index).size();
    Some(match s.instruction.code() {
        Code::Mov_Sreg_rm16 | Code::Mov_Sreg_r32m16 | Code::Mov_Sreg_r64m16 => {
            if op.reg == 1 {
                return Some(super::undefined());
            }
            if memory { handler(move_from_memory) } else { handler(move_from_register) }
        }
        Code::Mov_rm16_Sreg | Code::Mov_r32m16_Sreg | Code::Mov_r64m16_Sreg => {
            if memory {
                fallible(move_to_memory)
            } else {
                by_wide_size!(register_size(0), T => handler(move_to_register::<T>))
            }
        }
        Code::Pushw_FS | Code::Pushw_GS | Code::Pushw_ES | Code::Pushw_CS | Code::Pushw_SS | Code::Pushw_DS => {
            fallible(push::<u16>)
        }
        Code::Pushd_FS | Code::Pushd_GS | Code::Pushd_ES | Code::Pushd_CS | Code::Pushd_SS | Code::Pushd_DS => {
            fallible(push::<u32>)
        }
        Code::Pushq_FS | Code::Pushq_GS => fallible(push::<u64>),
        Code::Popw_FS | Code::Popw_GS | Code::Popw_ES | Code::Popw_SS | Code::Popw_DS => handler(pop::<u16>),
        Code::Popd_FS | Code::Popd_GS | Code::Popd_ES | Code::Popd_SS | Code::Popd_DS => handler(pop::<u32>),
        Code::Popq_FS | Code::Popq_GS => handler(pop::<u64>),
        _ => return select_by_name(s, memory),
    })
}

fn select_by_name(s: &Selection, memory: bool) -> Option<Handler> {
    let size = if s.instruction.op0_kind() == OpKind::Register { s.instruction.op0_register().size() } else { 2 };
    Some(match s.instruction.mnemonic() {
        Mnemonic::Les => by_wide_size!(size, T => handler(load_pointer::<T, 0>)),
        Mnemonic::Lds => by_wide_size!(size, T => handler(load_pointer::<T, 3>)),
        Mnemonic::Lss => by_wide_size!(size, T => handler(load_pointer::<T, 2>)),
        Mnemonic::Lfs => by_wide_size!(size, T => handler(load_pointer::<T, 4>)),
        Mnemonic::Lgs => by_wide_size!(size, T => handler(load_pointer::<T, 5>)),
        Mnemonic::Verr if memory => fallible(verify::<false, true>),
        Mnemonic::Verr => fallible(verify::<false, false>),
        Mnemonic::Verw if memory => fallible(verify::<true, true>),
        Mnemonic::Verw => fallible(verify::<true, false>),
        Mnemonic::Lar if memory => by_wide_size!(size, T => fallible(load_rights::<T, false, true>)),
        Mnemonic::Lar => by_wide_size!(size, T => fallible(load_rights::<T, false, false>)),
        Mnemonic::Lsl if memory => by_wide_size!(size, T => fallible(load_rights::<T, true, true>)),
        Mnemonic::Lsl => by_wide_size!(size, T => fallible(load_rights::<T, true, false>)),
        Mnemonic::Arpl if memory => fallible(arpl::<true>),
        Mnemonic::Arpl => fallible(arpl::<false>),
        Mnemonic::Bound if size == 2 => fallible(bound::<u16>),
        Mnemonic::Bound => fallible(bound::<u32>),
        Mnemonic::Lldt if memory => fallible(load_ldt::<true>),
        Mnemonic::Lldt => fallible(load_ldt::<false>),
        Mnemonic::Ltr if memory => fallible(load_task::<true>),
        Mnemonic::Ltr => fallible(load_task::<false>),
        Mnemonic::Sldt if memory => fallible(store_selector::<false, true, u16>),
        Mnemonic::Sldt => by_wide_size!(size, T => fallible(store_selector::<false, false, T>)),
        Mnemonic::Str if memory => fallible(store_selector::<true, true, u16>),
        Mnemonic::Str => by_wide_size!(size, T => fallible(store_selector::<true, false, T>)),
        _ => return None,
    })
}

/// Whether the block must end behind the instruction: outside 64-bit mode, what is flat may change.
pub(crate) fn ends_block(s: &iced_x86::Instruction) -> bool {
    let loads = matches!(
        s.code(),
        Code::Mov_Sreg_rm16
            | Code::Mov_Sreg_r32m16
            | Code::Mov_Sreg_r64m16
            | Code::Popw_ES
            | Code::Popw_SS
            | Code::Popw_DS
            | Code::Popd_ES
            | Code::Popd_SS
            | Code::Popd_DS
    );
    loads || matches!(s.mnemonic(), Mnemonic::Les | Mnemonic::Lds | Mnemonic::Lss)
}
