//! `Engine`, `Partition`, `Vp` and `VpExits`.

use std::ops::Range;
use std::sync::Arc;

use bulkhead_guest_memory::GuestMemory;
use bulkhead_reactor::Reactor;

use crate::{CpuidTable, CpuidValue, EngineError, VpState, msr};

/// The engines of the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    /// Hardware virtualization through the host kernel.
    Kvm,
    /// Bulkhead's own software processor.
    Soft,
}

impl EngineKind {
    /// The name used on the command line and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Soft => "soft",
        }
    }
}

/// Makes partitions. One value per process and engine; holds what is found out once, such as host features.
pub trait Engine: Send + Sync {
    /// Which engine this is.
    fn kind(&self) -> EngineKind;

    /// The largest number of VPs of one partition.
    fn max_vps(&self) -> u32;

    /// The CPUID leaves that this engine can honour on this host; a partition's table must be a subset.
    fn supported_cpuid(&self) -> CpuidTable;

    /// Makes an empty partition: no memory mapped, no VP.
    fn create_partition(&self, config: PartitionConfig) -> Result<Arc<dyn Partition>, EngineError>;
}

/// What a partition is made of.
#[derive(Clone)]
pub struct PartitionConfig {
    /// Number of VPs; indices and APIC ids are `0..vp_count`.
    pub vp_count: u32,
    /// RAM and ROM of the VM. Ranges of it become visible to the guest through [`Partition::map`].
    pub memory: GuestMemory,
    /// The leaves that the guest sees.
    pub cpuid: CpuidTable,
    /// Source of time, timers and entropy.
    pub reactor: Reactor,
    /// Rate of the guest's TSC in Hz. The TSC reads `reactor.now() * tsc_hz / 1e9` plus the guest's own adjustments.
    pub tsc_hz: u64,
    /// One thread, clock = counted instructions, no host time. The soft engine only.
    pub deterministic: bool,
}

/// How the guest may use a mapped range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// RAM.
    ReadWrite,
    /// ROM: reads and execution hit memory, writes are MMIO exits.
    ReadOnly,
}

/// A message-signalled interrupt as the device wrote it (Intel SDM vol. 3, 11.11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Msi {
    /// Address: `0xfee0_0000` with destination, redirection hint and destination mode.
    pub address: u64,
    /// Data: vector, delivery mode, level, trigger mode.
    pub data: u32,
}

/// One virtual machine's processors and address space.
///
/// Every method may be called from any thread, also from inside a [`VpExits`] call of a running VP.
pub trait Partition: Send + Sync {
    /// Shows `memory[source .. source + len]` (addresses of the partition's [`GuestMemory`]) to the guest at `gpa`.
    /// Replaces what was mapped there. All values are multiples of 4096.
    fn map(&self, gpa: Range<u64>, source: u64, access: Access) -> Result<(), EngineError>;

    /// Takes a range away: accesses become MMIO exits.
    fn unmap(&self, gpa: Range<u64>) -> Result<(), EngineError>;

    /// Makes VP `index` in the given state. Once per index; the VP then moves to the thread that runs it.
    fn create_vp(&self, index: u32, state: &VpState) -> Result<Box<dyn Vp>, EngineError>;

    /// Makes [`Vp::run`] of `index` return [`Stop::Kicked`] soon; a kick before `run` makes the next `run` return.
    fn kick(&self, index: u32);

    /// Delivers a message-signalled interrupt to the local APICs.
    fn send_msi(&self, msi: Msi);

    /// Level of the PIC's INTR output, wired to LINT0 of VP 0. When VP 0 accepts it, it calls
    /// [`VpExits::acknowledge_ext_int`].
    fn set_ext_int(&self, asserted: bool);

    /// A non-maskable interrupt for VP `index`.
    fn inject_nmi(&self, index: u32);

    /// Brings the engine's own dirty log into the partition's [`GuestMemory`] bitmap. Called by who harvests it,
    /// after [`Partition::set_dirty_logging`].
    fn sync_dirty_log(&self) -> Result<(), EngineError>;

    /// Switches dirty logging of guest writes on or off. The bitmap itself is [`GuestMemory`]'s.
    fn set_dirty_logging(&self, on: bool) -> Result<(), EngineError>;
}

/// How long [`Vp::run`] goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunLimit {
    /// Until kicked or shut down; a halted VP waits inside `run`.
    Unlimited,
    /// At most this many instructions, and never waiting: a halt returns [`Stop::Halted`].
    /// KVM takes only 1 (single step).
    Instructions(u64),
}

/// Why [`Vp::run`] returned. The VP is between two instructions, and its state can be saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// [`Partition::kick`] was called.
    Kicked,
    /// The instructions of [`RunLimit::Instructions`] are used up.
    LimitReached,
    /// With [`RunLimit::Instructions`]: the VP waits for an interrupt, or for INIT/SIPI.
    Halted,
    /// A triple fault.
    TripleFault,
}

/// One virtual processor; runs on the thread that owns it.
pub trait Vp: Send {
    /// Executes guest code until it stops. Exits are answered by `exits` on this thread.
    fn run(&mut self, exits: &mut dyn VpExits, limit: RunLimit) -> Result<Stop, EngineError>;

    /// The complete architectural state.
    fn state(&mut self) -> Result<VpState, EngineError>;

    /// Replaces the complete architectural state.
    fn set_state(&mut self, state: &VpState) -> Result<(), EngineError>;

    /// Guest-physical address that `linear` translates to for a supervisor read, without side effects.
    fn translate(&mut self, linear: u64) -> Option<u64>;

    /// Counters since the VP was made.
    fn stats(&self) -> VpStats;
}

/// Counters of one VP.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VpStats {
    /// Guest instructions, where the engine counts them. The iterations of a REP belong to its one instruction, but each
    /// run of them after the first (a run ends at a page boundary at the latest) counts as one more, and so does each
    /// delivered exception: neither can go on for ever within a limit.
    pub instructions: Option<u64>,
    /// Exits and internal events by name, in the engine's own order.
    pub events: Vec<(&'static str, u64)>,
}

/// The port of hypercalls: the hypercall page does `OUT 51h, EAX`. No PC has a device there.
pub const HYPERCALL_PORT: u8 = 0x51;

/// The registers that a hypercall reads and writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HypercallRegisters {
    /// The caller runs 64-bit code: EFER.LMA and CS.L.
    pub long_mode: bool,
    /// Accumulator.
    pub rax: u64,
    /// Base.
    pub rbx: u64,
    /// Counter.
    pub rcx: u64,
    /// Data.
    pub rdx: u64,
    /// Source index.
    pub rsi: u64,
    /// Destination index.
    pub rdi: u64,
    /// R8.
    pub r8: u64,
}

/// Answers to a VP's exits. Called on the VP's thread, in program order. May call any method of the partition.
///
/// `size` is 1, 2 or 4; values are zero-extended. An access that no device claims reads all ones and writes nothing.
pub trait VpExits {
    /// IN.
    fn port_in(&mut self, port: u16, size: u8) -> u32;

    /// OUT.
    fn port_out(&mut self, port: u16, size: u8, value: u32);

    /// REP INS of `data.len() / size` items. Engines call it for whole chunks, so that a device with a data port
    /// can copy at once.
    fn port_in_string(&mut self, port: u16, size: u8, data: &mut [u8]) {
        for item in data.chunks_exact_mut(usize::from(size)) {
            let value = self.port_in(port, size).to_le_bytes();
            item.copy_from_slice(&value[..usize::from(size)]);
        }
    }

    /// REP OUTS of `data.len() / size` items.
    fn port_out_string(&mut self, port: u16, size: u8, data: &[u8]) {
        for item in data.chunks_exact(usize::from(size)) {
            let mut value = [0; 4];
            value[..item.len()].copy_from_slice(item);
            self.port_out(port, size, u32::from_le_bytes(value));
        }
    }

    /// OUT of 4 bytes to [`HYPERCALL_PORT`] by code at privilege level 0 in protected or long mode (not virtual-8086), in
    /// place of [`Self::port_out`]. What is changed in `registers` the VP finds behind the instruction. `false`: it was no
    /// hypercall, and the engine calls `port_out`.
    fn hypercall(&mut self, registers: &mut HypercallRegisters) -> bool {
        let _ = registers;
        false
    }

    /// A read of unmapped guest-physical memory; `data` is 1 to 64 bytes long and lies within one page.
    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]);

    /// A write to unmapped or read-only guest-physical memory, within one page.
    fn mmio_write(&mut self, gpa: u64, data: &[u8]);

    /// RDMSR of an MSR that the engine does not keep itself. `None` becomes #GP(0).
    fn msr_read(&mut self, msr: u32) -> Option<u64>;

    /// RDMSR of [`msr::TIME_REF_COUNT`], in place of [`Self::msr_read`]. `tsc` is the VP's TSC at this moment: guests compare
    /// this counter with what they compute from their TSC, so it must be the same clock.
    fn reference_count(&mut self, tsc: u64) -> Option<u64> {
        let _ = tsc;
        self.msr_read(msr::TIME_REF_COUNT)
    }

    /// WRMSR of an MSR that the engine does not keep itself. `None` becomes #GP(0).
    fn msr_write(&mut self, msr: u32, value: u64) -> Option<()>;

    /// CPUID of a leaf that the table marks as dynamic ([`CpuidTable::mark_dynamic`]); `table` is its static value.
    fn cpuid(&mut self, leaf: u32, subleaf: u32, table: CpuidValue) -> CpuidValue {
        let _ = (leaf, subleaf);
        table
    }

    /// The VP accepts the ExtINT line: run the PIC's acknowledge cycle. `None` if the request went away (spurious).
    fn acknowledge_ext_int(&mut self) -> Option<u8>;

    /// End of interrupt of a level-triggered vector, for the IOAPIC.
    fn end_of_interrupt(&mut self, vector: u8);
}
