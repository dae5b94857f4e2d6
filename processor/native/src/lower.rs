//! From a guest instruction to a recipe: the same operation on fixed host registers, and which guest slots they stand
//! for. Pure; `emit` turns a recipe into bytes.

use iced_x86::{
    Code, CodeSize, Instruction, InstructionInfoFactory, OpAccess, OpCodeOperandKind, OpKind, Register, RflagsBits,
};

use crate::NotNative;
use crate::catalog;
use crate::stub::{Masked, MemoryOperand, Slot};

/// Pointer arguments of a stub: `a`, `b`, `c`, `m` (System V).
pub(crate) const POINTERS: [Register; 4] = [Register::RDX, Register::RCX, Register::R8, Register::R9];

/// A register operand on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HostOperand {
    /// Register in the rewritten instruction.
    pub register: Register,
    /// The instruction uses its old value (or leaves part of it as it is).
    pub load: bool,
    /// The instruction writes it.
    pub store: bool,
}

/// An instruction, rewritten for a stub.
#[derive(Debug, Clone)]
pub(crate) struct Recipe {
    /// The operation on host registers. Equal ones share a stub: guest register numbers are not in it.
    pub canonical: Instruction,
    /// Explicit register operands, in order.
    pub explicit: Vec<HostOperand>,
    /// Registers that the operation implies.
    pub implicit: Vec<HostOperand>,
    /// Guest slots of `explicit`.
    pub registers: [Slot; 4],
    pub memory: Option<MemoryOperand>,
    /// The memory operand is at RDI by definition.
    pub memory_at_rdi: bool,
    pub reads_flags: bool,
    pub writes_flags: bool,
    /// Some status flag survives or is undefined: start from the guest's.
    pub keeps_flags: bool,
    pub vex: bool,
    pub wide: bool,
}

const STATUS: u32 = RflagsBits::OF | RflagsBits::SF | RflagsBits::ZF | RflagsBits::AF | RflagsBits::CF | RflagsBits::PF;

/// Rewrites an instruction that the catalog accepts and that is not a gather.
pub(crate) fn lower(instruction: &Instruction, factory: &mut InstructionInfoFactory) -> Result<Recipe, NotNative> {
    let code = instruction.code();
    let mut recipe = Recipe {
        canonical: *instruction,
        explicit: Vec::with_capacity(4),
        implicit: Vec::new(),
        registers: [Slot::None; 4],
        memory: None,
        memory_at_rdi: false,
        reads_flags: instruction.rflags_read() & STATUS != 0,
        writes_flags: instruction.rflags_modified() & STATUS != 0,
        keeps_flags: false,
        vex: code.op_code().encoding() == iced_x86::EncodingKind::VEX,
        wide: false,
    };
    let defined = instruction.rflags_written() | instruction.rflags_cleared() | instruction.rflags_set();
    recipe.keeps_flags = recipe.writes_flags && defined & STATUS != STATUS;
    recipe.canonical.set_code_size(CodeSize::Code64);
    recipe.canonical.set_segment_prefix(Register::None);
    for operand in 0..instruction.op_count() {
        let access = factory.info(instruction).op_access(operand);
        rewrite(&mut recipe, instruction, operand, access)?;
    }
    recipe.masked(instruction);
    recipe.find_implicit(factory);
    Ok(recipe)
}

fn rewrite(recipe: &mut Recipe, from: &Instruction, operand: u32, access: OpAccess) -> Result<(), NotNative> {
    match from.op_kind(operand) {
        OpKind::Register => rewrite_register(recipe, from, operand, access),
        OpKind::Memory => {
            let canonical = &mut recipe.canonical;
            canonical.set_memory_base(POINTERS[3]);
            canonical.set_memory_index(Register::None);
            canonical.set_memory_index_scale(1);
            canonical.set_memory_displacement64(0);
            canonical.set_memory_displ_size(0);
            recipe.memory = Some(memory_operand(from, access));
            Ok(())
        }
        OpKind::MemorySegRDI | OpKind::MemorySegEDI | OpKind::MemorySegDI => {
            recipe.canonical.set_op_kind(operand, OpKind::MemorySegRDI);
            recipe.memory_at_rdi = true;
            recipe.memory = Some(memory_operand(from, access));
            Ok(())
        }
        OpKind::Immediate8 | OpKind::Immediate8_2nd | OpKind::Immediate16 | OpKind::Immediate32 => Ok(()),
        _ => Err(NotNative::Unencodable(from.code())),
    }
}

/// Host registers that explicit GPR operands use, by position and size (log2 of bytes).
const GPRS: [[Register; 4]; 3] = [
    [Register::AL, Register::AX, Register::EAX, Register::RAX],
    [Register::R10L, Register::R10W, Register::R10D, Register::R10],
    [Register::R11L, Register::R11W, Register::R11D, Register::R11],
];

fn rewrite_register(recipe: &mut Recipe, from: &Instruction, operand: u32, access: OpAccess) -> Result<(), NotNative> {
    let guest = from.op_register(operand);
    // x87 and MMX registers are resident in the host: they stay what they are.
    if guest.is_mm() || guest.is_st() {
        return Ok(());
    }
    let index = recipe.explicit.len();
    let unencodable = NotNative::Unencodable(from.code());
    let (host, slot) = if guest.is_xmm() || guest.is_ymm() {
        recipe.wide |= guest.is_ymm();
        // Register 0 stays free for the implicit operand of BLENDV and SHA256RNDS2.
        let first = if guest.is_ymm() { Register::YMM1 } else { Register::XMM1 };
        (first + index as u32, Slot::Vector(guest.number() as u8))
    } else if guest.is_gpr() {
        let byte = matches!(guest, Register::AH | Register::CH | Register::DH | Register::BH);
        let slot = Slot::Gpr { register: guest.full_register().number() as u8, byte: u8::from(byte) };
        let fixed = from.code().op_code().op_kind(operand) == OpCodeOperandKind::ax;
        let position = if fixed { 0 } else { index };
        (GPRS.get(position).ok_or(unencodable)?[guest.size().ilog2() as usize], slot)
    } else {
        return Err(unencodable);
    };
    *recipe.registers.get_mut(index).ok_or(unencodable)? = slot;
    recipe.canonical.set_op_register(operand, host);
    let store = writes(access);
    // A legacy SSE instruction leaves what it does not write; VEX and GPR destinations are written whole.
    let overwritten = access == OpAccess::Write && (recipe.vex || host.is_gpr());
    recipe.explicit.push(HostOperand { register: host, load: !overwritten, store });
    Ok(())
}

fn reads(access: OpAccess) -> bool {
    !matches!(access, OpAccess::None | OpAccess::Write | OpAccess::CondWrite | OpAccess::NoMemAccess)
}

fn writes(access: OpAccess) -> bool {
    matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}

/// The explicit memory operand of an instruction, which accesses it as `access` says.
pub fn memory_operand(from: &Instruction, access: OpAccess) -> MemoryOperand {
    let size = from.memory_size().size() as u8;
    MemoryOperand {
        size,
        read: reads(access),
        write: writes(access),
        alignment: alignment(from.code(), size),
        masked: None,
    }
}

/// Legacy SSE operands of 16 bytes must be aligned, but for those made for unaligned data; of VEX ones only those that
/// are made for aligned data (SDM vol. 2, table 2-14 and following).
fn alignment(code: Code, size: u8) -> u8 {
    let vex = code.op_code().encoding() == iced_x86::EncodingKind::VEX;
    let must = if vex { is_aligned_move(code) } else { size == 16 && !is_unaligned(code) };
    if must { size } else { 1 }
}

fn is_aligned_move(code: Code) -> bool {
    use iced_x86::Mnemonic::{Vmovapd, Vmovaps, Vmovdqa, Vmovntdq, Vmovntdqa, Vmovntpd, Vmovntps};
    matches!(code.mnemonic(), Vmovapd | Vmovaps | Vmovdqa | Vmovntdq | Vmovntdqa | Vmovntpd | Vmovntps)
}

fn is_unaligned(code: Code) -> bool {
    use iced_x86::Mnemonic::{
        Lddqu, Maskmovdqu, Movdqu, Movupd, Movups, Pcmpestri, Pcmpestri64, Pcmpestrm, Pcmpestrm64, Pcmpistri, Pcmpistrm,
    };
    matches!(
        code.mnemonic(),
        Lddqu
            | Maskmovdqu
            | Movdqu
            | Movupd
            | Movups
            | Pcmpestri
            | Pcmpestri64
            | Pcmpestrm
            | Pcmpestrm64
            | Pcmpistri
            | Pcmpistrm
    )
}

impl Recipe {
    /// Masked loads and stores: the mask is the last register of MASKMOV, operand 1 of VMASKMOV.
    fn masked(&mut self, from: &Instruction) {
        use iced_x86::Mnemonic::{Maskmovdqu, Maskmovq, Vmaskmovdqu, Vmaskmovpd, Vmaskmovps, Vpmaskmovd, Vpmaskmovq};
        let (element, mask) = match from.mnemonic() {
            Maskmovdqu | Vmaskmovdqu | Maskmovq => (1, 2),
            Vmaskmovps | Vpmaskmovd => (4, 1),
            Vmaskmovpd | Vpmaskmovq => (8, 1),
            _ => return,
        };
        let Some(memory) = &mut self.memory else { return };
        let register = from.op_register(mask);
        memory.masked = Some(Masked {
            element,
            count: memory.size / element,
            register: register.number() as u8,
            mmx: register.is_mm(),
        });
    }

    fn find_implicit(&mut self, factory: &mut InstructionInfoFactory) {
        for used in factory.info(&self.canonical).used_registers() {
            let register = used.register();
            let host = if register.is_gpr() {
                register.full_register()
            } else if register.is_vector_register() {
                let first = if self.vex { Register::YMM0 } else { Register::XMM0 };
                first + register.number() as u32
            } else {
                continue;
            };
            let same = |operand: &HostOperand| operand.register.full_register() == host.full_register();
            let pointer =
                self.memory.is_some() && (host == POINTERS[3] || (self.memory_at_rdi && host == Register::RDI));
            if pointer || self.explicit.iter().any(same) {
                continue;
            }
            let (load, store) = (reads(used.access()), writes(used.access()));
            match self.implicit.iter_mut().find(|operand| operand.register == host) {
                Some(operand) => {
                    operand.load |= load;
                    operand.store |= store;
                }
                None => self.implicit.push(HostOperand { register: host, load, store }),
            }
        }
    }

    /// Whether the stub sets the x87 instruction and operand pointers.
    pub(crate) fn x87_pointers(&self) -> bool {
        let code = self.canonical.code();
        catalog::is_x87(code) && !catalog::is_x87_control(code)
    }
}
