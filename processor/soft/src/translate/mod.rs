//! The translator: guest code that runs often becomes host code.
//!
//! Guest and host have the same instruction set, so most instructions are copied: registers renamed, memory operands
//! checked. What has no rule calls the interpreter's handler for that one instruction; so does whatever misses the TLB,
//! faults, touches a device or writes to code. The interpreter stays the only place that knows how instructions fail.
//!
//! | to find | look in |
//! |---|---|
//! | where guest registers are | `registers.rs` |
//! | the inline TLB check | `memory.rs` |
//! | rules: integers, vectors, branches and stack | `integer.rs`, `vector.rs`, `control.rs` |
//! | a block's layout, flags, detours to handlers | `block.rs`, `emit.rs` |
//! | into and out of translated code | `routines.rs`, `run.rs` |
//! | how blocks find each other | sites here, `targets.rs` |
//! | bytes | `assembler.rs` |
//!
//! Code belongs to one VP and is only ever run by the thread that runs the VP, so patching it needs no synchronization.

mod assembler;
mod block;
mod control;
mod emit;
mod integer;
pub(crate) mod lockstep;
mod memory;
mod registers;
mod routines;
pub(crate) mod run;
pub(crate) mod targets;
mod vector;

use crate::cpu::{Cpu, Mode};
use crate::decode::cache::{BlockCode, BlockPointer};
use crate::op::Op;
use assembler::Assembler;
use block::{Source, Translation};
use bulkhead_native::{CodeMemory, NativeError};
use emit::OpPair;
use iced_x86::{Decoder, Instruction, InstructionInfoFactory};
use routines::{Enter, Routines};

/// Bytes of handler ops per byte of code that are kept at most: both are bounded by the code cache's size.
const OPS_PER_CODE: usize = 2;

/// A jump that can be connected with another block.
struct Site {
    /// Page of guest memory that the jump is in.
    page: u64,
    /// Place of the jump's 32-bit distance in the arena.
    distance: u32,
    stub: u32,
    search: u32,
}

/// What was translated and run.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counters {
    /// Blocks translated.
    pub blocks: u64,
    /// Instructions in them.
    pub instructions: u64,
    /// Of these, how many have a rule.
    pub native: u64,
    /// Times that everything was forgotten because the cache was full.
    pub flushes: u64,
    /// Instructions executed by translated code, handlers that it called included.
    pub executed: u64,
    /// Interpreter handlers called by translated code.
    pub handler_calls: u64,
    /// Times that translated code was entered.
    pub entries: u64,
}

/// The translator of a VP.
pub(crate) struct Translator {
    arena: CodeMemory,
    capacity: usize,
    asm: Assembler,
    info: InstructionInfoFactory,
    routines: Routines,
    /// Executions of a block before it is translated.
    pub threshold: u32,
    /// Number 0 is never used: it means "no site".
    sites: Vec<Site>,
    /// Handler ops that code refers to.
    ops: Vec<Box<[OpPair]>>,
    ops_bytes: usize,
    /// Every flush gets a new number; blocks remember theirs.
    pub generation: u32,
    pub counters: Counters,
}

impl Translator {
    /// A translator with a code cache of `capacity` bytes, that translates blocks when they run for the `threshold`-th
    /// time.
    pub fn new(capacity: usize, threshold: u32) -> Result<Self, NativeError> {
        let mut translator = Self {
            arena: CodeMemory::with_fault_markers(capacity)?,
            capacity,
            asm: Assembler::new(),
            info: InstructionInfoFactory::new(),
            routines: Routines::default(),
            threshold,
            sites: Vec::new(),
            ops: Vec::new(),
            ops_bytes: 0,
            generation: 0,
            counters: Counters::default(),
        };
        translator.restart();
        Ok(translator)
    }

    /// Forgets all code. Blocks of older generations have none any more.
    fn restart(&mut self) {
        self.arena.clear();
        self.sites.clear();
        self.sites.push(Site { page: 0, distance: 0, stub: 0, search: 0 });
        self.ops.clear();
        self.ops_bytes = 0;
        self.generation += 1;
        self.asm.restart(self.arena.next_offset());
        self.routines = routines::emit(&mut self.asm);
        // An arena too small for the routines is too small for every block, and nothing is ever translated.
        let _ = self.arena.push(self.asm.bytes());
    }

    fn address(&self, offset: u32) -> *const u8 {
        self.arena.base().wrapping_add(offset as usize)
    }

    /// The way into translated code.
    fn enter(&self) -> Enter {
        // SAFETY: the routine follows this convention.
        unsafe { std::mem::transmute::<*const u8, Enter>(self.address(self.routines.enter)) }
    }

    /// Where empty entries of the target table lead.
    fn dispatch(&self) -> u64 {
        self.address(self.routines.dispatch) as u64
    }

    /// Puts a translation into the arena; `None` if it is full.
    fn install(&mut self, translation: Translation, page: u64, count: usize) -> Option<Installed> {
        let Translation { near, leave, sites, ops, op_references, native } = translation;
        self.ops_bytes += size_of_val(&*ops);
        if self.ops_bytes > self.capacity * OPS_PER_CODE {
            return None;
        }
        let span = self.arena.push(self.asm.bytes()).ok()?;
        debug_assert_eq!(span.offset, self.asm.origin, "code was made for another place");
        let ops = ops.into_boxed_slice();
        for (at, index) in op_references {
            self.arena.write(span.offset + at as u32, &(&raw const ops[index] as u64).to_le_bytes());
        }
        self.ops.push(ops);
        for site in sites {
            let number = self.sites.len() as u32;
            self.arena.write(span.offset + site.number, &number.to_le_bytes());
            self.sites.push(Site {
                page,
                distance: span.offset + site.distance,
                stub: span.offset + site.stub,
                search: span.offset + site.search,
            });
        }
        self.counters.blocks += 1;
        self.counters.native += u64::from(native);
        Some(Installed {
            native: native as usize == count,
            far: span.offset,
            near: span.offset + near,
            leave: span.offset + leave,
        })
    }

    /// Lets a jump of translated code lead to `target` of the arena.
    fn point(&mut self, place: u32, target: u32) {
        let distance = target.wrapping_sub(place + 4);
        self.arena.write(place, &distance.to_le_bytes());
    }

    /// Connects a site with the near entry of a block in the same page, or lets it search the target table from now on.
    /// Whether it was connected.
    fn connect(&mut self, site: u32, block: BlockPointer) -> bool {
        let Some(&Site { page, distance, search, .. }) = self.sites.get(site as usize) else { return false };
        let fits = block.get().linkable && block.get().address >> 12 == page;
        self.point(distance, if fits { block.near_entry() } else { search });
        fits
    }

    /// A block died: whoever enters its code leaves again, and its neighbours forget it.
    fn bury(&mut self, dead: &BlockCode) {
        if dead.generation != self.generation {
            return;
        }
        // Whoever comes by the far entry has not set the code page yet, only the address in RAX.
        for (entry, way_out) in [(dead.far, self.routines.dispatch), (dead.near, dead.leave)] {
            // JMP way_out.
            self.arena.write(entry, &[0xe9]);
            self.point(entry + 1, way_out);
        }
        for &site in &dead.incoming {
            if let Some(&Site { distance, stub, .. }) = self.sites.get(site as usize) {
                self.point(distance, stub);
            }
        }
    }
}

/// Where a block's code is, from the start of the arena.
#[derive(Debug, Clone, Copy)]
struct Installed {
    /// Every instruction has a rule.
    native: bool,
    far: u32,
    near: u32,
    leave: u32,
}

impl Cpu {
    /// Gives the VP a translator.
    pub(crate) fn use_translator(&mut self, translator: Translator) {
        self.targets.reset(translator.dispatch());
        self.translator = Some(Box::new(translator));
    }

    /// Translates a block that has run often enough. Whether it has code now.
    #[cold]
    #[inline(never)]
    fn translate_block(&mut self, block: BlockPointer) -> bool {
        let Some(mut translator) = self.translator.take() else { return false };
        let mut installed = self.translate_with(&mut translator, block);
        if installed.is_none() && translator.arena.used() > translator.capacity / 2 {
            // Full: everything goes, and what is hot comes back.
            translator.restart();
            translator.counters.flushes += 1;
            self.targets.reset(translator.dispatch());
            installed = self.translate_with(&mut translator, block);
        }
        let generation = translator.generation;
        self.translator = Some(translator);
        match installed {
            Some(Installed { native, far, near, leave }) => {
                block.set_code(BlockCode { generation, verifiable: native, far, near, leave, incoming: Vec::new() })
            }
            None => block.refuse(),
        }
        installed.is_some()
    }

    fn translate_with(&mut self, translator: &mut Translator, block: BlockPointer) -> Option<Installed> {
        let source = block.get();
        let (page_number, offset) = (source.address >> 12, source.address & 0xfff);
        let mode = source.mode;
        let mut decoder = Decoder::with_ip(64, &source.bytes, offset, self.features.decoder_options);
        let mut instructions: Vec<Instruction> = Vec::with_capacity(source.count as usize);
        while decoder.can_decode() && instructions.len() < source.count as usize {
            instructions.push(decoder.decode());
        }
        let handlers: Vec<Op> =
            (0..instructions.len()).map(|index| self.single_op(block, index, &instructions, mode)).collect();
        let allowed: Vec<bool> = instructions
            .iter()
            .map(|instruction| !instruction.is_invalid() && self.features.allows(instruction))
            .collect();
        let page = self.rip().wrapping_sub(offset);
        translator.asm.restart(translator.arena.next_offset());
        let source = Source {
            instructions: &instructions,
            handlers: &handlers,
            allowed: &allowed,
            offset,
            mode,
            linkable: source.linkable,
            branches: control::far_from_the_edge(page),
        };
        let translation = block::translate(&mut translator.asm, &mut translator.info, translator.routines, &source);
        let installed = translator.install(translation.ok()?, page_number, instructions.len())?;
        translator.counters.instructions += instructions.len() as u64;
        Some(installed)
    }

    /// The op of one instruction of a block, with a handler that does nothing else.
    fn single_op(&self, block: BlockPointer, index: usize, instructions: &[Instruction], mode: Mode) -> Op {
        let fused = instructions.get(index + 1).is_some_and(Instruction::is_jcc_short_or_near);
        if !fused {
            return block.op(index);
        }
        let instruction = &instructions[index];
        let start = (instruction.ip() - instructions[0].ip()) as usize;
        self.make_op(instruction, None, instructions[0].ip(), mode, &block.get().bytes[start..])
    }
}
