//! Cutting a frame that stands for several ([`Segmentation`](crate::Segmentation)) into frames that fit the wire, with complete
//! checksums.

use crate::{Checksum, Ethernet, FrameMeta, Network, SegmentKind, complete_checksum, internet_checksum};

/// Why a frame cannot be cut: its headers are not what its metadata say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame to be cut whose headers are not those of its kind")]
pub struct SegmentError;

/// The pieces of one frame. Not an iterator, because each piece is written into the same buffer.
#[derive(Debug)]
pub struct Segments<'a> {
    frame: &'a [u8],
    meta: FrameMeta,
    kind: SegmentKind,
    ip: usize,
    transport: usize,
    headers: usize,
    size: usize,
    index: usize,
}

/// Prepares to cut `frame`, which is there as a whole. `meta` must say how, or it is [`SegmentError`].
///
/// # Errors
/// The headers are not those that the metadata promise.
pub fn segments<'a>(frame: &'a [u8], meta: &FrameMeta) -> Result<Segments<'a>, SegmentError> {
    let how = meta.segmentation.ok_or(SegmentError)?;
    let ethernet = Ethernet::parse(frame).ok_or(SegmentError)?;
    let Network::Ip(ip) = Network::parse(&ethernet, frame) else { return Err(SegmentError) };
    let (transport, protocol) = (ip.payload, ip.protocol);
    let headers = match how.kind {
        SegmentKind::TcpIpv4 | SegmentKind::TcpIpv6 => {
            let offset = frame.get(transport + 12).ok_or(SegmentError)? >> 4;
            transport + usize::from(offset.max(5)) * 4
        }
        SegmentKind::Udp => transport + 8,
    };
    let fits = match how.kind {
        SegmentKind::TcpIpv4 => ip.source.is_ipv4() && protocol == 6,
        SegmentKind::TcpIpv6 => ip.source.is_ipv6() && protocol == 6,
        SegmentKind::Udp => protocol == 17,
    };
    if !fits || ip.later_fragment || headers > frame.len() || how.size == 0 {
        return Err(SegmentError);
    }
    let meta = FrameMeta { segmentation: None, ..*meta };
    let size = usize::from(how.size);
    Ok(Segments { frame, meta, kind: how.kind, ip: ethernet.payload, transport, headers, size, index: 0 })
}

impl Segments<'_> {
    /// Writes the next piece in place of what is in `out`; its metadata. `None` after the last.
    pub fn next(&mut self, out: &mut Vec<u8>) -> Option<FrameMeta> {
        let payload = &self.frame[self.headers..];
        let from = self.index * self.size;
        if from >= payload.len() && self.index > 0 {
            return None;
        }
        let piece = &payload[from..payload.len().min(from + self.size)];
        let last = from + self.size >= payload.len();
        out.clear();
        out.extend_from_slice(&self.frame[..self.headers]);
        out.extend_from_slice(piece);
        self.fix_ip(out);
        let field = match self.kind {
            SegmentKind::TcpIpv4 | SegmentKind::TcpIpv6 => {
                self.fix_tcp(out, from as u32, last);
                16
            }
            SegmentKind::Udp => {
                let len = (out.len() - self.transport) as u16;
                out[self.transport + 4..self.transport + 6].copy_from_slice(&len.to_be_bytes());
                6
            }
        };
        let mut meta = self.meta;
        self.sum_pseudo_header(out, field);
        meta.checksum = Checksum::Partial { start: self.transport as u16, offset: field as u16 };
        complete_checksum(out, &mut meta);
        self.index += 1;
        Some(meta)
    }

    fn fix_ip(&self, out: &mut [u8]) {
        let ip = self.ip;
        if out[ip] >> 4 == 6 {
            let len = (out.len() - ip - 40) as u16;
            out[ip + 4..ip + 6].copy_from_slice(&len.to_be_bytes());
            return;
        }
        let len = (out.len() - ip) as u16;
        out[ip + 2..ip + 4].copy_from_slice(&len.to_be_bytes());
        let id = u16::from_be_bytes([out[ip + 4], out[ip + 5]]).wrapping_add(self.index as u16);
        out[ip + 4..ip + 6].copy_from_slice(&id.to_be_bytes());
        out[ip + 10..ip + 12].fill(0);
        let sum = !internet_checksum(&out[ip..ip + usize::from(out[ip] & 0xF) * 4], 0);
        out[ip + 10..ip + 12].copy_from_slice(&sum.to_be_bytes());
    }

    fn fix_tcp(&self, out: &mut [u8], from: u32, last: bool) {
        const FIN_PSH: u8 = 0x09;
        const CWR: u8 = 0x80;
        let tcp = self.transport;
        let sequence = u32::from_be_bytes([out[tcp + 4], out[tcp + 5], out[tcp + 6], out[tcp + 7]]).wrapping_add(from);
        out[tcp + 4..tcp + 8].copy_from_slice(&sequence.to_be_bytes());
        if !last {
            out[tcp + 13] &= !FIN_PSH;
        }
        if self.index > 0 {
            out[tcp + 13] &= !CWR;
        }
    }

    /// Puts the sum of the pseudo header, which counts the new length, where the checksum goes.
    fn sum_pseudo_header(&self, out: &mut [u8], field: usize) {
        let addresses = if out[self.ip] >> 4 == 6 { self.ip + 8..self.ip + 40 } else { self.ip + 12..self.ip + 20 };
        let protocol: u32 = if self.kind == SegmentKind::Udp { 17 } else { 6 };
        let sum = internet_checksum(&out[addresses], protocol + (out.len() - self.transport) as u32);
        out[self.transport + field..self.transport + field + 2].copy_from_slice(&sum.to_be_bytes());
    }
}
