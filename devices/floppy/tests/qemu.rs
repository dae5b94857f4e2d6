//! Random commands and DMA programs, compared with QEMU's controllers on a copy of the same disk.

use bulkhead_device::{Line, PortBus};
use bulkhead_disk::{Disk, RamDisk, Request};
use bulkhead_floppy::{DmaController, FloppyController, Wiring};
use bulkhead_guest_memory::GuestMemory;
use bulkhead_qemu_oracle::{Choice, Log, Qemu};
use bulkhead_reactor::{Time, VirtualReactor};
use parking_lot::Mutex;
use std::sync::Arc;

const SIZE: u64 = 1_474_560;
const BUFFER: u32 = 0x2_0000;

struct Pair {
    qemu: Qemu,
    ports: PortBus,
    clock: VirtualReactor,
    memory: GuestMemory,
    log: Log,
    _devices: (Arc<Mutex<DmaController>>, Arc<Mutex<FloppyController>>),
}

impl Pair {
    fn start() -> Option<Pair> {
        let data: Vec<u8> = (0..SIZE).map(|at| (at / 512 * 3 + at) as u8).collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("floppy");
        std::fs::write(&path, &data).unwrap();
        let drive = format!("if=floppy,index=0,format=raw,file={}", path.display());
        let qemu = Qemu::start_with(&["-drive", &drive])?;
        let (clock, reactor) = VirtualReactor::new(Time::ZERO, 1).unwrap();
        let memory = GuestMemory::builder().anonymous(0, 1 << 20).build().unwrap();
        let ports = PortBus::new();
        let dma = DmaController::new("dma", memory.clone(), &ports).unwrap();
        let disk = RamDisk::new(SIZE);
        disk.execute(Request::Write { offset: 0, buffer: data.into(), fua: false }).result.unwrap();
        let wiring = Wiring { reactor, ports: ports.clone(), irq: Line::unconnected(), dma: dma.clone() };
        let medium: Arc<dyn Disk> = Arc::new(disk);
        let floppy = FloppyController::new("floppy", wiring, [Some(Some(medium)), None]).unwrap();
        Some(Pair { qemu, ports, clock, memory, log: Log::default(), _devices: (dma, floppy) })
    }

    fn out(&mut self, port: u16, value: u8) {
        self.log.note(format!("out {port:#x} {value:#x}"));
        self.qemu.port_write(port, 1, value.into());
        self.ports.write(port, 1, value.into());
    }

    fn compare(&mut self, port: u16) -> u8 {
        let (ours, qemu) = (self.ports.read(port, 1), self.qemu.port_read(port, 1));
        self.log.compare(format!("in {port:#x}"), ours.into(), qemu.into());
        ours as u8
    }

    /// Sends a command and compares its result.
    fn command(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.out(0x3f5, *byte);
        }
        self.clock.run_posted();
        // QEMU says of every transfer that a seek ended.
        let mut mask = if matches!(bytes[0] & 0x1f, 5 | 6) { !0x20 } else { 0xff };
        while self.compare(0x3f4) & 0xc0 == 0xc0 {
            let (ours, qemu) = (self.ports.read(0x3f5, 1), self.qemu.port_read(0x3f5, 1));
            self.log.compare("result".into(), (ours & mask).into(), (qemu & mask).into());
            mask = 0xff;
        }
    }

    fn seek(&mut self, cylinder: u8) {
        self.command(&[0x0f, 0, cylinder]);
        self.command(&[8]);
    }

    fn set_up_dma(&mut self, mode: u8, len: u32) {
        let ([a0, a1, page, _], [l0, l1, ..]) = (BUFFER.to_le_bytes(), (len - 1).to_le_bytes());
        let program = [
            (0x0a, 6),
            (0x0c, 0),
            (0x0b, mode),
            (4, a0),
            (4, a1),
            (0x81, page),
            (0x0c, 0),
            (5, l0),
            (5, l1),
            (0x0a, 2),
        ];
        program.into_iter().for_each(|(port, value)| self.out(port, value));
    }

    fn compare_memory(&mut self, len: u32) {
        for at in (0..len).step_by(8) {
            let ours = self.memory.read_u64((BUFFER + at).into()).unwrap();
            let qemu = self.qemu.memory_read((BUFFER + at).into(), 8);
            self.log.compare(format!("memory {at:#x}"), ours, qemu);
        }
    }
}

#[test]
fn transfers() {
    let Some(mut pair) = Pair::start() else { return };
    let mut choice = Choice::new(0x3f0);
    for value in [0x08, 0x0c] {
        pair.out(0x3f2, value);
    }
    (0..5).for_each(|_| pair.command(&[8]));
    pair.out(0x3f2, 0x1c);
    pair.out(0x3f7, 0);
    pair.command(&[3, 0xaf, 2]);
    pair.command(&[7, 0]);
    pair.command(&[8]);
    for _ in 0..80 {
        let (cylinder, head) = (choice.of(&[0, 1, 40, 79]), choice.of(&[0, 1]));
        let sector = choice.of(&[1, 2, 9, 17, 18]);
        pair.seek(cylinder);
        let multi = choice.of(&[0, 0x80]);
        let room = u32::from(19 - sector) + if multi != 0 && head == 0 { 18 } else { 0 };
        let len = 512 * (1 + choice.number() % room.min(8));
        let rest = [head << 2, cylinder, head, sector, 2, 18, 0x1b, 0xff];
        match choice.number() % 8 {
            0..=3 => {
                pair.set_up_dma(0x46, len);
                pair.command(&[&[0x46 | multi], &rest[..]].concat());
                pair.compare_memory(len);
            }
            4 | 5 => {
                pair.set_up_dma(0x4a, len);
                pair.command(&[&[0x45 | multi], &rest[..]].concat());
            }
            6 => pair.command(&[4, head << 2]),
            _ => pair.command(&[0x10]),
        }
        for port in [8, 0x0c, 4, 4, 5, 5, 0x81, 0x3f2] {
            if port == 0x0c {
                pair.out(port, 0);
            } else {
                pair.compare(port);
            }
        }
    }
}

#[test]
fn dma_registers() {
    let Some(mut pair) = Pair::start() else { return };
    let mut choice = Choice::new(0x8237);
    for port in [0x0d, 0xda, 0x0c, 0xd8] {
        pair.out(port, 0);
    }
    for _ in 0..2000 {
        let value = choice.number() as u8;
        match choice.number() % 5 {
            // Both halves: with one alone QEMU's channel does not change yet.
            0 | 1 => {
                let port = choice.of(&[0, 1, 2, 3, 4, 5, 6, 7, 0xc4, 0xc6, 0xca]);
                pair.out(if port < 0x10 { 0x0c } else { 0xd8 }, 0);
                pair.out(port, value);
                pair.out(port, !value);
            }
            2 => pair.out(choice.of(&[0x81, 0x82, 0x83, 0x87, 0x89, 0x8a, 0x8b]), value),
            3 => {
                let port = choice.of(&[0x81, 0x82, 0x83, 0x87, 0x89, 0x8a, 0x8b]);
                pair.compare(port);
            }
            _ => {
                let port = choice.of(&[0, 1, 2, 3, 4, 5, 6, 7, 0xc4, 0xc6, 0xca]);
                pair.compare(port);
                pair.compare(port);
            }
        }
    }
}
