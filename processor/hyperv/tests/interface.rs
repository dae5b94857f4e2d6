//! What no guest program shows: bytes as the specification has them, limits, reset, restore.

use bulkhead_device::{Msi, MsiSink, PowerRequest, PowerSink};
use bulkhead_engine::HypercallRegisters;
use bulkhead_guest_memory::GuestMemory;
use bulkhead_hyperv::{
    CrashSink, GuestCrash, HyperV, HyperVConfig, HypercallPorts, HypercallStatus, SynicError, SynicMessage, SynicPort,
    msr,
};
use bulkhead_reactor::{Time, VirtualReactor};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

const PAGE: u64 = 0x1000;
const MESSAGES: u64 = 0x3000;
const EVENTS: u64 = 0x4000;
const INPUT: u64 = 0x5000;

/// Notes everything.
#[derive(Default)]
struct Outside {
    interrupts: Mutex<Vec<(u64, u32)>>,
    posted: Mutex<Vec<(u32, u32, Vec<u8>)>>,
    signalled: Mutex<Vec<(u32, u16)>>,
    crashes: Mutex<Vec<GuestCrash>>,
    resets: Mutex<u32>,
}

impl MsiSink for Outside {
    fn send_msi(&self, msi: Msi) {
        self.interrupts.lock().push((msi.address, msi.data));
    }
}

impl PowerSink for Outside {
    fn request(&self, request: PowerRequest) {
        assert_eq!(request, PowerRequest::Reset);
        *self.resets.lock() += 1;
    }
}

impl CrashSink for Outside {
    fn guest_crashed(&self, crash: GuestCrash) {
        self.crashes.lock().push(crash);
    }
}

impl HypercallPorts for Outside {
    fn post_message(&self, connection_id: u32, message_type: u32, payload: &[u8]) -> HypercallStatus {
        self.posted.lock().push((connection_id, message_type, payload.to_vec()));
        HypercallStatus::Success
    }
    fn signal_event(&self, connection_id: u32, flag: u16) -> HypercallStatus {
        self.signalled.lock().push((connection_id, flag));
        HypercallStatus::Success
    }
}

struct Bench {
    memory: GuestMemory,
    clock: VirtualReactor,
    outside: Arc<Outside>,
    interface: Arc<HyperV>,
}

impl Bench {
    fn new() -> Bench {
        let (clock, _) = VirtualReactor::new(Time::ZERO, 0).unwrap();
        let memory = GuestMemory::builder().anonymous(0, 0x10_0000).build().unwrap();
        let outside = Arc::<Outside>::default();
        let interface = HyperV::new(config(&clock, &memory, &outside));
        assert!(interface.connect(outside.clone()));
        Bench { memory, clock, outside, interface }
    }

    /// Saves the interface and goes on with the restored one.
    fn save_and_restore(&mut self) {
        let state = self.interface.save().unwrap();
        self.interface = HyperV::restore(config(&self.clock, &self.memory, &self.outside), &state).unwrap();
        assert!(self.interface.connect(self.outside.clone()));
        assert_eq!(self.interface.save().unwrap(), state);
    }

    fn write(&self, number: u32, value: u64) {
        self.interface.msr_write(1, number, value).unwrap();
    }

    fn enable(&self) {
        self.write(msr::GUEST_OS_ID, 0x8100_0006_01c0_0000);
        self.write(msr::HYPERCALL, PAGE | 1);
        self.write(msr::SIMP, MESSAGES | 1);
        self.write(msr::SIEFP, EVENTS | 1);
        self.write(msr::SINT0 + 2, 0xf3);
        self.write(msr::SCONTROL, 1);
    }

    fn call(&self, control: u64, input: u64) -> u64 {
        let mut registers =
            HypercallRegisters { long_mode: true, rcx: control, rdx: input, ..HypercallRegisters::default() };
        assert!(self.interface.hypercall(&mut registers));
        assert_eq!((registers.rcx, registers.rdx), (control, input));
        registers.rax
    }

    fn slot(&self) -> [u8; 32] {
        self.memory.read_array(MESSAGES + 0x200).unwrap()
    }
}

fn config(clock: &VirtualReactor, memory: &GuestMemory, outside: &Arc<Outside>) -> HyperVConfig {
    HyperVConfig {
        vps: 2,
        memory: memory.clone(),
        reactor: clock.handle(),
        tsc_hz: 2_500_000_000,
        interrupts: outside.clone(),
        power: outside.clone(),
        crashes: outside.clone(),
    }
}

#[test]
fn posts_signals_messages_and_events_have_the_bytes_of_the_specification() {
    let bench = Bench::new();
    bench.enable();
    // Linux' first message: connection 4, type 1, 40 bytes.
    let mut input = vec![4, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 40, 0, 0, 0, 14, 0, 0, 0, 0, 0, 0, 0, 3, 0, 5, 0];
    input.resize(256, 0);
    bench.memory.write(INPUT, &input).unwrap();
    assert_eq!(bench.call(0x5c, INPUT), 0);
    assert_eq!(*bench.outside.posted.lock(), [(4, 1, input[16..56].to_vec())]);
    assert_eq!(bench.call(0x1_005d, 0x2005), 0);
    assert_eq!(*bench.outside.signalled.lock(), [(0x2005, 0)]);

    let answer = [15, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0];
    let message = SynicMessage::new(SynicMessage::VMBUS, 0x11, &answer).unwrap();
    bench.interface.synic().post_message(1, 2, &message).unwrap();
    let mut slot = vec![1, 0, 0, 0, 16, 0, 0, 0, 0x11, 0, 0, 0, 0, 0, 0, 0];
    slot.extend(answer);
    assert_eq!(bench.slot(), slot[..]);
    bench.interface.synic().signal_event(1, 2, 5).unwrap();
    bench.interface.synic().signal_event(1, 2, 5).unwrap();
    assert_eq!(bench.memory.read_u8(EVENTS + 0x200).unwrap(), 1 << 5);
    // One for the message, one for the event; VP 1 is APIC 1.
    assert_eq!(*bench.outside.interrupts.lock(), [(0xfee0_1000, 0xf3); 2]);
}

#[test]
fn inputs_that_no_call_has_get_their_status() {
    let bench = Bench::new();
    bench.enable();
    // Too long a payload; type 0; a type of the hypervisor's own.
    for (at, value, status) in [(12, 241, 5), (8, 0, 5), (8, 0x8000_0001, 5)] {
        bench.memory.write_u32(INPUT + 8, 1).unwrap();
        bench.memory.write_u32(INPUT + 12, 8).unwrap();
        bench.memory.write_u32(INPUT + at, value).unwrap();
        assert_eq!(bench.call(0x5c, INPUT), status);
    }
    // Fast where only slow is; beyond the end of the page; not aligned; not RAM; reps; reserved bits.
    let cases = [(0x1_005c, INPUT, 3), (0x5c, INPUT + 0xf80, 4), (0x5d, INPUT + 4, 4), (0x5d, 1 << 40, 5)];
    for (control, input, status) in cases.into_iter().chain([(0x1_0000_005d, INPUT, 3), (1 << 63 | 0x5d, INPUT, 3)]) {
        assert_eq!(bench.call(control, input), status, "{control:#x}");
    }
    assert!(bench.outside.posted.lock().is_empty() && bench.outside.signalled.lock().is_empty());
}

#[test]
fn messages_wait_in_order_through_save_and_restore_up_to_a_limit() {
    let mut bench = Bench::new();
    let synic = bench.interface.synic();
    let message = |number: u32| SynicMessage::new(7, 0, &number.to_le_bytes()).unwrap();
    // The SynIC is off: they wait.
    for number in 0..3 {
        synic.post_message(1, 2, &message(number)).unwrap();
    }
    assert_eq!(synic.signal_event(1, 2, 0), Err(SynicError::Disabled { vp: 1, sint: 2 }));
    bench.enable();
    for number in 0..3 {
        bench.save_and_restore();
        let slot = bench.slot();
        // The flag that more are waiting is set with all but the last.
        assert_eq!((slot[0], slot[5], slot[16]), (7, u8::from(number < 2), number));
        bench.memory.write_u32(MESSAGES + 0x200, 0).unwrap();
        bench.write(msr::EOM, 0);
    }
    assert_eq!(bench.slot()[0], 0);
    let synic = bench.interface.synic();
    let mut taken = 0;
    while synic.post_message(0, 2, &message(taken)).is_ok() {
        taken += 1;
    }
    assert_eq!(taken, 4096);
    synic.discard_messages(2);
    synic.post_message(0, 2, &message(0)).unwrap();
    assert!(matches!(synic.post_message(2, 2, &message(0)), Err(SynicError::NoVp { vp: 2, vps: 2 })));
    assert!(matches!(synic.signal_event(0, 2, 2048), Err(SynicError::NoFlag { .. })));
}

#[test]
fn a_reset_gives_pages_back_and_forgets_everything() {
    let bench = Bench::new();
    bench.memory.write(PAGE, b"what was there").unwrap();
    bench.enable();
    assert_ne!(bench.memory.read_array::<14>(PAGE).unwrap(), *b"what was there");
    bench.interface.synic().post_message(1, 3, &SynicMessage::new(1, 0, &[]).unwrap()).unwrap();
    bench.interface.synic().post_message(1, 3, &SynicMessage::new(1, 0, &[]).unwrap()).unwrap();
    bench.interface.reset();
    assert_eq!(bench.memory.read_array::<14>(PAGE).unwrap(), *b"what was there");
    assert!(!bench.interface.hypercall(&mut HypercallRegisters::default()));
    assert_eq!(bench.interface.save().unwrap(), Bench::new().interface.save().unwrap());
}

#[test]
fn the_counter_is_the_page_s_function_of_the_tsc() {
    let mut bench = Bench::new();
    bench.write(msr::REFERENCE_TSC, PAGE | 1);
    assert_ne!(bench.memory.read_u32(PAGE).unwrap(), 0);
    let scale = u128::from(bench.memory.read_u64(PAGE + 8).unwrap());
    for seconds in [1, 3600, 86_400 * 365] {
        bench.clock.advance_to(Time::ZERO + Duration::from_secs(seconds));
        let tsc = seconds * 2_500_000_000;
        let by_page = ((u128::from(tsc) * scale) >> 64) as u64;
        assert_eq!(bench.interface.reference_count(tsc), by_page);
        // The scale is rounded down: after a year less than one part in 10^9 is lost.
        let now = bench.interface.reference_time();
        assert_eq!(now, seconds * 10_000_000);
        assert!(now - by_page <= 1 + now / 1_000_000_000, "{now} {by_page}");
    }
}

#[test]
fn crash_texts_lose_what_could_fool_a_terminal_and_what_is_no_ram() {
    let bench = Bench::new();
    bench.memory.write(INPUT, b"panic\n\x1b[2Jgone\0\0").unwrap();
    let report = |address: u64, len: u64| {
        bench.write(msr::CRASH_P0 + 3, address);
        bench.write(msr::CRASH_P4, len);
        bench.write(msr::CRASH_CTL, 3 << 62);
        bench.outside.crashes.lock().pop().unwrap().text
    };
    assert_eq!(report(INPUT, 16).as_deref(), Some("panic\n [2Jgone"));
    assert_eq!(report(1 << 40, 16), None);
    assert_eq!(report(INPUT, u64::MAX).map(|text| text.len() <= 4096), Some(true));
    bench.write(msr::RESET, 1);
    assert_eq!(*bench.outside.resets.lock(), 1);
}

#[test]
fn a_guest_cannot_flood_us_with_crash_reports() {
    let bench = Bench::new();
    let crash = || (0..1000).for_each(|_| bench.write(msr::CRASH_CTL, 1 << 63));
    crash();
    assert_eq!(bench.outside.crashes.lock().len(), 4);
    bench.interface.reset();
    crash();
    assert_eq!(bench.outside.crashes.lock().len(), 8);
}
