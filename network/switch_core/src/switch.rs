//! [`Switch`]: the way of a frame through the switch.

use crate::acl::{Seen, passes};
use crate::address_table::Learned;
use crate::{AddressTable, Counters, DropReason, Mirror, Policy, PolicyError, PortKind, TokenBucket, VlanMode, guard};
use bulkhead_packets::{ETHERNET_HEADER, Ethernet, FrameMeta, MAX_FRAME, MacAddress, Network, VlanTag};
use std::collections::HashMap;

/// A port of a switch: an index that is used again when a port has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u16);

/// Where a frame goes, and with which tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Egress {
    /// The port.
    pub port: PortId,
    /// The tag there.
    pub tag: Option<VlanTag>,
    /// It is a copy for whoever watches: nobody waits for room for it, and it counts for nobody.
    pub copy: bool,
}

/// What happens to a frame that is not dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// A tag that is in the frame and has to be taken out.
    pub tag_in_frame: Option<VlanTag>,
    /// It has one receiver, which is worth waiting for.
    pub unicast: bool,
}

/// Ports, addresses, counters.
#[derive(Debug)]
pub struct Switch {
    ports: Vec<Option<Port>>,
    addresses: AddressTable,
    /// The VLAN whose addresses a VLAN uses: its primary, if it is a secondary one.
    domains: HashMap<u16, u16>,
    mirrors: Vec<PortId>,
    mtu: u16,
}

#[derive(Debug)]
struct Port {
    policy: Policy,
    counters: Counters,
    storm: Option<TokenBucket>,
    send: Option<TokenBucket>,
    receive: Option<TokenBucket>,
    /// It learns addresses from what it sends.
    learns: bool,
    /// Frames have to be looked at beyond Ethernet.
    looks_deeper: bool,
}

impl Port {
    fn new(policy: Policy, counters: Counters, now: u64) -> Port {
        // Bursts of 20 ms: as long as a busy host may keep the switch from running without its taking away what was granted.
        let shaper = |bits: u64| {
            let bytes = bits / 8;
            TokenBucket::new(bytes, (bytes / 50).max(MAX_FRAME as u64), now)
        };
        let trunk_guest = policy.kind == PortKind::Guest && matches!(policy.vlan, VlanMode::Trunk { .. });
        Port {
            storm: policy.storm_limit.map(|limit| TokenBucket::new(limit.into(), limit.into(), now)),
            send: policy.send_limit.map(shaper),
            receive: policy.receive_limit.map(shaper),
            learns: policy.mac_spoofing || policy.kind != PortKind::Guest || trunk_guest,
            looks_deeper: policy.guards() || !policy.acl.is_empty(),
            policy,
            counters,
        }
    }
}

/// A frame on its way.
struct Passing<'a> {
    from: PortId,
    ethernet: &'a Ethernet,
    network: Option<Network>,
    vlan: u16,
    tag: Option<VlanTag>,
}

impl Switch {
    /// A switch without ports that carries IP packets of up to `mtu` bytes. `seed` should be random.
    pub fn new(mtu: u16, seed: u64) -> Switch {
        let addresses = AddressTable::new(seed);
        Switch { ports: Vec::new(), addresses, domains: HashMap::new(), mirrors: Vec::new(), mtu }
    }

    /// Changes the longest packet carried.
    pub fn set_mtu(&mut self, mtu: u16) {
        self.mtu = mtu;
    }

    /// Adds a port.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub fn add(&mut self, policy: Policy, now: u64) -> Result<PortId, PolicyError> {
        let free = self.ports.iter().position(Option::is_none).unwrap_or(self.ports.len());
        let id = PortId(u16::try_from(free).map_err(|_| PolicyError::TooManyPorts)?);
        self.check(&policy, id)?;
        if free == self.ports.len() {
            self.ports.push(None);
        }
        self.ports[free] = Some(Port::new(policy, Counters::default(), now));
        self.rebuild(id);
        Ok(id)
    }

    /// Gives a port another policy. Nothing changes if it is refused.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub fn set(&mut self, id: PortId, policy: Policy, now: u64) -> Result<(), PolicyError> {
        self.check(&policy, id)?;
        let Some(place) = self.ports.get_mut(usize::from(id.0)) else { return Ok(()) };
        let counters = place.as_ref().map(|port| port.counters).unwrap_or_default();
        *place = Some(Port::new(policy, counters, now));
        self.rebuild(id);
        Ok(())
    }

    /// Removes a port and forgets what is behind it.
    pub fn remove(&mut self, id: PortId) {
        if let Some(place) = self.ports.get_mut(usize::from(id.0)) {
            *place = None;
        }
        self.rebuild(id);
    }

    fn check(&self, policy: &Policy, id: PortId) -> Result<(), PolicyError> {
        policy.check()?;
        let Some(mac) = policy.mac.filter(|_| policy.kind == PortKind::Guest) else { return Ok(()) };
        for (index, port) in self.ports.iter().enumerate() {
            let Some(other) = port.as_ref().map(|port| &port.policy) else { continue };
            let shared = policy.mac_spoofing && other.mac_spoofing;
            if other.mac == Some(mac) && usize::from(id.0) != index && !shared {
                return Err(PolicyError::AddressInUse { mac, port: index as u16 });
            }
        }
        Ok(())
    }

    /// Brings what is derived from the policies up to date after port `id` changed.
    fn rebuild(&mut self, id: PortId) {
        self.addresses.remove_port(id);
        let policies =
            || self.ports.iter().enumerate().filter_map(|(index, port)| Some((index, &port.as_ref()?.policy)));
        self.domains = policies().flat_map(|(_, policy)| policy.vlan.secondaries()).collect();
        let mirrors = policies().filter(|(_, policy)| policy.mirror == Mirror::Destination && policy.connected);
        self.mirrors = mirrors.map(|(index, _)| PortId(index as u16)).collect();
        // Trunks have too many VLANs to fix their address in each: they are learned when they speak.
        let Some(policy) = self.policy(id).cloned() else { return };
        if let (Some(mac), Some(vlan)) = (policy.mac, policy.vlan.classify(None))
            && policy.kind == PortKind::Guest
            && !matches!(policy.vlan, VlanMode::Trunk { .. })
        {
            self.addresses.fix(self.domain(vlan), mac, id, policy.mac_spoofing);
        }
    }

    /// The policy of a port.
    pub fn policy(&self, id: PortId) -> Option<&Policy> {
        Some(&self.ports.get(usize::from(id.0))?.as_ref()?.policy)
    }

    /// The counters of a port.
    pub fn counters(&self, id: PortId) -> Option<&Counters> {
        Some(&self.ports.get(usize::from(id.0))?.as_ref()?.counters)
    }

    /// The address table.
    pub fn addresses(&self) -> &AddressTable {
        &self.addresses
    }

    /// Forgets addresses that have not been heard of. Call it every minute or so.
    pub fn age(&mut self, now: u64) {
        self.addresses.age(now);
    }

    fn domain(&self, vlan: u16) -> u16 {
        if self.domains.is_empty() { vlan } else { self.domains.get(&vlan).copied().unwrap_or(vlan) }
    }

    /// Decides about a frame of `len` bytes that `from` sends. `header` is its start: 128 bytes of it, or all. `out` gets the ports
    /// that it goes to, in place of what was there.
    ///
    /// # Errors
    /// Why it goes nowhere; counted already.
    #[inline]
    pub fn forward(
        &mut self,
        from: PortId,
        header: &[u8],
        len: usize,
        meta: &FrameMeta,
        now: u64,
        out: &mut Vec<Egress>,
    ) -> Result<Verdict, DropReason> {
        out.clear();
        let result = self.decide(from, header, len, meta, now, out);
        if let Some(port) = self.ports.get_mut(usize::from(from.0)).and_then(Option::as_mut) {
            port.counters.sent_frames += 1;
            port.counters.sent_bytes += len as u64;
            if let Err(reason) = result {
                port.counters.dropped(reason);
            }
        }
        result
    }

    #[inline]
    fn decide(
        &mut self,
        from: PortId,
        header: &[u8],
        len: usize,
        meta: &FrameMeta,
        now: u64,
        out: &mut Vec<Egress>,
    ) -> Result<Verdict, DropReason> {
        let ethernet = Ethernet::parse(header).ok_or(DropReason::Malformed)?;
        let port = self.ports.get(usize::from(from.0)).and_then(Option::as_ref).ok_or(DropReason::Disconnected)?;
        let policy = &port.policy;
        if !policy.connected {
            return Err(DropReason::Disconnected);
        }
        let own = policy.mac == Some(ethernet.source);
        if !own && (ethernet.source.is_group() || !policy.mac_spoofing) {
            let group = ethernet.source.is_group();
            return Err(if group { DropReason::Malformed } else { DropReason::SpoofedMac });
        }
        // Two tags would let a frame hop into the VLAN of the inner one where the outer is taken off.
        if matches!(ethernet.ethertype, 0x8100 | 0x88A8 | 0x9100) || meta.vlan.is_some() && ethernet.tag.is_some() {
            return Err(DropReason::Vlan);
        }
        let tag = ethernet.tag.or(meta.vlan);
        let vlan = policy.vlan.classify(tag).ok_or(DropReason::Vlan)?;
        let headers = ETHERNET_HEADER + if ethernet.tag.is_some() { 4 } else { 0 };
        if len - headers.min(len) > usize::from(self.mtu) && meta.segmentation.is_none() {
            return Err(DropReason::TooLong);
        }
        let mut passing = Passing { from, ethernet: &ethernet, network: None, vlan, tag };
        if port.looks_deeper {
            let network = passing.network.insert(Network::parse(&ethernet, header));
            if let Some(reason) = guard::refuses(policy, &ethernet, network) {
                return Err(reason);
            }
            if !passes(&policy.acl, &seen(true, ethernet.destination, network)) {
                return Err(DropReason::Acl);
            }
        }
        let mirrored = policy.mirror == Mirror::Source;
        if port.learns {
            self.learn(&passing, now)?;
        }
        let unicast = self.deliver(&mut passing, header, now, out)?;
        if !self.mirrors.is_empty() {
            self.mirror(&passing, mirrored, out);
        }
        Ok(Verdict { tag_in_frame: ethernet.tag, unicast })
    }

    #[inline]
    fn learn(&mut self, passing: &Passing<'_>, now: u64) -> Result<(), DropReason> {
        let guest = self.policy(passing.from).is_some_and(|policy| policy.kind == PortKind::Guest);
        let domain = self.domain(passing.vlan);
        match self.addresses.learn(domain, passing.ethernet.source, passing.from, guest, now) {
            Learned::Known => Ok(()),
            Learned::InUse => Err(DropReason::MacInUse),
            Learned::Full => {
                if let Some(port) = &mut self.ports[usize::from(passing.from.0)] {
                    port.counters.dropped(DropReason::TableFull);
                }
                Ok(())
            }
        }
    }

    /// Finds the receivers. Whether there is exactly one.
    #[inline]
    fn deliver(
        &mut self,
        passing: &mut Passing<'_>,
        header: &[u8],
        now: u64,
        out: &mut Vec<Egress>,
    ) -> Result<bool, DropReason> {
        let destination = passing.ethernet.destination;
        if !destination.is_group() {
            let domain = self.domain(passing.vlan);
            let mut refused = DropReason::NoReceiver;
            let (addresses, ports) = (&self.addresses, &self.ports);
            let known = addresses.find(domain, destination, now, |to| match admit(ports, to, passing, header) {
                Ok(egress) => out.push(egress),
                Err(reason) => refused = reason,
            });
            if known {
                return if out.is_empty() { Err(refused) } else { Ok(out.len() == 1) };
            }
        }
        self.flood(passing, header, now, out)?;
        Ok(out.len() == 1)
    }

    /// To everybody whom it may concern: groups to all, unknown addresses to where there may be more than one station.
    fn flood(
        &mut self,
        passing: &mut Passing<'_>,
        header: &[u8],
        now: u64,
        out: &mut Vec<Egress>,
    ) -> Result<(), DropReason> {
        let from = usize::from(passing.from.0);
        if let Some(bucket) = self.ports[from].as_mut().and_then(|port| port.storm.as_mut())
            && !bucket.take(1, now)
        {
            return Err(DropReason::Storm);
        }
        let destination = passing.ethernet.destination;
        for (index, port) in self.ports.iter().enumerate() {
            let Some(port) = port else { continue };
            let policy = &port.policy;
            let unknown_there =
                policy.mac_spoofing || policy.kind != PortKind::Guest || policy.mac == Some(destination);
            if (destination.is_group() || unknown_there)
                && let Ok(egress) = admit(&self.ports, PortId(index as u16), passing, header)
            {
                out.push(egress);
            }
        }
        if out.is_empty() { Err(DropReason::NoReceiver) } else { Ok(()) }
    }

    /// Adds the copies for whoever watches, if one of the ports is watched.
    fn mirror(&self, passing: &Passing<'_>, mut mirrored: bool, out: &mut Vec<Egress>) {
        let watched = |egress: &Egress| self.policy(egress.port).is_some_and(|policy| policy.mirror == Mirror::Source);
        mirrored = mirrored || out.iter().any(watched);
        for &port in self.mirrors.iter().filter(|_| mirrored) {
            if port != passing.from && !out.iter().any(|egress| egress.port == port) {
                // A copy keeps its tag, whatever VLANs the watching port is in.
                let tag = (passing.vlan != 0).then(|| passing.tag.unwrap_or(VlanTag::new(0)).with_id(passing.vlan));
                out.push(Egress { port, tag, copy: true });
            }
        }
    }

    /// Lets `port` send `len` bytes now, by its limit.
    ///
    /// # Errors
    /// When to try again.
    #[inline]
    pub fn may_send(&mut self, port: PortId, len: usize, now: u64) -> Result<(), u64> {
        let port = self.ports.get_mut(usize::from(port.0)).and_then(Option::as_mut);
        port.map_or(Ok(()), |port| shape(&mut port.send, len, now))
    }

    /// Lets `port` receive `len` bytes now, by its limit.
    ///
    /// # Errors
    /// When to try again.
    #[inline]
    pub fn may_receive(&mut self, port: PortId, len: usize, now: u64) -> Result<(), u64> {
        let port = self.ports.get_mut(usize::from(port.0)).and_then(Option::as_mut);
        port.map_or(Ok(()), |port| shape(&mut port.receive, len, now))
    }

    /// Counts what went to a port.
    #[inline]
    pub fn delivered(&mut self, port: PortId, len: usize) {
        if let Some(port) = self.ports.get_mut(usize::from(port.0)).and_then(Option::as_mut) {
            port.counters.received_frames += 1;
            port.counters.received_bytes += len as u64;
        }
    }

    /// Counts what could not go to a port.
    pub fn dropped(&mut self, port: PortId, reason: DropReason) {
        if let Some(port) = self.ports.get_mut(usize::from(port.0)).and_then(Option::as_mut) {
            port.counters.dropped(reason);
        }
    }
}

#[inline]
fn shape(bucket: &mut Option<TokenBucket>, len: usize, now: u64) -> Result<(), u64> {
    match bucket {
        Some(bucket) => {
            if bucket.take(len as u64, now) {
                Ok(())
            } else {
                Err(bucket.ready_at(len as u64))
            }
        }
        None => Ok(()),
    }
}

fn seen<'a>(outbound: bool, remote_mac: MacAddress, network: &'a Network) -> Seen<'a> {
    let ip = if let Network::Ip(ip) = network { Some(ip) } else { None };
    Seen { outbound, remote_mac, ip }
}

/// Whether a frame may leave through a port, and with which tag.
#[inline]
fn admit(ports: &[Option<Port>], to: PortId, passing: &mut Passing<'_>, header: &[u8]) -> Result<Egress, DropReason> {
    let port = ports.get(usize::from(to.0)).and_then(Option::as_ref).ok_or(DropReason::NoReceiver)?;
    let policy = &port.policy;
    if to == passing.from || !policy.connected || !policy.vlan.admits(passing.vlan) {
        return Err(DropReason::NoReceiver);
    }
    if !policy.acl.is_empty() {
        let ethernet = passing.ethernet;
        let network = passing.network.get_or_insert_with(|| Network::parse(ethernet, header));
        if !passes(&policy.acl, &seen(false, ethernet.source, network)) {
            return Err(DropReason::Acl);
        }
    }
    Ok(Egress { port: to, tag: policy.vlan.tag(passing.vlan, passing.tag), copy: false })
}
