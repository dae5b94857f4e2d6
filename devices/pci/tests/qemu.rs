//! Random accesses compared with QEMU's bridges.

use bulkhead_device::{Line, PciAddress, PciBus, PortBus, PowerRequest, PowerSink};
use bulkhead_pci::{ConfigPorts, HostBridge, IsaBridge, MemoryWindows, PowerManagement, SegmentAccess};
use bulkhead_qemu_oracle::{Choice, Log, Qemu};
use bulkhead_reactor::{Time, VirtualReactor};
use parking_lot::Mutex;
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

/// Registers that firmware and kernels use: (function, offset, size, bits that are compared).
const REGISTERS: [(u32, u32, u8, u32); 19] = [
    (0x000, 0x00, 4, u32::MAX),
    (0x000, 0x08, 4, u32::MAX),
    (0x000, 0x0c, 4, 0x00ff_0000),
    (0x000, 0x72, 1, 0x68),
    (0x000, 0x59, 1, 0x30),
    (0x000, 0x5a, 1, 0x33),
    (0x000, 0x5f, 1, 0x33),
    (0x800, 0x00, 4, u32::MAX),
    (0x800, 0x08, 4, u32::MAX),
    (0x800, 0x0e, 1, 0xff),
    (0x800, 0x60, 1, 0x8f),
    (0x800, 0x63, 1, 0x8f),
    (0x800, 0x10, 4, u32::MAX),
    (0xb00, 0x00, 4, u32::MAX),
    (0xb00, 0x08, 4, u32::MAX),
    (0xb00, 0x3d, 1, 0xff),
    (0xb00, 0x3c, 1, 0xff),
    (0xb00, 0x40, 4, 0xffff),
    (0xb00, 0x30, 4, u32::MAX),
];

#[test]
fn configuration_spaces_and_power_management() {
    let Some(mut qemu) = Qemu::start() else { return };
    let (_clock, reactor) = VirtualReactor::new(Time::ZERO, 0).unwrap();
    let (ports, pci) = (PortBus::new(), PciBus::new());
    let at = |device, function| PciAddress { device, function };
    let config = Arc::new(Mutex::new(ConfigPorts::new("config", &pci, Arc::new(Nowhere))));
    let host = Arc::new(Mutex::new(HostBridge::new("host", Arc::new(Nowhere))));
    let isa = Arc::new(Mutex::new(IsaBridge::new("isa", std::array::from_fn(|_| Line::unconnected()))));
    let power = PowerManagement::new("power", &reactor, &ports, Line::unconnected(), Arc::new(Nowhere));
    pci.add(at(0, 0), &host).unwrap();
    pci.add(at(1, 0), &isa).unwrap();
    pci.add(at(1, 3), &power).unwrap();
    ports.map(0xcf8..=0xcff, &config, 0).unwrap();
    ports.map(0xb2..=0xb3, &power, PowerManagement::SMI).unwrap();
    let (mut choice, mut log) = (Choice::new(0x8086), Log::default());
    let out = |qemu: &mut Qemu, log: &mut Log, port: u16, size: u8, value: u32| {
        log.note(format!("out {port:#x} {value:#x} ({size})"));
        qemu.port_write(port, size, value);
        ports.write(port, size, value);
    };
    for round in 0..1500 {
        let (function, offset, size, mask) = choice.of(&REGISTERS);
        out(&mut qemu, &mut log, 0xcf8, 4, 0x8000_0000 | function | offset & 0xfc);
        let data = 0xcfc + (offset & 3) as u16;
        // The lock of SMRAM would end the comparison of that register; the base stays where the block is looked for.
        if choice.number().is_multiple_of(2) && offset != 0x40 {
            let value = choice.number() & if offset == 0x72 { !0x10 } else { u32::MAX };
            out(&mut qemu, &mut log, data, size, value);
        }
        let (ours, theirs) = (ports.read(data, size) & mask, qemu.port_read(data, size) & mask);
        log.compare(format!("round {round}: {function:#x}.{offset:#x}"), ours.into(), theirs.into());
    }
    // As firmware does.
    for (offset, size, value) in [(0x40, 4, 0x601), (0x80, 1, 1), (0x90, 4, 0x701), (0xd0, 4, 9 << 16)] {
        out(&mut qemu, &mut log, 0xcf8, 4, 0x8000_0b00 | offset);
        out(&mut qemu, &mut log, 0xcfc, size, value);
    }
    for round in 0..2000 {
        // PM1 status and enable, control without the sleep bit, the SMI command port, the SMBus host.
        let (port, size) =
            choice.of(&[(0x600, 2), (0x602, 2), (0x604, 2), (0xb2, 1), (0xb3, 1), (0x704, 1), (0x705, 1)]);
        if choice.number().is_multiple_of(2) {
            let value = match port {
                0x604 => choice.number() & 0x1c03,
                0x602 => choice.number() & 0x0521,
                0xb2 => choice.of(&[0xf0, 0xf1, 0x55]),
                _ => choice.number() & 0xff,
            };
            out(&mut qemu, &mut log, port, size, value);
        } else {
            // QEMU's timer has always just wrapped around when its clock has not begun.
            let mask = if port == 0x600 { !1 } else { u32::MAX };
            let (ours, theirs) = (ports.read(port, size) & mask, qemu.port_read(port, size) & mask);
            log.compare(format!("round {round}: in {port:#x}"), ours.into(), theirs.into());
        }
    }
}
