//! Headers, checksums and segmentation, judged by tshark.
#![allow(clippy::disallowed_methods, reason = "tshark is a process")]

use bulkhead_packets::*;
use proptest::prelude::*;
use std::net::{IpAddr, Ipv6Addr};
use std::process::Command;

/// Ethernet, IP and TCP or UDP headers with a partial checksum, then `payload` bytes.
fn frame(v6: bool, tcp: bool, payload: usize) -> (Vec<u8>, FrameMeta) {
    let mut frame = vec![0x02, 0, 0, 0, 0, 2, 0x02, 0, 0, 0, 0, 1];
    let transport_len = if tcp { 32 } else { 8 } + payload;
    let protocol = if tcp { 6 } else { 17 };
    if v6 {
        frame.extend([0x86, 0xDD, 0x60, 0, 0, 0]);
        frame.extend((transport_len as u16).to_be_bytes());
        frame.extend([protocol, 64]);
        frame.extend(Ipv6Addr::new(0xFD00, 0, 0, 0, 0, 0, 0, 1).octets());
        frame.extend(Ipv6Addr::new(0xFD00, 0, 0, 0, 0, 0, 0, 2).octets());
    } else {
        frame.extend([8, 0, 0x45, 0]);
        frame.extend(((transport_len + 20) as u16).to_be_bytes());
        frame.extend([0x12, 0x34, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        let sum = !internet_checksum(&frame[14..34], 0);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    let start = frame.len();
    frame.extend([0x13, 0x88, 0x17, 0x70]);
    if tcp {
        // Sequence number near its wrap, data offset 8 words, PSH ACK FIN, timestamps.
        frame.extend([0xFF, 0xFF, 0xF0, 0, 0, 0, 0, 1, 0x80, 0x19, 0xFF, 0xFF, 0, 0, 0, 0]);
        frame.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    } else {
        frame.extend((transport_len as u16).to_be_bytes());
        frame.extend([0, 0]);
    }
    frame.extend((0..payload).map(|index| (index * 7) as u8));
    let offset = if tcp { 16 } else { 6 };
    let addresses = if v6 { 22..54 } else { 26..34 };
    let sum = internet_checksum(&frame[addresses], u32::from(protocol) + transport_len as u32);
    frame[start + offset..start + offset + 2].copy_from_slice(&sum.to_be_bytes());
    let checksum = Checksum::Partial { start: start as u16, offset: offset as u16 };
    (frame, FrameMeta { checksum, ..FrameMeta::default() })
}

/// What tshark says of each frame of a capture, one line per frame.
fn tshark(capture: &[u8], fields: &[&str]) -> Option<Vec<String>> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, capture).unwrap();
    let mut command = Command::new("tshark");
    command.args(["-o", "tcp.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"]);
    command.args(["-o", "tcp.desegment_tcp_streams:FALSE", "-T", "fields", "-r"]).arg(file.path());
    for field in fields {
        command.args(["-e", field]);
    }
    let output = command.output();
    let Ok(output) = output else {
        eprintln!("skipped: tshark is not installed");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect())
}

#[test]
fn pieces_have_good_checksums_lengths_and_sequence_numbers() {
    let mut capture = PcapngWriter::new(Vec::new(), "test", 65_535).unwrap();
    let mut expected = Vec::new();
    for (v6, kind) in [(false, SegmentKind::TcpIpv4), (true, SegmentKind::TcpIpv6), (false, SegmentKind::Udp)] {
        let tcp = kind != SegmentKind::Udp;
        let (frame, mut meta) = frame(v6, tcp, 10_000);
        meta.segmentation = Some(Segmentation { kind, size: 1400, header_len: 0 });
        let mut pieces = segments(&frame, &meta).unwrap();
        let (mut piece, mut payload) = (Vec::new(), Vec::new());
        let mut sequence = 0xFFFF_F000_u32;
        while let Some(meta) = pieces.next(&mut piece) {
            assert_eq!(meta, FrameMeta { checksum: Checksum::Verified, ..FrameMeta::default() });
            capture.frame(1_700_000_000_000_000_000, Direction::Outbound, &piece, piece.len()).unwrap();
            let headers = if v6 { 54 } else { 34 } + if tcp { 32 } else { 8 };
            payload.extend_from_slice(&piece[headers..]);
            let last = payload.len() == 10_000;
            let len = piece.len() - headers;
            let ip = if v6 { "" } else { "1" };
            expected.push(match tcp {
                true => format!("{ip}\t1\t\t{sequence}\t{len}\t{}", if last { "0x0019" } else { "0x0010" }),
                false => format!("{ip}\t\t1\t\t\t"),
            });
            sequence = sequence.wrapping_add(len as u32);
        }
        assert_eq!(payload, frame[frame.len() - 10_000..]);
    }
    let fields =
        ["ip.checksum.status", "tcp.checksum.status", "udp.checksum.status", "tcp.seq_raw", "tcp.len", "tcp.flags"];
    let Some(said) = tshark(capture.get_mut(), &fields) else { return };
    assert_eq!(said, expected);
}

#[test]
fn a_partial_checksum_is_completed() {
    let mut capture = PcapngWriter::new(Vec::new(), "test", 65_535).unwrap();
    let mut frames = 0;
    for v6 in [false, true] {
        for tcp in [false, true] {
            for payload in [0, 1, 2, 7, 8, 9, 1001] {
                let (mut frame, mut meta) = frame(v6, tcp, payload);
                complete_checksum(&mut frame, &mut meta);
                assert_eq!(meta.checksum, Checksum::Verified);
                capture.frame(0, Direction::Inbound, &frame, frame.len()).unwrap();
                frames += 1;
            }
        }
    }
    let Some(said) = tshark(capture.get_mut(), &["tcp.checksum.status", "udp.checksum.status"]) else { return };
    assert_eq!(said.len(), frames);
    assert!(said.iter().all(|line| line.trim() == "1"), "{said:?}");
}

#[test]
fn headers_are_read_behind_tags_and_extensions() {
    let (mut frame, mut meta) = frame(true, true, 0);
    let tag = VlanTag::new(5).with_id(20);
    let bytes = insert_tag(&mut FrameMeta { vlan: Some(tag), ..meta }).unwrap();
    frame.splice(12..12, bytes);
    // A hop-by-hop header of 8 bytes and a first fragment in front of TCP.
    frame[18 + 6] = 0;
    frame.splice(58..58, [44, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 1, 0, 0, 0, 9]);
    let ethernet = Ethernet::parse(&frame).unwrap();
    assert_eq!((ethernet.tag, ethernet.ethertype, ethernet.payload), (Some(VlanTag(20)), 0x86DD, 18));
    let Network::Ip(ip) = Network::parse(&ethernet, &frame) else { panic!() };
    assert_eq!((ip.protocol, ip.payload, ip.later_fragment), (6, 74, false));
    assert_eq!(ip.transport, Some(Transport::Ports { source: 5000, destination: 6000 }));
    assert_eq!(ip.destination, IpAddr::from(Ipv6Addr::new(0xFD00, 0, 0, 0, 0, 0, 0, 2)));
    // The rest of an address cut off, and a later fragment.
    assert_eq!(Network::parse(&ethernet, &frame[..50]), Network::BrokenIp);
    frame[68] = 1;
    let Network::Ip(ip) = Network::parse(&ethernet, &frame) else { panic!() };
    assert!(ip.later_fragment && ip.transport.is_none());

    meta.checksum = Checksum::Partial { start: 58, offset: 16 };
    remove_tag(&mut meta, tag);
    assert_eq!(meta.checksum, Checksum::Partial { start: 54, offset: 16 });
    assert_eq!(insert_tag(&mut meta), Some(bytes));
    assert_eq!((meta.checksum, meta.vlan), (Checksum::Partial { start: 58, offset: 16 }, None));
}

#[test]
fn mac_addresses_are_read_in_three_forms() {
    let mac = MacAddress([0, 0x15, 0x5D, 1, 2, 0xAF]);
    for text in ["00-15-5D-01-02-AF", "00:15:5d:01:02:af", "00155d0102AF"] {
        assert_eq!(text.parse(), Ok(mac));
    }
    assert_eq!(mac.to_string(), "00-15-5D-01-02-AF");
    for text in ["", "00-15-5D-01-02", "00-15-5D-01-02-AG", "00155d0102+F", "00-15-5D-01-02-é", "00.15.5D.01.02.AF"] {
        assert!(text.parse::<MacAddress>().is_err(), "{text}");
    }
    assert!(MacAddress::BROADCAST.is_group() && !mac.is_group());
    assert_eq!(mac.to_u64(), 0x0015_5D01_02AF);
}

proptest! {
    #[test]
    fn the_sum_is_that_of_rfc_1071(bytes in proptest::collection::vec(any::<u8>(), 0..300), start in 0u32..200_000) {
        let mut sum = u64::from(start);
        for pair in bytes.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
        while sum >> 16 != 0 {
            sum = (sum & 0xFFFF) + (sum >> 16);
        }
        let got = internet_checksum(&bytes, start);
        // Ones' complement has two zeros.
        prop_assert!(u64::from(got) == sum || u64::from(got) % 0xFFFF == sum % 0xFFFF);
    }
}
