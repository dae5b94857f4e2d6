//! Definitions of virtual switches.

use crate::VERSION;
use bulkhead_ids::SwitchId;
use serde::{Deserialize, Serialize};

/// A virtual switch: the content of its TOML file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwitchDefinition {
    /// Version of the format.
    pub version: u32,
    /// What ports refer to; it survives renaming.
    pub id: SwitchId,
    /// What people call it; unique on the host.
    pub name: String,
    /// What it is for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What it is connected to.
    #[serde(rename = "type")]
    pub kind: SwitchKind,
    /// Longest IP packet, 576 to 9000: with its Ethernet header, frames of up to 9014 bytes.
    #[serde(default = "default_mtu")]
    pub mtu: u16,
    /// Bits per second of the way out, which ports share by their weights; unlimited if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<u64>,
    /// The way out, of an external switch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<Uplink>,
    /// The host's own port: always of an internal switch, of an external one if it is shared with the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostPort>,
}

fn default_mtu() -> u16 {
    1500
}

/// Types of switches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SwitchKind {
    /// VMs among themselves.
    Private,
    /// VMs and the host.
    Internal,
    /// VMs and a network of the host.
    External,
    /// VMs behind an address translation with its services, which are an ordinary port.
    Nat,
}

/// The way out of an external switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Uplink {
    /// NICs of the host: one, or two as a team of which one stands by.
    pub interfaces: Vec<String>,
    /// How they are used.
    #[serde(default)]
    pub mode: UplinkMode,
}

/// Ways to use a NIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UplinkMode {
    /// Frames are taken from the NIC and sent through it; whatever addresses the host has on it stay.
    #[default]
    Packet,
    /// The interface is a bridge of Linux; the switch gets a port of it.
    Bridge,
    /// A macvtap on the NIC.
    Macvtap,
}

/// The host's own port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostPort {
    /// Name of the host's interface; made of the switch's name if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// VLAN; 0 is untagged.
    pub vlan: u16,
    /// Address with prefix that the interface gets, like `192.168.137.1/24`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// What is to be changed of a switch; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SwitchChange {
    /// Another name; ports stay connected.
    pub name: Option<String>,
    /// Another description.
    pub description: Option<String>,
    /// Another MTU.
    pub mtu: Option<u16>,
    /// Another bandwidth; 0 is unlimited.
    pub bandwidth: Option<u64>,
    /// Another VLAN for the host.
    pub host_vlan: Option<u16>,
    /// Share an external switch with the host, or not.
    pub share: Option<bool>,
    /// Share it although the host may lose its connection for good.
    pub force: bool,
}

impl SwitchDefinition {
    /// A switch with nothing special.
    pub fn new(name: impl Into<String>, kind: SwitchKind) -> SwitchDefinition {
        let host = (kind == SwitchKind::Internal).then(HostPort::default);
        let (version, id, name) = (VERSION, SwitchId::new(), name.into());
        SwitchDefinition {
            version,
            id,
            name,
            description: String::new(),
            kind,
            mtu: 1500,
            bandwidth: None,
            uplink: None,
            host,
        }
    }

    /// What is wrong with it, in words for people.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), String> {
        if self.version != VERSION {
            return Err(format!("version {} of the definition: this build reads {VERSION}", self.version));
        }
        check_name(&self.name)?;
        if self.description.len() > 4096 {
            return Err("the description is longer than 4096 bytes".into());
        }
        if !(576..=9000).contains(&self.mtu) {
            return Err(format!("an MTU of {}: use 576 to 9000", self.mtu));
        }
        match (self.kind, &self.uplink) {
            (SwitchKind::External, None) => return Err("an external switch needs an uplink: name a NIC".into()),
            (SwitchKind::External, Some(uplink)) => uplink.check()?,
            (_, Some(_)) => return Err("only an external switch has an uplink".into()),
            (_, None) => {}
        }
        match (self.kind, &self.host) {
            (SwitchKind::Internal, None) => Err("an internal switch has a port of the host".into()),
            (SwitchKind::Private | SwitchKind::Nat, Some(_)) => {
                Err("a private or NAT switch has no port of the host".into())
            }
            (_, Some(host)) if host.vlan > 4094 => Err(format!("there is no VLAN {}", host.vlan)),
            (_, Some(HostPort { interface: Some(name), .. })) => check_interface(name),
            _ => Ok(()),
        }
    }
}

impl Uplink {
    fn check(&self) -> Result<(), String> {
        let most = if self.mode == UplinkMode::Packet { 2 } else { 1 };
        if self.interfaces.is_empty() || self.interfaces.len() > most {
            return Err(format!("an uplink of {} interfaces: name 1 to {most}", self.interfaces.len()));
        }
        if self.interfaces.len() == 2 && self.interfaces[0] == self.interfaces[1] {
            return Err("a team needs two different NICs".into());
        }
        self.interfaces.iter().try_for_each(|name| check_interface(name))
    }
}

/// Names that people give to switches and ports.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let valid = !name.trim().is_empty() && name.trim() == name && name.len() <= 100;
    let valid = valid && !name.chars().any(|character| character.is_control() || character == '/');
    if valid {
        Ok(())
    } else {
        Err(format!("the name {name:?}: use 1 to 100 characters, without slashes and spaces at the ends"))
    }
}

/// Names that Linux gives to interfaces.
pub(crate) fn check_interface(name: &str) -> Result<(), String> {
    let valid = (1..=15).contains(&name.len()) && name != "." && name != "..";
    let valid = valid && !name.starts_with('-');
    let valid = valid && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte));
    if valid { Ok(()) } else { Err(format!("{name:?} is no name of a network interface")) }
}
