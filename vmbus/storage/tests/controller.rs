//! The controller and a guest's driver: initialization, data, errors, hot plug, media, resets.

mod driver;

use bulkhead_device::{Device, QuiesceToken};
use bulkhead_disk::{Disk, DiskFacts, RamDisk, Request};
use bulkhead_vmbus_channel::ChannelDevice;
use bulkhead_vmbus_storage::{LunConfig, LunError};
use driver::{DATA, Driver, HeldDisk, IDE, SCSI};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const INQUIRY: [u8; 6] = [0x12, 0, 0, 0, 96, 0];

fn disk(size: u64) -> LunConfig {
    LunConfig::Disk(Arc::new(RamDisk::new(size)))
}

fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed).wrapping_add((at >> 8) as u8)).collect()
}

#[test]
fn a_driver_initializes_and_older_ones_too() {
    let mut driver = Driver::new(SCSI, vec![(0, disk(1 << 20))]);
    // Out of order, and unknown versions.
    assert_ne!(driver.operation(10, &[])[8..12], [0; 4]);
    let early = driver.operation(3, &[]);
    assert_ne!(early[8..12], [0; 4]);
    assert_eq!(driver.operation(7, &[])[8..12], [0; 4]);
    assert_eq!(driver.operation(9, &[0x03, 0x07])[8..12], 0xc000_0059u32.to_le_bytes());
    for version in [[0x02, 0x06], [0x00, 0x06], [0x01, 0x05]] {
        assert_eq!(driver.operation(9, &version)[8..12], [0; 4]);
    }
    let properties = driver.initialize();
    assert_eq!(properties[16..18], 3u16.to_le_bytes(), "sub-channels");
    assert_eq!(properties[20..24], 1u32.to_le_bytes(), "multi-channel");
    assert_eq!(properties[24..28], (512u32 << 10).to_le_bytes(), "bytes of a transfer");
    assert_ne!(driver.operation(13, &[4, 0])[8..12], [0; 4], "more sub-channels than there are");
    assert_eq!(driver.operation(13, &[2, 0])[8..12], [0; 4]);
    assert_eq!(driver.channel.host.sub_channels.load(Ordering::SeqCst), 2);
    let mut ide = Driver::new(IDE, vec![(0, disk(1 << 20))]);
    assert_eq!(ide.initialize()[16..24], [0; 8]);
}

#[test]
fn data_goes_both_ways_at_any_offset() {
    let ram = RamDisk::new(8 << 20);
    let mut driver = Driver::initialized(SCSI, vec![(5, LunConfig::Disk(Arc::new(ram.clone())))]);
    driver.ready(5);
    let data = pattern(1, 512 << 10);
    driver.memory.write(DATA + 512, &data).unwrap();
    let ended = driver.request(5, &Driver::write_10(64, 1024), 512, 512 << 10);
    assert_eq!((ended.srb, ended.moved), (1, 512 << 10));
    let mut stored = vec![0; 512 << 10];
    let buffer = ram.execute(Request::Read { offset: 64 * 512, buffer: bulkhead_disk::Buffer::zeroed(512 << 10) });
    buffer.into_result().unwrap().copy_to(0, &mut stored);
    assert!(stored == data);
    driver.memory.fill(DATA, 1 << 20, 0).unwrap();
    driver.memory.dirty().enable();
    let ended = driver.request(5, &Driver::read_10(64, 1024), 0x80_0200, 512 << 10);
    assert_eq!((ended.srb, ended.moved), (1, 512 << 10));
    driver.memory.read(DATA + 0x80_0200, &mut stored).unwrap();
    assert!(stored == data);
    // A buffer shorter than the command, data that is no RAM, more than a transfer may have.
    assert_eq!(driver.request(5, &Driver::read_10(0, 8), 0, 2048).srb, 0x12);
    assert_eq!(driver.request(5, &Driver::read_10(0, 8), 14 << 20, 4096).srb, 6);
    assert_eq!(driver.request(5, &Driver::read_10(0, 1), 0, (512 << 10) + 1).srb, 6);
    // Beyond the end.
    assert_eq!(driver.request(5, &Driver::read_10(0x4000, 1), 0, 512).sense_code(), (5, 0x21, 0));
}

#[test]
fn units_are_found_and_nothing_else() {
    let mut driver = Driver::initialized(SCSI, vec![(0, disk(1 << 20)), (63, LunConfig::Dvd(None))]);
    let present = driver.data_in(0, &INQUIRY, 96);
    assert_eq!((present[0], &present[8..16]), (0, &b"Msft    "[..]));
    assert_eq!(driver.data_in(63, &INQUIRY, 96)[0], 5);
    let absent = driver.data_in(7, &INQUIRY, 36);
    assert_eq!((absent[0], absent.len()), (0x7f, 36));
    assert_eq!(driver.request(7, &[0; 6], 0, 0).srb, 0x20);
    let report = [0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
    let luns = driver.data_in(9, &report, 256);
    assert_eq!((luns.len(), luns[3], luns[9], luns[17]), (24, 16, 0, 63));
    // Another target: nobody.
    driver.queue([0, 1, 0], &INQUIRY, 0, 96);
    driver.queue([1, 0, 0], &report, 0, 256);
    driver.signal();
    assert_eq!(driver.ended().unwrap().moved, 36);
    assert_eq!(driver.memory.read_u8(DATA + 3).unwrap(), 0);
    assert_eq!(driver.ended().unwrap().moved, 8);
}

#[test]
fn names_are_stable_and_different() {
    let mut driver = Driver::initialized(SCSI, vec![(0, disk(1 << 20)), (1, disk(1 << 20))]);
    let page_83 = [0x12, 1, 0x83, 0, 255, 0];
    let names = [driver.data_in(0, &page_83, 255), driver.data_in(1, &page_83, 255)];
    assert_ne!(names[0], names[1]);
    let mut again = Driver::initialized(SCSI, vec![(0, disk(2 << 20))]);
    assert_eq!(again.data_in(0, &page_83, 255), names[0]);
}

#[test]
fn space_is_given_back_cleared_and_filled() {
    let ram = RamDisk::new(8 << 20);
    let mut driver = Driver::initialized(SCSI, vec![(0, LunConfig::Disk(Arc::new(ram.clone())))]);
    driver.ready(0);
    let one = |driver: &mut Driver, block: u32| {
        driver.request(0, &Driver::read_10(block, 1), 0, 512);
        driver.memory.read_u8(DATA).unwrap()
    };
    // WRITE SAME (16) of 2000 blocks: more than one chunk.
    driver.memory.fill(DATA, 512, 0xa5).unwrap();
    let same = [0x93, 0, 0, 0, 0, 0, 0, 0, 0, 100, 0, 0, 7, 0xd0, 0, 0];
    assert_eq!(driver.request(0, &same, 0, 512).srb, 1);
    assert_eq!([99, 100, 2099, 2100].map(|block| one(&mut driver, block)), [0, 0xa5, 0xa5, 0]);
    // UNMAP of two ranges.
    let mut list = vec![0, 38, 0, 32, 0, 0, 0, 0];
    for (block, count) in [(100u64, 8u32), (200, 16)] {
        list.extend(block.to_be_bytes());
        list.extend(count.to_be_bytes());
        list.extend([0; 4]);
    }
    driver.memory.write(DATA, &list).unwrap();
    let unmap = [0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0];
    assert_eq!(driver.request(0, &unmap, 0, 40).srb, 1);
    assert_eq!([100, 107, 108, 200, 216].map(|block| one(&mut driver, block)), [0, 0, 0xa5, 0, 0xa5]);
    // Too short a list, VERIFY, SYNCHRONIZE CACHE.
    assert_eq!(driver.request(0, &unmap, 0, 24).sense_code(), (5, 0x1a, 0));
    assert_eq!(driver.request(0, &[0x2f, 0, 0, 0, 0, 0, 0, 0x10, 0, 0], 0, 0).srb, 1);
    assert_eq!(driver.request(0, &[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0, 0).srb, 1);
    assert_eq!(driver.request(0, &[0xff; 16], 0, 0).sense_code(), (5, 0x20, 0));
}

#[test]
fn disks_of_4096_byte_sectors_and_read_only_ones() {
    let facts = DiskFacts { logical_sector: 4096, ..DiskFacts::plain(1 << 20, "ram") };
    let fourk = RamDisk::with_facts(facts);
    let mut driver = Driver::initialized(
        SCSI,
        vec![
            (0, LunConfig::Disk(Arc::new(fourk.clone()))),
            (1, LunConfig::Disk(Arc::new(RamDisk::new(1 << 20).read_only()))),
        ],
    );
    driver.ready(0);
    driver.ready(1);
    let capacity = driver.data_in(0, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8);
    assert_eq!(capacity, [0, 0, 0, 255, 0, 0, 0x10, 0]);
    driver.memory.fill(DATA, 4096, 9).unwrap();
    assert_eq!(driver.request(0, &Driver::write_10(255, 1), 0, 4096).srb, 1);
    assert_eq!(driver.request(1, &Driver::write_10(0, 1), 0, 512).sense_code(), (7, 0x27, 0));
    let mode = driver.data_in(1, &[0x1a, 0, 0x3f, 0, 192, 0], 192);
    assert_eq!(mode[2] & 0x80, 0x80, "write-protected");
}

#[test]
fn many_requests_end_with_one_signal() {
    let held = HeldDisk::new(RamDisk::new(8 << 20));
    let mut driver = Driver::initialized(SCSI, vec![(0, LunConfig::Disk(held.clone()))]);
    driver.ready(0);
    for block in 0..16 {
        driver.queue([0, 0, 0], &Driver::read_10(block, 1), u64::from(block) * 512, 512);
    }
    driver.signal();
    assert_eq!(held.waiting(), 16);
    let before = driver.channel.host.signals.load(Ordering::SeqCst);
    held.release(16);
    driver.reactor.run_posted();
    assert_eq!(driver.channel.host.signals.load(Ordering::SeqCst), before + 1);
    let ended: Vec<_> = std::iter::from_fn(|| driver.ended()).collect();
    assert_eq!(ended.len(), 16);
}

#[test]
fn a_guest_that_reads_no_answers_is_served_no_further() {
    let held = HeldDisk::new(RamDisk::new(8 << 20));
    let mut driver = Driver::initialized(SCSI, vec![(0, LunConfig::Disk(held.clone()))]);
    driver.ready(0);
    // The ring to the guest has room for 325 answers of 88 bytes; requests of 160 bytes fill the other one first.
    let mut sent = 0;
    for _ in 0..5 {
        for _ in 0..100 {
            driver.queue([0, 0, 0], &Driver::read_10(0, 1), 0, 512);
            sent += 1;
        }
        driver.signal();
        if held.waiting() < sent {
            break;
        }
    }
    assert_eq!(held.waiting(), 28671 / 88);
    held.release(held.waiting());
    driver.reactor.run_posted();
    assert_eq!(held.waiting(), 0, "there is no room yet");
    let mut ended = 0;
    while ended < sent {
        while driver.ended().is_some() {
            ended += 1;
        }
        driver.signal();
        held.release(held.waiting());
        driver.reactor.run_posted();
    }
    assert_eq!(ended, sent);
}

#[test]
fn units_come_and_go_under_load() {
    let held = HeldDisk::new(RamDisk::new(1 << 20));
    let mut driver = Driver::initialized(SCSI, vec![(0, disk(1 << 20))]);
    let told = |driver: &Driver| {
        let packet = driver.channel.receive().expect("an order to look");
        assert_eq!((packet.transaction(), packet.payload()[0], packet.payload().len()), (0, 11, 64));
    };
    driver.controller.lock().attach(3, LunConfig::Disk(held.clone())).unwrap();
    told(&driver);
    assert_eq!(driver.controller.lock().attach(3, disk(512)), Err(LunError::InUse(3)));
    assert_eq!(driver.controller.lock().attach(64, disk(512)), Err(LunError::OutOfRange(64)));
    driver.ready(3);
    let transaction = driver.queue([0, 0, 3], &Driver::read_10(0, 1), 0, 512);
    driver.signal();
    let unused = Arc::new(AtomicBool::new(false));
    let flag = unused.clone();
    let token = QuiesceToken::new(move || flag.store(true, Ordering::SeqCst));
    driver.controller.lock().detach(3, token.clone()).unwrap();
    told(&driver);
    assert_eq!(driver.controller.lock().detach(3, token), Err(LunError::Empty(3)));
    assert_eq!(driver.request(3, &[0; 6], 0, 0).srb, 0x20);
    assert!(!unused.load(Ordering::SeqCst), "a request is with the disk");
    held.release(1);
    driver.reactor.run_posted();
    assert!(unused.load(Ordering::SeqCst));
    let ended = driver.ended().unwrap();
    assert_eq!((ended.transaction, ended.srb), (transaction, 1));
    // Before the driver is there nobody is told.
    let ide = Driver::initialized(IDE, vec![(0, disk(512))]);
    assert_eq!(ide.controller.lock().attach(1, disk(512)), Err(LunError::NotHotPluggable));
    let early = Driver::new(SCSI, vec![]);
    early.controller.lock().attach(1, disk(512)).unwrap();
    assert!(early.channel.receive().is_none());
}

#[test]
fn a_disk_that_grew_is_noticed() {
    let mut driver = Driver::initialized(SCSI, vec![(0, disk(1 << 20))]);
    driver.ready(0);
    driver.controller.lock().capacity_changed(0).unwrap();
    assert_eq!(driver.channel.receive().unwrap().payload()[0], 11);
    assert_eq!(driver.request(0, &[0; 6], 0, 0).sense_code(), (6, 0x2a, 9));
}

#[test]
fn dvd_media_change_and_trays_are_locked() {
    let mut driver = Driver::initialized(SCSI, vec![(1, LunConfig::Dvd(None))]);
    assert_eq!(driver.request(1, &[0; 6], 0, 0).sense_code(), (6, 0x29, 0));
    assert_eq!(driver.request(1, &[0; 6], 0, 0).sense_code(), (2, 0x3a, 1));
    let medium = RamDisk::new(1 << 20);
    driver.controller.lock().insert(1, Arc::new(medium.read_only()), false).unwrap();
    assert_eq!(driver.request(1, &[0; 6], 0, 0).sense_code(), (6, 0x28, 0));
    assert_eq!(driver.data_in(1, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8), [0, 0, 1, 255, 0, 0, 8, 0]);
    assert_eq!(driver.request(1, &Driver::read_10(0, 2), 0, 4096).moved, 4096);
    driver.request(1, &[0x1e, 0, 0, 0, 1, 0], 0, 0);
    assert_eq!(driver.controller.lock().eject(1, false), Err(LunError::Locked(1)));
    driver.controller.lock().eject(1, true).unwrap();
    assert_eq!(driver.controller.lock().eject(0, true), Err(LunError::Empty(0)));
}

#[test]
fn resets_and_closes_wait_for_the_disks() {
    let held = HeldDisk::new(RamDisk::new(1 << 20));
    let mut driver = Driver::initialized(SCSI, vec![(0, LunConfig::Disk(held.clone()))]);
    driver.ready(0);
    driver.queue([0, 0, 0], &Driver::read_10(0, 1), 0, 512);
    let mut reset = vec![0; 64];
    reset[0] = 6;
    driver.channel.send(99, true, &reset);
    driver.signal();
    assert!(driver.channel.receive().is_none());
    held.release(1);
    driver.reactor.run_posted();
    assert_eq!(driver.ended().unwrap().srb, 1);
    assert_eq!(driver.channel.receive().unwrap().transaction(), 99);
    // A close with a request in flight.
    driver.queue([0, 0, 0], &Driver::read_10(0, 1), 0, 512);
    driver.signal();
    let closed = Arc::new(AtomicBool::new(false));
    let flag = closed.clone();
    let token = QuiesceToken::new(move || flag.store(true, Ordering::SeqCst));
    driver.controller.lock().close(0, token);
    assert!(!closed.load(Ordering::SeqCst));
    held.release(1);
    driver.reactor.run_posted();
    assert!(closed.load(Ordering::SeqCst));
    assert!(driver.channel.receive().is_none());
}

#[test]
fn disk_errors_become_sense_data() {
    struct Failing(RamDisk);
    impl Disk for Failing {
        fn facts(&self) -> DiskFacts {
            self.0.facts()
        }
        fn submit(&self, request: Request, done: bulkhead_disk::Done) {
            let kind =
                if request.is_write() { bulkhead_disk::ErrorKind::NoSpace } else { bulkhead_disk::ErrorKind::Io };
            let error = bulkhead_disk::DiskError::new(kind, "do it", "it is a bad day");
            done(bulkhead_disk::Completion::failed(error, request.into_buffer()));
        }
        fn submit_status(&self, range: std::ops::Range<u64>, done: bulkhead_disk::StatusDone) {
            self.0.submit_status(range, done);
        }
    }
    let mut driver = Driver::initialized(SCSI, vec![(0, LunConfig::Disk(Arc::new(Failing(RamDisk::new(1 << 20)))))]);
    driver.ready(0);
    assert_eq!(driver.request(0, &Driver::read_10(0, 1), 0, 512).sense_code(), (3, 0x11, 0));
    assert_eq!(driver.request(0, &Driver::write_10(0, 1), 0, 512).sense_code(), (7, 0x27, 7));
    driver.controller.lock().reset();
}
