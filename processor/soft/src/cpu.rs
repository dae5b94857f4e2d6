//! `Cpu`: the live state of a VP. Hot fields first; plain layout, because generated code will use it too.

use crate::decode::cache::BlockCache;
use crate::features::Features;
use crate::flags::{ARITHMETIC, Flags};
use crate::int::Int;
use crate::memory::TlbEntry;
use crate::mmu::tlb::Tlb;
use crate::op::{Fault, Op, OpPointer};
use crate::shared::{PartitionShared, VpShared, request};
use crate::translate::{Translator, lockstep::Written, targets::TargetTable};
use bulkhead_engine::MemoryMap;
use bulkhead_engine::VpExits;
use bulkhead_native::NativeState;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A segment register with what limit and rights boil down to.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct SegmentRegister {
    /// Base address. In 64-bit mode zero except for FS and GS.
    pub base: u64,
    /// Lowest valid offset.
    pub low: u32,
    /// Highest valid offset.
    pub high: u32,
    /// Limit in bytes as loaded.
    pub limit: u32,
    /// Visible selector.
    pub selector: u16,
    /// As in `bulkhead_engine::Segment`.
    pub attributes: u16,
    /// May be read, may be written (false for null selectors).
    pub readable: bool,
    /// May be written.
    pub writable: bool,
}

/// What the instruction decoder and block keys need to know of a VP's mode. A block is only run in its own mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub(crate) struct Mode(pub u32);

impl Mode {
    /// 64-bit code (CS.L in long mode).
    pub const LONG64: u32 = 1;
    /// CS.D: 32-bit code (neither this nor `LONG64`: 16-bit code).
    pub const CODE32: u32 = 1 << 1;
    /// SS.B: 32-bit stack.
    pub const STACK32: u32 = 1 << 2;
    /// CPL is 3.
    pub const USER: u32 = 1 << 3;
    /// CR0.PE, and not virtual-8086: selectors are looked up in descriptor tables.
    pub const PROTECTED: u32 = 1 << 4;
    /// ES, CS, SS, DS have base 0 and limit 4 GiB, are readable, and all but CS writable.
    pub const FLAT: u32 = 1 << 5;
    /// Blocks of one instruction (single step, breakpoints, exact instruction limits).
    pub const SINGLE: u32 = 1 << 6;
    /// CR0.EM: no x87, no SSE.
    pub const EMULATION: u32 = 1 << 7;
    /// CR0.TS: x87 and SSE instructions raise #NM.
    pub const TASK_SWITCHED: u32 = 1 << 8;
    /// CR4.OSFXSR: SSE instructions are allowed.
    pub const SSE: u32 = 1 << 9;
    /// CR4.OSXSAVE and XCR0[2:1] = 3: AVX instructions are allowed.
    pub const AVX: u32 = 1 << 10;
    /// EFER.LMA: long mode, also while in compatibility code.
    pub const LMA: u32 = 1 << 11;
    /// EFLAGS.VM.
    pub const VIRTUAL_8086: u32 = 1 << 12;
    /// CR0.MP: WAIT heeds CR0.TS.
    pub const MONITOR: u32 = 1 << 13;

    /// Whether all bits of `bits` are set.
    #[inline(always)]
    pub const fn has(self, bits: u32) -> bool {
        self.0 & bits == bits
    }

    /// 16, 32 or 64.
    pub const fn code_bits(self) -> u32 {
        if self.has(Self::LONG64) {
            64
        } else if self.has(Self::CODE32) {
            32
        } else {
            16
        }
    }
}

/// An exception on its way: what [`Fault`] stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Exception {
    /// Vector.
    pub vector: u8,
    /// Error code, for vectors that push one.
    pub error_code: Option<u32>,
    /// CR2 for #PF, DR6 bits for #DB.
    pub payload: u64,
}

/// Exception vectors.
pub(crate) mod vector {
    pub const DE: u8 = 0;
    pub const DB: u8 = 1;
    pub const NMI: u8 = 2;
    pub const BP: u8 = 3;
    pub const OF: u8 = 4;
    pub const BR: u8 = 5;
    pub const UD: u8 = 6;
    pub const NM: u8 = 7;
    pub const DF: u8 = 8;
    pub const TS: u8 = 10;
    pub const NP: u8 = 11;
    pub const SS: u8 = 12;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
    pub const MF: u8 = 16;
    pub const AC: u8 = 17;
    pub const XM: u8 = 19;
}

/// Bits of RFLAGS.
pub(crate) mod rflags {
    pub const FIXED: u64 = 1 << 1;
    pub const ZF: u64 = 1 << 6;
    pub const TF: u64 = 1 << 8;
    pub const IF: u64 = 1 << 9;
    pub const DF: u64 = 1 << 10;
    pub const OF: u64 = 1 << 11;
    pub const IOPL: u64 = 3 << 12;
    pub const NT: u64 = 1 << 14;
    pub const RF: u64 = 1 << 16;
    pub const VM: u64 = 1 << 17;
    pub const AC: u64 = 1 << 18;
    pub const VIF: u64 = 1 << 19;
    pub const VIP: u64 = 1 << 20;
    pub const ID: u64 = 1 << 21;
}

/// A table register.
pub(crate) use bulkhead_engine::{Activity, DescriptorTable, InterruptShadow};

/// MSRs without a field of their own.
#[derive(Debug, Clone, Default)]
pub(crate) struct Msrs {
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub syscall_mask: u64,
    pub kernel_gs_base: u64,
    pub tsc_aux: u64,
    pub sysenter: [u64; 3],
    pub pat: u64,
    pub misc_enable: u64,
    pub spec_ctrl: u64,
    pub tsc_adjust: u64,
    pub mtrr_def_type: u64,
    /// 0x200–0x20f.
    pub mtrr_variable: [u64; 16],
    /// 0x250, 0x258, 0x259, 0x268–0x26f.
    pub mtrr_fixed: [u64; 11],
}

/// Counters of things that cost time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Events {
    pub page_walks: u64,
    pub blocks_decoded: u64,
    pub code_writes: u64,
    pub split_locks: u64,
    pub mmio: u64,
    pub ports: u64,
    pub hypercalls: u64,
    pub msrs: u64,
    pub ipis: u64,
    pub exceptions: u64,
    pub interrupts: u64,
    pub halts: u64,
    pub cr3_loads: u64,
}

/// The live state of a VP.
#[repr(C)]
pub(crate) struct Cpu {
    /// 0–15 RAX RCX RDX RBX RSP RBP RSI RDI R8–R15, then [`Cpu::ZERO`], [`Cpu::RIP`] and constants. 32, so that a
    /// masked number needs no bounds check.
    pub regs: [u64; 32],
    /// OF, SF, ZF, AF, PF, CF.
    pub flags: Flags,
    /// Data accesses all take the slow path: alignment checks or data breakpoints are on.
    pub slow_data: bool,
    /// Current privilege level.
    pub cpl: u8,
    /// Mode of the running block.
    pub mode: Mode,
    /// All other bits of RFLAGS.
    pub system_flags: u64,
    /// The TLB of the current privilege level, [`crate::memory::TLB_ENTRIES`] entries.
    pub tlb: NonNull<TlbEntry>,
    /// The op whose handler returned something else than `Next`.
    pub last_op: Option<OpPointer>,
    /// Instructions that may still be executed.
    pub budget: i64,
    /// The request bits of this VP's mailbox, which `partition` keeps alive.
    pub requests: NonNull<AtomicU32>,
    /// ES CS SS DS FS GS, and two that are never used (masked numbers need no bounds check).
    pub segments: [SegmentRegister; 8],
    /// x87, SSE and AVX state.
    pub native: NativeState,
    /// Address of the page that translated code is in: RIP minus the instruction's offset in the page.
    pub code_page: u64,
    /// Scratch for translated code.
    pub temporary: u64,
    /// Instructions that translated code may still execute; see `translate/run.rs`.
    pub slice: i32,
    /// The jump that translated code left by.
    pub exit_site: u32,
    /// The exception that a [`Fault`] stands for.
    pub fault: Exception,
    /// Local descriptor table.
    pub ldtr: SegmentRegister,
    /// Task register.
    pub tr: SegmentRegister,
    /// Global descriptor table.
    pub gdtr: DescriptorTable,
    /// Interrupt descriptor table.
    pub idtr: DescriptorTable,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    /// DR0–DR3, DR6, DR7.
    pub dr: [u64; 6],
    pub efer: u64,
    pub xcr0: u64,
    pub msrs: Msrs,
    /// IA32_APIC_BASE.
    pub apic_base: u64,
    /// Guest TSC minus VM time in ticks.
    pub tsc_offset: u64,
    pub activity: Activity,
    pub shadow: InterruptShadow,
    pub nmi_blocked: bool,
    /// An interrupt or NMI could not be taken yet.
    pub interrupt_waiting: bool,
    /// Decided but not yet delivered; only between state changes from outside.
    pub pending_exception: Option<Exception>,
    /// DR6 bits of breakpoints that the running instruction met.
    pub breakpoints_met: u64,
    /// Translations.
    pub mmu: Tlb,
    /// From addresses to translated code.
    pub targets: TargetTable,
    /// Decoded code.
    pub cache: BlockCache,
    /// Makes host code of blocks; none in the interpreter tier.
    pub translator: Option<Box<Translator>>,
    /// In lockstep, while a block runs that will be undone: what it wrote over.
    pub undo: Option<Vec<Written>>,
    /// In lockstep: the difference that was found.
    pub lockstep_report: Option<String>,
    /// This VP's number and APIC id.
    pub index: usize,
    /// The partition.
    pub partition: Arc<PartitionShared>,
    /// The memory map as this VP knows it.
    pub map: Arc<MemoryMap>,
    /// What the guest's CPUID offers.
    pub features: Arc<Features>,
    /// Who answers exits, during `run`.
    pub exits: Option<NonNull<dyn VpExits>>,
    /// `budget` at the start of `run`.
    pub budget_start: i64,
    /// Instructions before the current `run`.
    pub instructions_before: u64,
    /// PAUSE instructions; see `ops/system.rs`.
    pub pauses: u32,
    /// Counters.
    pub events: Events,
}

// SAFETY: the pointers lead into boxes that the VP owns (TLB, blocks), or to the exits of a `run` in progress, during
// which the VP stays on its thread.
unsafe impl Send for Cpu {}

impl Cpu {
    /// Register number that always reads zero: absent base or index.
    pub const ZERO: u8 = 16;
    /// RIP of the running block's first byte; between blocks the RIP of the next instruction.
    pub const RIP: u8 = 17;
    /// Register number that reads 4096.
    pub const PAGE: u8 = 18;
    /// Register number that reads -4096.
    pub const MINUS_PAGE: u8 = 19;
    /// Base of operands whose 64-bit address is in [`crate::op::Op::imm`] (MOV moffs).
    pub const ABSOLUTE: u8 = 20;

    /// A register by number; 8-bit widths: 16–19 are AH CH DH BH.
    #[inline(always)]
    pub fn reg<T: Int>(&self, number: u8) -> T {
        if T::BITS == 8 {
            T::from_u64(self.regs[usize::from(number & 15)] >> (number >> 4 << 3))
        } else {
            T::from_u64(self.regs[usize::from(number & 31)])
        }
    }

    /// Writes a register: 8 and 16 bits keep the rest, 32 bits clear the upper half.
    #[inline(always)]
    pub fn set_reg<T: Int>(&mut self, number: u8, value: T) {
        if T::BITS == 8 {
            let shift = number >> 4 << 3;
            let register = &mut self.regs[usize::from(number & 15)];
            *register = *register & !(0xff << shift) | value.to_u64() << shift;
        } else if T::BITS == 16 {
            let register = &mut self.regs[usize::from(number & 31)];
            *register = *register & !0xffff | value.to_u64();
        } else {
            self.regs[usize::from(number & 31)] = value.to_u64();
        }
    }

    /// RIP of the block's first byte (see [`Cpu::RIP`]).
    #[inline(always)]
    pub fn rip(&self) -> u64 {
        self.regs[Self::RIP as usize]
    }

    /// Sets where execution goes on.
    #[inline(always)]
    pub fn set_rip(&mut self, rip: u64) {
        self.regs[Self::RIP as usize] = rip;
    }

    /// The whole RFLAGS register.
    pub fn rflags(&self) -> u64 {
        self.flags.get() | self.system_flags
    }

    /// Sets the whole RFLAGS register, without any check or side effect.
    pub fn set_rflags(&mut self, value: u64) {
        self.flags.set(value);
        self.system_flags = value & !ARITHMETIC | rflags::FIXED;
    }

    /// Raises an exception without an error code: #DE, #UD, #BR, #OF, #NM …
    #[cold]
    pub fn raise(&mut self, vector: u8) -> Fault {
        self.fault = Exception { vector, error_code: None, payload: 0 };
        Fault
    }

    /// Raises an exception with an error code: #GP, #SS, #NP, #TS.
    #[cold]
    pub fn raise_code(&mut self, vector: u8, error_code: u32) -> Fault {
        self.fault = Exception { vector, error_code: Some(error_code), payload: 0 };
        Fault
    }

    /// Where the op's instruction begins, cut to the code's width.
    #[inline(always)]
    pub fn rip_of(&self, op: &Op) -> u64 {
        self.cut_ip(self.rip().wrapping_add(u64::from(op.offset)))
    }

    /// Where the instruction behind the op begins.
    #[inline(always)]
    pub fn rip_after(&self, op: &Op) -> u64 {
        self.cut_ip(self.rip().wrapping_add(u64::from(op.offset) + u64::from(op.len)))
    }

    /// Cuts an instruction pointer to the code's width.
    #[inline(always)]
    pub fn cut_ip(&self, rip: u64) -> u64 {
        if self.mode.has(Mode::LONG64) {
            rip
        } else if self.mode.has(Mode::CODE32) {
            rip & 0xffff_ffff
        } else {
            rip & 0xffff
        }
    }

    /// The mailbox of this VP.
    #[inline(always)]
    pub fn shared(&self) -> &VpShared {
        &self.partition.vps[self.index]
    }

    /// Whether somebody wants something: long instructions stop when they can.
    #[inline(always)]
    pub fn must_stop(&self) -> bool {
        // SAFETY: points into `partition`, whose VPs never move.
        unsafe { self.requests.as_ref() }.load(Ordering::Relaxed) != 0
    }

    /// Whether a repeated instruction must stop between two runs of elements. Each further run counts as an
    /// instruction; limited VPs stop in the middle of endless ones only.
    #[inline(always)]
    pub fn must_pause_repeat(&mut self) -> bool {
        const GRACE: i64 = 1024;
        self.budget -= 1;
        self.budget < -GRACE || self.must_stop()
    }

    /// Instructions executed so far.
    pub fn instructions(&self) -> u64 {
        self.instructions_before + (self.budget_start - self.budget) as u64
    }

    /// #GP(0).
    #[cold]
    pub fn gp(&mut self) -> Fault {
        self.raise_code(vector::GP, 0)
    }

    /// Calls an exit. The VP does not count as executing guest code meanwhile.
    pub fn exit<R>(&mut self, call: impl FnOnce(&mut dyn VpExits) -> R) -> Option<R> {
        let mut exits = self.exits?;
        self.native.pause();
        self.partition.leave_guest(self.index);
        // SAFETY: set by `run`, which holds the exclusive reference it was made from, for the time of the run; exits
        // do not run VPs, so there is no second reference.
        let result = call(unsafe { exits.as_mut() });
        self.partition.enter_guest(self.index);
        self.native.resume();
        self.serve_memory_requests();
        Some(result)
    }

    /// Serves those requests that must come before the next guest access.
    pub fn serve_memory_requests(&mut self) {
        let wanted = request::MAP | request::FORBID_WRITES;
        let shared = &self.partition.vps[self.index];
        if shared.requests.load(Ordering::SeqCst) & wanted == 0 {
            return;
        }
        let requests = shared.requests.fetch_and(!wanted, Ordering::SeqCst);
        if requests & request::MAP != 0 {
            self.map = self.partition.map.read().clone();
            self.flush_tlb();
        }
        if requests & request::FORBID_WRITES != 0 {
            self.mmu.forbid_all_writes();
        }
    }

    /// Recomputes the mode word after segments, control registers, EFER or RFLAGS changed, and chooses the TLB.
    pub fn update_mode(&mut self) {
        let [es, cs, ss, ds, ..] = &self.segments;
        let protected = self.cr0 & 1 != 0;
        let v86 = self.system_flags & rflags::VM != 0;
        let lma = self.efer & 1 << 10 != 0;
        let long64 = lma && cs.attributes & bulkhead_engine::Segment::LONG != 0;
        let big = bulkhead_engine::Segment::BIG;
        let flat = |segment: &SegmentRegister| segment.base == 0 && segment.low == 0 && segment.high == u32::MAX;
        let flat_data = |segment: &SegmentRegister| flat(segment) && segment.writable;
        let bits = [
            (Mode::LONG64, long64),
            (Mode::CODE32, !long64 && cs.attributes & big != 0),
            (Mode::STACK32, !long64 && ss.attributes & big != 0),
            (Mode::USER, self.cpl == 3),
            (Mode::PROTECTED, protected && !v86),
            (Mode::FLAT, !long64 && flat(cs) && flat_data(es) && flat_data(ss) && flat_data(ds)),
            (Mode::EMULATION, self.cr0 & 1 << 2 != 0),
            (Mode::TASK_SWITCHED, self.cr0 & 1 << 3 != 0),
            (Mode::SSE, self.cr4 & 1 << 9 != 0),
            (Mode::AVX, self.cr4 & 1 << 18 != 0 && self.xcr0 & 6 == 6),
            (Mode::LMA, lma),
            (Mode::VIRTUAL_8086, v86),
            (Mode::MONITOR, self.cr0 & 1 << 1 != 0),
        ];
        self.mode = Mode(bits.iter().filter(|(_, on)| *on).map(|(bit, _)| bit).sum());
        self.select_tlb();
    }
}
