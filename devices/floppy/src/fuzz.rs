//! Fuzz target: ports of both devices from anybody, with disks that answer late, resets, media changes and saving.

use crate::{DmaController, FloppyController, Wiring};
use bulkhead_device::{Device, Line, PortBus};
use bulkhead_disk::{Completion, Disk, DiskError, DiskFacts, Done, ErrorKind, RamDisk, Request, StatusDone};
use bulkhead_guest_memory::GuestMemory;
use bulkhead_reactor::{Time, VirtualReactor};
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::Arc;

const RAM: u64 = 1 << 20;

/// A disk that keeps requests until it is told to answer; some fail.
struct SlowDisk {
    disk: RamDisk,
    waiting: Mutex<Vec<(Request, Done)>>,
}

impl SlowDisk {
    fn answer(&self, failing: bool) -> bool {
        let requests = std::mem::take(&mut *self.waiting.lock());
        let any = !requests.is_empty();
        for (request, done) in requests {
            done(if failing {
                let error = DiskError::new(ErrorKind::Io, "read", "the test says so");
                Completion::failed(error, request.into_buffer())
            } else {
                self.disk.execute(request)
            });
        }
        any
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

type Drives = [Option<Option<Arc<dyn Disk>>>; 2];

struct Machine {
    clock: VirtualReactor,
    memory: GuestMemory,
    disk: Arc<SlowDisk>,
    ports: PortBus,
    dma: Arc<Mutex<DmaController>>,
    floppy: Arc<Mutex<FloppyController>>,
}

impl Machine {
    fn new() -> Machine {
        let (clock, reactor) = VirtualReactor::new(Time::ZERO, 1).expect("descriptors");
        let memory = GuestMemory::builder().anonymous(0, RAM).build().expect("memory");
        let disk = Arc::new(SlowDisk { disk: RamDisk::new(1_474_560), waiting: Mutex::default() });
        let ports = PortBus::new();
        let dma = DmaController::new("dma", memory.clone(), &ports).expect("free ports");
        let wiring = Wiring { reactor, ports: ports.clone(), irq: Line::unconnected(), dma: dma.clone() };
        let floppy = FloppyController::new("floppy", wiring, Self::drives(&disk)).expect("free ports");
        Machine { clock, memory, disk, ports, dma, floppy }
    }

    fn drives(disk: &Arc<SlowDisk>) -> Drives {
        [Some(Some(disk.clone())), Some(None)]
    }

    /// Save and restore, which must not change anything.
    fn resume(&mut self) {
        loop {
            let answered = self.disk.answer(false);
            self.clock.run_posted();
            if !answered {
                break;
            }
        }
        let (saved, saved_dma) =
            (self.floppy.lock().save().expect("plain values"), self.dma.lock().save().expect("plain values"));
        let (ports, reactor) = (PortBus::new(), self.clock.handle());
        let dma = DmaController::restored("dma", self.memory.clone(), &ports, &saved_dma).expect("own state");
        let wiring = Wiring { reactor, ports: ports.clone(), irq: Line::unconnected(), dma: dma.clone() };
        let medium = self.floppy.lock().medium(0).is_some().then(|| self.disk.clone() as Arc<dyn Disk>);
        let floppy =
            FloppyController::restored("floppy", wiring, [Some(medium), Some(None)], &saved).expect("own state");
        assert!(floppy.lock().save().expect("plain values") == saved);
        assert!(dma.lock().save().expect("plain values") == saved_dma);
        (self.ports, self.dma, self.floppy) = (ports, dma, floppy);
    }

    fn act(&mut self, operation: u8, which: u8, value: u32) {
        let [b0, b1, b2, b3] = value.to_le_bytes();
        match operation % 16 {
            0..=2 => self.ports.write(0x3f0 + u16::from(which & 7), 1, b0.into()),
            3 => self.ports.write(u16::from(which & 0xf), 1, b0.into()),
            4 => self.ports.write(0xc0 + u16::from(which & 0x3f), 1, b0.into()),
            5 | 6 => {
                for _ in 0..which & 15 {
                    self.ports.read(0x3f5, 1);
                }
            }
            7 => drop(self.ports.read(u16::from(which) << 2, 1)),
            8 => {
                // A DMA channel that is often good.
                let mode = [0x46, 0x4a, 0x56, 0x66][usize::from(which & 3)];
                for (port, value) in
                    [(0xc, 0), (0xb, mode), (4, b0), (4, b1), (5, b2), (5, b3 & 0x3f), (0x81, which & 31), (0xa, 2)]
                {
                    self.ports.write(port, 1, value.into());
                }
            }
            9 | 10 => {
                // A command that is often good.
                let code = [0xe6, 0xc5, 0x0f, 0x4d, 0x4a, 0x07, 0x08, 0x42][usize::from(which & 7)];
                let unit = b0 & 5;
                for byte in [code, unit, b1 & 3, unit >> 2, b2 & 31, 2, 18, 0x1b, 0xff]
                    .into_iter()
                    .take(if which & 64 == 0 { 9 } else { 5 })
                {
                    self.ports.write(0x3f5, 1, byte.into());
                }
            }
            11 => drop(self.disk.answer(value & 7 == 0)),
            12 | 13 => self.clock.run_posted(),
            14 => self.ports.write(0x3f5, 1, b0.into()),
            _ => match which & 15 {
                0 => self.resume(),
                1 => self.floppy.lock().reset(),
                2 => drop(self.floppy.lock().change_medium(0, None)),
                3..6 => drop(self.floppy.lock().change_medium(0, Some(self.disk.clone()))),
                6 => self.ports.write(0x3f2, 1, 0x14),
                _ => self.ports.write(0x3f7, 1, 0),
            },
        }
    }
}

/// Takes `data` as a list of actions of six bytes.
///
/// # Panics
/// When a device that is saved and restored differs.
pub fn fuzz(data: &[u8]) {
    let mut machine = Machine::new();
    for action in data.chunks_exact(6) {
        let value = u32::from_le_bytes([action[2], action[3], action[4], action[5]]);
        machine.act(action[0], action[1], value);
    }
    machine.resume();
}
