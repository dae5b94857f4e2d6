//! The sequences of SeaBIOS (`floppy.c`) and Linux (`floppy.c`).

use bulkhead_device::{Device, Line, LineSink, PortBus};
use bulkhead_disk::{Buffer, Disk, RamDisk, Request};
use bulkhead_floppy::{DmaController, FloppyController, FloppyError, MediumError, Wiring};
use bulkhead_guest_memory::GuestMemory;
use bulkhead_reactor::{Time, VirtualReactor};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

const SIZE: u64 = 1_474_560;

type Drives = [Option<Option<Arc<dyn Disk>>>; 2];

#[derive(Default)]
struct Edges(AtomicU32);

impl LineSink for Edges {
    fn set_input(&self, _input: u32, level: bool) {
        self.0.fetch_add(level.into(), SeqCst);
    }
}

struct Pc {
    clock: VirtualReactor,
    memory: GuestMemory,
    ports: PortBus,
    edges: Arc<Edges>,
    dma: Arc<Mutex<DmaController>>,
    floppy: Arc<Mutex<FloppyController>>,
}

impl Pc {
    fn new(drives: Drives) -> Pc {
        let memory = GuestMemory::builder().anonymous(0, 1 << 20).build().unwrap();
        let ports = PortBus::new();
        let dma = DmaController::new("dma0", memory.clone(), &ports).unwrap();
        Pc::build(memory, ports, dma, |wiring| FloppyController::new("floppy0", wiring, drives).unwrap())
    }

    fn build(
        memory: GuestMemory,
        ports: PortBus,
        dma: Arc<Mutex<DmaController>>,
        make: impl FnOnce(Wiring) -> Arc<Mutex<FloppyController>>,
    ) -> Pc {
        let (clock, reactor) = VirtualReactor::new(Time::ZERO, 1).unwrap();
        let edges = Arc::new(Edges::default());
        let irq = Line::new(edges.clone(), 6);
        let floppy = make(Wiring { reactor, ports: ports.clone(), irq, dma: dma.clone() });
        Pc { clock, memory, ports, edges, dma, floppy }
    }

    fn resumed(self, drives: Drives) -> Pc {
        let saved_dma = self.dma.lock().save().unwrap();
        let saved = self.floppy.lock().save().unwrap();
        let (memory, ports) = (self.memory.clone(), PortBus::new());
        let dma = DmaController::restored("dma0", memory.clone(), &ports, &saved_dma).unwrap();
        Pc::build(memory, ports, dma, |wiring| FloppyController::restored("floppy0", wiring, drives, &saved).unwrap())
    }

    fn inb(&self, port: u16) -> u8 {
        self.ports.read(port, 1) as u8
    }

    fn outb(&self, port: u16, value: u8) {
        self.ports.write(port, 1, value.into());
    }

    fn interrupts(&self) -> u32 {
        self.edges.0.swap(0, SeqCst)
    }

    /// Sends a command as drivers do: looks at the status before each byte.
    fn command(&mut self, bytes: &[u8]) {
        for byte in bytes {
            assert_eq!(self.inb(0x3f4) & 0xc0, 0x80);
            self.outb(0x3f5, *byte);
        }
        self.clock.run_posted();
    }

    fn result(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.inb(0x3f4) & 0xc0 == 0xc0 {
            bytes.push(self.inb(0x3f5));
        }
        bytes
    }

    fn answer(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.command(bytes);
        self.result()
    }

    /// Reset, as SeaBIOS does it.
    fn start(&mut self) {
        self.outb(0x3f2, 0x08);
        assert_eq!(self.inb(0x3f4), 0);
        self.outb(0x3f2, 0x0c);
        assert_eq!(self.interrupts(), 1);
        for drive in 0..4 {
            assert_eq!(self.answer(&[8]), [0xc0 | drive, 0]);
        }
        assert_eq!(self.answer(&[8]), [0x80]);
        self.outb(0x3f2, 0x1c);
        self.outb(0x3f7, 0);
        self.command(&[3, 0xaf, 2]);
        self.command(&[7, 0]);
        assert_eq!((self.interrupts(), self.answer(&[8])), (1, vec![0x20, 0]));
    }

    /// Channel 2: mode 46h to memory, 4Ah from memory.
    fn dma(&self, mode: u8, address: u32, len: u32) {
        let [a0, a1, page, _] = address.to_le_bytes();
        let [l0, l1, ..] = (len - 1).to_le_bytes();
        for (port, value) in
            [(0x0a, 6), (0x0c, 0), (0x0b, mode), (4, a0), (4, a1), (0x81, page), (0x0c, 0), (5, l0), (5, l1), (0x0a, 2)]
        {
            self.outb(port, value);
        }
    }

    fn memory_at(&self, at: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.memory.read(at, &mut data).unwrap();
        data
    }
}

fn patterned() -> RamDisk {
    let disk = RamDisk::new(SIZE);
    let data: Vec<u8> = (0..SIZE).map(pattern).collect();
    disk.execute(Request::Write { offset: 0, buffer: data.into(), fua: false }).result.unwrap();
    disk
}

fn pattern(at: u64) -> u8 {
    (at / 512 * 3 + at) as u8
}

fn sectors(first: u64, count: u64) -> Vec<u8> {
    (first * 512..(first + count) * 512).map(pattern).collect()
}

fn on_disk(disk: &RamDisk, first: u64, count: u64) -> Vec<u8> {
    let buffer = Buffer::zeroed(count as usize * 512);
    disk.execute(Request::Read { offset: first * 512, buffer }).into_result().unwrap().to_vec()
}

fn one(disk: &RamDisk) -> Drives {
    [Some(Some(Arc::new(disk.clone()))), None]
}

#[test]
fn reads_by_dma() {
    let mut pc = Pc::new(one(&patterned()));
    pc.start();
    pc.command(&[0x0f, 0, 3]);
    assert_eq!(pc.answer(&[8]), [0x20, 3]);
    pc.interrupts();
    pc.dma(0x46, 0x1_2000, 3 * 512);
    assert_eq!(pc.answer(&[0xe6, 4, 3, 1, 5, 2, 7, 0x1b, 0xff]), [0, 0, 0, 4, 0, 1, 2]);
    assert_eq!((pc.interrupts(), pc.inb(8) & 4), (1, 4));
    assert_eq!(pc.memory_at(0x1_2000, 3 * 512), sectors((3 * 2 + 1) * 18 + 4, 3));
    // The whole cylinder: both sides.
    pc.dma(0x46, 0x2_0000, 36 * 512);
    assert_eq!(pc.answer(&[0xe6, 0, 3, 0, 1, 2, 18, 0x1b, 0xff]), [0, 0, 0, 4, 0, 1, 2]);
    assert_eq!(pc.memory_at(0x2_0000, 36 * 512), sectors(108, 36));
    // Part of a sector, up to the end of a page of DMA.
    pc.dma(0x46, 0x3_ff00, 300);
    assert_eq!(pc.answer(&[0xe6, 0, 3, 0, 1, 2, 18, 0x1b, 0xff])[..2], [0, 0]);
    assert_eq!(pc.memory_at(0x3_ff00, 256), sectors(108, 1)[..256]);
    assert_eq!(pc.memory_at(0x3_0000, 45), [&sectors(108, 1)[256..300], &[0]].concat());
}

#[test]
fn writes_and_formats() {
    let disk = patterned();
    let mut pc = Pc::new(one(&disk));
    pc.start();
    pc.memory.fill(0x1_0000, 1024, 0x77).unwrap();
    pc.dma(0x4a, 0x1_0000, 1024);
    assert_eq!(pc.answer(&[0xc5, 0, 0, 0, 2, 2, 3, 0x1b, 0xff]), [4, 0, 0, 0, 1, 1, 2]);
    assert_eq!(on_disk(&disk, 1, 2), [0x77; 1024]);
    assert_eq!(on_disk(&disk, 3, 1), sectors(3, 1));
    let ids: Vec<u8> = (1..=18).flat_map(|sector| [0, 1, sector, 2]).collect();
    pc.memory.write(0x1_0000, &ids).unwrap();
    pc.dma(0x4a, 0x1_0000, 72);
    assert_eq!(pc.answer(&[0x4d, 4, 2, 18, 0x54, 0xf6])[..3], [4, 0, 0]);
    assert_eq!(on_disk(&disk, 18, 18), vec![0xf6; 18 * 512]);
    assert_eq!(on_disk(&disk, 36, 1), sectors(36, 1));
    // Write-protected.
    pc.floppy.lock().change_medium(0, Some(Arc::new(disk.read_only()))).unwrap();
    pc.dma(0x4a, 0x1_0000, 512);
    assert_eq!(pc.answer(&[0xc5, 0, 0, 0, 2, 2, 3, 0x1b, 0xff])[..3], [0x40, 2, 0]);
    assert_eq!(pc.answer(&[4, 0]), [0x78]);
}

#[test]
fn what_is_not_there_is_not_found() {
    let mut pc = Pc::new([Some(Some(Arc::new(patterned()))), Some(None)]);
    pc.start();
    pc.dma(0x46, 0x1_0000, 512);
    // Another cylinder than the head's, no such sector, another sector size, another rate, no medium.
    for bytes in [[0xe6, 0, 1, 0, 1, 2, 18, 0, 0], [0xe6, 0, 0, 0, 19, 2, 20, 0, 0], [0xe6, 0, 0, 0, 1, 3, 18, 0, 0]] {
        assert_eq!(pc.answer(&bytes)[..2], [0x40, 4]);
    }
    pc.outb(0x3f7, 2);
    assert_eq!(pc.answer(&[0x4a, 0])[..2], [0x40, 5]);
    pc.outb(0x3f7, 0);
    assert_eq!(pc.answer(&[0x4a, 0]), [0, 0, 0, 0, 0, 1, 2]);
    assert_eq!(pc.answer(&[0xe6, 1, 0, 0, 1, 2, 18, 0, 0])[..2], [0x41, 5]);
    // More than the track has, with one side only.
    pc.dma(0x46, 0x1_0000, 1024);
    assert_eq!(pc.answer(&[0x66, 0, 0, 0, 18, 2, 18, 0, 0]), [0x40, 0x80, 0, 1, 0, 1, 2]);
    // DMA that nobody set up.
    pc.outb(0x0a, 6);
    assert_eq!(pc.answer(&[0xe6, 0, 0, 0, 1, 2, 18, 0, 0])[..2], [0x40, 0x10]);
    // No drive.
    pc.command(&[7, 2]);
    assert_eq!(pc.answer(&[8]), [0x72, 0]);
}

#[test]
fn linux_asks_which_controller() {
    let mut pc = Pc::new(one(&patterned()));
    pc.start();
    assert_eq!(pc.answer(&[0x0e]).len(), 10);
    pc.command(&[0x13, 0, 0x1a, 0]);
    assert_eq!(pc.answer(&[0x10]), [0x90]);
    pc.command(&[0x12, 0]);
    assert_eq!(pc.answer(&[0x14]), [0]);
    // PART ID is of later ones.
    assert_eq!(pc.answer(&[0x18]), [0x80]);
    assert_eq!(pc.answer(&[0x94]), [0x10]);
    pc.outb(0x3f4, 0x80);
    assert_eq!(pc.answer(&[8]), [0x80]);
    assert_eq!(pc.answer(&[0x0e])[7..], [0x80, 0x1a, 0]);
}

#[test]
fn the_change_line_tells_of_a_new_medium() {
    let mut pc = Pc::new(one(&patterned()));
    pc.outb(0x3f2, 0x1c);
    assert_eq!(pc.inb(0x3f7) & 0x80, 0x80);
    pc.start();
    assert_eq!(pc.inb(0x3f7) & 0x80, 0);
    assert!(pc.floppy.lock().change_medium(0, None).unwrap().is_some());
    pc.command(&[7, 0]);
    assert_eq!((pc.inb(0x3f7) & 0x80, pc.answer(&[8])), (0x80, vec![0x20, 0]));
    pc.floppy.lock().change_medium(0, Some(Arc::new(patterned()))).unwrap();
    assert_eq!(pc.inb(0x3f7) & 0x80, 0x80);
    pc.command(&[0x0f, 0, 1]);
    assert_eq!(pc.inb(0x3f7) & 0x80, 0);
    let mut floppy = pc.floppy.lock();
    assert_eq!(floppy.change_medium(1, None).err(), Some(MediumError::NoDrive(1)));
    assert_eq!(floppy.change_medium(0, Some(Arc::new(RamDisk::new(4096)))).err(), Some(MediumError::Size(4096)));
    let error = FloppyError::Medium { name: "floppy0".into(), source: MediumError::Size(4096) };
    assert!(error.to_string().contains("floppy0"));
}

#[test]
fn without_dma_and_saved_in_the_middle() {
    let disk = patterned();
    let mut pc = Pc::new(one(&disk));
    pc.start();
    pc.command(&[3, 0xaf, 3]);
    pc.interrupts();
    pc.command(&[0x46, 0, 0, 0, 17, 2, 18, 0x1b, 0xff]);
    assert_eq!((pc.interrupts(), pc.inb(0x3f4)), (1, 0xf0));
    let mut data: Vec<u8> = (0..700).map(|_| pc.inb(0x3f5)).collect();
    let mut pc = pc.resumed(one(&disk));
    data.extend((0..324).map(|_| pc.inb(0x3f5)));
    assert_eq!(data, sectors(16, 2));
    // Without a terminal count the end of the track ends the command.
    assert_eq!(pc.result(), [0x40, 0x80, 0, 1, 0, 1, 2]);
    pc.command(&[0x45, 0, 0, 0, 18, 2, 18, 0x1b]);
    let mut pc = pc.resumed(one(&disk));
    pc.command(&[0xff]);
    assert_eq!(pc.inb(0x3f4), 0xb0);
    (0..512).for_each(|_| pc.outb(0x3f5, 0x99));
    pc.clock.run_posted();
    let first = pc.inb(0x3f5);
    let pc = pc.resumed(one(&disk));
    assert_eq!((first, pc.result()), (0x40, vec![0x80, 0, 1, 0, 1, 2]));
    assert_eq!(on_disk(&disk, 17, 1), [0x99; 512]);
}

#[test]
fn dma_registers_read_back() {
    let pc = Pc::new([None, None]);
    pc.dma(0x46, 0x5_1234, 0x100);
    let word = |port| u16::from(pc.inb(port)) | u16::from(pc.inb(port)) << 8;
    assert_eq!((word(4), word(5), pc.inb(0x81), pc.inb(0x0f)), (0x1234, 0xff, 5, 0xfb));
    // Channel 5: every second port, its own page.
    for (port, value) in [(0xd8, 0), (0xc4, 0x78), (0xc4, 0x56), (0x8b, 0x12)] {
        pc.outb(port, value);
    }
    assert_eq!((word(0xc4), pc.inb(0x8b)), (0x5678, 0x12));
    pc.outb(0x0d, 0);
    assert_eq!(pc.inb(0x0f), 0xff);
}
