//! The DHCP server (RFC 2131, 2132): addresses, names and boot files for the guests of one network.
//!
//! An address is kept as long as there are others: a guest's first address follows from its MAC address, so that a server that has
//! forgotten its leases gives the same ones again, and a guest that asks for its old one gets it.

use crate::dhcp_message::{self as message, Request, kind, option};
use bulkhead_nat_protocol::{BootConfig, NatConfig, Network, Reservation, is_label};
use bulkhead_packets::MacAddress;
use bulkhead_reactor::Time;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::Duration;

/// How long an offered address is kept for the guest that was offered it.
const OFFER: Duration = Duration::from_secs(60);
/// How long an address that a guest found in use is left alone.
const DECLINED: Duration = Duration::from_secs(600);
/// Leases at most, whatever the range.
const MOST: usize = 65_536;

/// An address that a guest has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Whose it is.
    pub mac: MacAddress,
    /// The address.
    pub address: Ipv4Addr,
    /// The guest's name in the domain, if it has one.
    pub name: Option<String>,
    /// Until when.
    pub expires: Time,
    /// Offered only.
    pub offered: bool,
}

/// What goes back to a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub message: Vec<u8>,
    /// Where to, by address; broadcast for guests without one.
    pub to: Ipv4Addr,
    pub to_mac: MacAddress,
}

struct Reserved {
    address: Option<Ipv4Addr>,
    name: Option<String>,
    boot_file: Option<String>,
}

/// The server.
pub(crate) struct Dhcp {
    network: Network,
    mtu: u16,
    domain: String,
    lease: Duration,
    boot: BootConfig,
    reserved: HashMap<MacAddress, Reserved>,
    leases: HashMap<MacAddress, Lease>,
    by_address: HashMap<Ipv4Addr, MacAddress>,
    declined: HashMap<Ipv4Addr, Time>,
    pub exhausted: u64,
}

impl Dhcp {
    pub fn new(config: &NatConfig, network: Network) -> Dhcp {
        let mut dhcp = Dhcp {
            network,
            mtu: config.mtu,
            domain: config.domain.clone(),
            lease: Duration::from_secs(config.lease_seconds.into()),
            boot: config.boot.clone(),
            reserved: HashMap::new(),
            leases: HashMap::new(),
            by_address: HashMap::new(),
            declined: HashMap::new(),
            exhausted: 0,
        };
        dhcp.set_reservations(&config.reservations);
        dhcp
    }

    /// Replaces the reservations. Leases that contradict them end when they are renewed.
    pub fn set_reservations(&mut self, reservations: &[Reservation]) {
        let parsed = reservations.iter().filter_map(|entry| {
            let Reservation { mac, address, name, boot_file } = entry.clone();
            Some((mac.parse().ok()?, Reserved { address, name, boot_file }))
        });
        self.reserved = parsed.collect();
    }

    pub fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values().filter(|lease| !lease.offered)
    }

    /// The address behind a name, in lower case and without the domain.
    pub fn address_of(&self, name: &str) -> Option<Ipv4Addr> {
        let has = |text: &Option<String>| text.as_deref().is_some_and(|text| text.eq_ignore_ascii_case(name));
        let leased = self.leases().find(|lease| has(&lease.name)).map(|lease| lease.address);
        leased.or_else(|| self.reserved.values().find(|entry| has(&entry.name)).and_then(|entry| entry.address))
    }

    /// The name of the guest at an address.
    pub fn name_of(&self, address: Ipv4Addr) -> Option<&str> {
        let lease = self.by_address.get(&address).and_then(|mac| self.leases.get(mac));
        let leased = lease.and_then(|lease| lease.name.as_deref());
        leased.or_else(|| self.reserved.values().find(|entry| entry.address == Some(address))?.name.as_deref())
    }

    /// Answers a message; `None` when nothing is to be said.
    pub fn handle(&mut self, now: Time, bytes: &[u8]) -> Option<Reply> {
        let request = Request::parse(bytes)?;
        let mac = request.mac;
        let elsewhere = request.address(option::SERVER).is_some_and(|server| server != self.network.gateway);
        match request.kind {
            kind::DISCOVER => {
                let address = self.offer(now, &request)?;
                Some(self.reply(&request, kind::OFFER, address))
            }
            kind::REQUEST if elsewhere => {
                // It chose another server.
                if self.leases.get(&mac).is_some_and(|lease| lease.offered) {
                    self.forget(mac);
                }
                None
            }
            kind::REQUEST => Some(self.request(now, &request)),
            kind::DECLINE if !elsewhere => {
                if let Some(address) = request.address(option::REQUESTED)
                    && self.leases.get(&mac).is_some_and(|lease| lease.address == address)
                {
                    self.forget(mac);
                    self.declined.retain(|_, until| *until > now);
                    self.declined.insert(address, now + DECLINED);
                }
                None
            }
            kind::RELEASE if !elsewhere => {
                if self.leases.get(&mac).is_some_and(|lease| lease.address == request.client) {
                    self.forget(mac);
                }
                None
            }
            kind::INFORM => Some(self.reply(&request, kind::ACK, Ipv4Addr::UNSPECIFIED)),
            _ => None,
        }
    }

    fn offer(&mut self, now: Time, request: &Request<'_>) -> Option<Ipv4Addr> {
        let (mac, wanted) = (request.mac, request.address(option::REQUESTED));
        let Some(address) = self.choose(now, mac, wanted) else {
            self.exhausted += 1;
            return None;
        };
        let granted = self.leases.get(&mac).is_some_and(|lease| lease.address == address && !lease.offered);
        if !granted {
            self.grant(mac, address, None, now + OFFER, true);
        }
        Some(address)
    }

    fn request(&mut self, now: Time, request: &Request<'_>) -> Reply {
        let mac = request.mac;
        let renewing = Some(request.client).filter(|address| !address.is_unspecified());
        match renewing.or_else(|| request.address(option::REQUESTED)) {
            Some(wanted) if self.choose(now, mac, Some(wanted)) == Some(wanted) => {
                let name = self.guest_name(request);
                self.grant(mac, wanted, name, now + self.lease, false);
                self.reply(request, kind::ACK, wanted)
            }
            _ => self.refuse(request),
        }
    }

    /// The address for a guest: the reserved one, the one it has, the one it wants, or a free one.
    fn choose(&self, now: Time, mac: MacAddress, wanted: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
        if let Some(address) = self.reserved.get(&mac).and_then(|entry| entry.address) {
            return Some(address);
        }
        let own = self.leases.get(&mac).map(|lease| lease.address);
        if let Some(address) = own.into_iter().chain(wanted).find(|address| self.is_free(now, mac, *address)) {
            return Some(address);
        }
        let (first, last) = (u32::from(self.network.first), u32::from(self.network.last));
        let count = last - first + 1;
        let start = spread(mac) % count;
        let candidates = (0..count).map(|step| Ipv4Addr::from(first + (start + step) % count));
        candidates.take(MOST).find(|address| self.is_free(now, mac, *address))
    }

    fn is_free(&self, now: Time, mac: MacAddress, address: Ipv4Addr) -> bool {
        let in_range = (self.network.first..=self.network.last).contains(&address) && self.network.is_guest(address);
        let leased = self.by_address.get(&address).filter(|holder| **holder != mac);
        let in_use = leased.and_then(|holder| self.leases.get(holder)).is_some_and(|lease| lease.expires > now);
        let declined = self.declined.get(&address).is_some_and(|until| *until > now);
        in_range && !in_use && !declined && !self.reserved.values().any(|entry| entry.address == Some(address))
    }

    fn grant(&mut self, mac: MacAddress, address: Ipv4Addr, name: Option<String>, expires: Time, offered: bool) {
        self.forget(mac);
        if let Some(previous) = self.by_address.insert(address, mac) {
            self.leases.remove(&previous);
        }
        self.leases.insert(mac, Lease { mac, address, name, expires, offered });
    }

    fn forget(&mut self, mac: MacAddress) {
        if let Some(lease) = self.leases.remove(&mac) {
            self.by_address.remove(&lease.address);
        }
    }

    /// The name that is reserved, or the one that the guest says it has, unless another guest has it.
    fn guest_name(&self, request: &Request<'_>) -> Option<String> {
        if let Some(name) = self.reserved.get(&request.mac).and_then(|entry| entry.name.clone()) {
            return Some(name);
        }
        let name = std::str::from_utf8(request.option(option::HOST_NAME)?).ok()?;
        let name = name.split(['.', '\0']).next()?.to_ascii_lowercase();
        let other_has =
            self.leases.values().any(|lease| lease.mac != request.mac && lease.name.as_ref() == Some(&name));
        let reserved = self.reserved.values().any(|entry| entry.name.as_ref() == Some(&name));
        (is_label(&name) && !other_has && !reserved).then_some(name)
    }

    /// The file that a guest boots. iPXE says that it is iPXE, which breaks the circle of loading it again.
    fn boot_file(&self, request: &Request<'_>) -> Option<&str> {
        let class = request.option(option::USER_CLASS).unwrap_or_default();
        let own = self.reserved.get(&request.mac).and_then(|entry| entry.boot_file.as_deref());
        if class.windows(4).any(|part| part == b"iPXE") {
            return own.or(self.boot.ipxe.as_deref());
        }
        let file = match request.option(option::ARCHITECTURE) {
            None | Some([0, 0]) => self.boot.bios.as_deref(),
            // x86-64 UEFI, and what some firmware says instead (RFC 4578, erratum).
            Some([0, 7 | 9]) => self.boot.uefi.as_deref(),
            Some(_) => None,
        };
        own.or(file)
    }

    fn reply(&self, request: &Request<'_>, kind: u8, address: Ipv4Addr) -> Reply {
        let gateway = self.network.gateway.octets();
        let mut reply = message::Reply::new(request, kind, address, self.network.gateway);
        reply.option(option::SERVER, &gateway);
        if !address.is_unspecified() {
            let seconds = self.lease.as_secs().min(u32::MAX.into()) as u32;
            reply.option(option::LEASE_TIME, &seconds.to_be_bytes());
            reply.option(option::RENEWAL, &(seconds / 2).to_be_bytes());
            reply.option(option::REBINDING, &(seconds / 8 * 7).to_be_bytes());
        }
        reply.option(option::SUBNET_MASK, &self.network.mask.octets());
        reply.option(option::ROUTER, &gateway);
        reply.option(option::DNS, &gateway);
        reply.option(option::BROADCAST, &self.network.broadcast.octets());
        reply.option(option::DOMAIN, self.domain.as_bytes());
        reply.option(option::MTU, &self.mtu.to_be_bytes());
        if let Some(name) = self.reserved.get(&request.mac).and_then(|entry| entry.name.as_deref()) {
            reply.option(option::HOST_NAME, name.as_bytes());
        }
        if let Some(file) = self.boot_file(request) {
            reply.option(option::TFTP_SERVER, self.network.gateway.to_string().as_bytes());
            reply.boot_file(file);
        }
        // RFC 2131, 4.1: to the guest's address if it has one; what it wants to be broadcast, to all.
        let to = match request.client {
            client if !client.is_unspecified() => client,
            _ if request.wants_broadcast() => Ipv4Addr::BROADCAST,
            _ => address,
        };
        let to_mac = if to == Ipv4Addr::BROADCAST { MacAddress::BROADCAST } else { request.mac };
        Reply { message: reply.finish(), to, to_mac }
    }

    fn refuse(&self, request: &Request<'_>) -> Reply {
        let mut reply = message::Reply::new(request, kind::NAK, Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED);
        reply.option(option::SERVER, &self.network.gateway.octets());
        Reply { message: reply.finish(), to: Ipv4Addr::BROADCAST, to_mac: MacAddress::BROADCAST }
    }
}

/// A number that spreads MAC addresses, the same on every start (FNV-1a).
fn spread(mac: MacAddress) -> u32 {
    mac.0.iter().fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
