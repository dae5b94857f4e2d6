//! The bus and a guest's driver: contact, offers, GPADLs, open and close, signals, hot add and remove, sub-channels, reset.

mod guest;

use bulkhead_device::Device;
use bulkhead_hyperv::HypercallStatus;
use bulkhead_vmbus_channel::BusError;
use guest::{Echo, Guest, description, offer, rings};
use parking_lot::Mutex;
use std::sync::Arc;

const RINGS: u64 = 0x10_0000;
const NO_STATUS: u32 = 0xc000_0001;

fn echo(guest: &mut Guest, relid: u32, gpa: u64, transaction: u64) {
    let driver = rings(guest, gpa);
    driver.send(transaction, true, b"abcdefgh");
    assert_eq!(guest.signal(relid), HypercallStatus::Success);
    let answer = driver.receive().expect("an answer");
    assert_eq!((answer.transaction(), answer.payload()), (transaction, &b"hgfedcba"[..]));
}

#[test]
fn every_version_is_negotiated_and_others_are_refused() {
    let mut guest = Guest::new();
    for version in [0x2_0004, 0x3_0000, 0x4_0000, 0x4_0001] {
        assert_eq!(guest.contact(version), [15, 0, 1, version]);
    }
    for version in [0x5_0000, 0x5_0001, 0x5_0002, 0x5_0003] {
        assert_eq!(guest.contact(version), [15, 0, 1, 4]);
    }
    for version in [0x6_0000, 0x5_0004, 0x1_0001, 0] {
        assert_eq!(guest.contact(version)[2], 0);
    }
    // Nobody is connected after a refusal.
    guest.post(&[3, 0]);
    assert_eq!(guest.message(), None);
    assert_eq!(guest.ports.post_message(9, 1, &[0; 40]), HypercallStatus::InvalidConnectionId);
    assert_eq!(guest.ports.post_message(1, 1, &[]), HypercallStatus::Success);
}

#[test]
fn a_channel_is_opened_used_closed_and_opened_again() {
    let mut guest = Guest::new();
    let devices = [offer(&guest, 1), offer(&guest, 2)];
    assert_eq!(guest.connect(), [(1, 0), (2, 0)]);
    for round in 0..2 {
        guest.open_channel(1, RINGS);
        assert_eq!(devices[0].lock().opened, round + 1);
        assert_eq!(devices[0].lock().user_data[..4], [0x55; 4]);
        echo(&mut guest, 1, RINGS, 7);
        assert_eq!(guest.synic.events.lock().pop(), Some((1, 1)));
        guest.post(&[7, 0, 1]);
        assert_eq!(guest.message(), None);
        guest.post(&[11, 0, 1, 0xe1e01]);
        assert_eq!(guest.message(), Some(vec![12, 0, 0xe1e01]));
    }
    assert!(devices[0].lock().channels[0].is_none());
    assert_eq!(guest.signal(5), HypercallStatus::InvalidConnectionId);
}

#[test]
fn a_gpadl_of_many_messages_is_torn_down_when_nobody_holds_it() {
    let mut guest = Guest::new();
    let device = offer(&guest, 1);
    guest.connect();
    guest.open_channel(1, RINGS);
    assert_eq!(guest.make_gpadl(1, 0xe2000, 0, 200), 0);
    let held = device.lock().channels[0].as_ref().unwrap().gpadl(0xe2000).unwrap();
    held.write(199 * 4096, &[1, 2, 3]).unwrap();
    assert_eq!(guest.memory.read_u8(199 * 4096 + 2).unwrap(), 3);
    guest.post(&[11, 0, 1, 0xe2000]);
    assert_eq!(guest.message(), None, "the device still holds it");
    assert_eq!(guest.make_gpadl(1, 0xe2000, 0, 4), NO_STATUS, "the handle is still in use");
    drop(held);
    assert_eq!(guest.message(), Some(vec![12, 0, 0xe2000]));
    assert_eq!(guest.make_gpadl(1, 0xe2000, 0, 4), 0);
}

#[test]
fn bad_gpadls_and_opens_are_refused() {
    let mut guest = Guest::new();
    let device = offer(&guest, 1);
    guest.connect();
    assert_eq!(guest.make_gpadl(1, 1, guest::RAM - 4096, 2), NO_STATUS, "beyond RAM");
    assert_eq!(guest.make_gpadl(7, 1, 0, 2), NO_STATUS, "no such channel");
    assert_eq!(guest.make_gpadl(1, 1, RINGS, 4), 0);
    assert_eq!(guest.make_gpadl(1, 1, RINGS, 4), NO_STATUS, "the handle is taken");
    assert_eq!(guest.open(1, 2, 0, 2), Some(NO_STATUS), "no such GPADL");
    assert_eq!(guest.open(1, 1, 2, 2), Some(NO_STATUS), "no such VP");
    for downstream in [0, 1, 3, 4, u32::MAX] {
        assert_eq!(guest.open(1, 1, 0, downstream), Some(NO_STATUS), "rings split at {downstream}");
    }
    guest.memory.write_u32(RINGS + 4, 3).unwrap();
    assert_eq!(guest.open(1, 1, 0, 2), Some(NO_STATUS), "an index that is not aligned");
    guest.memory.write_u32(RINGS + 4, 0).unwrap();
    device.lock().refuses = true;
    assert_eq!(guest.open(1, 1, 0, 2), Some(NO_STATUS), "the device refuses");
    device.lock().refuses = false;
    assert_eq!(guest.open(1, 1, u32::MAX, 2), Some(0));
    assert_eq!(guest.open(1, 1, 0, 2), Some(NO_STATUS), "it is open");
    // The guest wants no interrupts.
    rings(&guest, RINGS).send(1, true, &[0; 8]);
    guest.signal(1);
    assert_eq!(*guest.synic.events.lock(), []);
}

#[test]
fn a_broken_ring_closes_only_its_channel() {
    let mut guest = Guest::new();
    let _devices = [offer(&guest, 1), offer(&guest, 2)];
    guest.connect();
    guest.open_channel(1, RINGS);
    guest.open_channel(2, RINGS + 0x10000);
    rings(&guest, RINGS).put(&[0xff; 64]);
    guest.signal(1);
    rings(&guest, RINGS).send(1, true, &[0; 8]);
    guest.signal(1);
    assert!(rings(&guest, RINGS).receive().is_none());
    echo(&mut guest, 2, RINGS + 0x10000, 1);
    // Closing and opening it mends it.
    guest.post(&[7, 0, 1]);
    guest.memory.fill(RINGS, 4 * 4096, 0).unwrap();
    assert_eq!(guest.open(1, 0xe1e01, 1, 2), Some(0));
    echo(&mut guest, 1, RINGS, 1);
}

#[test]
fn a_new_kernel_is_answered_when_the_old_ones_io_has_ended() {
    let mut guest = Guest::new();
    let device = offer(&guest, 1);
    guest.connect();
    guest.open_channel(1, RINGS);
    device.lock().slow = true;
    guest.post(&[14, 0, 0x5_0003, 0, 2, 0, 0, 0, 0, 0]);
    guest.post(&[3, 0]);
    assert_eq!(guest.message(), None, "I/O is in flight");
    assert!(device.lock().channels[0].is_none(), "the channel is closed");
    let tokens = std::mem::take(&mut device.lock().closing);
    drop(tokens);
    guest.run();
    let messages = guest.messages();
    assert_eq!(messages[0], [15, 0, 1, 4]);
    assert_eq!((messages[1][0], messages[2].as_slice()), (1, &[4, 0][..]));
    // GPADLs of the old kernel are gone.
    assert_eq!(guest.open(1, 0xe1e01, 0, 2), Some(NO_STATUS));
}

#[test]
fn unload_closes_everything_and_is_answered() {
    let mut guest = Guest::new();
    let device = offer(&guest, 1);
    guest.connect();
    guest.open_channel(1, RINGS);
    guest.post(&[16, 0]);
    assert_eq!(guest.messages(), [[17, 0]]);
    assert!(device.lock().channels[0].is_none());
    assert_eq!(guest.connect(), [(1, 0)]);
}

#[test]
fn a_reset_forgets_the_guest() {
    let mut guest = Guest::new();
    let device = offer(&guest, 1);
    guest.connect();
    guest.open_channel(1, RINGS);
    guest.ports.post_message(4, 1, &[3, 0, 0, 0, 0, 0, 0, 0]);
    guest.device.reset();
    guest.run();
    assert!(device.lock().channels[0].is_none());
    assert_eq!(guest.message(), None);
    guest.post(&[3, 0]);
    assert_eq!(guest.message(), None, "there was no first contact");
    assert_eq!(guest.connect(), [(1, 0)]);
}

#[test]
fn devices_come_and_go_while_the_guest_runs() {
    let mut guest = Guest::new();
    let _first = offer(&guest, 1);
    guest.connect();
    let device = Arc::new(Mutex::new(Echo::default()));
    let id = guest.bus.offer(description(2), device.clone()).unwrap();
    let offered = guest.message().unwrap();
    assert_eq!((offered[0], offered[46]), (1, 2));
    let again = guest.bus.offer(description(2), device.clone());
    assert!(matches!(again, Err(BusError::Duplicate { .. })), "{again:?}");
    guest.open_channel(2, RINGS);
    device.lock().slow = true;
    guest.bus.remove(id).unwrap();
    assert_eq!(guest.bus.remove(id), Err(BusError::NoOffer(id)));
    guest.run();
    assert_eq!(guest.message(), None, "the device is still busy");
    // The same device again, before the guest has forgotten it.
    let next = Arc::new(Mutex::new(Echo::default()));
    guest.bus.offer(description(2), next).unwrap();
    let token = device.lock().closing.pop();
    drop(token);
    assert_eq!(guest.messages(), [[2, 0, 2]], "the old one is rescinded, the new one waits");
    guest.post(&[11, 0, 2, 0xe1e02]);
    assert_eq!(guest.message(), Some(vec![12, 0, 0xe1e02]));
    guest.post(&[13, 0, 2]);
    let offered = guest.message().unwrap();
    assert_eq!((offered[0], offered[46]), (1, 3));
    guest.run();
    assert_eq!(Arc::strong_count(&device), 1, "the bus has let the device go");
}

#[test]
fn sub_channels_live_as_long_as_their_primary_is_open() {
    let mut guest = Guest::new();
    let device = offer(&guest, 1);
    guest.connect();
    guest.open_channel(1, RINGS);
    device.lock().grants = 2;
    guest.signal(1);
    let offers: Vec<_> = guest.messages().iter().map(|offer| (offer[0], offer[46], offer[45])).collect();
    assert_eq!(offers, [(1, 2, 1), (1, 3, 2)]);
    guest.open_channel(2, RINGS + 0x10000);
    guest.open_channel(3, RINGS + 0x20000);
    echo(&mut guest, 3, RINGS + 0x20000, 5);
    assert_eq!(guest.synic.events.lock().pop(), Some((1, 3)));
    guest.post(&[7, 0, 2]);
    guest.post(&[7, 0, 1]);
    assert!(device.lock().channels.iter().all(Option::is_none));
    assert_eq!(guest.messages(), [[2, 0, 2], [2, 0, 3]]);
    guest.post(&[13, 0, 2]);
    guest.post(&[13, 0, 3]);
    assert_eq!(guest.open(1, 0xe1e01, 1, 2), Some(0));
    device.lock().grants = 1;
    guest.signal(1);
    let offers: Vec<_> = guest.messages().iter().map(|offer| (offer[0], offer[46], offer[45])).collect();
    assert_eq!(offers, [(1, 4, 1)]);
}

#[test]
fn a_channel_moves_to_another_processor() {
    let mut guest = Guest::new();
    let _device = offer(&guest, 1);
    guest.connect();
    guest.open_channel(1, RINGS);
    guest.post(&[22, 0, 1, 0]);
    assert_eq!(guest.message(), Some(vec![24, 0, 1, 0]));
    echo(&mut guest, 1, RINGS, 5);
    assert_eq!(*guest.synic.events.lock(), [(0, 1)]);
    guest.post(&[22, 0, 1, 9]);
    assert_eq!(guest.message(), Some(vec![24, 0, 1, NO_STATUS]));
    // Before 5.3 there is no answer.
    guest.contact(0x5_0002);
    guest.post(&[22, 0, 1, 1]);
    assert_eq!(guest.message(), None);
}

#[test]
fn sockets_nobody_listens_to_are_refused_to_guests_that_know_the_message() {
    let mut guest = Guest::new();
    let connect: Vec<u32> = [21, 0].into_iter().chain(1..9).collect();
    guest.contact(0x4_0000);
    guest.post(&connect);
    assert_eq!(guest.message(), None);
    guest.contact(0x5_0003);
    guest.post(&connect);
    let answer = guest.message().unwrap();
    assert_eq!((answer[0], &answer[2..10], answer[10]), (23, &connect[2..], 0xc000_0236));
}

#[test]
fn an_inbox_that_is_full_asks_the_guest_to_try_again() {
    let guest = Guest::new();
    let mut accepted = 0;
    while guest.ports.post_message(1, 1, &[0; 8]) == HypercallStatus::Success {
        accepted += 1;
    }
    assert_eq!(accepted, 1024);
    assert_eq!(guest.ports.post_message(1, 1, &[0; 8]), HypercallStatus::InsufficientBuffers);
}
