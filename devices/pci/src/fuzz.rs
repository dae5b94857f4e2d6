//! Fuzz target: a guest that uses the bridges at random through their ports.

use crate::{
    ConfigPorts, HostBridge, IsaBridge, MemoryWindows, PciInterrupts, PowerManagement, SavedHostBridge,
    SavedPowerManagement, SegmentAccess,
};
use bulkhead_device::fuzz::{Step, Steps, damaged};
use bulkhead_device::{Device, Line, PciAddress, PciBus, PciFunction, PortBus, PortIo, PowerRequest, PowerSink};
use bulkhead_reactor::{Time, VirtualReactor};
use bulkhead_saved_state::SavedState;
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Of the ACPI block, in the configuration space.
const PM_BASE: u8 = 0x40;

struct Nowhere;

impl MemoryWindows for Nowhere {
    fn set_segment(&self, segment: Range<u64>, _access: SegmentAccess) {
        assert!(segment.start >= 0xc_0000 && segment.end <= 0x10_0000);
    }
    fn set_smram(&self, _open: bool) {}
}

impl PowerSink for Nowhere {
    fn request(&self, _request: PowerRequest) {}
}

/// Runs `data` as a guest; afterwards what is saved and restored must save the same again.
pub fn fuzz(data: &[u8]) {
    let Ok((mut clock, reactor)) = VirtualReactor::new(Time::ZERO, 0) else { return };
    let (ports, pci) = (PortBus::new(), PciBus::new());
    let at = |device, function| PciAddress { device, function };
    let config = Arc::new(Mutex::new(ConfigPorts::new("config", &pci, Arc::new(Nowhere))));
    let host = Arc::new(Mutex::new(HostBridge::new("host", Arc::new(Nowhere))));
    let isa = Arc::new(Mutex::new(IsaBridge::new("isa", std::array::from_fn(|_| Line::unconnected()))));
    let power = PowerManagement::new("power", &reactor, &ports, Line::unconnected(), Arc::new(Nowhere));
    let added = [pci.add(at(0, 0), &host), pci.add(at(1, 0), &isa), pci.add(at(1, 3), &power)];
    let mapped = [ports.map(0xcf8..=0xcff, &config, 0), ports.map(0xb2..=0xb3, &power, PowerManagement::SMI)];
    assert!(added.iter().all(Result::is_ok) && mapped.iter().all(Result::is_ok));
    let interrupts = PciInterrupts::new(&isa);
    let lines: Vec<Line> = (0..4).map(|pin| interrupts.line(at(2, 0), pin + 1)).collect();
    // As firmware does: the ACPI block at 600h, the SMBus host at 700h.
    for (register, value) in [(0x40, 0x601), (0x80, 1), (0x90, 0x701), (0xd0, 9 << 16)] {
        pci.write(at(1, 3), register, 4, value);
    }
    for step in Steps::new(data) {
        match step {
            Step::PortRead(port, size) => drop(ports.read(place(port), size)),
            Step::PortWrite(port, 4, value) if port & 0x300 == 0 => {
                let function = [0, 0x800, 0xb00, 0xb00][usize::from(port & 3)];
                ports.write(0xcf8, 4, 0x8000_0000 | function | value & 0xff);
            }
            Step::PortWrite(port, size, value) => ports.write(place(port), size, value),
            Step::Advance(nanos) => clock.advance_to(reactor.now() + Duration::from_nanos(nanos)),
            Step::Event(event) if event & 0x100 != 0 => power.lock().raise_event(event as u8),
            Step::Event(event) if event & 0x200 != 0 => power.lock().press_power_button(),
            Step::Event(event) => lines[event as usize & 3].set(event & 4 != 0),
            _ => {}
        }
    }
    let state = power.lock().save().expect("plain");
    let restore = |state: &SavedState| {
        PowerManagement::restore("power", &reactor, &ports, Line::unconnected(), Arc::new(Nowhere), state)
    };
    assert_eq!(restore(&state).expect("just saved").lock().save().expect("plain"), state);
    if let Some(Ok(power)) = damaged::<SavedPowerManagement>(&state, data).map(|state| restore(&state)) {
        let _timer = power.lock().port_read(PowerManagement::ACPI, 8, 4);
        clock.advance_to(reactor.now() + Duration::from_secs(10));
        power.lock().config_write(PM_BASE, 4, 0x401);
    }
    let state = host.lock().save().expect("plain");
    let again = HostBridge::restore("host", Arc::new(Nowhere), &state).expect("just saved");
    assert_eq!(again.save().expect("plain"), state);
    drop(damaged::<SavedHostBridge>(&state, data).map(|state| HostBridge::restore("host", Arc::new(Nowhere), &state)));
}

/// Mostly ports that exist.
fn place(port: u16) -> u16 {
    match port >> 12 {
        0..6 => 0xcf8 + (port & 7),
        6 => 0xb2 + (port & 1),
        7..12 => 0x600 + (port & 0x3f),
        12 | 13 => 0x700 + (port & 0xf),
        _ => port,
    }
}
