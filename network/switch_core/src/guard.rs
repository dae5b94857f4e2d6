//! Guards: what a port may not claim to be.

use crate::{DropReason, Policy};
use bulkhead_packets::{Ethernet, Ip, Network, Transport};
use std::net::IpAddr;

const ICMP: u8 = 1;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const DHCP_SERVER: u16 = 67;
const DHCPV6_SERVER: u16 = 547;

fn has_transport(ip: &Ip) -> bool {
    !ip.later_fragment && matches!(ip.protocol, ICMP | UDP | ICMPV6)
}

/// Why the port may not send this.
pub(crate) fn refuses(policy: &Policy, ethernet: &Ethernet, network: &Network) -> Option<DropReason> {
    match network {
        // A first piece too short for its ports would be completed by the next one, unseen.
        Network::Ip(ip) if policy.guards() && ip.transport.is_none() && has_transport(ip) => {
            Some(DropReason::Malformed)
        }
        Network::Ip(ip) => {
            if policy.dhcp_guard
                && ip.protocol == UDP
                && let Some(Transport::Ports { source: DHCP_SERVER | DHCPV6_SERVER, .. }) = ip.transport
            {
                return Some(DropReason::DhcpGuard);
            }
            if let Some(Transport::Icmp { kind, target }) = ip.transport {
                // Router advertisements and redirects of both versions.
                if policy.router_guard && matches!((ip.protocol, kind), (ICMPV6, 134 | 137) | (ICMP, 5 | 9)) {
                    return Some(DropReason::RouterGuard);
                }
                // A neighbour advertisement claims its target.
                if let (Some(own), ICMPV6, 136) = (&policy.arp_guard, ip.protocol, kind)
                    && target.is_none_or(|target| !own.contains(&IpAddr::from(target)))
                {
                    return Some(DropReason::ArpGuard);
                }
            }
            None
        }
        Network::Arp(arp) => {
            let own = policy.arp_guard.as_ref()?;
            // A probe asks before it claims: it has no sender address yet.
            let claims = arp.sender.is_unspecified() || own.contains(&IpAddr::from(arp.sender));
            (!claims || arp.sender_mac != ethernet.source).then_some(DropReason::ArpGuard)
        }
        // What a guest would still understand, but we cannot, must not get around the guards.
        Network::BrokenIp if policy.guards() => Some(DropReason::Malformed),
        Network::BrokenIp | Network::Other => None,
    }
}
