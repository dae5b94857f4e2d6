//! VMBus on the wire: channel messages, offers, versions, packets and the layout of rings. Pure: bytes in, values out.
//!
//! Integers are little-endian. GUIDs are in Windows order: the first three fields little-endian ([`uuid::Uuid::to_bytes_le`]).

pub mod class;
mod connection;
mod field;
#[doc(hidden)]
pub mod fuzz;
mod guest_message;
mod host_message;
mod offer;
mod packet;
pub mod ring;

pub use connection::{ConnectionId, Version, event_connection};
pub use guest_message::{GpadlHeader, GuestMessage, InitiateContact, MessageError, OpenRequest, PFNS_OFFSET};
pub use host_message::HostMessage;
pub use offer::{ChannelFlags, OfferMessage, USER_BYTES, message_pipe};
pub use packet::{Descriptor, Outgoing, PacketError, PacketKind, Parsed, parse_packet};

/// The synthetic interrupt source that VMBus uses.
pub const SINT: u8 = 2;
/// SynIC message type of channel messages, in both directions.
pub const MESSAGE_TYPE: u32 = 1;
/// Longest channel message: what one SynIC message carries.
pub const MAX_MESSAGE: usize = 240;
/// Channel numbers (relids) are 1 to this: there is one event flag for each.
pub const MAX_RELID: u32 = 2047;
/// Target of a channel whose guest wants no interrupts.
pub const NO_VP: u32 = u32::MAX;
