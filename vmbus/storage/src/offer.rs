//! Where a controller sits, and how it is offered.

use bulkhead_vmbus_channel::{Offer, Wake, class};
use uuid::Uuid;

/// SCSI controllers of a VM.
pub const MAX_CONTROLLERS: u8 = 4;

/// The first bytes of a SCSI controller's instance; its number follows. Made up once, for all VMs: names in the guest stay
/// the same wherever a disk is moved.
const SCSI_INSTANCE: Uuid = Uuid::from_u128(0x8b1d_5c60_7a42_4f0e_9d3a_62f0_b4a1_c000);

/// What a controller is for the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attachment {
    /// SCSI controller `number`, 0 to 3.
    Scsi {
        /// Which one.
        number: u8,
        /// Most channels beside the primary one; one less than there are processors is a good number.
        sub_channels: u16,
    },
    /// The fast path of one IDE disk, which is unit 0. The guest that uses it leaves the same disk of the emulated
    /// controller alone.
    Ide {
        /// 0 the primary, 1 the secondary channel.
        channel: u8,
        /// 0 or 1.
        device: u8,
    },
}

impl Attachment {
    /// How it is offered on the bus.
    pub fn offer(&self, name: impl Into<String>) -> Offer {
        let mut offer = match *self {
            Attachment::Scsi { number, .. } => {
                let instance = Uuid::from_u128(SCSI_INSTANCE.as_u128() | u128::from(number));
                Offer::new(name, class::SCSI, instance)
            }
            Attachment::Ide { channel, device } => {
                let instance = Uuid::from_fields(channel.into(), device.into(), 0x8899, &[0; 8]);
                let mut offer = Offer::new(name, class::IDE, instance);
                // Reserved u16, path, target, reserved u32, flags: "this is an IDE device".
                (offer.user[2], offer.user[3], offer.user[8]) = (channel, device, 2);
                offer
            }
        };
        // Submitting is quick, and a hop to another thread is not.
        offer.wake = Wake::Caller;
        offer
    }

    /// Most sub-channels.
    pub(crate) fn sub_channels(&self) -> u16 {
        match self {
            Attachment::Scsi { sub_channels, .. } => *sub_channels,
            Attachment::Ide { .. } => 0,
        }
    }
}
