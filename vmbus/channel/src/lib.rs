//! VMBus channels as device providers (VSPs) see them: offers, opening and closing, rings, packets, guest pages.
//!
//! A VSP is a device (`Arc<Mutex<T>>`, T: [`bulkhead_device::Device`]) that also implements [`ChannelDevice`]. The machine
//! offers it on the bus ([`ChannelBus::offer`]); one device is one offer, with as many sub-channels as it grants.
//!
//! ```text
//! guest opens        ──► device.open(channel)            the device keeps the Channel
//! guest signals      ──► device.signalled(index)         while let Some(packet) = channel.receive() { … channel.send(…) }
//! guest closes, VM   ──► device.close(index, quiet)      the device drops the Channel, and `quiet` once all its I/O ended
//!   resets, kexec, …
//! ```
//!
//! # When and where
//! The bus calls `open` and `close` on the reactor's loop, and `signalled` there too, or with [`Wake::Caller`] directly on
//! the VP's thread. All under the device's lock, and never under a lock of the bus: a device may call the bus and its
//! channels at any time. Signals that come while a call is due are merged into it. A signal means any of: there are
//! packets, there is room again after [`SendError::Full`], the VM goes on after a pause. While the VM is paused the bus
//! calls nothing; [`bulkhead_device::Device::pause`] must only care for work that the device itself has in flight.
//!
//! # Rings
//! [`Channel::receive`] hands out packets that were copied out of the ring and checked; what it finds broken closes the
//! channel for good (until the guest opens it again), with a line in the log, and so does [`Channel::fail`] for what the
//! device itself cannot accept. Signals, masks, flow control and memory barriers are the channel's business. Guest memory
//! that a packet names is [`Packet::data`], checked by [`Channel::scatter_list`]; buffers of guest memory that live longer
//! (GPADLs) are [`Channel::gpadl`].
//!
//! # Save and restore
//! The bus saves which channels are open, the device its own protocol state; ring positions are in guest memory. A
//! restored device is made by its constructor, offered like a new one, and gets its channels by `open` with
//! [`Channel::is_restored`] set, then a signal.

mod channel;
mod device;
#[doc(hidden)]
pub mod fuzz;
mod gpadl;
mod offer;
mod packet;
mod ring;
pub mod test_support;

pub use bulkhead_vmbus_protocol::{ChannelFlags, Outgoing, PacketKind, USER_BYTES, Version, class, message_pipe};
pub use channel::{Channel, ChannelHost, ChannelParts, SendError};
pub use device::{BusError, ChannelBus, ChannelDevice, OfferId, OpenRefused, SocketAcceptor};
pub use gpadl::{Gpadl, GpadlError, GpadlTable, MAX_GPADL_PAGES};
pub use offer::{Offer, Wake};
pub use packet::Packet;
pub use ring::RingError;
