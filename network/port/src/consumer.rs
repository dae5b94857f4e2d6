//! [`Consumer`]: the reading side of a ring.

use crate::layout::{RECORD_ALIGN, RECORD_HEADER, RingAt, record};
use crate::metadata::{SKIP, decode};
use crate::producer::outside;
use crate::{RingError, WakeSender};
use bulkhead_linux::SharedMapping;
use bulkhead_packets::{FrameMeta, MAX_FRAME};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::fence;

/// Receives frames, in order: [`peek`](Self::peek) at the next, [`advance`](Self::advance) past it, [`release`](Self::release) the
/// room of all that are passed.
#[derive(Debug)]
pub struct Consumer {
    memory: Arc<SharedMapping>,
    ring: RingAt,
    wake: Arc<WakeSender>,
    /// The head as last read and checked.
    head: u32,
    tail: u32,
    released: u32,
    /// Bytes of the record that was peeked at.
    peeked: u32,
}

/// A received frame, still in the ring. The other side may change its bytes at any time: read what you judge once, and use
/// the copy.
#[derive(Debug)]
pub struct Frame<'a> {
    memory: &'a SharedMapping,
    at: u64,
    len: usize,
    meta: FrameMeta,
}

impl Consumer {
    pub(crate) fn new(memory: Arc<SharedMapping>, ring: RingAt, wake: Arc<WakeSender>) -> Consumer {
        Consumer { memory, ring, wake, head: 0, tail: 0, released: 0, peeked: 0 }
    }

    /// The next frame; `None` when there is none yet.
    ///
    /// # Errors
    /// `Broken`.
    #[inline]
    pub fn peek(&mut self) -> Result<Option<Frame<'_>>, RingError> {
        loop {
            if self.tail == self.head {
                self.read_head()?;
                if self.tail == self.head {
                    return Ok(None);
                }
            }
            let at = self.ring.byte(self.tail);
            let mut header = [0; RECORD_HEADER as usize];
            self.memory.read(at, &mut header)?;
            let (len, meta) = decode(&header);
            let there = self.head.wrapping_sub(self.tail);
            let to_end = self.ring.to_end(self.tail);
            if len == SKIP {
                if to_end > there {
                    return Err(RingError::Broken { what: "it skips more than was written" });
                }
                self.tail = self.tail.wrapping_add(to_end);
                continue;
            }
            let len = len as usize;
            if len > MAX_FRAME || record(len) > there.min(to_end) {
                return Err(RingError::Broken { what: "a frame is longer than what was written" });
            }
            if meta.check(len).is_err() {
                return Err(RingError::Broken { what: "a frame's metadata do not belong to it" });
            }
            self.peeked = record(len);
            return Ok(Some(Frame { memory: &self.memory, at: at + u64::from(RECORD_HEADER), len, meta }));
        }
    }

    #[inline]
    fn read_head(&mut self) -> Result<(), RingError> {
        let head = self.memory.atomic_u32(self.ring.head())?.load(Acquire);
        if head.wrapping_sub(self.released) > self.ring.size
            || head.wrapping_sub(self.released) < self.tail.wrapping_sub(self.released)
            || !head.is_multiple_of(RECORD_ALIGN)
        {
            return Err(RingError::Broken { what: "the writer's position is outside of the ring" });
        }
        self.head = head;
        Ok(())
    }

    /// Passes the frame that was peeked at. Its room is given back by `release`.
    #[inline]
    pub fn advance(&mut self) {
        self.tail = self.tail.wrapping_add(self.peeked);
        self.peeked = 0;
    }

    /// Gives the room of the passed frames back, and wakes the other side if it waits for that.
    ///
    /// # Errors
    /// `Gone`.
    #[inline]
    pub fn release(&mut self) -> Result<(), RingError> {
        if self.tail == self.released {
            return Ok(());
        }
        self.memory.atomic_u32(self.ring.tail())?.store(self.tail, Release);
        self.released = self.tail;
        fence(SeqCst);
        let waits = self.memory.atomic_u32(self.ring.writer_waits())?;
        if waits.load(Relaxed) != 0 {
            let head = self.memory.atomic_u32(self.ring.head())?.load(Relaxed);
            if head.wrapping_sub(self.tail) <= self.ring.size / 2 && waits.swap(0, Relaxed) != 0 {
                self.wake.wake()?;
            }
        }
        Ok(())
    }

    /// The same, if enough has been passed that it pays: for long batches.
    ///
    /// # Errors
    /// `Gone`.
    #[inline]
    pub fn release_some(&mut self) -> Result<(), RingError> {
        if self.tail.wrapping_sub(self.released) >= self.ring.size / 8 { self.release() } else { Ok(()) }
    }

    /// Releases everything and asks to be woken by the next frame. `false` if there is one already: go on reading instead.
    ///
    /// # Errors
    /// `Broken`, `Gone`.
    pub fn sleep(&mut self) -> Result<bool, RingError> {
        self.release()?;
        let sleeps = self.ring.reader_sleeps();
        self.memory.atomic_u32(sleeps)?.store(1, Relaxed);
        fence(SeqCst);
        self.read_head()?;
        if self.head == self.tail {
            return Ok(true);
        }
        self.memory.atomic_u32(sleeps)?.store(0, Relaxed);
        Ok(false)
    }
}

impl<'a> Frame<'a> {
    /// Bytes, without the metadata.
    #[allow(clippy::len_without_is_empty, reason = "a frame has at least an Ethernet header")]
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// What came with it; checked against its length.
    #[inline]
    pub fn meta(&self) -> &FrameMeta {
        &self.meta
    }

    /// Copies bytes from `offset` on.
    ///
    /// # Errors
    /// Not all in the frame.
    #[inline]
    pub fn read(&self, offset: usize, buffer: &mut [u8]) -> Result<(), RingError> {
        let at = self.place(offset, buffer.len())?;
        Ok(self.memory.read(at, buffer)?)
    }

    /// The whole frame, in place of what was in `buffer`.
    ///
    /// # Errors
    /// None that the other side can cause.
    #[inline]
    pub fn read_all(&self, buffer: &mut Vec<u8>) -> Result<(), RingError> {
        buffer.resize(self.len, 0);
        self.read(0, buffer)
    }

    #[inline]
    pub(crate) fn copy_to(&self, from: usize, to: &SharedMapping, at: u64, len: usize) -> Result<(), RingError> {
        Ok(self.memory.copy_to(self.place(from, len)?, to, at, len)?)
    }

    #[inline]
    fn place(&self, offset: usize, len: usize) -> Result<u64, RingError> {
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(outside(offset, len, self.len));
        }
        Ok(self.at + offset as u64)
    }
}
