//! [`Policy`]: everything that is configured of a port.

use crate::{AclRule, VlanMode};
use bulkhead_packets::MacAddress;
use std::net::IpAddr;

/// What is behind a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// A VM, or a service that has one address.
    Guest,
    /// The host.
    Host,
    /// A network with other stations: unknown destinations are there.
    Uplink,
}

/// What of a port's traffic is copied, to the destination of its switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mirror {
    /// Nothing.
    #[default]
    None,
    /// All frames that it sends and receives.
    Source,
    /// It receives the copies of all source ports.
    Destination,
}

/// The policy of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What is behind it.
    pub kind: PortKind,
    /// Its own address. Needed for guests without spoofing.
    pub mac: Option<MacAddress>,
    /// It may send from any address, and it receives frames to unknown ones.
    pub mac_spoofing: bool,
    /// The cable is in.
    pub connected: bool,
    /// VLANs.
    pub vlan: VlanMode,
    /// It may not answer DHCP.
    pub dhcp_guard: bool,
    /// It may not advertise routes.
    pub router_guard: bool,
    /// The only addresses that it may claim by ARP and neighbour discovery.
    pub arp_guard: Option<Vec<IpAddr>>,
    /// Access rules, in order.
    pub acl: Vec<AclRule>,
    /// Copies.
    pub mirror: Mirror,
    /// Frames per second to groups and to unknown addresses.
    pub storm_limit: Option<u32>,
    /// Share of a busy way out, relative to other ports; 1 to 10 000.
    pub weight: u16,
    /// Bits per second that it may send; more waits in its ring.
    pub send_limit: Option<u64>,
    /// Bits per second that it takes: for an uplink, the rate that ports share by their weights.
    pub receive_limit: Option<u64>,
}

/// A policy that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// A guest without an address of its own, which may not use others.
    #[error("a port needs a MAC address, or MAC spoofing")]
    NoAddress,
    /// A group address.
    #[error("{0} is a group address: no NIC has it")]
    GroupAddress(MacAddress),
    /// Another port has it, and not both allow spoofing.
    #[error("{mac} is the address of port {port}: give this port another, or allow MAC spoofing on both")]
    AddressInUse {
        /// The address.
        mac: MacAddress,
        /// Index of the holder.
        port: u16,
    },
    /// VLANs go to 4094.
    #[error("there is no VLAN {0}: use 1 to 4094, or 0 for untagged")]
    Vlan(u16),
    /// Weights go from 1 to 10 000.
    #[error("a weight of {0}: use 1 to 10000")]
    Weight(u16),
    /// A switch has 65 535 ports at most.
    #[error("the switch has no room for another port")]
    TooManyPorts,
}

impl Policy {
    /// A guest in the untagged network, with no rules.
    pub fn guest(mac: MacAddress) -> Policy {
        Policy { mac: Some(mac), ..Policy::open(PortKind::Guest) }
    }

    /// A way out, for all VLANs.
    pub fn uplink() -> Policy {
        Policy { vlan: VlanMode::trunk_of_all(), ..Policy::open(PortKind::Uplink) }
    }

    /// The host, which may bridge what it likes.
    pub fn host() -> Policy {
        Policy { mac_spoofing: true, ..Policy::open(PortKind::Host) }
    }

    fn open(kind: PortKind) -> Policy {
        Policy {
            kind,
            mac: None,
            mac_spoofing: kind == PortKind::Uplink,
            connected: true,
            vlan: VlanMode::Access(0),
            dhcp_guard: false,
            router_guard: false,
            arp_guard: None,
            acl: Vec::new(),
            mirror: Mirror::None,
            storm_limit: None,
            weight: 100,
            send_limit: None,
            receive_limit: None,
        }
    }

    /// Whether frames have to be looked at beyond Ethernet when the port sends.
    pub(crate) fn guards(&self) -> bool {
        self.dhcp_guard || self.router_guard || self.arp_guard.is_some()
    }

    pub(crate) fn check(&self) -> Result<(), PolicyError> {
        if self.kind == PortKind::Guest && self.mac.is_none() && !self.mac_spoofing {
            return Err(PolicyError::NoAddress);
        }
        if let Some(mac) = self.mac.filter(|mac| mac.is_group()) {
            return Err(PolicyError::GroupAddress(mac));
        }
        if !(1..=10_000).contains(&self.weight) {
            return Err(PolicyError::Weight(self.weight));
        }
        let vlans = match &self.vlan {
            VlanMode::Access(vlan) | VlanMode::Trunk { native: vlan, .. } => [*vlan, 0],
            VlanMode::Promiscuous { primary, .. } => [*primary, 0],
            VlanMode::Isolated { primary, secondary } | VlanMode::Community { primary, secondary } => {
                [*primary, *secondary]
            }
        };
        match vlans.into_iter().find(|&vlan| vlan > 4094) {
            Some(vlan) => Err(PolicyError::Vlan(vlan)),
            None => Ok(()),
        }
    }
}
