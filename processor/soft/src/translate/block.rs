//! The translation of a block, as bytes. Pure.
//!
//! ```text
//! far entry:   RAX = address; it sets the code page, and leaves if the mode is another one
//! near entry:  counts the block's instructions; leaves if the slice is used up
//! instructions
//! exits        jumps to other blocks, or to the stubs behind
//! detours      instructions that missed the TLB
//! stubs        leave for the run loop
//! ```

use super::assembler::{Assembler, Fixup, Mem};
use super::control::is_branch;
use super::emit::{Emitter, FlagPlaces, NoRule, OpPair};
use super::registers::{VALUE, field};
use super::routines::Routines;
use super::vector::{VectorCache, is_vector};
use crate::cpu::{Cpu, Mode};
use crate::op::Op;
use iced_x86::{EncodingKind, FlowControl, Instruction, InstructionInfoFactory};
use std::mem::offset_of;

/// What there is to translate.
pub(super) struct Source<'a> {
    /// The instructions; addresses count from the start of the page.
    pub instructions: &'a [Instruction],
    /// For each instruction an op with a handler that does just this instruction.
    pub handlers: &'a [Op],
    /// For each instruction: the guest's processor has it.
    pub allowed: &'a [bool],
    /// Place of the block in its page.
    pub offset: u64,
    pub mode: Mode,
    /// The block lies in one page.
    pub linkable: bool,
    /// No direct branch from the block can lead to a non-canonical address.
    pub branches: bool,
}

/// A jump that can be connected with another block.
#[derive(Debug, Clone, Copy)]
pub(super) struct SiteOffsets {
    /// Of the 32-bit distance of the jump.
    pub distance: u32,
    /// Of the stub that leaves and tells the site; where the jump leads at first.
    pub stub: u32,
    /// Of the stub that asks the target table.
    pub search: u32,
    /// Of the site's number in `stub`.
    pub number: u32,
}

/// A translated block. Offsets count from the first byte.
pub(super) struct Translation {
    pub near: u32,
    /// Leads to the run loop, with RIP at the block.
    pub leave: u32,
    pub sites: Vec<SiteOffsets>,
    pub ops: Vec<OpPair>,
    pub op_references: Vec<(usize, usize)>,
    /// Instructions that are translated (others call handlers).
    pub native: u32,
}

/// Translates into `asm`, which begins at the place where the code will be.
pub(super) fn translate(
    asm: &mut Assembler,
    info: &mut InstructionInfoFactory,
    routines: Routines,
    source: &Source,
) -> Result<Translation, NoRule> {
    let count = i8::try_from(source.instructions.len()).ok().ok_or(NoRule)?;
    let mut emitter = Emitter {
        asm,
        info,
        routines,
        instructions: source.instructions,
        handlers: source.handlers,
        offset: source.offset,
        mode: source.mode,
        linkable: source.linkable,
        index: 0,
        flags: FlagPlaces::MEMORY,
        vectors: VectorCache::default(),
        vectors_before: VectorCache::default(),
        wide: source.instructions.iter().any(|instruction| instruction.encoding() == EncodingKind::VEX),
        ops: Vec::new(),
        op_references: Vec::new(),
        detours: Vec::new(),
        current: None,
        exits: Vec::new(),
    };
    // Far entry: LEA RAX, [RAX - offset]; MOV [code_page], RAX; CMP dword [mode], mode; JNE.
    emitter.asm.lea(VALUE, Mem::at(VALUE, -(source.offset as i32)));
    emitter.asm.store(field(offset_of!(Cpu, code_page)), VALUE);
    emitter.asm.memory(false, &[0x81], 7, field(offset_of!(Cpu, mode)));
    emitter.asm.put(&source.mode.0.to_le_bytes());
    let other_mode = emitter.asm.jcc(5);
    let near = emitter.asm.here() as u32;
    // Near entry: SUB dword [slice], count; JS.
    emitter.asm.memory(false, &[0x83], 5, field(offset_of!(Cpu, slice)));
    emitter.asm.put(&[count as u8]);
    let used_up = emitter.asm.jcc(8);
    let native = emit_instructions(&mut emitter, source)?;
    emitter.emit_detours();
    // The stubs.
    let mut sites = Vec::with_capacity(emitter.exits.len());
    for exit in std::mem::take(&mut emitter.exits) {
        sites.push(emit_site(emitter.asm, &routines, exit.jump, exit.target as i32));
    }
    emitter.asm.bind(used_up);
    emitter.asm.memory(false, &[0x83], 0, field(offset_of!(Cpu, slice)));
    emitter.asm.put(&[count as u8]);
    emitter.asm.bind(other_mode);
    let leave = emitter.asm.here() as u32;
    emit_address(emitter.asm, source.offset as i32);
    emitter.asm.jmp_arena(routines.retry);
    Ok(Translation { near, leave, sites, ops: emitter.ops, op_references: emitter.op_references, native })
}

/// RAX becomes an address in the code page.
fn emit_address(asm: &mut Assembler, offset: i32) {
    asm.load(VALUE, field(offset_of!(Cpu, code_page)));
    asm.lea(VALUE, Mem::at(VALUE, offset));
}

fn emit_site(asm: &mut Assembler, routines: &Routines, jump: Fixup, target: i32) -> SiteOffsets {
    asm.bind(jump);
    let stub = asm.here() as u32;
    asm.store_imm32(field(offset_of!(Cpu, exit_site)), 0);
    let number = asm.here() as u32 - 4;
    emit_address(asm, target);
    asm.jmp_arena(routines.dispatch_site);
    let search = asm.here() as u32;
    emit_address(asm, target);
    asm.jmp_arena(routines.find_target);
    SiteOffsets { distance: jump.0 as u32, stub, search, number }
}

fn emit_instructions(emitter: &mut Emitter, source: &Source) -> Result<u32, NoRule> {
    let mut native = 0;
    let last = source.instructions.len() - 1;
    for (index, instruction) in source.instructions.iter().enumerate() {
        emitter.index = index;
        emitter.vectors_before = emitter.vectors;
        let mark = emitter.mark();
        let done = source.allowed[index] && rule(emitter, instruction, source.branches).is_ok();
        if done {
            native += 1;
        } else {
            emitter.back_to(&mark);
            emitter.call_handler();
        }
        emitter.finish_instruction();
        if index == last && !(done && ends(instruction)) {
            // Behind the last instruction, or where a handler that transfers control never comes back to.
            emitter.end_at(instruction.next_ip() as i64)?;
        }
    }
    Ok(native)
}

fn rule(emitter: &mut Emitter, instruction: &Instruction, branches: bool) -> Result<(), NoRule> {
    if is_branch(instruction) {
        return if branches { emitter.branch_rule(instruction) } else { Err(NoRule) };
    }
    if instruction.flow_control() != FlowControl::Next {
        return Err(NoRule);
    }
    if is_vector(instruction) { emitter.vector_rule(instruction) } else { emitter.integer_rule(instruction) }
}

/// Whether a branch rule has emitted the block's exits.
fn ends(instruction: &Instruction) -> bool {
    is_branch(instruction)
}
