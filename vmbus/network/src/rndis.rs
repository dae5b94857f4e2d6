//! RNDIS, the messages inside NVSP: a type, a length, a body. Offsets count from the end of these 8 bytes, as Microsoft's RNDIS
//! specification says (section 2.2).

use crate::field::{u32_at, words};

/// Bytes of the type and the length.
pub const HEADER: usize = 8;

const PACKET: u32 = 1;
const INIT: u32 = 2;
const HALT: u32 = 3;
const QUERY: u32 = 4;
const SET: u32 = 5;
const RESET: u32 = 6;
const INDICATE_STATUS: u32 = 7;
const KEEPALIVE: u32 = 8;
const COMPLETION: u32 = 0x8000_0000;

/// Bytes of a packet's header up to what its information and its frame begin with: [`HEADER`] and nine numbers.
pub const PACKET_HEADER: usize = HEADER + 36;

/// Status of completions: NDIS numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Status {
    /// Done.
    Success = 0,
    /// A value that makes no sense.
    InvalidData = 0xC001_0015,
    /// We do not know the object.
    NotSupported = 0xC000_00BB,
}

/// A control message of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control<'a> {
    /// Start.
    Init {
        /// Echoed.
        request: u32,
    },
    /// Stop; nothing to answer.
    Halt,
    /// Reads an object.
    Query {
        /// Echoed.
        request: u32,
        /// The object.
        oid: u32,
    },
    /// Writes an object.
    Set {
        /// Echoed.
        request: u32,
        /// The object.
        oid: u32,
        /// Its value.
        value: &'a [u8],
    },
    /// Start again.
    Reset,
    /// Are you there?
    KeepAlive {
        /// Echoed.
        request: u32,
    },
}

impl<'a> Control<'a> {
    /// Reads one message. `None`: cut short, or of an unknown type.
    pub fn decode(message: &'a [u8]) -> Option<Control<'a>> {
        let len = usize::try_from(u32_at(message, 4)?).ok()?;
        let body = message.get(HEADER..len)?;
        let request = u32_at(body, 0);
        Some(match u32_at(message, 0)? {
            INIT => Control::Init { request: request? },
            HALT => Control::Halt,
            QUERY => Control::Query { request: request?, oid: u32_at(body, 4)? },
            SET => {
                let (len, offset) = (u32_at(body, 8)? as usize, u32_at(body, 12)? as usize);
                let value = body.get(offset..offset.checked_add(len)?)?;
                Control::Set { request: request?, oid: u32_at(body, 4)?, value }
            }
            RESET => Control::Reset,
            KEEPALIVE => Control::KeepAlive { request: request? },
            _ => return None,
        })
    }
}

/// The most RNDIS packets that the guest may put into one message.
const MAX_PACKETS: u32 = 8;

/// Answers an INIT: version 1.0, connectionless, 802.3, no limit worth naming.
pub fn init_complete(request: u32) -> Vec<u8> {
    let alignment_shift = 3;
    message(INIT | COMPLETION, &words(&[request, 0, 1, 0, 1, 0, MAX_PACKETS, 0xEFFF_FFFF, alignment_shift, 0, 0]))
}

/// Answers a query: with the value, or with why there is none.
pub fn query_complete(request: u32, value: Result<Vec<u8>, Status>) -> Vec<u8> {
    let (status, value) = match value {
        Ok(value) => (Status::Success, value),
        Err(status) => (status, Vec::new()),
    };
    let offset = if value.is_empty() { 0 } else { 16 };
    let mut body = words(&[request, status as u32, value.len() as u32, offset]);
    body.extend(value);
    message(QUERY | COMPLETION, &body)
}

/// Answers a set.
pub fn set_complete(request: u32, status: Status) -> Vec<u8> {
    message(SET | COMPLETION, &words(&[request, status as u32]))
}

/// Answers a reset: addressing (the packet filter) was lost.
pub fn reset_complete() -> Vec<u8> {
    let addressing_reset = 1;
    message(RESET | COMPLETION, &words(&[0, addressing_reset]))
}

/// Answers a keep-alive.
pub fn keepalive_complete(request: u32) -> Vec<u8> {
    message(KEEPALIVE | COMPLETION, &words(&[request, 0]))
}

/// Events that the guest is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Indication {
    /// The cable is in.
    Connected = 0x4001_000B,
    /// The cable is out.
    Disconnected = 0x4001_000C,
    /// The link went away and came back, perhaps to another network: ask for addresses again.
    NetworkChanged = 0x4001_0018,
}

/// Tells the guest of an event.
pub fn indicate(event: Indication) -> Vec<u8> {
    message(INDICATE_STATUS, &words(&[event as u32, 0, 0]))
}

fn message(kind: u32, body: &[u8]) -> Vec<u8> {
    let mut message = words(&[kind, (HEADER + body.len()) as u32]);
    message.extend(body);
    message
}

/// Where the parts of a packet message are, from its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketLayout {
    /// Bytes of the whole message.
    pub message_len: usize,
    /// First byte of the frame.
    pub frame: usize,
    /// Bytes of the frame.
    pub frame_len: usize,
    /// First byte of the per-packet information.
    pub info: usize,
    /// Its bytes.
    pub info_len: usize,
}

impl PacketLayout {
    /// Reads the header of the message that begins `header` and has at most `available` bytes. `None`: it is no packet, or its
    /// parts do not lie within it.
    pub fn decode(header: &[u8; PACKET_HEADER], available: usize) -> Option<PacketLayout> {
        let at = |offset| u32_at(header, offset).map(|value| value as usize);
        let message_len = at(4)?;
        if u32_at(header, 0)? != PACKET || message_len > available || message_len < PACKET_HEADER {
            return None;
        }
        let part = |offset: usize, len: usize| {
            let start = offset.checked_add(HEADER)?;
            let inside = len == 0 || start >= PACKET_HEADER && start.checked_add(len)? <= message_len;
            inside.then_some((start, len))
        };
        let (frame, frame_len) = part(at(8)?, at(12)?)?;
        let (info, info_len) = part(at(28)?, at(32)?)?;
        Some(PacketLayout { message_len, frame, frame_len, info, info_len })
    }
}

/// The header of a packet message to the guest whose per-packet information has `info_len` bytes; that and the frame follow.
pub fn packet_header(info_len: usize, frame_len: usize) -> [u8; PACKET_HEADER] {
    let info_offset = if info_len == 0 { 0 } else { PACKET_HEADER - HEADER };
    let data_offset = PACKET_HEADER - HEADER + info_len;
    let total = PACKET_HEADER + info_len + frame_len;
    let fields = [PACKET as usize, total, data_offset, frame_len, 0, 0, 0, info_offset, info_len, 0, 0];
    let mut header = [0; PACKET_HEADER];
    for (field, bytes) in fields.iter().zip(header.chunks_exact_mut(4)) {
        bytes.copy_from_slice(&(*field as u32).to_le_bytes());
    }
    header
}
