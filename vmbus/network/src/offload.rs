//! Offloads between RNDIS' per-packet information and the [`FrameMeta`] of the switch.
//!
//! The two differ for large sends: Windows and Linux hand over IPv4 headers without length and checksum, and a pseudo header
//! sum without the length ([MS NDIS], "Offloading the Segmentation of Large TCP Packets"); a `FrameMeta` wants complete headers.
//! So does a frame whose IP checksum was left to us. [`Transmit::apply`] writes what is missing.

use bulkhead_packets::{Checksum, ETHERNET_HEADER, FrameMeta, SegmentKind, Segmentation, VlanTag};

use crate::field::u32_at;

/// Bytes of headers that [`Transmit::apply`] may need: Ethernet with a tag, the longest IPv4 header or an IPv6 header with
/// extensions, and TCP's fixed part.
pub const HEADERS: usize = 256;

/// The head of each per-packet information: size, type, offset of the value.
const INFO_HEADER: usize = 12;
const INFO_INTERNAL: u32 = 1 << 31;
const INFO_CHECKSUM: u32 = 0;
const INFO_LARGE_SEND: u32 = 2;
const INFO_VLAN: u32 = 6;

/// What the guest asks for beside a frame.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Transmit {
    checksum: Option<u32>,
    large_send: Option<u32>,
    vlan: Option<u32>,
}

/// Why a frame cannot be sent as the guest asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OffloadError {
    /// The sizes of the per-packet information do not add up.
    #[error("malformed per-packet information")]
    Information,
    /// Headers are not where the guest says that they are.
    #[error("the frame has no such headers")]
    Headers,
    /// A large send into segments of nothing.
    #[error("segments of {mss} bytes")]
    SegmentSize {
        /// What was asked for.
        mss: u32,
    },
}

impl Transmit {
    /// Reads the per-packet information of a packet. Unknown kinds are passed over.
    pub fn decode(mut info: &[u8]) -> Result<Transmit, OffloadError> {
        let mut wanted = Transmit::default();
        while !info.is_empty() {
            let field = |at| u32_at(info, at).ok_or(OffloadError::Information);
            let (size, kind, offset) = (field(0)? as usize, field(4)?, field(8)? as usize);
            if size < INFO_HEADER || size > info.len() || offset < INFO_HEADER {
                return Err(OffloadError::Information);
            }
            let value = u32_at(&info[..size], offset);
            match kind {
                INFO_CHECKSUM => wanted.checksum = value,
                INFO_LARGE_SEND => wanted.large_send = value,
                INFO_VLAN => wanted.vlan = value,
                kind if kind & INFO_INTERNAL != 0 => {}
                _ => {}
            }
            info = &info[size..];
        }
        Ok(wanted)
    }

    /// Completes the headers of a frame of `frame_len` bytes, of which `headers` are the first ones, and says what is left to do.
    pub fn apply(&self, headers: &mut [u8], frame_len: usize) -> Result<FrameMeta, OffloadError> {
        let mut meta = FrameMeta { vlan: self.vlan.map(vlan_tag), ..FrameMeta::default() };
        if let Some(value) = self.large_send {
            apply_large_send(value, headers, frame_len, &mut meta)?;
        } else if let Some(value) = self.checksum {
            apply_checksum(value, headers, &mut meta)?;
        }
        Ok(meta)
    }
}

/// 802.1Q information keeps the VLAN above the priority; a tag keeps it below.
fn vlan_tag(value: u32) -> VlanTag {
    let (priority, cfi, id) = (value & 7, value >> 3 & 1, value >> 4 & 0xFFF);
    VlanTag((priority << 13 | cfi << 12 | id) as u16)
}

/// The reverse, for a frame to the guest.
fn vlan_value(tag: VlanTag) -> u32 {
    let tag = u32::from(tag.0);
    tag >> 13 | (tag >> 12 & 1) << 3 | (tag & 0xFFF) << 4
}

fn apply_checksum(value: u32, headers: &mut [u8], meta: &mut FrameMeta) -> Result<(), OffloadError> {
    const TCP: u32 = 1 << 2;
    const UDP: u32 = 1 << 3;
    const IP_HEADER: u32 = 1 << 4;
    let ip = ip_offset(headers)?;
    if value & IP_HEADER != 0 && version(headers, ip)? == 4 {
        sum_ipv4_header(headers, ip)?;
    }
    let field = match value & (TCP | UDP) {
        TCP => 16,
        UDP => 6,
        _ => return Ok(()),
    };
    let start = (value >> 16 & 0x3FF) as u16;
    if usize::from(start) <= ip {
        return Err(OffloadError::Headers);
    }
    meta.checksum = Checksum::Partial { start, offset: field };
    Ok(())
}

fn apply_large_send(
    value: u32,
    headers: &mut [u8],
    frame_len: usize,
    meta: &mut FrameMeta,
) -> Result<(), OffloadError> {
    let (mss, tcp, v6) = (value & 0xF_FFFF, (value >> 20 & 0x3FF) as usize, value >> 31 == 1);
    let size = u16::try_from(mss).ok().filter(|size| *size > 0).ok_or(OffloadError::SegmentSize { mss })?;
    let ip = ip_offset(headers)?;
    let tcp_header = headers.get(tcp..tcp + 20).ok_or(OffloadError::Headers)?;
    let header_len = tcp + usize::from(tcp_header[12] >> 4) * 4;
    if tcp < ip + 20 || header_len < tcp + 20 || header_len > frame_len {
        return Err(OffloadError::Headers);
    }
    let tcp_len = frame_len - tcp;
    let addresses = match (version(headers, ip)?, v6) {
        (4, false) => {
            let total = u16::try_from(frame_len - ip).map_err(|_| OffloadError::Headers)?;
            headers[ip + 2..ip + 4].copy_from_slice(&total.to_be_bytes());
            sum_ipv4_header(headers, ip)?;
            ip + 12..ip + 20
        }
        (6, true) if tcp >= ip + 40 => {
            let payload = u16::try_from(frame_len - ip - 40).map_err(|_| OffloadError::Headers)?;
            headers[ip + 4..ip + 6].copy_from_slice(&payload.to_be_bytes());
            ip + 8..ip + 40
        }
        _ => return Err(OffloadError::Headers),
    };
    const PROTOCOL_TCP: u64 = 6;
    let pseudo = fold(sum(&headers[addresses]) + PROTOCOL_TCP + tcp_len as u64);
    headers[tcp + 16..tcp + 18].copy_from_slice(&pseudo.to_be_bytes());
    let kind = if v6 { SegmentKind::TcpIpv6 } else { SegmentKind::TcpIpv4 };
    meta.checksum = Checksum::Partial { start: tcp as u16, offset: 16 };
    meta.segmentation = Some(Segmentation { kind, size, header_len: header_len as u16 });
    Ok(())
}

/// Where the IP header begins: behind the Ethernet header, and behind a tag if there is one.
fn ip_offset(headers: &[u8]) -> Result<usize, OffloadError> {
    const TAGGED: [u8; 2] = [0x81, 0x00];
    let ether_type = headers.get(12..ETHERNET_HEADER).ok_or(OffloadError::Headers)?;
    Ok(if ether_type == TAGGED { ETHERNET_HEADER + 4 } else { ETHERNET_HEADER })
}

fn version(headers: &[u8], ip: usize) -> Result<u8, OffloadError> {
    headers.get(ip).map(|byte| byte >> 4).ok_or(OffloadError::Headers)
}

fn sum_ipv4_header(headers: &mut [u8], ip: usize) -> Result<(), OffloadError> {
    let len = usize::from(headers.get(ip).ok_or(OffloadError::Headers)? & 0xF) * 4;
    let header = headers.get_mut(ip..ip + len).filter(|header| header.len() >= 20).ok_or(OffloadError::Headers)?;
    header[10..12].fill(0);
    let checksum = !fold(sum(header));
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    Ok(())
}

/// Sum of 16-bit words (RFC 1071); an odd byte at the end is a word's high half.
fn sum(bytes: &[u8]) -> u64 {
    let pairs = bytes.chunks(2);
    pairs.map(|pair| u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0))).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum as u16
}

/// The per-packet information of a frame to the guest. Never malformed: Linux loops for ever on a size of 0.
pub fn receive_information(meta: &FrameMeta) -> Vec<u8> {
    const TCP_GOOD: u32 = 1 << 3;
    const UDP_GOOD: u32 = 1 << 4;
    let mut info = Vec::new();
    let mut add = |kind: u32, value: u32| {
        let size = INFO_HEADER as u32 + 4;
        info.extend(crate::field::words(&[size, kind, INFO_HEADER as u32, value]));
    };
    if meta.checksum == Checksum::Verified {
        add(INFO_CHECKSUM, TCP_GOOD | UDP_GOOD);
    }
    if let Some(tag) = meta.vlan {
        add(INFO_VLAN, vlan_value(tag));
    }
    info
}
