//! Random operands for an instruction form.

use iced_x86::{Code, Instruction, Mnemonic, OpCodeOperandKind as Kind, OpKind, Register};

use crate::generator::Sequence;
use crate::{Mode, Random};

/// Register operands by size: first register and how many there are.
fn any(random: &mut Random, first: Register, count: u64) -> Register {
    first + random.below(count) as u32
}

impl Sequence<'_> {
    /// The form with random operands; `None` if it does not fit what came before.
    pub(crate) fn operands(&mut self, code: Code) -> Option<Instruction> {
        let mut instruction = Instruction::default();
        instruction.set_code(code);
        let info = code.op_code();
        for (index, &kind) in info.op_kinds().iter().enumerate() {
            self.operand(&mut instruction, index as u32, kind)?;
        }
        self.prefixes(&mut instruction)?;
        Some(instruction)
    }

    fn operand(&mut self, instruction: &mut Instruction, index: u32, kind: Kind) -> Option<()> {
        if let Some(register) = self.register(kind) {
            instruction.set_op_kind(index, OpKind::Register);
            instruction.set_op_register(index, register);
            return Some(());
        }
        if self.immediate(instruction, index, kind) {
            return Some(());
        }
        match kind {
            Kind::seg_rSI | Kind::es_rDI | Kind::seg_rDI => self.string_operand(instruction, index, kind),
            Kind::br16_1 | Kind::br16_2 => {
                instruction.set_op_kind(index, OpKind::NearBranch16);
                instruction.set_near_branch16(self.branch_target() as u16);
            }
            Kind::br32_1 | Kind::br32_4 => {
                instruction.set_op_kind(index, OpKind::NearBranch32);
                instruction.set_near_branch32(self.branch_target() as u32);
            }
            Kind::br64_1 | Kind::br64_4 => {
                instruction.set_op_kind(index, OpKind::NearBranch64);
                instruction.set_near_branch64(self.branch_target());
            }
            Kind::seg_rBX_al => self.table_operand(instruction, index),
            Kind::mem_vsib32x | Kind::mem_vsib64x | Kind::mem_vsib32y | Kind::mem_vsib64y => {
                instruction.set_op_kind(index, OpKind::Memory);
                self.vector_memory(instruction, kind);
            }
            _ => {
                instruction.set_op_kind(index, OpKind::Memory);
                self.memory(instruction, kind == Kind::mem_offs);
            }
        }
        Some(())
    }

    /// A register for operand kinds that are, or may be, one.
    fn register(&mut self, kind: Kind) -> Option<Register> {
        let count = self.mode.registers() as u64;
        let maybe_memory = matches!(
            kind,
            Kind::r8_or_mem
                | Kind::r16_or_mem
                | Kind::r32_or_mem
                | Kind::r64_or_mem
                | Kind::mm_or_mem
                | Kind::xmm_or_mem
                | Kind::ymm_or_mem
        );
        if maybe_memory && self.random.chance(50) {
            return None;
        }
        let random = &mut *self.random;
        Some(match kind {
            Kind::r8_or_mem | Kind::r8_reg | Kind::r8_opcode => {
                any(random, Register::AL, if self.mode == Mode::Long { 20 } else { 8 })
            }
            Kind::r16_or_mem | Kind::r16_reg | Kind::r16_rm | Kind::r16_opcode | Kind::r16_reg_mem => {
                any(random, Register::AX, count)
            }
            Kind::r32_or_mem | Kind::r32_reg | Kind::r32_rm | Kind::r32_opcode | Kind::r32_vvvv | Kind::r32_reg_mem => {
                any(random, Register::EAX, count)
            }
            Kind::r64_or_mem | Kind::r64_reg | Kind::r64_rm | Kind::r64_opcode | Kind::r64_vvvv | Kind::r64_reg_mem => {
                any(random, Register::RAX, count)
            }
            Kind::mm_or_mem | Kind::mm_reg | Kind::mm_rm => any(random, Register::MM0, 8),
            Kind::xmm_or_mem | Kind::xmm_reg | Kind::xmm_rm | Kind::xmm_vvvv | Kind::xmm_is4 => {
                any(random, Register::XMM0, count)
            }
            Kind::ymm_or_mem | Kind::ymm_reg | Kind::ymm_rm | Kind::ymm_vvvv | Kind::ymm_is4 => {
                any(random, Register::YMM0, count)
            }
            Kind::al => Register::AL,
            Kind::cl => Register::CL,
            Kind::ax => Register::AX,
            Kind::dx => Register::DX,
            Kind::eax => Register::EAX,
            Kind::rax => Register::RAX,
            Kind::cr_reg => random.pick(&[Register::CR0, Register::CR2, Register::CR3, Register::CR4, Register::CR8]),
            Kind::dr_reg => any(random, Register::DR0, 8),
            Kind::st0 => Register::ST0,
            Kind::sti_opcode => any(random, Register::ST0, 8),
            _ => return None,
        })
    }

    fn immediate(&mut self, instruction: &mut Instruction, index: u32, kind: Kind) -> bool {
        let value = self.random.integer();
        let (kind, value) = match kind {
            Kind::imm8 if index > 0 && instruction.op_kind(index - 1) == OpKind::Immediate16 => {
                instruction.set_op_kind(index, OpKind::Immediate8_2nd);
                // ENTER: levels are taken modulo 32, and deep ones only fault.
                instruction.set_immediate8_2nd(self.random.below(4) as u8);
                return true;
            }
            Kind::imm8 => (OpKind::Immediate8, value & 0xff),
            Kind::imm8_const_1 => (OpKind::Immediate8, 1),
            Kind::imm8sex16 => (OpKind::Immediate8to16, value as i8 as u64),
            Kind::imm8sex32 => (OpKind::Immediate8to32, value as i8 as u64),
            Kind::imm8sex64 => (OpKind::Immediate8to64, value as i8 as u64),
            Kind::imm16 => (OpKind::Immediate16, value & 0xffff),
            Kind::imm32 => (OpKind::Immediate32, value & 0xffff_ffff),
            Kind::imm32sex64 => (OpKind::Immediate32to64, value as i32 as u64),
            Kind::imm64 => (OpKind::Immediate64, value),
            _ => return false,
        };
        instruction.set_op_kind(index, kind);
        match kind {
            OpKind::Immediate8 => instruction.set_immediate8(value as u8),
            OpKind::Immediate8to16 => instruction.set_immediate8to16(value as i16),
            OpKind::Immediate8to32 => instruction.set_immediate8to32(value as i32),
            OpKind::Immediate8to64 => instruction.set_immediate8to64(value as i64),
            OpKind::Immediate16 => instruction.set_immediate16(value as u16),
            OpKind::Immediate32 => instruction.set_immediate32(value as u32),
            OpKind::Immediate32to64 => instruction.set_immediate32to64(value as i64),
            _ => instruction.set_immediate64(value),
        }
        true
    }

    fn prefixes(&mut self, instruction: &mut Instruction) -> Option<()> {
        let info = instruction.code().op_code();
        let string = instruction.is_string_instruction();
        if string {
            self.string_registers();
            if instruction.mnemonic() == Mnemonic::Scasb && self.random.chance(50) {
                self.prefer(Register::RAX, 0);
            }
        }
        if string && info.can_use_rep_prefix() && self.random.chance(60) {
            instruction.set_has_rep_prefix(true);
            if self.random.chance(40) && info.can_use_repne_prefix() {
                instruction.set_has_rep_prefix(false);
                instruction.set_has_repne_prefix(true);
            }
        }
        let memory = instruction.op_count() > 0 && instruction.op0_kind() == OpKind::Memory;
        if memory && info.can_use_lock_prefix() && self.random.chance(30) {
            instruction.set_has_lock_prefix(true);
        }
        if instruction.has_rep_prefix() || instruction.has_repne_prefix() {
            let count = if self.random.chance(90) { self.random.below(40) } else { self.random.below(0x4000) };
            self.prefer(Register::RCX, count);
            self.short_counters(instruction)?;
        }
        Some(())
    }

    /// Which registers a repeated instruction with 32-bit address size extends before it does anything is the
    /// processor's choice: their upper halves must be clear.
    fn short_counters(&mut self, instruction: &Instruction) -> Option<()> {
        let short = [OpKind::MemorySegESI, OpKind::MemoryESEDI];
        if self.mode != Mode::Long || !(0..2).any(|i| short.contains(&instruction.op_kind(i))) {
            return Some(());
        }
        // RCX, RSI, RDI.
        [1, 6, 7].iter().all(|&number| self.is_known(number) && self.registers.gpr[number] >> 32 == 0).then_some(())
    }
}
