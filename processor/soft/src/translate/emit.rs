//! The translation of one block in the making: what is known at the current instruction, and the ways out of it.

use super::assembler::{Assembler, Fixup};
use super::registers::{VALUE, field};
use super::routines::Routines;
use super::vector::VectorCache;
use crate::cpu::Cpu;
use crate::op::Op;
use iced_x86::{Instruction, InstructionInfoFactory};
use std::mem::offset_of;

/// No rule for the instruction: the interpreter's handler does it.
#[derive(Debug)]
pub(super) struct NoRule;

impl From<iced_x86::IcedError> for NoRule {
    fn from(_: iced_x86::IcedError) -> Self {
        Self
    }
}

/// Where the arithmetic flags are. At least one of the two is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FlagPlaces {
    /// The host's flags are the guest's.
    pub host: bool,
    /// `Cpu::flags` is up to date.
    pub memory: bool,
}

impl FlagPlaces {
    /// As between blocks.
    pub const MEMORY: Self = Self { host: false, memory: true };
}

/// The way out of line that does an instruction by its handler and comes back behind it.
pub(super) struct Detour {
    jumps: Vec<Fixup>,
    /// Where in the code a host fault's marker leads here.
    markers: Vec<Fixup>,
    /// Index into [`Emitter::ops`].
    op: usize,
    resume: usize,
    /// The code behind wants the flags in the host's as well.
    flags: bool,
    vectors: (VectorCache, VectorCache),
}

/// A direct jump that will be connected with another block.
pub(super) struct DirectExit {
    /// The distance to patch.
    pub jump: Fixup,
    /// Where it leads, counted from the start of the page.
    pub target: i64,
}

/// An op for the interpreter with the marker behind it; see [`super::routines::call_out`].
pub(super) type OpPair = [Op; 2];

/// See the module.
pub(super) struct Emitter<'a> {
    pub asm: &'a mut Assembler,
    pub info: &'a mut InstructionInfoFactory,
    pub routines: Routines,
    /// The block's instructions; their addresses count from the start of the page.
    pub instructions: &'a [Instruction],
    /// Handler ops, by instruction.
    pub handlers: &'a [Op],
    /// Offset of the block in its page.
    pub offset: u64,
    /// Block mode.
    pub mode: crate::cpu::Mode,
    /// The block lies in one page.
    pub linkable: bool,
    /// Instruction being translated.
    pub index: usize,
    pub flags: FlagPlaces,
    pub vectors: VectorCache,
    /// `vectors` before the current instruction.
    pub vectors_before: VectorCache,
    /// Some instruction of the block is VEX-encoded: all of YMM is moved.
    pub wide: bool,
    /// Ops that the code refers to.
    pub ops: Vec<OpPair>,
    /// Where the code needs the address of an op: place of the 64-bit immediate, index into `ops`.
    pub op_references: Vec<(usize, usize)>,
    pub detours: Vec<Detour>,
    /// The detour of the current instruction.
    pub current: Option<Detour>,
    pub exits: Vec<DirectExit>,
}

/// What to go back to when a rule gives up half-way.
pub(super) struct Mark {
    here: usize,
    flags: FlagPlaces,
    vectors: VectorCache,
    ops: usize,
    references: usize,
    exits: usize,
}

impl Emitter<'_> {
    pub fn mark(&self) -> Mark {
        Mark {
            here: self.asm.here(),
            flags: self.flags,
            vectors: self.vectors,
            ops: self.ops.len(),
            references: self.op_references.len(),
            exits: self.exits.len(),
        }
    }

    /// Forgets all that was emitted since.
    pub fn back_to(&mut self, mark: &Mark) {
        self.asm.truncate(mark.here);
        self.flags = mark.flags;
        self.vectors = mark.vectors;
        self.vectors_before = mark.vectors;
        self.ops.truncate(mark.ops);
        self.op_references.truncate(mark.references);
        self.exits.truncate(mark.exits);
        self.current = None;
    }

    /// `Cpu::flags` becomes up to date. Uses the first scratch register; the host's flags stay.
    pub fn save_flags(&mut self) {
        if !self.flags.memory {
            // LAHF; SETO AL; MOV [flags], AX.
            self.asm.put(&[0x9f, 0x0f, 0x90, 0xc0, 0x66]);
            self.asm.memory(false, &[0x89], VALUE, field(offset_of!(Cpu, flags)));
            self.flags.memory = true;
        }
    }

    /// The host's flags become the guest's. Uses the first scratch register.
    pub fn load_flags(&mut self) {
        if !self.flags.host {
            self.emit_load_flags();
            self.flags.host = true;
        }
    }

    fn emit_load_flags(&mut self) {
        // MOVZX EAX, word [flags]; ADD AL, 0x7f (overflows if OF was set); SAHF.
        self.asm.memory(false, &[0x0f, 0xb7], VALUE, field(offset_of!(Cpu, flags)));
        self.asm.put(&[0x04, 0x7f, 0x9e]);
    }

    /// Before code that destroys the host's flags.
    pub fn spend_flags(&mut self) {
        self.save_flags();
        self.flags.host = false;
    }

    /// The instruction has set all flags in the host.
    pub fn flags_set(&mut self) {
        self.flags = FlagPlaces { host: true, memory: false };
    }

    /// The op of the current instruction.
    pub fn op(&mut self) -> usize {
        let op = self.handlers[self.index];
        let end = super::routines::end_op(self.index, self.instructions.len(), self.offset);
        self.ops.push([op, end]);
        self.ops.len() - 1
    }

    /// A jump to the interpreter's handler for the whole current instruction, which must not have had any effect yet.
    /// Guest flags must be in memory.
    pub fn detour(&mut self, jump: Fixup) {
        debug_assert!(self.flags.memory, "a handler finds the flags in memory");
        if self.current.is_none() {
            let op = self.op();
            let vectors = (self.vectors_before, self.vectors_before);
            self.current =
                Some(Detour { jumps: Vec::new(), markers: Vec::new(), op, resume: 0, flags: false, vectors });
        }
        if let Some(detour) = &mut self.current {
            detour.jumps.push(jump);
        }
    }

    /// A marker in front of a host instruction that may fault: the signal handler goes on where it leads, which does
    /// the current instruction by its handler. Guest flags must be in memory.
    pub fn fault_marker(&mut self) {
        // NOP dword [RAX + distance], a form that is not used otherwise.
        self.asm.put(&bulkhead_native::FAULT_MARKER);
        self.asm.put(&[0; 4]);
        let fixup = Fixup(self.asm.here() - 4);
        self.detour(fixup);
        if let Some(detour) = &mut self.current {
            detour.jumps.pop();
            detour.markers.push(fixup);
        }
    }

    /// The current instruction is complete.
    pub fn finish_instruction(&mut self) {
        if let Some(mut detour) = self.current.take() {
            detour.resume = self.asm.here();
            detour.flags = self.flags.host;
            detour.vectors.1 = self.vectors;
            self.detours.push(detour);
        }
    }

    /// Does the current instruction by its handler.
    pub fn call_handler(&mut self) {
        self.spend_flags();
        self.store_vectors(self.vectors);
        let op = self.op();
        self.call_op(op);
        self.vectors = VectorCache::default();
    }

    fn call_op(&mut self, op: usize) {
        self.asm.mov_imm64(VALUE, 0);
        self.op_references.push((self.asm.here() - 8, op));
        self.asm.call_arena(self.routines.call_out);
    }

    /// Emits the detours; behind the last instruction.
    pub fn emit_detours(&mut self) {
        for detour in std::mem::take(&mut self.detours) {
            for jump in &detour.jumps {
                self.asm.bind(*jump);
            }
            for marker in &detour.markers {
                // Counted from the end of the marker, as jumps are.
                self.asm.bind(*marker);
            }
            let (before, after) = detour.vectors;
            self.store_vectors(before);
            self.call_op(detour.op);
            self.load_vectors(after);
            if detour.flags {
                self.emit_load_flags();
            }
            let jump = self.asm.jmp();
            self.asm.bind_to(jump, detour.resume);
        }
    }
}
