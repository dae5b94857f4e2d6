//! What can go wrong: an access outside RAM (guest's fault, cheap), or building, saving and discarding (host's fault).

use std::io;

/// An access that the guest (or whoever gave the address) got wrong. Small and `Copy`: devices answer it, nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// Some byte of the range is not RAM, or the range wraps around.
    #[error("guest memory {gpa:#x}, {len:#x} bytes: not entirely RAM of this VM; use addresses inside its RAM regions")]
    OutOfRange {
        /// First guest-physical address asked for.
        gpa: u64,
        /// Bytes asked for.
        len: u64,
    },
    /// An atomic operation or a page operation needs a multiple of `align`.
    #[error("guest memory {gpa:#x}, {len:#x} bytes: must be aligned to {align} bytes for this operation")]
    Misaligned {
        /// First guest-physical address asked for.
        gpa: u64,
        /// Bytes asked for.
        len: u64,
        /// The alignment that address and length need.
        align: u64,
    },
    /// The other side of a copy between guest memory and shared memory is out of its mapping.
    #[error(transparent)]
    OutOfMapping(#[from] bulkhead_linux::OutOfMapping),
}

/// Building, saving or shrinking guest memory failed.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// A range that is not RAM or not aligned.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// A region that cannot be: the reason says why.
    #[error("RAM region {gpa:#x}, {len:#x} bytes: {reason}")]
    BadRegion {
        /// First guest-physical address of the region.
        gpa: u64,
        /// Its length in bytes.
        len: u64,
        /// What is wrong with it, and what would be right.
        reason: &'static str,
    },
    /// The file behind a region is too short: touching what is missing would kill the process.
    #[error(
        "RAM region {gpa:#x}, {len:#x} bytes: its file has {file_len:#x} bytes, needs {needed:#x}; the saved RAM is cut off"
    )]
    FileTooShort {
        /// First guest-physical address of the region.
        gpa: u64,
        /// Its length in bytes.
        len: u64,
        /// Bytes the file has.
        file_len: u64,
        /// Bytes the file must have.
        needed: u64,
    },
    /// A system call failed.
    #[error("guest memory: cannot {action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Why the host refused.
        #[source]
        source: io::Error,
    },
}

impl MemoryError {
    /// An adapter for `map_err`: names the action that a system call was part of.
    pub(crate) fn system<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System { action, source: source.into() }
    }
}
