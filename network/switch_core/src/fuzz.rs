//! Fuzz target: frames through a switch whose ports have every policy.
#![doc(hidden)]

use crate::{AclAction, AclDirection, AclRule, IpPrefix, Mirror, Policy, PortId, Switch, VlanMode};
use bulkhead_packets::{FrameMeta, MacAddress, VlanTag};
use std::net::{IpAddr, Ipv4Addr};

/// Sends `data`, in pieces, from all ports.
pub fn fuzz(data: &[u8]) {
    let mut switch = Switch::new(1500, 7);
    let guest = |last| Policy::guest(MacAddress([0, 0x15, 0x5D, 0, 0, last]));
    let rule = AclRule {
        remote: IpPrefix::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 0)), 8),
        remote_port: Some((0, 1024)),
        ..AclRule::all(AclAction::Deny, AclDirection::Both)
    };
    let guarded = Policy {
        dhcp_guard: true,
        router_guard: true,
        arp_guard: Some(vec![IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1))]),
        acl: vec![rule],
        mac_spoofing: true,
        storm_limit: Some(10),
        mirror: Mirror::Source,
        ..guest(1)
    };
    let trunk = Policy { vlan: VlanMode::trunk_of_all(), ..guest(2) };
    let isolated = Policy { vlan: VlanMode::Isolated { primary: 5, secondary: 6 }, ..guest(3) };
    let watcher = Policy { mirror: Mirror::Destination, ..guest(4) };
    for policy in [guarded, trunk, isolated, watcher, Policy::host(), Policy::uplink()] {
        let _ = switch.add(policy, 0);
    }
    let mut out = Vec::new();
    let mut rest = data;
    let mut now = 0;
    while let Some((&[port, len, tag], after)) = rest.split_first_chunk::<3>() {
        let (frame, after) = after.split_at(after.len().min(len.into()));
        rest = after;
        now += u64::from(tag) << 20;
        let meta = FrameMeta { vlan: (tag & 1 != 0).then(|| VlanTag(tag.into())), ..FrameMeta::default() };
        let from = PortId(u16::from(port) % 7);
        if switch.forward(from, frame, frame.len(), &meta, now, &mut out).is_ok() {
            assert!(out.iter().all(|egress| egress.port != from), "nothing goes back to where it came from");
        }
    }
    switch.age(now);
}
