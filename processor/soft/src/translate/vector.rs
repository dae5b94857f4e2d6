//! Vector registers: kept in the host's of the same number within a block, and the rule for SSE and AVX instructions.

use super::assembler::Mem;
use super::emit::{Emitter, NoRule};
use super::memory::{Access, address_of};
use super::registers::{ADDRESS, VALUE, field, general, sized};
use crate::cpu::{Cpu, Mode};
use bulkhead_native::{MemoryOperand, NativeState};
use iced_x86::{EncodingKind, Instruction, Mnemonic, OpAccess, OpKind};
use std::mem::offset_of;
use std::sync::OnceLock;

/// Which guest vector registers are in the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct VectorCache {
    /// Bit n: host register n holds guest register n.
    pub loaded: u16,
    /// Bit n: memory does not.
    pub dirty: u16,
}

fn vector_slot(number: u32) -> Mem {
    field(offset_of!(Cpu, native) + offset_of!(NativeState, vector) + 32 * number as usize)
}

impl Emitter<'_> {
    fn move_vector(&mut self, number: u32, store: bool, wide: bool) {
        // (V)MOVAPS; the slots are aligned.
        let opcode = if store { 0x29 } else { 0x28 };
        let mem = vector_slot(number);
        if wide {
            // VEX.256.0F with R inverted; base R15 needs the three-byte form.
            let r = if number < 8 { 0x80 } else { 0 };
            self.asm.put(&[0xc4, r | 0x41, 0x7c, opcode]);
            self.asm.put(&[0x80 | (number as u8 & 7) << 3 | 7]);
            self.asm.put(&mem.disp.to_le_bytes());
        } else {
            self.asm.memory(false, &[0x0f, opcode], number as u8, mem);
        }
    }

    /// Stores what is dirty; the host's registers stay. Flags stay.
    pub fn store_vectors(&mut self, vectors: VectorCache) {
        self.move_vectors(vectors.dirty, true);
        if self.wide && vectors.loaded != 0 {
            // VZEROUPPER: dirty upper halves slow down the SSE code of handlers and other blocks.
            self.asm.put(&[0xc5, 0xf8, 0x77]);
        }
    }

    /// Loads what is to be in the host's registers.
    pub fn load_vectors(&mut self, vectors: VectorCache) {
        self.move_vectors(vectors.loaded, false);
    }

    fn move_vectors(&mut self, mask: u16, store: bool) {
        let wide = self.wide;
        for number in (0..16).filter(|number| mask >> number & 1 != 0) {
            self.move_vector(number, store, wide);
        }
    }

    fn load_vector(&mut self, number: u32) {
        if self.vectors.loaded >> number & 1 == 0 {
            self.move_vector(number, false, self.wide);
            self.vectors.loaded |= 1 << number;
        }
    }

    /// The end of the block: everything goes to memory.
    pub fn flush_vectors(&mut self) {
        self.store_vectors(self.vectors);
        self.vectors = VectorCache::default();
    }

    /// An instruction on vector registers that the host may execute as it is, but for general registers and memory.
    pub fn vector_rule(&mut self, instruction: &Instruction) -> Result<(), NoRule> {
        let shape = self.shape(instruction)?;
        let sets_flags = instruction.rflags_modified() != 0;
        if sets_flags || shape.may_fault {
            self.save_flags();
        }
        let mut copy = *instruction;
        if let Some(operand) = shape.memory {
            let access = Access {
                size: u32::from(operand.size),
                write: operand.write,
                alignment: u32::from(operand.alignment.max(1)),
            };
            let mem = self.check(address_of(instruction)?, access);
            super::integer::set_memory(&mut copy, mem);
        }
        let vectors = &shape.vectors[..shape.count];
        // Sources first: a destination may be one of them.
        for &(number, ..) in vectors.iter().filter(|(_, load, _)| *load) {
            self.load_vector(number);
        }
        for &(number, _, store) in vectors {
            self.vectors.loaded |= 1 << number;
            self.vectors.dirty |= u16::from(store) << number;
        }
        let mut scratch = [ADDRESS, VALUE].into_iter().skip(usize::from(shape.memory.is_some()));
        let mut stores = [None; 2];
        for index in 0..instruction.op_count() {
            if instruction.op_kind(index) != OpKind::Register || !instruction.op_register(index).is_gpr() {
                continue;
            }
            let register = instruction.op_register(index);
            let number = general(register).ok_or(NoRule)?;
            let access = self.info.info(instruction).op_access(index);
            let host = self.bring(number, true, &mut scratch)?;
            copy.set_op_register(index, sized(host, register.size()));
            if matches!(access, OpAccess::Write | OpAccess::ReadWrite) {
                stores[usize::from(stores[0].is_some())] = Some((number, host));
            }
        }
        if shape.may_fault {
            self.fault_marker();
        }
        self.asm.encode(&copy)?;
        for (number, host) in stores.into_iter().flatten() {
            self.put_back(number, host);
        }
        if sets_flags {
            self.flags_set();
        }
        Ok(())
    }

    fn shape(&mut self, instruction: &Instruction) -> Result<Shape, NoRule> {
        let vex = instruction.encoding() == EncodingKind::VEX;
        if !self.mode.has(if vex { Mode::AVX } else { Mode::SSE }) || self.mode.0 & Mode::TASK_SWITCHED != 0 {
            return Err(NoRule);
        }
        if !vex && self.mode.0 & Mode::EMULATION != 0 || !bulkhead_native::supports(instruction) {
            return Err(NoRule);
        }
        if has_implied_registers(instruction.mnemonic()) || instruction.is_vsib() {
            return Err(NoRule);
        }
        let info = self.info.info(instruction);
        let mut shape = Shape { may_fault: may_fault(instruction.mnemonic()), ..Shape::default() };
        for index in 0..instruction.op_count() {
            let access = info.op_access(index);
            match instruction.op_kind(index) {
                OpKind::Register => {
                    let register = instruction.op_register(index);
                    if register.is_gpr() {
                        continue;
                    }
                    if !(register.is_xmm() || register.is_ymm()) || register.number() > 15 {
                        return Err(NoRule);
                    }
                    // In a wide block all of YMM is stored, of which a legacy instruction leaves the upper half.
                    let whole = access == OpAccess::Write && (vex || !self.wide && is_whole_write(instruction));
                    let store = !matches!(access, OpAccess::Read | OpAccess::CondRead | OpAccess::None);
                    shape.vectors[shape.count] = (register.number() as u32, !whole, store);
                    shape.count += 1;
                }
                OpKind::Memory => shape.memory = Some(bulkhead_native::memory_operand(instruction, access)),
                OpKind::Immediate8 => {}
                _ => return Err(NoRule),
            }
        }
        if shape.count == 0 { Err(NoRule) } else { Ok(shape) }
    }
}

/// What matters of an instruction.
#[derive(Default)]
struct Shape {
    memory: Option<MemoryOperand>,
    /// Number, must be loaded, is written.
    vectors: [(u32, bool, bool); 4],
    count: usize,
    may_fault: bool,
}

/// Legacy SSE instructions that write all of an XMM register that they do not read.
fn is_whole_write(instruction: &Instruction) -> bool {
    use Mnemonic::{Lddqu, Movapd, Movaps, Movd, Movdqa, Movdqu, Movntdqa, Movq, Movsd, Movss, Movupd, Movups, Pshufd};
    match instruction.mnemonic() {
        Movaps | Movapd | Movups | Movupd | Movdqa | Movdqu | Lddqu | Movntdqa | Movd | Movq | Pshufd => true,
        Movss | Movsd => instruction.op1_kind() == OpKind::Memory,
        _ => false,
    }
}

/// Registers that are no operands, or elements that are accessed one by one.
fn has_implied_registers(mnemonic: Mnemonic) -> bool {
    use Mnemonic::{
        Blendvpd, Blendvps, Maskmovdqu, Maskmovq, Pblendvb, Pcmpestri, Pcmpestri64, Pcmpestrm, Pcmpestrm64, Pcmpistri,
        Pcmpistrm, Sha256rnds2, Vmaskmovdqu, Vmaskmovpd, Vmaskmovps, Vpcmpestri, Vpcmpestri64, Vpcmpestrm,
        Vpcmpestrm64, Vpcmpistri, Vpcmpistrm, Vpmaskmovd, Vpmaskmovq, Vzeroall, Vzeroupper,
    };
    matches!(
        mnemonic,
        Blendvpd
            | Blendvps
            | Maskmovdqu
            | Maskmovq
            | Pblendvb
            | Pcmpestri
            | Pcmpestri64
            | Pcmpestrm
            | Pcmpestrm64
            | Pcmpistri
            | Pcmpistrm
            | Sha256rnds2
            | Vmaskmovdqu
            | Vmaskmovpd
            | Vmaskmovps
            | Vpcmpestri
            | Vpcmpestri64
            | Vpcmpestrm
            | Vpcmpestrm64
            | Vpcmpistri
            | Vpcmpistrm
            | Vpmaskmovd
            | Vpmaskmovq
            | Vzeroall
            | Vzeroupper
    )
}

/// Whether an instruction can raise a floating-point exception: everything whose name ends like a floating-point type,
/// but for moves and logic.
fn may_fault(mnemonic: Mnemonic) -> bool {
    static TABLE: OnceLock<Vec<bool>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        Mnemonic::values()
            .map(|mnemonic| {
                let name = format!("{mnemonic:?}").to_lowercase();
                let name = name.strip_prefix('v').unwrap_or(&name);
                let float = ["ps", "pd", "ss", "sd", "dq", "si", "pi"].iter().any(|end| name.ends_with(end));
                let quiet = ["mov", "and", "or", "xor", "unpck", "shuf", "blend", "perm", "p", "insert", "broadcast"];
                float && !quiet.iter().any(|start| name.starts_with(start)) || name.starts_with("cvt")
            })
            .collect()
    });
    table.get(mnemonic as usize).copied().unwrap_or(true)
}

/// Whether the instruction has a vector register: one for [`Emitter::vector_rule`].
pub(super) fn is_vector(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|index| {
        let register = instruction.op_register(index);
        instruction.op_kind(index) == OpKind::Register && (register.is_xmm() || register.is_ymm())
    })
}
