//! Where things are in the memfd of a port.
//!
//! ```text
//! 0      control of the ring to the switch: head, tail, reader sleeps, writer waits; a cache line each
//! 1000h  control of the ring from the switch
//! 2000h  the ring to the switch
//! …      the ring from the switch, as long
//! ```
//!
//! A ring is a sequence of bytes, in records that start at multiples of 64 and never wrap: 32 bytes of header (`metadata.rs`), then
//! the frame. Head and tail are positions that run freely modulo 2³².

use std::fmt;

/// What records are aligned to: a cache line.
pub(crate) const RECORD_ALIGN: u32 = 64;
/// Bytes of a record's header.
pub(crate) const RECORD_HEADER: u32 = 32;

const CONTROL: u64 = 0x1000;
const DATA: u64 = 2 * CONTROL;

/// Bytes of each ring of a port: a power of two, 256 KiB to 16 MiB. Memory is used only as frames pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSize(u32);

/// A length that no ring has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a ring of {0} bytes: it must be a power of two, 262144 to 16777216")]
pub struct RingSizeError(u32);

impl RingSize {
    const MIN: u32 = 256 << 10;
    const MAX: u32 = 16 << 20;

    /// Rings of `bytes` each.
    ///
    /// # Errors
    /// Not one of the lengths that rings have.
    pub fn new(bytes: u32) -> Result<RingSize, RingSizeError> {
        let valid = bytes.is_power_of_two() && (Self::MIN..=Self::MAX).contains(&bytes);
        if valid { Ok(RingSize(bytes)) } else { Err(RingSizeError(bytes)) }
    }

    /// Bytes of each ring.
    pub fn bytes(self) -> u32 {
        self.0
    }

    /// Bytes of the memfd.
    pub(crate) fn memory(self) -> u64 {
        DATA + 2 * u64::from(self.0)
    }

    pub(crate) fn into_switch(self) -> RingAt {
        RingAt { control: 0, data: DATA, size: self.0 }
    }

    pub(crate) fn out_of_switch(self) -> RingAt {
        RingAt { control: CONTROL, data: DATA + u64::from(self.0), size: self.0 }
    }
}

/// 1 MiB: eight thousand small frames, or fifteen of the longest.
impl Default for RingSize {
    fn default() -> Self {
        RingSize(1 << 20)
    }
}

impl fmt::Display for RingSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} KiB", self.0 >> 10)
    }
}

/// One ring in the memfd.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingAt {
    control: u64,
    data: u64,
    pub(crate) size: u32,
}

impl RingAt {
    /// Position up to which the writer has written.
    pub(crate) fn head(self) -> u64 {
        self.control
    }

    /// Position up to which the reader has read.
    pub(crate) fn tail(self) -> u64 {
        self.control + 64
    }

    /// 1 while the reader sleeps and wants to be woken by the next frame.
    pub(crate) fn reader_sleeps(self) -> u64 {
        self.control + 128
    }

    /// 1 while the writer waits for half of the ring to be free.
    pub(crate) fn writer_waits(self) -> u64 {
        self.control + 192
    }

    /// Where the byte at a position is in the memfd.
    #[inline]
    pub(crate) fn byte(self, position: u32) -> u64 {
        self.data + u64::from(position & (self.size - 1))
    }

    /// Bytes from a position to where the ring starts over.
    #[inline]
    pub(crate) fn to_end(self, position: u32) -> u32 {
        self.size - (position & (self.size - 1))
    }
}

/// Bytes that a record with a frame of `len` bytes takes.
#[inline]
pub(crate) fn record(len: usize) -> u32 {
    (len as u32 + RECORD_HEADER).next_multiple_of(RECORD_ALIGN)
}
