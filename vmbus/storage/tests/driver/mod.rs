//! A guest's storage driver over rings of its own, without a bus.

#![allow(dead_code, reason = "each test uses its own part")]

use bulkhead_device::{Device, QuiesceToken};
use bulkhead_disk::{Disk, DiskFacts, Done, Request, StatusDone};
use bulkhead_guest_log::GuestLog;
use bulkhead_guest_memory::GuestMemory;
use bulkhead_reactor::{Reactor, Time, VirtualReactor};
use bulkhead_vmbus_channel::test_support::GuestChannel;
use bulkhead_vmbus_channel::{ChannelDevice, PacketKind};
use bulkhead_vmbus_storage::{Attachment, Controller, LunConfig, Wiring};
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub const RINGS: u64 = 0x10_0000;
pub const DATA: u64 = 0x20_0000;
pub const SCSI: Attachment = Attachment::Scsi { number: 0, sub_channels: 3 };
pub const IDE: Attachment = Attachment::Ide { channel: 0, device: 1 };

/// How a request ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    pub transaction: u64,
    pub srb: u8,
    pub scsi: u8,
    pub moved: u32,
    pub sense: Vec<u8>,
}

impl Ended {
    /// Key, code, qualifier.
    pub fn sense_code(&self) -> (u8, u8, u8) {
        assert_eq!((self.srb, self.scsi, self.sense.len()), (0x84, 2, 18));
        (self.sense[2], self.sense[12], self.sense[13])
    }
}

pub struct Driver {
    pub reactor: VirtualReactor,
    pub handle: Reactor,
    pub memory: GuestMemory,
    pub channel: GuestChannel,
    pub controller: Arc<Mutex<Controller>>,
    pub log: Arc<GuestLog>,
    next: u64,
}

impl Driver {
    /// A controller with these units, and its channel open.
    pub fn new(attachment: Attachment, luns: Vec<(u8, LunConfig)>) -> Driver {
        let memory = GuestMemory::builder().anonymous(0, 16 << 20).build().unwrap();
        let channel = GuestChannel::new(&memory, RINGS, 8);
        let driver =
            Driver::around(memory, channel, |wiring| Controller::new("scsi0", wiring, luns).unwrap(), attachment);
        driver.open(false);
        driver
    }

    pub fn around(
        memory: GuestMemory,
        channel: GuestChannel,
        make: impl FnOnce(Wiring) -> Arc<Mutex<Controller>>,
        attachment: Attachment,
    ) -> Driver {
        let (reactor, handle) = VirtualReactor::new(Time::ZERO, 1).unwrap();
        let log = Arc::new(GuestLog::new(&handle, "scsi0"));
        let controller = make(Wiring { reactor: handle.clone(), attachment });
        Driver { reactor, handle, memory, channel, controller, log, next: 1 }
    }

    /// Opens the primary channel and starts the controller.
    pub fn open(&self, restored: bool) {
        let mut controller = self.controller.lock();
        controller.open(self.channel.open(0, &self.log, restored)).unwrap();
        controller.start();
    }

    pub fn initialized(attachment: Attachment, luns: Vec<(u8, LunConfig)>) -> Driver {
        let mut driver = Driver::new(attachment, luns);
        driver.initialize();
        driver
    }

    /// What storvsc does first. Returns the packet with the properties.
    pub fn initialize(&mut self) -> Vec<u8> {
        assert_eq!(self.operation(7, &[])[8], 0);
        assert_eq!(self.operation(9, &[0x02, 0x06])[8], 0);
        let properties = self.operation(10, &[]);
        assert_eq!(self.operation(8, &[])[8], 0);
        properties
    }

    pub fn signal(&mut self) {
        self.controller.lock().signalled(0);
        self.reactor.run_posted();
    }

    /// An operation without data, and its answer.
    pub fn operation(&mut self, operation: u8, parameters: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 64];
        (packet[0], packet[4]) = (operation, 1);
        packet[12..12 + parameters.len()].copy_from_slice(parameters);
        self.channel.send(u64::MAX - 2, true, &packet);
        self.signal();
        let answer = self.channel.receive().expect("an answer");
        assert_eq!((answer.kind(), answer.transaction()), (PacketKind::Completion, u64::MAX - 2));
        assert_eq!((answer.payload().len(), answer.payload()[0]), (64, 1));
        answer.payload().to_vec()
    }

    /// Puts a request into the ring; the data is `len` bytes at `DATA + offset`. Returns its transaction.
    pub fn queue(&mut self, address: [u8; 3], cdb: &[u8], offset: u64, len: u32) -> u64 {
        let mut packet = vec![0; 64];
        (packet[0], packet[4], packet[12]) = (3, 1, 52);
        packet[17..20].copy_from_slice(&address);
        (packet[20], packet[21]) = (cdb.len() as u8, 20);
        packet[24..28].copy_from_slice(&len.to_le_bytes());
        packet[28..28 + cdb.len()].copy_from_slice(cdb);
        let transaction = self.next;
        self.next += 1;
        if len == 0 {
            self.channel.send(transaction, true, &packet);
        } else {
            let first = DATA + offset;
            let pages: Vec<u64> = (first / 4096..=(first + u64::from(len) - 1) / 4096).collect();
            self.channel.send_pages(transaction, len, (first % 4096) as u32, &pages, &packet);
        }
        transaction
    }

    pub fn ended(&self) -> Option<Ended> {
        let answer = self.channel.receive()?;
        assert_eq!(answer.kind(), PacketKind::Completion);
        let packet = answer.payload();
        assert_eq!((packet.len(), packet[0]), (64, 1));
        let sense = packet[28..28 + usize::from(packet[21])].to_vec();
        let moved = u32::from_le_bytes(packet[24..28].try_into().unwrap());
        Some(Ended { transaction: answer.transaction(), srb: packet[14], scsi: packet[15], moved, sense })
    }

    /// A request and its end.
    pub fn request(&mut self, lun: u8, cdb: &[u8], offset: u64, len: u32) -> Ended {
        let transaction = self.queue([0, 0, lun], cdb, offset, len);
        self.signal();
        let ended = self.ended().expect("an answer");
        assert_eq!(ended.transaction, transaction);
        ended
    }

    /// A request that must end well; returns the data that came.
    pub fn data_in(&mut self, lun: u8, cdb: &[u8], len: u32) -> Vec<u8> {
        let ended = self.request(lun, cdb, 0, len);
        assert_eq!((ended.srb, ended.scsi), (1, 0), "{ended:?}");
        let mut data = vec![0; ended.moved as usize];
        self.memory.read(DATA, &mut data).unwrap();
        data
    }

    /// Takes the attention after power-on.
    pub fn ready(&mut self, lun: u8) {
        assert_eq!(self.request(lun, &[0; 6], 0, 0).sense_code(), (6, 0x29, 0));
        assert_eq!(self.request(lun, &[0; 6], 0, 0).srb, 1);
    }

    pub fn read_10(block: u32, count: u16) -> [u8; 10] {
        let ([a, b, c, d], [e, f]) = (block.to_be_bytes(), count.to_be_bytes());
        [0x28, 0, a, b, c, d, 0, e, f, 0]
    }

    pub fn write_10(block: u32, count: u16) -> [u8; 10] {
        let mut cdb = Driver::read_10(block, count);
        cdb[0] = 0x2a;
        cdb
    }

    pub fn pause(&mut self) -> Arc<AtomicBool> {
        let quiet = Arc::new(AtomicBool::new(false));
        let flag = quiet.clone();
        self.controller.lock().pause(QuiesceToken::new(move || flag.store(true, Ordering::SeqCst)));
        quiet
    }
}

/// A disk whose requests wait until they are let go.
pub struct HeldDisk<D> {
    inner: D,
    waiting: Mutex<Vec<(Request, Done)>>,
}

impl<D: Disk> HeldDisk<D> {
    pub fn new(inner: D) -> Arc<HeldDisk<D>> {
        Arc::new(HeldDisk { inner, waiting: Mutex::default() })
    }

    pub fn waiting(&self) -> usize {
        self.waiting.lock().len()
    }

    /// Lets the first `count` go.
    pub fn release(&self, count: usize) {
        let requests: Vec<_> = self.waiting.lock().drain(..count).collect();
        requests.into_iter().for_each(|(request, done)| self.inner.submit(request, done));
    }
}

impl<D: Disk> Disk for HeldDisk<D> {
    fn facts(&self) -> DiskFacts {
        self.inner.facts()
    }
    fn submit(&self, request: Request, done: Done) {
        self.waiting.lock().push((request, done));
    }
    fn submit_status(&self, range: Range<u64>, done: StatusDone) {
        self.inner.submit_status(range, done);
    }
}
