//! Disks: the sequences of SeaBIOS (`ata.c`) and Linux (`libata`, `ata_piix`).

mod pc;

use bulkhead_device::{Device, QuiesceToken};
use bulkhead_disk::{Disk, DiskFacts, ErrorKind, RamDisk};
use bulkhead_ide::{DriveConfig, IdeController, IdeError, Slot, Wiring};
use pc::{BUS_MASTER, Drives, Pc, SlowDisk, bytes, expected, patterned};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

const BASE: u16 = 0x1f0;
const SIZE: u64 = 1 << 20;

fn disk(disk: &RamDisk) -> Drives {
    [[Some(DriveConfig::Disk(Arc::new(disk.clone()))), None], [None, None]]
}

fn slow(disk: &Arc<SlowDisk>) -> Drives {
    [[Some(DriveConfig::Disk(disk.clone())), None], [None, None]]
}

fn word(data: &[u8], index: usize) -> u16 {
    u16::from_le_bytes([data[2 * index], data[2 * index + 1]])
}

#[test]
fn seabios_finds_what_is_there() {
    let mut pc =
        Pc::new([[Some(DriveConfig::Disk(Arc::new(patterned(SIZE)))), Some(DriveConfig::Dvd(None))], [None, None]]);
    for (base, device, found) in [(0x1f0, 0xa0, true), (0x1f0, 0xb0, true), (0x170, 0xa0, false), (0x170, 0xb0, false)]
    {
        assert_eq!(pc.inb(base + 7) & 0x80, 0);
        pc.outb(base + 6, device);
        pc.outb(base + 2, 0x55);
        pc.outb(base + 3, 0xaa);
        let echoes = (pc.inb(base + 6), pc.inb(base + 2), pc.inb(base + 3)) == (device, 0x55, 0xaa);
        assert_eq!(echoes, found, "{base:#x} {device:#x}");
    }
    // Reset, with interrupts off; then the signatures.
    pc.outb(0x3f6, 0x0e);
    assert_eq!(pc.inb(0x3f6), 0x80);
    pc.outb(0x3f6, 0x0a);
    pc.outb(BASE + 6, 0xa0);
    let signature = |pc: &Pc| [2, 3, 4, 5].map(|port| pc.inb(BASE + port));
    assert_eq!((signature(&pc), pc.status(BASE)), ([1, 1, 0, 0], 0x50));
    pc.outb(BASE + 6, 0xb0);
    assert_eq!((signature(&pc), pc.status(BASE)), ([1, 1, 0x14, 0xeb], 0));
    assert_eq!(pc.interrupts(0), 0);
}

#[test]
fn identify_tells_size_geometry_and_features() {
    let facts = DiskFacts { discard_granularity: 4096, ..DiskFacts::plain(2 << 30, "raw") };
    let mut pc = Pc::new(disk(&RamDisk::with_facts(facts)));
    pc.command(BASE, [0, 0, 0, 0, 0, 0xa0, 0xec]);
    assert_eq!((pc.status(BASE), pc.interrupts(0)), (0x58, 1));
    let data = pc.insw(BASE, 512);
    assert_eq!((pc.status(BASE), pc.interrupts(0)), (0x50, 0));
    assert_eq!([1, 3, 6].map(|index| word(&data, index)), [4161, 16, 63]);
    assert_eq!((word(&data, 60), word(&data, 61)), (0, 0x40));
    assert_eq!([100, 101, 102, 103].map(|index| word(&data, index)), [0, 0x40, 0, 0]);
    assert_eq!(word(&data, 83) & 0xc400, 0x4400);
    assert_eq!((word(&data, 106), word(&data, 169)), (0x6003, 1));
    let model: Vec<u8> = data[54..94].chunks(2).flat_map(|pair| [pair[1], pair[0]]).collect();
    assert!(model.starts_with(b"Virtual HD   "));
    assert_eq!(data.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
    // A command for devices with packets is refused.
    pc.command(BASE, [0, 0, 0, 0, 0, 0xa0, 0xa1]);
    assert_eq!((pc.status(BASE), pc.inb(BASE + 1)), (0x51, 4));
}

#[test]
fn pio_reads_interrupt_once_a_block() {
    let mut pc = Pc::new(disk(&patterned(SIZE)));
    pc.command(BASE, [0, 3, 5, 0, 0, 0xe0, 0x20]);
    for sector in 5..8 {
        assert_eq!((pc.status(BASE), pc.interrupts(0)), (0x58, 1));
        assert_eq!(pc.insw(BASE, 512), expected(sector * 512..(sector + 1) * 512));
    }
    assert_eq!((pc.status(BASE), pc.interrupts(0)), (0x50, 0));
    assert_eq!(pc.insw(BASE, 4), [0xff; 4]);
    // Multiple: 16 sectors to a block; 256 sectors are two chunks from the disk.
    pc.command(BASE, [0, 16, 0, 0, 0, 0xe0, 0xc6]);
    assert_eq!(pc.status(BASE), 0x50);
    pc.interrupts(0);
    pc.command(BASE, [0, 0, 9, 0, 0, 0xe0, 0xc4]);
    for block in 0..16u64 {
        assert_eq!((pc.status(BASE), pc.interrupts(0)), (0x58, 1), "block {block}");
        let start = (9 + block * 16) * 512;
        assert_eq!(pc.insw(BASE, 8192), expected(start..start + 8192));
    }
    assert_eq!(pc.status(BASE), 0x50);
}

#[test]
fn chs_and_32_bit_reads() {
    let mut pc = Pc::new(disk(&patterned(SIZE)));
    // 30/4/17 by default; the guest may count with others.
    pc.command(BASE, [0, 1, 2, 1, 0, 0xa3, 0x20]);
    assert_eq!(pc.status(BASE), 0x58);
    let first = ((4 + 3) * 17 + 1) * 512;
    let mut data = vec![0; 512];
    pc.ports.read_string(BASE, 4, &mut data);
    assert_eq!(data, expected(first..first + 512));
    pc.command(BASE, [0, 63, 0, 0, 0, 0xaf, 0x91]);
    assert_eq!(pc.status(BASE), 0x50);
    pc.command(BASE, [0, 1, 1, 0, 0, 0xa2, 0x20]);
    pc.run();
    assert_eq!(pc.ports.read(BASE, 4).to_le_bytes(), *expected(2 * 63 * 512..2 * 63 * 512 + 4));
    // Sector 0 and head 17 are not.
    pc.command(BASE, [0, 1, 0, 0, 0, 0xa0, 0x20]);
    assert_eq!((pc.status(BASE), pc.inb(BASE + 1)), (0x51, 0x10));
}

#[test]
fn pio_writes_reach_the_disk() {
    let ram = patterned(SIZE);
    let mut pc = Pc::new(disk(&ram));
    pc.command(BASE, [0, 2, 100, 0, 0, 0xe0, 0x30]);
    assert_eq!((pc.status(BASE), pc.interrupts(0)), (0x58, 0));
    pc.outsw(BASE, &[1; 512]);
    assert_eq!((pc.status(BASE), pc.interrupts(0)), (0x58, 1));
    pc.outsw(BASE, &[2; 512]);
    assert_eq!((pc.status(BASE), pc.interrupts(0)), (0x50, 1));
    assert_eq!(bytes(&ram, 51200..52224), [[1; 512], [2; 512]].concat());
    // 200 sectors: two chunks.
    pc.command_ext(BASE, 0, 200, 1000, 0x34);
    for sector in 0..200 {
        assert_eq!(pc.status(BASE), 0x58);
        pc.outsw(BASE, &[sector as u8; 512]);
    }
    assert_eq!(pc.status(BASE), 0x50);
    let data = bytes(&ram, 512_000..512_000 + 200 * 512);
    assert!(data.chunks(512).zip(0..).all(|(sector, value)| sector.iter().all(|byte| *byte == value)));
    pc.command(BASE, [0, 0, 0, 0, 0, 0xe0, 0xe7]);
    assert_eq!(pc.status(BASE), 0x50);
}

#[test]
fn dma_reads_straight_into_scattered_ram() {
    let mut pc = Pc::new(disk(&patterned(SIZE)));
    pc.memory.dirty().enable();
    pc.table(&[(0x1_0002, 510), (0x2_0000, 0x1200), (0x3_0000, 2)], true);
    pc.command(BASE, [0, 10, 3, 0, 0, 0xe0, 0xc8]);
    assert_eq!(pc.inb(0x3f6), 0x58);
    pc.start_bus_master();
    pc.run();
    assert_eq!((pc.inb(BUS_MASTER + 2), pc.interrupts(0)), (0x04, 1));
    pc.outb(BUS_MASTER, 0);
    assert_eq!(pc.status(BASE), 0x50);
    let mut data = vec![0; 5120];
    pc.memory.read(0x1_0002, &mut data[..510]).unwrap();
    pc.memory.read(0x2_0000, &mut data[510..510 + 0x1200]).unwrap();
    pc.memory.read(0x3_0000, &mut data[510 + 0x1200..]).unwrap();
    assert_eq!(data, expected(1536..1536 + 5120));
    assert!(pc.memory.dirty().test(0x10) && pc.memory.dirty().test(0x20) && pc.memory.dirty().test(0x30));
}

#[test]
fn dma_writes_with_the_start_before_the_command() {
    let ram = patterned(SIZE);
    let mut pc = Pc::new(disk(&ram));
    pc.memory.fill(0x10_0000, 0x1_0000, 0x5a).unwrap();
    pc.table(&[(0x10_0000, 0)], false);
    pc.start_bus_master();
    pc.command_ext(BASE, 0, 128, 64, 0x35);
    assert_eq!((pc.status(BASE), pc.inb(BUS_MASTER + 2)), (0x50, 4));
    assert_eq!(bytes(&ram, 32768..98304), vec![0x5a; 65536]);
    assert_eq!(bytes(&ram, 98304..98305 + 511), expected(98304..98816));
}

#[test]
fn tables_that_do_not_fit() {
    let mut pc = Pc::new(disk(&patterned(SIZE)));
    // Longer than the command: the interrupt, and still active.
    pc.table(&[(0x1_0000, 512), (0x1_0200, 512)], true);
    pc.command(BASE, [0, 1, 3, 0, 0, 0xe0, 0xc8]);
    pc.start_bus_master();
    pc.run();
    assert_eq!(pc.inb(BUS_MASTER + 2), 5);
    pc.status(BASE);
    // Shorter: no interrupt until a second table has brought the rest.
    pc.interrupts(0);
    pc.table(&[(0x1_0000, 1000)], true);
    pc.command(BASE, [0, 2, 7, 0, 0, 0xe0, 0xc8]);
    pc.start_bus_master();
    pc.run();
    assert_eq!((pc.inb(BUS_MASTER + 2), pc.interrupts(0), pc.inb(0x3f6)), (0, 0, 0x58));
    pc.table(&[(0x1_0200, 512)], true);
    pc.start_bus_master();
    pc.run();
    assert_eq!((pc.inb(BUS_MASTER + 2), pc.status(BASE)), (4, 0x50));
    let mut data = vec![0; 1024];
    pc.memory.read(0x1_0000, &mut data).unwrap();
    assert_eq!(data, expected(3584..4608));
    // Nowhere: an error of the bus, and the command is aborted.
    for regions in [&[(0xf000_0000, 512)][..], &[(0x1_0000, 256), (0x3f_ff00, 512)]] {
        pc.table(regions, true);
        pc.command(BASE, [0, 2, 7, 0, 0, 0xe0, 0xc8]);
        pc.start_bus_master();
        pc.run();
        assert_eq!((pc.inb(BUS_MASTER + 2) & 7, pc.status(BASE)), (6, 0x51));
    }
    // No bus mastering without permission.
    pc.pci.write(pc::IDE, 4, 2, 1);
    pc.table(&[(0x1_0000, 512)], true);
    pc.command(BASE, [0, 1, 9, 0, 0, 0xe0, 0xc8]);
    pc.start_bus_master();
    pc.run();
    assert_eq!(pc.inb(BUS_MASTER + 2), 1);
    pc.pci.write(pc::IDE, 4, 2, 5);
    pc.run();
    assert_eq!((pc.inb(BUS_MASTER + 2), pc.status(BASE)), (4, 0x50));
}

#[test]
fn linux_sets_up_and_trims() {
    let ram = patterned(SIZE);
    let mut pc = Pc::new(disk(&ram));
    for regs in [[3, 0x45, 0, 0, 0, 0xa0, 0xef], [2, 0, 0, 0, 0, 0xa0, 0xef], [0, 0, 0, 0, 0, 0xa0, 0xe1]] {
        pc.command(BASE, regs);
        assert_eq!(pc.status(BASE), 0x50);
    }
    for refused in [
        [3, 0x77, 0, 0, 0, 0xa0, 0xef],
        [0, 0, 0, 0, 0, 0xa0, 0xf1],
        [0, 0, 0, 0, 0, 0xa0, 0],
        [0xd0, 0, 0, 0, 0, 0xa0, 0xb0],
    ] {
        pc.command(BASE, refused);
        assert_eq!((pc.status(BASE), pc.inb(BASE + 1)), (0x51, 4));
    }
    pc.command(BASE, [0xda, 0, 0, 0x4f, 0xc2, 0xa0, 0xb0]);
    assert_eq!((pc.status(BASE), pc.inb(BASE + 4), pc.inb(BASE + 5)), (0x50, 0x4f, 0xc2));
    pc.command(BASE, [0, 0, 0, 0, 0, 0xa0, 0xe5]);
    assert_eq!((pc.status(BASE), pc.inb(BASE + 2)), (0x50, 0xff));
    pc.command(BASE, [0, 0, 0, 0, 0, 0xe0, 0xf8]);
    assert_eq!((pc.status(BASE), [3, 4, 5].map(|port| pc.inb(BASE + port))), (0x50, [0xff, 7, 0]));
    let mut list = vec![0; 512];
    for (place, (first, count)) in [(16u64, 8u64), (24, 8), (1000, 16)].into_iter().enumerate() {
        list[place * 8..place * 8 + 8].copy_from_slice(&(first | count << 48).to_le_bytes());
    }
    pc.memory.write(0x1_0000, &list).unwrap();
    pc.table(&[(0x1_0000, 512)], false);
    pc.command_ext(BASE, 1, 1, 0, 0x06);
    pc.start_bus_master();
    pc.run();
    assert_eq!((pc.inb(BUS_MASTER + 2), pc.status(BASE)), (4, 0x50));
    assert_eq!(bytes(&ram, 8192..16384), vec![0; 8192]);
    assert_eq!(bytes(&ram, 7680..8192), expected(7680..8192));
}

#[test]
fn registers_are_two_deep_for_48_bits() {
    let pc = Pc::new(disk(&patterned(SIZE)));
    for value in [0x12, 0x34] {
        pc.outb(BASE + 3, value);
    }
    assert_eq!(pc.inb(BASE + 3), 0x34);
    pc.outb(0x3f6, 0x80);
    assert_eq!(pc.inb(BASE + 3), 0x12);
    pc.outb(BASE + 4, 0);
    assert_eq!(pc.inb(BASE + 3), 0x34);
}

#[test]
fn errors_reach_the_guest() {
    let slow_disk = SlowDisk::new(patterned(SIZE));
    let mut pc = Pc::new(slow(&slow_disk));
    // Past the end.
    pc.command(BASE, [0, 2, 0xff, 7, 0, 0xe0, 0x20]);
    assert_eq!((pc.status(BASE), pc.inb(BASE + 1)), (0x51, 0x10));
    pc.command(BASE, [0, 1, 77, 0, 0, 0xe0, 0x20]);
    slow_disk.fail(ErrorKind::Io);
    assert_eq!((pc.status(BASE), pc.inb(BASE + 1), pc.inb(BASE + 3)), (0x51, 0x40, 77));
    pc.table(&[(0x1_0000, 512)], false);
    pc.command(BASE, [0, 1, 78, 0, 0, 0xe0, 0xca]);
    pc.start_bus_master();
    slow_disk.fail(ErrorKind::NoSpace);
    pc.run();
    assert_eq!((pc.inb(BUS_MASTER + 2), pc.status(BASE), pc.inb(BASE + 1)), (4, 0x51, 4));
    let mut read_only = Pc::new(disk(&patterned(SIZE).read_only()));
    read_only.command(BASE, [0, 1, 0, 0, 0, 0xe0, 0x30]);
    assert_eq!((read_only.status(BASE), read_only.inb(BASE + 1)), (0x51, 4));
}

#[test]
fn a_reset_waits_for_the_disk() {
    let slow_disk = SlowDisk::new(patterned(SIZE));
    let mut pc = Pc::new(slow(&slow_disk));
    pc.table(&[(0x1_0000, 512)], true);
    pc.command(BASE, [0, 1, 3, 0, 0, 0xe0, 0xc8]);
    pc.start_bus_master();
    pc.outb(0x3f6, 4);
    pc.outb(0x3f6, 0);
    pc.outb(BUS_MASTER, 0);
    assert_eq!((pc.status(BASE), slow_disk.waiting()), (0x80, 1));
    // Busy drives do not listen.
    pc.command(BASE, [0, 1, 3, 0, 0, 0xe0, 0xec]);
    assert_eq!(pc.status(BASE), 0x80);
    slow_disk.answer();
    assert_eq!((pc.status(BASE), pc.inb(BASE + 1), pc.interrupts(0)), (0x50, 1, 0));
}

#[test]
fn pausing_waits_for_the_disk() {
    let slow_disk = SlowDisk::new(patterned(SIZE));
    let mut pc = Pc::new(slow(&slow_disk));
    pc.command(BASE, [0, 1, 3, 0, 0, 0xe0, 0x20]);
    let quiet = Arc::new(AtomicBool::new(false));
    let told = quiet.clone();
    let token = QuiesceToken::new(move || told.store(true, SeqCst));
    pc.ide.lock().pause(token);
    pc.run();
    assert!(!quiet.load(SeqCst));
    slow_disk.answer();
    pc.run();
    assert!(quiet.load(SeqCst));
    // What arrived before the pause is read after the resume.
    let mut pc = pc.resumed(slow(&slow_disk));
    assert_eq!(pc.status(BASE), 0x58);
    assert_eq!(pc.insw(BASE, 512), expected(1536..2048));
}

#[test]
fn saved_in_the_middle_of_transfers() {
    let ram = patterned(SIZE);
    let mut pc = Pc::new(disk(&ram));
    pc.command(BASE, [0, 200, 0, 0, 0, 0xe0, 0x20]);
    pc.run();
    let mut data = pc.insw(BASE, 700);
    let mut pc = pc.resumed(disk(&ram));
    for _ in 0..199 {
        let len = 512 - data.len() % 512;
        assert_eq!(pc.status(BASE), 0x58);
        data.extend(pc.insw(BASE, len));
    }
    assert_eq!(data, expected(0..200 * 512));
    // A write, in the middle of a word stream.
    pc.command(BASE, [0, 2, 8, 0, 0, 0xe0, 0x30]);
    pc.outsw(BASE, &[0x77; 514]);
    let mut pc = pc.resumed(disk(&ram));
    pc.outsw(BASE, &[0x77; 510]);
    assert_eq!(pc.status(BASE), 0x50);
    assert_eq!(bytes(&ram, 4096..5120), [0x77; 1024]);
    // DMA that waits for the bus master, whose BAR and table are saved too.
    pc.table(&[(0x1_0000, 512)], true);
    pc.command(BASE, [0, 1, 3, 0, 0, 0xe0, 0xc8]);
    let mut pc = pc.resumed(disk(&ram));
    pc.start_bus_master();
    pc.run();
    assert_eq!((pc.inb(BUS_MASTER + 2), pc.interrupts(0), pc.status(BASE)), (4, 1, 0x50));
    assert_eq!(pc.memory.read_array::<4>(0x1_0000).unwrap(), *expected(1536..1540));
}

#[test]
fn drives_that_do_not_fit_are_refused() {
    let big = RamDisk::with_facts(DiskFacts { logical_sector: 4096, ..DiskFacts::plain(SIZE, "vhdx") });
    let pc = Pc::new([[None, None], [None, None]]);
    let wiring = || Wiring {
        reactor: pc.clock.handle(),
        memory: pc.memory.clone(),
        ports: bulkhead_device::PortBus::new(),
        irqs: [bulkhead_device::Line::unconnected(), bulkhead_device::Line::unconnected()],
    };
    let error = IdeController::new("ide0", wiring(), disk(&big)).err().unwrap();
    assert!(matches!(error, IdeError::SectorSize { slot: Slot { channel: 0, drive: 0 }, sector: 4096 }));
    let saved = pc.ide.lock().save().unwrap();
    let error = IdeController::restored("ide0", wiring(), disk(&patterned(SIZE)), &saved).err().unwrap();
    assert!(matches!(error, IdeError::OtherDrives { channel: 0, .. }), "{error}");
    assert_eq!(Disk::facts(&big).logical_sector, 4096);
}
