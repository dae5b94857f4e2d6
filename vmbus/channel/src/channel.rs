//! An open channel, as its device holds it.

use crate::ring::{Incoming, OutgoingRing, RingError, split};
use crate::{Gpadl, GpadlTable, Packet};
use bulkhead_guest_log::{GuestLog, guest_warn};
use bulkhead_guest_memory::{AccessError, GuestMemory, GuestRange, ScatterList};
use bulkhead_vmbus_protocol::{Outgoing, USER_BYTES, Version};
use std::fmt;
use std::sync::Arc;

/// What a channel needs from the bus.
pub trait ChannelHost: Send + Sync {
    /// Sets the channel's event flag at the VP that the guest chose.
    fn signal_guest(&self);
    /// Calls the device's `signalled` again soon, from the reactor's loop.
    fn wake_device(&self);
    /// Makes the offer have `count` sub-channels and offers those that are new. Returns how many there are, fewer if the
    /// bus is full.
    fn grant_sub_channels(&self, count: u16) -> u16;
}

/// What a channel is made of.
pub struct ChannelParts {
    /// 0 for the primary.
    pub index: u16,
    /// Version of the connection.
    pub version: Version,
    /// From the open request.
    pub user_data: [u8; USER_BYTES],
    /// Whether it was open when the VM was saved.
    pub restored: bool,
    /// Both rings.
    pub rings: Gpadl,
    /// First page of the host-to-guest ring.
    pub downstream_page: u32,
    /// GPADLs of the offer.
    pub gpadls: GpadlTable,
    /// The bus.
    pub host: Arc<dyn ChannelHost>,
    /// The device's log.
    pub log: Arc<GuestLog>,
}

/// A packet that was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// No room now. The guest signals when there is: try again in `signalled`.
    #[error("the ring to the guest has no room for {len} bytes now; send again when the guest signals")]
    Full {
        /// Bytes needed.
        len: usize,
    },
    /// It would not fit into the empty ring.
    #[error("a packet of {len} bytes does not fit into the ring, which has {capacity}")]
    TooLong {
        /// Bytes needed.
        len: usize,
        /// Bytes there can be.
        capacity: u32,
    },
    /// The guest broke the ring; nothing is sent any more.
    #[error("the channel is broken and waits for the guest to close it")]
    Broken,
}

/// An open channel. The device that got it owns it, and drops it when the channel is closed.
pub struct Channel {
    index: u16,
    version: Version,
    user_data: [u8; USER_BYTES],
    restored: bool,
    memory: GuestMemory,
    gpadls: GpadlTable,
    host: Arc<dyn ChannelHost>,
    log: Arc<GuestLog>,
    /// `None` once broken.
    rings: Option<Rings>,
    /// Packets are put together here.
    scratch: Vec<u8>,
}

struct Rings {
    incoming: Incoming,
    outgoing: OutgoingRing,
}

impl Channel {
    /// For the bus: the channel over rings that the guest prepared.
    ///
    /// # Errors
    /// A layout or indices that cannot be.
    pub fn new(parts: ChannelParts) -> Result<Channel, RingError> {
        let (incoming, outgoing) = split(&parts.rings, parts.downstream_page)?;
        Ok(Channel {
            index: parts.index,
            version: parts.version,
            user_data: parts.user_data,
            restored: parts.restored,
            memory: parts.rings.memory().clone(),
            gpadls: parts.gpadls,
            host: parts.host,
            log: parts.log,
            rings: Some(Rings { incoming, outgoing }),
            scratch: Vec::new(),
        })
    }

    /// 0 for the primary channel.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Version of the guest's connection to the bus.
    pub fn version(&self) -> Version {
        self.version
    }

    /// What the guest's driver put into its open request.
    pub fn user_data(&self) -> &[u8; USER_BYTES] {
        &self.user_data
    }

    /// Whether it was open when the VM was saved: the protocol goes on where the device's saved state says.
    pub fn is_restored(&self) -> bool {
        self.restored
    }

    /// Whether the rings can be used; if not, all that is left is to wait for `close`.
    pub fn is_broken(&self) -> bool {
        self.rings.is_none()
    }

    /// RAM of the VM.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// The GPADL that the guest made for this device under this handle.
    pub fn gpadl(&self, handle: u32) -> Option<Gpadl> {
        self.gpadls.get(handle)
    }

    /// The guest memory that a packet names ([`Packet::data`]), for copies and for disk and network I/O without a copy.
    ///
    /// # Errors
    /// Something in it is not RAM.
    pub fn scatter_list(&self, ranges: &[GuestRange]) -> Result<ScatterList, AccessError> {
        self.memory.scatter_list(ranges.iter().copied())
    }

    /// The next packet. `None` when there is none (the guest signals the next one) or the channel is broken.
    pub fn receive(&mut self) -> Option<Packet> {
        let mut packet = Packet::default();
        self.receive_into(&mut packet).then_some(packet)
    }

    /// Like [`Channel::receive`], into a packet that is used again and again. False when there is none.
    pub fn receive_into(&mut self, packet: &mut Packet) -> bool {
        let Some(rings) = &mut self.rings else { return false };
        let result = rings.incoming.receive(&mut packet.bytes).and_then(|received| {
            let Some(space) = received else { return Ok(false) };
            if space.0 {
                self.host.signal_guest();
            }
            packet.parse()?;
            Ok(true)
        });
        result.unwrap_or_else(|error| {
            self.fail(&error);
            false
        })
    }

    /// Whether packets wait in the ring: for devices that stop reading for a while.
    pub fn has_packets(&self) -> bool {
        self.rings.as_ref().is_some_and(|rings| rings.incoming.waiting().is_ok_and(|waiting| waiting > 0))
    }

    /// Sends a packet, and signals the guest if it needs that.
    ///
    /// # Errors
    /// [`SendError`]; nothing was sent.
    pub fn send(&mut self, packet: Outgoing<'_>) -> Result<(), SendError> {
        self.push(packet)?;
        self.flush();
        Ok(())
    }

    /// The answer to a packet.
    ///
    /// # Errors
    /// [`SendError`]; nothing was sent.
    pub fn complete(&mut self, transaction: u64, payload: &[u8]) -> Result<(), SendError> {
        self.send(Outgoing::Completion { transaction, payload })
    }

    /// Puts a packet into the ring without showing it to the guest: many of them cost one signal. [`Channel::flush`] must
    /// follow before the device's lock is let go.
    ///
    /// # Errors
    /// [`SendError`]; nothing was put there.
    pub fn push(&mut self, packet: Outgoing<'_>) -> Result<(), SendError> {
        let len = packet.ring_len();
        let Some(rings) = &mut self.rings else { return Err(SendError::Broken) };
        let outgoing = &mut rings.outgoing;
        let too_long = SendError::TooLong { len, capacity: outgoing.capacity() };
        let needed = u32::try_from(len).ok().filter(|len| *len <= outgoing.capacity()).ok_or(too_long)?;
        let result = outgoing.reserve(needed).and_then(|fits| {
            if !fits {
                return Ok(Err(SendError::Full { len }));
            }
            self.scratch.clear();
            if packet.encode(outgoing.position(), &mut self.scratch).is_none() {
                return Ok(Err(too_long));
            }
            outgoing.push(&self.scratch).map(Ok)
        });
        match result {
            Ok(Err(SendError::Full { .. })) => {
                // The guest can make room only for what it sees.
                self.flush();
                Err(SendError::Full { len })
            }
            Ok(result) => result,
            Err(error) => {
                self.fail(&error);
                Err(SendError::Broken)
            }
        }
    }

    /// Shows the guest what was pushed, and signals it if it needs that.
    pub fn flush(&mut self) {
        let Some(rings) = &mut self.rings else { return };
        match rings.outgoing.publish() {
            Ok(true) => self.host.signal_guest(),
            Ok(false) => {}
            Err(error) => self.fail(&error),
        }
    }

    /// Bytes ([`Outgoing::ring_len`]) that can be sent now; 0 when broken. Does not ask the guest for a signal.
    pub fn room(&mut self) -> u32 {
        let Some(rings) = &self.rings else { return 0 };
        rings.outgoing.room().unwrap_or_else(|error| {
            self.fail(&error);
            0
        })
    }

    /// Whether `len` bytes can be sent now; if not, the guest signals when they can.
    pub fn reserve(&mut self, len: usize) -> bool {
        let Some(rings) = &mut self.rings else { return false };
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        rings.outgoing.reserve(len).unwrap_or_else(|error| {
            self.fail(&error);
            false
        })
    }

    /// Ends all traffic because of what the guest did, until it closes the channel. Logged, at a limited rate.
    pub fn fail(&mut self, reason: &dyn fmt::Display) {
        if self.rings.take().is_some() {
            guest_warn!(
                self.log,
                channel = self.index,
                "the channel is closed because the guest broke its rules: {reason}"
            );
        }
    }

    /// Asks for another `signalled` soon: for devices that stop in the middle of much work, to let others have a turn.
    pub fn wake(&self) {
        self.host.wake_device();
    }

    /// Makes the device have `count` sub-channels, which the guest is then offered and opens; numbers 1 to the result.
    /// Returns how many there are now, fewer if the bus is full. For the primary channel.
    pub fn grant_sub_channels(&self, count: u16) -> u16 {
        self.host.grant_sub_channels(count)
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("index", &self.index).field("broken", &self.is_broken()).finish()
    }
}
