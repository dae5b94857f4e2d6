//! Machine code of the host, as few forms of it as the translator needs. Pure: bytes into a buffer.

use iced_x86::{Encoder, Instruction};

/// Host registers by number.
pub(super) mod host {
    pub const RAX: u8 = 0;
    pub const RCX: u8 = 1;
    pub const RDX: u8 = 2;
    pub const RBX: u8 = 3;
    pub const RSP: u8 = 4;
    pub const RBP: u8 = 5;
    pub const RSI: u8 = 6;
    pub const RDI: u8 = 7;
    pub const R8: u8 = 8;
    pub const R9: u8 = 9;
    pub const R10: u8 = 10;
    pub const R11: u8 = 11;
    pub const R12: u8 = 12;
    pub const R13: u8 = 13;
    pub const R14: u8 = 14;
    pub const R15: u8 = 15;
}

/// A memory operand of the host.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mem {
    /// Base register.
    pub base: Option<u8>,
    /// Index register (never RSP) and log2 of its scale.
    pub index: Option<(u8, u8)>,
    /// Displacement.
    pub disp: i32,
}

impl Mem {
    /// `[base + disp]`.
    pub const fn at(base: u8, disp: i32) -> Self {
        Self { base: Some(base), index: None, disp }
    }

    /// `[base + index << scale + disp]`.
    pub const fn indexed(base: u8, index: u8, scale: u8, disp: i32) -> Self {
        Self { base: Some(base), index: Some((index, scale)), disp }
    }
}

/// The place of a 32-bit distance that is not known yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fixup(pub usize);

/// A buffer of code that will lie at `origin` of the arena.
pub(super) struct Assembler {
    bytes: Vec<u8>,
    encoder: Encoder,
    /// Offset in the arena of the first byte.
    pub origin: u32,
}

impl Assembler {
    /// An empty buffer.
    pub fn new() -> Self {
        Self { bytes: Vec::new(), encoder: Encoder::new(64), origin: 0 }
    }

    /// Forgets the code; the next begins at `origin` of the arena.
    pub fn restart(&mut self, origin: u32) {
        self.bytes.clear();
        self.origin = origin;
    }

    /// The code.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Length so far.
    pub fn here(&self) -> usize {
        self.bytes.len()
    }

    /// Drops what was emitted behind `mark`.
    pub fn truncate(&mut self, mark: usize) {
        self.bytes.truncate(mark);
    }

    /// Raw bytes.
    pub fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// A whole instruction.
    pub fn encode(&mut self, instruction: &Instruction) -> Result<(), iced_x86::IcedError> {
        let result = self.encoder.encode(instruction, 0);
        let mut bytes = self.encoder.take_buffer();
        if result.is_ok() {
            self.bytes.extend_from_slice(&bytes);
        }
        bytes.clear();
        self.encoder.set_buffer(bytes);
        result.map(drop)
    }

    fn rex(&mut self, wide: bool, reg: u8, index: u8, base: u8) {
        let rex = u8::from(wide) << 3 | (reg >> 3) << 2 | (index >> 3) << 1 | base >> 3;
        if rex != 0 {
            self.bytes.push(0x40 | rex);
        }
    }

    /// `opcode reg, rm` or `opcode rm, reg`, both registers.
    pub fn registers(&mut self, wide: bool, opcode: &[u8], reg: u8, rm: u8) {
        self.rex(wide, reg, 0, rm);
        self.put(opcode);
        self.bytes.push(0xc0 | (reg & 7) << 3 | rm & 7);
    }

    /// `opcode reg, mem` or `opcode mem, reg`. Immediates follow by [`Self::put`].
    pub fn memory(&mut self, wide: bool, opcode: &[u8], reg: u8, mem: Mem) {
        let index = mem.index.map_or(0, |(index, _)| index);
        self.rex(wide, reg, index, mem.base.unwrap_or(0));
        self.put(opcode);
        self.operand(reg, mem);
    }

    fn operand(&mut self, reg: u8, mem: Mem) {
        let reg = (reg & 7) << 3;
        let Some(base) = mem.base else {
            // No base: SIB with base 101 and 32 bits of displacement.
            let (index, scale) = mem.index.unwrap_or((4, 0));
            self.put(&[0x04 | reg, scale << 6 | (index & 7) << 3 | 5]);
            return self.put(&mem.disp.to_le_bytes());
        };
        let (form, short) = match i8::try_from(mem.disp) {
            Ok(0) if base & 7 != host::RBP => (0, true),
            Ok(_) => (0x40, true),
            Err(_) => (0x80, false),
        };
        match mem.index {
            Some((index, scale)) => self.put(&[form | reg | 4, scale << 6 | (index & 7) << 3 | base & 7]),
            None if base & 7 == host::RSP => self.put(&[form | reg | 4, 0x24]),
            None => self.put(&[form | reg | base & 7]),
        }
        match (form, short) {
            (0, _) => {}
            (_, true) => self.bytes.push(mem.disp as u8),
            _ => self.put(&mem.disp.to_le_bytes()),
        }
    }

    /// `mov to, from`, 64 bits.
    pub fn mov(&mut self, to: u8, from: u8) {
        self.registers(true, &[0x8b], to, from);
    }

    /// `mov to, [from]`, 64 bits.
    pub fn load(&mut self, to: u8, from: Mem) {
        self.memory(true, &[0x8b], to, from);
    }

    /// `mov [to], from`, 64 bits.
    pub fn store(&mut self, to: Mem, from: u8) {
        self.memory(true, &[0x89], from, to);
    }

    /// `lea to, [mem]`.
    pub fn lea(&mut self, to: u8, mem: Mem) {
        self.memory(true, &[0x8d], to, mem);
    }

    /// `mov to, imm64`.
    pub fn mov_imm64(&mut self, to: u8, value: u64) {
        self.put(&[0x48 | to >> 3, 0xb8 | to & 7]);
        self.put(&value.to_le_bytes());
    }

    /// `mov to, imm32`, upper half cleared.
    pub fn mov_imm32(&mut self, to: u8, value: u32) {
        self.rex(false, 0, 0, to);
        self.bytes.push(0xb8 | to & 7);
        self.put(&value.to_le_bytes());
    }

    /// `mov dword [to], imm32`.
    pub fn store_imm32(&mut self, to: Mem, value: u32) {
        self.memory(false, &[0xc7], 0, to);
        self.put(&value.to_le_bytes());
    }

    /// `jcc` to somewhere behind.
    pub fn jcc(&mut self, condition: u8) -> Fixup {
        self.put(&[0x0f, 0x80 | condition, 0, 0, 0, 0]);
        Fixup(self.here() - 4)
    }

    /// `jmp` to somewhere behind.
    pub fn jmp(&mut self) -> Fixup {
        self.put(&[0xe9, 0, 0, 0, 0]);
        Fixup(self.here() - 4)
    }

    /// Lets a jump arrive here.
    pub fn bind(&mut self, fixup: Fixup) {
        self.bind_to(fixup, self.here());
    }

    /// Lets a jump arrive at `target` of this buffer.
    pub fn bind_to(&mut self, fixup: Fixup, target: usize) {
        let distance = (target as i32).wrapping_sub(fixup.0 as i32 + 4);
        self.bytes[fixup.0..fixup.0 + 4].copy_from_slice(&distance.to_le_bytes());
    }

    /// `jmp` to `target` of the arena.
    pub fn jmp_arena(&mut self, target: u32) {
        let fixup = self.jmp();
        self.bind_arena(fixup, target);
    }

    /// `call` to `target` of the arena.
    pub fn call_arena(&mut self, target: u32) {
        self.put(&[0xe8, 0, 0, 0, 0]);
        let fixup = Fixup(self.here() - 4);
        self.bind_arena(fixup, target);
    }

    fn bind_arena(&mut self, fixup: Fixup, target: u32) {
        let distance = target.wrapping_sub(self.origin + fixup.0 as u32 + 4);
        self.bytes[fixup.0..fixup.0 + 4].copy_from_slice(&distance.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, Formatter, IntelFormatter};

    fn text(build: impl FnOnce(&mut Assembler)) -> String {
        let mut assembler = Assembler::new();
        build(&mut assembler);
        let mut decoder = Decoder::with_ip(64, assembler.bytes(), 0, 0);
        let (mut formatter, mut text) = (IntelFormatter::new(), String::new());
        while decoder.can_decode() {
            if !text.is_empty() {
                text.push_str("; ");
            }
            formatter.format(&decoder.decode(), &mut text);
        }
        text
    }

    #[test]
    fn operands_of_all_kinds_mean_what_they_say() {
        let load = |mem: Mem| text(|a| a.load(host::R9, mem));
        assert_eq!(load(Mem::at(host::RAX, 0)), "mov r9,[rax]");
        assert_eq!(load(Mem::at(host::RSP, 8)), "mov r9,[rsp+8]");
        assert_eq!(load(Mem::at(host::R12, 0)), "mov r9,[r12]");
        assert_eq!(load(Mem::at(host::R13, 0)), "mov r9,[r13]");
        assert_eq!(load(Mem::at(host::RBP, -129)), "mov r9,[rbp-81h]");
        assert_eq!(load(Mem::indexed(host::R14, host::R13, 0, 0)), "mov r9,[r14+r13]");
        assert_eq!(load(Mem::indexed(host::R13, host::R12, 3, 0)), "mov r9,[r13+r12*8]");
        assert_eq!(load(Mem { base: None, index: Some((host::R12, 2)), disp: 64 }), "mov r9,[r12*4+40h]");
        assert_eq!(load(Mem { base: None, index: None, disp: 64 }), "mov r9,[40h]");
        assert_eq!(text(|a| a.mov(host::R14, host::RCX)), "mov r14,rcx");
        assert_eq!(text(|a| a.mov_imm64(host::R14, 1)), "mov r14,1");
        assert_eq!(text(|a| a.mov_imm32(host::R8, 5)), "mov r8d,5");
    }
}
