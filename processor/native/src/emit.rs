//! From a recipe to machine code. Pure.
//!
//! ```text
//! guest flags → host flags        if some of them are read or survive
//! slots → host registers          vectors, then implicit and explicit GPRs
//! the instruction                 may fault: nothing has been written
//! host registers → slots          last operand first: of two equal destinations the first one counts
//! host flags → guest flags
//! vzeroupper                      if YMM registers were used: dirty upper halves slow all SSE code down
//! xor eax, eax / ret
//! ```
//!
//! Nothing is pushed, and no callee-saved register is touched, so that a fault can return from anywhere.

use iced_x86::{Code, Encoder, IcedError, Instruction, MemoryOperand, Register};

use crate::lower::{HostOperand, POINTERS, Recipe};
use crate::state::{FLAGS_OFFSET, STATUS_FLAGS, VECTOR_OFFSET};

/// First and second argument: `NativeState` and the GPR file.
const STATE: Register = Register::RDI;
const GPRS: Register = Register::RSI;

/// Bytes of the stub for `recipe`.
pub(crate) fn emit(recipe: &Recipe) -> Result<Vec<u8>, IcedError> {
    let mut code = Assembly { encoder: Encoder::new(64) };
    let mut pointers = POINTERS;
    if recipe.reads_flags || recipe.keeps_flags {
        code.load_flags()?;
    }
    let vector = |operand: &&HostOperand| operand.register.is_vector_register();
    for (operand, pointer) in recipe.explicit.iter().zip(pointers) {
        if operand.load && operand.register.is_vector_register() {
            code.load_vector(recipe.vex, operand.register, at(pointer, 0))?;
        }
    }
    for operand in recipe.implicit.iter().filter(vector).filter(|operand| operand.load) {
        code.load_vector(recipe.vex, operand.register, vector_slot(operand.register))?;
    }
    code.free_implied_pointers(recipe, &mut pointers)?;
    for (operand, pointer) in recipe.explicit.iter().zip(pointers) {
        if operand.load && operand.register.is_gpr() {
            code.load_gpr(operand.register, at(pointer, 0))?;
        }
    }
    for operand in recipe.implicit.iter().filter(|operand| operand.load && operand.register.is_gpr()) {
        code.load_gpr(operand.register, gpr_slot(operand.register))?;
    }
    if recipe.memory_at_rdi {
        code.two(Code::Mov_r64_rm64, Register::RDI, POINTERS[3])?;
    }
    code.encoder.encode(&recipe.canonical, 0)?;
    code.store_results(recipe, pointers)?;
    if recipe.writes_flags {
        code.store_flags()?;
    }
    if recipe.wide {
        code.put(Instruction::with(Code::VEX_Vzeroupper))?;
    }
    code.two(Code::Xor_r32_rm32, Register::EAX, Register::EAX)?;
    code.put(Instruction::with(Code::Retnq))?;
    Ok(code.encoder.take_buffer())
}

fn at(base: Register, displacement: usize) -> MemoryOperand {
    MemoryOperand::with_base_displ(base, displacement as i64)
}

fn gpr_slot(register: Register) -> MemoryOperand {
    at(GPRS, register.number() * 8)
}

fn vector_slot(register: Register) -> MemoryOperand {
    at(STATE, VECTOR_OFFSET + register.number() * 32)
}

struct Assembly {
    encoder: Encoder,
}

impl Assembly {
    fn put(&mut self, instruction: Instruction) -> Result<(), IcedError> {
        self.encoder.encode(&instruction, 0).map(drop)
    }

    fn two(&mut self, code: Code, destination: Register, source: Register) -> Result<(), IcedError> {
        self.put(Instruction::with2(code, destination, source)?)
    }

    fn load_vector(&mut self, vex: bool, register: Register, slot: MemoryOperand) -> Result<(), IcedError> {
        let code = match (vex, register.is_ymm()) {
            (false, _) => Code::Movaps_xmm_xmmm128,
            (true, false) => Code::VEX_Vmovaps_xmm_xmmm128,
            (true, true) => Code::VEX_Vmovaps_ymm_ymmm256,
        };
        self.put(Instruction::with2(code, register, slot)?)
    }

    /// A VEX instruction clears what lies above its destination, so the whole register is stored.
    fn store_vector(&mut self, vex: bool, register: Register, slot: MemoryOperand) -> Result<(), IcedError> {
        if vex {
            let whole = Register::YMM0 + register.number() as u32;
            self.put(Instruction::with2(Code::VEX_Vmovaps_ymmm256_ymm, slot, whole)?)
        } else {
            self.put(Instruction::with2(Code::Movaps_xmmm128_xmm, slot, register)?)
        }
    }

    fn load_gpr(&mut self, register: Register, slot: MemoryOperand) -> Result<(), IcedError> {
        let (code, register) = match register.size() {
            1 => (Code::Movzx_r32_rm8, register.full_register32()),
            2 => (Code::Movzx_r32_rm16, register.full_register32()),
            4 => (Code::Mov_r32_rm32, register),
            _ => (Code::Mov_r64_rm64, register),
        };
        self.put(Instruction::with2(code, register, slot)?)
    }

    /// A write of 32 bits has cleared the upper half on the host as it does on the guest.
    fn store_gpr(&mut self, register: Register, slot: MemoryOperand) -> Result<(), IcedError> {
        let (code, register) = match register.size() {
            1 => (Code::Mov_rm8_r8, register),
            2 => (Code::Mov_rm16_r16, register),
            _ => (Code::Mov_rm64_r64, register.full_register()),
        };
        self.put(Instruction::with2(code, slot, register)?)
    }

    /// MULX takes RDX, which also holds pointer `a`: that one moves to the state's register, which is free then.
    fn free_implied_pointers(&mut self, recipe: &Recipe, pointers: &mut [Register; 4]) -> Result<(), IcedError> {
        let implied = |operand: &HostOperand| operand.register == pointers[0];
        let needed = recipe.explicit.first().is_some_and(|operand| operand.register.is_gpr());
        if needed && recipe.implicit.iter().any(implied) {
            self.two(Code::Mov_r64_rm64, STATE, pointers[0])?;
            pointers[0] = STATE;
        }
        Ok(())
    }

    fn store_results(&mut self, recipe: &Recipe, pointers: [Register; 4]) -> Result<(), IcedError> {
        for (operand, pointer) in recipe.explicit.iter().zip(pointers).rev().filter(|(operand, _)| operand.store) {
            if operand.register.is_gpr() {
                self.store_gpr(operand.register, at(pointer, 0))?;
            } else {
                self.store_vector(recipe.vex, operand.register, at(pointer, 0))?;
            }
        }
        for operand in recipe.implicit.iter().filter(|operand| operand.store) {
            if operand.register.is_gpr() {
                self.store_gpr(operand.register, gpr_slot(operand.register))?;
            } else {
                self.store_vector(recipe.vex, operand.register, vector_slot(operand.register))?;
            }
        }
        Ok(())
    }

    /// SAHF for the low byte; OF by an addition that overflows exactly if it was set. POPF would cost 20 cycles.
    fn load_flags(&mut self) -> Result<(), IcedError> {
        self.put(Instruction::with2(Code::Mov_r32_rm32, Register::EAX, at(STATE, FLAGS_OFFSET))?)?;
        self.two(Code::Mov_r32_rm32, Register::R10D, Register::EAX)?;
        self.two(Code::Mov_r8_rm8, Register::AH, Register::AL)?;
        self.put(Instruction::with2(Code::Shr_rm32_imm8, Register::R10D, 11)?)?;
        self.put(Instruction::with2(Code::And_rm32_imm8, Register::R10D, 1)?)?;
        self.put(Instruction::with2(Code::Add_rm8_imm8, Register::R10L, 0x7f)?)?;
        self.put(Instruction::with(Code::Sahf))
    }

    fn store_flags(&mut self) -> Result<(), IcedError> {
        self.put(Instruction::with(Code::Lahf))?;
        self.put(Instruction::with1(Code::Seto_rm8, Register::AL)?)?;
        self.two(Code::Movzx_r32_rm8, Register::EDX, Register::AH)?;
        self.two(Code::Movzx_r32_rm8, Register::EAX, Register::AL)?;
        self.put(Instruction::with2(Code::Shl_rm32_imm8, Register::EAX, 11)?)?;
        self.two(Code::Or_r32_rm32, Register::EAX, Register::EDX)?;
        self.put(Instruction::with2(Code::And_rm32_imm32, Register::EAX, STATUS_FLAGS)?)?;
        self.put(Instruction::with2(Code::Mov_rm32_r32, at(STATE, FLAGS_OFFSET), Register::EAX)?)
    }
}
