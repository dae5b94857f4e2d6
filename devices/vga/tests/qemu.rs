//! Random accesses to registers, the window and the frame buffer, compared with QEMU's adapter.

use bulkhead_device::{MmioBus, PciAddress, PciBus, PortBus};
use bulkhead_qemu_oracle::{Choice, Log, Qemu};
use bulkhead_reactor::{Time, VirtualReactor};
use bulkhead_vga::{Vga, Wiring};
use parking_lot::Mutex;
use std::sync::Arc;

const AT: PciAddress = PciAddress { device: 2, function: 0 };
const FRAME_BUFFER: u64 = 0xfd00_0000;
const BAR2: u64 = 0xfebf_0000;

/// Both adapters, given the same accesses.
struct Pair {
    qemu: Qemu,
    ports: PortBus,
    memory: MmioBus,
    log: Log,
    _clock: VirtualReactor,
    _vga: Arc<Mutex<Vga>>,
}

impl Pair {
    fn start() -> Option<Pair> {
        let mut qemu = Qemu::start_with(&["-device", "VGA,addr=2.0,edid=off,romfile="])?;
        let (clock, reactor) = VirtualReactor::new(Time::ZERO, 1).unwrap();
        let (ports, memory, pci) = (PortBus::new(), MmioBus::new(), PciBus::new());
        let wiring = Wiring { reactor, ports: ports.clone(), memory: memory.clone(), rom: None };
        let vga = Vga::new("vga0", wiring).unwrap();
        pci.add(AT, &vga).unwrap();
        for (offset, value) in [(0x10, FRAME_BUFFER as u32), (0x18, BAR2 as u32), (0x04, 3)] {
            qemu.port_write(0xcf8, 4, 0x8000_1000 | u32::from(offset));
            qemu.port_write(0xcfc, 4, value);
            pci.write(AT, offset, 4, value);
        }
        Some(Pair { qemu, ports, memory, log: Log::default(), _clock: clock, _vga: vga })
    }

    fn out(&mut self, port: u16, size: u8, value: u32) {
        self.log.note(format!("out{size} {port:#x} {value:#x}"));
        self.qemu.port_write(port, size, value);
        self.ports.write(port, size, value);
    }

    fn compare_port(&mut self, port: u16, size: u8) {
        let (ours, qemu) = (self.ports.read(port, size), self.qemu.port_read(port, size));
        self.log.compare(format!("in{size} {port:#x}"), ours.into(), qemu.into());
    }

    fn indexed(&mut self, port: u16, index: u8, value: u8) {
        self.out(port, 1, index.into());
        self.out(port + 1, 1, value.into());
    }

    fn write(&mut self, address: u64, size: u8, value: u64) {
        self.log.note(format!("write{size} {address:#x} {value:#x}"));
        self.qemu.memory_write(address, size, value);
        self.memory.write(address, &value.to_le_bytes()[..usize::from(size)]);
    }

    fn compare_memory(&mut self, address: u64, size: u8) {
        let mut bytes = [0; 8];
        self.memory.read(address, &mut bytes[..usize::from(size)]);
        let (ours, qemu) = (u64::from_le_bytes(bytes), self.qemu.memory_read(address, size));
        self.log.compare(format!("read{size} {address:#x}"), ours, qemu);
    }
}

#[test]
fn window() {
    let Some(mut pair) = Pair::start() else { return };
    let mut choice = Choice::new(0x0a_0000);
    pair.out(0x3c2, 1, 0x63);
    for _ in 0..60 {
        // Text, planar and chained ways, and where the window is.
        let (memory_mode, mode, planes) = choice.of(&[(2, 0x10, 3), (6, 0, 15), (6, 0, 15), (0x0e, 0x40, 15)]);
        let planar = memory_mode == 6;
        let write_mode = if planar { choice.number() as u8 & 0x0b } else { 0 };
        pair.indexed(0x3c4, 4, memory_mode);
        pair.indexed(0x3c4, 2, choice.number() as u8 & planes);
        pair.indexed(0x3ce, 5, mode | write_mode);
        // Not planar in 128 KiB: ours has the VGA's 256 KiB and begins again, QEMU's has more.
        let misc = 1 | choice.of(if planar { &[4, 4, 8, 12] } else { &[0, 4, 8, 12] });
        pair.indexed(0x3ce, 6, misc);
        for (index, mask) in [(0, 15), (1, 15), (2, 15), (3, 0x1f), (4, if planar { 3 } else { 0 }), (7, 15), (8, 0xff)]
        {
            let value = choice.number() as u8 & mask;
            pair.indexed(0x3ce, index, value);
        }
        for _ in 0..40 {
            let offset = u64::from(choice.of(&[0, 0x1_0000, 0x1_8000, 0x1_fff8]) | choice.number() & 7);
            let size = choice.of(&[1, 1, 2, 4]);
            let address = (0xa_0000 + offset) & !(u64::from(size) - 1);
            if choice.number() & 1 == 0 {
                let value = u64::from(choice.number()) & (u64::MAX >> (64 - 8 * u32::from(size)));
                pair.write(address, size, value);
            } else {
                pair.compare_memory(address, size);
            }
        }
        for page in [0, 0x2_0000, 0x3_0000, 0x3_ffe0] {
            (0..4).for_each(|place| pair.compare_memory(FRAME_BUFFER + page + 8 * place, 8));
        }
    }
}

#[test]
fn registers() {
    let Some(mut pair) = Pair::start() else { return };
    let mut choice = Choice::new(0x3c0);
    pair.out(0x3c2, 1, 0x63);
    for _ in 0..4000 {
        let value = choice.number() & 0xff;
        match choice.number() % 12 {
            0 => pair.indexed(0x3c4, 1 + (value >> 4) as u8 % 4, choice.of(&[value as u8, 0xff])),
            1 => pair.indexed(0x3ce, value as u8 % 9, choice.of(&[0x55, 0xaa, 0xff])),
            2 => pair.indexed(0x3d4, value as u8 % 0x19, choice.of(&[0x12, 0x80, 0xff, 0])),
            3 => {
                pair.ports.read(0x3da, 1);
                pair.qemu.port_read(0x3da, 1);
                pair.out(0x3c0, 1, value % 0x15);
                let data = choice.number() & 0xff;
                pair.out(0x3c0, 1, data);
            }
            4 => {
                pair.ports.read(0x3da, 1);
                pair.qemu.port_read(0x3da, 1);
                pair.out(0x3c0, 1, value % 0x15);
                pair.compare_port(0x3c1, 1);
            }
            5 => pair.out(choice.of(&[0x3c7, 0x3c8, 0x3c6]), 1, value),
            6 => pair.out(0x3c9, 1, value & 0x3f),
            7 | 8 => {
                let port = choice.of(&[0x3c5, 0x3cf, 0x3d5, 0x3c4, 0x3ce, 0x3d4, 0x3cc, 0x3c8, 0x3b5]);
                pair.compare_port(port, 1);
            }
            9 => pair.compare_port(0x3c9, 1),
            10 => pair.out(choice.of(&[0x3c4, 0x3ce, 0x3d4]), 1, value & 0x1f),
            _ => pair.out(0x3c2, 1, choice.of(&[0x63, 0x63, 0x62, 0xe3])),
        }
    }
}

#[test]
fn linear_modes() {
    let Some(mut pair) = Pair::start() else { return };
    let mut choice = Choice::new(0x1ce);
    for _ in 0..300 {
        let (width, height) = choice.of(&[(640, 480), (800, 600), (1024, 768), (320, 200), (804, 600)]);
        let depth = choice.of(&[8, 16, 24, 32]);
        let enable = choice.of(&[1, 0x41, 0x81, 0xc1]);
        for (index, value) in [(4, 0), (1, width), (2, height), (3, depth), (4, enable), (5, choice.number() & 15)] {
            pair.out(0x1ce, 2, index);
            pair.out(0x1cf, 2, value);
        }
        for index in [0, 1, 2, 3, 4, 5, 6, 8, 9, 10] {
            pair.out(0x1ce, 2, index);
            pair.compare_port(0x1cf, 2);
            pair.compare_memory(BAR2 + 0x500 + 2 * u64::from(index), 2);
        }
        let place = u64::from(choice.number() & 0xf_fff8);
        pair.write(FRAME_BUFFER + place, 8, u64::from(choice.number()));
        let window = 0xa_0000 + u64::from(choice.number() & 0xfff8);
        pair.write(window, 4, choice.number().into());
        pair.compare_memory(window, 4);
        // A mode that is set clears its memory unless it is asked not to.
        pair.compare_memory(FRAME_BUFFER + place, 8);
        pair.compare_memory(FRAME_BUFFER + u64::from(choice.number() & 0x1f_fff8), 8);
    }
}
