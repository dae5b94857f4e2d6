//! Where frames go: addresses, VLANs, guards, rules, copies.

use bulkhead_packets::{FrameMeta, MacAddress, SegmentKind, Segmentation, VlanTag};
use bulkhead_switch_core::*;
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

fn mac(last: u8) -> MacAddress {
    MacAddress([0, 0x15, 0x5D, 0, 0, last])
}

fn frame(to: MacAddress, from: MacAddress, rest: &[u8]) -> Vec<u8> {
    let mut frame = [&to.0[..], &from.0, rest].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

/// A switch with a clock that tests turn.
struct Bench {
    switch: Switch,
    now: u64,
}

impl Bench {
    fn new() -> Bench {
        Bench { switch: Switch::new(1500, 12345), now: 0 }
    }

    fn add(&mut self, policy: Policy) -> PortId {
        self.switch.add(policy, self.now).unwrap()
    }

    /// Where a frame goes: ports and their tags, sorted.
    fn send_tagged(
        &mut self,
        from: PortId,
        bytes: &[u8],
        tag: Option<u16>,
    ) -> Result<Vec<(PortId, Option<u16>)>, DropReason> {
        let meta = FrameMeta { vlan: tag.map(VlanTag::new), ..FrameMeta::default() };
        let mut out = Vec::new();
        self.switch.forward(from, bytes, bytes.len(), &meta, self.now, &mut out)?;
        let mut to: Vec<_> = out.iter().map(|egress| (egress.port, egress.tag.map(VlanTag::id))).collect();
        to.sort();
        Ok(to)
    }

    fn send(&mut self, from: PortId, bytes: &[u8]) -> Result<Vec<PortId>, DropReason> {
        Ok(self.send_tagged(from, bytes, None)?.into_iter().map(|(port, _)| port).collect())
    }
}

const IPV4: [u8; 2] = [8, 0];

#[test]
fn guests_find_each_other_and_the_uplink_gets_what_is_unknown() {
    let mut bench = Bench::new();
    let (a, b) = (bench.add(Policy::guest(mac(1))), bench.add(Policy::guest(mac(2))));
    let uplink = bench.add(Policy::uplink());
    assert_eq!(bench.send(a, &frame(mac(2), mac(1), &IPV4)), Ok(vec![b]));
    assert_eq!(bench.send(a, &frame(MacAddress::BROADCAST, mac(1), &IPV4)), Ok(vec![b, uplink]));
    assert_eq!(bench.send(a, &frame(mac(9), mac(1), &IPV4)), Ok(vec![uplink]), "other guests see no foreign frames");
    assert_eq!(bench.send(uplink, &frame(mac(1), mac(9), &IPV4)), Ok(vec![a]));
    assert_eq!(bench.send(uplink, &frame(mac(8), mac(9), &IPV4)), Err(DropReason::NoReceiver));
    assert_eq!(bench.send(uplink, &frame(mac(1), mac(2), &IPV4)), Err(DropReason::MacInUse));
    assert_eq!(bench.send(a, &frame(mac(2), mac(3), &IPV4)), Err(DropReason::SpoofedMac));
    assert_eq!(bench.send(a, &frame(mac(2), MacAddress::BROADCAST, &IPV4)), Err(DropReason::Malformed));
    assert_eq!(bench.send(a, &[0; 13]), Err(DropReason::Malformed));
    assert_eq!(bench.send(a, &[frame(mac(2), mac(1), &IPV4), vec![0; 1455]].concat()), Err(DropReason::TooLong));
    let counters = *bench.switch.counters(a).unwrap();
    assert_eq!((counters.sent_frames, counters.drops(DropReason::SpoofedMac)), (7, 1));
    bench.switch.remove(b);
    assert_eq!(bench.send(a, &frame(mac(2), mac(1), &IPV4)), Ok(vec![uplink]));
    assert_eq!(bench.send(b, &frame(mac(1), mac(2), &IPV4)), Err(DropReason::Disconnected));
}

#[test]
fn a_frame_to_be_cut_may_be_longer_than_the_mtu() {
    let mut bench = Bench::new();
    let (a, b) = (bench.add(Policy::guest(mac(1))), bench.add(Policy::guest(mac(2))));
    let segmentation = Some(Segmentation { kind: SegmentKind::TcpIpv4, size: 1448, header_len: 66 });
    let meta = FrameMeta { segmentation, ..FrameMeta::default() };
    let mut out = Vec::new();
    let verdict = bench.switch.forward(a, &frame(mac(2), mac(1), &IPV4), 64_000, &meta, 0, &mut out).unwrap();
    assert!(verdict.unicast && out.len() == 1 && out[0].port == b);
}

#[test]
fn learned_addresses_move_and_age() {
    let mut bench = Bench::new();
    let (a, b) = (bench.add(Policy::host()), bench.add(Policy { mac_spoofing: true, ..Policy::guest(mac(2)) }));
    let c = bench.add(Policy::uplink());
    bench.send(c, &frame(mac(2), mac(7), &IPV4)).unwrap();
    assert_eq!(bench.send(a, &frame(mac(7), mac(3), &IPV4)), Ok(vec![c]));
    bench.send(b, &frame(mac(3), mac(7), &IPV4)).unwrap();
    assert_eq!(bench.send(a, &frame(mac(7), mac(3), &IPV4)), Ok(vec![b]), "it moved");
    bench.now = 301 * SECOND;
    assert_eq!(bench.send(a, &frame(mac(7), mac(3), &IPV4)), Ok(vec![b, c]), "nobody knows any more");
    let before = bench.switch.addresses().len();
    bench.now += 1;
    bench.switch.age(bench.now);
    assert_eq!(bench.switch.addresses().len(), before - 1);
}

#[test]
fn stations_that_may_spoof_share_an_address() {
    let cluster = MacAddress([0x02, 0xBF, 10, 0, 0, 100]);
    let mut bench = Bench::new();
    let balanced = |last| Policy { mac_spoofing: true, ..Policy::guest(mac(last)) };
    let (a, b) = (bench.add(balanced(1)), bench.add(balanced(2)));
    let (c, plain) = (bench.add(Policy::uplink()), bench.add(Policy::guest(mac(4))));
    assert_eq!(bench.send(plain, &frame(mac(1), cluster, &IPV4)), Err(DropReason::SpoofedMac));
    assert_eq!(bench.send(c, &frame(cluster, mac(9), &IPV4)), Ok(vec![a, b]), "masked: nobody has sent from it");
    bench.send(a, &frame(mac(9), cluster, &IPV4)).unwrap();
    bench.send(b, &frame(mac(9), cluster, &IPV4)).unwrap();
    bench.send(a, &frame(mac(9), cluster, &IPV4)).unwrap();
    assert_eq!(bench.send(c, &frame(cluster, mac(9), &IPV4)), Ok(vec![a, b]));
    // The same by configuration, and the refusal without spoofing.
    let same = Policy { mac_spoofing: true, ..Policy::guest(mac(1)) };
    let d = bench.add(same);
    assert_eq!(bench.send(c, &frame(mac(1), mac(9), &IPV4)), Ok(vec![a, d]));
    let refused = bench.switch.add(Policy::guest(mac(4)), 0);
    assert_eq!(refused, Err(PolicyError::AddressInUse { mac: mac(4), port: plain.0 }));
    assert_eq!(bench.send(a, &frame(mac(9), mac(4), &IPV4)), Err(DropReason::MacInUse));
}

#[test]
fn a_guest_cannot_fill_the_address_table() {
    let mut bench = Bench::new();
    let a = bench.add(Policy { mac_spoofing: true, ..Policy::guest(mac(1)) });
    let uplink = bench.add(Policy::uplink());
    for index in 0..3000u32 {
        let [_, x, y, z] = index.to_be_bytes();
        assert_eq!(bench.send(a, &frame(mac(9), MacAddress([2, 0, 0, x, y, z]), &IPV4)), Ok(vec![uplink]));
    }
    assert_eq!(bench.switch.addresses().len(), 1025);
    assert_eq!(bench.switch.counters(a).unwrap().drops(DropReason::TableFull), 3000 - 1024);
}

#[test]
fn a_trunk_carries_tags_and_access_ports_do_not() {
    let mut bench = Bench::new();
    let access = |last, vlan| Policy { vlan: VlanMode::Access(vlan), ..Policy::guest(mac(last)) };
    let (a, b, c) = (bench.add(access(1, 10)), bench.add(access(2, 10)), bench.add(access(3, 20)));
    let uplink = bench.add(Policy {
        vlan: VlanMode::Trunk { native: 5, allowed: [10, 20].into_iter().collect() },
        ..Policy::uplink()
    });
    let all = MacAddress::BROADCAST;
    assert_eq!(bench.send_tagged(a, &frame(all, mac(1), &IPV4), None), Ok(vec![(b, None), (uplink, Some(10))]));
    assert_eq!(bench.send_tagged(uplink, &frame(all, mac(9), &IPV4), Some(20)), Ok(vec![(c, None)]));
    assert_eq!(bench.send_tagged(uplink, &frame(all, mac(9), &IPV4), Some(30)), Err(DropReason::Vlan));
    assert_eq!(bench.send_tagged(a, &frame(mac(3), mac(1), &IPV4), None), Ok(vec![(uplink, Some(10))]));
    assert_eq!(bench.send_tagged(a, &frame(all, mac(1), &IPV4), Some(20)), Err(DropReason::Vlan));
    // The same tag in the frame itself; a priority alone is no VLAN; two tags are refused.
    assert_eq!(bench.send_tagged(uplink, &frame(all, mac(9), &[0x81, 0, 0, 20, 8, 0]), None), Ok(vec![(c, None)]));
    assert_eq!(bench.send(a, &frame(mac(2), mac(1), &[0x81, 0, 0x60, 0, 8, 0])), Ok(vec![b]));
    assert_eq!(bench.send(a, &frame(all, mac(1), &[0x81, 0, 0, 0, 0x81, 0, 0, 20])), Err(DropReason::Vlan));
    assert_eq!(bench.send_tagged(uplink, &frame(all, mac(9), &[0x81, 0, 0, 20]), Some(10)), Err(DropReason::Vlan));
}

#[test]
fn private_vlans_keep_ports_apart() {
    let mut bench = Bench::new();
    let isolated = |last| Policy { vlan: VlanMode::Isolated { primary: 5, secondary: 6 }, ..Policy::guest(mac(last)) };
    let community =
        |last| Policy { vlan: VlanMode::Community { primary: 5, secondary: 7 }, ..Policy::guest(mac(last)) };
    let (i1, i2) = (bench.add(isolated(1)), bench.add(isolated(2)));
    let (c1, c2) = (bench.add(community(3)), bench.add(community(4)));
    let secondary = [6, 7].into_iter().collect();
    let p = bench.add(Policy { vlan: VlanMode::Promiscuous { primary: 5, secondary }, ..Policy::guest(mac(5)) });
    let all = MacAddress::BROADCAST;
    assert_eq!(bench.send(i1, &frame(all, mac(1), &IPV4)), Ok(vec![p]));
    assert_eq!(bench.send(c1, &frame(all, mac(3), &IPV4)), Ok(vec![c2, p]));
    assert_eq!(bench.send(p, &frame(all, mac(5), &IPV4)), Ok(vec![i1, i2, c1, c2]));
    assert_eq!(bench.send(i1, &frame(mac(2), mac(1), &IPV4)), Err(DropReason::NoReceiver));
    assert_eq!(bench.send(i1, &frame(mac(5), mac(1), &IPV4)), Ok(vec![p]));
    assert_eq!(bench.send(p, &frame(mac(1), mac(5), &IPV4)), Ok(vec![i1]));
    assert_eq!(bench.send(c1, &frame(mac(4), mac(3), &IPV4)), Ok(vec![c2]));
    assert_eq!(bench.send(c1, &frame(mac(1), mac(3), &IPV4)), Err(DropReason::NoReceiver));
}

/// IPv4 and UDP or ICMP headers.
fn ipv4(protocol: u8, source: [u8; 4], destination: [u8; 4], transport: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, protocol, 0, 0];
    bytes.extend(source.into_iter().chain(destination).chain(transport));
    bytes
}

#[test]
fn guards_stop_what_a_guest_must_not_claim() {
    let own = [IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), IpAddr::V6(Ipv6Addr::new(0xFD00, 0, 0, 0, 0, 0, 0, 1))];
    let mut bench = Bench::new();
    let policy =
        Policy { dhcp_guard: true, router_guard: true, arp_guard: Some(own.to_vec()), ..Policy::guest(mac(1)) };
    let (a, b) = (bench.add(policy), bench.add(Policy::guest(mac(2))));
    let mut send = |rest: &[u8]| bench.send(a, &frame(mac(2), mac(1), rest));
    let (here, there) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    assert_eq!(send(&ipv4(17, here, there, [0, 67, 0, 68])), Err(DropReason::DhcpGuard));
    assert_eq!(send(&ipv4(17, here, there, [0, 68, 0, 67])), Ok(vec![b]), "it may ask");
    assert_eq!(send(&ipv4(1, here, there, [5, 0, 0, 0])), Err(DropReason::RouterGuard));
    assert_eq!(send(&ipv4(1, here, there, [8, 0, 0, 0])), Ok(vec![b]));
    let arp = |sender_mac: MacAddress, sender: [u8; 4]| {
        [&[8, 6, 0, 1, 8, 0, 6, 4, 0, 2][..], &sender_mac.0, &sender, &[0; 6], &there].concat()
    };
    assert_eq!(send(&arp(mac(1), here)), Ok(vec![b]));
    assert_eq!(send(&arp(mac(1), [0; 4])), Ok(vec![b]), "a probe claims nothing");
    assert_eq!(send(&arp(mac(1), there)), Err(DropReason::ArpGuard));
    assert_eq!(send(&arp(mac(2), here)), Err(DropReason::ArpGuard));
    let icmpv6 = |kind: u8, target: IpAddr| {
        let IpAddr::V6(target) = target else { panic!() };
        let mut bytes = vec![0x86, 0xDD, 0x60, 0, 0, 0, 0, 24, 58, 255];
        bytes.extend([0xFE; 32]);
        bytes.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(target.octets());
        bytes
    };
    assert_eq!(send(&icmpv6(134, own[1])), Err(DropReason::RouterGuard));
    assert_eq!(send(&icmpv6(136, own[1])), Ok(vec![b]));
    assert_eq!(send(&icmpv6(136, IpAddr::V6(Ipv6Addr::LOCALHOST))), Err(DropReason::ArpGuard));
    // A first piece without its ports, and headers that do not end.
    let mut short = frame(mac(2), mac(1), &ipv4(17, here, there, [0, 67, 0, 68]));
    short.truncate(36);
    assert_eq!(bench.send(a, &short), Err(DropReason::Malformed));
    let endless = [&[0x86, 0xDD, 0x60, 0, 0, 0, 0, 24, 0, 255][..], &[0; 120]].concat();
    assert_eq!(bench.send(a, &frame(mac(2), mac(1), &endless)), Err(DropReason::Malformed));
    let chatty = Policy { storm_limit: Some(5), ..Policy::guest(mac(3)) };
    let c = bench.add(chatty);
    let results: Vec<_> = (0..8).map(|_| bench.send(c, &frame(MacAddress::BROADCAST, mac(3), &IPV4))).collect();
    assert_eq!(results.iter().filter(|result| **result == Err(DropReason::Storm)).count(), 3);
    assert_eq!(bench.send(c, &frame(mac(1), mac(3), &IPV4)), Ok(vec![a]));
}

#[test]
fn the_first_rule_that_matches_decides() {
    let prefix = |bits| IpPrefix::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 0)), bits);
    assert_eq!(prefix(33), None);
    let web = AclRule {
        protocol: Some(6),
        remote_port: Some((80, 80)),
        remote: prefix(8),
        ..AclRule::all(AclAction::Allow, AclDirection::Both)
    };
    let nothing_else = AclRule { remote: prefix(0), ..AclRule::all(AclAction::Deny, AclDirection::Both) };
    let mut bench = Bench::new();
    let (a, b) =
        (bench.add(Policy { acl: vec![web, nothing_else], ..Policy::guest(mac(1)) }), bench.add(Policy::guest(mac(2))));
    let (local, server) = ([10, 0, 0, 1], [10, 9, 9, 9]);
    assert_eq!(bench.send(a, &frame(mac(2), mac(1), &ipv4(6, local, server, [9, 9, 0, 80]))), Ok(vec![b]));
    assert_eq!(bench.send(b, &frame(mac(1), mac(2), &ipv4(6, server, local, [0, 80, 9, 9]))), Ok(vec![a]));
    assert_eq!(bench.send(a, &frame(mac(2), mac(1), &ipv4(6, local, server, [9, 9, 0, 81]))), Err(DropReason::Acl));
    assert_eq!(bench.send(b, &frame(mac(1), mac(2), &ipv4(17, server, local, [0, 80, 9, 9]))), Err(DropReason::Acl));
    assert_eq!(
        bench.send(a, &frame(mac(2), mac(1), &ipv4(6, local, [11, 0, 0, 1], [9, 9, 0, 80]))),
        Err(DropReason::Acl)
    );
    assert_eq!(bench.send(a, &frame(mac(2), mac(1), &[8, 6])), Ok(vec![b]), "rules about IP do not stop ARP");
}

#[test]
fn copies_go_to_whoever_watches() {
    let mut bench = Bench::new();
    let (a, b) = (
        bench.add(Policy { mirror: Mirror::Source, vlan: VlanMode::Access(7), ..Policy::guest(mac(1)) }),
        bench.add(Policy { vlan: VlanMode::Access(7), ..Policy::guest(mac(2)) }),
    );
    let c = bench.add(Policy { vlan: VlanMode::Access(7), ..Policy::guest(mac(3)) });
    let watcher = bench.add(Policy { mirror: Mirror::Destination, ..Policy::guest(mac(4)) });
    assert_eq!(bench.send_tagged(a, &frame(mac(2), mac(1), &IPV4), None), Ok(vec![(b, None), (watcher, Some(7))]));
    assert_eq!(bench.send_tagged(b, &frame(mac(1), mac(2), &IPV4), None), Ok(vec![(a, None), (watcher, Some(7))]));
    assert_eq!(bench.send_tagged(b, &frame(mac(3), mac(2), &IPV4), None), Ok(vec![(c, None)]));
}

/// A port of the model: its VLANs in and out, written down without the switch's own rules.
#[derive(Clone, Debug)]
struct Modelled {
    mode: VlanMode,
    sends_into: u16,
    hears: Vec<u16>,
}

fn modelled() -> impl Strategy<Value = Modelled> {
    prop_oneof![
        (0u16..4).prop_map(|v| Modelled { mode: VlanMode::Access(v), sends_into: v, hears: vec![v] }),
        (0u16..4, proptest::collection::vec(1u16..6, 0..4)).prop_map(|(native, tagged)| Modelled {
            mode: VlanMode::Trunk { native, allowed: tagged.iter().copied().collect() },
            sends_into: native,
            hears: [vec![native], tagged].concat(),
        }),
        Just(Modelled { mode: VlanMode::Isolated { primary: 1, secondary: 4 }, sends_into: 4, hears: vec![1] }),
        Just(Modelled { mode: VlanMode::Community { primary: 1, secondary: 5 }, sends_into: 5, hears: vec![1, 5] }),
        Just(Modelled {
            mode: VlanMode::Promiscuous { primary: 1, secondary: [4, 5].into_iter().collect() },
            sends_into: 1,
            hears: vec![1, 4, 5],
        }),
    ]
}

proptest! {
    #[test]
    fn broadcasts_reach_exactly_those_who_hear_their_vlan_and_unicasts_never_more(
        ports in proptest::collection::vec(modelled(), 2..12), sends in proptest::collection::vec((0usize..12, 0usize..13), 1..40),
    ) {
        let mut bench = Bench::new();
        for (index, port) in ports.iter().enumerate() {
            bench.add(Policy { vlan: port.mode.clone(), ..Policy::guest(mac(index as u8)) });
        }
        for (from, to) in sends {
            let (from, sender) = (from % ports.len(), mac((from % ports.len()) as u8));
            let hear: Vec<_> = (0..ports.len())
                .filter(|&other| other != from && ports[other].hears.contains(&ports[from].sends_into))
                .map(|index| PortId(index as u16))
                .collect();
            let destination = if to < ports.len() { mac(to as u8) } else { MacAddress::BROADCAST };
            let got = bench.send(PortId(from as u16), &frame(destination, sender, &IPV4)).unwrap_or_default();
            if destination.is_group() {
                prop_assert_eq!(got, hear);
            } else {
                let expected: Vec<_> = hear.into_iter().filter(|port| usize::from(port.0) == to).collect();
                prop_assert_eq!(got, expected);
            }
        }
    }
}
