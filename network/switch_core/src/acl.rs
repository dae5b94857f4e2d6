//! Access rules of a port.

use bulkhead_packets::{Ip, MacAddress, Transport};
use std::net::IpAddr;

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AclAction {
    /// Lets it pass; later rules are not asked.
    Allow,
    /// Drops it.
    Deny,
}

/// Frames that a rule is about, as the port's owner sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AclDirection {
    /// Those that it receives.
    Inbound,
    /// Those that it sends.
    Outbound,
    /// All.
    Both,
}

/// Addresses with the same first bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpPrefix {
    address: IpAddr,
    bits: u8,
}

impl IpPrefix {
    /// `None` if there are not that many bits.
    pub fn new(address: IpAddr, bits: u8) -> Option<IpPrefix> {
        let most = if address.is_ipv4() { 32 } else { 128 };
        (bits <= most).then_some(IpPrefix { address, bits })
    }

    /// Whether `address` starts with those bits.
    pub fn contains(self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let differ = u32::from(own) ^ u32::from(other);
                differ.checked_shr(32 - u32::from(self.bits)).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let differ = u128::from(own) ^ u128::from(other);
                differ.checked_shr(128 - u32::from(self.bits)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// One rule. What is `None` matches everything; a rule with an IP address, a protocol or a port matches IP packets only. The first
/// rule that matches decides; when none does, the frame passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AclRule {
    /// What it does.
    pub action: AclAction,
    /// Which way.
    pub direction: AclDirection,
    /// The other station's Ethernet address.
    pub remote_mac: Option<MacAddress>,
    /// The port owner's IP address.
    pub local: Option<IpPrefix>,
    /// The other station's IP address.
    pub remote: Option<IpPrefix>,
    /// IP protocol: 6 TCP, 17 UDP, 1 ICMP.
    pub protocol: Option<u8>,
    /// The owner's TCP or UDP port, from and to.
    pub local_port: Option<(u16, u16)>,
    /// The other station's.
    pub remote_port: Option<(u16, u16)>,
}

/// A frame, seen from the port that a rule belongs to.
pub(crate) struct Seen<'a> {
    pub(crate) outbound: bool,
    pub(crate) remote_mac: MacAddress,
    pub(crate) ip: Option<&'a Ip>,
}

impl AclRule {
    /// Matches everything.
    pub fn all(action: AclAction, direction: AclDirection) -> AclRule {
        let (remote_mac, local, remote, protocol, local_port, remote_port) = (None, None, None, None, None, None);
        AclRule { action, direction, remote_mac, local, remote, protocol, local_port, remote_port }
    }

    fn matches(&self, seen: &Seen<'_>) -> bool {
        let direction = match self.direction {
            AclDirection::Both => true,
            AclDirection::Outbound => seen.outbound,
            AclDirection::Inbound => !seen.outbound,
        };
        if !direction || self.remote_mac.is_some_and(|mac| mac != seen.remote_mac) {
            return false;
        }
        let wants_ports = self.local_port.is_some() || self.remote_port.is_some();
        if self.local.is_none() && self.remote.is_none() && self.protocol.is_none() && !wants_ports {
            return true;
        }
        let Some(ip) = seen.ip else { return false };
        let (local, remote) = if seen.outbound { (ip.source, ip.destination) } else { (ip.destination, ip.source) };
        let addresses = self.local.is_none_or(|prefix| prefix.contains(local))
            && self.remote.is_none_or(|prefix| prefix.contains(remote))
            && self.protocol.is_none_or(|protocol| protocol == ip.protocol);
        if !addresses || !wants_ports {
            return addresses;
        }
        // Pieces without ports: their first piece was judged, and nothing can be made of them without it.
        let Some(Transport::Ports { source, destination }) = ip.transport else { return false };
        let (local, remote) = if seen.outbound { (source, destination) } else { (destination, source) };
        let within = |range: Option<(u16, u16)>, port| range.is_none_or(|(from, to)| (from..=to).contains(&port));
        within(self.local_port, local) && within(self.remote_port, remote)
    }
}

/// Whether the rules let a frame pass.
pub(crate) fn passes(rules: &[AclRule], seen: &Seen<'_>) -> bool {
    rules.iter().find(|rule| rule.matches(seen)).is_none_or(|rule| rule.action == AclAction::Allow)
}
