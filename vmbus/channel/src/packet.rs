//! A packet from the guest: copied out of the ring and checked.

use bulkhead_guest_memory::GuestRange;
use bulkhead_vmbus_protocol::{PacketError, PacketKind, parse_packet};

/// A packet from the guest. May be used again and again with [`crate::Channel::receive_into`], so that no memory is
/// allocated per packet.
#[derive(Debug, Clone)]
pub struct Packet {
    pub(crate) bytes: Vec<u8>,
    payload: usize,
    kind: PacketKind,
    transaction: u64,
    wants_completion: bool,
    data: Vec<GuestRange>,
}

impl Default for Packet {
    fn default() -> Packet {
        Packet {
            bytes: Vec::new(),
            payload: 0,
            kind: PacketKind::InBand,
            transaction: 0,
            wants_completion: false,
            data: Vec::new(),
        }
    }
}

impl Packet {
    /// What it is.
    pub fn kind(&self) -> PacketKind {
        self.kind
    }

    /// To be echoed in its completion; in a completion, what was sent.
    pub fn transaction(&self) -> u64 {
        self.transaction
    }

    /// Whether the guest waits for a completion.
    pub fn wants_completion(&self) -> bool {
        self.wants_completion
    }

    /// The payload; its length is a multiple of 8, so there may be padding at the end.
    pub fn payload(&self) -> &[u8] {
        self.bytes.get(self.payload..).unwrap_or_default()
    }

    /// The guest memory that a GPA-direct packet names, in order, neighbours merged. Not checked to be RAM.
    pub fn data(&self) -> &[GuestRange] {
        &self.data
    }

    /// Bytes of guest memory that it names.
    pub fn data_len(&self) -> u64 {
        self.data.iter().map(|range| range.len).sum()
    }

    /// Reads `bytes`, which were put there.
    pub(crate) fn parse(&mut self) -> Result<(), PacketError> {
        self.data.clear();
        let parsed = parse_packet(&self.bytes, &mut self.data)?;
        self.payload = parsed.payload;
        self.kind = parsed.kind;
        self.transaction = parsed.transaction;
        self.wants_completion = parsed.wants_completion;
        Ok(())
    }
}
