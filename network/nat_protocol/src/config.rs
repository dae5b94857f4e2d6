//! What a NAT is told about its network.

use bulkhead_packets::MacAddress;
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddrV4};

/// A NAT network. In the definition of a switch and on the way to `bulkhead-nat`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NatConfig {
    /// Address of the gateway, which is also DNS, DHCP and boot server.
    pub gateway: Ipv4Addr,
    /// Bits of the network's prefix: 16 to 30.
    pub prefix: u8,
    /// First and last address that DHCP gives; by default everything between gateway and broadcast, but the first nine.
    pub range: Option<(Ipv4Addr, Ipv4Addr)>,
    /// Longest IP packet.
    pub mtu: u16,
    /// The domain of the guests' names.
    pub domain: String,
    /// How long a lease lives, in seconds.
    pub lease_seconds: u32,
    /// Whether the gateway's address leads to 127.0.0.1 of the host, for ports that the gateway does not serve itself.
    pub host_access: bool,
    /// DNS servers that are asked for what the NAT does not know.
    pub dns: Vec<SocketAddrV4>,
    /// Addresses and names by MAC address.
    pub reservations: Vec<Reservation>,
    /// Ports of the host that lead to guests.
    pub forwards: Vec<Forward>,
    /// What guests boot from the network.
    pub boot: BootConfig,
}

/// A guest that always gets the same address or name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reservation {
    /// `00-15-5D-01-02-03`.
    pub mac: String,
    /// Its address; `None` leaves it to the range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// Its name in the domain, usually that of the VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The file that it boots, in place of the network's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_file: Option<String>,
}

/// A port of the host that leads to a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// Which protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// Where the host listens.
    pub listen: SocketAddrV4,
    /// The guest and its port.
    pub guest: SocketAddrV4,
}

/// A protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// What guests boot from the network. Names are files of the boot folder, by TFTP and HTTP, or whole `http://` addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BootConfig {
    /// For BIOS machines (PXE client architecture 0), such as `undionly.kpxe` or `pxelinux.0`.
    pub bios: Option<String>,
    /// For x86-64 UEFI machines (7 and 9), such as `snponly.efi`.
    pub uefi: Option<String>,
    /// For iPXE, such as `boot.ipxe`: a script or a kernel.
    pub ipxe: Option<String>,
}

impl Default for NatConfig {
    fn default() -> NatConfig {
        NatConfig {
            gateway: Ipv4Addr::new(192, 168, 137, 1),
            prefix: 24,
            range: None,
            mtu: 1500,
            domain: "internal".into(),
            lease_seconds: 86_400,
            host_access: false,
            dns: Vec::new(),
            reservations: Vec::new(),
            forwards: Vec::new(),
            boot: BootConfig::default(),
        }
    }
}

/// A mistake in a [`NatConfig`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the NAT network {network} cannot be: {reason}")]
pub struct ConfigError {
    network: String,
    reason: String,
}

/// The network as numbers, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// The gateway's address.
    pub gateway: Ipv4Addr,
    /// The mask of its prefix.
    pub mask: Ipv4Addr,
    /// The broadcast address.
    pub broadcast: Ipv4Addr,
    /// First address that DHCP gives.
    pub first: Ipv4Addr,
    /// Last address that DHCP gives.
    pub last: Ipv4Addr,
}

impl Network {
    /// Whether an address is one of the network.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        address & self.mask == self.gateway & self.mask
    }

    /// An address that a guest can have.
    pub fn is_guest(&self, address: Ipv4Addr) -> bool {
        let net = self.gateway & self.mask;
        self.contains(address) && address != self.gateway && address != self.broadcast && address != net
    }
}

impl NatConfig {
    /// Checks everything that needs nothing but the configuration.
    ///
    /// # Errors
    /// The first mistake.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.network().map(drop)
    }

    /// The network as numbers.
    ///
    /// # Errors
    /// The first mistake.
    pub fn network(&self) -> Result<Network, ConfigError> {
        let wrong = |reason: String| Err(ConfigError { network: format!("{}/{}", self.gateway, self.prefix), reason });
        if !(16..=30).contains(&self.prefix) {
            return wrong("its prefix must have 16 to 30 bits".into());
        }
        let mask = Ipv4Addr::from(u32::MAX << (32 - self.prefix));
        let net = self.gateway & mask;
        let broadcast = self.gateway | !mask;
        if self.gateway == net || self.gateway == broadcast || !self.gateway.is_private() {
            return wrong("the gateway must be a host's address of a private network (RFC 1918)".into());
        }
        let size = u32::from(broadcast) - u32::from(net);
        let skip = if size > 32 { 10 } else { 1 };
        let range =
            self.range.unwrap_or((Ipv4Addr::from(u32::from(net) + skip), Ipv4Addr::from(u32::from(broadcast) - 1)));
        let network = Network { gateway: self.gateway, mask, broadcast, first: range.0, last: range.1 };
        if range.0 > range.1 || !network.contains(range.0) || !network.contains(range.1) {
            return wrong(format!("its range {} to {} is not in it", range.0, range.1));
        }
        if !(576..=9000).contains(&self.mtu) {
            return wrong(format!("its MTU is {}; 576 to 9000 are possible", self.mtu));
        }
        if self.lease_seconds < 60 {
            return wrong("leases must live for 60 seconds at least".into());
        }
        if let Err(reason) = self.check_reservations(&network) {
            return wrong(reason);
        }
        for forward in &self.forwards {
            if !network.is_guest(*forward.guest.ip()) || forward.guest.port() == 0 || forward.listen.port() == 0 {
                return wrong(format!("the forward {} to {} leads nowhere", forward.listen, forward.guest));
            }
        }
        if !self.domain.split('.').all(is_label) {
            return wrong(format!("`{}` is no domain", self.domain));
        }
        Ok(network)
    }

    fn check_reservations(&self, network: &Network) -> Result<(), String> {
        for (index, reservation) in self.reservations.iter().enumerate() {
            let Reservation { mac, address, name, .. } = reservation;
            let parsed: MacAddress = mac.parse().map_err(|error| format!("{error}"))?;
            if let Some(address) = address
                && !network.is_guest(*address)
            {
                return Err(format!("{address}, reserved for {mac}, is no guest's address"));
            }
            if let Some(name) = name
                && !is_label(name)
            {
                return Err(format!("`{name}`, the name of {mac}, is no host name"));
            }
            for other in &self.reservations[..index] {
                if other.mac.parse() == Ok(parsed) {
                    return Err(format!("{mac} is reserved twice"));
                }
                if address.is_some() && other.address == *address {
                    return Err(format!("{mac} and {} have the same address reserved", other.mac));
                }
            }
        }
        Ok(())
    }
}

/// A label of a host name (RFC 1123).
pub fn is_label(text: &str) -> bool {
    let dash_outside = text.starts_with('-') || text.ends_with('-');
    let allowed = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    !text.is_empty() && text.len() <= 63 && !dash_outside && allowed
}
