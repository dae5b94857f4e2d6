//! A driver that does what those of Linux and iPXE do, step by step, with the other side of the port in the test's hands.

use bulkhead_device::{Device, Line, LineSink, MmioBus, PciAddress, PciBus, PortBus};
use bulkhead_guest_memory::GuestMemory;
use bulkhead_legacy_nic::{LegacyNic, Wiring};
use bulkhead_packets::{FrameMeta, MacAddress};
use bulkhead_port::{Nic, PortRing, RingSize};
use bulkhead_reactor::{Reactor, Time, VirtualReactor};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

const AT: PciAddress = PciAddress { device: 3, function: 0 };
const PORTS: u16 = 0xc000;
const MMIO: u64 = 0xe000_0000;
const ADDRESS: MacAddress = MacAddress([0x00, 0x15, 0x5d, 0x0a, 0x0b, 0x0c]);
const RX_RING: u32 = 0x1000;
const TX_RING: u32 = 0x2000;
const BUFFERS: u32 = 0x1_0000;
const OWN: u32 = 1 << 31;

#[derive(Default)]
struct Irq(AtomicBool);

impl LineSink for Irq {
    fn set_input(&self, _: u32, level: bool) {
        self.0.store(level, SeqCst);
    }
}

struct Pc {
    clock: VirtualReactor,
    reactor: Reactor,
    ports: PortBus,
    mmio: MmioBus,
    memory: GuestMemory,
    irq: Arc<Irq>,
    nic: Arc<Mutex<LegacyNic>>,
    switch: PortRing,
    _pci: PciBus,
}

impl Pc {
    fn new() -> Pc {
        let (clock, reactor) = VirtualReactor::new(Time::ZERO, 1).unwrap();
        let memory = GuestMemory::builder().anonymous(0, 1 << 20).build().unwrap();
        let (ports, mmio, irq) = (PortBus::new(), MmioBus::new(), Arc::new(Irq::default()));
        let (ours, switch) = bulkhead_port::pair(RingSize::default()).unwrap();
        let wiring = Wiring {
            reactor: reactor.clone(),
            memory: memory.clone(),
            ports: ports.clone(),
            mmio: mmio.clone(),
            irq: Line::new(irq.clone(), 0),
            address: ADDRESS,
            port: Some(ours),
        };
        let nic = LegacyNic::new("nic0", wiring).unwrap();
        let pci = PciBus::new();
        pci.add(AT, &nic).unwrap();
        pci.write(AT, 0x10, 4, PORTS.into());
        pci.write(AT, 0x14, 4, MMIO as u32);
        pci.write(AT, 0x04, 2, 7);
        assert_eq!(pci.read(AT, 0), 0x0009_1011);
        Pc { clock, reactor, ports, mmio, memory, irq, nic, switch, _pci: pci }
    }

    fn csr(&self, index: u16) -> u32 {
        let value = self.ports.read(PORTS + index * 8, 4);
        if !matches!(index, 8 | 11) {
            let mut bytes = [0; 4];
            self.mmio.read(MMIO + u64::from(index) * 8, &mut bytes);
            assert_eq!(u32::from_le_bytes(bytes), value, "CSR{index} by memory");
        }
        value
    }

    fn set(&self, index: u16, value: u32) {
        self.ports.write(PORTS + index * 8, 4, value);
    }

    fn word(&self, at: u32) -> u32 {
        self.memory.read_u32(at.into()).unwrap()
    }

    fn put(&self, at: u32, words: &[u32]) {
        for (index, word) in (0..).zip(words) {
            self.memory.write_u32(u64::from(at) + index * 4, *word).unwrap();
        }
    }

    /// Eight receive descriptors in a ring with buffers of `len`, and an empty transmit ring of four.
    fn start(&mut self, len: u32) {
        self.set(0, 1);
        self.set(0, 0x4800);
        for index in 0..8 {
            let last = if index == 7 { 1 << 25 } else { 0 };
            self.put(RX_RING + index * 16, &[OWN, last | len, BUFFERS + index * 0x800, 0]);
        }
        for index in 0..4 {
            self.put(TX_RING + index * 16, &[0, if index == 3 { 1 << 25 } else { 0 }, 0, 0]);
        }
        self.set(3, RX_RING);
        self.set(4, TX_RING);
        self.set(7, 0x1_ebef);
        self.set(6, 0x0204_2002);
    }

    /// Sends by descriptor `index`.
    fn transmit(&self, index: u32, word_1: u32, at: u32) {
        let last = if index == 3 { 1 << 25 } else { 0 };
        self.put(TX_RING + index * 16, &[OWN, word_1 | last, at, 0]);
        self.set(1, 1);
    }

    /// The setup frame of `addresses`, the first of which fills the rest.
    fn filter(&self, index: u32, addresses: &[[u8; 6]]) {
        for entry in 0..16 {
            let address = addresses.get(entry).unwrap_or(&addresses[0]);
            for (word, pair) in address.chunks(2).enumerate() {
                let at = 0x8000 + (entry * 3 + word) as u32 * 4;
                self.put(at, &[u32::from(u16::from_le_bytes([pair[0], pair[1]])) * 0x1_0001]);
            }
        }
        self.transmit(index, 1 << 27 | 1 << 31 | 192, 0x8000);
        assert_eq!(self.word(TX_RING + index * 16), 0x7fff_ffff);
    }

    fn switch_sends(&mut self, frame: &[u8]) {
        assert!(self.switch.tx.send(&FrameMeta::default(), &[frame]).unwrap());
        self.switch.tx.publish().unwrap();
        self.clock.poll_fds();
    }

    fn at_switch(&mut self) -> Option<Vec<u8>> {
        let frame = self.switch.rx.peek().unwrap()?;
        let mut bytes = Vec::new();
        frame.read_all(&mut bytes).unwrap();
        self.switch.rx.advance();
        self.switch.rx.release().unwrap();
        Some(bytes)
    }
}

fn frame(to: [u8; 6], len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|at| (at * 7) as u8).collect();
    frame[..6].copy_from_slice(&to);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    frame
}

/// Reads a word of the serial ROM as Linux does.
fn rom_word(pc: &Pc, location: u32, address_bits: u32) -> u32 {
    const BASE: u32 = 0x4800;
    let (enable, clock, data) = (BASE | 1, 2, 4);
    let command = location | 6 << address_bits;
    pc.set(9, enable & !1);
    pc.set(9, enable);
    let mut value = 0;
    for bit in (0..=4 + address_bits).rev() {
        let level = if command >> bit & 1 != 0 { data } else { 0 };
        pc.set(9, enable | level);
        pc.set(9, enable | level | clock);
        value = value << 1 | pc.csr(9) >> 3 & 1;
    }
    pc.set(9, enable);
    for _ in 0..16 {
        pc.set(9, enable | clock);
        value = value << 1 | pc.csr(9) >> 3 & 1;
        pc.set(9, enable);
    }
    pc.set(9, enable & !1);
    value
}

fn mii_preamble(pc: &Pc) {
    for _ in 0..33 {
        pc.set(9, 0x2_0000);
        pc.set(9, 0x3_0000);
    }
}

/// Reads a register of a transceiver as Linux does.
fn mii_read(pc: &Pc, phy: u32, register: u32) -> u32 {
    const CLOCK: u32 = 0x1_0000;
    mii_preamble(pc);
    let command = 0xf6 << 10 | phy << 5 | register;
    for bit in (0..16).rev() {
        let level = if command >> bit & 1 != 0 { 0x2_0000 } else { 0 };
        pc.set(9, level);
        pc.set(9, level | CLOCK);
    }
    let mut value = 0;
    for _ in 0..19 {
        pc.set(9, 0x4_0000);
        value = value << 1 | pc.csr(9) >> 19 & 1;
        pc.set(9, 0x4_0000 | CLOCK);
    }
    value >> 1 & 0xffff
}

fn mii_write(pc: &Pc, phy: u32, register: u32, value: u32) {
    mii_preamble(pc);
    let command = 0x5002 << 16 | phy << 23 | register << 18 | value;
    for bit in (0..32).rev() {
        let level = if command >> bit & 1 != 0 { 0x2_0000 } else { 0 };
        pc.set(9, level);
        pc.set(9, level | 0x1_0000);
    }
}

#[test]
fn the_rom_tells_the_address_and_that_it_has_six_address_bits() {
    let pc = Pc::new();
    // The drivers' test for the large kind of ROM.
    assert_eq!(rom_word(&pc, 0xff, 8) & 0x4_0000, 0);
    let words: Vec<u8> = (0..64).flat_map(|at| (rom_word(&pc, at, 6) as u16).to_le_bytes()).collect();
    assert_eq!(words[20..26], ADDRESS.0);
    assert_eq!(words[19], 1, "controllers");
    // An MII block at the leaf, as tulip's eeprom.c reads it.
    let leaf = usize::from(words[27]);
    assert_eq!((words[leaf + 3], words[leaf + 5] & 1), (1, 1));
    assert_eq!(u16::from_le_bytes([words[leaf + 11], words[leaf + 12]]), 0x01e1, "advertisement");
    assert_eq!(crc32fast::hash(&words[..126]) as u16, u16::from_le_bytes([words[126], words[127]]));
}

#[test]
fn one_transceiver_answers_and_shows_the_cable() {
    let pc = Pc::new();
    assert_eq!(mii_read(&pc, 1, 1), 0x782d);
    assert_eq!(mii_read(&pc, 1, 5), 0x45e1);
    assert_eq!(mii_read(&pc, 2, 1), 0xffff);
    mii_write(&pc, 1, 4, 0x0061);
    assert_eq!(mii_read(&pc, 1, 4), 0x0061);
    mii_write(&pc, 1, 0, 0x8000);
    assert_eq!((mii_read(&pc, 1, 0), mii_read(&pc, 1, 4)), (0x3100, 0x01e1));
    pc.nic.lock().disconnect();
    assert_eq!(mii_read(&pc, 1, 1), 0x7809);
}

#[test]
fn frames_go_out_and_come_in() {
    let mut pc = Pc::new();
    pc.start(0x600);
    pc.filter(0, &[ADDRESS.0, [0xff; 6]]);
    assert!(pc.irq.0.load(SeqCst), "the setup frame interrupts");
    pc.set(5, 0x1_ffff);
    assert!(!pc.irq.0.load(SeqCst));

    // In two buffers of two descriptors, short enough to be padded.
    let out = frame([2, 0, 0, 0, 0, 1], 40);
    pc.memory.write(0x9000, &out).unwrap();
    pc.put(TX_RING + 16, &[0, 0, 0, 0]);
    pc.put(TX_RING + 32, &[OWN, 1 << 30 | 1 << 31 | 10 | 10 << 11, 0x9000 + 20, 0x9000 + 30]);
    pc.transmit(1, 1 << 29 | 20, 0x9000);
    let mut expected = out.clone();
    expected.resize(60, 0);
    assert_eq!(pc.at_switch(), Some(expected));
    assert_eq!(pc.csr(5) & 5, 5, "sent; no further descriptor");
    assert_eq!(pc.csr(5) >> 20 & 7, 6, "suspended");
    pc.set(5, 0x1_ffff);

    let wanted = frame(ADDRESS.0, 1514);
    pc.switch_sends(&wanted);
    pc.switch_sends(&frame([2, 0, 0, 0, 0, 9], 100));
    pc.switch_sends(&frame([0xff; 6], 60));
    assert!(pc.irq.0.load(SeqCst));
    assert_eq!(pc.word(RX_RING), 1518 << 16 | 0x320);
    let mut received = vec![0; 1514];
    pc.memory.read(BUFFERS.into(), &mut received).unwrap();
    assert_eq!(received, wanted);
    let mut checksum = [0; 4];
    pc.memory.read(u64::from(BUFFERS) + 1514, &mut checksum).unwrap();
    assert_eq!(u32::from_le_bytes(checksum), crc32fast::hash(&wanted));
    assert_eq!(pc.word(RX_RING + 16), 64 << 16 | 0x720, "the broadcast, padded; the stranger's frame is not here");
    assert_eq!(pc.word(RX_RING + 32), OWN);
}

#[test]
fn frames_wait_for_descriptors_and_are_not_lost() {
    let mut pc = Pc::new();
    pc.start(0x600);
    pc.filter(0, &[ADDRESS.0]);
    for index in 0..10 {
        pc.switch_sends(&frame(ADDRESS.0, 60 + index));
    }
    assert_eq!(pc.csr(5) & 0xc0, 0xc0, "received; no descriptor");
    assert_eq!(pc.csr(5) >> 17 & 7, 4, "suspended");
    // The driver gives one back and asks; the other comes by the timer.
    pc.put(RX_RING, &[OWN]);
    pc.set(2, 1);
    assert_eq!(pc.word(RX_RING) >> 16, 72);
    pc.put(RX_RING + 16, &[OWN]);
    pc.clock.advance_to(pc.reactor.now() + Duration::from_millis(10));
    assert_eq!(pc.word(RX_RING + 16) >> 16, 73);
}

#[test]
fn a_frame_spreads_over_short_descriptors() {
    let mut pc = Pc::new();
    pc.start(256);
    pc.filter(0, &[ADDRESS.0]);
    let wanted = frame(ADDRESS.0, 600);
    pc.switch_sends(&wanted);
    assert_eq!(pc.word(RX_RING), 0x200);
    assert_eq!(pc.word(RX_RING + 16), 0);
    assert_eq!(pc.word(RX_RING + 32), 604 << 16 | 0x120);
    let mut received = vec![0; 256];
    pc.memory.read(u64::from(BUFFERS) + 0x800, &mut received).unwrap();
    assert_eq!(received, wanted[256..512]);
}

#[test]
fn hash_filters_take_their_multicast_groups() {
    let mut pc = Pc::new();
    pc.start(0x600);
    let group = [0x01, 0x00, 0x5e, 0x00, 0x00, 0xfb];
    // Linux: ether_crc_le(ETH_ALEN, address) & 0x1ff, computed by its own bitwise definition.
    let mut crc = !0u32;
    for byte in group {
        let mut byte = byte;
        for _ in 0..8 {
            let mix = (crc ^ u32::from(byte)) & 1;
            crc = crc >> 1 ^ if mix != 0 { 0xedb8_8320 } else { 0 };
            byte >>= 1;
        }
    }
    let hash = crc & 0x1ff;
    pc.memory.fill(0x8000, 192, 0).unwrap();
    pc.put(0x8000 + hash / 16 * 4, &[1 << (hash % 16)]);
    for (word, pair) in ADDRESS.0.chunks(2).enumerate() {
        pc.put(0x8000 + 156 + word as u32 * 4, &[u32::from(u16::from_le_bytes([pair[0], pair[1]]))]);
    }
    pc.transmit(0, 1 << 27 | 1 << 22 | 192, 0x8000);
    pc.switch_sends(&frame(group, 60));
    pc.switch_sends(&frame([0x01, 0x00, 0x5e, 0x00, 0x00, 0xfc], 61));
    pc.switch_sends(&frame(ADDRESS.0, 62));
    assert_eq!(pc.word(RX_RING) >> 16, 64);
    assert_eq!(pc.word(RX_RING + 16) >> 16, 66);
}

#[test]
fn the_general_purpose_timer_interrupts() {
    let mut pc = Pc::new();
    pc.start(0x600);
    pc.set(7, 1 << 11 | 1 << 16);
    pc.set(11, 1000);
    pc.clock.advance_to(pc.reactor.now() + Duration::from_millis(81));
    assert!(!pc.irq.0.load(SeqCst));
    pc.clock.advance_to(pc.reactor.now() + Duration::from_millis(1));
    assert!(pc.irq.0.load(SeqCst));
    pc.set(5, 1 << 11 | 1 << 16);
    assert!(!pc.irq.0.load(SeqCst));
}

#[test]
fn a_saved_adapter_goes_on() {
    let mut pc = Pc::new();
    pc.start(0x600);
    pc.filter(0, &[ADDRESS.0]);
    pc.switch_sends(&frame(ADDRESS.0, 100));
    let saved = pc.nic.lock().save().unwrap();
    let (ours, switch) = bulkhead_port::pair(RingSize::default()).unwrap();
    let wiring = Wiring {
        reactor: pc.reactor.clone(),
        memory: pc.memory.clone(),
        ports: PortBus::new(),
        mmio: MmioBus::new(),
        irq: Line::new(pc.irq.clone(), 0),
        address: ADDRESS,
        port: Some(ours),
    };
    let (ports, mmio) = (wiring.ports.clone(), wiring.mmio.clone());
    let restored = LegacyNic::restored("nic0", wiring, &saved).unwrap();
    assert_eq!(restored.lock().save().unwrap(), saved);
    (pc.ports, pc.mmio, pc.nic, pc.switch) = (ports, mmio, restored, switch);
    pc.switch_sends(&frame(ADDRESS.0, 200));
    assert_eq!(pc.word(RX_RING + 16), OWN, "a paused adapter leaves memory alone");
    pc.nic.lock().start();
    pc.clock.poll_fds();
    assert_eq!(pc.word(RX_RING + 16) >> 16, 204);
}

#[test]
fn addresses_outside_of_memory_are_a_bus_error() {
    let mut pc = Pc::new();
    pc.start(0x600);
    pc.transmit(0, 1 << 29 | 1 << 30 | 100, 0xff00_0000);
    assert_eq!(pc.csr(5) & (1 << 13 | 1 << 15), 1 << 13 | 1 << 15);
    assert_eq!(pc.at_switch(), None);
}
