//! Memory operands: addresses that mostly hit data, in all addressing forms of a mode.

use iced_x86::{Instruction, OpCodeOperandKind as Kind, OpKind, Register};

use crate::Mode;
use crate::case::layout::{DATA, DATA_SIZE, READ_ONLY};
use crate::generator::Sequence;

/// The base and index pairs of 16-bit addressing.
const PAIRS: [(Register, Register); 8] = [
    (Register::BX, Register::SI),
    (Register::BX, Register::DI),
    (Register::BP, Register::SI),
    (Register::BP, Register::DI),
    (Register::BX, Register::None),
    (Register::BP, Register::None),
    (Register::SI, Register::None),
    (Register::DI, Register::None),
];

impl Sequence<'_> {
    /// A linear address for an operand: mostly inside the data pages, now and then across a page, read-only or not
    /// mapped at all.
    fn target(&mut self, size: u64) -> u64 {
        let size = size.max(1);
        let inside = DATA_SIZE as u64 - size;
        match self.random.below(100) {
            0..=64 => DATA + self.random.below(inside / size + 1) * size,
            65..=81 => DATA + self.random.below(inside + 1),
            // Across the boundary of the two pages.
            82..=91 => DATA + 0x1000 - self.random.below(size + 1),
            92..=94 => READ_ONLY + self.random.below(0x1000 / size) * size,
            // From writable into read-only memory.
            95 => READ_ONLY - self.random.below(size + 1),
            96 => DATA - self.random.below(size + 16),
            97 => READ_ONLY + 0x1000 - self.random.below(size),
            98 => self.random.below(0x8000),
            _ => 0x3000_0000 + self.random.below(0x1000),
        }
    }

    /// Fills in a memory operand.
    pub(crate) fn memory(&mut self, instruction: &mut Instruction, absolute: bool) {
        let size = instruction.memory_size().size() as u64;
        self.last_target = self.target(size);
        let offset = self.last_target.wrapping_sub(self.mode.data_base());
        instruction.set_memory_index_scale(1);
        // The other address size now and then.
        match self.mode {
            Mode::Long if !self.random.chance(6) => self.memory_64(instruction, offset, absolute),
            Mode::Segmented if !self.random.chance(25) => self.memory_16(instruction, offset, absolute),
            _ => self.memory_32(instruction, offset, absolute),
        }
    }

    fn memory_64(&mut self, instruction: &mut Instruction, offset: u64, absolute: bool) {
        let rest = if absolute { offset } else { self.base_and_index(instruction, Register::RAX, offset) };
        let plain = instruction.memory_base() == Register::None && instruction.memory_index() == Register::None;
        if plain && !absolute && self.random.chance(60) {
            instruction.set_memory_base(Register::RIP);
        }
        instruction.set_memory_displ_size(if plain { 8 } else { displacement_size(instruction, rest) });
        instruction.set_memory_displacement64(rest);
    }

    fn memory_32(&mut self, instruction: &mut Instruction, offset: u64, absolute: bool) {
        let rest = if absolute { offset } else { self.base_and_index(instruction, Register::EAX, offset) };
        let plain = instruction.memory_base() == Register::None && instruction.memory_index() == Register::None;
        let rest = rest & 0xffff_ffff;
        instruction.set_memory_displ_size(if plain { 4 } else { displacement_size(instruction, rest) });
        instruction.set_memory_displacement64(if plain { rest } else { rest as i32 as u64 });
    }

    /// Chooses registers whose value is known; returns what the displacement has to be.
    fn base_and_index(&mut self, instruction: &mut Instruction, first: Register, offset: u64) -> u64 {
        let mut rest = offset;
        if self.random.chance(15) {
            return rest;
        }
        if let Some(base) = self.known_register() {
            instruction.set_memory_base(first + base as u32);
            rest = rest.wrapping_sub(self.registers.gpr[base]);
        }
        if self.random.chance(40)
            && let Some(index) = self.known_register().filter(|&index| index != 4)
        {
            instruction.set_memory_index(first + index as u32);
            let scale = 1 << self.random.below(4);
            instruction.set_memory_index_scale(scale);
            rest = rest.wrapping_sub(self.registers.gpr[index].wrapping_mul(u64::from(scale)));
        }
        rest
    }

    fn memory_16(&mut self, instruction: &mut Instruction, offset: u64, absolute: bool) {
        let mut rest = offset;
        let (base, index) = self.random.pick(&PAIRS);
        let known = |register: Register| register == Register::None || self.is_known(register.number());
        if !absolute && known(base) && known(index) && self.random.chance(85) {
            instruction.set_memory_base(base);
            instruction.set_memory_index(index);
            for register in [base, index].into_iter().filter(|&register| register != Register::None) {
                rest = rest.wrapping_sub(self.registers.gpr[register.number()]);
            }
        }
        let plain = instruction.memory_base() == Register::None;
        let rest = rest & 0xffff;
        instruction.set_memory_displ_size(if plain { 2 } else { displacement_size(instruction, rest) });
        instruction.set_memory_displacement64(if plain { rest } else { rest as i16 as u64 });
    }

    /// Fills in the memory operand of a gather.
    pub(crate) fn vector_memory(&mut self, instruction: &mut Instruction, kind: Kind) {
        let first = match kind {
            Kind::mem_vsib32x | Kind::mem_vsib64x => Register::XMM0,
            _ => Register::YMM0,
        };
        let number = self.random.below(self.mode.registers() as u64) as usize;
        if self.vectors_used >> number & 1 == 0 {
            let wide = matches!(kind, Kind::mem_vsib64x | Kind::mem_vsib64y);
            for lane in self.registers.vector[number].chunks_exact_mut(if wide { 8 } else { 4 }) {
                let value = self.random.below(64) as i64 - 32;
                lane.copy_from_slice(&value.to_le_bytes()[..lane.len()]);
            }
        }
        let target = DATA + 0x400 + self.random.below(0x1400);
        let wide = self.mode == Mode::Long;
        let mut rest = target - self.mode.data_base();
        if let Some(base) = self.known_register() {
            instruction.set_memory_base(if wide { Register::RAX } else { Register::EAX } + base as u32);
            rest = rest.wrapping_sub(self.registers.gpr[base]);
        }
        instruction.set_memory_index(first + number as u32);
        instruction.set_memory_index_scale(1 << self.random.below(4));
        instruction.set_memory_displ_size(if wide { 8 } else { 4 });
        instruction.set_memory_displacement64(if wide { rest } else { rest as i32 as u64 });
    }

    /// Operands at (E/R)SI and (E/R)DI.
    pub(crate) fn string_operand(&mut self, instruction: &mut Instruction, index: u32, kind: Kind) {
        let sizes = match kind {
            Kind::seg_rSI => [OpKind::MemorySegSI, OpKind::MemorySegESI, OpKind::MemorySegRSI],
            Kind::es_rDI => [OpKind::MemoryESDI, OpKind::MemoryESEDI, OpKind::MemoryESRDI],
            _ => [OpKind::MemorySegDI, OpKind::MemorySegEDI, OpKind::MemorySegRDI],
        };
        // Both operands of an instruction have the same size: an earlier one has chosen.
        let earlier = (0..index).find_map(|i| position(instruction.op_kind(i)));
        let other = self.random.chance(10);
        let size = earlier.unwrap_or(match (self.mode, other) {
            (Mode::Long, false) => 2,
            (Mode::Long, true) | (Mode::Compatibility, _) | (Mode::Segmented, true) => 1,
            (Mode::Segmented, false) => 0,
        });
        instruction.set_op_kind(index, sizes[size]);
    }

    /// Lets SI and DI point at data.
    pub(crate) fn string_registers(&mut self) {
        for register in [Register::RSI, Register::RDI] {
            let near_end = self.random.chance(10);
            let value = if near_end { DATA + 0x1ff0 } else { DATA + 0x800 + self.random.below(0x1000) };
            self.prefer(register, value - self.mode.data_base());
        }
    }

    /// XLAT.
    pub(crate) fn table_operand(&mut self, instruction: &mut Instruction, index: u32) {
        instruction.set_op_kind(index, OpKind::Memory);
        let base = match self.mode {
            Mode::Long => Register::RBX,
            Mode::Compatibility => Register::EBX,
            Mode::Segmented => Register::BX,
        };
        instruction.set_memory_base(base);
        instruction.set_memory_index(Register::AL);
        let value = DATA + self.random.below(DATA_SIZE as u64 - 256) - self.mode.data_base();
        self.prefer(Register::RBX, value);
    }
}

/// 0 for none, 1 to let the encoder choose the shortest. An index without a base has one even for zero.
fn displacement_size(instruction: &Instruction, displacement: u64) -> u32 {
    u32::from(displacement != 0 || instruction.memory_base() == Register::None)
}

/// 0, 1, 2: address size 16, 32, 64 of an operand at a string register.
fn position(kind: OpKind) -> Option<usize> {
    match kind {
        OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => Some(0),
        OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => Some(1),
        OpKind::MemorySegRSI | OpKind::MemorySegRDI | OpKind::MemoryESRDI => Some(2),
        _ => None,
    }
}
