//! Offers: what a guest learns about a channel.

use crate::event_connection;
use uuid::Uuid;

/// Bytes that the type of device defines, in offers and in open requests.
pub const USER_BYTES: usize = 120;

bitflags::bitflags! {
    /// Properties of a channel.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct ChannelFlags: u16 {
        /// Programs of the guest may see it.
        const ENUMERATE_DEVICE_INTERFACE = 0x1;
        /// The host may send transfer-page packets.
        const TRANSFER_PAGES = 0x2;
        /// The guest may make GPADLs for it.
        const GPADLS = 0x4;
        /// A pipe: user bytes begin with its mode, packets with a pipe header.
        const NAMED_PIPE = 0x10;
        /// Loopback.
        const LOOPBACK = 0x100;
        /// Offered by the parent partition.
        const PARENT = 0x200;
        /// Notified by monitor pages.
        const MONITORED = 0x400;
        /// A socket (hv_sock).
        const SOCKET = 0x2000;
    }
}

/// User bytes of a pipe in message mode: the integration services, keyboard, mouse, sockets.
pub const fn message_pipe() -> [u8; USER_BYTES] {
    let mut bytes = [0; USER_BYTES];
    bytes[0] = 4;
    bytes
}

/// An offer as the guest gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferMessage {
    /// Interface type: chooses the driver.
    pub class: Uuid,
    /// This one.
    pub instance: Uuid,
    /// Properties.
    pub flags: ChannelFlags,
    /// Address space that the device wants, MiB.
    pub mmio_megabytes: u16,
    /// Defined by the type.
    pub user: [u8; USER_BYTES],
    /// 0 for the primary channel.
    pub sub_channel: u16,
    /// Number of the channel.
    pub relid: u32,
}

impl OfferMessage {
    /// Appends the 188 bytes after the message header. No monitor; an interrupt of its own.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.class.to_bytes_le());
        out.extend(self.instance.to_bytes_le());
        out.extend([0; 16]);
        out.extend(self.flags.bits().to_le_bytes());
        out.extend(self.mmio_megabytes.to_le_bytes());
        out.extend(self.user);
        out.extend(self.sub_channel.to_le_bytes());
        out.extend([0; 2]);
        out.extend(self.relid.to_le_bytes());
        out.extend([0xff, 0]);
        out.extend(1u16.to_le_bytes());
        out.extend(event_connection(self.relid).0.to_le_bytes());
    }
}
