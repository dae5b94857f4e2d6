//! The header that taps and packet sockets put in front of a frame (the kernel's `struct virtio_net_hdr`), as metadata.

use bulkhead_packets::{Checksum, FrameMeta, SegmentKind, Segmentation};

/// Bytes of it.
pub(crate) const HEADER: usize = 10;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_TCPV4: u8 = 1;
const GSO_UDP: u8 = 3;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// The header of a frame; its tag must be in the frame already.
pub(crate) fn encode(meta: &FrameMeta) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    match meta.checksum {
        Checksum::InFrame => {}
        Checksum::Verified => header[0] = DATA_VALID,
        Checksum::Partial { start, offset } => {
            header[0] = NEEDS_CSUM;
            header[6..8].copy_from_slice(&start.to_ne_bytes());
            header[8..10].copy_from_slice(&offset.to_ne_bytes());
        }
    }
    if let Some(Segmentation { kind, size, header_len }) = meta.segmentation {
        header[1] = match kind {
            SegmentKind::TcpIpv4 => GSO_TCPV4,
            SegmentKind::TcpIpv6 => GSO_TCPV6,
            SegmentKind::Udp => GSO_UDP_L4,
        };
        header[2..4].copy_from_slice(&header_len.to_ne_bytes());
        header[4..6].copy_from_slice(&size.to_ne_bytes());
    }
    header
}

/// The metadata of a frame of `len` bytes; `None` if the kernel asks for something that nobody negotiated, or nonsense.
pub(crate) fn decode(header: &[u8; HEADER], len: usize) -> Option<FrameMeta> {
    let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    let checksum = match header[0] & (NEEDS_CSUM | DATA_VALID) {
        0 => Checksum::InFrame,
        DATA_VALID => Checksum::Verified,
        _ => Checksum::Partial { start: half(6), offset: half(8) },
    };
    let kind = match header[1] & !GSO_ECN {
        0 => None,
        GSO_TCPV4 => Some(SegmentKind::TcpIpv4),
        GSO_TCPV6 => Some(SegmentKind::TcpIpv6),
        GSO_UDP_L4 => Some(SegmentKind::Udp),
        GSO_UDP => return None,
        _ => return None,
    };
    let segmentation = kind.map(|kind| Segmentation { kind, size: half(4), header_len: half(2) });
    let meta = FrameMeta { checksum, segmentation, vlan: None, hash: 0 };
    meta.check(len).is_ok().then_some(meta)
}
