//! An adapter as a driver sees it, and as the switch does.

use std::sync::Arc;

use bulkhead_device::Device;
use bulkhead_guest_log::GuestLog;
use bulkhead_guest_memory::{GuestMemory, PAGE_SIZE};
use bulkhead_network_vsp::{Config, NetworkAdapter};
use bulkhead_packets::{Checksum, FrameMeta, MacAddress, SegmentKind, VlanTag};
use bulkhead_port::{Nic, PortRing, RingSize};
use bulkhead_reactor::{Reactor, Time, VirtualReactor};
use bulkhead_vmbus_channel::test_support::GuestChannel;
use bulkhead_vmbus_channel::{ChannelDevice, Gpadl, PacketKind};
use parking_lot::Mutex;

const RECEIVE_BUFFER: u64 = 1 << 20;
const RECEIVE_BYTES: u64 = 64 << 10;
const SEND_BUFFER: u64 = 2 << 20;
const PAGES: u64 = 3 << 20;
const ADDRESS: MacAddress = MacAddress([0, 0x15, 0x5D, 1, 2, 3]);

struct Vm {
    _driver: VirtualReactor,
    reactor: Reactor,
    memory: GuestMemory,
    guest: GuestChannel,
    adapter: Arc<Mutex<NetworkAdapter>>,
    switch: PortRing,
}

fn config() -> Config {
    Config { name: "nic0".into(), address: ADDRESS, link_speed: 10_000_000_000, max_channels: 4 }
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

impl Vm {
    fn new() -> Vm {
        let memory = GuestMemory::builder().anonymous(0, 4 << 20).build().unwrap();
        let (driver, reactor) = VirtualReactor::new(Time::ZERO, 1).unwrap();
        let guest = GuestChannel::new(&memory, 0, 16);
        for (handle, at, len) in [(1, RECEIVE_BUFFER, RECEIVE_BYTES), (2, SEND_BUFFER, 64 << 10)] {
            let pages = (at / PAGE_SIZE..(at + len) / PAGE_SIZE).collect();
            assert!(guest.gpadls.insert(handle, Gpadl::new(memory.clone(), len as u32, 0, pages).unwrap()));
        }
        let adapter = NetworkAdapter::new(config(), &reactor);
        let (nic, switch) = bulkhead_port::pair(RingSize::default()).unwrap();
        adapter.lock().connect(nic).unwrap();
        let vm = Vm { _driver: driver, reactor, memory, guest, adapter, switch };
        vm.open(false);
        vm
    }

    fn open(&self, restored: bool) {
        let log = Arc::new(GuestLog::new(&self.reactor, "nic0"));
        self.adapter.lock().open(self.guest.open(0, &log, restored)).unwrap();
    }

    fn signal(&self) {
        self.adapter.lock().signalled(0);
    }

    /// Sends an NVSP request and returns the payload of its completion.
    fn request(&self, message: &[u32]) -> Vec<u8> {
        let mut payload = words(message);
        payload.resize(40, 0);
        self.guest.send(99, true, &payload);
        self.signal();
        let packet = self.guest.receive().expect("a completion");
        assert_eq!((packet.kind(), packet.transaction()), (PacketKind::Completion, 99));
        packet.payload().to_vec()
    }

    /// Sends an RNDIS control message in guest pages; returns the answer.
    fn control(&self, message: &[u8]) -> Vec<u8> {
        self.memory.write(PAGES, message).unwrap();
        let mut nvsp = words(&[107, 1, u32::MAX, 0]);
        nvsp.resize(40, 0);
        self.guest.send_pages(5, message.len() as u32, 0, &[PAGES / PAGE_SIZE], &nvsp);
        self.signal();
        let mut received = self.receive();
        assert_eq!(received.len(), 1, "one answer");
        let completion = self.guest.receive().expect("the completion of the request");
        assert_eq!(word(completion.payload(), 4), 1);
        received.remove(0)
    }

    fn query(&self, oid: u32) -> (u32, Vec<u8>) {
        let answer = self.control(&words(&[4, 28, 42, oid, 0, 0, 0]));
        assert_eq!((word(&answer, 0), word(&answer, 8)), (0x8000_0004, 42));
        (word(&answer, 12), answer[24..].to_vec())
    }

    fn set(&self, oid: u32, value: &[u8]) -> u32 {
        let mut message = words(&[5, 28 + value.len() as u32, 43, oid, value.len() as u32, 20, 0]);
        message.extend(value);
        let answer = self.control(&message);
        assert_eq!((word(&answer, 0), word(&answer, 8)), (0x8000_0005, 43));
        word(&answer, 12)
    }

    /// The RNDIS messages of the next transfer-pages packet; gives its sections back.
    fn receive(&self) -> Vec<Vec<u8>> {
        let raw = self.guest.receive_raw().expect("a packet");
        assert_eq!(raw[0], 7, "transfer pages");
        let count = word(&raw, 20) as usize;
        let ranges = raw[24..].chunks_exact(8).take(count);
        let messages = ranges.map(|range| {
            let mut message = vec![0; word(range, 0) as usize];
            self.memory.read(RECEIVE_BUFFER + u64::from(word(range, 4)), &mut message).unwrap();
            message
        });
        let messages = messages.collect();
        self.guest.complete(u64::from_le_bytes(raw[8..16].try_into().unwrap()), &words(&[108, 1]));
        self.signal();
        messages
    }

    fn start(&self) {
        assert_eq!(self.request(&[1, 0x5_0000, 0x5_0000])[12], 1);
        self.request(&[125, 1514, 0, 0, 0]);
        self.request(&[100, 6, 30]);
        let sections = self.request(&[101, 1, 0xCAFE]);
        assert_eq!((word(&sections, 0), word(&sections, 4), word(&sections, 8)), (102, 1, 1));
        assert!(word(&sections, 16) >= 1514 + 44 && word(&sections, 16) * word(&sections, 20) <= RECEIVE_BYTES as u32);
        let section = self.request(&[104, 2, 0]);
        assert_eq!((word(&section, 4), word(&section, 8)), (1, 6144));
        let initialized = self.control(&words(&[2, 24, 1, 1, 0, 0x4000]));
        assert_eq!((word(&initialized, 0), word(&initialized, 12)), (0x8000_0002, 0));
        assert_eq!(self.set(0x0001_010E, &words(&[0xB])), 0);
    }

    /// A packet message in section 0 of the send buffer.
    fn transmit(&self, info: &[u8], frame: &[u8]) {
        let mut message =
            words(&[1, (44 + info.len() + frame.len()) as u32, 36 + info.len() as u32, frame.len() as u32]);
        message.extend(words(&[0, 0, 0, 36, info.len() as u32, 0, 0]));
        message.extend(info);
        message.extend(frame);
        self.memory.write(SEND_BUFFER, &message).unwrap();
        let completion = self.request(&[107, 0, 0, message.len() as u32]);
        assert_eq!((word(&completion, 0), word(&completion, 4)), (108, 1));
    }

    fn at_switch(&mut self) -> (Vec<u8>, FrameMeta) {
        let frame = self.switch.rx.peek().unwrap().expect("a frame");
        let mut bytes = Vec::new();
        frame.read_all(&mut bytes).unwrap();
        let meta = *frame.meta();
        self.switch.rx.advance();
        self.switch.rx.release().unwrap();
        (bytes, meta)
    }

    fn deliver(&mut self, frames: &[(Vec<u8>, FrameMeta)]) {
        for (frame, meta) in frames {
            assert!(self.switch.tx.send(meta, &[frame]).unwrap());
        }
        self.switch.tx.publish().unwrap();
        self.signal();
    }
}

fn frame(to: MacAddress, len: usize) -> Vec<u8> {
    let mut frame = to.0.to_vec();
    frame.extend([2, 0, 0, 0, 0, 9, 0x88, 0xB5]);
    frame.extend((14..len).map(|at| at as u8));
    frame
}

#[test]
fn a_driver_starts_and_learns_what_it_has() {
    let vm = Vm::new();
    vm.start();
    assert_eq!(vm.query(0x0101_0101), (0, ADDRESS.0.to_vec()));
    assert_eq!(vm.query(0x0001_0114), (0, words(&[0])));
    assert_eq!(vm.query(0x0001_0107), (0, words(&[100_000_000])));
    assert_eq!(vm.query(0xFFFF_FFFF), (0xC000_00BB, Vec::new()));
    let (status, offloads) = vm.query(0xFC01_020D);
    assert_eq!((status, offloads.len(), offloads[0], offloads[2]), (0, 112, 0xA7, 112));
}

#[test]
fn newer_versions_are_refused_and_the_next_is_taken() {
    let vm = Vm::new();
    assert_eq!(word(&vm.request(&[1, 0x6_0001, 0x6_0001]), 12), 3);
    let answer = vm.request(&[1, 0x5_0000, 0x5_0000]);
    assert_eq!((word(&answer, 4), word(&answer, 12)), (0x5_0000, 1));
}

#[test]
fn frames_pass_both_ways_with_their_tags() {
    let mut vm = Vm::new();
    vm.start();
    let sent = frame(MacAddress::BROADCAST, 70);
    let vlan = words(&[16, 6, 12, 5 | 0x123 << 4]);
    vm.transmit(&vlan, &sent);
    let (bytes, meta) = vm.at_switch();
    assert_eq!((bytes, meta.vlan), (sent, Some(VlanTag(5 << 13 | 0x123))));

    let to_us = frame(ADDRESS, 80);
    let to_others = frame(MacAddress([2, 0, 0, 0, 0, 1]), 80);
    let tagged = FrameMeta { vlan: Some(VlanTag(0x123)), ..FrameMeta::default() };
    vm.deliver(&[(to_us.clone(), tagged), (to_others, tagged), (to_us.clone(), FrameMeta::default())]);
    let messages = vm.receive();
    assert_eq!(messages.len(), 2, "a batch, without what the filter does not let through");
    assert_eq!(&messages[0][44..60], &words(&[16, 6, 12, 0x123 << 4])[..]);
    assert_eq!(&messages[0][60..], &to_us[..]);
    assert_eq!(&messages[1][44..], &to_us[..]);
}

#[test]
fn large_sends_get_complete_headers() {
    let mut vm = Vm::new();
    vm.start();
    let mut sent = frame(MacAddress([2, 0, 0, 0, 0, 1]), 14);
    sent[12..14].copy_from_slice(&[8, 0]);
    sent.extend([0x45, 0, 0, 0, 0, 1, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    sent.extend([0x1F, 0x90, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    sent.extend(vec![7; 4000]);
    let large_send = words(&[16, 2, 12, 1400 | 34 << 20 | 1 << 30]);
    vm.transmit(&large_send, &sent);
    let (bytes, meta) = vm.at_switch();
    let segmentation = meta.segmentation.expect("it is to be cut");
    assert_eq!((segmentation.kind, segmentation.size, segmentation.header_len), (SegmentKind::TcpIpv4, 1400, 54));
    assert_eq!(meta.checksum, Checksum::Partial { start: 34, offset: 16 });
    assert_eq!(u16::from_be_bytes([bytes[16], bytes[17]]), 4040, "the length of the packet");
    let sum = |bytes: &[u8]| {
        let sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        (sum & 0xFFFF) + (sum >> 16)
    };
    assert_eq!(sum(&bytes[14..34]), 0xFFFF, "the header's checksum");
    // 10.0.0.1 + 10.0.0.2 + TCP + its length
    assert_eq!(u16::from_be_bytes([bytes[50], bytes[51]]), 0x0A00 + 1 + 0x0A00 + 2 + 6 + 4020);
}

#[test]
fn sections_that_the_guest_has_stay_lent_over_a_restore() {
    let mut vm = Vm::new();
    vm.start();
    let frames: Vec<_> = (0..100).map(|at| (frame(ADDRESS, 60 + at), FrameMeta::default())).collect();
    vm.deliver(&frames);
    let mut lent = Vec::new();
    while let Some(raw) = vm.guest.receive_raw() {
        lent.push(raw);
    }
    let received: u32 = lent.iter().map(|raw| word(raw, 20)).sum();
    assert!(received < 100, "the buffer has no room for all");

    let saved = {
        let mut adapter = vm.adapter.lock();
        adapter.pause(bulkhead_device::QuiesceToken::new(|| ()));
        adapter.save().unwrap()
    };
    vm.adapter = NetworkAdapter::restored(config(), &vm.reactor, &saved).unwrap();
    let (nic, switch) = bulkhead_port::pair(RingSize::default()).unwrap();
    vm.switch = switch;
    vm.adapter.lock().connect(nic).unwrap();
    vm.open(true);
    vm.adapter.lock().start();
    vm.deliver(&[(frame(ADDRESS, 60), FrameMeta::default())]);
    assert!(vm.guest.receive_raw().is_none(), "nothing is free");
    for raw in &lent {
        vm.guest.complete(u64::from_le_bytes(raw[8..16].try_into().unwrap()), &words(&[108, 1]));
    }
    vm.signal();
    assert_eq!(vm.receive().len(), 1);
    assert_eq!(vm.query(0x0001_010E), (0, words(&[0xB])), "the filter is what it was");
}

#[test]
fn sub_channels_are_granted_up_to_the_limit() {
    let vm = Vm::new();
    vm.start();
    let answer = vm.request(&[133, 1, 10]);
    assert_eq!((word(&answer, 4), word(&answer, 8)), (1, 3));
    let table = vm.guest.receive().expect("the table");
    assert_eq!((word(table.payload(), 0), word(table.payload(), 4)), (134, 16));
}

#[test]
fn the_guest_sees_the_cable() {
    let vm = Vm::new();
    vm.start();
    vm.adapter.lock().disconnect();
    assert_eq!(word(&vm.receive()[0], 8), 0x4001_000C);
    assert_eq!(vm.query(0x0001_0114), (0, words(&[1])));
    let (nic, _switch) = bulkhead_port::pair(RingSize::default()).unwrap();
    vm.adapter.lock().connect(nic).unwrap();
    assert_eq!(word(&vm.receive()[0], 8), 0x4001_000B);
}
