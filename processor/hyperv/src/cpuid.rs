//! CPUID leaves 4000_0000h–4000_0006h (TLFS 2): how a guest finds the interface and what it may use.

use bulkhead_engine::{CpuidTable, CpuidValue};

// 4000_0003h EAX: which MSRs there are.
const TIME_REFERENCE_COUNTER: u32 = 1 << 1;
const SYNIC: u32 = 1 << 2;
const HYPERCALL: u32 = 1 << 5;
const VP_INDEX: u32 = 1 << 6;
const RESET: u32 = 1 << 7;
const REFERENCE_TSC: u32 = 1 << 9;
const FREQUENCIES: u32 = 1 << 11;
// 4000_0003h EBX: which hypercalls the VM may make. Any bit of the root partition here makes Linux take itself for one.
const POST_MESSAGES: u32 = 1 << 4;
const SIGNAL_EVENTS: u32 = 1 << 5;
// 4000_0003h EDX.
const FREQUENCIES_PRESENT: u32 = 1 << 8;
const CRASH_MSRS: u32 = 1 << 10;
// 4000_0004h EAX: what the guest had better do. Without the second one Linux would leave our interrupts unacknowledged.
const RESET_MSR_HINT: u32 = 1 << 4;
const RELAXED_TIMING: u32 = 1 << 5;
const DEPRECATE_AUTO_EOI: u32 = 1 << 9;
/// Tries for a spin lock before the guest should tell us.
const SPIN_RETRIES: u32 = 0xfff;

/// What Windows Server 2022 reports as its build: guests print it, and some choose workarounds by it.
const BUILD: u32 = 20348;
const VERSION: u32 = 10 << 16;

/// Adds the leaves for a VM with `vps` processors to `table`, in place of any other hypervisor's.
pub fn add_leaves(table: &mut CpuidTable, vps: u32) {
    let low = TIME_REFERENCE_COUNTER | SYNIC | HYPERCALL | VP_INDEX | RESET | REFERENCE_TSC | FREQUENCIES;
    let high = POST_MESSAGES | SIGNAL_EVENTS;
    let misc = FREQUENCIES_PRESENT | CRASH_MSRS;
    let hints = RELAXED_TIMING | DEPRECATE_AUTO_EOI | RESET_MSR_HINT;
    // "Microsoft Hv" and "Hv#1".
    let vendor = [0x7263_694d, 0x666f_736f, 0x7648_2074];
    let leaves = [
        (0x4000_0000, [0x4000_0006, vendor[0], vendor[1], vendor[2]]),
        (0x4000_0001, [0x3123_7648, 0, 0, 0]),
        (0x4000_0002, [BUILD, VERSION, 0, 0]),
        (0x4000_0003, [low, high, 0, misc]),
        (0x4000_0004, [hints, SPIN_RETRIES, 0, 0]),
        (0x4000_0005, [vps, vps, 0, 0]),
        (0x4000_0006, [0, 0, 0, 0]),
    ];
    for (leaf, [eax, ebx, ecx, edx]) in leaves {
        table.set(leaf, CpuidValue { eax, ebx, ecx, edx });
    }
}
