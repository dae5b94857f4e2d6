//! The saved forms have not changed.

use bulkhead_device::{Device, Line, PciBus, PciFunction, PortBus, PortIo, PowerRequest, PowerSink};
use bulkhead_pci::{ConfigPorts, HostBridge, IsaBridge, MemoryWindows, PowerManagement, SegmentAccess};
use bulkhead_reactor::{Time, VirtualReactor};
use bulkhead_saved_state::golden;
use std::ops::Range;
use std::sync::Arc;

struct Nowhere;

impl MemoryWindows for Nowhere {
    fn set_segment(&self, _segment: Range<u64>, _access: SegmentAccess) {}
    fn set_smram(&self, _open: bool) {}
}

impl PowerSink for Nowhere {
    fn request(&self, _request: PowerRequest) {}
}

#[test]
fn configuration_ports_and_bridges() {
    let mut ports = ConfigPorts::new("pci", &PciBus::new(), Arc::new(Nowhere));
    ports.port_write(0, 0, 4, 0x8000_0b40);
    ports.port_write(0, 1, 1, 2);
    golden::check("tests/golden/pci-config-ports-1.state", ports.save().unwrap().body());
    let mut host = HostBridge::new("host", Arc::new(Nowhere));
    host.config_write(0x5a, 1, 0x33);
    golden::check("tests/golden/host-bridge-1.state", host.save().unwrap().body());
    let mut isa = IsaBridge::new("isa", std::array::from_fn(|_| Line::unconnected()));
    isa.config_write(0x60, 4, 0x0b0b_0a0a);
    golden::check("tests/golden/isa-bridge-1.state", isa.save().unwrap().body());
}

#[test]
fn power_management() {
    let (_clock, reactor) = VirtualReactor::new(Time::from_nanos(5_000_000), 0).unwrap();
    let power = PowerManagement::new("power", &reactor, &PortBus::new(), Line::unconnected(), Arc::new(Nowhere));
    let mut power = power.lock();
    power.config_write(0x40, 4, 0x601);
    power.config_write(0x80, 1, 1);
    power.port_write(PowerManagement::SMI, 0, 1, 0xf1);
    power.port_write(PowerManagement::ACPI, 2, 2, 0x0121);
    power.port_write(PowerManagement::ACPI, 0x0e, 2, 0x0008);
    power.port_write(PowerManagement::ACPI, 0x28, 4, 0x1234_5678);
    power.port_write(PowerManagement::SMBUS, 4, 1, 0xa1);
    power.raise_event(3);
    power.press_power_button();
    golden::check("tests/golden/power-management-1.state", power.save().unwrap().body());
}
