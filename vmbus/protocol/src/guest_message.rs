//! Messages from guests (posted with HvPostMessage).

use crate::Version;
use crate::field::{bytes, guid_at, u16_at, u32_at, u64_at};
use crate::offer::USER_BYTES;
use uuid::Uuid;

/// Where the page numbers begin in a [`GuestMessage::GpadlHeader`]'s range: after its length and offset.
pub const PFNS_OFFSET: usize = 8;

/// A message that cannot be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Too short for its type (or to have one).
    #[error("channel message type {kind} has {len} bytes, needs {needed}")]
    TooShort {
        /// Its type; 0 if it has none.
        kind: u32,
        /// Bytes it has.
        len: usize,
        /// Bytes it needs.
        needed: usize,
    },
    /// No such type from a guest.
    #[error("channel message type {0} is not one that guests send")]
    UnknownType(u32),
}

/// First contact (type 14).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InitiateContact {
    /// The version that the guest wants.
    pub version: Version,
    /// VP that gets all messages from now on.
    pub target_vp: u32,
    /// Before 5.0 the interrupt page's address; from 5.0 on SINT, VTL and feature flags.
    pub target_info: u64,
    /// Guest-physical addresses of the monitor pages, parent to child and child to parent.
    pub monitor_pages: [u64; 2],
}

/// The guest opens a channel (type 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenRequest {
    /// The channel.
    pub relid: u32,
    /// To be echoed.
    pub open_id: u32,
    /// GPADL of both rings.
    pub gpadl: u32,
    /// VP to interrupt; [`crate::NO_VP`] for none.
    pub target_vp: u32,
    /// First page of the host-to-guest ring.
    pub downstream_page: u32,
    /// For the device.
    pub user_data: [u8; USER_BYTES],
}

/// The beginning of a GPADL (type 8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpadlHeader<'a> {
    /// The channel it is for.
    pub relid: u32,
    /// Its handle, chosen by the guest.
    pub gpadl: u32,
    /// Bytes of all ranges, in this message and in the bodies that follow.
    pub total_len: u16,
    /// Number of ranges.
    pub range_count: u16,
    /// The first part of the ranges; each is length u32, offset u32, page numbers u64….
    pub ranges: &'a [u8],
}

/// A message from a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestMessage<'a> {
    /// Type 3: tell me everything that there is.
    RequestOffers,
    /// Type 5.
    Open(Box<OpenRequest>),
    /// Type 7, not answered.
    Close {
        /// The channel.
        relid: u32,
    },
    /// Type 8.
    GpadlHeader(GpadlHeader<'a>),
    /// Type 9: more of the ranges.
    GpadlBody {
        /// Handle.
        gpadl: u32,
        /// The next part of the ranges.
        ranges: &'a [u8],
    },
    /// Type 11.
    GpadlTeardown {
        /// The channel it was for.
        relid: u32,
        /// Handle.
        gpadl: u32,
    },
    /// Type 13: the guest forgot a rescinded channel; its number may be used again.
    RelIdReleased {
        /// The channel.
        relid: u32,
    },
    /// Type 14.
    InitiateContact(InitiateContact),
    /// Type 16: the guest forgets the whole bus.
    Unload,
    /// Type 21: a program in the guest connects to a service of the host.
    SocketConnect {
        /// The guest's end; the instance of the channel that is to be offered.
        endpoint: Uuid,
        /// The host's end; its type.
        service: Uuid,
    },
    /// Type 22.
    ModifyChannel {
        /// The channel.
        relid: u32,
        /// VP to interrupt from now on.
        target_vp: u32,
    },
}

impl GuestMessage<'_> {
    /// Reads the payload of a posted message. Bytes beyond the fixed part are ignored.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn parse(message: &[u8]) -> Result<GuestMessage<'_>, MessageError> {
        if message.len() < 8 {
            return Err(MessageError::TooShort { kind: 0, len: message.len(), needed: 8 });
        }
        let kind = u32_at(message, 0);
        let needed = match kind {
            3 | 16 => 8,
            5 => 148,
            7 | 13 => 12,
            8 => 20,
            9 | 11 | 22 => 16,
            14 | 21 => 40,
            _ => return Err(MessageError::UnknownType(kind)),
        };
        if message.len() < needed {
            return Err(MessageError::TooShort { kind, len: message.len(), needed });
        }
        let first = u32_at(message, 8);
        Ok(match kind {
            3 => GuestMessage::RequestOffers,
            5 => GuestMessage::Open(Box::new(OpenRequest {
                relid: first,
                open_id: u32_at(message, 12),
                gpadl: u32_at(message, 16),
                target_vp: u32_at(message, 20),
                downstream_page: u32_at(message, 24),
                user_data: bytes(message, 28),
            })),
            7 => GuestMessage::Close { relid: first },
            8 => GuestMessage::GpadlHeader(GpadlHeader {
                relid: first,
                gpadl: u32_at(message, 12),
                total_len: u16_at(message, 16),
                range_count: u16_at(message, 18),
                ranges: &message[20..],
            }),
            9 => GuestMessage::GpadlBody { gpadl: u32_at(message, 12), ranges: &message[16..] },
            11 => GuestMessage::GpadlTeardown { relid: first, gpadl: u32_at(message, 12) },
            13 => GuestMessage::RelIdReleased { relid: first },
            14 => GuestMessage::InitiateContact(InitiateContact {
                version: Version(first),
                target_vp: u32_at(message, 12),
                target_info: u64_at(message, 16),
                monitor_pages: [u64_at(message, 24), u64_at(message, 32)],
            }),
            16 => GuestMessage::Unload,
            21 => GuestMessage::SocketConnect { endpoint: guid_at(message, 8), service: guid_at(message, 24) },
            _ => GuestMessage::ModifyChannel { relid: first, target_vp: u32_at(message, 12) },
        })
    }
}
