//! Rings in guest memory, host side: the consumer of the guest's packets and the producer of ours.
//!
//! Everything in a ring belongs to the guest: what it owns (the other index, masks, data) is read once and checked, and what
//! we own is kept here and only published there.

use crate::{Gpadl, GpadlError};
use bulkhead_guest_memory::{AccessError, GuestMemory, PAGE_SIZE};
use bulkhead_vmbus_protocol::{Descriptor, PacketError, ring};
use std::sync::atomic::{Ordering, fence};

/// A ring that the guest broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// Rings are whole pages, at least a control page and one of data each.
    #[error(
        "rings in a GPADL of {len} bytes at offset {offset}, second one at page {downstream}: each needs two whole pages"
    )]
    BadLayout {
        /// Bytes of both.
        len: u64,
        /// Offset into the first page.
        offset: u32,
        /// First page of the second ring.
        downstream: u32,
    },
    /// An index that is not in the ring.
    #[error("ring index {index:#x} of a ring with {size:#x} bytes of data")]
    BadIndex {
        /// As read.
        index: u32,
        /// Bytes of data.
        size: u32,
    },
    /// A packet that is longer than what is in the ring.
    #[error("packet of {len} bytes in a ring that holds {available}")]
    BadLength {
        /// Bytes that it claims, with its trailer.
        len: u32,
        /// Bytes there are.
        available: u32,
    },
    /// A packet that breaks the rules.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// The ring's pages.
    #[error(transparent)]
    Gpadl(#[from] GpadlError),
    /// The ring's pages are no RAM any more.
    #[error(transparent)]
    Memory(#[from] AccessError),
}

/// One ring: its control page, and its data in a GPADL.
struct Pages {
    gpadl: Gpadl,
    /// Guest address of the control page.
    control: u64,
    /// Byte of the GPADL where the data begins.
    data: u64,
    /// Bytes of data.
    size: u32,
}

/// Splits the GPADL of both rings: guest to host first, host to guest from page `downstream` on.
pub(crate) fn split(gpadl: &Gpadl, downstream: u32) -> Result<(Incoming, OutgoingRing), RingError> {
    let bad = RingError::BadLayout { len: gpadl.len(), offset: gpadl.offset(), downstream };
    let pages = gpadl.pages().len() as u32;
    let whole = gpadl.offset() == 0 && gpadl.len().is_multiple_of(PAGE_SIZE);
    if !whole || downstream < 2 || downstream > pages.saturating_sub(2) {
        return Err(bad);
    }
    let incoming = Pages::new(gpadl, 0, downstream)?;
    let outgoing = Pages::new(gpadl, downstream, pages - downstream)?;
    Ok((Incoming::new(incoming)?, OutgoingRing::new(outgoing)?))
}

impl Pages {
    fn new(gpadl: &Gpadl, first: u32, count: u32) -> Result<Pages, RingError> {
        let start = u64::from(first) * PAGE_SIZE;
        // At most MAX_GPADL_PAGES, so it fits.
        let size = (count - 1) * PAGE_SIZE as u32;
        Ok(Pages { gpadl: gpadl.clone(), control: gpadl.address(start)?, data: start + ring::DATA, size })
    }

    fn memory(&self) -> &GuestMemory {
        self.gpadl.memory()
    }

    fn get(&self, field: u64) -> Result<u32, RingError> {
        Ok(self.memory().read_u32(self.control + field)?)
    }

    fn set(&self, field: u64, value: u32) -> Result<(), RingError> {
        Ok(self.memory().write_u32(self.control + field, value)?)
    }

    /// An index, checked.
    fn index(&self, field: u64) -> Result<u32, RingError> {
        let index = self.get(field)?;
        if index >= self.size || !index.is_multiple_of(8) {
            return Err(RingError::BadIndex { index, size: self.size });
        }
        Ok(index)
    }

    /// Bytes from index `from` up to index `to`.
    fn distance(&self, from: u32, to: u32) -> u32 {
        if to >= from { to - from } else { self.size - from + to }
    }

    /// The index `len` bytes after `index`; `len` is at most the ring's size.
    fn advance(&self, index: u32, len: u32) -> u32 {
        let next = index + len;
        if next >= self.size { next - self.size } else { next }
    }

    fn read(&self, at: u32, buffer: &mut [u8]) -> Result<(), RingError> {
        let first = buffer.len().min((self.size - at) as usize);
        let (head, tail) = buffer.split_at_mut(first);
        self.gpadl.read(self.data + u64::from(at), head)?;
        Ok(self.gpadl.read(self.data, tail)?)
    }

    fn write(&self, at: u32, bytes: &[u8]) -> Result<(), RingError> {
        let (head, tail) = bytes.split_at(bytes.len().min((self.size - at) as usize));
        self.gpadl.write(self.data + u64::from(at), head)?;
        Ok(self.gpadl.write(self.data, tail)?)
    }
}

/// The guest-to-host ring.
pub(crate) struct Incoming {
    pages: Pages,
    read: u32,
    masked: bool,
}

impl Incoming {
    fn new(pages: Pages) -> Result<Incoming, RingError> {
        let read = pages.index(ring::READ_INDEX)?;
        Ok(Incoming { pages, read, masked: false })
    }

    /// Copies the next packet, without its trailer, to `packet`. `None` when the ring is empty: the guest then signals the
    /// next packet. While there are packets, its signals are masked.
    pub fn receive(&mut self, packet: &mut Vec<u8>) -> Result<Option<SpaceSignal>, RingError> {
        let mut write = self.pages.index(ring::WRITE_INDEX)?;
        if write == self.read {
            if !self.masked {
                return Ok(None);
            }
            self.pages.set(ring::INTERRUPT_MASK, 0)?;
            self.masked = false;
            // The guest stores its index, then looks at the mask; we the other way round.
            fence(Ordering::SeqCst);
            write = self.pages.index(ring::WRITE_INDEX)?;
            if write == self.read {
                return Ok(None);
            }
        }
        if !self.masked {
            self.pages.set(ring::INTERRUPT_MASK, 1)?;
            self.masked = true;
        }
        let available = self.pages.distance(self.read, write);
        let mut head = [0; Descriptor::LEN];
        if available < Descriptor::LEN as u32 + ring::TRAILER {
            return Err(RingError::BadLength { len: Descriptor::LEN as u32 + ring::TRAILER, available });
        }
        self.pages.read(self.read, &mut head)?;
        let len = Descriptor::read(&head).len;
        let total = len as u32 + ring::TRAILER;
        if total > available || len < Descriptor::LEN {
            return Err(RingError::BadLength { len: total, available });
        }
        packet.clear();
        packet.extend_from_slice(&head);
        packet.resize(len, 0);
        let rest = self.pages.advance(self.read, Descriptor::LEN as u32);
        self.pages.read(rest, &mut packet[Descriptor::LEN..])?;
        self.read = self.pages.advance(self.read, total);
        self.pages.set(ring::READ_INDEX, self.read)?;
        self.space_signal(total).map(Some)
    }

    /// Whether the guest waits for room that `freed` bytes have just made.
    fn space_signal(&self, freed: u32) -> Result<SpaceSignal, RingError> {
        fence(Ordering::SeqCst);
        let pending = self.pages.get(ring::PENDING_SEND_SIZE)?;
        if pending == 0 {
            return Ok(SpaceSignal(false));
        }
        let write = self.pages.index(ring::WRITE_INDEX)?;
        let free = self.pages.size - self.pages.distance(self.read, write);
        // One signal too many does no harm, one too few does.
        Ok(SpaceSignal(free >= pending && free.saturating_sub(freed) <= pending))
    }

    /// Bytes of packets that wait.
    pub fn waiting(&self) -> Result<u32, RingError> {
        Ok(self.pages.distance(self.read, self.pages.index(ring::WRITE_INDEX)?))
    }
}

/// The guest is to be signalled because it waits for room.
pub(crate) struct SpaceSignal(pub bool);

/// The host-to-guest ring.
pub(crate) struct OutgoingRing {
    pages: Pages,
    /// Where the next packet goes.
    write: u32,
    /// What the guest knows of.
    published: u32,
    /// We told the guest that we wait for room.
    blocked: bool,
}

impl OutgoingRing {
    fn new(pages: Pages) -> Result<OutgoingRing, RingError> {
        let write = pages.index(ring::WRITE_INDEX)?;
        pages.memory().fetch_or_u32(pages.control + ring::FEATURES, ring::FEATURE_PENDING_SEND_SIZE)?;
        Ok(OutgoingRing { pages, write, published: write, blocked: false })
    }

    /// Bytes that fit, trailers included.
    pub fn room(&self) -> Result<u32, RingError> {
        let used = self.pages.distance(self.pages.index(ring::READ_INDEX)?, self.write);
        // A ring that is full to the last byte would look empty.
        Ok((self.pages.size - used).saturating_sub(8))
    }

    /// Bytes that fit when the ring is empty.
    pub fn capacity(&self) -> u32 {
        self.pages.size - 8
    }

    /// Where the next packet goes.
    pub fn position(&self) -> u32 {
        self.write
    }

    /// Whether `len` bytes fit. If not, the guest will signal when they do.
    pub fn reserve(&mut self, len: u32) -> Result<bool, RingError> {
        if self.room()? < len {
            // The guest compares with its own idea of free bytes, which counts the last eight.
            self.pages.set(ring::PENDING_SEND_SIZE, len.saturating_add(8))?;
            self.blocked = true;
            fence(Ordering::SeqCst);
            if self.room()? < len {
                return Ok(false);
            }
        }
        if std::mem::take(&mut self.blocked) {
            self.pages.set(ring::PENDING_SEND_SIZE, 0)?;
        }
        Ok(true)
    }

    /// Writes a packet with its trailer, for which there is room. The guest sees it after [`OutgoingRing::publish`].
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), RingError> {
        self.pages.write(self.write, bytes)?;
        self.write = self.pages.advance(self.write, bytes.len() as u32);
        Ok(())
    }

    /// Shows the guest what was pushed; whether it is to be signalled.
    pub fn publish(&mut self) -> Result<bool, RingError> {
        if self.published == self.write {
            return Ok(false);
        }
        let before = std::mem::replace(&mut self.published, self.write);
        self.pages.set(ring::WRITE_INDEX, self.write)?;
        // The guest stores its mask, then looks at our index; we the other way round.
        fence(Ordering::SeqCst);
        let was_empty = self.pages.get(ring::READ_INDEX)? == before;
        Ok(was_empty && self.pages.get(ring::INTERRUPT_MASK)? == 0)
    }
}
