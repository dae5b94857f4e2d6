//! Control transfers: near and far JMP, CALL and RET, Jcc, LOOP, JCXZ, INT, IRET, and how blocks end.

use crate::cpu::{Cpu, Mode, rflags, vector};
use crate::exception::Origin;
use crate::int::Int;
use crate::memory::{Address, Full};
use crate::mmu::is_canonical;
use crate::op::{Fault, Flow, Handler, Op, handler};
use crate::ops::Selection;
use crate::ops::form::by_condition;
use iced_x86::{Code, FlowControl, Mnemonic, OpKind};

/// The op behind the last instruction of a block that does not transfer control itself.
pub(crate) fn end_of_block(len: u64, mode: Mode) -> Op {
    let handler = match mode.code_bits() {
        64 => handler(fall_through::<u64>),
        32 => handler(fall_through::<u32>),
        _ => handler(fall_through::<u16>),
    };
    Op {
        handler,
        imm: len,
        disp: 0,
        reg: 0,
        rm: 0,
        base: Cpu::ZERO,
        index: Cpu::ZERO,
        scale: 0,
        seg: 3,
        len: 0,
        address_size: 8,
        offset: len as u16,
        extra: 0,
    }
}

/// Put in place of the ops of dead blocks: leaves before the op.
#[inline(always)]
pub(crate) fn stale(_: &mut Cpu, _: &Op) -> Flow {
    Flow::Stale
}

#[inline(always)]
fn fall_through<W: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    go::<W>(cpu, op.imm);
    Flow::NotTaken
}

/// Moves RIP by `distance` from the block's start, cut to the width.
#[inline(always)]
fn go<W: Int>(cpu: &mut Cpu, distance: u64) {
    let rip = cpu.rip().wrapping_add(distance) & W::MASK;
    cpu.set_rip(rip);
}

/// Ends the block behind a branch that was not taken. The width is that of the code, not of the operand.
#[inline(always)]
fn go_on(cpu: &mut Cpu, op: &Op) -> Flow {
    let next = cpu.rip_after(op);
    cpu.set_rip(next);
    Flow::NotTaken
}

/// A direct branch: in 64-bit mode to a canonical address.
#[inline(always)]
fn branch<W: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let target = cpu.rip().wrapping_add(op.imm) & W::MASK;
    if W::BITS == 64 && !is_canonical(target) {
        cpu.gp();
        return Flow::Fault;
    }
    cpu.set_rip(target);
    Flow::Taken
}

/// A computed branch target.
#[inline(always)]
fn check_target<W: Int>(cpu: &mut Cpu, target: u64) -> Result<(), Fault> {
    let good = if cpu.mode.has(Mode::LONG64) {
        W::BITS == 64 && is_canonical(target) || W::BITS < 64
    } else {
        target <= u64::from(cpu.segments[1].high)
    };
    if good { Ok(()) } else { Err(cpu.gp()) }
}

#[inline(always)]
pub(super) fn jcc<W: Int, const CC: u8>(cpu: &mut Cpu, op: &Op) -> Flow {
    if cpu.flags.condition::<CC>() { branch::<W>(cpu, op) } else { go_on(cpu, op) }
}

#[inline(always)]
fn call<W: Int, A: Address>(cpu: &mut Cpu, op: &Op) -> Flow {
    let target = cpu.rip().wrapping_add(op.imm) & W::MASK;
    match push_and_go::<W, A>(cpu, op, target) {
        Ok(()) => Flow::Taken,
        Err(Fault) => Flow::Fault,
    }
}

#[inline(always)]
fn indirect(result: Result<(), Fault>) -> Flow {
    match result {
        Ok(()) => Flow::Indirect,
        Err(Fault) => Flow::Fault,
    }
}

#[inline(always)]
fn jump_to<W: Int>(cpu: &mut Cpu, target: W) -> Result<(), Fault> {
    check_target::<W>(cpu, target.to_u64())?;
    cpu.set_rip(target.to_u64());
    Ok(())
}

#[inline(always)]
fn call_to<W: Int, A: Address>(cpu: &mut Cpu, op: &Op, target: W) -> Result<(), Fault> {
    push_and_go::<W, A>(cpu, op, target.to_u64())
}

/// The return address is written before the target is checked.
#[inline(always)]
fn push_and_go<W: Int, A: Address>(cpu: &mut Cpu, op: &Op, target: u64) -> Result<(), Fault> {
    let pointer = A::cut_stack_pointer(cpu, cpu.regs[4].wrapping_sub(W::SIZE));
    let next = W::from_u64(cpu.rip_after(op));
    cpu.write_at::<W, A>(2, pointer, next)?;
    check_target::<W>(cpu, target)?;
    A::set_stack_pointer(cpu, pointer);
    cpu.set_rip(target);
    Ok(())
}

#[inline(always)]
fn jump_register<W: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let target = cpu.reg::<W>(op.reg);
    indirect(jump_to(cpu, target))
}

#[inline(always)]
fn jump_memory<W: Int, A: Address>(cpu: &mut Cpu, op: &Op) -> Flow {
    indirect(cpu.read::<W, A>(op).and_then(|target| jump_to(cpu, target)))
}

#[inline(always)]
fn call_register<W: Int, A: Address>(cpu: &mut Cpu, op: &Op) -> Flow {
    let target = cpu.reg::<W>(op.reg);
    indirect(call_to::<W, A>(cpu, op, target))
}

#[inline(always)]
fn call_memory<W: Int, A: Address>(cpu: &mut Cpu, op: &Op) -> Flow {
    indirect(cpu.read::<W, A>(op).and_then(|target| call_to::<W, A>(cpu, op, target)))
}

#[inline(always)]
fn ret<W: Int, A: Address>(cpu: &mut Cpu, op: &Op) -> Flow {
    let pointer = A::stack_pointer(cpu);
    let result = cpu.read_at::<W, A>(2, pointer).and_then(|target| jump_to(cpu, target));
    if result.is_ok() {
        A::set_stack_pointer(cpu, pointer.wrapping_add(W::SIZE).wrapping_add(op.imm));
    }
    indirect(result)
}

/// LOOP, LOOPE, LOOPNE, JCXZ: `KIND` 0, 1, 2, 3. The counter's width is the address size.
#[inline(always)]
fn count_branch<W: Int, const KIND: u8>(cpu: &mut Cpu, op: &Op) -> Flow {
    let mask = u64::MAX >> (64 - 8 * u32::from(op.address_size & 15));
    let old = cpu.regs[1] & mask;
    if KIND == 3 {
        return if old == 0 { branch::<W>(cpu, op) } else { go_on(cpu, op) };
    }
    let count = old.wrapping_sub(1) & mask;
    let zero = cpu.flags.get() & rflags::ZF != 0;
    let taken = count != 0 && (KIND == 0 || zero == (KIND == 1));
    let flow = if taken { branch::<W>(cpu, op) } else { go_on(cpu, op) };
    if flow != Flow::Fault {
        cpu.regs[1] = match op.address_size {
            2 => cpu.regs[1] & !0xffff | count,
            _ => count,
        };
    }
    flow
}

#[inline(always)]
fn far(result: Result<(), Fault>) -> Flow {
    match result {
        Ok(()) => Flow::Far,
        Err(Fault) => Flow::Fault,
    }
}

fn far_jump_immediate(cpu: &mut Cpu, op: &Op) -> Flow {
    far(cpu.far_jump(op.extra, op.imm))
}

fn far_call_immediate<W: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let next = cpu.rip_after(op);
    far(cpu.far_call(op.extra, op.imm, W::SIZE as u32, next))
}

/// Reads m16:16, m16:32 or m16:64.
fn far_pointer<W: Int>(cpu: &mut Cpu, op: &Op) -> Result<(u16, u64), Fault> {
    let offset = Full::offset(cpu, op);
    let target = cpu.read_at::<W, Full>(op.seg, offset)?;
    let next = offset.wrapping_add(W::SIZE) & (u64::MAX >> (64 - 8 * u32::from(op.address_size & 15)));
    let selector = cpu.read_at::<u16, Full>(op.seg, next)?;
    Ok((selector, target.to_u64()))
}

fn far_jump_memory<W: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    far(far_pointer::<W>(cpu, op).and_then(|(selector, offset)| cpu.far_jump(selector, offset)))
}

fn far_call_memory<W: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let next = cpu.rip_after(op);
    far(far_pointer::<W>(cpu, op).and_then(|(selector, offset)| cpu.far_call(selector, offset, W::SIZE as u32, next)))
}

fn far_ret<W: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    far(cpu.far_return(W::SIZE as u32, op.imm))
}

fn iret<W: Int>(cpu: &mut Cpu, _: &Op) -> Flow {
    far(cpu.interrupt_return(W::SIZE as u32))
}

/// INT n, INT3.
fn int(cpu: &mut Cpu, op: &Op) -> Flow {
    let v86 = cpu.system_flags & rflags::VM != 0;
    if v86 && cpu.system_flags & rflags::IOPL != rflags::IOPL && op.extra == 0 {
        cpu.gp();
        return Flow::Fault;
    }
    let next = cpu.rip_after(op);
    far(cpu.enter_handler(op.imm as u8, None, Origin::Software, next))
}

fn into(cpu: &mut Cpu, op: &Op) -> Flow {
    if cpu.flags.get() & rflags::OF == 0 {
        return Flow::Next;
    }
    let next = cpu.rip_after(op);
    far(cpu.enter_handler(vector::OF, None, Origin::Software, next))
}

/// INT1: like a debug exception, but a trap without DR6 bits.
fn int1(cpu: &mut Cpu, op: &Op) -> Flow {
    let next = cpu.rip_after(op);
    far(cpu.enter_handler(vector::DB, None, Origin::External, next))
}

/// `by_width!(selection, W => …)`: the type of the branch's operand size.
macro_rules! by_width {
    ($size:expr, $w:ident => $body:expr) => {
        match $size {
            2 => {
                type $w = u16;
                $body
            }
            4 => {
                type $w = u32;
                $body
            }
            _ => {
                type $w = u64;
                $body
            }
        }
    };
}

/// The group's handlers.
pub(crate) fn select(s: &Selection, op: &mut Op) -> Option<Handler> {
    match s.instruction.flow_control() {
        FlowControl::Next => None,
        FlowControl::ConditionalBranch => select_conditional(s, op),
        FlowControl::UnconditionalBranch
        | FlowControl::Call
        | FlowControl::IndirectBranch
        | FlowControl::IndirectCall => select_branch(s, op),
        FlowControl::Return => select_return(s, op),
        FlowControl::Interrupt => select_interrupt(s, op),
        _ => None,
    }
}

/// Operand size in bytes of a near branch with an immediate.
fn near_size(s: &Selection) -> u64 {
    match s.instruction.op0_kind() {
        OpKind::NearBranch16 => 2,
        OpKind::NearBranch32 => 4,
        _ => 8,
    }
}

fn select_conditional(s: &Selection, op: &mut Op) -> Option<Handler> {
    let size = near_size(s);
    let counts = matches!(s.instruction.mnemonic(), Mnemonic::Loope | Mnemonic::Loopne);
    if let Some(condition) = s.condition().filter(|_| !counts) {
        return Some(by_condition!(condition, CC => by_width!(size, W => handler(jcc::<W, CC>))));
    }
    op.address_size = counter_size(s.instruction.code())?;
    Some(match s.instruction.mnemonic() {
        Mnemonic::Loop => by_width!(size, W => handler(count_branch::<W, 0>)),
        Mnemonic::Loope => by_width!(size, W => handler(count_branch::<W, 1>)),
        Mnemonic::Loopne => by_width!(size, W => handler(count_branch::<W, 2>)),
        _ => by_width!(size, W => handler(count_branch::<W, 3>)),
    })
}

/// Bytes of CX, ECX or RCX.
fn counter_size(code: Code) -> Option<u8> {
    Some(match code {
        Code::Jcxz_rel8_16 | Code::Jcxz_rel8_32 => 2,
        Code::Jecxz_rel8_16 | Code::Jecxz_rel8_32 | Code::Jecxz_rel8_64 => 4,
        Code::Jrcxz_rel8_16 | Code::Jrcxz_rel8_64 => 8,
        Code::Loop_rel8_16_CX
        | Code::Loop_rel8_32_CX
        | Code::Loope_rel8_16_CX
        | Code::Loope_rel8_32_CX
        | Code::Loopne_rel8_16_CX
        | Code::Loopne_rel8_32_CX => 2,
        Code::Loop_rel8_16_RCX
        | Code::Loop_rel8_64_RCX
        | Code::Loope_rel8_16_RCX
        | Code::Loope_rel8_64_RCX
        | Code::Loopne_rel8_16_RCX
        | Code::Loopne_rel8_64_RCX => 8,
        Code::Loop_rel8_16_ECX
        | Code::Loop_rel8_32_ECX
        | Code::Loop_rel8_64_ECX
        | Code::Loope_rel8_16_ECX
        | Code::Loope_rel8_32_ECX
        | Code::Loope_rel8_64_ECX
        | Code::Loopne_rel8_16_ECX
        | Code::Loopne_rel8_32_ECX
        | Code::Loopne_rel8_64_ECX => 4,
        _ => return None,
    })
}

fn select_branch(s: &Selection, _: &mut Op) -> Option<Handler> {
    if s.instruction.op_count() == 0 {
        // SYSCALL and the like.
        return None;
    }
    let call_instruction = s.instruction.mnemonic() == Mnemonic::Call;
    let size = near_size(s);
    Some(match s.instruction.op0_kind() {
        OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 if call_instruction => {
            by_width!(size, W => by_address!(s.address, A => handler(call::<W, A>)))
        }
        OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
            by_width!(size, W => handler(branch::<W>))
        }
        OpKind::FarBranch16 if call_instruction => handler(far_call_immediate::<u16>),
        OpKind::FarBranch32 if call_instruction => handler(far_call_immediate::<u32>),
        OpKind::FarBranch16 | OpKind::FarBranch32 => handler(far_jump_immediate),
        OpKind::Register if call_instruction => {
            let size = s.instruction.op0_register().size();
            by_width!(size, W => by_address!(s.address, A => handler(call_register::<W, A>)))
        }
        OpKind::Register => by_width!(s.instruction.op0_register().size(), W => handler(jump_register::<W>)),
        _ => return select_memory_branch(s, call_instruction),
    })
}

fn select_memory_branch(s: &Selection, call_instruction: bool) -> Option<Handler> {
    Some(match s.instruction.code() {
        Code::Call_m1616 => handler(far_call_memory::<u16>),
        Code::Call_m1632 => handler(far_call_memory::<u32>),
        Code::Call_m1664 => handler(far_call_memory::<u64>),
        Code::Jmp_m1616 => handler(far_jump_memory::<u16>),
        Code::Jmp_m1632 => handler(far_jump_memory::<u32>),
        Code::Jmp_m1664 => handler(far_jump_memory::<u64>),
        _ => {
            let size = s.instruction.memory_size().size();
            if call_instruction {
                by_width!(size, W => by_address!(s.address, A => handler(call_memory::<W, A>)))
            } else {
                by_width!(size, W => by_address!(s.address, A => handler(jump_memory::<W, A>)))
            }
        }
    })
}

fn select_return(s: &Selection, op: &mut Op) -> Option<Handler> {
    // Without an immediate nothing is dropped.
    if s.instruction.op_count() == 0 {
        op.imm = 0;
    }
    op.imm &= 0xffff;
    Some(match s.instruction.code() {
        Code::Retnw | Code::Retnw_imm16 => by_address!(s.address, A => handler(ret::<u16, A>)),
        Code::Retnd | Code::Retnd_imm16 => by_address!(s.address, A => handler(ret::<u32, A>)),
        Code::Retnq | Code::Retnq_imm16 => by_address!(s.address, A => handler(ret::<u64, A>)),
        Code::Retfw | Code::Retfw_imm16 => handler(far_ret::<u16>),
        Code::Retfd | Code::Retfd_imm16 => handler(far_ret::<u32>),
        Code::Retfq | Code::Retfq_imm16 => handler(far_ret::<u64>),
        Code::Iretw => handler(iret::<u16>),
        Code::Iretd => handler(iret::<u32>),
        Code::Iretq => handler(iret::<u64>),
        _ => return super::system::select_return(s),
    })
}

fn select_interrupt(s: &Selection, op: &mut Op) -> Option<Handler> {
    Some(match s.instruction.code() {
        Code::Int_imm8 => {
            op.imm &= 0xff;
            handler(int)
        }
        Code::Int3 => {
            op.imm = u64::from(vector::BP);
            // INT3 is not subject to IOPL in virtual-8086 mode.
            op.extra = 1;
            handler(int)
        }
        Code::Into => handler(into),
        Code::Int1 => handler(int1),
        _ => return super::system::select_return(s),
    })
}
