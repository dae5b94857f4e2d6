//! Stack instructions, near branches, and how blocks end.

use super::assembler::Mem;
use super::emit::{DirectExit, Emitter, NoRule};
use super::memory::{Access, Address};
use super::registers::{GUEST_RSP, Place, VALUE, field, general, place, slot};
use super::routines::emit_find_target;
use crate::cpu::Cpu;
use iced_x86::{Code, FlowControl, Instruction, Mnemonic, OpKind};
use std::mem::offset_of;

const RSP: u8 = 4;
const RBP: u8 = 5;
const QWORD_READ: Access = Access { size: 8, write: false, alignment: 1 };
const QWORD_WRITE: Access = Access { size: 8, write: true, alignment: 1 };
/// `Cpu::temporary`.
const TEMPORARY: usize = offset_of!(Cpu, temporary);

/// How far apart a block and the target of a direct branch can be.
const REACH: u64 = 1 << 32;

/// Whether every direct branch from here leads to a canonical address. (Code at the edge of the canonical space is left
/// to the handlers, which check.)
pub(super) fn far_from_the_edge(page: u64) -> bool {
    let edge = 1_u64 << 47;
    [edge, edge.wrapping_neg()].iter().all(|edge| page.wrapping_sub(*edge).wrapping_add(REACH) > 2 * REACH)
}

impl Emitter<'_> {
    /// Moves the guest's stack pointer; flags stay.
    fn move_stack_pointer(&mut self, distance: i32) {
        self.asm.lea(GUEST_RSP, Mem::at(GUEST_RSP, distance));
    }

    /// PUSH, POP and LEAVE of 64 bits.
    pub fn stack_rule(&mut self, instruction: &Instruction) -> Result<(), NoRule> {
        match instruction.code() {
            Code::Push_r64 | Code::Push_rm64 if instruction.op0_kind() == OpKind::Register => {
                let number = general(instruction.op0_register()).ok_or(NoRule)?;
                let top = self.check(Address::based(RSP, -8), QWORD_WRITE);
                let value = self.bring(number, true, &mut std::iter::once(VALUE))?;
                self.asm.store(top, value);
                self.move_stack_pointer(-8);
            }
            Code::Push_rm64 => {
                let from = self.check_operand(instruction, 0)?;
                self.asm.load(VALUE, from);
                self.asm.store(field(TEMPORARY), VALUE);
                let top = self.check(Address::based(RSP, -8), QWORD_WRITE);
                self.asm.load(VALUE, field(TEMPORARY));
                self.asm.store(top, VALUE);
                self.move_stack_pointer(-8);
            }
            Code::Pushq_imm8 | Code::Pushq_imm32 => {
                let top = self.check(Address::based(RSP, -8), QWORD_WRITE);
                // MOV qword [top], imm32.
                self.asm.memory(true, &[0xc7], 0, top);
                self.asm.put(&(instruction.immediate(0) as u32).to_le_bytes());
                self.move_stack_pointer(-8);
            }
            Code::Pop_r64 | Code::Pop_rm64 if instruction.op0_kind() == OpKind::Register => {
                let number = general(instruction.op0_register()).ok_or(NoRule)?;
                let top = self.check(Address::based(RSP, 0), QWORD_READ);
                let to = match place(number) {
                    Place::Host(host) => host,
                    Place::Slot(_) => VALUE,
                };
                self.asm.load(to, top);
                self.put_back(number, to);
                if number != RSP {
                    self.move_stack_pointer(8);
                }
            }
            Code::Leaveq => {
                let frame = self.check(Address::based(RBP, 0), QWORD_READ);
                self.asm.load(VALUE, frame);
                let Place::Host(pointer) = place(RBP) else { return Err(NoRule) };
                self.asm.lea(GUEST_RSP, Mem::at(pointer, 8));
                self.asm.mov(pointer, VALUE);
            }
            _ => return Err(NoRule),
        }
        Ok(())
    }

    /// `to` becomes an address of the guest's code; flags stay.
    fn code_address(&mut self, to: u8, from_page: i64) -> Result<(), NoRule> {
        let distance = i32::try_from(from_page).ok().ok_or(NoRule)?;
        self.asm.load(to, field(offset_of!(Cpu, code_page)));
        self.asm.lea(to, Mem::at(to, distance));
        Ok(())
    }

    /// A near branch, which is the last instruction. `Err`: a handler does it.
    pub fn branch_rule(&mut self, instruction: &Instruction) -> Result<(), NoRule> {
        self.flush_vectors();
        self.vectors_before = self.vectors;
        let next = instruction.next_ip() as i64;
        let target = instruction.near_branch_target() as i64;
        if i32::try_from(next).is_err() {
            return Err(NoRule);
        }
        match instruction.flow_control() {
            FlowControl::ConditionalBranch if instruction.is_jcc_short_or_near() => {
                if instruction.op0_kind() != OpKind::NearBranch64 {
                    return Err(NoRule);
                }
                i32::try_from(target).ok().ok_or(NoRule)?;
                self.save_flags();
                self.load_flags();
                let condition = (instruction.condition_code() as u8).checked_sub(1).ok_or(NoRule)?;
                self.conditional_exits(condition, target, next)
            }
            FlowControl::UnconditionalBranch if instruction.op0_kind() == OpKind::NearBranch64 => self.end_at(target),
            FlowControl::Call if instruction.op0_kind() == OpKind::NearBranch64 => {
                i32::try_from(target).ok().ok_or(NoRule)?;
                let top = self.check(Address::based(RSP, -8), QWORD_WRITE);
                self.code_address(VALUE, next)?;
                self.asm.store(top, VALUE);
                self.move_stack_pointer(-8);
                self.end_instruction_at(target)
            }
            FlowControl::Return => self.return_rule(instruction),
            FlowControl::IndirectBranch => self.indirect_jump_rule(instruction),
            FlowControl::IndirectCall => self.indirect_call_rule(instruction, next),
            _ => Err(NoRule),
        }
    }

    fn return_rule(&mut self, instruction: &Instruction) -> Result<(), NoRule> {
        let drop = match instruction.code() {
            Code::Retnq => 0,
            Code::Retnq_imm16 => i32::from(instruction.immediate16()),
            _ => return Err(NoRule),
        };
        let top = self.check(Address::based(RSP, 0), QWORD_READ);
        self.asm.load(VALUE, top);
        self.finish_indirect(8 + drop)
    }

    fn indirect_jump_rule(&mut self, instruction: &Instruction) -> Result<(), NoRule> {
        self.load_target(instruction)?;
        self.finish_indirect(0)
    }

    fn indirect_call_rule(&mut self, instruction: &Instruction, next: i64) -> Result<(), NoRule> {
        self.load_target(instruction)?;
        self.asm.store(field(TEMPORARY), VALUE);
        // The return address is written before the target is known to be good, as the handler does.
        let top = self.check(Address::based(RSP, -8), QWORD_WRITE);
        self.code_address(VALUE, next)?;
        self.asm.store(top, VALUE);
        self.asm.load(VALUE, field(TEMPORARY));
        self.finish_indirect(-8)
    }

    /// The first scratch register becomes the target of an indirect near branch of 64 bits.
    fn load_target(&mut self, instruction: &Instruction) -> Result<(), NoRule> {
        self.spend_flags();
        match instruction.code() {
            Code::Jmp_rm64 | Code::Call_rm64 => {}
            _ => return Err(NoRule),
        }
        if instruction.op0_kind() == OpKind::Memory {
            let from = self.check_operand(instruction, 0)?;
            self.asm.load(VALUE, from);
        } else {
            match place(general(instruction.op0_register()).ok_or(NoRule)?) {
                Place::Host(host) => self.asm.mov(VALUE, host),
                Place::Slot(guest) => self.asm.load(VALUE, slot(guest)),
            }
        }
        Ok(())
    }

    /// Goes to the address in the first scratch register if the target table knows it, and moves the stack pointer;
    /// else the handler does the whole instruction, checks included.
    fn finish_indirect(&mut self, stack: i32) -> Result<(), NoRule> {
        let miss = emit_find_target(self.asm, stack);
        self.detour(miss);
        Ok(())
    }

    /// The block's end, with a handler's or no instruction before it: on to `target`.
    pub fn end_at(&mut self, target: i64) -> Result<(), NoRule> {
        i32::try_from(target).ok().ok_or(NoRule)?;
        self.spend_flags();
        self.end_instruction_at(target)
    }

    /// As [`Self::end_at`], flags being in memory.
    fn end_instruction_at(&mut self, target: i64) -> Result<(), NoRule> {
        self.flush_vectors();
        if self.is_linkable(target) {
            let jump = self.asm.jmp();
            self.exits.push(DirectExit { jump, target });
            return Ok(());
        }
        self.code_address(VALUE, target)?;
        let miss = emit_find_target(self.asm, 0);
        self.asm.bind(miss);
        self.asm.jmp_arena(self.routines.dispatch);
        Ok(())
    }

    fn conditional_exits(&mut self, condition: u8, target: i64, next: i64) -> Result<(), NoRule> {
        let jump = self.asm.jcc(condition);
        if self.is_linkable(target) {
            self.exits.push(DirectExit { jump, target });
            return self.end_instruction_at(next);
        }
        self.end_instruction_at(next)?;
        self.asm.bind(jump);
        self.end_instruction_at(target)
    }

    /// Same page, so that the jump is good whatever happens to translations of addresses.
    fn is_linkable(&self, target: i64) -> bool {
        self.linkable && (0..4096).contains(&target)
    }
}

/// Whether the instruction is a near branch that [`Emitter::branch_rule`] may know.
pub(super) fn is_branch(instruction: &Instruction) -> bool {
    matches!(
        instruction.flow_control(),
        FlowControl::ConditionalBranch
            | FlowControl::UnconditionalBranch
            | FlowControl::Call
            | FlowControl::IndirectBranch
            | FlowControl::IndirectCall
            | FlowControl::Return
    ) && !matches!(instruction.mnemonic(), Mnemonic::Syscall | Mnemonic::Sysenter)
}
