//! Executes cases on an engine, through the engine contract alone.
//!
//! A guest of one VP in long mode, CPL 3, with the pages of [`crate::layout`] at the same linear addresses as on the
//! host and selectors equal to those that Linux gives. Every exception ends in a HLT at CPL 0; which one tells the
//! vector, and its stack frame holds what the processor pushed.

use std::sync::Arc;

use bulkhead_engine::cpu_model::{CpuLevel, CpuModel};
use bulkhead_engine::{
    Access, CpuidTable, DescriptorTable, Engine, EngineError, Partition, PartitionConfig, RunLimit, Segment, Stop, Vp,
    VpExits, VpState, gpr, seg,
};
use bulkhead_guest_memory::GuestMemory;
use bulkhead_native::Features;
use bulkhead_reactor::{Time, VirtualReactor};

use crate::case::layout::{
    CODE, CODE_SIZE, DATA, DATA_SIZE, READ_ONLY, READ_ONLY_FILL, READ_ONLY_SIZE, SLOT_SIZE, slot,
};
use crate::host_child::selectors;
use crate::{Case, Exception, Executor, Mode, Outcome, Registers};

/// Guest-physical memory.
mod physical {
    pub const PML4: u64 = 0x1000;
    pub const LOW: [u64; 2] = [0x2000, 0x3000];
    pub const DATA_TABLE: u64 = 0x4000;
    pub const CODE_TABLE: u64 = 0x5000;
    pub const HIGH: [u64; 3] = [0x6000, 0x7000, 0x8000];
    /// What the kernel half maps: one page each.
    pub const GDT: u64 = 0x1_0000;
    pub const IDT: u64 = 0x1_1000;
    pub const TSS: u64 = 0x1_2000;
    pub const HANDLERS: u64 = 0x1_3000;
    pub const STACK: u64 = 0x1_4000;
    pub const KERNEL: u64 = GDT;
    pub const KERNEL_PAGES: u64 = 5;
    pub const DATA: u64 = 0x2_0000;
    pub const CODE: u64 = 0x4_0000;
    pub const SIZE: u64 = 0x10_0000;
}

/// Linear address of the kernel's pages.
const KERNEL: u64 = 0xffff_8000_0000_0000;

const fn kernel(physical: u64) -> u64 {
    KERNEL + physical - physical::KERNEL
}

/// Selectors, as Linux has them.
const KERNEL_CODE: u16 = 0x10;
const USER_CODE_32: u16 = 0x23;
const USER_DATA: u16 = 0x2b;
const USER_CODE_64: u16 = 0x33;
const TASK: u16 = 0x40;

// Access rights as in `Segment::attributes`.
const CODE_64: u16 = 0xa0fb;
const CODE_32: u16 = 0xc0fb;
const DATA_32: u16 = 0xc0f3;
const CODE_16: u16 = 0x00fb;
const DATA_16: u16 = 0x00f3;
const BUSY_TSS: u16 = 0x008b;

/// More than any sequence has: a REP instruction counts as one.
const LIMIT: u64 = 1000;

/// Why an engine gave no outcome.
#[derive(Debug, thiserror::Error)]
pub enum EngineExecutorError {
    /// The contract's own error.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Guest memory or the reactor could not be made.
    #[error("cannot make the guest: {0}")]
    Setup(Box<dyn std::error::Error + Send + Sync>),
    /// The case did not end in one of the handlers.
    #[error("seed {seed:#x} ended with {stop:?} at rip {rip:#x}, not with an exception")]
    NoException {
        /// Seed of the case.
        seed: u64,
        /// How `run` ended.
        stop: Stop,
        /// Instruction pointer.
        rip: u64,
    },
}

/// A guest that runs cases.
pub struct EngineExecutor {
    memory: GuestMemory,
    vp: Box<dyn Vp>,
    base: VpState,
    features: Features,
    // Both only have to live as long as the VP.
    _partition: Arc<dyn Partition>,
    _reactor: VirtualReactor,
}

impl EngineExecutor {
    /// A guest on `engine`, of the richest CPU model that engine and host allow.
    pub fn new(engine: &dyn Engine) -> Result<Self, EngineExecutorError> {
        let (driver, reactor) = VirtualReactor::new(Time::ZERO, 1).map_err(setup)?;
        let memory = GuestMemory::builder().anonymous(0, physical::SIZE).build().map_err(setup)?;
        write_tables(&memory).map_err(setup)?;
        let supported = engine.supported_cpuid();
        let model = [CpuLevel::V3, CpuLevel::V2].into_iter().find_map(|level| CpuModel::best(level, &supported).ok());
        let cpuid = match model {
            Some(model) => model.cpuid(1),
            None => supported,
        };
        let features = features(&cpuid);
        let config = PartitionConfig {
            vp_count: 1,
            memory: memory.clone(),
            cpuid: cpuid.clone(),
            reactor,
            tsc_hz: 1_000_000_000,
            deterministic: false,
        };
        let partition = engine.create_partition(config)?;
        partition.map(0..physical::SIZE, 0, Access::ReadWrite)?;
        let base = base_state(&cpuid);
        let vp = partition.create_vp(0, &base)?;
        Ok(Self { memory, vp, base, features, _partition: partition, _reactor: driver })
    }

    /// What the guest's CPUID offers.
    pub fn features(&self) -> &Features {
        &self.features
    }

    fn run_case(&mut self, case: &Case) -> Result<Outcome, EngineExecutorError> {
        self.memory.write(physical::DATA, &case.memory()[..]).map_err(setup)?;
        self.vp.set_state(&self.state(case))?;
        let stop = self.vp.run(&mut NoDevices, RunLimit::Instructions(LIMIT))?;
        let state = self.vp.state()?;
        let handlers = kernel(physical::HANDLERS);
        // HLT is one byte long.
        let vector = state.rip.wrapping_sub(handlers + 1);
        if stop != Stop::Halted || !vector.is_multiple_of(16) || vector >= 256 * 16 {
            return Err(EngineExecutorError::NoException { seed: case.seed, stop, rip: state.rip });
        }
        self.outcome(&state, (vector / 16) as u8)
    }

    fn state(&self, case: &Case) -> VpState {
        let mut state = self.base.clone();
        let from = &case.registers;
        (state.gpr, state.rip, state.rflags) = (from.gpr, from.rip, from.rflags);
        state.xsave = from.to_xsave();
        let (code, data) = selectors(case.mode, case.slot);
        let flat = |selector, attributes| Segment { base: 0, limit: u32::MAX, selector, attributes };
        let small = |base, selector, attributes| Segment { base, limit: 0xffff, selector, attributes };
        let (code, data) = match case.mode {
            Mode::Long => (flat(code, CODE_64), flat(data, DATA_32)),
            Mode::Compatibility => (flat(code, CODE_32), flat(data, DATA_32)),
            Mode::Segmented => {
                (small(case.mode.code_base(case.slot), code, CODE_16), small(case.mode.data_base(), data, DATA_16))
            }
        };
        state.segments[seg::CS] = code;
        for index in [seg::ES, seg::SS, seg::DS] {
            state.segments[index] = data;
        }
        state
    }

    fn outcome(&self, state: &VpState, vector: u8) -> Result<Outcome, EngineExecutorError> {
        let has_error = matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30);
        let stack = state.gpr[gpr::RSP] - kernel(physical::STACK) + physical::STACK;
        let frame = |word: u64| self.memory.read_u64(stack + 8 * (word + u64::from(has_error))).map_err(setup);
        let mut registers = Registers { gpr: state.gpr, rip: frame(0)?, rflags: frame(2)?, ..Registers::initial() };
        registers.gpr[gpr::RSP] = frame(3)?;
        registers.set_from_xsave(&state.xsave);
        let error = if has_error { self.memory.read_u64(stack).map_err(setup)? as u32 } else { 0 };
        let address = if vector == 14 { state.cr2 } else { 0 };
        let mut memory = Box::new([0; DATA_SIZE]);
        self.memory.read(physical::DATA, &mut memory[..]).map_err(setup)?;
        Ok(Outcome { registers, exception: Exception { vector, error, address }, memory })
    }
}

impl Executor for EngineExecutor {
    fn load(&mut self, cases: &[Case]) -> Result<(), Box<dyn std::error::Error>> {
        for case in cases {
            self.memory.write(physical::CODE + slot(case.slot) - CODE, &case.code)?;
        }
        Ok(())
    }

    fn run(&mut self, case: &Case) -> Result<Outcome, Box<dyn std::error::Error>> {
        Ok(self.run_case(case)?)
    }
}

fn setup(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> EngineExecutorError {
    EngineExecutorError::Setup(error.into())
}

fn features(cpuid: &CpuidTable) -> Features {
    Features::from_cpuid(|leaf, subleaf| {
        let value = cpuid.get(leaf, subleaf);
        [value.eax, value.ebx, value.ecx, value.edx]
    })
}

// Page table bits. Accessed and dirty are set from the start.
const PRESENT: u64 = 0x21;
const WRITABLE: u64 = 0x42;
const USER: u64 = 4;
const NO_EXECUTE: u64 = 1 << 63;

fn write_tables(memory: &GuestMemory) -> Result<(), bulkhead_guest_memory::AccessError> {
    use physical as p;
    let entry = |table: u64, linear: u64, level: u32, value: u64| {
        memory.write_u64(table + (linear >> (12 + 9 * level) & 0x1ff) * 8, value)
    };
    let link = PRESENT | WRITABLE | USER;
    entry(p::PML4, DATA, 3, p::LOW[0] | link)?;
    entry(p::LOW[0], DATA, 2, p::LOW[1] | link)?;
    entry(p::LOW[1], DATA, 1, p::DATA_TABLE | link)?;
    entry(p::LOW[1], CODE, 1, p::CODE_TABLE | link)?;
    entry(p::PML4, KERNEL, 3, p::HIGH[0] | link)?;
    entry(p::HIGH[0], KERNEL, 2, p::HIGH[1] | link)?;
    entry(p::HIGH[1], KERNEL, 1, p::HIGH[2] | link)?;
    for at in (0..DATA_SIZE as u64).step_by(0x1000) {
        entry(p::DATA_TABLE, DATA + at, 0, (p::DATA + at) | link | NO_EXECUTE)?;
    }
    let read_only = p::DATA + DATA_SIZE as u64;
    entry(p::DATA_TABLE, READ_ONLY, 0, read_only | PRESENT | USER | NO_EXECUTE)?;
    memory.fill(read_only, READ_ONLY_SIZE as u64, READ_ONLY_FILL)?;
    for at in (0..CODE_SIZE as u64).step_by(0x1000) {
        entry(p::CODE_TABLE, CODE + at, 0, (p::CODE + at) | PRESENT | USER)?;
    }
    for page in 0..p::KERNEL_PAGES {
        let at = page * 0x1000;
        entry(p::HIGH[2], KERNEL + at, 0, (p::KERNEL + at) | PRESENT | WRITABLE)?;
    }
    write_descriptors(memory)
}

fn write_descriptors(memory: &GuestMemory) -> Result<(), bulkhead_guest_memory::AccessError> {
    use physical as p;
    let descriptor = |attributes: u16| 0x000f_0000_0000_ffff | u64::from(attributes) << 40;
    let gdt = |selector: u16, value: u64| memory.write_u64(p::GDT + u64::from(selector & !7), value);
    gdt(KERNEL_CODE, descriptor(0xa09b))?;
    gdt(USER_CODE_32, descriptor(CODE_32))?;
    gdt(USER_DATA, descriptor(DATA_32))?;
    gdt(USER_CODE_64, descriptor(CODE_64))?;
    let tss = kernel(p::TSS);
    gdt(TASK, 0x0000_8b00_0000_0067 | (tss & 0xff_ffff) << 16 | (tss >> 24 & 0xff) << 56)?;
    gdt(TASK + 8, tss >> 32)?;
    // RSP0.
    memory.write_u64(p::TSS + 4, kernel(p::STACK) + 0x1000)?;
    memory.write_u16(p::TSS + 0x66, 0x68)?;
    for vector in 0..256 {
        // INT3 and INTO are the program's own.
        let dpl: u64 = if matches!(vector, 3 | 4) { 0x6000 } else { 0 };
        let handler = kernel(p::HANDLERS) + 16 * vector;
        let low =
            handler & 0xffff | u64::from(KERNEL_CODE) << 16 | (0x8e00 | dpl) << 32 | (handler >> 16 & 0xffff) << 48;
        memory.write_u64(p::IDT + 16 * vector, low)?;
        memory.write_u64(p::IDT + 16 * vector + 8, handler >> 32)?;
        // HLT.
        memory.write(p::HANDLERS + 16 * vector, &[0xf4])?;
    }
    Ok(())
}

fn base_state(cpuid: &CpuidTable) -> VpState {
    let mut state = VpState::power_on(0, cpuid.get(1, 0).eax);
    let avx = features(cpuid).has(iced_x86::CpuidFeature::XSAVE);
    // PE MP ET NE WP AM PG.
    state.cr0 = 0x8005_0033;
    state.cr3 = physical::PML4;
    // PAE PGE OSFXSR OSXMMEXCPT, OSXSAVE.
    state.cr4 = 0x6a0 | if avx { 0x4_0000 } else { 0 };
    // SCE LME LMA NXE.
    state.efer = 0xd01;
    state.xcr0 = if avx { 7 } else { 1 };
    state.rflags = 0x202;
    state.segments = [Segment::default(); 6];
    state.ldtr = Segment { attributes: 0x82, ..Segment::default() };
    state.tr = Segment { base: kernel(physical::TSS), limit: 0x67, selector: TASK, attributes: BUSY_TSS };
    state.gdtr = DescriptorTable { base: kernel(physical::GDT), limit: 0x4f };
    state.idtr = DescriptorTable { base: kernel(physical::IDT), limit: 0xfff };
    state
}

/// Cases reach no device: whatever does is seen as a difference.
struct NoDevices;

impl VpExits for NoDevices {
    fn port_in(&mut self, _port: u16, _size: u8) -> u32 {
        u32::MAX
    }

    fn port_out(&mut self, _port: u16, _size: u8, _value: u32) {}

    fn mmio_read(&mut self, _gpa: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn mmio_write(&mut self, _gpa: u64, _data: &[u8]) {}

    fn msr_read(&mut self, _msr: u32) -> Option<u64> {
        None
    }

    fn msr_write(&mut self, _msr: u32, _value: u64) -> Option<()> {
        None
    }

    fn acknowledge_ext_int(&mut self) -> Option<u8> {
        None
    }

    fn end_of_interrupt(&mut self, _vector: u8) {}
}

const _: () = assert!(SLOT_SIZE >= 2 + 8 * 15, "a slot holds a whole sequence");
