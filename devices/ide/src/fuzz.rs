//! Fuzz target: ports, PRD tables and packets from anybody, with disks that answer late, resets, media changes and saving.

use crate::{DriveConfig, IdeController, Slot, Wiring};
use bulkhead_device::{Device, Line, PciAddress, PciBus, PortBus};
use bulkhead_disk::{Completion, Disk, DiskError, DiskFacts, Done, ErrorKind, RamDisk, Request, StatusDone};
use bulkhead_guest_memory::GuestMemory;
use bulkhead_reactor::{Reactor, Time, VirtualReactor};
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::Arc;

const RAM: u64 = 1 << 20;
const AT: PciAddress = PciAddress { device: 1, function: 1 };

/// A disk that keeps requests until it is told to answer; some fail.
struct SlowDisk {
    disk: RamDisk,
    waiting: Mutex<Vec<(Request, Done)>>,
}

impl SlowDisk {
    fn answer(&self, failing: bool) {
        for (request, done) in std::mem::take(&mut *self.waiting.lock()) {
            done(if failing {
                let error = DiskError::new(ErrorKind::Io, "read", "the test says so");
                Completion::failed(error, request.into_buffer())
            } else {
                self.disk.execute(request)
            });
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

struct Machine {
    loop_: VirtualReactor,
    ports: PortBus,
    pci: PciBus,
    memory: GuestMemory,
    disk: Arc<SlowDisk>,
    controller: Arc<Mutex<IdeController>>,
}

impl Machine {
    fn drives(disk: &Arc<SlowDisk>) -> [[Option<DriveConfig>; 2]; 2] {
        let ready: Arc<dyn Disk> = Arc::new(RamDisk::new(1 << 20));
        let hard = DriveConfig::Disk(disk.clone());
        [[Some(hard), Some(DriveConfig::Dvd(Some(disk.clone())))], [None, Some(DriveConfig::Disk(ready))]]
    }

    fn wiring(reactor: &Reactor, memory: &GuestMemory, ports: &PortBus) -> Wiring {
        let irqs = [Line::unconnected(), Line::unconnected()];
        Wiring { reactor: reactor.clone(), memory: memory.clone(), ports: ports.clone(), irqs }
    }

    fn new() -> Machine {
        let (loop_, reactor) = VirtualReactor::new(Time::ZERO, 1).expect("descriptors");
        let memory = GuestMemory::builder().anonymous(0, RAM).build().expect("memory");
        let (ports, pci) = (PortBus::new(), PciBus::new());
        let disk = Arc::new(SlowDisk { disk: RamDisk::new(1 << 22), waiting: Mutex::default() });
        let wiring = Self::wiring(&reactor, &memory, &ports);
        let controller = IdeController::new("ide", wiring, Self::drives(&disk)).expect("free ports");
        pci.add(AT, &controller).expect("a free slot");
        pci.write(AT, 0x20, 4, 0xc000);
        pci.write(AT, 0x04, 2, 5);
        Machine { loop_, ports, pci, memory, disk, controller }
    }

    /// Save and restore, which must not change anything.
    fn resume(&mut self) {
        self.disk.answer(false);
        self.loop_.run_posted();
        while !self.disk.waiting.lock().is_empty() {
            self.disk.answer(false);
            self.loop_.run_posted();
        }
        let saved = self.controller.lock().save().expect("plain values");
        // The ports are free only when the old one is gone.
        let (ports, pci) = (PortBus::new(), PciBus::new());
        let wiring = Self::wiring(&self.loop_.handle(), &self.memory, &ports);
        let restored = IdeController::restored("ide", wiring, Self::drives(&self.disk), &saved).expect("own state");
        assert_eq!(restored.lock().save().expect("plain values"), saved);
        pci.add(AT, &restored).expect("a free slot");
        (self.ports, self.pci, self.controller) = (ports, pci, restored);
    }

    fn act(&mut self, operation: u8, which: u8, value: u32) {
        const BLOCKS: [u16; 6] = [0x1f0, 0x1f0, 0x1f0, 0x170, 0x3f6, 0xc000];
        let port = match BLOCKS[usize::from(which >> 4) % BLOCKS.len()] {
            0x3f6 => 0x3f6,
            0xc000 => 0xc000 + u16::from(which & 15),
            base => base + u16::from(which & 7),
        };
        match operation % 16 {
            0..=2 => drop(self.ports.read(port, 1 << ((operation >> 4) % 3))),
            3..=7 => self.ports.write(port, 1 << ((operation >> 4) % 3), value),
            8 => self.ports.read_string(port & !7, 2, &mut vec![0; value as usize & 0xffe]),
            9 => self.ports.write_string(port & !7, 2, &vec![which; value as usize & 0xffe]),
            10 => drop(self.memory.write_u64(u64::from(which) * 8, u64::from(value) | u64::from(value & 0xff00) << 31)),
            11 => self.disk.answer(value & 7 == 0),
            12 => self.loop_.run_posted(),
            13 => {
                // A packet that is often good.
                self.ports.write(0x1f6, 1, 0xb0);
                self.ports.write(0x1f1, 1, value & 1);
                self.ports.write(0x1f7, 1, 0xa0);
                let opcode = [0x28, 0x12, 0x43, 0x46, 0x4a, 0x1b, 0x1e, which][value as usize >> 1 & 7];
                self.ports.write_string(0x1f0, 2, &[opcode, 0, 0, 0, 0, which, 0, 0, value as u8, 0, 0, 0]);
            }
            14 => match value & 7 {
                0 => self.resume(),
                1 => self.controller.lock().reset(),
                2 => drop(self.controller.lock().eject(Slot { channel: 0, drive: 1 }, false)),
                3 => {
                    let medium = self.disk.clone();
                    let _ = self.controller.lock().insert(Slot { channel: 0, drive: 1 }, medium, true);
                }
                _ => self.pci.write(AT, 0x04, 1, value >> 3 & 7),
            },
            _ => self.ports.write(0xc004, 4, value & 0xfffff),
        }
    }
}

/// Takes `data` as a list of actions of six bytes.
///
/// # Panics
/// When a controller that is saved and restored differs.
pub fn fuzz(data: &[u8]) {
    let mut machine = Machine::new();
    for action in data.chunks_exact(6) {
        let value = u32::from_le_bytes([action[2], action[3], action[4], action[5]]);
        machine.act(action[0], action[1], value);
    }
    machine.resume();
}
