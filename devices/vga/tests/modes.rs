//! Modes as BIOSes set them (the register values are the well-known ones of IBM's VGA), drawn and read back.

use bulkhead_device::{Device, MmioBus, PciAddress, PciBus, PortBus};
use bulkhead_reactor::{Time, VirtualReactor};
use bulkhead_vga::{Changes, Picture, Vga, Wiring};
use parking_lot::Mutex;
use std::sync::Arc;

const AT: PciAddress = PciAddress { device: 2, function: 0 };
const FRAME_BUFFER: u64 = 0xfd00_0000;
const BAR2: u64 = 0xfebf_0000;

struct Pc {
    clock: VirtualReactor,
    ports: PortBus,
    memory: MmioBus,
    pci: PciBus,
    vga: Arc<Mutex<Vga>>,
}

/// Miscellaneous, sequencer 0–4, CRT controller 0–18h, graphics 0–8, attributes 0–14h.
struct Registers(u8, [u8; 5], [u8; 25], [u8; 9], [u8; 21]);

const TEXT: Registers = Registers(
    0x67,
    [3, 0, 3, 0, 2],
    [
        0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0, 0x4f, 0x0d, 0x0e, 0, 0, 0, 0, 0x9c, 0x8e, 0x8f, 0x28, 0x1f,
        0x96, 0xb9, 0xa3, 0xff,
    ],
    [0, 0, 0, 0, 0, 0x10, 0x0e, 0x0f, 0xff],
    [0, 1, 2, 3, 4, 5, 0x14, 7, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f, 0x0c, 0, 0x0f, 8, 0],
);
const PLANAR: Registers = Registers(
    0xe3,
    [3, 1, 0x0f, 0, 6],
    [
        0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0x0b, 0x3e, 0, 0x40, 0, 0, 0, 0, 0, 0, 0xea, 0x8c, 0xdf, 0x28, 0, 0xe7, 4,
        0xe3, 0xff,
    ],
    [0, 0, 0, 0, 3, 0, 5, 0x0f, 0xff],
    [0, 1, 2, 3, 4, 5, 0x14, 7, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f, 1, 0, 0x0f, 0, 0],
);
const MODE_13: Registers = Registers(
    0x63,
    [3, 1, 0x0f, 0, 0x0e],
    [
        0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0xbf, 0x1f, 0, 0x41, 0, 0, 0, 0, 0, 0, 0x9c, 0x0e, 0x8f, 0x28, 0x40, 0x96,
        0xb9, 0xa3, 0xff,
    ],
    [0, 0, 0, 0, 0, 0x40, 5, 0x0f, 0xff],
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0x41, 0, 0x0f, 0, 0],
);
const CGA: Registers = Registers(
    0x63,
    [3, 9, 3, 0, 2],
    [
        0x2d, 0x27, 0x28, 0x90, 0x2b, 0x80, 0xbf, 0x1f, 0, 0xc1, 0, 0, 0, 0, 0, 0, 0x9c, 0x8e, 0x8f, 0x14, 0, 0x96,
        0xb9, 0xa2, 0xff,
    ],
    [0, 0, 0, 0, 0, 0x30, 0x0f, 0, 0xff],
    [0, 0x13, 0x15, 0x17, 2, 4, 6, 7, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 1, 0, 3, 0, 0],
);

impl Pc {
    fn new() -> Pc {
        let pc = Pc::build(|wiring| Vga::new("vga0", wiring).unwrap());
        pc.pci.write(AT, 0x10, 4, FRAME_BUFFER as u32);
        pc.pci.write(AT, 0x18, 4, BAR2 as u32);
        pc.pci.write(AT, 0x04, 2, 3);
        pc
    }

    fn build(make: impl FnOnce(Wiring) -> Arc<Mutex<Vga>>) -> Pc {
        let (clock, reactor) = VirtualReactor::new(Time::ZERO, 1).unwrap();
        let (ports, memory, pci) = (PortBus::new(), MmioBus::new(), PciBus::new());
        let rom: Arc<[u8]> = (0..3000).map(|n| n as u8).collect();
        let vga = make(Wiring { reactor, ports: ports.clone(), memory: memory.clone(), rom: Some(rom) });
        pci.add(AT, &vga).unwrap();
        Pc { clock, ports, memory, pci, vga }
    }

    fn out(&self, port: u16, index: u8, value: u8) {
        self.ports.write(port, 2, u32::from(value) << 8 | u32::from(index));
    }

    fn set(&self, registers: &Registers) {
        let Registers(misc, seq, crtc, gc, attribute) = registers;
        self.ports.write(0x3c2, 1, (*misc).into());
        (0..).zip(seq).for_each(|(index, value)| self.out(0x3c4, index, *value));
        self.out(0x3d4, 0x11, 0);
        (0..).zip(crtc).for_each(|(index, value)| self.out(0x3d4, index, *value));
        (0..).zip(gc).for_each(|(index, value)| self.out(0x3ce, index, *value));
        self.ports.read(0x3da, 1);
        for (index, value) in (0..).zip(attribute) {
            self.ports.write(0x3c0, 1, index);
            self.ports.write(0x3c0, 1, (*value).into());
        }
        self.ports.write(0x3c0, 1, 0x20);
        self.ports.write(0x3c8, 1, 0);
        for index in 0..256u32 {
            // Palette entry n is (n % 64, n / 4, 63 - n % 64).
            for value in [index % 64, index / 4, 63 - index % 64] {
                self.ports.write(0x3c9, 1, value);
            }
        }
    }

    fn picture(&self) -> Picture {
        let mut picture = Picture::default();
        self.vga.lock().draw(&mut picture);
        picture
    }

    fn dispi(&self, registers: &[(u32, u32)]) {
        for (index, value) in registers {
            self.ports.write(0x1ce, 2, *index);
            self.ports.write(0x1cf, 2, *value);
        }
    }
}

fn pixel(picture: &Picture, x: u32, y: u32) -> [u8; 3] {
    let at = ((y * picture.width + x) * 3) as usize;
    picture.rgb[at..at + 3].try_into().unwrap()
}

/// The colour of a palette entry, spread to eight bits.
fn entry(n: u32) -> [u8; 3] {
    [n % 64, n / 4, 63 - n % 64].map(|value| (value << 2 | value >> 4) as u8)
}

#[test]
fn text_is_read_and_drawn_with_the_guest_s_font() {
    let pc = Pc::new();
    pc.set(&TEXT);
    // As BIOSes load a font: plane 2, sequential, at A0000h.
    for (index, value) in [(2, 4), (4, 7)] {
        pc.out(0x3c4, index, value);
    }
    for (index, value) in [(4, 2), (5, 0), (6, 4)] {
        pc.out(0x3ce, index, value);
    }
    pc.memory.write(0xa_0000 + u64::from(b'A') * 32, &[0x80; 16]);
    pc.set(&TEXT);
    pc.memory.write(0xb_8000, b"B\x07o\x07o\x07t\x07");
    pc.memory.write(0xb_8000 + 160 * 24 + 2 * 79, b"A\x1f");
    let mut back = [0; 4];
    pc.memory.read(0xb_8000, &mut back);
    assert_eq!(&back, b"B\x07o\x07");
    let text = pc.vga.lock().text().unwrap();
    assert_eq!((text.len(), text[0].as_str(), text[24].len()), (25, "Boot", 80));
    assert_eq!(pc.vga.lock().inspect()["text"][0], "Boot");
    let picture = pc.picture();
    assert_eq!((picture.width, picture.height), (720, 400));
    // White on blue: palette 3fh and 1.
    assert_eq!((pixel(&picture, 711, 384), pixel(&picture, 712, 384)), (entry(0x3f), entry(1)));
    // The cursor of two scan lines in the first cell.
    assert_eq!((pixel(&picture, 3, 13), pixel(&picture, 3, 12)), (entry(7), entry(0)));
    let file = pc.vga.lock().png().unwrap();
    let mut decoder = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
    let mut data = vec![0; decoder.output_buffer_size().unwrap()];
    decoder.next_frame(&mut data).unwrap();
    assert_eq!(data, picture.rgb);
}

#[test]
fn planar_write_modes() {
    let pc = Pc::new();
    pc.set(&PLANAR);
    let read = |plane| {
        pc.out(0x3ce, 4, plane);
        let mut byte = [0];
        pc.memory.read(0xa_0000, &mut byte);
        byte[0]
    };
    // Mode 0: colour 5 by set/reset through a bit mask.
    for (index, value) in [(0, 5), (1, 0x0f), (8, 0xf0)] {
        pc.out(0x3ce, index, value);
    }
    read(0);
    pc.memory.write(0xa_0000, &[0xff]);
    assert_eq!([0, 1, 2, 3].map(read), [0xf0, 0, 0xf0, 0]);
    // Mode 2: colour 3 into the other half.
    for (index, value) in [(1, 0), (5, 2), (8, 0x0f)] {
        pc.out(0x3ce, index, value);
    }
    pc.memory.write(0xa_0000, &[3]);
    assert_eq!([0, 1, 2, 3].map(read), [0xff, 0x0f, 0xf0, 0]);
    // Mode 1: the latches, to the next byte; then compare colours there.
    pc.out(0x3ce, 5, 1);
    pc.memory.write(0xa_0001, &[0]);
    for (index, value) in [(2, 3), (5, 8), (7, 0x0f)] {
        pc.out(0x3ce, index, value);
    }
    let mut byte = [0];
    pc.memory.read(0xa_0001, &mut byte);
    assert_eq!(byte, [0x0f]);
    // Mode 3: the byte is a mask; exclusive or, rotated by 4.
    for (index, value) in [(0, 1), (3, 0x1c), (5, 3), (8, 0xff)] {
        pc.out(0x3ce, index, value);
    }
    pc.memory.write(0xa_0001, &[0xf0]);
    for (index, value) in [(3, 0), (5, 0)] {
        pc.out(0x3ce, index, value);
    }
    let picture = pc.picture();
    assert_eq!((picture.width, picture.height), (640, 480));
    let attribute = [0, 1, 2, 3, 4, 5];
    assert_eq!((pixel(&picture, 0, 0), pixel(&picture, 7, 0)), (entry(attribute[5]), entry(attribute[3])));
    // 3 ^ 1 in the lower half of the second byte.
    assert_eq!((pixel(&picture, 8, 0), pixel(&picture, 15, 0)), (entry(5), entry(2)));
}

#[test]
fn mode_13_chained_and_not() {
    let pc = Pc::new();
    pc.set(&MODE_13);
    pc.memory.write(0xa_0000 + 320 * 100 + 7, &[200]);
    let picture = pc.picture();
    assert_eq!((picture.width, picture.height, pixel(&picture, 7, 100)), (320, 200, entry(200)));
    // Unchained: plane 3 of address 80 * 100 + 1 is the same pixel.
    pc.out(0x3c4, 4, 6);
    pc.out(0x3c4, 2, 8);
    pc.memory.write(0xa_0000 + 80 * 100 + 1, &[201]);
    assert_eq!(pixel(&pc.picture(), 7, 100), entry(201));
}

#[test]
fn cga_rows_alternate_between_banks() {
    let pc = Pc::new();
    pc.set(&CGA);
    pc.memory.write(0xb_8000 + 81, &[0b00_01_10_11]);
    pc.memory.write(0xb_a000, &[0b11_00_00_00]);
    let picture = pc.picture();
    assert_eq!((picture.width, picture.height), (320, 200));
    assert_eq!([4, 5, 6, 7].map(|x| pixel(&picture, x, 2)), [0, 0x13, 0x15, 0x17].map(entry));
    assert_eq!(pixel(&picture, 0, 1), entry(0x17));
}

#[test]
fn linear_modes_by_ports_and_by_bar() {
    let mut pc = Pc::new();
    pc.ports.write(0x1ce, 2, 0);
    assert_eq!(pc.ports.read(0x1cf, 2), 0xb0c5);
    // How vgabios learns the limits.
    pc.dispi(&[(4, 2), (1, 0)]);
    assert_eq!(pc.ports.read(0x1cf, 2), 2560);
    pc.dispi(&[(4, 0), (1, 640), (2, 480), (3, 32), (4, 0x41)]);
    pc.memory.write(FRAME_BUFFER + (640 * 10 + 20) * 4, &[1, 2, 3, 0]);
    let picture = pc.picture();
    assert_eq!((picture.width, picture.height, pixel(&picture, 20, 10)), (640, 480, [3, 2, 1]));
    assert_eq!(pc.vga.lock().take_changes(), Changes::Everything);
    assert_eq!(pc.vga.lock().take_changes(), Changes::Nothing);
    pc.memory.write(FRAME_BUFFER + 640 * 4 * 479, &[9; 640 * 4]);
    assert_eq!(pc.vga.lock().take_changes(), Changes::Rows(std::iter::once(478..480).collect()));
    // bochs-drm: the registers at BAR 2, a larger virtual screen, panning.
    let write = |index: u64, value: u16| pc.memory.write(BAR2 + 0x500 + index * 2, &value.to_le_bytes());
    for (index, value) in [(4, 0), (1, 800), (2, 600), (3, 16), (4, 0xc1), (6, 1024), (9, 2), (8, 4)] {
        write(index, value);
    }
    pc.memory.write(FRAME_BUFFER + 1024 * 2 * 2 + 4 * 2, &[0x00, 0xf8]);
    let picture = pc.picture();
    assert_eq!((picture.width, picture.height, pixel(&picture, 0, 0)), (800, 600, [255, 0, 0]));
    // The window, with a bank.
    pc.dispi(&[(4, 0), (1, 640), (2, 480), (3, 8), (4, 1), (5, 3)]);
    pc.memory.write(0xa_0010, &[0x42]);
    let mut byte = [0];
    pc.memory.read(FRAME_BUFFER + 0x3_0010, &mut byte);
    assert_eq!(byte, [0x42]);
    // The ROM.
    pc.pci.write(AT, 0x30, 4, 0xfeb0_0001);
    let mut rom = [0; 4];
    pc.memory.read(0xfeb0_0100, &mut rom);
    assert_eq!(rom, [0, 1, 2, 3]);
    pc.clock.advance_to(Time::from_nanos(14_000_000));
    assert_eq!(pc.ports.read(0x3da, 1), 0xff);
    pc.ports.write(0x3c2, 1, 1);
    assert_eq!(pc.ports.read(0x3da, 1), 9);
}

#[test]
fn goes_on_after_restore() {
    let pc = Pc::new();
    pc.set(&PLANAR);
    pc.memory.write(0xa_0000, &[0x5a; 100]);
    // In the middle of an attribute, a palette entry and latched planes.
    pc.ports.read(0x3da, 1);
    pc.ports.write(0x3c0, 1, 0x21);
    pc.ports.write(0x3c8, 1, 9);
    pc.ports.write(0x3c9, 1, 10);
    let mut byte = [0];
    pc.memory.read(0xa_0000, &mut byte);
    let saved = pc.vga.lock().save().unwrap();
    let before = pc.picture();
    assert!(saved.body().len() < 10_000);
    let again = Pc::build(|wiring| Vga::restored("vga0", wiring, &saved).unwrap());
    assert_eq!(again.picture(), before);
    assert_eq!(again.vga.lock().save().unwrap(), saved);
    again.ports.write(0x3c0, 1, 0x3f);
    again.ports.write(0x3c9, 1, 20);
    again.ports.write(0x3c9, 1, 30);
    assert_eq!(pixel(&again.picture(), 200, 100), entry(0));
    again.out(0x3ce, 5, 1);
    again.memory.write(0xa_0200, &[0]);
    again.memory.read(FRAME_BUFFER + 0x200 * 4, &mut byte);
    assert_eq!(byte, [0x5a]);
}
