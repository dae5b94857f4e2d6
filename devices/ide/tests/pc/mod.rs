//! A little PC around a controller: ports, RAM, interrupt counters, and a disk that answers when it is told to.
#![allow(dead_code, reason = "each test file uses a part of it")]

use bulkhead_device::{Line, LineSink, PciAddress, PciBus, PortBus};
use bulkhead_disk::{Completion, Disk, DiskError, DiskFacts, Done, ErrorKind, RamDisk, Request, StatusDone};
use bulkhead_guest_memory::GuestMemory;
use bulkhead_ide::{DriveConfig, IdeController, Wiring};
use bulkhead_reactor::{Time, VirtualReactor};
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

pub type Drives = [[Option<DriveConfig>; 2]; 2];
pub const IDE: PciAddress = PciAddress { device: 1, function: 1 };
/// Where BAR 4 is placed.
pub const BUS_MASTER: u16 = 0xc000;
/// Where the table of regions is.
pub const TABLE: u32 = 0x8000;

/// Counts rising edges.
#[derive(Default)]
pub struct Edges(AtomicU32);

impl LineSink for Edges {
    fn set_input(&self, _input: u32, level: bool) {
        self.0.fetch_add(level.into(), SeqCst);
    }
}

pub struct Pc {
    pub clock: VirtualReactor,
    pub ports: PortBus,
    pub pci: PciBus,
    pub memory: GuestMemory,
    pub edges: [Arc<Edges>; 2],
    pub ide: Arc<Mutex<IdeController>>,
}

impl Pc {
    pub fn new(drives: Drives) -> Pc {
        let memory = GuestMemory::builder().anonymous(0, 4 << 20).build().unwrap();
        let pc = Pc::build(memory, |wiring| IdeController::new("ide0", wiring, drives).unwrap());
        // As SeaBIOS: BAR 4, then ports and bus master.
        pc.pci.write(IDE, 0x20, 4, BUS_MASTER.into());
        pc.pci.write(IDE, 0x04, 2, 5);
        pc
    }

    fn build(memory: GuestMemory, make: impl FnOnce(Wiring) -> Arc<Mutex<IdeController>>) -> Pc {
        let (clock, reactor) = VirtualReactor::new(Time::ZERO, 1).unwrap();
        let (ports, pci) = (PortBus::new(), PciBus::new());
        let edges = [Arc::new(Edges::default()), Arc::new(Edges::default())];
        let irqs = [Line::new(edges[0].clone(), 14), Line::new(edges[1].clone(), 15)];
        let ide = make(Wiring { reactor, memory: memory.clone(), ports: ports.clone(), irqs });
        pci.add(IDE, &ide).unwrap();
        Pc { clock, ports, pci, memory, edges, ide }
    }

    /// The same PC after save and resume.
    pub fn resumed(self, drives: Drives) -> Pc {
        use bulkhead_device::Device;
        let saved = self.ide.lock().save().unwrap();
        let memory = self.memory.clone();
        drop(self);
        Pc::build(memory, |wiring| IdeController::restored("ide0", wiring, drives, &saved).unwrap())
    }

    pub fn run(&mut self) {
        self.clock.run_posted();
    }

    /// Interrupts since the last call.
    pub fn interrupts(&self, channel: usize) -> u32 {
        self.edges[channel].0.swap(0, SeqCst)
    }

    pub fn inb(&self, port: u16) -> u8 {
        self.ports.read(port, 1) as u8
    }

    pub fn outb(&self, port: u16, value: u8) {
        self.ports.write(port, 1, value.into());
    }

    /// Features, count, LBA low, mid, high, device, command.
    pub fn command(&self, base: u16, regs: [u8; 7]) {
        self.outb(base + 6, regs[5]);
        for (value, port) in regs[..5].iter().zip(base + 1..) {
            self.outb(port, *value);
        }
        self.outb(base + 7, regs[6]);
    }

    /// A 48-bit command on device 0.
    pub fn command_ext(&self, base: u16, feature: u16, count: u16, lba: u64, code: u8) {
        let lba = lba.to_le_bytes();
        self.outb(base + 6, 0xe0);
        for (port, high, low) in [
            (1, (feature >> 8) as u8, feature as u8),
            (2, (count >> 8) as u8, count as u8),
            (3, lba[3], lba[0]),
            (4, lba[4], lba[1]),
            (5, lba[5], lba[2]),
        ] {
            self.outb(base + port, high);
            self.outb(base + port, low);
        }
        self.outb(base + 7, code);
    }

    /// Lets the disk answer, then gives the status, which takes back the interrupt.
    pub fn status(&mut self, base: u16) -> u8 {
        self.run();
        self.inb(base + 7)
    }

    pub fn insw(&self, base: u16, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.ports.read_string(base, 2, &mut data);
        data
    }

    pub fn outsw(&self, base: u16, data: &[u8]) {
        self.ports.write_string(base, 2, data);
    }

    /// A packet to device 1 of the primary channel: features and byte count, then the bytes.
    pub fn packet(&mut self, features: u8, limit: u16, cdb: &[u8]) -> u8 {
        let [low, high] = limit.to_le_bytes();
        self.command(0x1f0, [features, 0, 0, low, high, 0xb0, 0xa0]);
        assert_eq!((self.inb(0x3f6) & 0x88, self.inb(0x1f2)), (0x08, 1));
        let mut bytes = [0; 12];
        bytes[..cdb.len()].copy_from_slice(cdb);
        self.outsw(0x1f0, &bytes);
        self.status(0x1f0)
    }

    /// Writes a table of regions, points the bus master of the primary channel at it and clears its status.
    pub fn table(&self, regions: &[(u32, u32)], to_memory: bool) {
        for (index, (base, len)) in regions.iter().enumerate() {
            let last = u64::from(index + 1 == regions.len()) << 63;
            let entry = u64::from(*base) | u64::from(*len & 0xffff) << 32 | last;
            self.memory.write_u64(u64::from(TABLE) + index as u64 * 8, entry).unwrap();
        }
        self.ports.write(BUS_MASTER + 4, 4, TABLE);
        self.outb(BUS_MASTER, if to_memory { 8 } else { 0 });
        self.outb(BUS_MASTER + 2, 6);
    }

    pub fn start_bus_master(&self) {
        self.outb(BUS_MASTER, self.inb(BUS_MASTER) | 1);
    }
}

/// A disk whose byte n is a function of n.
pub fn patterned(size: u64) -> RamDisk {
    let disk = RamDisk::new(size);
    for offset in (0..size).step_by(1 << 16) {
        let len = (size - offset).min(1 << 16);
        let data: Vec<u8> = (offset..offset + len).map(pattern).collect();
        let buffer = data.into();
        disk.execute(Request::Write { offset, buffer, fua: false }).result.unwrap();
    }
    disk
}

pub fn pattern(at: u64) -> u8 {
    (at / 512 * 7 + at) as u8
}

pub fn bytes(disk: &RamDisk, range: Range<u64>) -> Vec<u8> {
    let buffer = bulkhead_disk::Buffer::zeroed((range.end - range.start) as usize);
    let completion = disk.execute(Request::Read { offset: range.start, buffer });
    completion.into_result().unwrap().to_vec()
}

pub fn expected(range: Range<u64>) -> Vec<u8> {
    range.map(pattern).collect()
}

/// Keeps requests until told.
pub struct SlowDisk {
    pub disk: RamDisk,
    waiting: Mutex<Vec<(Request, Done)>>,
}

impl SlowDisk {
    pub fn new(disk: RamDisk) -> Arc<SlowDisk> {
        Arc::new(SlowDisk { disk, waiting: Mutex::default() })
    }

    pub fn waiting(&self) -> usize {
        self.waiting.lock().len()
    }

    pub fn answer(&self) {
        for (request, done) in std::mem::take(&mut *self.waiting.lock()) {
            done(self.disk.execute(request));
        }
    }

    pub fn fail(&self, kind: ErrorKind) {
        for (request, done) in std::mem::take(&mut *self.waiting.lock()) {
            done(Completion::failed(DiskError::new(kind, "serve", "the test says so"), request.into_buffer()));
        }
    }
}

impl Disk for SlowDisk {
    fn facts(&self) -> DiskFacts {
        Disk::facts(&self.disk)
    }

    fn submit(&self, request: Request, done: Done) {
        self.waiting.lock().push((request, done));
    }

    fn submit_status(&self, range: Range<u64>, done: StatusDone) {
        self.disk.submit_status(range, done);
    }
}
