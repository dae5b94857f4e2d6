//! A test case: code, the state it starts in, and what came of it.

use std::sync::OnceLock;

use iced_x86::Instruction;

/// Addresses that code under test can reach; all below 4 GiB, the same on the host and on the engine. Pages between
/// and around them are not mapped.
pub mod layout {
    /// Two pages to read and write.
    pub const DATA: u64 = 0x1000_0000;
    /// Bytes at [`DATA`].
    pub const DATA_SIZE: usize = 0x2000;
    /// A page that follows [`DATA`] and can only be read.
    pub const READ_ONLY: u64 = DATA + DATA_SIZE as u64;
    /// Its size.
    pub const READ_ONLY_SIZE: usize = 0x1000;
    /// Where code is: not where sums and small multiples of data addresses point.
    pub const CODE: u64 = 0x1800_0000;
    /// Cases in flight; each has its own piece of [`CODE`].
    pub const SLOTS: usize = 512;
    /// Bytes per slot: no divisor of a page, so that in some slots instructions cross pages.
    pub const SLOT_SIZE: usize = 191;
    /// Bytes at [`CODE`].
    pub const CODE_SIZE: usize = (SLOTS * SLOT_SIZE).next_multiple_of(0x1000);
    /// Slots that share a code segment in [`super::Mode::Segmented`].
    pub const SEGMENT_SLOTS: usize = SLOTS / 2;
    /// Different initial contents of [`DATA`].
    pub const IMAGES: usize = 16;

    /// Address of a slot. Its first byte is INT3, the target of branches; instructions follow, then another INT3.
    pub const fn slot(index: usize) -> u64 {
        CODE + (index * SLOT_SIZE) as u64
    }

    /// What [`READ_ONLY`] holds.
    pub const READ_ONLY_FILL: u8 = 0x5a;
}

/// Segments of the code and its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mode {
    /// 64-bit.
    Long,
    /// 32-bit in compatibility mode, flat.
    Compatibility,
    /// 16-bit in compatibility mode: code, data and stack in segments of 64 KiB.
    Segmented,
}

impl Mode {
    /// All.
    pub const ALL: [Self; 3] = [Self::Long, Self::Compatibility, Self::Segmented];

    /// 64, 32 or 16.
    pub const fn bits(self) -> u32 {
        match self {
            Self::Long => 64,
            Self::Compatibility => 32,
            Self::Segmented => 16,
        }
    }

    /// How many general-purpose and vector registers there are.
    pub const fn registers(self) -> usize {
        match self {
            Self::Long => 16,
            Self::Compatibility | Self::Segmented => 8,
        }
    }

    /// Base of the data and stack segments.
    pub const fn data_base(self) -> u64 {
        match self {
            Self::Long | Self::Compatibility => 0,
            Self::Segmented => layout::DATA,
        }
    }

    /// Base of the code segment for a slot: one of two, so that all slots are within 64 KiB.
    pub const fn code_base(self, slot: usize) -> u64 {
        match self {
            Self::Long | Self::Compatibility => 0,
            Self::Segmented => layout::slot(slot / layout::SEGMENT_SLOTS * layout::SEGMENT_SLOTS),
        }
    }

    /// Instruction pointer at the start of a slot.
    pub const fn start(self, slot: usize) -> u64 {
        layout::slot(slot) - self.code_base(slot)
    }
}

/// User-visible registers.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registers {
    /// In encoding order.
    pub gpr: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// YMM0–15.
    pub vector: [[u8; 32]; 16],
    /// ST(0)–ST(7).
    pub st: [[u8; 10]; 8],
    /// SSE control and status.
    pub mxcsr: u32,
    /// x87 control word.
    pub fcw: u16,
    /// x87 status word.
    pub fsw: u16,
    /// x87 tags, abridged: bit i set = physical register i is in use.
    pub ftw: u16,
}

impl Registers {
    /// Everything zero, x87 and MXCSR as after reset.
    pub fn initial() -> Self {
        Self {
            gpr: [0; 16],
            rip: 0,
            rflags: 0x202,
            vector: [[0; 32]; 16],
            st: [[0; 10]; 8],
            mxcsr: 0x1f80,
            fcw: 0x37f,
            fsw: 0,
            ftw: 0,
        }
    }
}

impl Registers {
    /// x87, SSE and AVX state as an XSAVE area.
    pub fn to_xsave(&self) -> Box<[u8; 832]> {
        let mut area = Box::new([0; 832]);
        area[0..2].copy_from_slice(&self.fcw.to_le_bytes());
        area[2..4].copy_from_slice(&self.fsw.to_le_bytes());
        area[4] = self.ftw as u8;
        area[24..28].copy_from_slice(&self.mxcsr.to_le_bytes());
        area[28..32].copy_from_slice(&0xffff_u32.to_le_bytes());
        for (index, st) in self.st.iter().enumerate() {
            area[32 + 16 * index..42 + 16 * index].copy_from_slice(st);
        }
        for (index, vector) in self.vector.iter().enumerate() {
            area[160 + 16 * index..176 + 16 * index].copy_from_slice(&vector[..16]);
            area[576 + 16 * index..592 + 16 * index].copy_from_slice(&vector[16..]);
        }
        area[512] = 7;
        area
    }

    /// Takes x87, SSE and AVX state from an XSAVE area.
    pub fn set_from_xsave(&mut self, area: &[u8; 832]) {
        let initial = Self::initial();
        let word = |at: usize| u16::from_le_bytes([area[at], area[at + 1]]);
        let has = |component: u8| area[512] >> component & 1 != 0;
        self.mxcsr = u32::from(word(24)) | u32::from(word(26)) << 16;
        (self.fcw, self.fsw, self.ftw, self.st) = (initial.fcw, initial.fsw, initial.ftw, initial.st);
        if has(0) {
            (self.fcw, self.fsw, self.ftw) = (word(0), word(2), area[4].into());
            for (index, st) in self.st.iter_mut().enumerate() {
                st.copy_from_slice(&area[32 + 16 * index..42 + 16 * index]);
            }
        }
        self.vector = initial.vector;
        for (index, vector) in self.vector.iter_mut().enumerate() {
            if has(1) {
                vector[..16].copy_from_slice(&area[160 + 16 * index..176 + 16 * index]);
            }
            if has(2) {
                vector[16..].copy_from_slice(&area[576 + 16 * index..592 + 16 * index]);
            }
        }
    }
}

/// A sequence to execute.
#[derive(Debug, Clone)]
pub struct Case {
    /// Reproduces it.
    pub seed: u64,
    /// Segment of the code.
    pub mode: Mode,
    /// Which slot of [`layout::CODE`] it is made for.
    pub slot: usize,
    /// The instructions, for printing and minimising.
    pub instructions: Vec<Instruction>,
    /// Slot contents: INT3, the instructions, INT3.
    pub code: Vec<u8>,
    /// Registers before; `rip` is the second byte of the slot.
    pub registers: Registers,
    /// Which initial contents of [`layout::DATA`].
    pub image: usize,
    /// Eight bytes at offsets of [`layout::DATA`], on top of the image.
    pub patches: Vec<(u32, u64)>,
    /// Flags that the architecture leaves undefined at the end.
    pub undefined_flags: u64,
    /// The same before each instruction: what is undefined if that one faults.
    pub undefined_before: Vec<u64>,
}

impl Case {
    /// Contents of [`layout::DATA`] before.
    pub fn memory(&self) -> Box<[u8; layout::DATA_SIZE]> {
        let mut memory = Box::new(*image(self.image));
        for &(offset, value) in &self.patches {
            memory[offset as usize..offset as usize + 8].copy_from_slice(&value.to_le_bytes());
        }
        memory
    }
}

/// One of the initial contents of [`layout::DATA`].
pub fn image(index: usize) -> &'static [u8; layout::DATA_SIZE] {
    static IMAGES: OnceLock<Vec<[u8; layout::DATA_SIZE]>> = OnceLock::new();
    let all = IMAGES.get_or_init(|| (0..layout::IMAGES).map(make_image).collect());
    &all[index % layout::IMAGES]
}

fn make_image(index: usize) -> [u8; layout::DATA_SIZE] {
    let mut random = crate::Random::new(0xda7a_0000 + index as u64);
    let mut memory = [0; layout::DATA_SIZE];
    for lane in memory.chunks_exact_mut(8) {
        let value = if random.chance(60) { random.lane() } else { random.integer() };
        lane.copy_from_slice(&value.to_le_bytes());
    }
    memory
}

/// An exception as its handler sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exception {
    /// Vector. 3 is how every case ends that does not fault.
    pub vector: u8,
    /// Error code, 0 for vectors without.
    pub error: u32,
    /// CR2 of a page fault, else 0.
    pub address: u64,
}

/// What a case left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Registers, `rip` as the exception pushed it.
    pub registers: Registers,
    /// The exception that ended it.
    pub exception: Exception,
    /// Contents of [`layout::DATA`].
    pub memory: Box<[u8; layout::DATA_SIZE]>,
}
