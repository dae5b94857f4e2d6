//! Configuration space: sizing as firmware and Linux do it, BARs that follow the command register, saving.

use bulkhead_device::{
    BarKind, ConfigSpace, Device, Mmio, MmioBus, PciAddress, PciBus, PciFunction, PciIdentity, PortBus, PortIo,
};
use bulkhead_saved_state::{SavedState, SavedStateError};
use parking_lot::Mutex;
use std::sync::{Arc, Weak};

struct Card {
    config: ConfigSpace,
}

impl Device for Card {
    fn name(&self) -> &str {
        "card"
    }
    fn save(&self) -> Result<SavedState, SavedStateError> {
        SavedState::encode("card", 1, &self.config.save())
    }
    fn inspect(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
    fn reset(&mut self) {
        self.config.reset();
    }
}

impl PortIo for Card {
    fn port_read(&mut self, bank: u8, offset: u16, _size: u8) -> u32 {
        u32::from(bank) << 4 | u32::from(offset)
    }
    fn port_write(&mut self, _bank: u8, _offset: u16, _size: u8, _value: u32) {}
}

impl Mmio for Card {
    fn mmio_read(&mut self, bank: u8, _offset: u64, _size: u8) -> u64 {
        u64::from(bank) * 0x1111_1111
    }
    fn mmio_write(&mut self, _bank: u8, _offset: u64, _size: u8, _value: u64) {}
}

impl PciFunction for Card {
    fn config_read(&mut self, offset: u8) -> u32 {
        self.config.read(offset)
    }
    fn config_write(&mut self, offset: u8, size: u8, value: u32) {
        self.config.write(offset, size, value);
    }
}

fn config(ports: &PortBus, memory: &MmioBus, card: &Weak<Mutex<Card>>) -> ConfigSpace {
    let identity =
        PciIdentity { vendor: 0x1234, device: 0x1111, revision: 2, class: 0x03_0000, subsystem: (0x1af4, 0x1100) };
    ConfigSpace::new(identity)
        .with_interrupt_pin(1)
        .with_bar(0, BarKind::Prefetchable(memory.region(0x100_0000, "card", card.clone(), 1)))
        .with_bar(4, BarKind::Ports(ports.region(16, "card", card.clone(), 4)))
        .with_bar(ConfigSpace::ROM, BarKind::Rom(memory.region(0x1_0000, "card", card.clone(), 6)))
        .with_register(0x40, [1, 2], [0xf0, 0])
}

fn machine() -> (PortBus, MmioBus, PciBus, Arc<Mutex<Card>>) {
    let (ports, memory, pci) = (PortBus::new(), MmioBus::new(), PciBus::new());
    let card = Arc::new_cyclic(|weak| Mutex::new(Card { config: config(&ports, &memory, weak) }));
    pci.add(AT, &card).unwrap();
    (ports, memory, pci, card)
}

const AT: PciAddress = PciAddress { device: 2, function: 0 };

fn memory_at(memory: &MmioBus, address: u64) -> u32 {
    let mut data = [0; 4];
    memory.read(address, &mut data);
    u32::from_le_bytes(data)
}

#[test]
fn bars_are_sized_by_writing_ones() {
    let (_ports, _memory, pci, _card) = machine();
    assert_eq!(pci.read(AT, 0), 0x1111_1234);
    assert_eq!(pci.read(AT, 8), 0x0300_0002);
    for offset in [0x10, 0x14, 0x20, 0x30] {
        pci.write(AT, offset, 4, u32::MAX);
    }
    assert_eq!(pci.read(AT, 0x10), 0xff00_0008);
    assert_eq!(pci.read(AT, 0x14), 0);
    assert_eq!(pci.read(AT, 0x20), 0xffff_fff1);
    assert_eq!(pci.read(AT, 0x30), 0xffff_0001);
    pci.write(AT, 0x40, 4, u32::MAX);
    assert_eq!(pci.read(AT, 0x40), 0x02f1);
    assert_eq!(pci.read(PciAddress { device: 3, function: 0 }, 0), u32::MAX);
}

#[test]
fn bars_follow_base_and_command() {
    let (ports, memory, pci, card) = machine();
    pci.write(AT, 0x20, 4, 0xc000);
    assert_eq!(ports.read(0xc003, 1), 0xff);
    pci.write(AT, 4, 1, 1);
    assert_eq!(ports.read(0xc003, 1), 0x43);
    pci.write(AT, 0x10, 4, 0xfd00_0000);
    assert_eq!(memory_at(&memory, 0xfd00_0000), u32::MAX);
    pci.write(AT, 4, 2, 7);
    assert_eq!(memory_at(&memory, 0xfd00_0000), 0x1111_1111);
    assert!(card.lock().config.bus_master());
    pci.write(AT, 0x30, 4, 0xfe00_0000);
    assert_eq!(memory_at(&memory, 0xfe00_0000), u32::MAX);
    pci.write(AT, 0x30, 4, 0xfe00_0001);
    assert_eq!(memory_at(&memory, 0xfe00_0000), 0x6666_6666);
    // One byte of the base moves the BAR as well.
    pci.write(AT, 0x21, 1, 0xd0);
    assert_eq!((ports.read(0xc003, 1), ports.read(0xd003, 1)), (0xff, 0x43));
    card.lock().reset();
    assert_eq!((ports.read(0xd003, 1), pci.read(AT, 4)), (0xff, 0));
}

#[test]
fn a_restored_function_has_its_bars_and_its_own_identity() {
    let (ports, memory, pci, card) = machine();
    pci.write(AT, 0x20, 4, 0xc000);
    pci.write(AT, 4, 1, 1);
    let saved = card.lock().config.save();
    drop(card);
    assert_eq!(ports.read(0xc003, 1), 0xff);
    let restored = Arc::new_cyclic(|weak| Mutex::new(Card { config: config(&ports, &memory, weak).restored(&saved) }));
    assert_eq!(ports.read(0xc003, 1), 0x43);
    pci.add(AT, &restored).unwrap();
    assert_eq!(pci.read(AT, 0), 0x1111_1234);
    assert!(pci.add(AT, &restored).is_err());
}

#[test]
fn status_bits_are_cleared_by_ones() {
    let (_ports, _memory, pci, card) = machine();
    card.lock().config.set_u16(6, 0x2008);
    pci.write(AT, 6, 2, 0x2000);
    assert_eq!(pci.read(AT, 4) >> 16, 0x0008);
}
