//! [`Producer`]: the writing side of a ring.

use crate::layout::{RECORD_ALIGN, RECORD_HEADER, RingAt, record};
use crate::metadata::{SKIP, encode};
use crate::{Frame, RingError, WakeSender};
use bulkhead_linux::SharedMapping;
use bulkhead_packets::FrameMeta;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::fence;

/// Sends frames. They become visible to the other side with [`publish`](Self::publish), at the latest when a quarter of the ring
/// is written.
#[derive(Debug)]
pub struct Producer {
    memory: Arc<SharedMapping>,
    ring: RingAt,
    wake: Arc<WakeSender>,
    head: u32,
    published: u32,
    /// The tail as last read and checked.
    tail: u32,
}

/// Room for one frame. Dropped without [`commit`](Self::commit), it is as if it had not been asked for.
#[derive(Debug)]
pub struct Slot<'a> {
    producer: &'a mut Producer,
    at: u32,
    len: usize,
}

impl Producer {
    pub(crate) fn new(memory: Arc<SharedMapping>, ring: RingAt, wake: Arc<WakeSender>) -> Producer {
        Producer { memory, ring, wake, head: 0, published: 0, tail: 0 }
    }

    /// Sends a frame made of `parts`; `false` when the ring has no room for it.
    ///
    /// # Errors
    /// A malformed frame; `Broken`, `Gone`.
    #[inline]
    pub fn send(&mut self, meta: &FrameMeta, parts: &[&[u8]]) -> Result<bool, RingError> {
        let Some(mut slot) = self.reserve(parts.iter().map(|part| part.len()).sum())? else { return Ok(false) };
        let mut at = 0;
        for part in parts {
            slot.write(at, part)?;
            at += part.len();
        }
        slot.commit(meta)?;
        Ok(true)
    }

    /// Room for a frame of `len` bytes; `None` when there is not enough.
    ///
    /// # Errors
    /// A length that no frame has; `Broken`, `Gone`.
    #[inline]
    pub fn reserve(&mut self, len: usize) -> Result<Option<Slot<'_>>, RingError> {
        FrameMeta::default().check(len)?;
        let needed = record(len);
        let to_end = self.ring.to_end(self.head);
        let skipped = if needed > to_end { to_end } else { 0 };
        if self.free() < needed + skipped {
            self.read_tail()?;
            if self.free() < needed + skipped {
                return Ok(None);
            }
        }
        if skipped > 0 {
            self.memory.write(self.ring.byte(self.head), &SKIP.to_le_bytes())?;
            self.head = self.head.wrapping_add(skipped);
        }
        let at = self.head;
        Ok(Some(Slot { producer: self, at, len }))
    }

    /// Makes everything sent so far visible, and wakes the other side if it sleeps.
    ///
    /// # Errors
    /// `Gone`.
    #[inline]
    pub fn publish(&mut self) -> Result<(), RingError> {
        if self.published == self.head {
            return Ok(());
        }
        self.memory.atomic_u32(self.ring.head())?.store(self.head, Release);
        self.published = self.head;
        // The reader first says that it sleeps, then looks at the head; here it is the other way round.
        fence(SeqCst);
        let sleeps = self.memory.atomic_u32(self.ring.reader_sleeps())?;
        if sleeps.load(Relaxed) != 0 && sleeps.swap(0, Relaxed) != 0 {
            self.wake.wake()?;
        }
        Ok(())
    }

    /// Bytes of the ring that are free, by the last look at what the other side has read.
    #[inline]
    fn free(&self) -> u32 {
        self.ring.size - self.head.wrapping_sub(self.tail)
    }

    #[inline]
    fn read_tail(&mut self) -> Result<(), RingError> {
        let tail = self.memory.atomic_u32(self.ring.tail())?.load(Acquire);
        let advanced = tail.wrapping_sub(self.tail);
        if advanced > self.published.wrapping_sub(self.tail) || !tail.is_multiple_of(RECORD_ALIGN) {
            return Err(RingError::Broken { what: "the reader's position is not among what was written" });
        }
        self.tail = tail;
        Ok(())
    }

    /// Asks to be woken when at least half of the ring is free. `false` if it is already: send on instead.
    ///
    /// # Errors
    /// `Broken`, `Gone`.
    pub fn wait_for_room(&mut self) -> Result<bool, RingError> {
        self.publish()?;
        self.memory.atomic_u32(self.ring.writer_waits())?.store(1, Relaxed);
        fence(SeqCst);
        self.read_tail()?;
        Ok(self.free() < self.ring.size / 2)
    }

    /// Whether everything that was sent has been read, looking now.
    ///
    /// # Errors
    /// `Broken`.
    pub fn is_drained(&mut self) -> Result<bool, RingError> {
        self.read_tail()?;
        Ok(self.tail == self.head)
    }

    /// Bytes that are free, looking now. A frame takes its length, a header of 32 bytes and up to 63 more; and because it never wraps,
    /// as much again may be skipped.
    ///
    /// # Errors
    /// `Broken`.
    pub fn room(&mut self) -> Result<u32, RingError> {
        self.read_tail()?;
        Ok(self.free())
    }

    /// Bytes that were sent and not read yet, looking now.
    ///
    /// # Errors
    /// `Broken`.
    pub fn pending(&mut self) -> Result<u32, RingError> {
        self.read_tail()?;
        Ok(self.head.wrapping_sub(self.tail))
    }
}

impl Slot<'_> {
    /// Writes part of the frame. Every byte must be written: old ones are still there.
    ///
    /// # Errors
    /// Not all in the frame.
    #[inline]
    pub fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), RingError> {
        let at = self.place(offset, bytes.len())?;
        Ok(self.producer.memory.write(at, bytes)?)
    }

    /// Copies part of a received frame, without a stop in between.
    ///
    /// # Errors
    /// Not all in the frames.
    #[inline]
    pub fn copy_from(&mut self, offset: usize, frame: &Frame<'_>, from: usize, len: usize) -> Result<(), RingError> {
        let at = self.place(offset, len)?;
        frame.copy_to(from, &self.producer.memory, at, len)
    }

    /// Where `len` bytes at `offset` of the frame are in the memory.
    #[inline]
    fn place(&self, offset: usize, len: usize) -> Result<u64, RingError> {
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(outside(offset, len, self.len));
        }
        Ok(self.producer.ring.byte(self.at) + u64::from(RECORD_HEADER) + offset as u64)
    }

    /// Sends the frame.
    ///
    /// # Errors
    /// Metadata that cannot belong to it (nothing was sent); `Gone`.
    #[inline]
    pub fn commit(self, meta: &FrameMeta) -> Result<(), RingError> {
        meta.check(self.len)?;
        let Slot { producer, at, len } = self;
        producer.memory.write(producer.ring.byte(at), &encode(len as u32, meta))?;
        producer.head = at.wrapping_add(record(len));
        if producer.head.wrapping_sub(producer.published) >= producer.ring.size / 4 {
            producer.publish()?;
        }
        Ok(())
    }
}

/// An access outside a frame.
pub(crate) fn outside(offset: usize, len: usize, size: usize) -> RingError {
    RingError::Range(bulkhead_linux::OutOfMapping { offset: offset as u64, len: len as u64, size: size as u64 })
}
