//! Save and restore of a controller in the middle of work.

mod driver;

use bulkhead_device::Device;
use bulkhead_disk::RamDisk;
use bulkhead_vmbus_channel::test_support::GuestChannel;
use bulkhead_vmbus_storage::{Controller, LunConfig};
use driver::{Driver, HeldDisk, RINGS, SCSI};
use std::sync::atomic::Ordering;

#[test]
fn work_goes_on_where_it_was() {
    let held = HeldDisk::new(RamDisk::new(1 << 20));
    let mut driver = Driver::initialized(SCSI, vec![(0, LunConfig::Disk(held.clone()))]);
    driver.ready(0);
    let first = driver.queue([0, 0, 0], &Driver::read_10(0, 1), 0, 512);
    driver.signal();
    let quiet = driver.pause();
    let second = driver.queue([0, 0, 0], &Driver::read_10(1, 1), 512, 512);
    driver.signal();
    assert_eq!((held.waiting(), quiet.load(Ordering::SeqCst)), (1, false));
    held.release(1);
    driver.reactor.run_posted();
    assert!(quiet.load(Ordering::SeqCst));
    assert_eq!(held.waiting(), 0, "a paused controller takes nothing");
    let saved = driver.controller.lock().save().unwrap();

    let luns = vec![(0, LunConfig::Disk(held.clone())), (2, LunConfig::Dvd(None))];
    let channel = GuestChannel::over(&driver.memory, RINGS, 8);
    let make = |wiring| Controller::restored("scsi0", wiring, luns, &saved).unwrap();
    let mut again = Driver::around(driver.memory.clone(), channel, make, SCSI);
    again.open(true);
    assert_eq!(again.ended().unwrap().transaction, first);
    // The unit that the saved machine did not have.
    assert_eq!(again.channel.receive().unwrap().payload()[0], 11);
    assert_eq!(held.waiting(), 1);
    held.release(1);
    again.reactor.run_posted();
    let ended = again.ended().unwrap();
    assert_eq!((ended.transaction, ended.srb), (second, 1));
    // It had told of power-on already; the new one has not.
    assert_eq!(again.request(0, &[0; 6], 0, 0).srb, 1);
    assert_eq!(again.request(2, &[0; 6], 0, 0).sense_code(), (6, 0x29, 0));
}
