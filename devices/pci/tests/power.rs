//! Power management as SeaBIOS, Linux and ACPI use it.

use bulkhead_device::{Device, Line, LineInput, PciAddress, PciBus, PortBus, PowerRequest, PowerSink};
use bulkhead_pci::PowerManagement;
use bulkhead_reactor::{Reactor, Time, VirtualReactor};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

#[derive(Default)]
struct Requests(Mutex<Vec<PowerRequest>>);

impl PowerSink for Requests {
    fn request(&self, request: PowerRequest) {
        self.0.lock().push(request);
    }
}

#[derive(Default)]
struct Sci(bool);

impl LineInput for Sci {
    fn set_input(&mut self, _input: u32, level: bool) {
        self.0 = level;
    }
}

struct Pc {
    clock: VirtualReactor,
    reactor: Reactor,
    ports: PortBus,
    pci: PciBus,
    power: Arc<Mutex<PowerManagement>>,
    sci: Arc<Mutex<Sci>>,
    requests: Arc<Requests>,
}

const AT: PciAddress = PciAddress { device: 1, function: 3 };

impl Pc {
    /// After piix4_pm_config_setup of SeaBIOS.
    fn new() -> Pc {
        let (clock, reactor) = VirtualReactor::new(Time::from_nanos(55), 0).unwrap();
        let (ports, pci) = (PortBus::new(), PciBus::new());
        let (sci, requests) = (Arc::new(Mutex::new(Sci::default())), Arc::new(Requests::default()));
        let line = Line::new(sci.clone(), 9);
        let power = PowerManagement::new("power", &reactor, &ports, line, requests.clone());
        ports.map(0xb2..=0xb3, &power, PowerManagement::SMI).unwrap();
        pci.add(AT, &power).unwrap();
        pci.write(AT, 0x3c, 1, 9);
        pci.write(AT, 0x40, 4, 0x601);
        pci.write(AT, 0x80, 1, 1);
        pci.write(AT, 0x90, 4, 0x701);
        pci.write(AT, 0xd2, 1, 9);
        Pc { clock, reactor, ports, pci, power, sci, requests }
    }
    fn pass(&mut self, nanos: u64) {
        self.clock.advance_to(self.reactor.now() + Duration::from_nanos(nanos));
    }
}

#[test]
fn firmware_finds_it_set_up_without_system_management_mode() {
    let pc = Pc::new();
    assert_eq!(pc.pci.read(AT, 0), 0x7113_8086);
    assert_eq!(pc.pci.read(AT, 0x40), 0x601);
    assert_eq!(pc.pci.read(AT, 0x58) & 0x0200_0000, 0x0200_0000);
    pc.pci.write(AT, 0x80, 1, 0);
    assert_eq!(pc.ports.read(0x608, 4), u32::MAX);
}

#[test]
fn the_timer_counts_24_bits_at_its_rate() {
    let mut pc = Pc::new();
    let first = pc.ports.read(0x608, 4);
    pc.pass(1_000_000_000);
    assert_eq!((pc.ports.read(0x608, 4) - first).abs_diff(3_579_545), 0);
    pc.pass(60_000_000_000);
    assert!(pc.ports.read(0x608, 4) < 1 << 24);
    assert_eq!(pc.ports.read(0x600, 2) & 1, 1, "the highest bit has changed");
    assert_eq!(pc.clock.next_deadline(), None);
    // With its interrupt: every 2.34 s, once it is cleared.
    pc.ports.write(0xb2, 1, 0xf1);
    pc.ports.write(0x602, 2, 0x0001);
    assert!(pc.sci.lock().0);
    let mut count = 0;
    for _ in 0..20 {
        pc.ports.write(0x600, 2, 0x0001);
        assert!(!pc.sci.lock().0);
        pc.pass(1_000_000_000);
        count += u32::from(pc.sci.lock().0);
    }
    assert_eq!(count, 8);
}

#[test]
fn acpi_mode_and_the_power_button() {
    let pc = Pc::new();
    pc.ports.write(0x602, 2, 0x0100);
    pc.power.lock().press_power_button();
    assert!(!pc.sci.lock().0, "not in ACPI mode");
    pc.ports.write(0xb2, 1, 0xf1);
    assert_eq!((pc.ports.read(0x604, 2), pc.sci.lock().0), (1, true));
    pc.ports.write(0x600, 2, 0xffff);
    assert_eq!((pc.ports.read(0x600, 2), pc.sci.lock().0), (0, false));
    pc.ports.write(0xb2, 1, 0xf0);
    assert_eq!((pc.ports.read(0x604, 2), pc.ports.read(0xb2, 1)), (0, 0xf0));
    pc.ports.write(0xb3, 1, 0x5a);
    assert_eq!(pc.ports.read(0xb3, 1), 0x5a);
}

#[test]
fn general_purpose_events() {
    let pc = Pc::new();
    pc.ports.write(0xb2, 1, 0xf1);
    pc.ports.write(0x60e, 1, 0x08);
    pc.power.lock().raise_event(3);
    pc.power.lock().raise_event(9);
    pc.power.lock().raise_event(200);
    assert_eq!((pc.sci.lock().0, pc.ports.read(0x60c, 2)), (true, 0x0208));
    pc.ports.write(0x60c, 1, 0x08);
    assert_eq!((pc.sci.lock().0, pc.ports.read(0x60c, 4)), (false, 0x0008_0200));
}

#[test]
fn soft_off_and_other_sleep_types() {
    let pc = Pc::new();
    // Linux writes the type first, then the type with the enable bit.
    pc.ports.write(0x604, 2, 0x0001);
    assert!(pc.requests.0.lock().is_empty());
    pc.ports.write(0x604, 2, 0x2001);
    pc.ports.write(0x605, 1, 0x24);
    assert_eq!(*pc.requests.0.lock(), [PowerRequest::PowerOff, PowerRequest::Sleep(1)]);
    assert_eq!(pc.ports.read(0x604, 2), 0x0401, "the enable bit is not kept");
}

/// i2c-piix4: waits for not busy, starts, reads "no answer", clears it.
#[test]
fn nothing_answers_on_the_smbus() {
    let pc = Pc::new();
    assert_eq!(pc.ports.read(0x700, 1), 0);
    pc.ports.write(0x704, 1, 0xa1);
    pc.ports.write(0x702, 1, 0x48);
    assert_eq!((pc.ports.read(0x700, 1), pc.ports.read(0x702, 1)), (0x04, 0x08));
    pc.ports.write(0x700, 1, 0x04);
    assert_eq!(pc.ports.read(0x700, 1), 0);
}

#[test]
fn restored_with_a_pending_event_it_goes_on() {
    let mut pc = Pc::new();
    pc.ports.write(0xb2, 1, 0xf1);
    pc.ports.write(0x602, 2, 0x0101);
    pc.power.lock().press_power_button();
    pc.pass(1_000_000_000);
    let state = pc.power.lock().save().unwrap();
    let (ports, sci) = (PortBus::new(), Arc::new(Mutex::new(Sci::default())));
    let line = Line::new(sci.clone(), 9);
    let restored = PowerManagement::restore("power", &pc.reactor, &ports, line, pc.requests.clone(), &state).unwrap();
    assert!(sci.lock().0);
    assert_eq!(ports.read(0x608, 4), pc.ports.read(0x608, 4));
    for ports in [&ports, &pc.ports] {
        ports.write(0x600, 2, 0x0100);
    }
    assert!(!sci.lock().0);
    pc.pass(1_400_000_000);
    assert!(sci.lock().0 && pc.sci.lock().0);
    assert_eq!(restored.lock().save().unwrap(), pc.power.lock().save().unwrap());
    restored.lock().reset();
    assert_eq!((ports.read(0x600, 2), sci.lock().0), (0xffff, false));
}
