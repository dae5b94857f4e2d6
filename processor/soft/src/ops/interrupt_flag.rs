//! CLI, STI, PUSHF, POPF.

use crate::cpu::{Cpu, rflags};
use crate::int::Int;
use crate::memory::Full;
use crate::op::{Fault, Flow, Handler, Op, fallible, handler};
use crate::ops::Selection;
use bulkhead_engine::InterruptShadow;
use iced_x86::{Code, Mnemonic};

/// Whether CLI and STI are allowed: CPL ≤ IOPL; in virtual-8086 mode (whose CPL is 3) IOPL must be 3.
fn may_change_if(cpu: &mut Cpu) -> Result<(), Fault> {
    let iopl = (cpu.system_flags >> 12 & 3) as u8;
    if cpu.cr0 & 1 != 0 && cpu.cpl > iopl { Err(cpu.gp()) } else { Ok(()) }
}

#[inline(always)]
fn cli(cpu: &mut Cpu, _: &Op) -> Result<(), Fault> {
    may_change_if(cpu)?;
    cpu.system_flags &= !rflags::IF;
    Ok(())
}

fn sti(cpu: &mut Cpu, _: &Op) -> Flow {
    match may_change_if(cpu) {
        Err(Fault) => Flow::Fault,
        Ok(()) if cpu.system_flags & rflags::IF != 0 => Flow::Sync,
        Ok(()) => {
            cpu.system_flags |= rflags::IF;
            cpu.shadow = InterruptShadow::Sti;
            Flow::Sync
        }
    }
}

/// PUSHF and POPF in virtual-8086 mode need IOPL 3.
fn check_v86(cpu: &mut Cpu) -> Result<(), Fault> {
    let trapped = cpu.system_flags & (rflags::VM | rflags::IOPL);
    if trapped & rflags::VM != 0 && trapped & rflags::IOPL != rflags::IOPL { Err(cpu.gp()) } else { Ok(()) }
}

fn pushf<T: Int>(cpu: &mut Cpu, _: &Op) -> Result<(), Fault> {
    check_v86(cpu)?;
    let value = cpu.rflags() & !(rflags::VM | rflags::RF);
    cpu.push::<T, Full>(T::from_u64(value))
}

fn popf<T: Int>(cpu: &mut Cpu, _: &Op) -> Flow {
    let result = check_v86(cpu).and_then(|()| cpu.pop::<T, Full>());
    let Ok(value) = result else { return Flow::Fault };
    let cpl = if cpu.cr0 & 1 == 0 { 0 } else { cpu.cpl };
    let writable = cpu.writable_flags(cpl) & !(rflags::RF | rflags::VIF | rflags::VIP);
    let old = cpu.system_flags;
    cpu.load_flags(value.to_u64(), writable, T::SIZE as u32);
    cpu.system_flags &= !rflags::RF;
    if (old ^ cpu.system_flags) & rflags::AC != 0 {
        cpu.select_tlb();
    }
    Flow::Sync
}

/// The group's handlers.
pub(crate) fn select(s: &Selection, _: &mut Op) -> Option<Handler> {
    Some(match s.instruction.code() {
        Code::Cli => fallible(cli),
        Code::Sti => handler(sti),
        Code::Pushfw => fallible(pushf::<u16>),
        Code::Pushfd => fallible(pushf::<u32>),
        Code::Pushfq => fallible(pushf::<u64>),
        Code::Popfw => handler(popf::<u16>),
        Code::Popfd => handler(popf::<u32>),
        Code::Popfq => handler(popf::<u64>),
        _ => return None,
    })
}

/// Whether the block must end behind the instruction.
pub(crate) fn ends_block(instruction: &iced_x86::Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Sti | Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq)
}
