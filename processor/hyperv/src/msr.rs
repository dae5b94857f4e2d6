//! Numbers of the Hyper-V MSRs (TLFS appendix B).

use std::ops::RangeInclusive;

/// All MSRs of the interface.
pub const RANGE: RangeInclusive<u32> = 0x4000_0000..=0x4000_0fff;

/// Identity of the guest's kernel; 0 switches hypercalls off.
pub const GUEST_OS_ID: u32 = 0x4000_0000;
/// Hypercall page: enable, lock, page.
pub const HYPERCALL: u32 = 0x4000_0001;
/// Index of the VP; read only.
pub const VP_INDEX: u32 = 0x4000_0002;
/// Writing 1 resets the VM.
pub const RESET: u32 = 0x4000_0003;
/// Reference time in units of 100 ns; read only.
pub const TIME_REF_COUNT: u32 = bulkhead_engine::msr::TIME_REF_COUNT;
/// Reference TSC page: enable, page.
pub const REFERENCE_TSC: u32 = 0x4000_0021;
/// Rate of the TSC in Hz; read only.
pub const TSC_FREQUENCY: u32 = 0x4000_0022;
/// Rate of the local APIC timer in Hz; read only.
pub const APIC_FREQUENCY: u32 = 0x4000_0023;
/// VP assist page: enable, page.
pub const VP_ASSIST_PAGE: u32 = 0x4000_0073;
/// SynIC control: bit 0 enables it.
pub const SCONTROL: u32 = 0x4000_0080;
/// SynIC version; read only.
pub const SVERSION: u32 = 0x4000_0081;
/// Event flags page: enable, page.
pub const SIEFP: u32 = 0x4000_0082;
/// Message page: enable, page.
pub const SIMP: u32 = 0x4000_0083;
/// End of message; reads as 0.
pub const EOM: u32 = 0x4000_0084;
/// First of 16 synthetic interrupt sources.
pub const SINT0: u32 = 0x4000_0090;
/// Last of them.
pub const SINT15: u32 = SINT0 + 15;
/// First of five crash parameters.
pub const CRASH_P0: u32 = 0x4000_0100;
/// Last of them.
pub const CRASH_P4: u32 = CRASH_P0 + 4;
/// Crash control.
pub const CRASH_CTL: u32 = 0x4000_0105;
