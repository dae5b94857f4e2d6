//! The NAT of one network: takes every frame that its port gets, and every readiness of a socket of the host.

use crate::datagrams::{Mappings, Source};
use crate::dhcp::{Dhcp, Lease};
use crate::dns::{Asker, Dns, Step};
use crate::forwards::UdpForwards;
use crate::host::{Datagrams, Forwarded, Host, Io, Link, SocketId};
use crate::http::HttpConnection;
use crate::streams::{DnsConnection, FarEnd};
use crate::tcp::{Flow, FlowKey, Guest, Table};
use crate::tftp::{Packet, Tftp};
use crate::wire::{
    Arp, Echo, Ethernet, ICMP, Ipv4, Outgoing, Route, TCP, TYPE_ARP, TYPE_IPV4, Tcp, UDP, Udp, flag, port_unreachable,
};
use bulkhead_nat_protocol::{ConfigError, Forward, NatConfig, NatStats, Network, Protocol, Reservation};
use bulkhead_packets::{FrameMeta, MAX_FRAME, MacAddress, SegmentKind};
use bulkhead_reactor::Time;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, SocketAddrV4};

/// The socket towards the DNS servers of the host.
const DNS_SOCKET: SocketId = SocketId(3 << 56);
const DNS_PORT: u16 = 53;
const DHCP_PORT: u16 = 67;
const DHCP_CLIENT_PORT: u16 = 68;
const TFTP_PORT: u16 = 69;
const HTTP_PORT: u16 = 80;

/// The NAT of one network.
pub struct Nat<H: Host> {
    network: Network,
    mac: MacAddress,
    mtu: u16,
    offload: bool,
    host_access: bool,
    /// MAC addresses of guests, by what they sent last.
    neighbors: HashMap<Ipv4Addr, MacAddress>,
    tcp: Table<FarEnd<H::Stream>>,
    datagrams: Mappings<H::Datagrams>,
    forwards: UdpForwards<H::Datagrams>,
    dhcp: Dhcp,
    dns: Dns,
    dns_socket: Option<H::Datagrams>,
    tftp: Tftp,
    /// Sockets whose datagrams wait for room on the link.
    blocked: Vec<SocketId>,
    random: RandomState,
    drawn: u64,
    scratch: Vec<u8>,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    frames_in: u64,
    malformed: u64,
    fragments: u64,
    forbidden: u64,
}

impl<H: Host> Nat<H> {
    /// A NAT whose port has this MAC address. With `offload` its frames may have partial checksums and several TCP segments.
    ///
    /// # Errors
    /// A mistake in the configuration.
    pub fn new(config: &NatConfig, mac: MacAddress, offload: bool, random: RandomState) -> Result<Nat<H>, ConfigError> {
        let network = config.network()?;
        Ok(Nat {
            network,
            mac,
            mtu: config.mtu,
            offload,
            host_access: config.host_access,
            neighbors: HashMap::new(),
            tcp: Table::new(),
            datagrams: Mappings::new(),
            forwards: UdpForwards::new(),
            dhcp: Dhcp::new(config, network),
            dns: Dns::new(network.gateway, &config.domain, config.dns.clone()),
            dns_socket: None,
            tftp: Tftp::new(),
            blocked: Vec::new(),
            random,
            drawn: 0,
            scratch: vec![0; 65_536],
            counters: Counters::default(),
        })
    }

    /// The port is another one now: its address, and whether it takes frames to be completed and cut.
    pub fn set_port(&mut self, mac: MacAddress, offload: bool) {
        (self.mac, self.offload) = (mac, offload);
    }

    /// A frame from the guests' network. Call [`Nat::flush`] after the last one of a batch.
    pub fn frame<L: Link>(&mut self, io: &mut Io<'_, H, L>, frame: &[u8], meta: &FrameMeta) {
        self.counters.frames_in += 1;
        let Some(ethernet) = Ethernet::parse(frame) else {
            self.counters.malformed += 1;
            return;
        };
        if ethernet.to != self.mac && !ethernet.to.is_group() || ethernet.from == self.mac {
            return;
        }
        match ethernet.kind {
            TYPE_ARP => self.arp(io, ethernet.payload),
            TYPE_IPV4 => match Ipv4::parse(ethernet.payload) {
                Some(packet) => self.packet(io, ethernet.from, &packet, ethernet.payload, meta),
                None => self.counters.malformed += 1,
            },
            // IPv6 and the rest: there is no NAT for them.
            _ => {}
        }
    }

    /// Sends what was put off until the end of a batch of frames or readinesses.
    pub fn flush<L: Link>(&mut self, io: &mut Io<'_, H, L>) {
        self.tcp.flush(io.link);
    }

    fn arp<L: Link>(&mut self, io: &mut Io<'_, H, L>, bytes: &[u8]) {
        let Some(arp) = Arp::parse(bytes) else {
            self.counters.malformed += 1;
            return;
        };
        let (mac, address) = arp.sender;
        if self.network.is_guest(address) {
            self.learn(io, address, mac);
        }
        if arp.request && arp.target.1 == self.network.gateway {
            let reply = Arp { request: false, sender: (self.mac, self.network.gateway), target: arp.sender };
            io.link.send(&FrameMeta::default(), &[&reply.frame()]);
        }
    }

    fn learn<L: Link>(&mut self, io: &mut Io<'_, H, L>, address: Ipv4Addr, mac: MacAddress) {
        if mac.is_group() || self.neighbors.insert(address, mac).is_some() {
            return;
        }
        // The first time that it is heard of: somebody may wait for that.
        self.tcp.resolved(address, io.now, io.link, |guest| guest.route.to_mac = mac);
    }

    fn packet<L: Link>(
        &mut self,
        io: &mut Io<'_, H, L>,
        mac: MacAddress,
        packet: &Ipv4<'_>,
        bytes: &[u8],
        meta: &FrameMeta,
    ) {
        if packet.fragment {
            self.counters.fragments += 1;
            return;
        }
        let gateway = self.network.gateway;
        if packet.protocol == UDP
            && let Some(datagram) = Udp::parse(packet.payload)
            && datagram.to_port == DHCP_PORT
        {
            if packet.to == gateway || packet.to == Ipv4Addr::BROADCAST || packet.to == self.network.broadcast {
                self.dhcp(io, &datagram);
            }
            return;
        }
        if !self.network.is_guest(packet.from) {
            self.counters.forbidden += 1;
            return;
        }
        self.learn(io, packet.from, mac);
        if packet.to != gateway && (self.network.contains(packet.to) || !is_outside(packet.to)) {
            self.counters.forbidden += 1;
            return;
        }
        let handled = match packet.protocol {
            TCP => Tcp::parse(packet.payload).map(|segment| self.tcp(io, mac, packet, &segment)),
            UDP => Udp::parse(packet.payload).map(|datagram| self.udp(io, mac, packet, &datagram, bytes, meta)),
            ICMP => Echo::parse(packet.payload).map(|echo| self.echo(io, mac, packet, &echo)),
            _ => None,
        };
        if handled.is_none() {
            self.counters.malformed += 1;
        }
    }

    fn route(&self, mac: MacAddress, from: Ipv4Addr, to: Ipv4Addr) -> Route {
        Route { to_mac: mac, from_mac: self.mac, from, to }
    }

    fn draw(&mut self) -> u64 {
        self.drawn += 1;
        self.random.hash_one(self.drawn)
    }

    fn dhcp<L: Link>(&mut self, io: &mut Io<'_, H, L>, datagram: &Udp<'_>) {
        let Some(reply) = self.dhcp.handle(io.now, datagram.payload) else { return };
        let route = self.route(reply.to_mac, self.network.gateway, reply.to);
        self.send_udp(io, &route, (DHCP_PORT, DHCP_CLIENT_PORT), &reply.message);
    }

    fn send_udp<L: Link>(&mut self, io: &mut Io<'_, H, L>, route: &Route, ports: (u16, u16), payload: &[u8]) {
        let id = self.draw() as u16;
        for frame in route.udp(ports, payload, id, self.mtu.into()) {
            io.link.send(&FrameMeta::default(), &[&frame]);
        }
    }

    fn tcp<L: Link>(&mut self, io: &mut Io<'_, H, L>, mac: MacAddress, packet: &Ipv4<'_>, segment: &Tcp<'_>) {
        let key = FlowKey {
            guest: SocketAddrV4::new(packet.from, segment.from_port),
            outside: SocketAddrV4::new(packet.to, segment.to_port),
        };
        let known = self.tcp.segment(&key, segment, io.now, io.link);
        if known {
            if packet.to == self.network.gateway {
                self.serve(io, &key);
            }
        } else if segment.has(flag::SYN) && !segment.has(flag::ACK) {
            if !self.connect(io, mac, key, segment) {
                self.refuse(io, mac, &key, segment);
            }
        } else if !segment.has(flag::RST) {
            self.refuse(io, mac, &key, segment);
        }
    }

    /// Begins a connection that a guest asks for. False if that cannot be.
    fn connect<L: Link>(&mut self, io: &mut Io<'_, H, L>, mac: MacAddress, key: FlowKey, syn: &Tcp<'_>) -> bool {
        let Some(opening) = self.tcp.open() else { return false };
        let local = *key.outside.ip() == self.network.gateway;
        let far_end = match key.outside.port() {
            HTTP_PORT if local => Some(FarEnd::Http(Box::default())),
            DNS_PORT if local => Some(FarEnd::Dns(Box::new(DnsConnection::new(opening.id.0)))),
            _ => {
                let to = match local {
                    true if !self.host_access => None,
                    true => Some(SocketAddrV4::new(Ipv4Addr::LOCALHOST, key.outside.port())),
                    false => Some(key.outside),
                };
                to.and_then(|to| io.host.connect(to, opening.id).ok()).map(FarEnd::Host)
            }
        };
        let Some(far_end) = far_end else {
            self.tcp.abandon(opening);
            return false;
        };
        let here = !matches!(far_end, FarEnd::Host(_));
        let guest = self.guest(mac, &key);
        let isn = self.draw() as u32;
        self.tcp.insert(opening, key, Flow::asked_by_guest(guest, far_end, syn, isn, io.now));
        if here {
            self.tcp.ready(opening.id, io.now, io.link);
        }
        true
    }

    fn guest(&self, mac: MacAddress, key: &FlowKey) -> Guest {
        let route = self.route(mac, *key.outside.ip(), *key.guest.ip());
        Guest { route, ports: (key.outside.port(), key.guest.port()), offload: self.offload, mtu: self.mtu }
    }

    fn refuse<L: Link>(&mut self, io: &mut Io<'_, H, L>, mac: MacAddress, key: &FlowKey, segment: &Tcp<'_>) {
        let acknowledges = segment.has(flag::ACK);
        let reset = Outgoing {
            from_port: key.outside.port(),
            to_port: key.guest.port(),
            sequence: if acknowledges { segment.acknowledged } else { 0 },
            acknowledged: if acknowledges { 0 } else { segment.sequence.wrapping_add(segment.length()) },
            flags: if acknowledges { flag::RST } else { flag::RST | flag::ACK },
            window: 0,
        };
        let route = self.route(mac, *key.outside.ip(), *key.guest.ip());
        let (frame, meta) = route.tcp(&reset, &[], &[], None);
        io.link.send(&meta, &[&frame]);
    }

    /// Lets a service of the gateway work on what a guest wrote.
    fn serve<L: Link>(&mut self, io: &mut Io<'_, H, L>, key: &FlowKey) {
        let mut questions = Vec::new();
        let host = &mut *io.host;
        self.tcp.far_end(key, io.now, io.link, |far_end| match far_end {
            FarEnd::Host(_) => {}
            FarEnd::Http(connection) => HttpConnection::answer(connection, &mut |name| host.boot_file(name)),
            FarEnd::Dns(connection) => {
                while let Some(question) = connection.question() {
                    questions.push((connection.number, question));
                }
            }
        });
        for (number, question) in questions {
            self.ask(io, Asker::Stream(number), &question);
        }
    }

    fn ask<L: Link>(&mut self, io: &mut Io<'_, H, L>, asker: Asker, question: &[u8]) {
        let random = self.draw() as u16;
        match self.dns.ask(io.now, asker, question, &self.dhcp, random) {
            Some(step) => self.dns_step(io, step),
            None => {
                if let Asker::Stream(number) = asker {
                    self.answer_stream(io, number, None);
                }
            }
        }
    }

    fn dns_step<L: Link>(&mut self, io: &mut Io<'_, H, L>, step: Step) {
        match step {
            Step::Answer(Asker::Stream(number), answer) => self.answer_stream(io, number, Some(&answer)),
            Step::Answer(Asker::Udp(to), answer) => {
                let Some(mac) = self.neighbors.get(to.ip()).copied() else { return };
                let route = self.route(mac, self.network.gateway, *to.ip());
                self.send_udp(io, &route, (DNS_PORT, to.port()), &answer);
            }
            Step::Forward(server, question) => {
                if self.dns_socket.is_none() {
                    self.dns_socket = io.host.udp(DNS_SOCKET).ok();
                }
                if let Some(socket) = &mut self.dns_socket {
                    // A lost question is asked again.
                    let _ = socket.send(server, &question);
                }
            }
        }
    }

    fn answer_stream<L: Link>(&mut self, io: &mut Io<'_, H, L>, number: u64, answer: Option<&[u8]>) {
        let Some(key) = self.tcp.key_of(SocketId(number)) else { return };
        self.tcp.far_end(&key, io.now, io.link, |far_end| {
            if let FarEnd::Dns(connection) = far_end {
                connection.answer(answer);
            }
        });
    }

    fn udp<L: Link>(
        &mut self,
        io: &mut Io<'_, H, L>,
        mac: MacAddress,
        packet: &Ipv4<'_>,
        datagram: &Udp<'_>,
        bytes: &[u8],
        meta: &FrameMeta,
    ) {
        let guest = SocketAddrV4::new(packet.from, datagram.from_port);
        let outside = SocketAddrV4::new(packet.to, datagram.to_port);
        if self.forwards.answer(io.now, guest, outside, datagram.payload) {
            return;
        }
        let to = if packet.to == self.network.gateway {
            match datagram.to_port {
                DNS_PORT => return self.ask(io, Asker::Udp(guest), datagram.payload),
                TFTP_PORT => {
                    let host = &mut *io.host;
                    let packets = self.tftp.request(io.now, guest, datagram.payload, |name| host.boot_file(name));
                    return self.send_tftp(io, packets);
                }
                port if self.tftp.owns(port) => {
                    let packets = self.tftp.datagram(io.now, port, guest, datagram.payload);
                    return self.send_tftp(io, packets);
                }
                port if self.host_access => SocketAddrV4::new(Ipv4Addr::LOCALHOST, port),
                _ => {
                    let message = port_unreachable(bytes);
                    let route = self.route(mac, self.network.gateway, packet.from);
                    let id = self.draw() as u16;
                    for frame in route.packets(ICMP, &message, id, self.mtu.into()) {
                        io.link.send(&FrameMeta::default(), &[&frame]);
                    }
                    return;
                }
            }
        } else {
            outside
        };
        let source = Source { guest: packet.from, port: datagram.from_port, ping: false };
        let piece = match meta.segmentation {
            Some(cut) if cut.kind == SegmentKind::Udp => usize::from(cut.size),
            _ => datagram.payload.len(),
        };
        if datagram.payload.is_empty() {
            return self.datagrams.send(io.now, source, mac, to, &[], io.host);
        }
        for payload in datagram.payload.chunks(piece.max(1)) {
            self.datagrams.send(io.now, source, mac, to, payload, io.host);
        }
    }

    fn send_tftp<L: Link>(&mut self, io: &mut Io<'_, H, L>, packets: Vec<Packet>) {
        for (port, client, payload) in packets {
            let Some(mac) = self.neighbors.get(client.ip()).copied() else { continue };
            let route = self.route(mac, self.network.gateway, *client.ip());
            self.send_udp(io, &route, (port, client.port()), &payload);
        }
    }

    fn echo<L: Link>(&mut self, io: &mut Io<'_, H, L>, mac: MacAddress, packet: &Ipv4<'_>, echo: &Echo<'_>) {
        if !echo.request {
            return;
        }
        if packet.to == self.network.gateway {
            self.send_echo(io, mac, packet.to, packet.from, &Echo { request: false, ..*echo });
            return;
        }
        let source = Source { guest: packet.from, port: echo.id, ping: true };
        let to = SocketAddrV4::new(packet.to, 0);
        self.datagrams.send(io.now, source, mac, to, &echo.bytes(), io.host);
    }

    fn send_echo<L: Link>(
        &mut self,
        io: &mut Io<'_, H, L>,
        mac: MacAddress,
        from: Ipv4Addr,
        to: Ipv4Addr,
        echo: &Echo<'_>,
    ) {
        let route = self.route(mac, from, to);
        let id = self.draw() as u16;
        for frame in route.packets(ICMP, &echo.bytes(), id, self.mtu.into()) {
            io.link.send(&FrameMeta::default(), &[&frame]);
        }
    }

    /// A stream of the host is ready. Call [`Nat::flush`] afterwards.
    pub fn stream_ready<L: Link>(&mut self, io: &mut Io<'_, H, L>, id: SocketId) {
        self.tcp.ready(id, io.now, io.link);
    }

    /// A datagram socket of the host has something.
    pub fn datagrams_ready<L: Link>(&mut self, io: &mut Io<'_, H, L>, id: SocketId) {
        let mut buffer = std::mem::take(&mut self.scratch);
        loop {
            if id != DNS_SOCKET && !io.link.room(MAX_FRAME) {
                if !self.blocked.contains(&id) {
                    self.blocked.push(id);
                }
                break;
            }
            if !self.next_datagram(io, id, &mut buffer) {
                break;
            }
        }
        self.scratch = buffer;
    }

    fn next_datagram<L: Link>(&mut self, io: &mut Io<'_, H, L>, id: SocketId, buffer: &mut [u8]) -> bool {
        if id == DNS_SOCKET {
            let Some(socket) = &mut self.dns_socket else { return false };
            let Ok((len, from)) = socket.receive(buffer) else { return false };
            if let Some(step) = self.dns.answered(from, &buffer[..len]) {
                self.dns_step(io, step);
            }
            return true;
        }
        if self.forwards.owns(id) {
            return self.next_forwarded(io, id, buffer);
        }
        let Some((mapping, len, mut from)) = self.datagrams.receive(id, buffer) else { return false };
        let (source, mac) = (mapping.source, mapping.mac);
        if from.ip().is_loopback() {
            from.set_ip(self.network.gateway);
        }
        if source.ping {
            if let Some(echo) = Echo::parse(&buffer[..len]).filter(|echo| !echo.request) {
                self.send_echo(io, mac, *from.ip(), source.guest, &Echo { id: source.port, ..echo });
            }
            return true;
        }
        let route = self.route(mac, *from.ip(), source.guest);
        self.send_udp(io, &route, (from.port(), source.port), &buffer[..len]);
        true
    }

    fn next_forwarded<L: Link>(&mut self, io: &mut Io<'_, H, L>, id: SocketId, buffer: &mut [u8]) -> bool {
        let (network, now) = (self.network, io.now);
        let Some((guest, shown, len)) = self.forwards.receive(now, id, buffer, |client| shown(&network, client)) else {
            return false;
        };
        match self.neighbors.get(guest.ip()).copied() {
            Some(mac) => {
                let route = self.route(mac, *shown.ip(), *guest.ip());
                self.send_udp(io, &route, (shown.port(), guest.port()), &buffer[..len]);
            }
            None => self.ask_for(io, *guest.ip()),
        }
        true
    }

    fn ask_for<L: Link>(&self, io: &mut Io<'_, H, L>, address: Ipv4Addr) {
        io.link.send(&FrameMeta::default(), &[&request_for(self.mac, self.network.gateway, address)]);
    }

    /// Somebody outside has connected to a forwarded port; `make` makes the stream with the id that it gets.
    ///
    /// # Errors
    /// Too many connections, or what `make` says.
    pub fn accept<L: Link>(
        &mut self,
        io: &mut Io<'_, H, L>,
        forwarded: Forwarded,
        make: impl FnOnce(SocketId) -> std::io::Result<H::Stream>,
    ) -> std::io::Result<()> {
        let Forwarded { client, guest, port } = forwarded;
        let mut outside = shown(&self.network, client);
        let guest = SocketAddrV4::new(guest, port);
        // Two clients of the host may have the same port, and look like one from the guest.
        while self.tcp.contains(&FlowKey { guest, outside }) {
            outside.set_port(outside.port().checked_add(1).unwrap_or(1024));
        }
        let key = FlowKey { guest, outside };
        let opening = self.tcp.open().ok_or(std::io::ErrorKind::QuotaExceeded)?;
        let stream = match make(opening.id) {
            Ok(stream) => stream,
            Err(error) => {
                self.tcp.abandon(opening);
                return Err(error);
            }
        };
        let guest = self.guest(MacAddress::BROADCAST, &key);
        let isn = self.draw() as u32;
        self.tcp.insert(opening, key, Flow::asked_from_outside(guest, FarEnd::Host(stream), isn, io.now));
        self.tick(io);
        Ok(())
    }

    /// Gives a socket to a forwarded UDP port.
    pub fn forward_udp(&mut self, id: SocketId, forward: &Forward, socket: H::Datagrams) {
        debug_assert_eq!(forward.protocol, Protocol::Udp);
        self.forwards.insert(id, forward.guest, socket);
    }

    /// Takes the socket of a forwarded UDP port away.
    pub fn remove_forward_udp(&mut self, id: SocketId) {
        self.forwards.remove(id);
    }

    /// There is room on the link again.
    pub fn link_ready<L: Link>(&mut self, io: &mut Io<'_, H, L>) {
        self.tcp.link_ready(io.now, io.link);
        for id in std::mem::take(&mut self.blocked) {
            self.datagrams_ready(io, id);
        }
    }

    /// The next time at which [`Nat::tick`] has something to do.
    pub fn deadline(&self) -> Option<Time> {
        let all = [self.tcp.deadline(), self.datagrams.deadline(), self.dns.deadline(), self.tftp.deadline()];
        all.into_iter().flatten().min()
    }

    /// Does what its time has come for.
    pub fn tick<L: Link>(&mut self, io: &mut Io<'_, H, L>) {
        let (neighbors, mac, gateway) = (&self.neighbors, self.mac, self.network.gateway);
        let mut questions = Vec::new();
        self.tcp.tick(io.now, io.link, |address, guest| {
            let known = neighbors.get(&address).copied();
            match known {
                Some(mac) => guest.route.to_mac = mac,
                None => questions.push(request_for(mac, gateway, address)),
            }
            known.is_some()
        });
        for question in questions {
            io.link.send(&FrameMeta::default(), &[&question]);
        }
        self.datagrams.tick(io.now);
        for step in self.dns.tick(io.now) {
            self.dns_step(io, step);
        }
        let packets = self.tftp.tick(io.now);
        self.send_tftp(io, packets);
        self.flush(io);
    }

    /// The guests' addresses.
    pub fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.dhcp.leases()
    }

    /// Replaces the reservations, names and boot files of guests.
    pub fn set_reservations(&mut self, reservations: &[Reservation]) {
        self.dhcp.set_reservations(reservations);
    }

    /// Counters.
    pub fn stats(&self) -> NatStats {
        NatStats {
            frames_in: self.counters.frames_in,
            malformed: self.counters.malformed,
            fragments: self.counters.fragments,
            forbidden: self.counters.forbidden,
            tcp: self.tcp.len(),
            tcp_opened: self.tcp.opened,
            tcp_refused: self.tcp.refused,
            datagrams: self.datagrams.len(),
            datagrams_refused: self.datagrams.refused,
            dhcp_exhausted: self.dhcp.exhausted,
            dns_forwarded: self.dns.forwarded,
            dns_failed: self.dns.failed,
            tftp_files: self.tftp.served,
        }
    }

    /// A line for each TCP connection: guest, outside, state, bytes that wait for the host, bytes that wait for the guest.
    pub fn connections(&self) -> impl Iterator<Item = (SocketAddrV4, SocketAddrV4, &'static str, usize, u32)> {
        self.tcp.describe().map(|(key, state, pending, flying)| (key.guest, key.outside, state, pending, flying))
    }
}

/// Addresses that guests may reach: not the host's loopback, and not what is meant for one link only, such as the metadata
/// service of a cloud.
fn is_outside(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    first != 0 && first < 224 && !address.is_loopback() && !address.is_link_local()
}

/// How a client looks to a guest: itself, unless answers to that would not come back here.
fn shown(network: &Network, client: SocketAddrV4) -> SocketAddrV4 {
    let reachable = is_outside(*client.ip()) && !network.contains(*client.ip());
    if reachable { client } else { SocketAddrV4::new(network.gateway, client.port()) }
}

fn request_for(mac: MacAddress, gateway: Ipv4Addr, address: Ipv4Addr) -> Vec<u8> {
    Arp { request: true, sender: (mac, gateway), target: (MacAddress([0; 6]), address) }.frame()
}
