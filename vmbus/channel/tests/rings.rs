//! Rings against a plain model: everything arrives once, in order, whatever the sizes; and both sides are woken whenever they
//! could wait for ever.

use bulkhead_guest_log::GuestLog;
use bulkhead_guest_memory::{GuestMemory, GuestRange};
use bulkhead_reactor::{Time, VirtualReactor};
use bulkhead_vmbus_channel::test_support::GuestChannel;
use bulkhead_vmbus_channel::{Channel, Gpadl, GpadlError, Outgoing, PacketKind, SendError};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const WRITE: u64 = 0;
const READ: u64 = 4;
const MASK: u64 = 8;
const PENDING: u64 = 12;

struct Pair {
    memory: GuestMemory,
    guest: GuestChannel,
    channel: Channel,
}

fn pair(pages: u32) -> Pair {
    let memory = GuestMemory::builder().anonymous(0, 1 << 20).build().unwrap();
    let (_reactor, handle) = VirtualReactor::new(Time::ZERO, 1).unwrap();
    let log = Arc::new(GuestLog::new(&handle, "test"));
    let guest = GuestChannel::new(&memory, 0x4000, pages);
    let channel = guest.open(0, &log, false);
    Pair { memory, guest, channel }
}

impl Pair {
    fn field(&self, ring: u64, field: u64) -> u32 {
        self.memory.read_u32(self.guest.control(ring, field)).unwrap()
    }

    fn set(&self, ring: u64, field: u64, value: u32) {
        self.memory.write_u32(self.guest.control(ring, field), value).unwrap();
    }

    fn signals(&self) -> u32 {
        self.guest.host.signals.swap(0, Ordering::SeqCst)
    }

    fn send(&mut self, payload: &[u8]) -> Result<(), SendError> {
        self.channel.send(Outgoing::InBand { transaction: 1, wants_completion: false, payload })
    }
}

fn payload(seed: u8, len: usize) -> Vec<u8> {
    (0..len * 8).map(|at| (at as u8).wrapping_mul(7).wrapping_add(seed)).collect()
}

#[derive(Debug, Clone)]
enum Act {
    GuestSends(u8, usize),
    HostReceives(usize),
    HostSends(u8, usize),
    GuestReceives(usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (any::<u8>(), 0usize..200).prop_map(|(seed, len)| Act::GuestSends(seed, len)),
        (0usize..8).prop_map(Act::HostReceives),
        (any::<u8>(), 0usize..200).prop_map(|(seed, len)| Act::HostSends(seed, len)),
        (0usize..8).prop_map(Act::GuestReceives),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn everything_arrives_once_and_in_order(acts in prop::collection::vec(act(), 1..200)) {
        let mut pair = pair(2);
        let (mut to_host, mut to_guest) = (VecDeque::new(), VecDeque::new());
        for (number, act) in acts.into_iter().enumerate() {
            match act {
                Act::GuestSends(seed, len) => {
                    let data = payload(seed, len);
                    if pair.guest.has_room(data.len() as u32 + 24) {
                        pair.guest.send(number as u64, false, &data);
                        to_host.push_back((number as u64, data));
                    }
                }
                Act::HostReceives(count) => for _ in 0..count {
                    let got = pair.channel.receive().map(|packet| (packet.transaction(), packet.payload().to_vec()));
                    prop_assert_eq!(got, to_host.pop_front());
                }
                Act::HostSends(seed, len) => {
                    let data = payload(seed, len);
                    let room = pair.channel.room() as usize;
                    match pair.send(&data) {
                        Ok(()) => { prop_assert!(data.len() + 24 <= room); to_guest.push_back(data); }
                        Err(error) => { prop_assert_eq!(error, SendError::Full { len: data.len() + 24 }); prop_assert!(data.len() + 24 > room); }
                    }
                }
                Act::GuestReceives(count) => for _ in 0..count {
                    prop_assert_eq!(pair.guest.receive().map(|packet| packet.payload().to_vec()), to_guest.pop_front());
                }
            }
            prop_assert!(!pair.channel.is_broken());
        }
    }
}

#[test]
fn the_guest_is_signalled_when_it_could_wait_for_data() {
    let mut pair = pair(2);
    pair.send(&[1; 8]).unwrap();
    assert_eq!(pair.signals(), 1, "the ring was empty");
    pair.send(&[2; 8]).unwrap();
    assert_eq!(pair.signals(), 0, "the guest has not read the first one");
    while pair.guest.receive().is_some() {}
    pair.set(1, MASK, 1);
    pair.send(&[3; 8]).unwrap();
    assert_eq!(pair.signals(), 0, "masked");
    while pair.guest.receive().is_some() {}
    pair.set(1, MASK, 0);
    for value in 0..5 {
        let packet = Outgoing::InBand { transaction: 1, wants_completion: false, payload: &[value; 8] };
        pair.channel.push(packet).unwrap();
    }
    assert!(pair.guest.receive().is_none(), "not shown yet");
    pair.channel.flush();
    assert_eq!(pair.signals(), 1, "one signal for all");
}

#[test]
fn signals_of_the_guest_are_masked_while_there_are_packets() {
    let mut pair = pair(2);
    pair.guest.send(1, false, &[0; 8]);
    pair.guest.send(2, false, &[0; 8]);
    assert!(pair.channel.receive().is_some());
    assert_eq!(pair.field(0, MASK), 1);
    assert!(pair.channel.receive().is_some());
    assert!(pair.channel.receive().is_none());
    assert_eq!(pair.field(0, MASK), 0, "the next packet is to be signalled");
}

#[test]
fn each_side_wakes_the_other_one_when_there_is_room() {
    let mut pair = pair(2);
    // The host is blocked.
    while pair.send(&[0; 1000]).is_ok() {}
    let needed = pair.field(1, PENDING);
    assert!(needed >= 1024, "{needed}");
    pair.guest.receive().unwrap();
    pair.send(&[0; 1000]).unwrap();
    assert_eq!(pair.field(1, PENDING), 0);
    // The guest is blocked, with its signals for data masked or not.
    pair.signals();
    for _ in 0..3 {
        pair.guest.send(1, false, &[0; 1000]);
    }
    pair.set(0, PENDING, 2047);
    assert!(pair.channel.receive().is_some());
    assert_eq!(pair.signals(), 1, "2047 bytes are free now, and were not before");
    assert!(pair.channel.receive().is_some());
    assert_eq!(pair.signals(), 0);
}

#[test]
fn what_the_guest_breaks_ends_the_channel() {
    for (ring, field, value) in [(0, WRITE, 4096), (0, WRITE, 12), (1, READ, 1 << 31), (1, READ, 4)] {
        let mut pair = pair(2);
        pair.set(ring, field, value);
        assert!(pair.channel.receive().is_none());
        assert!(ring == 0 || pair.send(&[0; 8]) == Err(SendError::Broken));
        assert!(pair.channel.is_broken(), "{ring} {field} {value}");
        assert_eq!(pair.channel.room(), 0);
    }
    // Packets longer than the ring's contents, and shorter than a descriptor.
    for len8 in [0u8, 1, 4, 255] {
        let mut pair = pair(2);
        pair.guest.put(&[6, 0, 2, 0, len8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert!(pair.channel.receive().is_none());
        assert!(pair.channel.is_broken(), "{len8}");
    }
    let mut pair = pair(2);
    pair.guest.put(&[0; 8]);
    assert!(pair.channel.receive().is_none() && pair.channel.is_broken(), "less than a descriptor");
}

#[test]
fn packets_that_never_fit_are_refused() {
    let mut pair = pair(2);
    assert_eq!(pair.send(&[0; 4096]), Err(SendError::TooLong { len: 4120, capacity: 4088 }));
    assert_eq!(pair.send(&[0; 4064]), Ok(()));
    assert!(!pair.channel.is_broken());
}

#[test]
fn guest_pages_of_a_packet_are_one_list() {
    let mut pair = pair(2);
    pair.memory.write(0x2_0ff0, &[7; 16]).unwrap();
    pair.memory.write(0x3_0000, &[8; 16]).unwrap();
    pair.guest.send_pages(5, 32, 0xff0, &[0x20, 0x30], &[1; 64]);
    let packet = pair.channel.receive().unwrap();
    assert_eq!((packet.kind(), packet.payload(), packet.data_len()), (PacketKind::GpaDirect, &[1; 64][..], 32));
    let list = pair.channel.scatter_list(packet.data()).unwrap();
    let mut data = [0; 32];
    list.copy_to_slice(0, &mut data).unwrap();
    assert_eq!((data[..16].to_vec(), data[16..].to_vec()), (vec![7; 16], vec![8; 16]));
    pair.guest.send_pages(5, 32, 0, &[0x100], &[1; 64]);
    let packet = pair.channel.receive().unwrap();
    assert!(pair.channel.scatter_list(packet.data()).is_err(), "beyond RAM");
}

#[test]
fn gpadls_are_what_their_pages_are() {
    let memory = GuestMemory::builder().anonymous(0, 1 << 16).build().unwrap();
    let gpadl = Gpadl::new(memory.clone(), 6000, 3000, vec![5, 2, 9]).unwrap();
    gpadl.write(1000, &[1; 200]).unwrap();
    assert_eq!(memory.read_u8(5 * 4096 + 4000).unwrap(), 1);
    assert_eq!(memory.read_u8(2 * 4096 + 103).unwrap(), 1);
    assert_eq!(memory.read_u8(2 * 4096 + 104).unwrap(), 0);
    let ranges: Vec<_> = gpadl.ranges(1096, 4097).unwrap().collect();
    assert_eq!(ranges, [GuestRange { gpa: 0x2000, len: 4096 }, GuestRange { gpa: 0x9000, len: 1 }]);
    assert!(matches!(gpadl.read(5999, &mut [0; 2]), Err(GpadlError::OutOfRange { .. })));
    for (len, offset, pages) in [(4096, 1, vec![1]), (4096, 4096, vec![1, 2]), (0, 0, vec![]), (4096, 0, vec![1, 2])] {
        assert!(matches!(Gpadl::new(memory.clone(), len, offset, pages), Err(GpadlError::BadPages { .. })));
    }
    assert!(matches!(Gpadl::new(memory, 4096, 0, vec![u64::MAX >> 4]), Err(GpadlError::NotRam(_))));
}
