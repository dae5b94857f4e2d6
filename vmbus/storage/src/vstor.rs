//! The vstor packet: 64 bytes, one operation or its answer.

/// Bytes of a packet. Before protocol 6.2 the last of them mean nothing.
pub(crate) const LEN: usize = 64;
/// Bytes that even the oldest drivers send: all fields up to the command block.
const MIN_LEN: usize = 48;
/// Bytes of a completion in the ring: descriptor, packet, trailer.
pub(crate) const RING_LEN: usize = 16 + LEN + 8;

/// Operation of every answer.
const COMPLETE_IO: u32 = 1;
/// Operation of the host: look which disks there are.
const ENUMERATE_BUS: u32 = 11;

/// Most bytes of one transfer, a multiple of the page size. More makes descriptors longer than drivers like.
pub(crate) const MAX_TRANSFER: u32 = 512 << 10;
/// In the properties: there may be sub-channels.
const MULTI_CHANNEL: u32 = 1;

/// NTSTATUS values.
pub(crate) mod status {
    pub const SUCCESS: u32 = 0;
    pub const INVALID_DEVICE_STATE: u32 = 0xc000_0184;
    pub const INVALID_PARAMETER: u32 = 0xc000_000d;
    pub const REVISION_MISMATCH: u32 = 0xc000_0059;
}

/// Status of a SCSI request for the driver (not the SCSI status).
pub(crate) mod srb {
    pub const SUCCESS: u8 = 0x01;
    pub const ERROR: u8 = 0x04;
    pub const INVALID_REQUEST: u8 = 0x06;
    pub const DATA_OVERRUN: u8 = 0x12;
    pub const INVALID_LUN: u8 = 0x20;
    pub const AUTOSENSE: u8 = 0x80;
}

/// SCSI status.
const CHECK_CONDITION: u8 = 2;

/// What the guest wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    ExecuteSrb(Srb),
    /// 4, 5, 6: of a unit, the adapter, the bus.
    Reset,
    BeginInitialization,
    EndInitialization,
    QueryProtocolVersion(u16),
    QueryProperties,
    CreateSubChannels(u16),
    Unknown(u32),
}

/// A SCSI request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Srb {
    pub path: u8,
    pub target: u8,
    pub lun: u8,
    pub cdb: [u8; 16],
    pub cdb_len: u8,
    pub transfer_len: u32,
}

impl Srb {
    pub fn cdb(&self) -> &[u8] {
        &self.cdb[..usize::from(self.cdb_len).min(self.cdb.len())]
    }
}

/// Reads a packet. `None` if it is too short to be one.
pub(crate) fn parse(packet: &[u8]) -> Option<Operation> {
    if packet.len() < MIN_LEN {
        return None;
    }
    let u16_at = |at: usize| u16::from_le_bytes([packet[at], packet[at + 1]]);
    let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
    Some(match u32_at(0) {
        3 => {
            let mut cdb = [0; 16];
            cdb.copy_from_slice(&packet[28..44]);
            Operation::ExecuteSrb(Srb {
                path: packet[17],
                target: packet[18],
                lun: packet[19],
                cdb_len: packet[20],
                transfer_len: u32_at(24),
                cdb,
            })
        }
        4..=6 => Operation::Reset,
        7 => Operation::BeginInitialization,
        8 => Operation::EndInitialization,
        9 => Operation::QueryProtocolVersion(u16_at(12)),
        10 => Operation::QueryProperties,
        13 => Operation::CreateSubChannels(u16_at(12)),
        other => Operation::Unknown(other),
    })
}

/// An answer without more than its status.
pub(crate) fn answer(status: u32) -> [u8; LEN] {
    let mut packet = [0; LEN];
    packet[..4].copy_from_slice(&COMPLETE_IO.to_le_bytes());
    packet[8..12].copy_from_slice(&status.to_le_bytes());
    packet
}

/// What the controller can do.
pub(crate) fn properties(sub_channels: u16) -> [u8; LEN] {
    let mut packet = answer(status::SUCCESS);
    let flags = if sub_channels > 0 { MULTI_CHANNEL } else { 0 };
    packet[16..18].copy_from_slice(&sub_channels.to_le_bytes());
    packet[20..24].copy_from_slice(&flags.to_le_bytes());
    packet[24..28].copy_from_slice(&MAX_TRANSFER.to_le_bytes());
    packet
}

/// How a SCSI request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Well, with so many bytes moved.
    Good(u32),
    /// CHECK CONDITION.
    Check(bulkhead_scsi_target::Sense),
    /// It could not be carried out: one of [`srb`].
    Refused(u8),
}

/// The answer to a SCSI request.
pub(crate) fn srb_answer(request: &Srb, outcome: Outcome) -> [u8; LEN] {
    let mut packet = answer(status::SUCCESS);
    let (srb_status, scsi_status, moved, sense): (u8, u8, u32, &[u8]) = match outcome {
        Outcome::Good(moved) => (srb::SUCCESS, 0, moved, &[]),
        Outcome::Check(sense) => (srb::ERROR | srb::AUTOSENSE, CHECK_CONDITION, 0, &sense.fixed()),
        Outcome::Refused(status) => (status, 0, 0, &[]),
    };
    packet[12..14].copy_from_slice(&52u16.to_le_bytes());
    (packet[14], packet[15]) = (srb_status, scsi_status);
    (packet[17], packet[18], packet[19]) = (request.path, request.target, request.lun);
    (packet[20], packet[21]) = (request.cdb_len, sense.len() as u8);
    packet[24..28].copy_from_slice(&moved.to_le_bytes());
    packet[28..28 + sense.len()].copy_from_slice(sense);
    packet
}

/// Tells the guest to look which disks there are.
pub(crate) fn enumerate_bus() -> [u8; LEN] {
    let mut packet = [0; LEN];
    packet[..4].copy_from_slice(&ENUMERATE_BUS.to_le_bytes());
    packet
}
