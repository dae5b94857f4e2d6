//! Rings carry every frame once, in order and unchanged, across threads and across the end of the ring.
#![allow(clippy::disallowed_methods, reason = "the two sides of a port are two processes: here, two threads")]

use bulkhead_linux::SeqPacket;
use bulkhead_packets::{Checksum, FrameMeta, MAX_FRAME, SegmentKind, Segmentation, VlanTag};
use bulkhead_port::{
    AttachError, AttachOptions, Connector, Port, PortInfo, PortRing, RingError, RingSize, accept, pair, refuse, tell,
};
use proptest::prelude::*;
use rustix::event::{PollFd, PollFlags, poll};

fn smallest() -> RingSize {
    RingSize::new(256 << 10).unwrap()
}

fn wait(ring: &PortRing) -> Result<(), RingError> {
    poll(&mut [PollFd::new(&ring.wake, PollFlags::IN)], None).unwrap();
    ring.wake.clear()
}

fn meta() -> impl Strategy<Value = FrameMeta> {
    let checksum = prop_oneof![
        Just(Checksum::InFrame),
        Just(Checksum::Verified),
        (0u16..30, 0u16..20).prop_map(|(start, offset)| Checksum::Partial { start, offset })
    ];
    let kind = prop_oneof![Just(SegmentKind::TcpIpv4), Just(SegmentKind::TcpIpv6), Just(SegmentKind::Udp)];
    let segmentation = proptest::option::of((kind, 1u16.., 0u16..60));
    (checksum, segmentation, proptest::option::of(any::<u16>()), any::<u32>()).prop_map(
        |(checksum, segmentation, vlan, hash)| FrameMeta {
            checksum,
            segmentation: segmentation
                .filter(|_| matches!(checksum, Checksum::Partial { .. }))
                .map(|(kind, size, header_len)| Segmentation { kind, size, header_len }),
            vlan: vlan.map(VlanTag),
            hash,
        },
    )
}

proptest! {
    #[test]
    fn frames_arrive_as_they_were_sent(frames in proptest::collection::vec((60usize..3000, meta()), 1..400)) {
        let (mut nic, mut switch) = pair(smallest()).unwrap();
        let mut received = Vec::new();
        let mut bytes = Vec::new();
        let mut drain = |received: &mut Vec<(Vec<u8>, FrameMeta)>| {
            while let Some(frame) = switch.rx.peek().unwrap() {
                frame.read_all(&mut bytes).unwrap();
                received.push((bytes.clone(), *frame.meta()));
                switch.rx.advance();
            }
            switch.rx.release().unwrap();
        };
        for (index, (len, meta)) in frames.iter().enumerate() {
            let body = vec![index as u8; *len];
            if !nic.tx.send(meta, &[&body[..20], &body[20..]]).unwrap() {
                nic.tx.publish().unwrap();
                drain(&mut received);
                assert!(nic.tx.send(meta, &[&body]).unwrap(), "a drained ring takes any frame");
            }
        }
        nic.tx.publish().unwrap();
        drain(&mut received);
        prop_assert_eq!(received.len(), frames.len());
        for (index, ((bytes, got), (len, sent))) in received.iter().zip(&frames).enumerate() {
            prop_assert!(bytes.len() == *len && bytes.iter().all(|&byte| byte == index as u8));
            prop_assert_eq!(got, sent);
        }
    }
}

#[test]
fn a_million_frames_cross_threads_with_both_sides_sleeping() {
    const FRAMES: u32 = 1_000_000;
    let (mut nic, mut switch) = pair(smallest()).unwrap();
    let sender = std::thread::spawn(move || {
        let mut index = 0u32;
        while index < FRAMES {
            let len = 60 + (index % 1400) as usize;
            let mut body = [0; 1500];
            body[..4].copy_from_slice(&index.to_le_bytes());
            body[len - 4..len].copy_from_slice(&index.to_le_bytes());
            if nic.tx.send(&FrameMeta::default(), &[&body[..len]]).unwrap() {
                index += 1;
                if index.is_multiple_of(7) {
                    nic.tx.publish().unwrap();
                }
            } else if nic.tx.wait_for_room().unwrap() {
                wait(&nic).unwrap();
            }
        }
        nic.tx.publish().unwrap();
        nic
    });
    let mut expected = 0u32;
    let mut bytes = Vec::new();
    while expected < FRAMES {
        if let Some(frame) = switch.rx.peek().unwrap() {
            frame.read_all(&mut bytes).unwrap();
            let at_end = bytes.len() - 4;
            assert_eq!(bytes[..4], expected.to_le_bytes());
            assert_eq!(bytes[at_end..], expected.to_le_bytes());
            expected += 1;
            switch.rx.advance();
            switch.rx.release_some().unwrap();
        } else if switch.rx.sleep().unwrap() {
            wait(&switch).unwrap();
        }
    }
    drop(sender.join().unwrap());
    assert!(matches!(switch.wake.clear().and_then(|()| switch.wake.clear()), Err(RingError::Gone)));
}

#[test]
fn malformed_frames_are_refused_and_a_full_ring_says_so() {
    let (mut nic, mut switch) = pair(smallest()).unwrap();
    assert!(matches!(nic.tx.send(&FrameMeta::default(), &[&[0; 13]]), Err(RingError::Frame(_))));
    assert!(matches!(nic.tx.send(&FrameMeta::default(), &[&vec![0; MAX_FRAME + 1]]), Err(RingError::Frame(_))));
    let outside = FrameMeta { checksum: Checksum::Partial { start: 50, offset: 16 }, ..FrameMeta::default() };
    assert!(matches!(nic.tx.send(&outside, &[&[0; 60]]), Err(RingError::Frame(_))));
    let long = vec![7; MAX_FRAME];
    let mut sent = 0;
    while nic.tx.send(&FrameMeta::default(), &[&long]).unwrap() {
        sent += 1;
    }
    assert_eq!(sent, 3, "256 KiB hold three of the longest frames");
    nic.tx.publish().unwrap();
    assert!(!nic.tx.is_drained().unwrap());
    for _ in 0..sent {
        assert_eq!(switch.rx.peek().unwrap().unwrap().len(), MAX_FRAME);
        switch.rx.advance();
    }
    assert!(switch.rx.sleep().unwrap());
    assert!(nic.tx.is_drained().unwrap());
}

fn info() -> PortInfo {
    PortInfo { switch: "lan".into(), port: "vm1".into(), mac: "00-15-5D-00-00-01".into(), mtu: 1500, link_up: true }
}

#[test]
fn the_handshake_attaches_refuses_and_brings_news() {
    let (at_nic, at_switch) = SeqPacket::pair().unwrap();
    let switch = std::thread::spawn(move || {
        let offer = accept(at_switch.receive().unwrap().unwrap()).unwrap();
        assert_eq!(offer.ticket(), "t1");
        assert_eq!(offer.options(), AttachOptions::ALL);
        let (ring, welcome) = offer.attach().unwrap();
        welcome.send(&at_switch, &info()).unwrap();
        (ring, at_switch)
    });
    let mut port = Port::attach_over(at_nic, "t1", RingSize::default(), AttachOptions::ALL).unwrap();
    let (mut ring, at_switch) = switch.join().unwrap();
    assert_eq!(*port.control.info(), info());
    ring.tx.send(&FrameMeta::default(), &[&[9; 64]]).unwrap();
    ring.tx.publish().unwrap();
    assert_eq!(port.ring.rx.peek().unwrap().unwrap().len(), 64);
    assert!(!port.control.news().unwrap());
    tell(&at_switch, &PortInfo { link_up: false, ..info() }).unwrap();
    assert!(port.control.news().unwrap());
    assert!(!port.control.info().link_up);
    drop((ring, at_switch));
    assert!(matches!(port.control.news(), Err(AttachError::NoAnswer)));

    let (at_nic, at_switch) = SeqPacket::pair().unwrap();
    refuse(&at_switch, "no such port".into());
    let refused = Port::attach_over(at_nic, "t2", RingSize::default(), AttachOptions::default());
    assert!(matches!(refused, Err(AttachError::Refused { message }) if message == "no such port"));
    let nobody = Connector::at_path("/nonexistent/ports", "t");
    let unreachable = Port::attach(&nobody, RingSize::default(), AttachOptions::default());
    assert!(matches!(unreachable, Err(AttachError::Connect { .. })));
}
