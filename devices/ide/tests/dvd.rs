//! DVD drives: the sequences of SeaBIOS (`cdrom.c`, `ata.c`), GRUB and Linux (`libata`, `sr`), and media that change.

mod pc;

use bulkhead_disk::{Disk, ErrorKind, RamDisk};
use bulkhead_ide::{DriveConfig, EjectError, Slot};
use pc::{BUS_MASTER, Drives, Pc, SlowDisk, expected, patterned};
use std::sync::Arc;

const BASE: u16 = 0x1f0;
const SLOT: Slot = Slot { channel: 0, drive: 1 };

fn drive(medium: Option<Arc<dyn Disk>>) -> Drives {
    [[None, Some(DriveConfig::Dvd(medium))], [None, None]]
}

fn cd() -> RamDisk {
    patterned(64 * 2048).read_only()
}

/// A drive whose first sense (power on) was fetched.
fn ready(medium: Option<Arc<dyn Disk>>) -> Pc {
    let mut pc = Pc::new(drive(medium));
    assert_eq!(pc.packet(0, 0, &[0]), 0x51);
    assert_eq!(sense(&mut pc), (6, 0x29, 0));
    pc.interrupts(0);
    pc
}

fn sense(pc: &mut Pc) -> (u8, u8, u8) {
    assert_eq!(pc.packet(0, 18, &[3, 0, 0, 0, 18, 0]), 0x58);
    let data = pc.insw(BASE, 18);
    assert_eq!(pc.status(BASE), 0x50);
    (data[2], data[12], data[13])
}

#[test]
fn identified_as_a_packet_device() {
    let mut pc = Pc::new(drive(None));
    pc.command(BASE, [0, 0, 0, 0, 0, 0xb0, 0xec]);
    assert_eq!((pc.status(BASE), pc.inb(BASE + 4), pc.inb(BASE + 5)), (0x51, 0x14, 0xeb));
    pc.command(BASE, [0, 0, 0, 0, 0, 0xb0, 0xa1]);
    pc.interrupts(0);
    assert_eq!(pc.status(BASE), 0x58);
    let data = pc.insw(BASE, 512);
    assert_eq!((data[0], data[1]), (0xc0, 0x85));
    // No second interrupt: only packets have one at their end.
    assert_eq!((pc.status(BASE), pc.interrupts(0)), (0x50, 0));
}

#[test]
fn reads_by_pio_in_blocks_of_the_byte_count() {
    let mut pc = ready(Some(Arc::new(cd())));
    assert_eq!(pc.packet(0, 8, &[0x25]), 0x58);
    assert_eq!(pc.insw(BASE, 8), [0, 0, 0, 63, 0, 0, 8, 0]);
    assert_eq!((pc.interrupts(0), pc.inb(BASE + 2), pc.status(BASE)), (2, 3, 0x50));
    // SeaBIOS: one block of 2048 bytes at a time.
    assert_eq!(pc.packet(0, 2048, &[0x28, 0, 0, 0, 0, 16, 0, 0, 2, 0]), 0x58);
    for block in 16..18 {
        assert_eq!([2, 4, 5].map(|port| pc.inb(BASE + port)), [2, 0, 8]);
        assert_eq!(pc.insw(BASE, 2048), expected(block * 2048..(block + 1) * 2048));
        assert_eq!(pc.inb(0x3f6), if block == 16 { 0x58 } else { 0x50 });
    }
    assert_eq!(pc.inb(BASE + 2), 3);
    // An odd limit; the last block is shorter.
    assert_eq!(pc.packet(0, 1501, &[0x28, 0, 0, 0, 0, 1, 0, 0, 1, 0]), 0x58);
    let mut data = pc.insw(BASE, 1500);
    assert_eq!((pc.inb(BASE + 4), pc.inb(BASE + 5)), (0x24, 2));
    data.extend(pc.insw(BASE, 548));
    assert_eq!((data, pc.status(BASE)), (expected(2048..4096), 0x50));
}

#[test]
fn reads_by_dma() {
    let mut pc = ready(Some(Arc::new(cd())));
    pc.table(&[(0x1_0000, 0x8000)], true);
    pc.packet(1, 0, &[0xa8, 0, 0, 0, 0, 32, 0, 0, 0, 16, 0, 0]);
    pc.start_bus_master();
    pc.run();
    assert_eq!((pc.inb(BUS_MASTER + 2), pc.inb(BASE + 2), pc.status(BASE)), (4, 3, 0x50));
    let mut data = vec![0; 0x8000];
    pc.memory.read(0x1_0000, &mut data).unwrap();
    assert_eq!(data, expected(32 * 2048..48 * 2048));
    // Shorter data than the table: INQUIRY.
    pc.table(&[(0x2_0000, 96)], true);
    pc.packet(1, 0, &[0x12, 0, 0, 0, 96, 0]);
    pc.start_bus_master();
    pc.run();
    assert_eq!((pc.inb(BUS_MASTER + 2) & 6, pc.status(BASE)), (4, 0x50));
    assert_eq!(pc.memory.read_array::<8>(0x2_0008).unwrap(), *b"Msft    ");
}

#[test]
fn media_come_and_go() {
    let mut pc = ready(None);
    assert_eq!((pc.packet(0, 0, &[0]), pc.inb(BASE + 1)), (0x51, 0x24));
    assert_eq!(sense(&mut pc), (2, 0x3a, 1));
    pc.ide.lock().insert(SLOT, Arc::new(cd()), false).unwrap();
    assert_eq!(pc.packet(0, 0, &[0]), 0x51);
    assert_eq!(sense(&mut pc), (6, 0x28, 0));
    assert_eq!(pc.packet(0, 0, &[0]), 0x50);
    // The guest locks the tray.
    assert_eq!(pc.packet(0, 0, &[0x1e, 0, 0, 0, 1]), 0x50);
    assert_eq!(pc.ide.lock().eject(SLOT, false).err(), Some(EjectError::Locked(SLOT)));
    assert_eq!(pc.packet(0, 8, &[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8]), 0x58);
    assert_eq!(pc.insw(BASE, 8)[4..6], [1, 2]);
    pc.packet(0, 0, &[0x1e]);
    assert!(pc.ide.lock().eject(SLOT, false).unwrap().is_some());
    assert_eq!(pc.packet(0, 0, &[0]), 0x51);
    assert_eq!(sense(&mut pc), (2, 0x3a, 1));
    let no_drive = Slot { channel: 1, drive: 1 };
    assert_eq!(pc.ide.lock().eject(no_drive, true).err(), Some(EjectError::NoDvdDrive(no_drive)));
}

#[test]
fn a_medium_taken_out_during_a_read() {
    let disk = SlowDisk::new(patterned(1 << 20));
    let mut pc = ready(Some(disk.clone()));
    // 128 KiB are two chunks.
    pc.packet(0, 0xfffe, &[0x28, 0, 0, 0, 0, 0, 0, 0, 64, 0]);
    disk.answer();
    pc.run();
    pc.ide.lock().eject(SLOT, true).unwrap();
    let mut data = pc.insw(BASE, 0xfffe);
    data.extend(pc.insw(BASE, 2));
    assert_eq!(data, expected(0..65536));
    assert_eq!(pc.status(BASE), 0x51);
    assert_eq!(sense(&mut pc), (2, 0x3a, 1));
}

#[test]
fn errors_have_a_sense_and_a_device_reset_helps() {
    let disk = SlowDisk::new(cd());
    let mut pc = ready(Some(disk.clone()));
    pc.packet(0, 2048, &[0x28, 0, 0, 0, 0, 1, 0, 0, 1, 0]);
    disk.fail(ErrorKind::Io);
    assert_eq!((pc.status(BASE), pc.inb(BASE + 1)), (0x51, 0x34));
    assert_eq!(sense(&mut pc), (3, 0x11, 0));
    assert_eq!(pc.packet(0, 2048, &[0x28, 0, 0, 0, 0, 1, 0, 0, 1, 0]), 0x80);
    pc.outb(BASE + 7, 8);
    assert_eq!(pc.status(BASE), 0x80);
    disk.answer();
    assert_eq!((pc.status(BASE), pc.inb(BASE + 4), pc.inb(BASE + 5)), (0, 0x14, 0xeb));
}

#[test]
fn saved_in_the_middle_of_a_packet_and_of_data() {
    let medium: Arc<dyn Disk> = Arc::new(cd());
    let pc = ready(Some(medium.clone()));
    pc.command(BASE, [0, 0, 0, 0, 8, 0xb0, 0xa0]);
    pc.outsw(BASE, &[0x28, 0, 0, 0, 0, 3]);
    let mut pc = pc.resumed(drive(Some(medium.clone())));
    pc.outsw(BASE, &[0, 0, 2, 0, 0, 0]);
    assert_eq!(pc.status(BASE), 0x58);
    let mut data = pc.insw(BASE, 1000);
    assert_eq!(pc.inb(0x3f6), 0x58);
    let mut pc = pc.resumed(drive(Some(medium)));
    data.extend(pc.insw(BASE, 3096));
    assert_eq!((data, pc.status(BASE)), (expected(3 * 2048..5 * 2048), 0x50));
}
