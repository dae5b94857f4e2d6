//! Random commands, compared with QEMU's controller on a copy of the same disk and disc.

mod pc;

use bulkhead_disk::RamDisk;
use bulkhead_ide::DriveConfig;
use bulkhead_qemu_oracle::{Choice, Log, Qemu};
use pc::{BUS_MASTER, Pc, TABLE, bytes, patterned};
use std::sync::Arc;

const BASE: u16 = 0x1f0;
const SECTORS: u32 = 1024;
/// Where DMA goes; in QEMU too.
const BUFFER: u32 = 0x1_0000;

struct Pair {
    qemu: Qemu,
    pc: Pc,
    log: Log,
}

impl Pair {
    fn out(&mut self, port: u16, size: u8, value: u32) {
        self.log.note(format!("out{size} {port:#x} {value:#x}"));
        self.qemu.port_write(port, size, value);
        self.pc.ports.write(port, size, value);
    }

    /// Waits for both and compares what is left of the status.
    fn status(&mut self) -> u8 {
        self.pc.run();
        // QEMU's disk answers in its own time.
        while self.qemu.port_read(0x3f6, 1) & 0x80 != 0 {}
        let (ours, qemu) = (self.pc.inb(BASE + 7), self.qemu.port_read(BASE + 7, 1) as u8);
        self.log.compare("BSY, DRQ, ERR".into(), (ours & 0x89).into(), (qemu & 0x89).into());
        if ours & 1 != 0 {
            let (ours, qemu) = (self.pc.inb(BASE + 1), self.qemu.port_read(BASE + 1, 1) as u8);
            // For an address that does not exist ours says so, QEMU only that it refuses.
            // Drives with packets put the sense key into the upper half; QEMU leaves out that the command was aborted.
            let packets = self.pc.inb(BASE + 6) & 0x10 != 0;
            let meaning = |bits: u8| match bits {
                _ if packets => bits & 0xf0,
                0x10 => 4,
                _ => bits & 0xf4,
            };
            self.log.compare("error".into(), meaning(ours).into(), meaning(qemu).into());
        }
        ours
    }

    fn command(&mut self, regs: [u8; 7]) -> u8 {
        self.out(BASE + 6, 1, regs[5].into());
        for (value, port) in regs[..5].iter().zip(BASE + 1..) {
            self.out(port, 1, (*value).into());
        }
        self.out(BASE + 7, 1, regs[6].into());
        self.status()
    }

    /// Moves data while both ask for it.
    fn move_data(&mut self, choice: &mut Choice, write: bool) {
        let mut status = self.status();
        // In words or pairs of words.
        let size = choice.of(&[2, 4, 4]);
        let mut sectors = 0;
        while status & 8 != 0 && sectors < 256 {
            for _ in 0..512 / u32::from(size) {
                if write {
                    let value = choice.number() & if size == 2 { 0xffff } else { u32::MAX };
                    self.qemu.port_write(BASE, size, value);
                    self.pc.ports.write(BASE, size, value);
                } else {
                    let (ours, qemu) = (self.pc.ports.read(BASE, size), self.qemu.port_read(BASE, size));
                    self.log.compare("data".into(), ours.into(), qemu.into());
                }
            }
            sectors += 1;
            status = self.status();
        }
    }

    fn dma(&mut self, to_memory: bool, len: u32) {
        let half = (len / 2) & !1;
        for (index, (base, count)) in [(BUFFER, half), (BUFFER + 0x8000, len - half)].into_iter().enumerate() {
            let entry = u64::from(base) | u64::from(count) << 32 | u64::from(index == 1) << 63;
            self.qemu.memory_write(u64::from(TABLE) + 8 * index as u64, 8, entry);
            self.pc.memory.write_u64(u64::from(TABLE) + 8 * index as u64, entry).unwrap();
        }
        self.out(BUS_MASTER + 4, 4, TABLE);
        self.out(BUS_MASTER, 1, u32::from(to_memory) * 8);
        self.out(BUS_MASTER + 2, 1, 6);
        self.out(BUS_MASTER, 1, (u32::from(to_memory) * 8) | 1);
        self.pc.run();
        while self.qemu.port_read(BUS_MASTER + 2, 1) & 4 == 0 {}
        let (ours, qemu) = (self.pc.inb(BUS_MASTER + 2), self.qemu.port_read(BUS_MASTER + 2, 1));
        self.log.compare("bus master status".into(), (ours & 7).into(), (qemu & 7).into());
        self.status();
        self.out(BUS_MASTER, 1, 0);
        for (base, count) in [(BUFFER, half), (BUFFER + 0x8000, len - half)] {
            for at in (0..count & !7).step_by(8) {
                let (ours, qemu) = (
                    self.pc.memory.read_u64((base + at).into()).unwrap(),
                    self.qemu.memory_read((base + at).into(), 8),
                );
                self.log.compare(format!("memory {:#x}", base + at), ours, qemu);
            }
        }
    }

    fn packet(&mut self, choice: &mut Choice, cdb: &[u8]) {
        let limit = choice.of(&[8u16, 512, 2048, 2046]).to_le_bytes();
        self.command([0, 0, 0, limit[0], limit[1], 0xb0, 0xa0]);
        let mut bytes = [0; 12];
        bytes[..cdb.len()].copy_from_slice(cdb);
        self.log.note(format!("packet {bytes:02x?}"));
        for pair in bytes.chunks_exact(2) {
            let word = u16::from_le_bytes([pair[0], pair[1]]).into();
            self.qemu.port_write(BASE, 2, word);
            self.pc.ports.write(BASE, 2, word);
        }
        let mut status = self.status();
        loop {
            let (ours, qemu) = (self.pc.inb(BASE + 2), self.qemu.port_read(BASE + 2, 1));
            self.log.compare("interrupt reason".into(), (ours & 3).into(), (qemu & 3).into());
            if status & 8 == 0 {
                return;
            }
            let count = [4, 5].map(|port| self.pc.inb(BASE + port));
            let qemu_count = [4, 5].map(|port| self.qemu.port_read(BASE + port, 1) as u8);
            let (count, qemu_count) = (u16::from_le_bytes(count), u16::from_le_bytes(qemu_count));
            self.log.compare("byte count".into(), count.into(), qemu_count.into());
            for _ in 0..count.div_ceil(2) {
                let (ours, qemu) = (self.pc.ports.read(BASE, 2), self.qemu.port_read(BASE, 2));
                self.log.compare("data".into(), ours.into(), qemu.into());
            }
            status = self.status();
        }
    }
}

fn start(disk: &RamDisk, disc: &RamDisk) -> Option<Pair> {
    let folder = tempfile::tempdir().unwrap();
    let (hard, optical) = (folder.path().join("disk"), folder.path().join("disc"));
    std::fs::write(&hard, bytes(disk, 0..u64::from(SECTORS) * 512)).unwrap();
    std::fs::write(&optical, bytes(disc, 0..300 * 2048)).unwrap();
    let drive = |id: &str, path: &std::path::Path| format!("if=none,id={id},format=raw,file={}", path.display());
    let mut qemu = Qemu::start_with(&[
        "-drive",
        &drive("hard", &hard),
        "-drive",
        &(drive("optical", &optical) + ",media=cdrom,readonly=on"),
        "-device",
        "ide-hd,drive=hard,bus=ide.0,unit=0,cyls=15,heads=4,secs=17",
        "-device",
        "ide-cd,drive=optical,bus=ide.0,unit=1",
    ])?;
    // QEMU has both open now.
    drop(folder);
    for (offset, value) in [(0x20, u32::from(BUS_MASTER)), (0x04, 5)] {
        qemu.port_write(0xcf8, 4, 0x8000_0900 | offset);
        qemu.port_write(0xcfc, 4, value);
    }
    let medium = DriveConfig::Dvd(Some(Arc::new(disc.read_only())));
    let pc = Pc::new([[Some(DriveConfig::Disk(Arc::new(disk.clone()))), Some(medium)], [None, None]]);
    Some(Pair { qemu, pc, log: Log::default() })
}

#[test]
fn disk_commands() {
    let disk = patterned(u64::from(SECTORS) * 512);
    let Some(mut pair) = start(&disk, &patterned(300 * 2048)) else { return };
    let mut choice = Choice::new(0x1f0);
    // QEMU begins with 16.
    pair.command([0, 16, 0, 0, 0, 0xa0, 0xc6]);
    for _ in 0..120 {
        let count = choice.of(&[1u8, 1, 2, 3, 5]);
        let anywhere = choice.number() % 1019;
        let place = choice.of(&[anywhere, SECTORS - 5, SECTORS + 1, 0x0800_0000]);
        let [low, mid, high, top] = place.to_le_bytes();
        let lba = [0, count, low, mid, high, 0xe0 | top & 15];
        let with = |regs: [u8; 6], code| [regs[0], regs[1], regs[2], regs[3], regs[4], regs[5], code];
        match choice.number() % 12 {
            0 | 1 => {
                pair.command(with(lba, 0x20));
                pair.move_data(&mut choice, false);
            }
            // Past the end QEMU takes data before it says no.
            2 if place <= SECTORS - 5 => {
                pair.command(with(lba, 0x30));
                pair.move_data(&mut choice, true);
            }
            3 => {
                // CHS, of which some do not exist.
                let chs =
                    [0, 1, choice.of(&[1, 5, 17]), choice.number() as u8 % 14, 0, 0xa0 | choice.number() as u8 & 3];
                pair.command(with(chs, 0x20));
                pair.move_data(&mut choice, false);
            }
            4 => {
                pair.command([0, choice.of(&[1, 2, 4, 8, 16, 3]), 0, 0, 0, 0xa0, 0xc6]);
            }
            5 => {
                // QEMU verifies anything.
                let verify = if place <= SECTORS - 5 { 0x40 } else { 0x70 };
                pair.command(with(lba, choice.of(&[0xc4, verify])));
                pair.move_data(&mut choice, false);
            }
            6 if place <= SECTORS - 5 => {
                pair.command(with(lba, 0xc5));
                pair.move_data(&mut choice, true);
            }
            7 | 8 if place + u32::from(count) <= SECTORS => {
                let to_memory = choice.number() & 1 == 0;
                pair.command(with(lba, if to_memory { 0xc8 } else { 0xca }));
                pair.dma(to_memory, u32::from(count) * 512);
            }
            9 => {
                // 48 bits, with what is left from before in the upper halves.
                pair.out(BASE + 2, 1, 0);
                (3..6).for_each(|port| pair.out(BASE + port, 1, 0));
                pair.command(with([0, count, low, mid, high & 1, 0xe0], 0x24));
                pair.move_data(&mut choice, false);
            }
            10 => {
                let code = choice.of(&[0xe7, 0xea, 0xe1, 0x10, 0xf1, 0xa1, 0x00, 0x8f, 0xe5, 0xe3]);
                pair.command([0, 0, 0, 0, 0, 0xe0, code]);
            }
            _ => {
                pair.out(0x3f6, 1, 4);
                pair.out(0x3f6, 1, 0);
                pair.out(BASE + 6, 1, 0xa0);
                pair.status();
                for port in 1..6 {
                    let (ours, qemu) = (pair.pc.inb(BASE + port), pair.qemu.port_read(BASE + port, 1));
                    pair.log.compare(format!("register {port} after reset"), ours.into(), qemu.into());
                }
            }
        }
    }
    // In the end both have written the same.
    for first in (0..SECTORS).step_by(128) {
        let [low, mid, ..] = first.to_le_bytes();
        pair.command([0, 128, low, mid, 0, 0xe0, 0x20]);
        pair.move_data(&mut choice, false);
    }
}

#[test]
fn packet_commands() {
    let Some(mut pair) = start(&patterned(u64::from(SECTORS) * 512), &patterned(300 * 2048)) else { return };
    let mut choice = Choice::new(0x1f1);
    // Each has attentions of its own after power-on.
    for _ in 0..3 {
        pair.pc.packet(0, 0, &[0]);
        pair.qemu.port_write(BASE + 6, 1, 0xb0);
        pair.qemu.port_write(BASE + 7, 1, 0xa0);
        (0..6).for_each(|_| pair.qemu.port_write(BASE, 2, 0));
    }
    for _ in 0..60 {
        let block = choice.of(&[0, 7, 298, 299, 300]) as u8;
        let high = u8::from(choice.number() & 15 == 0);
        match choice.number() % 7 {
            0 | 1 => pair.packet(&mut choice, &[0x28, 0, 0, 0, high, block, 0, 0, 1, 0]),
            2 => pair.packet(&mut choice, &[0xa8, 0, 0, 0, high, block, 0, 0, 0, 2]),
            3 => pair.packet(&mut choice, &[0x25]),
            4 => pair.packet(&mut choice, &[0]),
            5 => {
                let (msf, start, len) = (choice.of(&[0, 2]), choice.of(&[0, 1, 0xaa]), choice.of(&[4, 12, 20, 100]));
                pair.packet(&mut choice, &[0x43, msf, 0, 0, 0, 0, start, 0, len]);
            }
            _ => {
                let opcode = choice.of(&[0xff, 0xbd, 0x1e]);
                pair.packet(&mut choice, &[opcode, 0, 0, 0, 0, 0, 0, 0, 0, if opcode == 0xbd { 8 } else { 0 }]);
            }
        }
    }
}
