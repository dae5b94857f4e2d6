//! The 16550A as Linux's 8250 driver probes and uses it.

use bulkhead_device::{Device, Line, LineInput, PortIo};
use bulkhead_reactor::{Reactor, Time, VirtualReactor};
use bulkhead_serial::{ModemInputs, Serial, SerialBackend};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

#[derive(Default)]
struct Irq {
    level: bool,
    rises: u32,
}

impl LineInput for Irq {
    fn set_input(&mut self, _input: u32, level: bool) {
        self.level = level;
        self.rises += u32::from(level);
    }
}

/// Takes bytes while it has budget.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<(Vec<u8>, usize, u32)>>);

impl SerialBackend for Wire {
    fn send(&mut self, bytes: &[u8]) -> usize {
        let mut wire = self.0.lock();
        let taken = bytes.len().min(wire.1);
        wire.1 -= taken;
        wire.0.extend(&bytes[..taken]);
        taken
    }
    fn input_wanted(&mut self) {
        self.0.lock().2 += 1;
    }
}

struct Pc {
    clock: VirtualReactor,
    reactor: Reactor,
    serial: Arc<Mutex<Serial>>,
    irq: Arc<Mutex<Irq>>,
    wire: Wire,
}

impl Pc {
    fn new() -> Pc {
        let (clock, reactor) = VirtualReactor::new(Time::ZERO, 0).unwrap();
        let irq = Arc::new(Mutex::new(Irq::default()));
        let serial = Serial::new("serial0", &reactor, Line::new(irq.clone(), 4));
        let wire = Wire::default();
        wire.0.lock().1 = usize::MAX;
        serial.lock().attach(Box::new(wire.clone()));
        Pc { clock, reactor, serial, irq, wire }
    }
    /// 115,200 8N1, FIFOs with a trigger of 8, DTR, RTS, OUT2.
    fn linux() -> Pc {
        let pc = Pc::new();
        pc.out(2, 0x81);
        pc.out(2, 0x87);
        pc.out(3, 0x83);
        pc.out(0, 1);
        pc.out(1, 0);
        pc.out(3, 0x03);
        pc.out(4, 0x0b);
        pc
    }
    fn out(&self, offset: u16, value: u8) {
        self.serial.lock().port_write(0, offset, 1, value.into());
    }
    fn inb(&self, offset: u16) -> u8 {
        self.serial.lock().port_read(0, offset, 1) as u8
    }
    fn irq(&self) -> bool {
        self.irq.lock().level
    }
    fn receive(&self, bytes: &[u8]) -> usize {
        self.serial.lock().receive(bytes)
    }
}

/// autoconfig: the enable register's upper bits, the scratch register, the loopback test, FIFO detection.
#[test]
fn linux_detects_a_16550a() {
    let pc = Pc::new();
    pc.out(1, 0);
    assert_eq!(pc.inb(1), 0);
    pc.out(1, 0xff);
    assert_eq!(pc.inb(1), 0x0f);
    pc.out(1, 0);
    pc.out(4, 0x1a);
    assert_eq!(pc.inb(6) & 0xf0, 0x90);
    pc.out(4, 0);
    pc.out(3, 0xbf);
    pc.out(2, 0);
    pc.out(3, 0);
    pc.out(2, 1);
    assert_eq!(pc.inb(2) >> 6, 3, "16550A");
    pc.out(3, 0x83);
    pc.out(2, 0xe1);
    assert_eq!(pc.inb(2) >> 5, 6, "no 64-byte FIFO");
    pc.out(7, 0x5a);
    assert_eq!(pc.inb(7), 0x5a);
}

/// serial8250_do_startup: enabling the transmitter interrupt raises it each time, reading IIR clears it.
#[test]
fn transmitter_interrupt_rules() {
    let pc = Pc::linux();
    assert_eq!(pc.inb(5), 0x60);
    for _ in 0..2 {
        pc.out(1, 2);
        assert!(pc.irq());
        assert_eq!(pc.inb(2), 0xc2);
        assert_eq!(pc.inb(2), 0xc1);
        assert!(!pc.irq());
        pc.out(1, 2);
        assert!(!pc.irq(), "no change, no interrupt");
        pc.out(1, 0);
    }
    pc.out(1, 2);
    let before = pc.irq.lock().rises;
    pc.out(0, b'x');
    assert!(pc.irq());
    assert_eq!(pc.irq.lock().rises, before + 1, "a new edge for each byte");
    assert_eq!((pc.inb(5), &pc.wire.0.lock().0[..]), (0x60, &b"x"[..]));
}

/// The interrupt handler's loop: IIR, sixteen bytes, again, until the driver stops the transmitter.
#[test]
fn a_driver_sends_a_long_text() {
    let pc = Pc::linux();
    let text: Vec<u8> = (0..1000u32).map(|number| number as u8).collect();
    let mut rest = text.chunks(16);
    pc.out(1, 0x07);
    while pc.irq() {
        match pc.inb(2) & 0x0f {
            2 => match rest.next() {
                Some(chunk) => {
                    assert_eq!(pc.inb(5) & 0x20, 0x20);
                    chunk.iter().for_each(|byte| pc.out(0, *byte));
                }
                None => pc.out(1, 0x05),
            },
            other => panic!("IIR {other:x}"),
        }
    }
    assert_eq!(pc.wire.0.lock().0, text);
}

#[test]
fn a_slow_reader_holds_the_guest_back() {
    let pc = Pc::linux();
    pc.out(1, 2);
    pc.wire.0.lock().1 = 3;
    for byte in 0..10 {
        pc.out(0, byte);
    }
    assert_eq!(pc.inb(5) & 0x60, 0);
    assert!(!pc.irq());
    pc.wire.0.lock().1 = 5;
    pc.serial.lock().resume_output();
    assert_eq!((pc.inb(5) & 0x60, pc.irq()), (0, false));
    pc.wire.0.lock().1 = 5;
    pc.serial.lock().resume_output();
    assert_eq!((pc.inb(5) & 0x60, pc.irq()), (0x60, true));
    assert_eq!(pc.wire.0.lock().0, (0..10).collect::<Vec<u8>>());
}

#[test]
fn received_bytes_interrupt_at_the_trigger_or_after_four_characters() {
    let mut pc = Pc::linux();
    pc.out(1, 5);
    assert_eq!(pc.receive(b"1234567"), 7);
    assert!(!pc.irq());
    assert_eq!(pc.receive(b"8"), 1);
    assert_eq!((pc.irq(), pc.inb(2)), (true, 0xc4));
    while pc.inb(5) & 1 != 0 {
        pc.inb(0);
    }
    assert!(!pc.irq());
    pc.receive(b"ab");
    pc.clock.advance_to(pc.reactor.now() + Duration::from_micros(340));
    assert!(!pc.irq());
    pc.clock.advance_to(pc.reactor.now() + Duration::from_micros(10));
    assert_eq!((pc.irq(), pc.inb(2)), (true, 0xcc));
    assert_eq!((pc.inb(0), pc.irq()), (b'a', false));
    pc.clock.advance_to(pc.reactor.now() + Duration::from_micros(350));
    assert_eq!((pc.inb(2), pc.inb(0)), (0xcc, b'b'));
    assert_eq!((pc.clock.next_deadline(), pc.irq()), (None, false));
}

#[test]
fn input_waits_outside_until_there_is_room() {
    let pc = Pc::linux();
    assert_eq!(pc.receive(&[7; 40]), 16);
    assert_eq!(pc.receive(&[8; 24]), 0);
    assert_eq!(pc.wire.0.lock().2, 0);
    pc.inb(0);
    pc.inb(0);
    assert_eq!((pc.wire.0.lock().2, pc.receive(&[8; 24])), (1, 2));
    assert_eq!(pc.inb(5) & 0x1e, 0, "no overrun");
    // Without FIFOs there is room for one.
    pc.out(2, 0);
    assert_eq!(pc.receive(&[1, 2]), 1);
}

#[test]
fn loopback_overruns_and_line_status_interrupt() {
    let pc = Pc::linux();
    pc.out(4, 0x10);
    pc.out(1, 4);
    for byte in 0..17 {
        pc.out(0, byte);
    }
    assert_eq!((pc.irq(), pc.inb(2)), (true, 0xc6));
    assert_eq!(pc.inb(5), 0x63);
    assert_eq!((pc.irq(), pc.inb(5)), (false, 0x61));
    assert_eq!((0..16).map(|_| pc.inb(0)).collect::<Vec<u8>>(), (0..16).collect::<Vec<u8>>());
    assert!(pc.wire.0.lock().0.is_empty());
}

#[test]
fn modem_lines_report_changes_once() {
    let pc = Pc::linux();
    pc.out(1, 8);
    pc.serial.lock().set_modem(ModemInputs::CONNECTED);
    assert_eq!((pc.irq(), pc.inb(2)), (true, 0xc0));
    assert_eq!(pc.inb(6), 0xbb);
    assert_eq!((pc.irq(), pc.inb(6)), (false, 0xb0));
    pc.serial.lock().set_modem(ModemInputs { ring: true, ..ModemInputs::CONNECTED });
    assert_eq!(pc.inb(6), 0xf0, "a ring counts when it ends");
    pc.serial.lock().set_modem(ModemInputs::CONNECTED);
    assert_eq!(pc.inb(6), 0xb4);
}

#[test]
fn restored_in_the_middle_it_goes_on() {
    let mut pc = Pc::linux();
    pc.out(1, 7);
    pc.wire.0.lock().1 = 2;
    b"abcdef".iter().for_each(|byte| pc.out(0, *byte));
    pc.receive(b"xy");
    pc.clock.advance_to(pc.reactor.now() + Duration::from_micros(100));
    let state = pc.serial.lock().save().unwrap();
    let irq = Arc::new(Mutex::new(Irq::default()));
    let restored = Serial::restore("serial0", &pc.reactor, Line::new(irq.clone(), 4), &state).unwrap();
    assert_eq!(restored.lock().save().unwrap(), state);
    let wire = Wire::default();
    wire.0.lock().1 = usize::MAX;
    restored.lock().attach(Box::new(wire.clone()));
    assert_eq!(wire.0.lock().0, b"cdef");
    pc.wire.0.lock().1 = usize::MAX;
    pc.serial.lock().resume_output();
    pc.clock.advance_to(pc.reactor.now() + Duration::from_micros(300));
    assert_eq!(pc.serial.lock().save().unwrap(), restored.lock().save().unwrap());
    assert!(irq.lock().level);
}
