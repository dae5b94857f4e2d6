//! A member of the storage graph: an asynchronous disk on one I/O thread.

use crate::{Buffer, Completion, DiskFacts, LocalFuture, Request, Result, StatusExtent};
use std::ops::Range;

/// An asynchronous disk on one I/O thread: a chain, a filter over another node (QoS, change tracking), an NBD client.
///
/// Many requests run at once. A node checks requests with [`crate::check_range`] unless the node below does.
pub trait Node {
    /// Facts now.
    fn facts(&self) -> DiskFacts;

    /// Runs one request to its end. A flush covers every request that completed before its first poll.
    fn run(&self, request: Request) -> LocalFuture<'_, Completion>;

    /// What `range` holds: ordered, without gaps; the bottom of a chain splits as finely as it must, equal runs are joined.
    fn status(&self, range: Range<u64>) -> LocalFuture<'_, Result<Vec<StatusExtent>>>;
}

/// Reads `len` bytes at `offset`.
///
/// # Errors
/// Those of the node.
pub async fn read_bytes(node: &dyn Node, offset: u64, len: usize) -> Result<Vec<u8>> {
    let request = Request::Read { offset, buffer: Buffer::zeroed(len) };
    Ok(node.run(request).await.into_result()?.to_vec())
}

/// Writes `data` at `offset`.
///
/// # Errors
/// Those of the node.
pub async fn write_bytes(node: &dyn Node, offset: u64, data: &[u8]) -> Result<()> {
    let request = Request::Write { offset, buffer: Buffer::copy_of(data), fua: false };
    node.run(request).await.result
}
