//! Requests, completions, block status, and the thread-safe face of a disk.

use crate::{Buffer, DiskError, DiskFacts, ErrorKind, Result};
use std::ops::Range;

/// One operation on a disk. Offsets and lengths are bytes, multiples of the logical sector.
#[derive(Debug)]
pub enum Request {
    /// Fill the buffer from `offset`.
    Read {
        /// First byte.
        offset: u64,
        /// Gets the data.
        buffer: Buffer,
    },
    /// Write the buffer at `offset`.
    Write {
        /// First byte.
        offset: u64,
        /// The data.
        buffer: Buffer,
        /// Complete only when this data is durable (force unit access).
        fua: bool,
    },
    /// Make everything durable whose completion came before this was submitted.
    Flush,
    /// The contents of the range no longer matter: what is read there later is old data or zeros.
    Discard {
        /// Bytes to forget.
        range: Range<u64>,
    },
    /// The range reads as zeros afterwards.
    WriteZeroes {
        /// Bytes to clear.
        range: Range<u64>,
        /// Space may be given back (false keeps it reserved).
        may_unmap: bool,
        /// Complete only when durable.
        fua: bool,
    },
}

impl Request {
    /// The bytes that it touches (empty for flush).
    pub fn range(&self) -> Range<u64> {
        match self {
            Self::Read { offset, buffer } | Self::Write { offset, buffer, .. } => {
                *offset..offset.saturating_add(buffer.len() as u64)
            }
            Self::Flush => 0..0,
            Self::Discard { range } | Self::WriteZeroes { range, .. } => range.clone(),
        }
    }

    /// True when it changes the disk.
    pub fn is_write(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::Discard { .. } | Self::WriteZeroes { .. })
    }

    /// Takes the buffer back out (empty where there is none).
    pub fn into_buffer(self) -> Buffer {
        match self {
            Self::Read { buffer, .. } | Self::Write { buffer, .. } => buffer,
            _ => Buffer::empty(),
        }
    }
}

/// The end of a request: its result, and its buffer back (also after an error).
#[derive(Debug)]
#[must_use]
pub struct Completion {
    /// What happened.
    pub result: Result<()>,
    /// The request's buffer; after a failed read its contents are undefined.
    pub buffer: Buffer,
}

impl Completion {
    /// Success.
    pub fn ok(buffer: Buffer) -> Self {
        Self { result: Ok(()), buffer }
    }

    /// Failure.
    pub fn failed(error: DiskError, buffer: Buffer) -> Self {
        Self { result: Err(error), buffer }
    }

    /// Without the buffer.
    pub fn from_result(result: Result<()>) -> Self {
        Self { result, buffer: Buffer::empty() }
    }

    /// The buffer on success, else the error.
    pub fn into_result(self) -> Result<Buffer> {
        self.result.map(|()| self.buffer)
    }
}

/// What a range of a disk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockKind {
    /// Stored data.
    Data,
    /// Stored as "reads as zeros".
    Zero,
    /// Stored nowhere in the chain; reads as zeros.
    Hole,
}

/// One run of equal block status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusExtent {
    /// Bytes of the disk.
    pub range: Range<u64>,
    /// What is there.
    pub kind: BlockKind,
    /// The image that holds it: 0 = the top of the chain, then its parent, …; the bottom for holes.
    pub layer: u16,
    /// Where the data is in that image's file; None for zeros and holes or where the layer has no file.
    pub file_offset: Option<u64>,
}

/// Called exactly once with the result, on any thread; must not block.
pub type Done = Box<dyn FnOnce(Completion) + Send>;

/// Called exactly once with the extents, in order, covering the asked range.
pub type StatusDone = Box<dyn FnOnce(Result<Vec<StatusExtent>>) + Send>;

/// A disk as devices and servers hold it: submit from any thread, any number of queues at once.
///
/// Requests may finish in any order. Cancelling is ignoring the completion. Requests in flight over the same bytes have
/// no order; a flush covers what completed before it was submitted. `done` may run before `submit` returns.
pub trait Disk: Send + Sync {
    /// Facts now.
    fn facts(&self) -> DiskFacts;

    /// Starts a request; `done` gets its completion.
    fn submit(&self, request: Request, done: Done);

    /// Asks what `range` holds.
    fn submit_status(&self, range: Range<u64>, done: StatusDone);
}

/// Checks a request against the facts of its disk: range, alignment, write protection.
///
/// # Errors
/// `OutOfRange`, `Misaligned`, `ReadOnly`.
pub fn check_range(facts: &DiskFacts, range: &Range<u64>, write: bool) -> Result<()> {
    let action = || {
        let verb = if write { "write" } else { "read" };
        format!("{verb} {} bytes", range.end.saturating_sub(range.start))
    };
    if write && facts.read_only {
        return Err(DiskError::new(ErrorKind::ReadOnly, action(), "the disk is read-only").at(range.start));
    }
    if range.start > range.end || range.end > facts.size {
        let reason = format!("the disk ends at byte {}", facts.size);
        return Err(DiskError::new(ErrorKind::OutOfRange, action(), reason).at(range.start));
    }
    let sector = u64::from(facts.logical_sector);
    if !range.start.is_multiple_of(sector) || !range.end.is_multiple_of(sector) {
        let reason = format!("offset and length must be multiples of {sector}");
        return Err(DiskError::new(ErrorKind::Misaligned, action(), reason).at(range.start));
    }
    Ok(())
}
