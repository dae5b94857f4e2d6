//! The 8259 pair: initialization as BIOS and Linux do it, priorities, EOI forms, spurious requests, ELCR, saving.

use bulkhead_device::{Device, Line, LineInput, PortBus};
use bulkhead_interrupt_controllers::Pic;
use parking_lot::Mutex;
use std::sync::Arc;

#[derive(Default)]
struct Intr(bool);

impl LineInput for Intr {
    fn set_input(&mut self, _input: u32, level: bool) {
        self.0 = level;
    }
}

struct Pc {
    ports: PortBus,
    pic: Arc<Mutex<Pic>>,
    intr: Arc<Mutex<Intr>>,
}

impl Pc {
    fn with(make: impl FnOnce(Line) -> Pic) -> Pc {
        let intr = Arc::new(Mutex::new(Intr::default()));
        let pic = Arc::new(Mutex::new(make(Line::new(intr.clone(), 0))));
        let ports = PortBus::new();
        ports.map(0x20..=0x21, &pic, Pic::PRIMARY).unwrap();
        ports.map(0xa0..=0xa1, &pic, Pic::SECONDARY).unwrap();
        ports.map(0x4d0..=0x4d1, &pic, Pic::ELCR).unwrap();
        Pc { ports, pic, intr }
    }

    /// As Linux's init_8259A: vectors 30h and 38h, then the masks.
    fn linux(icw4: u8) -> Pc {
        let pc = Pc::with(|intr| Pic::new("pic", intr));
        for (base, vector, cascade) in [(0x20, 0x30, 4), (0xa0, 0x38, 2)] {
            pc.out(base + 1, 0xff);
            pc.out(base, 0x11);
            pc.out(base + 1, vector);
            pc.out(base + 1, cascade);
            pc.out(base + 1, icw4);
            pc.out(base + 1, 0);
        }
        pc
    }

    fn out(&self, port: u16, value: u8) {
        self.ports.write(port, 1, value.into());
    }
    fn inb(&self, port: u16) -> u8 {
        self.ports.read(port, 1) as u8
    }
    fn set(&self, input: u32, level: bool) {
        self.pic.lock().set_input(input, level);
    }
    fn pulse(&self, input: u32) {
        self.set(input, true);
        self.set(input, false);
    }
    fn intr(&self) -> bool {
        self.intr.lock().0
    }
    fn ack(&self) -> Option<u8> {
        self.pic.lock().acknowledge()
    }
}

#[test]
fn linux_probe_reads_back_the_mask() {
    let pc = Pc::linux(1);
    pc.out(0xa1, 0xff);
    pc.out(0x21, 0xfb);
    assert_eq!(pc.inb(0x21), 0xfb);
}

#[test]
fn an_edge_is_delivered_once_and_served_until_eoi() {
    let pc = Pc::linux(1);
    pc.set(4, true);
    assert!(pc.intr());
    assert_eq!(pc.ack(), Some(0x34));
    assert!(!pc.intr());
    assert_eq!(pc.ack(), None);
    pc.out(0x20, 0x0b);
    assert_eq!(pc.inb(0x20), 0x10);
    // A new edge waits for the end of the served one; higher priorities do not.
    pc.set(4, false);
    pc.set(4, true);
    assert!(!pc.intr());
    pc.pulse(1);
    assert_eq!(pc.ack(), Some(0x31));
    pc.out(0x20, 0x61);
    pc.out(0x20, 0x64);
    assert_eq!(pc.ack(), Some(0x34));
    pc.out(0x20, 0x20);
    assert!(!pc.intr());
}

#[test]
fn the_secondary_needs_two_ends() {
    let pc = Pc::linux(1);
    pc.pulse(12);
    pc.pulse(8);
    assert_eq!(pc.ack(), Some(0x38));
    pc.out(0xa0, 0x60);
    assert!(!pc.intr(), "the primary still serves the cascade");
    pc.out(0x20, 0x62);
    assert_eq!(pc.ack(), Some(0x3c));
    pc.out(0xa0, 0x0b);
    assert_eq!(pc.inb(0xa0), 0x10);
}

#[test]
fn masked_requests_wait_and_a_withdrawn_one_is_not_seen() {
    let pc = Pc::linux(1);
    pc.out(0x21, 0x10);
    pc.pulse(4);
    assert!(!pc.intr());
    pc.out(0x20, 0x0a);
    assert_eq!(pc.inb(0x20), 0x10);
    pc.out(0x21, 0);
    assert!(pc.intr());
    pc.out(0x21, 0xff);
    assert!(!pc.intr());
    assert_eq!(pc.ack(), None);
}

#[test]
fn level_inputs_ask_again_until_they_fall() {
    let pc = Pc::linux(1);
    pc.out(0x4d0, 0xff);
    pc.out(0x4d1, 0x0c);
    assert_eq!((pc.inb(0x4d0), pc.inb(0x4d1)), (0xf8, 0x0c));
    pc.set(10, true);
    for _ in 0..3 {
        assert_eq!(pc.ack(), Some(0x3a));
        pc.out(0xa0, 0x20);
        pc.out(0x20, 0x20);
        assert!(pc.intr());
    }
    pc.set(10, false);
    assert!(!pc.intr());
}

#[test]
fn a_request_of_the_secondary_that_goes_away_is_spurious() {
    let pc = Pc::linux(1);
    pc.out(0x4d1, 0x0c);
    pc.set(11, true);
    assert!(pc.intr());
    pc.set(11, false);
    assert!(!pc.intr());
    assert_eq!(pc.ack(), None);
}

#[test]
fn automatic_eoi_rotation_and_special_mask() {
    let pc = Pc::linux(3);
    pc.pulse(5);
    assert_eq!(pc.ack(), Some(0x35));
    pc.pulse(6);
    assert_eq!(pc.ack(), Some(0x36), "nothing is in service");
    pc.out(0x20, 0x80);
    for input in [3, 5] {
        pc.pulse(input);
    }
    assert_eq!(pc.ack(), Some(0x33));
    for input in [3, 5, 1] {
        pc.pulse(input);
    }
    // 3 has the lowest priority now.
    assert_eq!((pc.ack(), pc.ack(), pc.ack()), (Some(0x35), Some(0x31), Some(0x33)));

    let pc = Pc::linux(1);
    pc.pulse(3);
    assert_eq!(pc.ack(), Some(0x33));
    pc.pulse(7);
    assert!(!pc.intr());
    pc.out(0x20, 0x68);
    pc.out(0x21, 0x08);
    assert_eq!(pc.ack(), Some(0x37), "special mask mode lets lower ones through");
}

#[test]
fn polling_acknowledges() {
    let pc = Pc::linux(1);
    pc.pulse(6);
    pc.out(0x20, 0x0c);
    assert_eq!(pc.inb(0x20), 0x86);
    assert!(!pc.intr());
    pc.out(0x20, 0x0c);
    assert_eq!(pc.inb(0x20), 0);
}

#[test]
fn restored_in_the_middle_of_service_it_goes_on() {
    let pc = Pc::linux(1);
    pc.out(0x4d1, 0x04);
    pc.set(10, true);
    assert_eq!(pc.ack(), Some(0x3a));
    pc.pulse(1);
    let state = pc.pic.lock().save().unwrap();
    let other = Pc::with(|intr| Pic::restore("pic", intr, &state).unwrap());
    assert!(other.intr());
    // The device's line is driven again: no new edge.
    other.set(10, true);
    for pc in [&pc, &other] {
        assert_eq!(pc.ack(), Some(0x31));
        pc.out(0x20, 0x20);
        pc.set(10, false);
        pc.out(0xa0, 0x20);
        pc.out(0x20, 0x20);
        assert!(!pc.intr());
    }
    assert_eq!(pc.pic.lock().save().unwrap(), other.pic.lock().save().unwrap());
}
