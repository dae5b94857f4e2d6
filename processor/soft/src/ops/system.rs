//! System instructions: control and debug registers, descriptor tables, MSRs, SYSCALL and SYSENTER, CPUID, TSC, HLT.

use crate::cpu::{Cpu, Mode, SegmentRegister, rflags, vector};
use crate::debug::dr6;
use crate::int::Int;
use crate::memory::{Address, Full};
use crate::mmu::is_canonical;
use crate::op::{Fault, Flow, Handler, Op, fallible, handler};
use crate::ops::{self, Selection};
use bulkhead_engine::{Activity, CpuidContext, DescriptorTable, Segment};
use iced_x86::{Code, Instruction, Mnemonic, OpKind};
use std::sync::atomic::{Ordering, fence};

/// Privileged instructions outside CPL 0: #GP(0).
fn privileged(cpu: &mut Cpu) -> Result<(), Fault> {
    if cpu.cpl != 0 { Err(cpu.gp()) } else { Ok(()) }
}

/// Done, and what blocks depend on may have changed.
fn sync(result: Result<(), Fault>) -> Flow {
    match result {
        Ok(()) => Flow::Sync,
        Err(Fault) => Flow::Fault,
    }
}

/// Width of control and debug register moves: 64 bits in 64-bit mode, else 32.
fn operand(cpu: &Cpu, register: u8) -> u64 {
    if cpu.is_long64() { cpu.reg::<u64>(register) } else { u64::from(cpu.reg::<u32>(register)) }
}

fn set_operand(cpu: &mut Cpu, register: u8, value: u64) {
    if cpu.is_long64() { cpu.set_reg(register, value) } else { cpu.set_reg(register, value as u32) }
}

fn read_control(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    privileged(cpu)?;
    let value = match op.rm {
        0 => cpu.cr0,
        2 => cpu.cr2,
        3 => cpu.cr3,
        4 => cpu.cr4,
        8 => cpu.cr8(),
        _ => return Err(cpu.raise(vector::UD)),
    };
    set_operand(cpu, op.reg, value);
    Ok(())
}

fn write_control(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = operand(cpu, op.rm);
    let result = privileged(cpu).and_then(|()| match op.reg {
        0 => cpu.write_cr0(value),
        2 => {
            cpu.cr2 = value;
            Ok(())
        }
        3 => cpu.write_cr3(value),
        4 => cpu.write_cr4(value),
        8 if value <= 15 => {
            cpu.set_cr8(value);
            Ok(())
        }
        8 => Err(cpu.gp()),
        _ => Err(cpu.raise(vector::UD)),
    });
    sync(result)
}

/// DR4 and DR5 are DR6 and DR7 unless CR4.DE is set. DR7.GD makes every access a #DB.
fn debug_register(cpu: &mut Cpu, number: u8) -> Result<usize, Fault> {
    privileged(cpu)?;
    let index = match number {
        4 | 5 if cpu.cr4 & 1 << 3 != 0 => return Err(cpu.raise(vector::UD)),
        0..=3 => usize::from(number),
        4 | 6 => 4,
        5 | 7 => 5,
        _ => return Err(cpu.raise(vector::UD)),
    };
    if cpu.dr[5] & 1 << 13 != 0 {
        let fault = cpu.raise(vector::DB);
        cpu.fault.payload = dr6::BD;
        return Err(fault);
    }
    Ok(index)
}

fn read_debug(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let index = debug_register(cpu, op.rm)?;
    set_operand(cpu, op.reg, cpu.dr[index]);
    Ok(())
}

fn write_debug(cpu: &mut Cpu, op: &Op) -> Flow {
    let value = operand(cpu, op.rm);
    let result = debug_register(cpu, op.reg).and_then(|index| {
        if index >= 4 && value >> 32 != 0 {
            return Err(cpu.gp());
        }
        cpu.dr[index] = match index {
            4 => value & 0xe00f | dr6::FIXED,
            5 => value & 0xffff_2bff | 0x400,
            _ => value,
        };
        cpu.select_tlb();
        Ok(())
    });
    sync(result)
}

/// LMSW: never clears PE.
fn load_machine_status<const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    let result = privileged(cpu).and_then(|()| {
        let value = if MEMORY { cpu.read::<u16, Full>(op)? } else { cpu.reg::<u16>(op.reg) };
        let value = u64::from(value) & 0xf | cpu.cr0 & 1;
        cpu.write_cr0(cpu.cr0 & !0xf | value)
    });
    sync(result)
}

fn store_machine_status<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    cpu.set_reg(op.reg, T::from_u64(cpu.cr0));
    Flow::Next
}

fn store_machine_status_memory(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    cpu.write::<u16, Full>(op, cpu.cr0 as u16)
}

fn clear_task_switched(cpu: &mut Cpu, _: &Op) -> Flow {
    let result = privileged(cpu);
    if result.is_ok() {
        cpu.cr0 &= !(1 << 3);
        cpu.update_mode();
    }
    sync(result)
}

fn invalidate_page(cpu: &mut Cpu, op: &Op) -> Flow {
    let result = privileged(cpu);
    if result.is_ok() {
        let offset = Full::offset(cpu, op);
        let linear = if cpu.is_long64() && op.seg & 6 != 4 {
            offset
        } else {
            cpu.segments[usize::from(op.seg & 7)].base.wrapping_add(offset)
        };
        cpu.flush_tlb_page(if cpu.is_lma() { linear } else { linear & 0xffff_ffff });
    }
    sync(result)
}

fn load_table<const INTERRUPT: bool, W: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let result = privileged(cpu).and_then(|()| {
        let offset = Full::offset(cpu, op);
        let mask = u64::MAX >> (64 - 8 * u32::from(op.address_size & 15));
        let limit = cpu.read_at::<u16, Full>(op.seg, offset)?;
        let base = offset.wrapping_add(2) & mask;
        let base = match W::BITS {
            64 => cpu.read_at::<u64, Full>(op.seg, base)?,
            // With a 16-bit operand the base has 24 bits.
            16 => u64::from(cpu.read_at::<u32, Full>(op.seg, base)? & 0xff_ffff),
            _ => u64::from(cpu.read_at::<u32, Full>(op.seg, base)?),
        };
        if !is_canonical(base) {
            return Err(cpu.gp());
        }
        *(if INTERRUPT { &mut cpu.idtr } else { &mut cpu.gdtr }) = DescriptorTable { base, limit };
        Ok(())
    });
    sync(result)
}

fn store_table<const INTERRUPT: bool, W: Int>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let DescriptorTable { base, limit } = if INTERRUPT { cpu.idtr } else { cpu.gdtr };
    let offset = Full::offset(cpu, op);
    let mut image = [0; 10];
    image[..2].copy_from_slice(&limit.to_le_bytes());
    image[2..].copy_from_slice(&base.to_le_bytes());
    let len = if W::BITS == 64 { 10 } else { 6 };
    let linear = Full::linear(cpu, op.seg, offset, len, true)?;
    cpu.store_bytes(linear, &image[..len as usize], op.seg)
}

fn swap_gs(cpu: &mut Cpu, _: &Op) -> Result<(), Fault> {
    privileged(cpu)?;
    std::mem::swap(&mut cpu.segments[5].base, &mut cpu.msrs.kernel_gs_base);
    Ok(())
}

/// RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE.
fn segment_base<T: Int, const SEG: usize, const WRITE: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    if cpu.cr4 & 1 << 16 == 0 {
        return Err(cpu.raise(vector::UD));
    }
    if WRITE {
        let base = cpu.reg::<T>(op.reg).to_u64();
        if !is_canonical(base) {
            return Err(cpu.gp());
        }
        cpu.segments[SEG].base = base;
    } else {
        cpu.set_reg(op.reg, T::from_u64(cpu.segments[SEG].base));
    }
    Ok(())
}

fn edx_eax(cpu: &Cpu) -> u64 {
    cpu.regs[2] << 32 | cpu.regs[0] & 0xffff_ffff
}

fn set_edx_eax(cpu: &mut Cpu, value: u64) {
    cpu.regs[0] = value & 0xffff_ffff;
    cpu.regs[2] = value >> 32;
}

fn read_msr(cpu: &mut Cpu, _: &Op) -> Flow {
    let result = privileged(cpu).and_then(|()| {
        let number = cpu.regs[1] as u32;
        match cpu.read_msr(number) {
            Some(value) => {
                set_edx_eax(cpu, value);
                Ok(())
            }
            None => Err(cpu.gp()),
        }
    });
    sync(result)
}

fn write_msr(cpu: &mut Cpu, _: &Op) -> Flow {
    let result = privileged(cpu).and_then(|()| {
        let (number, value) = (cpu.regs[1] as u32, edx_eax(cpu));
        cpu.write_msr(number, value).ok_or(()).map_err(|()| cpu.gp())
    });
    sync(result)
}

fn read_tsc<const AUX: bool>(cpu: &mut Cpu, _: &Op) -> Result<(), Fault> {
    if cpu.cr4 & 1 << 2 != 0 && cpu.cpl != 0 && cpu.cr0 & 1 != 0 {
        return Err(cpu.gp());
    }
    let tsc = cpu.tsc();
    set_edx_eax(cpu, tsc);
    if AUX {
        cpu.regs[1] = cpu.msrs.tsc_aux & 0xffff_ffff;
    }
    Ok(())
}

fn read_pid(cpu: &mut Cpu, op: &Op) -> Flow {
    cpu.set_reg(op.reg, cpu.msrs.tsc_aux);
    Flow::Next
}

/// No performance counters.
fn read_pmc(cpu: &mut Cpu, _: &Op) -> Result<(), Fault> {
    Err(cpu.gp())
}

fn cpuid(cpu: &mut Cpu, _: &Op) -> Flow {
    let (leaf, subleaf) = (cpu.regs[0] as u32, cpu.regs[1] as u32);
    let context = CpuidContext {
        apic_id: cpu.index as u32,
        osxsave: cpu.cr4 & 1 << 18 != 0,
        apic_enabled: cpu.apic_base & 1 << 11 != 0,
        xcr0: cpu.xcr0,
    };
    let table = &cpu.partition.cpuid;
    let mut value = table.query(leaf, subleaf, context);
    if table.is_dynamic(leaf)
        && let Some(answer) = cpu.exit(|exits| exits.cpuid(leaf, subleaf, value))
    {
        value = answer;
    }
    for (register, word) in [(0, value.eax), (3, value.ebx), (1, value.ecx), (2, value.edx)] {
        cpu.regs[register] = u64::from(word);
    }
    Flow::Sync
}

fn halt(cpu: &mut Cpu, _: &Op) -> Flow {
    let result = privileged(cpu);
    if result.is_ok() {
        cpu.events.halts += 1;
        cpu.activity = Activity::Halted;
        // Whatever can be taken now ends the halt.
        cpu.interrupt_waiting = true;
    }
    sync(result)
}

fn write_back_caches(cpu: &mut Cpu, _: &Op) -> Result<(), Fault> {
    privileged(cpu)
}

fn get_xcr(cpu: &mut Cpu, _: &Op) -> Result<(), Fault> {
    if cpu.cr4 & 1 << 18 == 0 {
        return Err(cpu.raise(vector::UD));
    }
    if cpu.regs[1] as u32 != 0 {
        return Err(cpu.gp());
    }
    set_edx_eax(cpu, cpu.xcr0);
    Ok(())
}

fn set_xcr(cpu: &mut Cpu, _: &Op) -> Flow {
    if cpu.cr4 & 1 << 18 == 0 {
        cpu.raise(vector::UD);
        return Flow::Fault;
    }
    let result = privileged(cpu).and_then(|()| {
        let value = edx_eax(cpu);
        let legal = cpu.regs[1] as u32 == 0 && value & 1 != 0 && value & !cpu.features.xcr0 == 0 && value & 6 != 4;
        if !legal {
            return Err(cpu.gp());
        }
        cpu.xcr0 = value;
        cpu.update_mode();
        Ok(())
    });
    sync(result)
}

/// MFENCE and locked no-ops: stores become visible before later loads.
fn memory_fence(_: &mut Cpu, _: &Op) -> Flow {
    fence(Ordering::SeqCst);
    Flow::Next
}

fn no_operation(_: &mut Cpu, _: &Op) -> Flow {
    Flow::Next
}

/// A VP that waits long for another one lets it run: it may be waiting for this very host processor.
fn pause(cpu: &mut Cpu, _: &Op) -> Flow {
    const PATIENCE: u32 = 256;
    cpu.pauses = cpu.pauses.wrapping_add(1);
    if cpu.pauses.is_multiple_of(PATIENCE) && cpu.partition.vps.len() > 1 {
        std::thread::yield_now();
    }
    Flow::Next
}

/// SERIALIZE: what other processors wrote must be decoded again.
fn serialize(_: &mut Cpu, _: &Op) -> Flow {
    Flow::Sync
}

/// CLFLUSH and relatives: memory is coherent; only the fault of the access is left.
fn flush_line(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    cpu.read::<u8, Full>(op).map(drop)
}

/// A flat segment as SYSCALL, SYSENTER and their returns make it.
fn flat(selector: u16, attributes: u16) -> SegmentRegister {
    Segment { base: 0, limit: u32::MAX, selector, attributes }.into()
}

const CODE: u16 = 0xc09b;
const CODE64: u16 = 0xa09b;
const DATA: u16 = 0xc093;
const DPL3: u16 = 0x60;

fn syscall(cpu: &mut Cpu, op: &Op) -> Flow {
    if cpu.efer & 1 == 0 || cpu.is_real_or_v86() {
        cpu.raise(vector::UD);
        return Flow::Fault;
    }
    let next = cpu.rip_after(op);
    let selector = (cpu.msrs.star >> 32) as u16 & !3;
    cpu.segments[2] = flat(selector.wrapping_add(8), DATA);
    if cpu.is_lma() {
        let target = if cpu.is_long64() { cpu.msrs.lstar } else { cpu.msrs.cstar };
        cpu.regs[1] = next;
        cpu.regs[11] = cpu.rflags() & !rflags::RF;
        let flags = cpu.rflags() & !(cpu.msrs.syscall_mask | rflags::RF);
        cpu.set_rflags(flags);
        cpu.set_code_segment(flat(selector, CODE64), 0);
        cpu.set_rip(target);
    } else {
        cpu.regs[1] = next;
        cpu.system_flags &= !(rflags::VM | rflags::IF | rflags::RF);
        cpu.set_code_segment(flat(selector, CODE), 0);
        cpu.set_rip(cpu.msrs.star & 0xffff_ffff);
    }
    Flow::Far
}

fn sysret<const LONG: bool>(cpu: &mut Cpu, _: &Op) -> Flow {
    if cpu.efer & 1 == 0 || cpu.is_real_or_v86() {
        cpu.raise(vector::UD);
        return Flow::Fault;
    }
    let target = if LONG { cpu.regs[1] } else { cpu.regs[1] & 0xffff_ffff };
    if cpu.cpl != 0 || !is_canonical(target) {
        cpu.gp();
        return Flow::Fault;
    }
    let base = (cpu.msrs.star >> 48) as u16;
    let selector = if LONG { base.wrapping_add(16) } else { base } | 3;
    cpu.segments[2] = flat(base.wrapping_add(8) | 3, DATA | DPL3);
    if cpu.is_lma() {
        let settable = 0x3c_7fd7;
        let flags = cpu.regs[11] & settable;
        cpu.set_rflags(flags);
    } else {
        cpu.system_flags |= rflags::IF;
    }
    cpu.set_code_segment(flat(selector, if LONG { CODE64 } else { CODE } | DPL3), 3);
    cpu.set_rip(target);
    Flow::Far
}

fn sysenter(cpu: &mut Cpu, _: &Op) -> Flow {
    let [selector, stack, target] = cpu.msrs.sysenter;
    let selector = selector as u16 & !3;
    if cpu.cr0 & 1 == 0 || selector == 0 {
        cpu.gp();
        return Flow::Fault;
    }
    let lma = cpu.is_lma();
    cpu.system_flags &= !(rflags::VM | rflags::IF | rflags::RF);
    cpu.segments[2] = flat(selector.wrapping_add(8), DATA);
    cpu.set_code_segment(flat(selector, if lma { CODE64 } else { CODE }), 0);
    cpu.regs[4] = if lma { stack } else { stack & 0xffff_ffff };
    cpu.set_rip(if lma { target } else { target & 0xffff_ffff });
    Flow::Far
}

fn sysexit<const LONG: bool>(cpu: &mut Cpu, _: &Op) -> Flow {
    let selector = cpu.msrs.sysenter[0] as u16 & !3;
    let (target, stack) = (cpu.regs[2], cpu.regs[1]);
    if cpu.is_real_or_v86() || cpu.cpl != 0 || selector == 0 || LONG && !(is_canonical(target) && is_canonical(stack)) {
        cpu.gp();
        return Flow::Fault;
    }
    let (code, data) = if LONG { (32, 40) } else { (16, 24) };
    cpu.segments[2] = flat(selector.wrapping_add(data) | 3, DATA | DPL3);
    let attributes = if LONG { CODE64 } else { CODE } | DPL3;
    cpu.set_code_segment(flat(selector.wrapping_add(code) | 3, attributes), 3);
    cpu.regs[4] = if LONG { stack } else { stack & 0xffff_ffff };
    cpu.set_rip(if LONG { target } else { target & 0xffff_ffff });
    Flow::Far
}

/// Returns and calls without operands that are no CALL, RET or IRET.
pub(crate) fn select_return(s: &Selection) -> Option<Handler> {
    Some(match s.instruction.code() {
        Code::Sysretd => handler(sysret::<false>),
        Code::Sysretq => handler(sysret::<true>),
        Code::Sysexitd => handler(sysexit::<false>),
        Code::Sysexitq => handler(sysexit::<true>),
        _ => return None,
    })
}

/// The group's handlers.
pub(crate) fn select(s: &Selection, _: &mut Op) -> Option<Handler> {
    let memory = s.instruction.op_count() > 0 && s.instruction.op0_kind() == OpKind::Memory;
    Some(match s.instruction.code() {
        Code::Mov_r32_cr | Code::Mov_r64_cr => fallible(read_control),
        Code::Mov_cr_r32 | Code::Mov_cr_r64 => handler(write_control),
        Code::Mov_r32_dr | Code::Mov_r64_dr => fallible(read_debug),
        Code::Mov_dr_r32 | Code::Mov_dr_r64 => handler(write_debug),
        Code::Lgdt_m1632_16 => handler(load_table::<false, u16>),
        Code::Lgdt_m1632 => handler(load_table::<false, u32>),
        Code::Lgdt_m1664 => handler(load_table::<false, u64>),
        Code::Lidt_m1632_16 => handler(load_table::<true, u16>),
        Code::Lidt_m1632 => handler(load_table::<true, u32>),
        Code::Lidt_m1664 => handler(load_table::<true, u64>),
        Code::Sgdt_m1632_16 | Code::Sgdt_m1632 => fallible(store_table::<false, u32>),
        Code::Sgdt_m1664 => fallible(store_table::<false, u64>),
        Code::Sidt_m1632_16 | Code::Sidt_m1632 => fallible(store_table::<true, u32>),
        Code::Sidt_m1664 => fallible(store_table::<true, u64>),
        Code::Rdfsbase_r32 => fallible(segment_base::<u32, 4, false>),
        Code::Rdfsbase_r64 => fallible(segment_base::<u64, 4, false>),
        Code::Rdgsbase_r32 => fallible(segment_base::<u32, 5, false>),
        Code::Rdgsbase_r64 => fallible(segment_base::<u64, 5, false>),
        Code::Wrfsbase_r32 => fallible(segment_base::<u32, 4, true>),
        Code::Wrfsbase_r64 => fallible(segment_base::<u64, 4, true>),
        Code::Wrgsbase_r32 => fallible(segment_base::<u32, 5, true>),
        Code::Wrgsbase_r64 => fallible(segment_base::<u64, 5, true>),
        Code::Smsw_r32m16 if !memory => handler(store_machine_status::<u32>),
        Code::Smsw_r64m16 if !memory => handler(store_machine_status::<u64>),
        Code::Smsw_rm16 if !memory => handler(store_machine_status::<u16>),
        _ => return select_by_name(s, memory),
    })
}

fn select_by_name(s: &Selection, memory: bool) -> Option<Handler> {
    Some(match s.instruction.mnemonic() {
        Mnemonic::Lmsw if memory => handler(load_machine_status::<true>),
        Mnemonic::Lmsw => handler(load_machine_status::<false>),
        Mnemonic::Smsw => fallible(store_machine_status_memory),
        Mnemonic::Clts => handler(clear_task_switched),
        Mnemonic::Invlpg => handler(invalidate_page),
        Mnemonic::Swapgs => fallible(swap_gs),
        Mnemonic::Rdmsr => handler(read_msr),
        Mnemonic::Wrmsr => handler(write_msr),
        Mnemonic::Rdtsc => fallible(read_tsc::<false>),
        Mnemonic::Rdtscp => fallible(read_tsc::<true>),
        Mnemonic::Rdpid => handler(read_pid),
        Mnemonic::Rdpmc => fallible(read_pmc),
        Mnemonic::Cpuid => handler(cpuid),
        Mnemonic::Hlt => handler(halt),
        Mnemonic::Wbinvd | Mnemonic::Invd | Mnemonic::Wbnoinvd => fallible(write_back_caches),
        Mnemonic::Xgetbv => fallible(get_xcr),
        Mnemonic::Xsetbv => handler(set_xcr),
        Mnemonic::Mfence => handler(memory_fence),
        Mnemonic::Serialize => handler(serialize),
        Mnemonic::Pause => handler(pause),
        Mnemonic::Clflush | Mnemonic::Clflushopt | Mnemonic::Clwb => fallible(flush_line),
        Mnemonic::Syscall => handler(syscall),
        Mnemonic::Sysenter => handler(sysenter),
        Mnemonic::Nop | Mnemonic::Lfence | Mnemonic::Sfence | Mnemonic::Reservednop => handler(no_operation),
        Mnemonic::Prefetcht0 | Mnemonic::Prefetcht1 | Mnemonic::Prefetcht2 | Mnemonic::Prefetchnta => {
            handler(no_operation)
        }
        hint if crate::features::is_hint(hint) => handler(no_operation),
        Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2 | Mnemonic::Vmcall | Mnemonic::Vmmcall | Mnemonic::Rsm => {
            ops::undefined()
        }
        _ => return None,
    })
}

/// Whether the block must end behind the instruction.
pub(crate) fn ends_block(instruction: &Instruction) -> bool {
    matches!(
        instruction.mnemonic(),
        Mnemonic::Lmsw
            | Mnemonic::Clts
            | Mnemonic::Invlpg
            | Mnemonic::Rdmsr
            | Mnemonic::Wrmsr
            | Mnemonic::Cpuid
            | Mnemonic::Hlt
            | Mnemonic::Xsetbv
            | Mnemonic::Serialize
            | Mnemonic::Lgdt
            | Mnemonic::Lidt
    ) || matches!(instruction.code(), Code::Mov_cr_r32 | Code::Mov_cr_r64 | Code::Mov_dr_r32 | Code::Mov_dr_r64)
}

impl Cpu {
    /// MOV CR0.
    pub(crate) fn write_cr0(&mut self, value: u64) -> Result<(), Fault> {
        const PE: u64 = 1;
        const WP: u64 = 1 << 16;
        const NW: u64 = 1 << 29;
        const CD: u64 = 1 << 30;
        const PG: u64 = 1 << 31;
        const KNOWN: u64 = 0xe005_003f;
        let lme = self.efer & 1 << 8 != 0;
        let enters_paging = value & PG != 0 && self.cr0 & PG == 0;
        let leaves_paging = value & PG == 0 && self.cr0 & PG != 0;
        let legal = value >> 32 == 0
            && (value & PG == 0 || value & PE != 0)
            && (value & NW == 0 || value & CD != 0)
            && !(leaves_paging && self.mode.has(Mode::LONG64))
            && !(enters_paging && lme && (self.cr4 & 1 << 5 == 0 || self.segments[1].attributes & Segment::LONG != 0));
        if !legal {
            return Err(self.gp());
        }
        let old = self.cr0;
        // ET is always one.
        self.cr0 = value & KNOWN | 1 << 4;
        if enters_paging && lme {
            self.efer |= 1 << 10;
        } else if leaves_paging {
            self.efer &= !(1 << 10);
        }
        if (old ^ value) & (PE | WP | PG) != 0 {
            self.flush_tlb();
        }
        if old & PE != 0 && value & PE == 0 {
            self.cpl = 0;
        }
        self.update_mode();
        Ok(())
    }

    /// MOV CR3.
    pub(crate) fn write_cr3(&mut self, value: u64) -> Result<(), Fault> {
        if self.is_lma() && value >> bulkhead_engine::cpu_model::PHYSICAL_BITS != 0 {
            return Err(self.gp());
        }
        self.events.cr3_loads += 1;
        self.cr3 = value;
        self.flush_tlb_non_global();
        Ok(())
    }

    /// MOV CR4.
    pub(crate) fn write_cr4(&mut self, value: u64) -> Result<(), Fault> {
        const PAE: u64 = 1 << 5;
        /// PSE, PAE, PGE, SMEP.
        const TRANSLATION: u64 = 1 << 4 | PAE | 1 << 7 | 1 << 20;
        let legal = value & !self.features.cr4 == 0 && !(self.is_lma() && value & PAE == 0);
        if !legal {
            return Err(self.gp());
        }
        if (self.cr4 ^ value) & TRANSLATION != 0 {
            self.cr4 = value;
            self.flush_tlb();
        }
        self.cr4 = value;
        self.update_mode();
        Ok(())
    }
}
