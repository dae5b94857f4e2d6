//! The I/O APIC: registers, edges, levels with remote IRR, the ways to end an interrupt, saving.

use bulkhead_device::{Device, Line, LineInput, MmioBus, Msi, MsiSink};
use bulkhead_interrupt_controllers::{InterruptLines, Ioapic, Pic};
use parking_lot::Mutex;
use std::sync::Arc;

#[derive(Default)]
struct Messages(Mutex<Vec<Msi>>);

impl MsiSink for Messages {
    fn send_msi(&self, msi: Msi) {
        self.0.lock().push(msi);
    }
}

struct Pc {
    memory: MmioBus,
    ioapic: Arc<Mutex<Ioapic>>,
    messages: Arc<Messages>,
}

const BASE: u64 = 0xfec0_0000;

impl Pc {
    fn with(make: impl FnOnce(Arc<Messages>) -> Ioapic) -> Pc {
        let messages = Arc::new(Messages::default());
        let ioapic = Arc::new(Mutex::new(make(messages.clone())));
        let memory = MmioBus::new();
        memory.map(BASE..BASE + 0x1000, &ioapic, 0).unwrap();
        Pc { memory, ioapic, messages }
    }
    fn new() -> Pc {
        Pc::with(|messages| Ioapic::new("ioapic", messages))
    }
    fn write(&self, register: u32, value: u32) {
        self.memory.write(BASE, &register.to_le_bytes());
        self.memory.write(BASE + 0x10, &value.to_le_bytes());
    }
    fn read(&self, register: u32) -> u32 {
        self.memory.write(BASE, &register.to_le_bytes());
        let mut data = [0; 4];
        self.memory.read(BASE + 0x10, &mut data);
        u32::from_le_bytes(data)
    }
    fn entry(&self, pin: u32, value: u64) {
        self.write(0x11 + 2 * pin, (value >> 32) as u32);
        self.write(0x10 + 2 * pin, value as u32);
    }
    fn set(&self, pin: u32, level: bool) {
        self.ioapic.lock().set_input(pin, level);
    }
    fn sent(&self) -> Vec<Msi> {
        std::mem::take(&mut self.messages.0.lock())
    }
}

#[test]
fn registers_after_reset() {
    let pc = Pc::new();
    assert_eq!(pc.read(1), 0x0017_0020);
    assert_eq!((pc.read(0x10), pc.read(0x3f)), (0x1_0000, 0));
    pc.write(0, 0xf500_0000);
    assert_eq!((pc.read(0), pc.read(2)), (0x0500_0000, 0x0500_0000));
    assert_eq!((pc.read(0x40), pc.read(0x0f)), (0, 0));
}

#[test]
fn edges_become_messages() {
    let pc = Pc::new();
    pc.entry(4, 0x0100_0000_0000_0931);
    pc.set(4, true);
    assert_eq!(pc.sent(), [Msi { address: 0xfee0_1004, data: 0x4131 }]);
    pc.set(4, true);
    pc.set(4, false);
    assert!(pc.sent().is_empty());
    pc.entry(4, 0x1_0031);
    pc.set(4, true);
    pc.entry(4, 0x0031);
    assert!(pc.sent().is_empty(), "an edge at a masked input is lost");
}

#[test]
fn levels_send_once_until_the_end_of_interrupt() {
    let pc = Pc::new();
    pc.entry(10, 0x0200_0000_0000_a041);
    pc.set(10, true);
    let message = Msi { address: 0xfee0_2000, data: 0xc041 };
    assert_eq!(pc.sent(), [message]);
    assert_eq!(pc.read(0x24) & 0x4000, 0x4000);
    pc.ioapic.lock().end_of_interrupt(0x40);
    assert!(pc.sent().is_empty());
    pc.ioapic.lock().end_of_interrupt(0x41);
    assert_eq!(pc.sent(), [message], "still asserted");
    pc.set(10, false);
    pc.memory.write(BASE + 0x40, &0x41u32.to_le_bytes());
    assert!(pc.sent().is_empty());
    assert_eq!(pc.read(0x24) & 0x4000, 0);
    // Remote IRR is not written by software, but a moment of edge mode clears it, as old kernels do.
    pc.set(10, true);
    assert_eq!(pc.sent(), [message]);
    pc.write(0x24, 0x1_2041);
    pc.write(0x24, 0xa041);
    assert_eq!(pc.sent(), [message]);
}

#[test]
fn a_masked_level_is_delivered_when_unmasked() {
    let pc = Pc::new();
    pc.entry(11, 0x1_8051);
    pc.set(11, true);
    assert!(pc.sent().is_empty());
    pc.entry(11, 0x8051);
    assert_eq!(pc.sent().len(), 1);
}

#[test]
fn restored_while_an_interrupt_is_served_it_goes_on() {
    let pc = Pc::new();
    pc.entry(10, 0x8041);
    pc.set(10, true);
    let state = pc.ioapic.lock().save().unwrap();
    let other = Pc::with(|messages| Ioapic::restore("ioapic", messages, &state).unwrap());
    other.set(10, true);
    assert!(other.sent().is_empty());
    other.ioapic.lock().end_of_interrupt(0x41);
    assert_eq!(other.sent().len(), 1);
    assert_eq!(other.ioapic.lock().save().unwrap(), state);
}

#[test]
fn the_timer_is_pin_2_and_both_controllers_hear_lines() {
    let pc = Pc::new();
    let pic = Arc::new(Mutex::new(Pic::new("pic", Line::unconnected())));
    let lines = InterruptLines::new(pic.clone(), pc.ioapic.clone());
    for pin in 0..24 {
        pc.entry(pin, u64::from(0x30 + pin));
    }
    lines.line(0).pulse();
    lines.line(2).pulse();
    lines.line(9).pulse();
    lines.line(24).pulse();
    let vectors: Vec<u32> = pc.sent().iter().map(|msi| msi.data & 0xff).collect();
    assert_eq!(vectors, [0x32, 0x39]);
    assert_eq!(pic.lock().acknowledge(), Some(0), "vectors count from 0 before initialization");
    let (one, two) = (lines.line(5), lines.line(5));
    one.set(true);
    two.set(true);
    assert_eq!(pc.sent().len(), 1);
}
