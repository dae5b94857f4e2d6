//! Random accesses compared with QEMU's 16550A.

use bulkhead_device::{Line, PortBus};
use bulkhead_qemu_oracle::{Choice, Log, Qemu};
use bulkhead_reactor::{Time, VirtualReactor};
use bulkhead_serial::{ModemInputs, Serial};

#[test]
fn registers_and_loopback() {
    let Some(mut qemu) = Qemu::start() else { return };
    let (_clock, reactor) = VirtualReactor::new(Time::ZERO, 0).unwrap();
    let (ports, serial) = (PortBus::new(), Serial::new("serial0", &reactor, Line::unconnected()));
    serial.lock().set_modem(ModemInputs::CONNECTED);
    ports.map(0x3f8..=0x3ff, &serial, 0).unwrap();
    let (mut choice, mut log) = (Choice::new(0x16550), Log::default());
    // Both start from the same: FIFOs on and empty, status read.
    for (offset, value) in [(2, 0), (2, 7), (3, 3), (4, 0x1b), (1, 0)] {
        qemu.port_write(0x3f8 + offset, 1, value);
        ports.write(0x3f8 + offset, 1, value);
    }
    for offset in [5, 6, 2, 0] {
        qemu.port_read(0x3f8 + offset, 1);
        ports.read(0x3f8 + offset, 1);
    }
    for _ in 0..12_000 {
        let offset = choice.number() as u16 % 8;
        if choice.number().is_multiple_of(2) {
            let value = match offset {
                0 => choice.number() & 0xff,
                // Without modem interrupts: QEMU shows no changes of the modem lines in loopback.
                1 => choice.number() & 0x07,
                // FIFOs stay on: without them QEMU receives into its FIFO all the same.
                2 => choice.number() & 0xc2 | 1,
                3 => choice.of(&[0x03, 0x03, 0x03, 0x83, 0x1b]),
                // Loopback stays on: what is sent comes back at once in both.
                4 => choice.number() & 0x0f | 0x10,
                _ => choice.number() & 0xff,
            };
            log.note(format!("[{offset}] := {value:#x}"));
            qemu.port_write(0x3f8 + offset, 1, value);
            ports.write(0x3f8 + offset, 1, value);
        } else {
            let (ours, theirs) = (ports.read(0x3f8 + offset, 1), qemu.port_read(0x3f8 + offset, 1));
            let mask = if offset == 6 { 0xf0 } else { 0xff };
            log.compare(format!("[{offset}]"), (ours & mask).into(), (theirs & mask).into());
        }
    }
}
