//! Settings of ports.

use crate::VlanList;
use crate::definition::check_name;
use serde::{Deserialize, Serialize};

/// Everything that can be set of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PortSettings {
    /// What people call it: the VM and its adapter.
    pub name: String,
    /// Its address, `00-15-5D-01-02-03`; one from the host's range if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// It may send from other addresses.
    pub mac_spoofing: bool,
    /// The cable is in.
    pub connected: bool,
    /// VLANs.
    pub vlan: VlanSettings,
    /// It may not answer DHCP.
    pub dhcp_guard: bool,
    /// It may not advertise routes.
    pub router_guard: bool,
    /// The only IP addresses that it may claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arp_guard: Option<Vec<std::net::IpAddr>>,
    /// Access rules; the first that matches decides.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub acl: Vec<AclEntry>,
    /// Copies of its traffic.
    pub mirror: MirrorName,
    /// Broadcasts per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storm_limit: Option<u32>,
    /// Share of a busy way out, 1 to 10 000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// Bits per second that it has at least of a busy way out whose bandwidth is set; in place of a weight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_bandwidth: Option<u64>,
    /// Bits per second that it may send.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bandwidth: Option<u64>,
    /// Removed when nothing has been attached to it for half a minute.
    pub ephemeral: bool,
}

impl Default for PortSettings {
    fn default() -> Self {
        PortSettings {
            name: String::new(),
            mac: None,
            mac_spoofing: false,
            connected: true,
            vlan: VlanSettings::Access(0),
            dhcp_guard: false,
            router_guard: false,
            arp_guard: None,
            acl: Vec::new(),
            mirror: MirrorName::None,
            storm_limit: None,
            weight: None,
            min_bandwidth: None,
            max_bandwidth: None,
            ephemeral: false,
        }
    }
}

impl PortSettings {
    /// What is wrong with them, in words for people.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), String> {
        check_name(&self.name)?;
        if self.acl.len() > 256 || self.arp_guard.as_ref().is_some_and(|addresses| addresses.len() > 256) {
            return Err("more than 256 rules or addresses".into());
        }
        if self.weight.is_some() && self.min_bandwidth.is_some() {
            return Err("a weight and a minimum bandwidth: set one of them".into());
        }
        Ok(())
    }
}

/// VLANs of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VlanSettings {
    /// Untagged, in this VLAN; 0 is the untagged network.
    Access(u16),
    /// Tagged.
    Trunk {
        /// VLAN of untagged frames.
        #[serde(default)]
        native: u16,
        /// The others.
        allowed: VlanList,
    },
    /// Private VLAN, alone.
    Isolated {
        /// VLAN of the promiscuous ports.
        primary: u16,
        /// Its own.
        secondary: u16,
    },
    /// Private VLAN, with its community.
    Community {
        /// VLAN of the promiscuous ports.
        primary: u16,
        /// That of the community.
        secondary: u16,
    },
    /// Private VLAN, with everybody in it.
    Promiscuous {
        /// Its own.
        primary: u16,
        /// Those of the isolated and community ports.
        secondary: VlanList,
    },
}

/// Copies of a port's traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MirrorName {
    /// None.
    #[default]
    None,
    /// Of all that it sends and receives.
    Source,
    /// It receives the copies.
    Destination,
}

/// One access rule. What is absent matches everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AclEntry {
    /// What it does.
    pub action: AclActionName,
    /// Which way.
    pub direction: AclDirectionName,
    /// The other station's Ethernet address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_mac: Option<String>,
    /// The port owner's IP addresses, like `10.0.0.0/8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<String>,
    /// The other station's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// IP protocol: 6 TCP, 17 UDP, 1 ICMP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u8>,
    /// The owner's TCP or UDP ports, from and to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_port: Option<(u16, u16)>,
    /// The other station's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_port: Option<(u16, u16)>,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AclActionName {
    /// Lets it pass.
    Allow,
    /// Drops it.
    Deny,
}

/// Frames that a rule is about, as the port's owner sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AclDirectionName {
    /// Received ones.
    Inbound,
    /// Sent ones.
    Outbound,
    /// All.
    Both,
}
