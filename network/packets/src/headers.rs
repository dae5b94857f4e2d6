//! Headers as far as a switch looks at them: Ethernet on every frame, the rest only when a policy asks.

use crate::{ETHERNET_HEADER, MacAddress, VlanTag};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const VLAN: u16 = 0x8100;
const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86DD;
/// More extension headers than this are no honest packet.
const MAX_EXTENSIONS: usize = 8;

/// The Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ethernet {
    /// To whom.
    pub destination: MacAddress,
    /// From whom.
    pub source: MacAddress,
    /// The 802.1Q tag in the frame.
    pub tag: Option<VlanTag>,
    /// What follows, after the tag.
    pub ethertype: u16,
    /// Where that starts.
    pub payload: usize,
}

impl Ethernet {
    /// Reads the start of a frame; `None` if it is shorter than its header.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Option<Ethernet> {
        let header: &[u8; ETHERNET_HEADER] = bytes.first_chunk()?;
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *header;
        let destination = MacAddress([d0, d1, d2, d3, d4, d5]);
        let source = MacAddress([s0, s1, s2, s3, s4, s5]);
        let ethertype = u16::from_be_bytes([t0, t1]);
        if ethertype != VLAN {
            return Some(Ethernet { destination, source, tag: None, ethertype, payload: ETHERNET_HEADER });
        }
        let tag = Some(VlanTag(half(bytes, 14)?));
        Some(Ethernet { destination, source, tag, ethertype: half(bytes, 16)?, payload: 18 })
    }
}

/// What an Ethernet frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// An address question or answer.
    Arp(Arp),
    /// A packet.
    Ip(Ip),
    /// An IP packet whose headers make no sense, or do not end within the bytes at hand.
    BrokenIp,
    /// Something else.
    Other,
}

/// ARP for IPv4 over Ethernet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// The sender says that it has this address …
    pub sender_mac: MacAddress,
    /// … and this one.
    pub sender: Ipv4Addr,
    /// Who is asked for, or answered.
    pub target: Ipv4Addr,
}

/// An IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip {
    /// From whom.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// The protocol of the payload: 6 TCP, 17 UDP, 1 ICMP, 58 ICMPv6.
    pub protocol: u8,
    /// Where the payload starts in the frame.
    pub payload: usize,
    /// Not the first piece of a packet: there is no transport header.
    pub later_fragment: bool,
    /// The first bytes of the payload.
    pub transport: Option<Transport>,
}

/// What policies look at in the transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP, UDP: ports.
    Ports {
        /// Sender's.
        source: u16,
        /// Receiver's.
        destination: u16,
    },
    /// ICMP, ICMPv6.
    Icmp {
        /// Kind of message.
        kind: u8,
        /// The target of a neighbour solicitation or advertisement.
        target: Option<Ipv6Addr>,
    },
}

impl Network {
    /// Reads what follows an Ethernet header, given the first bytes of the frame.
    pub fn parse(ethernet: &Ethernet, bytes: &[u8]) -> Network {
        let at = ethernet.payload;
        match ethernet.ethertype {
            ARP => arp(bytes, at).map_or(Network::Other, Network::Arp),
            IPV4 => ipv4(bytes, at).map_or(Network::BrokenIp, Network::Ip),
            IPV6 => ipv6(bytes, at).map_or(Network::BrokenIp, Network::Ip),
            _ => Network::Other,
        }
    }
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn arp(bytes: &[u8], at: usize) -> Option<Arp> {
    // Ethernet and IPv4, addresses of 6 and 4 bytes.
    if array(bytes, at)? != [0, 1, 8, 0, 6, 4] {
        return None;
    }
    Some(Arp {
        sender_mac: MacAddress(array(bytes, at + 8)?),
        sender: Ipv4Addr::from(array::<4>(bytes, at + 14)?),
        target: Ipv4Addr::from(array::<4>(bytes, at + 24)?),
    })
}

fn ipv4(bytes: &[u8], at: usize) -> Option<Ip> {
    let header: [u8; 20] = array(bytes, at)?;
    let len = usize::from(header[0] & 0xF) * 4;
    if header[0] >> 4 != 4 || len < 20 {
        return None;
    }
    let later_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1FFF != 0;
    let source = IpAddr::from([header[12], header[13], header[14], header[15]]);
    let destination = IpAddr::from([header[16], header[17], header[18], header[19]]);
    let payload = at + len;
    let transport = if later_fragment { None } else { transport(bytes, header[9], payload) };
    Some(Ip { source, destination, protocol: header[9], payload, later_fragment, transport })
}

fn ipv6(bytes: &[u8], at: usize) -> Option<Ip> {
    let header: [u8; 40] = array(bytes, at)?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let (mut protocol, mut payload, mut later_fragment) = (header[6], at + 40, false);
    for _ in 0..MAX_EXTENSIONS {
        match protocol {
            // Hop-by-hop, routing, destination options, and the mobility header: next header and length in 8 bytes.
            0 | 43 | 60 | 135 => {
                let [next, len] = array(bytes, payload)?;
                (protocol, payload) = (next, payload + (usize::from(len) + 1) * 8);
            }
            44 => {
                let [next, _, high, low] = array(bytes, payload)?;
                later_fragment |= u16::from_be_bytes([high, low]) >> 3 != 0;
                (protocol, payload) = (next, payload + 8);
            }
            // Authentication: length in 4 bytes, less two.
            51 => {
                let [next, len] = array(bytes, payload)?;
                (protocol, payload) = (next, payload + (usize::from(len) + 2) * 4);
            }
            _ => break,
        }
        if later_fragment {
            break;
        }
    }
    if matches!(protocol, 0 | 43 | 60 | 135) && !later_fragment {
        return None;
    }
    let source = IpAddr::from(array::<16>(bytes, at + 8)?);
    let destination = IpAddr::from(array::<16>(bytes, at + 24)?);
    let transport = if later_fragment { None } else { transport(bytes, protocol, payload) };
    Some(Ip { source, destination, protocol, payload, later_fragment, transport })
}

fn transport(bytes: &[u8], protocol: u8, at: usize) -> Option<Transport> {
    match protocol {
        6 | 17 | 132 => Some(Transport::Ports { source: half(bytes, at)?, destination: half(bytes, at + 2)? }),
        1 => Some(Transport::Icmp { kind: *bytes.get(at)?, target: None }),
        58 => {
            let kind = *bytes.get(at)?;
            let target = if matches!(kind, 135 | 136) { array::<16>(bytes, at + 8).map(Ipv6Addr::from) } else { None };
            Some(Transport::Icmp { kind, target })
        }
        _ => None,
    }
}
