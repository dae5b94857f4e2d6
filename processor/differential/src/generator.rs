//! Random instruction sequences with a state that makes most of them succeed.

use std::collections::HashMap;

use iced_x86::{
    Code, CpuidFeature, Decoder, DecoderOptions, Encoder, FlowControl, Instruction, InstructionInfoFactory, Mnemonic,
    OpAccess, OpKind, Register,
};

use crate::case::layout::{DATA, DATA_SIZE, IMAGES};
use crate::undefined::UndefinedFlags;
use crate::{Case, Form, Mode, Random, Registers, forms, refusal};

/// Makes cases; the same seed gives the same case.
pub struct Generator {
    forms: HashMap<Mode, Vec<Code>>,
    factory: InstructionInfoFactory,
}

/// A sequence has at most this many instructions.
const LONGEST: u64 = 8;
/// Room for instructions in a slot, INT3 before and after left out.
const ROOM: usize = 8 * 15;

const INT3: u8 = 0xcc;

impl Generator {
    /// Generates only forms that `wanted` accepts (and that [`refusal`] does not refuse).
    pub fn new(wanted: impl Fn(&Form) -> bool) -> Self {
        let mut by_mode: HashMap<Mode, Vec<Code>> = HashMap::new();
        for form in forms().iter().filter(|form| refusal(form.code).is_none() && wanted(form)) {
            by_mode.entry(form.mode).or_default().push(form.code);
        }
        Self { forms: by_mode, factory: InstructionInfoFactory::new() }
    }

    /// The forms that are generated.
    pub fn forms(&self) -> Vec<Form> {
        let of = |mode| self.forms.get(&mode).into_iter().flatten().map(move |&code| Form { code, mode });
        Mode::ALL.into_iter().flat_map(of).collect()
    }

    /// The case of a seed, for a slot. It starts with `first` if that can be; the rest is random.
    pub fn case(&mut self, seed: u64, slot: usize, first: Form) -> Case {
        let mut random = Random::new(seed);
        let length = if random.chance(40) { 1 } else { 1 + random.below(LONGEST) } as usize;
        let mut sequence = Sequence::new(&mut random, &mut self.factory, first.mode, slot);
        let codes = self.forms.get(&first.mode).map_or(&[][..], Vec::as_slice);
        for index in 0..length {
            for attempt in 0..20 {
                let code = if index == 0 && attempt < 15 { first.code } else { sequence.random.pick(codes) };
                if sequence.append(code) {
                    break;
                }
            }
        }
        sequence.finish(seed)
    }
}

/// A case being made.
pub(crate) struct Sequence<'a> {
    pub random: &'a mut Random,
    factory: &'a mut InstructionInfoFactory,
    pub mode: Mode,
    slot: usize,
    pub registers: Registers,
    /// Registers that an instruction has read or written: their initial value is fixed.
    used: u16,
    /// Registers that an instruction has written: their value is not known any more.
    written: u16,
    pub vectors_used: u16,
    undefined: UndefinedFlags,
    undefined_before: Vec<u64>,
    /// x87 exceptions may be unmasked.
    x87_unmasked: bool,
    instructions: Vec<Instruction>,
    code: Vec<u8>,
    image: usize,
    patches: Vec<(u32, u64)>,
    /// Address of the last memory operand made.
    pub last_target: u64,
}

impl<'a> Sequence<'a> {
    fn new(random: &'a mut Random, factory: &'a mut InstructionInfoFactory, mode: Mode, slot: usize) -> Self {
        let registers = initial_registers(random, mode, slot);
        let image = random.below(IMAGES as u64) as usize;
        Self {
            random,
            factory,
            mode,
            slot,
            registers,
            used: 0,
            written: 0,
            vectors_used: 0,
            undefined: UndefinedFlags::default(),
            undefined_before: Vec::new(),
            x87_unmasked: registers.fcw & 0x3f != 0x3f,
            instructions: Vec::new(),
            code: vec![INT3],
            image,
            patches: Vec::new(),
            last_target: 0,
        }
    }

    fn address(&self) -> u64 {
        self.mode.start(self.slot) + self.code.len() as u64
    }

    /// Branches go to the INT3 before the first instruction.
    pub fn branch_target(&self) -> u64 {
        self.mode.start(self.slot)
    }

    /// A register whose value is known when the next instruction executes.
    pub fn known_register(&mut self) -> Option<usize> {
        let count = self.mode.registers() as u64;
        let written = self.written;
        (0..4).map(|_| self.random.below(count) as usize).find(|register| written >> register & 1 == 0)
    }

    /// Whether no instruction has written the register.
    pub fn is_known(&self, register: usize) -> bool {
        self.written >> register & 1 == 0
    }

    /// Gives a register an initial value if nothing depends on the old one yet.
    pub fn prefer(&mut self, register: Register, value: u64) -> bool {
        let number = register.number();
        let free = self.used >> number & 1 == 0;
        if free {
            self.registers.gpr[number] = value;
        }
        free
    }

    /// Appends one instruction of a form, or leaves everything as it was.
    fn append(&mut self, code: Code) -> bool {
        let before = (self.registers, self.patches.len());
        let done = self.try_append(code).is_some();
        if !done {
            self.registers = before.0;
            self.patches.truncate(before.1);
        }
        done
    }

    fn try_append(&mut self, code: Code) -> Option<()> {
        let instruction = self.operands(code)?;
        self.control_transfer(&instruction)?;
        let mut encoder = Encoder::try_new(self.mode.bits()).ok()?;
        encoder.encode(&instruction, self.address()).ok()?;
        let bytes = encoder.take_buffer();
        // What a decoder makes of the bytes is the truth; another form of the same operation is not the one asked for.
        let decoded = Decoder::with_ip(self.mode.bits(), &bytes, self.address(), DecoderOptions::NONE).decode();
        if decoded.code() != code || decoded.len() != bytes.len() || self.code.len() + bytes.len() > ROOM {
            return None;
        }
        self.undefined_before.push(self.undefined.step(&decoded)?);
        self.note_registers(&decoded);
        self.code.extend_from_slice(&bytes);
        self.instructions.push(decoded);
        Some(())
    }

    /// Makes sure that jumps, returns and POPF find something sensible.
    fn control_transfer(&mut self, instruction: &Instruction) -> Option<()> {
        let target = self.branch_target();
        match instruction.flow_control() {
            FlowControl::IndirectBranch | FlowControl::IndirectCall => {
                if instruction.op0_kind() == OpKind::Register {
                    self.prefer(instruction.op0_register().full_register(), target).then_some(())?;
                } else if !self.patch(self.last_target, target) && self.mode == Mode::Segmented {
                    // Any 16 bits are an address in the code segment, with other slots' code.
                    return None;
                }
            }
            FlowControl::Return => self.patch_stack(target)?,
            _ => {}
        }
        self.late_store(instruction)?;
        use Mnemonic::{
            Maskmovdqu, Maskmovq, Popf, Popfd, Popfq, Shld, Shrd, Vmaskmovdqu, Vmaskmovpd, Vmaskmovps, Vpmaskmovd,
            Vpmaskmovq,
        };
        match instruction.mnemonic() {
            Popf | Popfd | Popfq => {
                let flags = self.random.bits() & 0xcd5;
                self.patch_stack(flags)
            }
            // Whether a masked-out byte can fault, and at which address, is the processor's choice.
            Maskmovdqu | Maskmovq | Vmaskmovdqu => {
                let inside = DATA + self.random.below(DATA_SIZE as u64 - 16);
                self.prefer(Register::RDI, inside - self.mode.data_base()).then_some(())
            }
            // Likewise where a segment ends between the elements.
            Vmaskmovps | Vmaskmovpd | Vpmaskmovd | Vpmaskmovq if self.mode == Mode::Segmented => {
                (DATA..DATA + DATA_SIZE as u64).contains(&self.last_target).then_some(())
            }
            // A 16-bit double shift by more than 16 has no defined result.
            Shld | Shrd
                if instruction.op0_kind() != OpKind::Memory && instruction.op0_register().size() == 2
                    || instruction.op1_register().size() == 2 =>
            {
                let count = self.random.below(17);
                match instruction.op2_kind() {
                    OpKind::Immediate8 => (instruction.immediate8() & 31 <= 16).then_some(()),
                    _ => self.prefer(Register::RCX, count).then_some(()),
                }
            }
            _ => Some(()),
        }
    }

    /// An x87 store or VCVTPS2PH that raises an unmasked exception does not access memory, on the processor, and sets
    /// sticky bits before it does. Here operands are checked first; the difference shows only where they fault.
    fn late_store(&mut self, instruction: &Instruction) -> Option<()> {
        use Mnemonic::{Fldcw, Fldenv, Frstor, Fxrstor, Fxrstor64, Vcvtps2ph};
        let x87 = instruction.cpuid_features().contains(&CpuidFeature::FPU) && self.x87_unmasked;
        let memory = instruction.op_count() > 0 && instruction.op0_kind() == OpKind::Memory;
        let store = memory && self.factory.info(instruction).op0_access() == OpAccess::Write;
        let late = store && (x87 || instruction.mnemonic() == Vcvtps2ph);
        self.x87_unmasked |= matches!(instruction.mnemonic(), Fldcw | Fldenv | Frstor | Fxrstor | Fxrstor64);
        let inside = (DATA..DATA + DATA_SIZE as u64 - 16).contains(&self.last_target);
        (!late || inside).then_some(())
    }

    fn patch_stack(&mut self, value: u64) -> Option<()> {
        self.is_known(4).then_some(())?;
        self.patch(self.registers.gpr[4] + self.mode.data_base(), value).then_some(())
    }

    /// Puts a value into data; false if the address is elsewhere.
    fn patch(&mut self, address: u64, value: u64) -> bool {
        let inside = address.checked_sub(DATA).filter(|&offset| offset <= DATA_SIZE as u64 - 8);
        let Some(offset) = inside.filter(|_| self.patches.len() < crate::host_child::PATCHES) else { return false };
        self.patches.push((offset as u32, value));
        true
    }

    fn note_registers(&mut self, instruction: &Instruction) {
        for used in self.factory.info(instruction).used_registers() {
            let register = used.register();
            let writes = !matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::None);
            if register.is_gpr() {
                let bit = 1 << register.full_register().number();
                self.used |= bit;
                self.written |= if writes { bit } else { 0 };
            } else if register.is_vector_register() {
                self.vectors_used |= 1 << (register.number() & 15);
            }
        }
    }

    fn finish(mut self, seed: u64) -> Case {
        self.code.push(INT3);
        Case {
            seed,
            mode: self.mode,
            slot: self.slot,
            instructions: self.instructions,
            code: self.code,
            registers: self.registers,
            image: self.image,
            patches: self.patches,
            undefined_flags: self.undefined.flags(),
            undefined_before: self.undefined_before,
        }
    }
}

fn initial_registers(random: &mut Random, mode: Mode, slot: usize) -> Registers {
    let mut registers = Registers::initial();
    registers.rip = mode.start(slot) + 1;
    let data = DATA - mode.data_base();
    for value in registers.gpr.iter_mut().take(mode.registers()) {
        *value = if random.chance(40) { data + random.below(DATA_SIZE as u64) } else { random.integer() };
        if mode != Mode::Long {
            *value &= 0xffff_ffff;
        }
    }
    // A stack in the middle of the data, nearly always aligned.
    let aligned = random.chance(95);
    registers.gpr[4] = (data + 0x400 + random.below(0x1800)) & if aligned { !7 } else { !0 };
    registers.rflags = 0x202 | random.bits() & 0x8d5 | u64::from(random.chance(10)) << 10;
    for vector in registers.vector.iter_mut().take(mode.registers()) {
        let upper = random.chance(70);
        for (index, lane) in vector.chunks_exact_mut(8).enumerate() {
            if index < 2 || upper {
                lane.copy_from_slice(&random.lane().to_le_bytes());
            }
        }
    }
    initial_x87(random, &mut registers);
    registers.mxcsr = match random.below(10) {
        0..=5 => 0x1f80,
        6 | 7 => 0x1f80 | (random.bits() & 0xe07f) as u32,
        // Some exceptions unmasked, no flag set yet.
        8 => (random.bits() & 0xff80) as u32,
        _ => 0x1fc0 | 0x8000,
    };
    registers
}

fn initial_x87(random: &mut Random, registers: &mut Registers) {
    let top = if random.chance(50) { 0 } else { random.below(8) as u16 };
    registers.fsw = top << 11 | (random.bits() & 0x4700) as u16;
    registers.ftw = match random.below(4) {
        0 => 0,
        1 => 0xff,
        _ => (random.bits() & 0xff) as u16,
    };
    registers.fcw = match random.below(10) {
        0..=6 => 0x37f,
        7 | 8 => 0x7f | (random.bits() & 0xf00) as u16,
        _ => 0x40 | (random.bits() & 0xf3f) as u16,
    };
    for register in &mut registers.st {
        let (mantissa, exponent) = match random.below(8) {
            0 => (0, 0),
            1 => (1 << 63, 0x7fff),
            2 => (random.bits() | 3 << 62, 0x7fff),
            3 => (random.bits() >> 1, 0),
            4 => (random.bits(), random.bits() as u16 & 0x7fff),
            _ => (random.bits() | 1 << 63, 0x3fff + random.below(64) as u16 - 16),
        };
        register[..8].copy_from_slice(&mantissa.to_le_bytes());
        let sign = (random.below(2) as u16) << 15;
        register[8..].copy_from_slice(&(exponent | sign).to_le_bytes());
    }
}
