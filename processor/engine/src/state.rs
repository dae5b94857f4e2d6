//! The architectural state of a VP: what both engines save, restore and agree on.

/// A segment register with its hidden part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Segment {
    /// Base address.
    pub base: u64,
    /// Limit in bytes (granularity already applied).
    pub limit: u32,
    /// Visible selector.
    pub selector: u16,
    /// Access rights as in a descriptor's bytes 5 and 6: type 0–3, S 4, DPL 5–6, P 7, AVL 12, L 13, D/B 14, G 15.
    pub attributes: u16,
}

impl Segment {
    /// Attribute bit: present.
    pub const PRESENT: u16 = 1 << 7;
    /// Attribute bit: 64-bit code.
    pub const LONG: u16 = 1 << 13;
    /// Attribute bit: 32-bit default size.
    pub const BIG: u16 = 1 << 14;

    /// A real-mode segment as after reset.
    pub const fn real_mode(selector: u16, code: bool) -> Self {
        let attributes = if code { 0x9b } else { 0x93 };
        Self { base: (selector as u64) << 4, limit: 0xffff, selector, attributes }
    }

    /// Descriptor privilege level.
    pub const fn dpl(self) -> u8 {
        (self.attributes >> 5 & 3) as u8
    }
}

/// GDTR or IDTR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DescriptorTable {
    /// Base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u16,
}

/// What a VP is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activity {
    /// Executing instructions.
    #[default]
    Running,
    /// In HLT.
    Halted,
    /// After INIT, waiting for a start-up IPI.
    WaitForSipi,
    /// A triple fault happened; only a reset helps.
    Shutdown,
}

/// Interrupts held off by the instruction before (SDM vol. 3, 6.8.3 and POP SS / MOV SS).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InterruptShadow {
    /// None.
    #[default]
    None,
    /// STI.
    Sti,
    /// MOV SS or POP SS.
    MovSs,
}

/// An exception that is decided but not yet delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PendingException {
    /// Vector.
    pub vector: u8,
    /// Error code, for vectors that push one.
    pub error_code: Option<u32>,
    /// CR2 for #PF, DR6 bits for #DB.
    pub payload: u64,
}

/// Rate of the local APIC timer before its divider, in Hz, on both engines.
pub const APIC_TIMER_HZ: u64 = 1_000_000_000;

/// Local APIC registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalApicState {
    /// The register page as guests see it in xAPIC mode, 1 KiB, one 32-bit register per 16 bytes (SDM table 11-1).
    pub registers: Box<[u8; 1024]>,
    /// IA32_TSC_DEADLINE; 0 = disarmed.
    pub tsc_deadline: u64,
    /// VM time in nanoseconds when the timer's current period began, for one-shot and periodic mode.
    pub timer_started: u64,
}

impl Default for LocalApicState {
    fn default() -> Self {
        Self { registers: Box::new([0; 1024]), tsc_deadline: 0, timer_started: 0 }
    }
}

/// Model-specific registers that every engine keeps itself. All others go to [`crate::VpExits::msr_read`].
pub mod msr {
    /// Time-stamp counter.
    pub const TSC: u32 = 0x10;
    /// Local APIC base.
    pub const APIC_BASE: u32 = 0x1b;
    /// TSC adjustment.
    pub const TSC_ADJUST: u32 = 0x3b;
    /// Speculation control.
    pub const SPEC_CTRL: u32 = 0x48;
    /// Variable MTRRs the VP has.
    pub const MTRR_CAP: u32 = 0xfe;
    /// SYSENTER code segment.
    pub const SYSENTER_CS: u32 = 0x174;
    /// SYSENTER stack pointer.
    pub const SYSENTER_ESP: u32 = 0x175;
    /// SYSENTER instruction pointer.
    pub const SYSENTER_EIP: u32 = 0x176;
    /// Miscellaneous features.
    pub const MISC_ENABLE: u32 = 0x1a0;
    /// Page attribute table.
    pub const PAT: u32 = 0x277;
    /// Default memory type.
    pub const MTRR_DEF_TYPE: u32 = 0x2ff;
    /// TSC deadline of the local APIC timer.
    pub const TSC_DEADLINE: u32 = 0x6e0;
    /// Extended features.
    pub const EFER: u32 = 0xc000_0080;
    /// SYSCALL segments.
    pub const STAR: u32 = 0xc000_0081;
    /// SYSCALL target, 64-bit.
    pub const LSTAR: u32 = 0xc000_0082;
    /// SYSCALL target, compatibility mode.
    pub const CSTAR: u32 = 0xc000_0083;
    /// SYSCALL flag mask.
    pub const SYSCALL_MASK: u32 = 0xc000_0084;
    /// FS base.
    pub const FS_BASE: u32 = 0xc000_0100;
    /// GS base.
    pub const GS_BASE: u32 = 0xc000_0101;
    /// The other GS base, for SWAPGS.
    pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
    /// RDTSCP and RDPID value.
    pub const TSC_AUX: u32 = 0xc000_0103;

    /// Hyper-V's reference time, which no engine keeps itself: see [`crate::VpExits::reference_count`].
    pub const TIME_REF_COUNT: u32 = 0x4000_0020;

    /// The MSRs listed in [`crate::VpState::msrs`]: those with no field of their own. Fixed and variable MTRRs
    /// (0x200–0x20f, 0x250, 0x258, 0x259, 0x268–0x26f) belong to it too.
    pub const SAVED: &[u32] = &[
        TSC_ADJUST,
        SPEC_CTRL,
        SYSENTER_CS,
        SYSENTER_ESP,
        SYSENTER_EIP,
        MISC_ENABLE,
        PAT,
        MTRR_DEF_TYPE,
        STAR,
        LSTAR,
        CSTAR,
        SYSCALL_MASK,
        KERNEL_GS_BASE,
        TSC_AUX,
        0x200,
        0x201,
        0x202,
        0x203,
        0x204,
        0x205,
        0x206,
        0x207,
        0x208,
        0x209,
        0x20a,
        0x20b,
        0x20c,
        0x20d,
        0x20e,
        0x20f,
        0x250,
        0x258,
        0x259,
        0x268,
        0x269,
        0x26a,
        0x26b,
        0x26c,
        0x26d,
        0x26e,
        0x26f,
    ];
}

/// Everything that makes a VP what it is between two instructions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VpState {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8–R15 (the encoding's order).
    pub gpr: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// ES, CS, SS, DS, FS, GS (the encoding's order).
    pub segments: [Segment; 6],
    /// Local descriptor table.
    pub ldtr: Segment,
    /// Task register.
    pub tr: Segment,
    /// Global descriptor table.
    pub gdtr: DescriptorTable,
    /// Interrupt descriptor table.
    pub idtr: DescriptorTable,
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4. CR8 is the local APIC's task priority.
    pub cr4: u64,
    /// DR0–DR3, DR6, DR7.
    pub dr: [u64; 6],
    /// EFER.
    pub efer: u64,
    /// XCR0.
    pub xcr0: u64,
    /// x87, SSE and AVX state: a standard-format XSAVE area of 832 bytes, XSTATE_BV in bytes 512–519.
    pub xsave: Box<[u8; 832]>,
    /// (MSR, value) of [`msr::SAVED`], ascending.
    pub msrs: Vec<(u32, u64)>,
    /// IA32_APIC_BASE.
    pub apic_base: u64,
    /// Local APIC.
    pub apic: LocalApicState,
    /// Guest TSC minus `reactor time × tsc_hz / 1e9`, modulo 2^64.
    pub tsc_offset: u64,
    /// What the VP is doing.
    pub activity: Activity,
    /// Interrupts held off for one instruction.
    pub shadow: InterruptShadow,
    /// Between an NMI and its IRET.
    pub nmi_blocked: bool,
    /// An NMI waits.
    pub nmi_pending: bool,
    /// An exception that is decided but not yet delivered.
    pub pending_exception: Option<PendingException>,
}

/// Register numbers of [`VpState::gpr`].
pub mod gpr {
    /// Accumulator.
    pub const RAX: usize = 0;
    /// Counter.
    pub const RCX: usize = 1;
    /// Data.
    pub const RDX: usize = 2;
    /// Base.
    pub const RBX: usize = 3;
    /// Stack pointer.
    pub const RSP: usize = 4;
    /// Frame pointer.
    pub const RBP: usize = 5;
    /// Source index.
    pub const RSI: usize = 6;
    /// Destination index.
    pub const RDI: usize = 7;
}

/// Segment numbers of [`VpState::segments`].
pub mod seg {
    /// Extra.
    pub const ES: usize = 0;
    /// Code.
    pub const CS: usize = 1;
    /// Stack.
    pub const SS: usize = 2;
    /// Data.
    pub const DS: usize = 3;
    /// FS.
    pub const FS: usize = 4;
    /// GS.
    pub const GS: usize = 5;
}

impl VpState {
    /// The state after power-on (SDM vol. 3, table 9-1): VP 0 starts at the reset vector, the others wait for a
    /// start-up IPI. `signature` is CPUID.1:EAX, which RDX holds after reset.
    pub fn power_on(index: u32, signature: u32) -> Self {
        let mut segments = [Segment::real_mode(0, false); 6];
        segments[seg::CS] = Segment { base: 0xffff_0000, ..Segment::real_mode(0xf000, true) };
        let mut gpr = [0; 16];
        gpr[gpr::RDX] = u64::from(signature);
        let bootstrap = index == 0;
        Self {
            gpr,
            rip: 0xfff0,
            rflags: 2,
            segments,
            ldtr: Segment { attributes: 0x82, limit: 0xffff, ..Segment::default() },
            tr: Segment { attributes: 0x8b, limit: 0xffff, ..Segment::default() },
            gdtr: DescriptorTable { base: 0, limit: 0xffff },
            idtr: DescriptorTable { base: 0, limit: 0xffff },
            cr0: 0x6000_0010,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            dr: [0, 0, 0, 0, 0xffff_0ff0, 0x400],
            efer: 0,
            xcr0: 1,
            xsave: initial_xsave(),
            msrs: initial_msrs(),
            apic_base: 0xfee0_0800 | if bootstrap { 0x100 } else { 0 },
            apic: initial_apic(index),
            tsc_offset: 0,
            activity: if bootstrap { Activity::Running } else { Activity::WaitForSipi },
            shadow: InterruptShadow::None,
            nmi_blocked: false,
            nmi_pending: false,
            pending_exception: None,
        }
    }

    /// Value of an MSR in [`Self::msrs`].
    pub fn msr(&self, number: u32) -> Option<u64> {
        self.msrs.iter().find(|(n, _)| *n == number).map(|&(_, value)| value)
    }

    /// Sets an MSR of [`msr::SAVED`].
    pub fn set_msr(&mut self, number: u32, value: u64) {
        match self.msrs.binary_search_by_key(&number, |&(n, _)| n) {
            Ok(at) => self.msrs[at].1 = value,
            Err(at) => self.msrs.insert(at, (number, value)),
        }
    }
}

/// x87 as after FNINIT except that reset leaves the tags "zero"; MXCSR as after reset.
fn initial_xsave() -> Box<[u8; 832]> {
    let mut area = Box::new([0; 832]);
    area[0..2].copy_from_slice(&0x0040_u16.to_le_bytes());
    area[4] = 0xff;
    area[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
    area[28..32].copy_from_slice(&0xffff_u32.to_le_bytes());
    area[512] = 3;
    area
}

fn initial_msrs() -> Vec<(u32, u64)> {
    let value = |number: u32| match number {
        msr::PAT => 0x0007_0406_0007_0406,
        msr::MISC_ENABLE => 1,
        _ => 0,
    };
    let mut msrs: Vec<_> = msr::SAVED.iter().map(|&number| (number, value(number))).collect();
    msrs.sort_unstable();
    msrs
}

fn initial_apic(index: u32) -> LocalApicState {
    let mut state = LocalApicState::default();
    let mut set = |register: usize, value: u32| {
        state.registers[register..register + 4].copy_from_slice(&value.to_le_bytes());
    };
    set(0x20, index << 24);
    set(0x30, 0x0005_0014);
    set(0xe0, 0xffff_ffff);
    set(0xf0, 0xff);
    for lvt in [0x320, 0x330, 0x340, 0x350, 0x360, 0x370] {
        set(lvt, 0x0001_0000);
    }
    state
}
