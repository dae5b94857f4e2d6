//! The two sides of the seam: what a device on the bus can do, and what it may ask of the bus.

use crate::{Channel, Offer};
use bulkhead_device::QuiesceToken;
use parking_lot::Mutex;
use std::sync::Arc;
use uuid::Uuid;

/// The ability of a device to be on VMBus. Index 0 is the primary channel, sub-channels follow.
pub trait ChannelDevice: Send {
    /// The guest opened a channel, or ([`Channel::is_restored`]) the VM was restored with an open one. Sub-channels are
    /// opened after the primary. A signal follows, so packets need not be read here.
    ///
    /// # Errors
    /// What the guest asks for in its open request does not suit; it is told, and the channel stays closed.
    fn open(&mut self, channel: Channel) -> Result<(), OpenRefused>;

    /// The channel is closed: by the guest, by a reset, by a new kernel, or because the device is being removed. The device
    /// drops the [`Channel`], every [`crate::Gpadl`] it got from it, and `quiet` as soon as no I/O into memory of this
    /// guest is in flight any more; only then the guest (or the next one) is told. Closing the primary ends the protocol:
    /// the next `open` begins anew. Called once for each open channel, sub-channels first.
    fn close(&mut self, index: u16, quiet: QuiesceToken);

    /// Look at the channel: packets have come, or room. May be called without a reason.
    fn signalled(&mut self, index: u16);
}

/// The device does not open the channel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the device refuses to open the channel: {reason}")]
pub struct OpenRefused {
    /// Why.
    pub reason: String,
}

/// An offered device, as the bus calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OfferId(pub u64);

/// Why the bus cannot offer something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// Guests drop the second of two offers with the same names.
    #[error("cannot offer {name} on VMBus: instance {instance} is offered already; use an instance of its own")]
    Duplicate {
        /// The device.
        name: String,
        /// Its instance.
        instance: Uuid,
    },
    /// All 2047 numbers are taken.
    #[error("cannot offer {name} on VMBus: all {max} channel numbers are in use; remove devices or sub-channels")]
    Full {
        /// The device.
        name: String,
        /// How many there are.
        max: u32,
    },
    /// No such offer (any more).
    #[error("VMBus offer {0:?} does not exist; it was removed")]
    NoOffer(OfferId),
}

/// The bus, for whoever puts devices on it.
pub trait ChannelBus: Send + Sync {
    /// Offers a device: at once if the guest has asked for offers already (hot add), else when it does.
    ///
    /// # Errors
    /// [`BusError::Duplicate`], [`BusError::Full`].
    fn offer(&self, offer: Offer, device: Arc<Mutex<dyn ChannelDevice>>) -> Result<OfferId, BusError>;

    /// Removes a device: its channels are closed, then the guest is told. The bus forgets the device at once, so that the
    /// caller may drop it; the channel numbers are used again when the guest has forgotten them. Do not call it under the
    /// device's lock.
    ///
    /// # Errors
    /// [`BusError::NoOffer`].
    fn remove(&self, id: OfferId) -> Result<(), BusError>;

    /// Tells a guest that nobody accepts its connection ([`SocketAcceptor::connect`]).
    fn refuse_socket(&self, endpoint: Uuid, service: Uuid);
}

/// Takes connections that programs in the guest make to services of the host (hv_sock).
pub trait SocketAcceptor: Send + Sync {
    /// A program connects to `service`. To accept: [`ChannelBus::offer`] a device with `class` = `service`, `instance` =
    /// `endpoint` and the flag [`crate::ChannelFlags::SOCKET`], now or later. Else [`ChannelBus::refuse_socket`]. Called on
    /// the reactor's loop.
    fn connect(&self, endpoint: Uuid, service: Uuid);
}
