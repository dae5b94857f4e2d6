//! The header of a record: the length of the frame and its metadata, in 32 bytes.
//!
//! | bytes | what |
//! |---|---|
//! | 0–3 | length of the frame; FFFFFFFFh: nothing up to the end of the ring |
//! | 4 | bit 0: partial checksum, bit 1: verified, bit 2: VLAN tag |
//! | 5 | segmentation: 0 none, 1 TCP/IPv4, 2 TCP/IPv6, 3 UDP |
//! | 6–15 | segment size, length of headers, start of the sum, its field, VLAN tag: 16 bits each |
//! | 16–19 | flow hash |
//! | 20–31 | zero |
//!
//! All little-endian. Unknown bits are ignored, so that a later version may add some.

use bulkhead_packets::{Checksum, FrameMeta, SegmentKind, Segmentation, VlanTag};

/// In place of a length: the rest of the ring is unused.
pub(crate) const SKIP: u32 = u32::MAX;

const PARTIAL: u8 = 1;
const VERIFIED: u8 = 2;
const TAGGED: u8 = 4;

/// Writes the header.
#[inline]
pub(crate) fn encode(len: u32, meta: &FrameMeta) -> [u8; 32] {
    let (mut flags, mut start, mut offset) = (0, 0, 0);
    match meta.checksum {
        Checksum::InFrame => {}
        Checksum::Verified => flags |= VERIFIED,
        Checksum::Partial { start: from, offset: field } => {
            flags |= PARTIAL;
            (start, offset) = (from, field);
        }
    }
    let mut tag = 0;
    if let Some(vlan) = meta.vlan {
        flags |= TAGGED;
        tag = vlan.0;
    }
    let (mut kind, mut size, mut header_len) = (0, 0, 0);
    if let Some(segmentation) = meta.segmentation {
        kind = match segmentation.kind {
            SegmentKind::TcpIpv4 => 1,
            SegmentKind::TcpIpv6 => 2,
            SegmentKind::Udp => 3,
        };
        (size, header_len) = (segmentation.size, segmentation.header_len);
    }
    // As two wide integers: one store each, where bytes one by one would be a dozen.
    let low = u128::from(len)
        | u128::from(flags) << 32
        | u128::from(kind as u8) << 40
        | u128::from(size) << 48
        | u128::from(header_len) << 64
        | u128::from(start) << 80
        | u128::from(offset) << 96
        | u128::from(tag) << 112;
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(&low.to_le_bytes());
    bytes[16..20].copy_from_slice(&meta.hash.to_le_bytes());
    bytes
}

/// Reads the header: the length and the metadata, neither checked against the other.
#[inline]
pub(crate) fn decode(bytes: &[u8; 32]) -> (u32, FrameMeta) {
    let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let flags = bytes[4];
    let checksum = match flags & (PARTIAL | VERIFIED) {
        0 => Checksum::InFrame,
        VERIFIED => Checksum::Verified,
        _ => Checksum::Partial { start: half(10), offset: half(12) },
    };
    let kind = match bytes[5] {
        1 => Some(SegmentKind::TcpIpv4),
        2 => Some(SegmentKind::TcpIpv6),
        3 => Some(SegmentKind::Udp),
        _ => None,
    };
    let segmentation = kind.map(|kind| Segmentation { kind, size: half(6), header_len: half(8) });
    let vlan = (flags & TAGGED != 0).then(|| VlanTag(half(14)));
    (word(0), FrameMeta { checksum, segmentation, vlan, hash: word(16) })
}
