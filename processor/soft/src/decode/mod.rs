//! From guest bytes to blocks of ops.

pub(crate) mod cache;
mod operand;

use crate::cpu::{Cpu, Mode, vector};
use crate::mmu::tlb::PageInfo;
use crate::mmu::walk::Access;
use crate::op::{Fault, Op};
use crate::ops::{self, Selection};
use cache::{BlockPointer, NewBlock};
use iced_x86::{Code, Decoder, DecoderError, DecoderOptions, FlowControl, Instruction};

/// Instructions of a block.
const MAX_INSTRUCTIONS: usize = 32;
/// Bytes of the longest instruction.
const MAX_LENGTH: usize = 15;

/// The guest bytes of a block being made.
struct Source {
    bytes: [u8; MAX_INSTRUCTIONS * MAX_LENGTH],
    len: usize,
}

impl Cpu {
    /// The block at the current RIP, decoded if necessary. The fault is that of the instruction fetch.
    #[cold]
    #[inline(never)]
    pub(crate) fn block(&mut self, mode: Mode) -> Result<BlockPointer, Fault> {
        let rip = self.rip();
        let linear = self.fetch_address(rip)?;
        let page = self.translate(linear, Access::Execute, self.privilege(), 1)?;
        if page.host.is_null() {
            // Nothing answers instruction fetches there: all ones, which is no instruction.
            return Err(self.raise(vector::UD));
        }
        let address = page.ram_page << 12 | linear & 0xfff;
        if let Some(block) = self.cache.find(address, mode) {
            let same = match block.get().second_page {
                None => true,
                Some(second) => self.next_page(linear)?.ram_page == second,
            };
            if same && self.within_limit(rip, block.get().len) {
                self.cache.remember(rip, block);
                return Ok(block);
            }
        }
        let block = self.decode(rip, linear, page, mode)?;
        self.cache.remember(rip, block);
        Ok(block)
    }

    /// Linear address of the instruction at `rip`, after limit and canonical checks.
    fn fetch_address(&mut self, rip: u64) -> Result<u64, Fault> {
        if self.is_long64() {
            return Ok(rip);
        }
        let code = &self.segments[1];
        if rip > u64::from(code.high) {
            return Err(self.raise_code(vector::GP, 0));
        }
        Ok(code.base.wrapping_add(rip) & 0xffff_ffff)
    }

    /// Whether `len` bytes at `rip` are inside the code segment.
    fn within_limit(&self, rip: u64, len: u32) -> bool {
        self.is_long64() || rip + u64::from(len) - 1 <= u64::from(self.segments[1].high)
    }

    fn next_page(&mut self, linear: u64) -> Result<PageInfo, Fault> {
        let next = (linear & !0xfff).wrapping_add(4096);
        let next = if self.is_long64() { next } else { next & 0xffff_ffff };
        let info = self.translate(next, Access::Execute, self.privilege(), 1)?;
        if info.host.is_null() {
            return Err(self.raise(vector::UD));
        }
        Ok(info)
    }

    fn decode(&mut self, rip: u64, linear: u64, page: PageInfo, mode: Mode) -> Result<BlockPointer, Fault> {
        self.events.blocks_decoded += 1;
        let offset = linear & 0xfff;
        loop {
            let source = Source::read(self, page, offset, mode);
            let (instructions, crosses) = self.decode_instructions(rip, &source, mode);
            if crosses {
                return self.decode_crossing(rip, linear, page, mode);
            }
            let len: usize = instructions.iter().map(Instruction::len).sum();
            if !self.within_limit(rip, len as u32) {
                // Up to the limit one instruction at a time; the one that crosses it faults.
                if mode.has(Mode::SINGLE) || instructions.len() == 1 {
                    return Err(self.raise_code(vector::GP, 0));
                }
                return self.decode(rip, linear, page, Mode(mode.0 | Mode::SINGLE));
            }
            self.protect_code(page.ram_page, offset, len as u64);
            // A write that nobody noticed because the page was not marked yet: decode again.
            if !source.still_there(self, page, offset, len) {
                continue;
            }
            return Ok(self.make_block(page.ram_page << 12 | offset, None, &instructions, &source.bytes, rip, mode));
        }
    }

    /// Marks granules as code, and makes our own writes to the page noticed as well.
    fn protect_code(&mut self, ram_page: u64, offset: u64, len: u64) {
        let granules = crate::mmu::granules(offset, len);
        if self.partition.code_granules(ram_page) == 0 {
            self.mmu.forbid_writes(ram_page);
        }
        self.partition.mark_code(self.index, ram_page, granules);
    }

    /// Decodes up to the end of the block or of the bytes. The flag says that the first instruction needs more bytes.
    fn decode_instructions(&self, rip: u64, source: &Source, mode: Mode) -> (Vec<Instruction>, bool) {
        let bytes = &source.bytes[..source.len];
        let mut decoder = Decoder::with_ip(mode.code_bits(), bytes, rip, self.features.decoder_options);
        let limit = if mode.has(Mode::SINGLE) { 1 } else { MAX_INSTRUCTIONS };
        let mut instructions = Vec::with_capacity(limit);
        while instructions.len() < limit && decoder.can_decode() {
            let instruction = decoder.decode();
            if decoder.last_error() == DecoderError::NoMoreBytes {
                return (instructions.clone(), instructions.is_empty());
            }
            let ends = ends_block(&instruction);
            instructions.push(instruction);
            if ends {
                break;
            }
        }
        (instructions, false)
    }

    /// A block of one instruction that continues in the next page.
    fn decode_crossing(&mut self, rip: u64, linear: u64, page: PageInfo, mode: Mode) -> Result<BlockPointer, Fault> {
        let second = self.next_page(linear)?;
        let offset = linear & 0xfff;
        let here = 4096 - offset as usize;
        loop {
            let mut source = Source::read(self, page, offset, Mode(mode.0 | Mode::SINGLE));
            let rest = MAX_LENGTH - here;
            let tail = Source::read_exact(self, second, 0, rest);
            source.bytes[here..MAX_LENGTH].copy_from_slice(&tail[..rest]);
            source.len = MAX_LENGTH;
            let bytes = &source.bytes[..MAX_LENGTH];
            let mut decoder = Decoder::with_ip(mode.code_bits(), bytes, rip, self.features.decoder_options);
            let instruction = decoder.decode();
            let len = instruction.len().max(here + 1);
            if !self.within_limit(rip, len as u32) {
                return Err(self.raise_code(vector::GP, 0));
            }
            self.protect_code(page.ram_page, offset, here as u64);
            self.protect_code(second.ram_page, 0, (len - here) as u64);
            let now = Source::read_exact(self, second, 0, rest);
            if !source.still_there(self, page, offset, here) || now[..rest] != tail[..rest] {
                continue;
            }
            let address = page.ram_page << 12 | offset;
            let mode = Mode(mode.0);
            return Ok(self.make_block(address, Some(second.ram_page), &[instruction], &source.bytes, rip, mode));
        }
    }

    fn make_block(
        &mut self,
        address: u64,
        second_page: Option<u64>,
        instructions: &[Instruction],
        bytes: &[u8],
        rip: u64,
        mode: Mode,
    ) -> BlockPointer {
        let mut list = Vec::with_capacity(instructions.len() + 1);
        let mut len = 0;
        for (index, instruction) in instructions.iter().enumerate() {
            let code = &bytes[len..];
            list.push(self.make_op(instruction, instructions.get(index + 1), rip, mode, code));
            len += instruction.len();
        }
        if !instructions.last().is_some_and(always_transfers) {
            list.push(ops::control::end_of_block(len as u64, mode));
        }
        let count = instructions.len() as u32;
        let len = len as u32;
        let bytes = bytes[..len as usize].into();
        self.cache.insert(NewBlock { address, mode, ops: list, bytes, count, len, second_page })
    }

    /// The op of an instruction of a block at `rip`; it may be fused with the jump `next`.
    pub(crate) fn make_op(
        &self,
        instruction: &Instruction,
        next: Option<&Instruction>,
        rip: u64,
        mode: Mode,
        code: &[u8],
    ) -> Op {
        let mut op = operand::fill(instruction, rip, mode);
        let too_long = instruction.is_invalid() && code.len() > MAX_LENGTH && instruction.len() >= MAX_LENGTH;
        let selection = Selection {
            instruction,
            mode,
            address: operand::address_kind(instruction, &op, mode),
            bytes: &code[..instruction.len().min(code.len())],
            deterministic: self.partition.deterministic,
            stubs: &self.partition.natives,
        };
        let handler = if too_long {
            None
        } else if instruction.is_invalid() || !self.features.allows(instruction) {
            Some(ops::undefined())
        } else {
            let fused = next.and_then(|jump| ops::fused::select(&selection, jump));
            fused.or_else(|| ops::select(&selection, &mut op))
        };
        op.handler = match handler {
            Some(handler) => handler,
            None if too_long => ops::too_long(),
            None => {
                let text = instruction.code();
                tracing::warn!(code = ?text, "instruction is not supported: #UD");
                ops::undefined()
            }
        };
        op
    }
}

impl Source {
    fn read(cpu: &Cpu, page: PageInfo, offset: u64, mode: Mode) -> Self {
        let most = if mode.has(Mode::SINGLE) { MAX_LENGTH } else { MAX_INSTRUCTIONS * MAX_LENGTH };
        let len = most.min(4096 - offset as usize);
        let mut bytes = [0; MAX_INSTRUCTIONS * MAX_LENGTH];
        // The page is memory: its number came from the memory map.
        let _ = cpu.partition.memory.read(page.ram_page << 12 | offset, &mut bytes[..len]);
        Self { bytes, len }
    }

    fn read_exact(cpu: &Cpu, page: PageInfo, offset: u64, len: usize) -> [u8; MAX_LENGTH] {
        let mut bytes = [0; MAX_LENGTH];
        let _ = cpu.partition.memory.read(page.ram_page << 12 | offset, &mut bytes[..len]);
        bytes
    }

    fn still_there(&self, cpu: &Cpu, page: PageInfo, offset: u64, len: usize) -> bool {
        let mut now = [0; MAX_INSTRUCTIONS * MAX_LENGTH];
        let _ = cpu.partition.memory.read(page.ram_page << 12 | offset, &mut now[..len]);
        now[..len] == self.bytes[..len]
    }
}

/// Whether the instruction never goes on to the op behind it.
fn always_transfers(instruction: &Instruction) -> bool {
    matches!(
        instruction.flow_control(),
        FlowControl::UnconditionalBranch
            | FlowControl::IndirectBranch
            | FlowControl::ConditionalBranch
            | FlowControl::Return
            | FlowControl::Call
            | FlowControl::IndirectCall
    ) && !matches!(instruction.code(), Code::Syscall | Code::Sysenter)
}

/// Whether the block must end behind the instruction: it transfers control, or it may change what later instructions
/// are decoded for, or interrupts must be looked at behind it.
fn ends_block(instruction: &Instruction) -> bool {
    instruction.flow_control() != FlowControl::Next || ops::ends_block(instruction)
}

/// Decoder options for a processor that lacks LZCNT or TZCNT: their encodings mean BSR and BSF there.
pub(crate) fn decoder_options(lzcnt: bool, tzcnt: bool) -> u32 {
    let mut options = DecoderOptions::NONE;
    if !lzcnt {
        options |= DecoderOptions::NO_MPFX_0FBD;
    }
    if !tzcnt {
        options |= DecoderOptions::NO_MPFX_0FBC;
    }
    options
}
