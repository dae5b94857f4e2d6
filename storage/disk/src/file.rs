//! The file seam: all that a format may do to its host file.

use crate::{Buffer, Completion, LocalFuture, Result};
use std::ops::Range;
use std::path::Path;

/// Facts of an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileFacts {
    /// Opened read-only.
    pub read_only: bool,
    /// Offset and length granule of efficient transfers (misaligned ones work, through a bounce buffer); 1 = any.
    pub granule: u32,
    /// True when the file can be extended and shrunk (false for block devices).
    pub resizable: bool,
}

/// How long a write may stay in caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Until the next flush.
    Cached,
    /// Not at all: complete only when this data is on stable storage.
    Stable,
}

/// A file on one I/O thread. Positioned and vectored only: there is no cursor to share.
///
/// Model for crash safety: what was written before the start of a successful `flush` survives; anything later may be
/// there, absent, or torn at 512-byte borders, in any order. After a failed flush the file is poisoned: every later write
/// and flush fails with `Poisoned`, because Linux may have dropped the dirty pages.
pub trait File {
    /// For messages; workers know files by descriptor, so this may be any label.
    fn path(&self) -> &Path;

    /// Facts.
    fn facts(&self) -> FileFacts;

    /// Current length in bytes.
    fn len(&self) -> u64;

    /// True when the file has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills the buffer from `offset`. Reading past the end is an `OutOfRange` error.
    fn read(&self, offset: u64, buffer: Buffer) -> LocalFuture<'_, Completion>;

    /// Writes the whole buffer at `offset`, extending the file where needed.
    fn write(&self, offset: u64, buffer: Buffer, durability: Durability) -> LocalFuture<'_, Completion>;

    /// Makes everything that completed before durable.
    fn flush(&self) -> LocalFuture<'_, Result<()>>;

    /// Cuts or extends (new bytes read as zeros).
    fn set_len(&self, len: u64) -> LocalFuture<'_, Result<()>>;

    /// Reserves space for `range`, extending the file; contents stay (new bytes read as zeros). Without support in the
    /// host file system it only extends.
    fn allocate(&self, range: Range<u64>) -> LocalFuture<'_, Result<()>>;

    /// Makes `range` (inside the file) read as zeros, keeping space reserved where the host can.
    fn zero_range(&self, range: Range<u64>) -> LocalFuture<'_, Result<()>>;

    /// Makes `range` (inside the file) read as zeros and gives its space back where the host can.
    fn punch(&self, range: Range<u64>) -> LocalFuture<'_, Result<()>>;

    /// The next run of stored data at or after `offset`; None = only a hole up to the end.
    fn data_after(&self, offset: u64) -> LocalFuture<'_, Result<Option<Range<u64>>>>;
}

/// Reads `len` bytes at `offset`.
///
/// # Errors
/// Those of the file.
pub async fn read_vec(file: &dyn File, offset: u64, len: usize) -> Result<Vec<u8>> {
    Ok(file.read(offset, Buffer::zeroed(len)).await.into_result()?.to_vec())
}

/// Writes `data` at `offset` (cached).
///
/// # Errors
/// Those of the file.
pub async fn write_vec(file: &dyn File, offset: u64, data: &[u8]) -> Result<()> {
    file.write(offset, Buffer::copy_of(data), Durability::Cached).await.result
}
