//! Fuzz target: a guest that uses MSRs and hypercalls at random while messages and events come in, saved and restored.

use crate::saved_state::SavedHyperV;
use crate::{
    CrashSink, GuestCrash, HyperV, HyperVConfig, HypercallPorts, HypercallStatus, SynicMessage, SynicPort, msr,
};
use bulkhead_device::fuzz::{Step, Steps, damaged};
use bulkhead_device::{Msi, MsiSink, PowerRequest, PowerSink};
use bulkhead_engine::HypercallRegisters;
use bulkhead_guest_memory::GuestMemory;
use bulkhead_reactor::{Reactor, Time, VirtualReactor};
use std::sync::Arc;
use std::time::Duration;

const VPS: u32 = 2;
const RAM: u64 = 16 << 12;

/// Takes everything, and checks what every receiver may rely on.
struct Outside;

impl MsiSink for Outside {
    fn send_msi(&self, msi: Msi) {
        assert!(msi.data > 15 && msi.data < 256, "vector {:#x}", msi.data);
        assert!(msi.address >> 12 & 0xff < u64::from(VPS));
    }
}

impl PowerSink for Outside {
    fn request(&self, request: PowerRequest) {
        assert_eq!(request, PowerRequest::Reset);
    }
}

impl CrashSink for Outside {
    fn guest_crashed(&self, crash: GuestCrash) {
        assert!(crash.text.is_none_or(|text| text.chars().all(|c| c == '\n' || !c.is_control())));
    }
}

impl HypercallPorts for Outside {
    fn post_message(&self, _: u32, message_type: u32, payload: &[u8]) -> HypercallStatus {
        assert!(payload.len() <= SynicMessage::MAX_PAYLOAD && message_type != 0);
        HypercallStatus::Success
    }
    fn signal_event(&self, _: u32, _: u16) -> HypercallStatus {
        HypercallStatus::Success
    }
}

fn config(memory: &GuestMemory, reactor: &Reactor) -> HyperVConfig {
    let outside = Arc::new(Outside);
    HyperVConfig {
        vps: VPS,
        memory: memory.clone(),
        reactor: reactor.clone(),
        tsc_hz: 2_000_000_000,
        interrupts: outside.clone(),
        power: outside.clone(),
        crashes: outside,
    }
}

/// Runs `data` as a guest, then again with an interface restored from a damaged state.
pub fn fuzz(data: &[u8]) {
    let Ok((mut clock, reactor)) = VirtualReactor::new(Time::ZERO, 0) else { return };
    let Ok(memory) = GuestMemory::builder().anonymous(0, RAM).build() else { return };
    let interface = HyperV::new(config(&memory, &reactor));
    interface.connect(Arc::new(Outside));
    run(&interface, &memory, &mut clock, data);
    let state = interface.save().expect("plain");
    let again = HyperV::restore(config(&memory, &reactor), &state).expect("just saved");
    assert_eq!(again.save().expect("plain"), state);
    if let Some(state) = damaged::<SavedHyperV>(&state, data)
        && let Ok(interface) = HyperV::restore(config(&memory, &reactor), &state)
    {
        run(&interface, &memory, &mut clock, data);
    }
}

fn run(interface: &HyperV, memory: &GuestMemory, clock: &mut VirtualReactor, data: &[u8]) {
    let synic = interface.synic();
    let mut time = interface.reference_time();
    for step in Steps::new(data) {
        match step {
            Step::PortRead(number, _) => {
                let _ = interface.msr_read(u32::from(number & 1), 0x4000_0000 + u32::from(number >> 1 & 0x1ff));
            }
            Step::MmioWrite(number, _, value) => drop(interface.msr_write(number & 1, known_msr(number >> 1), value)),
            Step::MmioRead(place, size) => {
                let address = u64::from(place) % RAM;
                let _ = memory.fill(address, u64::from(size), 0);
                let _ = interface.msr_write(place & 1, msr::EOM, 0);
            }
            Step::PortWrite(call, size, value) => {
                let codes = [0x5c, 0x5d, 8, u64::from(call)];
                let mut registers = HypercallRegisters {
                    long_mode: call & 1 == 0,
                    rax: codes[usize::from(call >> 1 & 3)] | u64::from(call >> 3 & 1) << 16,
                    rdx: u64::from(value) & !7,
                    rcx: u64::from(value) & !7,
                    ..HypercallRegisters::default()
                };
                if registers.long_mode {
                    registers.rcx = registers.rax | u64::from(size) << 60 >> 58;
                }
                let _ = interface.hypercall(&mut registers);
            }
            Step::Advance(nanos) => {
                let now = clock.handle().now();
                clock.advance_to(now + Duration::from_nanos(nanos));
            }
            Step::Event(event) => {
                let (vp, sint, flag) = (event & 3, (event >> 2 & 31) as u8, (event >> 4) as u16);
                let _ = synic.signal_event(vp, sint, flag);
                let message = SynicMessage::new(event & 0xff, 1, &vec![7; (event >> 8) as usize]);
                let _ = message.and_then(|message| synic.post_message(vp, sint, &message));
            }
        }
        let now = interface.reference_time();
        assert!(now >= time, "reference time went back");
        time = now;
    }
}

/// One of the MSRs that there are, or near them.
fn known_msr(number: u32) -> u32 {
    let known = [
        msr::GUEST_OS_ID,
        msr::HYPERCALL,
        msr::REFERENCE_TSC,
        msr::VP_ASSIST_PAGE,
        msr::SCONTROL,
        msr::SIEFP,
        msr::SIMP,
        msr::SINT0 + (number >> 4 & 15),
        msr::SINT0 + 2,
        msr::CRASH_P0 + (number >> 4) % 6,
        msr::RESET,
        msr::EOM,
        0x4000_0000 + (number >> 4 & 0x1ff),
    ];
    known[(number & 15) as usize % known.len()]
}
