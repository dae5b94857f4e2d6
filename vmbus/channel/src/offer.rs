//! What a device offers.

use bulkhead_vmbus_protocol::{ChannelFlags, USER_BYTES, message_pipe};
use uuid::Uuid;

/// Where [`crate::ChannelDevice::signalled`] runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wake {
    /// As a task on the reactor's loop: the VP goes on at once. Right for nearly everything.
    #[default]
    Loop,
    /// On the VP's thread, inside its hypercall: no hop to another thread. For devices that only hand work on to other
    /// threads (storage), in bounded time.
    Caller,
}

/// A device on the bus, as the guest will learn of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Name for logs and inspection: `scsi0`.
    pub name: String,
    /// Interface type ([`crate::class`]): chooses the guest's driver.
    pub class: Uuid,
    /// This one: unique on the bus, and the same in every boot and after every restore, because the guest's names for the
    /// device come from it.
    pub instance: Uuid,
    /// Properties of the channel.
    pub flags: ChannelFlags,
    /// Address space that the device wants, MiB (video 8).
    pub mmio_megabytes: u16,
    /// Defined by the type.
    pub user: [u8; USER_BYTES],
    /// Where signals are handled.
    pub wake: Wake,
}

impl Offer {
    /// An offer without user bytes whose guest may make GPADLs.
    pub fn new(name: impl Into<String>, class: Uuid, instance: Uuid) -> Offer {
        Offer {
            name: name.into(),
            class,
            instance,
            flags: ChannelFlags::ENUMERATE_DEVICE_INTERFACE | ChannelFlags::GPADLS,
            mmio_megabytes: 0,
            user: [0; USER_BYTES],
            wake: Wake::Loop,
        }
    }

    /// A pipe in message mode: the integration services, keyboard, mouse.
    pub fn pipe(name: impl Into<String>, class: Uuid, instance: Uuid) -> Offer {
        Offer { flags: ChannelFlags::NAMED_PIPE, user: message_pipe(), ..Offer::new(name, class, instance) }
    }
}
