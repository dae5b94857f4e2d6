//! Headers of the frames that the NAT reads and makes: Ethernet, ARP, IPv4, TCP, UDP, ICMP (RFC 826, 791, 9293, 768, 792).
//!
//! Parsing gives views whose lengths are checked; building appends to a buffer.

use bulkhead_packets::{
    Checksum, ETHERNET_HEADER, FrameMeta, MacAddress, SegmentKind, Segmentation, internet_checksum,
};
use std::net::Ipv4Addr;

pub(crate) const TYPE_IPV4: u16 = 0x0800;
pub(crate) const TYPE_ARP: u16 = 0x0806;
pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// Bytes before the payload of a TCP segment without options.
pub(crate) const TCP_HEADERS: usize = ETHERNET_HEADER + 40;

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn address_at(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(*bytes.get(at..)?.first_chunk::<4>()?))
}

/// An Ethernet frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ethernet<'a> {
    pub to: MacAddress,
    pub from: MacAddress,
    pub kind: u16,
    pub payload: &'a [u8],
}

impl<'a> Ethernet<'a> {
    pub fn parse(frame: &'a [u8]) -> Option<Ethernet<'a>> {
        Some(Ethernet {
            to: MacAddress::from_slice(frame)?,
            from: MacAddress::from_slice(frame.get(6..)?)?,
            kind: u16_at(frame, 12)?,
            payload: frame.get(ETHERNET_HEADER..)?,
        })
    }
}

/// ARP for IPv4 over Ethernet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arp {
    /// A request, else a reply.
    pub request: bool,
    pub sender: (MacAddress, Ipv4Addr),
    pub target: (MacAddress, Ipv4Addr),
}

impl Arp {
    pub fn parse(bytes: &[u8]) -> Option<Arp> {
        if bytes.get(..6)? != [0, 1, 8, 0, 6, 4] {
            return None;
        }
        let request = match u16_at(bytes, 6)? {
            1 => true,
            2 => false,
            _ => return None,
        };
        let party = |at| Some((MacAddress::from_slice(bytes.get(at..)?)?, address_at(bytes, at + 6)?));
        Some(Arp { request, sender: party(8)?, target: party(18)? })
    }

    /// The frame that carries it.
    pub fn frame(&self) -> Vec<u8> {
        let to = if self.request { MacAddress::BROADCAST } else { self.target.0 };
        let mut frame = ethernet(to, self.sender.0, TYPE_ARP);
        frame.extend([0, 1, 8, 0, 6, 4, 0, if self.request { 1 } else { 2 }]);
        for (mac, ip) in [self.sender, self.target] {
            frame.extend(mac.0);
            frame.extend(ip.octets());
        }
        frame.resize(60, 0);
        frame
    }
}

/// An IPv4 packet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ipv4<'a> {
    pub from: Ipv4Addr,
    pub to: Ipv4Addr,
    pub protocol: u8,
    /// More fragments, or not the first one.
    pub fragment: bool,
    pub payload: &'a [u8],
}

impl<'a> Ipv4<'a> {
    /// `None` for everything that is no whole IPv4 packet. What follows it (padding) is left out.
    pub fn parse(bytes: &'a [u8]) -> Option<Ipv4<'a>> {
        let first = *bytes.first()?;
        let header = usize::from(first & 15) * 4;
        if first >> 4 != 4 || header < 20 {
            return None;
        }
        let total = usize::from(u16_at(bytes, 2)?);
        Some(Ipv4 {
            from: address_at(bytes, 12)?,
            to: address_at(bytes, 16)?,
            protocol: *bytes.get(9)?,
            fragment: u16_at(bytes, 6)? & 0x3fff != 0,
            payload: bytes.get(header..total)?,
        })
    }
}

/// Bits of a TCP header.
pub(crate) mod flag {
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const PSH: u8 = 8;
    pub const ACK: u8 = 16;
}

/// A TCP segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tcp<'a> {
    pub from_port: u16,
    pub to_port: u16,
    pub sequence: u32,
    pub acknowledged: u32,
    pub flags: u8,
    /// Not yet scaled.
    pub window: u16,
    options: &'a [u8],
    pub payload: &'a [u8],
}

impl<'a> Tcp<'a> {
    pub fn parse(bytes: &'a [u8]) -> Option<Tcp<'a>> {
        let header = usize::from(*bytes.get(12)? >> 4) * 4;
        Some(Tcp {
            from_port: u16_at(bytes, 0)?,
            to_port: u16_at(bytes, 2)?,
            sequence: u32_at(bytes, 4)?,
            acknowledged: u32_at(bytes, 8)?,
            flags: *bytes.get(13)?,
            window: u16_at(bytes, 14)?,
            options: bytes.get(20..header)?,
            payload: bytes.get(header..)?,
        })
    }

    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// The options of a SYN that matter: largest segment and window scale.
    pub fn syn_options(&self) -> (Option<u16>, Option<u8>) {
        let (mut largest, mut scale) = (None, None);
        let mut rest = self.options;
        while let [kind, tail @ ..] = rest {
            match kind {
                0 => break,
                1 => rest = tail,
                _ => {
                    let Some(len) = tail.first().map(|len| usize::from(*len)).filter(|len| *len >= 2) else { break };
                    let Some(value) = rest.get(2..len) else { break };
                    match (kind, value) {
                        (2, [high, low]) => largest = Some(u16::from_be_bytes([*high, *low])),
                        (3, [shift]) => scale = Some(*shift.min(&14)),
                        _ => {}
                    }
                    rest = &rest[len..];
                }
            }
        }
        (largest, scale)
    }

    /// Positions in sequence space that it takes.
    pub fn length(&self) -> u32 {
        self.payload.len() as u32 + u32::from(self.has(flag::SYN)) + u32::from(self.has(flag::FIN))
    }
}

/// A UDP datagram.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Udp<'a> {
    pub from_port: u16,
    pub to_port: u16,
    pub payload: &'a [u8],
}

impl<'a> Udp<'a> {
    pub fn parse(bytes: &'a [u8]) -> Option<Udp<'a>> {
        let len = usize::from(u16_at(bytes, 4)?);
        Some(Udp { from_port: u16_at(bytes, 0)?, to_port: u16_at(bytes, 2)?, payload: bytes.get(8..len)? })
    }
}

/// An ICMP echo request or reply.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Echo<'a> {
    pub request: bool,
    pub id: u16,
    pub sequence: u16,
    pub payload: &'a [u8],
}

impl<'a> Echo<'a> {
    pub fn parse(bytes: &'a [u8]) -> Option<Echo<'a>> {
        let request = match bytes.get(..2)? {
            [8, 0] => true,
            [0, 0] => false,
            _ => return None,
        };
        Some(Echo { request, id: u16_at(bytes, 4)?, sequence: u16_at(bytes, 6)?, payload: bytes.get(8..)? })
    }

    /// The message with its checksum.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![if self.request { 8 } else { 0 }, 0, 0, 0];
        bytes.extend(self.id.to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.payload);
        let sum = !internet_checksum(&bytes, 0);
        bytes[2..4].copy_from_slice(&sum.to_be_bytes());
        bytes
    }
}

/// ICMP "port unreachable" about a packet.
pub(crate) fn port_unreachable(packet: &[u8]) -> Vec<u8> {
    let mut bytes = vec![3, 3, 0, 0, 0, 0, 0, 0];
    let header = usize::from(packet.first().copied().unwrap_or(0) & 15) * 4;
    bytes.extend(&packet[..packet.len().min(header + 8)]);
    let sum = !internet_checksum(&bytes, 0);
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// Addresses of a frame on its way to a guest, or from the gateway.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Route {
    pub to_mac: MacAddress,
    pub from_mac: MacAddress,
    pub from: Ipv4Addr,
    pub to: Ipv4Addr,
}

impl Route {
    /// The sum of the pseudo header.
    fn pseudo(&self, protocol: u8, len: usize) -> u16 {
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&self.from.octets());
        bytes[4..8].copy_from_slice(&self.to.octets());
        bytes[9] = protocol;
        bytes[10..].copy_from_slice(&(len as u16).to_be_bytes());
        internet_checksum(&bytes, 0)
    }

    /// Ethernet and IPv4 headers for `len` bytes.
    fn headers(&self, protocol: u8, len: usize, id: u16, fragment: u16) -> Vec<u8> {
        let mut frame = ethernet(self.to_mac, self.from_mac, TYPE_IPV4);
        let total = (20 + len) as u16;
        frame.extend([0x45, 0]);
        frame.extend(total.to_be_bytes());
        frame.extend(id.to_be_bytes());
        frame.extend(fragment.to_be_bytes());
        frame.extend([64, protocol, 0, 0]);
        frame.extend(self.from.octets());
        frame.extend(self.to.octets());
        let checksum = !internet_checksum(&frame[ETHERNET_HEADER..], 0);
        frame[ETHERNET_HEADER + 10..ETHERNET_HEADER + 12].copy_from_slice(&checksum.to_be_bytes());
        frame
    }

    /// Headers of a TCP segment with `payload`, and the metadata of the frame. `cut` is the largest segment when somebody else
    /// completes and cuts the frame.
    pub fn tcp(&self, segment: &Outgoing, options: &[u8], payload: &[u8], cut: Option<u16>) -> (Vec<u8>, FrameMeta) {
        let len = 20 + options.len() + payload.len();
        let mut frame = self.headers(TCP, len, 0, 0x4000);
        let start = frame.len();
        frame.extend(segment.from_port.to_be_bytes());
        frame.extend(segment.to_port.to_be_bytes());
        frame.extend(segment.sequence.to_be_bytes());
        frame.extend(segment.acknowledged.to_be_bytes());
        frame.extend([((20 + options.len()) as u8 / 4) << 4, segment.flags]);
        frame.extend(segment.window.to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(options);
        let mut meta = FrameMeta::default();
        let pseudo = self.pseudo(TCP, len);
        let checksum = match cut {
            Some(size) => {
                meta.checksum = Checksum::Partial { start: start as u16, offset: 16 };
                let header_len = frame.len() as u16;
                meta.segmentation = (payload.len() > usize::from(size)).then_some(Segmentation {
                    kind: SegmentKind::TcpIpv4,
                    size,
                    header_len,
                });
                pseudo
            }
            // The header is a multiple of four bytes, so the payload begins at an even place.
            None => {
                let header = internet_checksum(&frame[start..], pseudo.into());
                !internet_checksum(payload, header.into())
            }
        };
        frame[start + 16..start + 18].copy_from_slice(&checksum.to_be_bytes());
        (frame, meta)
    }

    /// Frames of a UDP datagram; more than one when it is longer than the `mtu`.
    pub fn udp(&self, ports: (u16, u16), payload: &[u8], id: u16, mtu: usize) -> Vec<Vec<u8>> {
        let len = 8 + payload.len();
        let mut datagram = Vec::with_capacity(len);
        datagram.extend(ports.0.to_be_bytes());
        datagram.extend(ports.1.to_be_bytes());
        datagram.extend((len as u16).to_be_bytes());
        datagram.extend([0, 0]);
        datagram.extend(payload);
        let checksum = match !internet_checksum(&datagram, self.pseudo(UDP, len).into()) {
            0 => 0xffff,
            checksum => checksum,
        };
        datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
        self.packets(UDP, &datagram, id, mtu)
    }

    /// Frames of a payload, cut into fragments where it is longer than the `mtu`.
    pub fn packets(&self, protocol: u8, payload: &[u8], id: u16, mtu: usize) -> Vec<Vec<u8>> {
        let room = mtu.saturating_sub(20).max(8);
        let piece = if payload.len() <= room { room } else { room & !7 };
        let mut frames = Vec::new();
        for (index, part) in payload.chunks(piece).enumerate() {
            let at = index * piece;
            let more = if at + part.len() < payload.len() { 0x2000 } else { 0 };
            let mut frame = self.headers(protocol, part.len(), id, more | (at / 8) as u16);
            frame.extend(part);
            frames.push(frame);
        }
        frames
    }
}

/// The fields of a TCP header that is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outgoing {
    pub from_port: u16,
    pub to_port: u16,
    pub sequence: u32,
    pub acknowledged: u32,
    pub flags: u8,
    pub window: u16,
}

fn ethernet(to: MacAddress, from: MacAddress, kind: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(TCP_HEADERS + 12);
    frame.extend(to.0);
    frame.extend(from.0);
    frame.extend(kind.to_be_bytes());
    frame
}
