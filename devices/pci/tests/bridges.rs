//! The bridges as SeaBIOS and Linux use them.

use bulkhead_device::{Device, Line, LineInput, PciAddress, PciBus, PciFunction, PortBus, PowerRequest, PowerSink};
use bulkhead_pci::{ConfigPorts, HostBridge, IsaBridge, MemoryWindows, PciInterrupts, SegmentAccess};
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::Arc;

#[derive(Default)]
struct Board {
    changes: Mutex<Vec<(Range<u64>, bool, bool)>>,
    smram: Mutex<Vec<bool>>,
    power: Mutex<Vec<PowerRequest>>,
}

impl MemoryWindows for Board {
    fn set_segment(&self, segment: Range<u64>, access: SegmentAccess) {
        self.changes.lock().push((segment, access.read_ram, access.write_ram));
    }
    fn set_smram(&self, open: bool) {
        self.smram.lock().push(open);
    }
}

impl PowerSink for Board {
    fn request(&self, request: PowerRequest) {
        self.power.lock().push(request);
    }
}

struct Pc {
    ports: PortBus,
    board: Arc<Board>,
    host: Arc<Mutex<HostBridge>>,
    _config: Arc<Mutex<ConfigPorts>>,
}

impl Pc {
    fn new() -> Pc {
        let (ports, pci, board) = (PortBus::new(), PciBus::new(), Arc::new(Board::default()));
        let config = Arc::new(Mutex::new(ConfigPorts::new("pci", &pci, board.clone())));
        ports.map(0xcf8..=0xcff, &config, 0).unwrap();
        let host = Arc::new(Mutex::new(HostBridge::new("host", board.clone())));
        pci.add(PciAddress { device: 0, function: 0 }, &host).unwrap();
        Pc { ports, board, host, _config: config }
    }
    fn select(&self, device: u32, register: u32) {
        self.ports.write(0xcf8, 4, 0x8000_0000 | device << 11 | register & 0xfc);
    }
    fn write8(&self, register: u32, value: u8) {
        self.select(0, register);
        self.ports.write(0xcfc + (register & 3) as u16, 1, value.into());
    }
    fn read8(&self, register: u32) -> u8 {
        self.select(0, register);
        self.ports.read(0xcfc + (register & 3) as u16, 1) as u8
    }
}

/// pci_check_type1 of Linux, and the identities.
#[test]
fn mechanism_1_is_found() {
    let pc = Pc::new();
    pc.ports.write(0xcfb, 1, 1);
    pc.ports.write(0xcf8, 4, 0x8000_0000);
    assert_eq!(pc.ports.read(0xcf8, 4), 0x8000_0000);
    assert_eq!(pc.ports.read(0xcfc, 4), 0x1237_8086);
    assert_eq!((pc.ports.read(0xcfe, 2), pc.ports.read(0xcfc, 1)), (0x1237, 0x86));
    pc.select(0, 0x0a);
    assert_eq!(pc.ports.read(0xcfe, 2), 0x0600, "host bridge");
    pc.select(5, 0);
    assert_eq!(pc.ports.read(0xcfc, 2), 0xffff);
    pc.ports.write(0xcf8, 4, 0x8001_0000);
    assert_eq!(pc.ports.read(0xcfc, 4), u32::MAX, "no other bus");
    pc.ports.write(0xcf8, 4, 0);
    assert_eq!(pc.ports.read(0xcfc, 4), u32::MAX);
}

/// SeaBIOS: everything readable and writable, then F segment from ROM to RAM, then read-only.
#[test]
fn shadow_ram_follows_the_pam_registers() {
    let pc = Pc::new();
    for register in 0x5a..0x60 {
        pc.write8(register, 0x33);
    }
    pc.write8(0x59, 0x30);
    let changes = std::mem::take(&mut *pc.board.changes.lock());
    let mut expected: Vec<_> = (0..12u64).map(|index| (0xc_0000 + index * 0x4000, 0x4000)).collect();
    expected.push((0xf_0000, 0x1_0000));
    assert_eq!(changes, expected.iter().map(|(at, len)| (*at..at + len, true, true)).collect::<Vec<_>>());
    pc.write8(0x5a, 0x31);
    pc.write8(0x59, 0x10);
    pc.write8(0x59, 0x10);
    let changes = std::mem::take(&mut *pc.board.changes.lock());
    assert_eq!(changes, [(0xc_0000..0xc_4000, true, false), (0xf_0000..0x10_0000, true, false)]);
    let state = pc.host.lock().save().unwrap();
    let board = Arc::new(Board::default());
    HostBridge::restore("host", board.clone(), &state).unwrap();
    assert_eq!(board.changes.lock().len(), 13, "restored mappings are told");
    pc.host.lock().reset();
    assert_eq!(pc.board.changes.lock().iter().filter(|(_, read, write)| !read && !write).count(), 13);
    assert_eq!(pc.read8(0x5a), 0);
}

#[test]
fn smram_opens_until_it_is_locked() {
    let pc = Pc::new();
    assert_eq!(pc.read8(0x72), 0x02);
    pc.write8(0x72, 0x4a);
    pc.write8(0x72, 0x0a);
    pc.write8(0x72, 0x5a);
    assert_eq!(pc.read8(0x72), 0x1a);
    pc.write8(0x72, 0x4a);
    assert_eq!(pc.read8(0x72), 0x1a);
    assert_eq!(*pc.board.smram.lock(), [true, false]);
}

#[test]
fn reset_control_resets_at_a_rising_edge() {
    let pc = Pc::new();
    pc.ports.write(0xcf9, 1, 0x02);
    assert!(pc.board.power.lock().is_empty());
    pc.ports.write(0xcf9, 1, 0x06);
    assert_eq!(*pc.board.power.lock(), [PowerRequest::Reset]);
    assert_eq!(pc.ports.read(0xcf9, 1), 0x06);
}

struct Levels([bool; 16]);

impl LineInput for Levels {
    fn set_input(&mut self, input: u32, level: bool) {
        self.0[input as usize] = level;
    }
}

#[test]
fn pci_interrupts_follow_their_routes_and_share_them() {
    let levels = Arc::new(Mutex::new(Levels([false; 16])));
    let lines = |levels: &Arc<Mutex<Levels>>| std::array::from_fn(|irq| Line::new(levels.clone(), irq as u32));
    let isa = Arc::new(Mutex::new(IsaBridge::new("isa", lines(&levels))));
    let interrupts = PciInterrupts::new(&isa);
    let at = |device| PciAddress { device, function: 0 };
    // SeaBIOS: PIRQA and B to 10, C and D to 11; device 1 INTA is PIRQA.
    let routes = |isa: &mut IsaBridge, routes: [u8; 4]| {
        for (offset, route) in (0x60..).zip(routes) {
            isa.config_write(offset, 1, route.into());
        }
    };
    assert_eq!(
        (PciInterrupts::pirq(at(1), 1), PciInterrupts::pirq(at(3), 2), PciInterrupts::pirq(at(0), 1)),
        (0, 3, 3)
    );
    let (one, two, three) = (interrupts.line(at(1), 1), interrupts.line(at(5), 1), interrupts.line(at(3), 1));
    one.set(true);
    assert_eq!(levels.lock().0, [false; 16], "off after reset");
    routes(&mut isa.lock(), [10, 10, 11, 11]);
    assert!(levels.lock().0[10]);
    two.set(true);
    one.set(false);
    assert!(levels.lock().0[10], "the other one still asserts");
    two.set(false);
    assert!(!levels.lock().0[10]);
    three.set(true);
    assert!(levels.lock().0[11]);
    routes(&mut isa.lock(), [10, 10, 5, 0x80]);
    let now = levels.lock().0;
    assert_eq!((now[11], now[5]), (false, true));
    let state = isa.lock().save().unwrap();
    let restored_levels = Arc::new(Mutex::new(Levels([false; 16])));
    let restored = Arc::new(Mutex::new(IsaBridge::restore("isa", lines(&restored_levels), &state).unwrap()));
    PciInterrupts::new(&restored).line(at(3), 1).set(true);
    assert!(restored_levels.lock().0[5]);
    routes(&mut isa.lock(), [10, 10, 0, 0x80]);
    assert_eq!(levels.lock().0, [false; 16], "the timer's interrupt cannot be driven");
}
