//! Packets in rings: descriptor, type-specific header, payload, padding, trailer.

use crate::field::{u16_at, u32_at, u64_at};
use crate::ring::TRAILER;
use bulkhead_guest_memory::{GuestRange, PAGE_SIZE};

/// Kinds of packets that guests and hosts exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PacketKind {
    /// Data in the ring (6).
    InBand,
    /// Data in a buffer that both know (7).
    TransferPages,
    /// Data in guest pages that the packet names (9).
    GpaDirect,
    /// The answer to a packet (11).
    Completion,
}

impl PacketKind {
    fn from_wire(kind: u16) -> Option<PacketKind> {
        Some(match kind {
            6 => PacketKind::InBand,
            7 => PacketKind::TransferPages,
            9 => PacketKind::GpaDirect,
            11 => PacketKind::Completion,
            _ => return None,
        })
    }

    fn wire(self) -> u16 {
        match self {
            PacketKind::InBand => 6,
            PacketKind::TransferPages => 7,
            PacketKind::GpaDirect => 9,
            PacketKind::Completion => 11,
        }
    }
}

/// A packet that breaks the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// A type that this protocol does not use.
    #[error("packet type {0} is not used by any device")]
    UnknownType(u16),
    /// Lengths that contradict each other.
    #[error("packet of {len} bytes with its payload at {payload}: {reason}")]
    BadLength {
        /// Bytes of the packet.
        len: usize,
        /// Where the payload is said to begin.
        payload: usize,
        /// The rule that is broken.
        reason: &'static str,
    },
}

/// The first 16 bytes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Type on the wire.
    pub kind: u16,
    /// Where the payload begins, bytes.
    pub payload: usize,
    /// Bytes of the packet without its trailer.
    pub len: usize,
    /// The sender waits for a completion.
    pub wants_completion: bool,
    /// Chosen by the sender.
    pub transaction: u64,
}

impl Descriptor {
    /// Bytes of a descriptor.
    pub const LEN: usize = 16;

    /// Reads it. Nothing is checked yet.
    pub fn read(bytes: &[u8; Self::LEN]) -> Descriptor {
        Descriptor {
            kind: u16_at(bytes, 0),
            payload: usize::from(u16_at(bytes, 2)) * 8,
            len: usize::from(u16_at(bytes, 4)) * 8,
            wants_completion: u16_at(bytes, 6) & 1 != 0,
            transaction: u64_at(bytes, 8),
        }
    }
}

/// A packet, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// What it is.
    pub kind: PacketKind,
    /// Chosen by the sender.
    pub transaction: u64,
    /// The sender waits for a completion.
    pub wants_completion: bool,
    /// Where the payload begins in the packet; it ends with the packet (so it may have up to 7 bytes of padding).
    pub payload: usize,
}

/// Checks a whole packet (without its trailer, copied out of the ring), and appends the guest memory of a GPA-direct packet
/// to `data`: page runs in order, neighbours merged. Ranges of transfer pages stay in the packet.
///
/// # Errors
/// [`PacketError`]; `data` may then hold some ranges.
pub fn parse_packet(packet: &[u8], data: &mut Vec<GuestRange>) -> Result<Parsed, PacketError> {
    let Some(head) = packet.first_chunk() else {
        return Err(PacketError::BadLength { len: packet.len(), payload: 0, reason: "it has no descriptor" });
    };
    let descriptor = Descriptor::read(head);
    let bad = |reason| PacketError::BadLength { len: packet.len(), payload: descriptor.payload, reason };
    let kind = PacketKind::from_wire(descriptor.kind).ok_or(PacketError::UnknownType(descriptor.kind))?;
    if descriptor.len != packet.len() {
        return Err(bad("its length field disagrees"));
    }
    let extra = match kind {
        PacketKind::InBand | PacketKind::Completion => 0,
        PacketKind::TransferPages | PacketKind::GpaDirect => 8,
    };
    if descriptor.payload < Descriptor::LEN + extra || descriptor.payload > packet.len() {
        return Err(bad("the payload must lie between the header and the end"));
    }
    if kind == PacketKind::GpaDirect {
        gpa_ranges(&packet[Descriptor::LEN..descriptor.payload], data)
            .ok_or_else(|| bad("the page ranges are not all in front of the payload"))?;
    }
    let Descriptor { transaction, wants_completion, payload, .. } = descriptor;
    Ok(Parsed { kind, transaction, wants_completion, payload })
}

/// Reserved, count, then ranges of length, offset and as many page numbers as they need.
fn gpa_ranges(mut header: &[u8], data: &mut Vec<GuestRange>) -> Option<()> {
    let count = u32_at(header, 4);
    header = header.get(8..)?;
    for _ in 0..count {
        let (len, offset) = (u64::from(u32_at(header, 0)), u64::from(u32_at(header, 4)));
        header = header.get(8..)?;
        if offset >= PAGE_SIZE {
            return None;
        }
        // Every range takes at least its head, so the count cannot make this loop longer than the packet.
        let pages = (offset + len).div_ceil(PAGE_SIZE) as usize;
        let (numbers, rest) = header.split_at_checked(pages.checked_mul(8)?)?;
        header = rest;
        let (mut skip, mut left) = (offset, len);
        for number in numbers.chunks_exact(8) {
            let page = u64_at(number, 0).checked_mul(PAGE_SIZE)?;
            let here = left.min(PAGE_SIZE - skip);
            push_range(data, GuestRange { gpa: page + skip, len: here });
            (skip, left) = (0, left - here);
        }
    }
    Some(())
}

fn push_range(data: &mut Vec<GuestRange>, range: GuestRange) {
    match data.last_mut() {
        // The last page of the address space has no neighbour.
        Some(last) if last.gpa.checked_add(last.len) == Some(range.gpa) => last.len += range.len,
        _ => data.push(range),
    }
}

/// A packet from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outgoing<'a> {
    /// Data.
    InBand {
        /// Echoed by the guest's completion.
        transaction: u64,
        /// Whether the guest is to answer.
        wants_completion: bool,
        /// The data, padded with zeros to a multiple of 8.
        payload: &'a [u8],
    },
    /// The answer to a packet.
    Completion {
        /// As in the packet.
        transaction: u64,
        /// The answer, padded with zeros to a multiple of 8.
        payload: &'a [u8],
    },
    /// Data in a buffer that the guest gave the host (network). Always answered.
    TransferPages {
        /// Echoed by the guest's completion.
        transaction: u64,
        /// Which buffer.
        set: u16,
        /// Length and offset of each part in the buffer.
        ranges: &'a [(u32, u32)],
        /// What the parts are, padded with zeros to a multiple of 8.
        payload: &'a [u8],
    },
}

impl Outgoing<'_> {
    /// Bytes that the packet takes in a ring, trailer included.
    pub fn ring_len(&self) -> usize {
        let (header, payload) = match self {
            Outgoing::InBand { payload, .. } | Outgoing::Completion { payload, .. } => (Descriptor::LEN, payload),
            Outgoing::TransferPages { ranges, payload, .. } => (Descriptor::LEN + 8 + 8 * ranges.len(), payload),
        };
        header + payload.len().next_multiple_of(8) + TRAILER as usize
    }

    /// Appends the packet as it lies in a ring at index `at`, trailer included. `None` if it is longer than a descriptor can
    /// say (512 KiB).
    pub fn encode(&self, at: u32, out: &mut Vec<u8>) -> Option<()> {
        let start = out.len();
        let (kind, transaction, wants_completion, ranges, payload) = match *self {
            Outgoing::InBand { transaction, wants_completion, payload } => {
                (PacketKind::InBand, transaction, wants_completion, 0, payload)
            }
            Outgoing::Completion { transaction, payload } => (PacketKind::Completion, transaction, false, 0, payload),
            Outgoing::TransferPages { transaction, ranges, payload, .. } => {
                (PacketKind::TransferPages, transaction, true, 1 + ranges.len(), payload)
            }
        };
        let offset = u16::try_from(2 + ranges).ok()?;
        let len = u16::try_from((self.ring_len() - TRAILER as usize) / 8).ok()?;
        for half in [kind.wire(), offset, len, u16::from(wants_completion)] {
            out.extend(half.to_le_bytes());
        }
        out.extend(transaction.to_le_bytes());
        if let Outgoing::TransferPages { set, ranges, .. } = *self {
            out.extend(set.to_le_bytes());
            out.extend([0; 2]);
            out.extend((ranges.len() as u32).to_le_bytes());
            for (len, offset) in ranges {
                out.extend(len.to_le_bytes());
                out.extend(offset.to_le_bytes());
            }
        }
        out.extend(payload);
        out.resize(start + usize::from(len) * 8, 0);
        out.extend((u64::from(at) << 32).to_le_bytes());
        Some(())
    }
}

impl Parsed {
    /// Set and ranges of a transfer-pages packet that was checked: only hosts send them, so this is for guests in tests.
    pub fn transfer_pages(packet: &[u8]) -> (u16, Vec<(u32, u32)>) {
        let count = u32_at(packet, 20) as usize;
        let ranges = packet.get(24..).unwrap_or_default().chunks_exact(8).take(count);
        (u16_at(packet, 16), ranges.map(|range| (u32_at(range, 0), u32_at(range, 4))).collect())
    }
}
