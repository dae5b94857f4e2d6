//! Save and restore with everything in flight.

mod guest;

use bulkhead_device::Device;
use bulkhead_hyperv::HypercallStatus;
use bulkhead_reactor::{Time, VirtualReactor};
use bulkhead_vmbus::VmBus;
use guest::{Echo, Guest, Synic, description, offer, rings, wiring};
use parking_lot::Mutex;
use std::sync::Arc;

const RINGS: u64 = 0x10_0000;

/// The same memory, another process: a new bus from what was saved.
fn restored(guest: &Guest) -> Guest {
    let saved = guest.device.save().unwrap();
    let (reactor, handle) = VirtualReactor::new(Time::ZERO, 1).unwrap();
    let synic = Arc::new(Synic::default());
    let bus = VmBus::restored(wiring(&handle, &guest.memory, &synic), &saved).unwrap();
    let again = Guest::around(reactor, handle, guest.memory.clone(), synic, bus);
    assert_eq!(again.device.save().unwrap(), saved, "saved again before the devices are back");
    again
}

#[test]
fn channels_and_messages_in_flight_survive() {
    let mut guest = Guest::new();
    let device = offer(&guest, 1);
    offer(&guest, 2);
    offer(&guest, 3);
    guest.connect();
    guest.open_channel(1, RINGS);
    device.lock().grants = 1;
    guest.signal(1);
    assert_eq!(guest.message().unwrap()[46], 4);
    guest.open_channel(4, RINGS + 0x10000);
    guest.post(&[22, 0, 4, 0]);
    assert_eq!(guest.message(), Some(vec![24, 0, 4, 0]));
    // Half a GPADL, a GPADL that is torn down while in use, a packet nobody has read, a message nobody has handled.
    let half = [8, 0, 2, 0x77, 1 << 16 | 24, 0x2000, 0, 0x100, 0];
    guest.post(&half);
    assert_eq!(guest.make_gpadl(1, 0x99, 0, 1), 0);
    let held = device.lock().channels[0].as_ref().unwrap().gpadl(0x99);
    guest.post(&[11, 0, 1, 0x99]);
    guest.pause();
    rings(&guest, RINGS).send(11, true, b"abcdefgh");
    assert_eq!(guest.signal(1), HypercallStatus::Success);
    assert!(rings(&guest, RINGS).receive().is_none(), "a paused device is not called");
    guest.post(&[7, 0, 4]);
    assert!(device.lock().channels[1].is_some(), "a paused bus handles no messages");

    let mut again = restored(&guest);
    drop((guest, held, device));
    let device = offer(&again, 1);
    offer(&again, 3);
    offer(&again, 5);
    let counts = |device: &Echo| (device.opened, device.restored);
    assert_eq!(counts(&device.lock()), (2, 2));
    assert_eq!(device.lock().user_data[..4], [0x55; 4]);
    again.device.start();
    again.run();
    assert_eq!(rings(&again, RINGS).receive().unwrap().payload(), b"hgfedcba");
    assert_eq!(again.synic.events.lock().pop(), Some((1, 1)));
    assert!(device.lock().channels[1].is_none(), "the close that waited");
    let mut messages = again.messages();
    messages.iter_mut().filter(|message| message[0] == 1).for_each(|offer| *offer = vec![1, offer[46]]);
    assert_eq!(
        messages,
        [vec![1, 5], vec![2, 0, 2], vec![12, 0, 0x99]],
        "a new device, one that is gone, the teardown"
    );
    // The GPADL's channel is gone, so that its second half is refused.
    again.post(&[9, 0, 0, 0x77, 0x101, 0]);
    assert_eq!(again.message(), Some(vec![10, 0, 2, 0x77, 0xc000_0001]));
    again.post(&[13, 0, 2]);
    let late = Arc::new(Mutex::new(Echo::default()));
    again.bus.offer(description(2), late).unwrap();
    assert_eq!(again.message().unwrap()[46], 6);
}

#[test]
fn a_gpadl_goes_on_where_it_was() {
    let mut guest = Guest::new();
    offer(&guest, 1);
    guest.connect();
    guest.post(&[8, 0, 1, 0x77, 1 << 16 | 40, 0x4000, 0, 0x100, 0, 0x101, 0]);
    guest.pause();
    let mut again = restored(&guest);
    offer(&again, 1);
    again.device.start();
    again.post(&[9, 0, 0, 0x77, 0x102, 0, 0x103, 0]);
    assert_eq!(again.message(), Some(vec![10, 0, 1, 0x77, 0]));
    assert_eq!(again.open(1, 0x77, 0, 2), Some(0));
}

#[test]
fn a_ring_that_was_broken_meanwhile_does_no_harm() {
    let mut guest = Guest::new();
    offer(&guest, 1);
    guest.connect();
    guest.open_channel(1, RINGS);
    guest.pause();
    guest.memory.write_u32(RINGS + 4, 0xffff_fff1).unwrap();
    let mut again = restored(&guest);
    let device = offer(&again, 1);
    again.device.start();
    again.run();
    assert_eq!(device.lock().opened, 0);
    again.post(&[7, 0, 1]);
    again.post(&[11, 0, 1, 0xe1e01]);
    assert_eq!(again.messages(), [[12, 0, 0xe1e01]]);
}
