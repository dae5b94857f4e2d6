//! A disk in memory: scratch disks, device tests, the model in random tests.

use crate::{
    BlockKind, Completion, Disk, DiskFacts, Done, LocalFuture, Node, Request, Result, SparseBytes, StatusDone,
    StatusExtent, check_range,
};
use parking_lot::RwLock;
use std::future::ready;
use std::ops::Range;
use std::sync::Arc;

/// A sparse disk in memory. Clones are handles of the same disk. Completes every request before `submit` returns.
#[derive(Clone)]
pub struct RamDisk {
    facts: Arc<DiskFacts>,
    bytes: Arc<RwLock<SparseBytes>>,
}

impl RamDisk {
    /// An empty disk of `size` bytes with 512-byte sectors.
    pub fn new(size: u64) -> Self {
        Self::with_facts(DiskFacts { discard_granularity: 4096, ..DiskFacts::plain(size, "ram") })
    }

    /// An empty disk with these facts.
    pub fn with_facts(facts: DiskFacts) -> Self {
        Self { facts: Arc::new(facts), bytes: Arc::default() }
    }

    /// A read-only handle of the same disk.
    #[must_use]
    pub fn read_only(&self) -> Self {
        let facts = DiskFacts { read_only: true, ..(*self.facts).clone() };
        Self { facts: Arc::new(facts), bytes: Arc::clone(&self.bytes) }
    }

    /// Runs a request at once.
    pub fn execute(&self, mut request: Request) -> Completion {
        let result = check_range(&self.facts, &request.range(), request.is_write());
        if result.is_ok() {
            match &mut request {
                Request::Read { offset, buffer } => self.bytes.read().read_into(*offset, buffer),
                Request::Write { offset, buffer, .. } => self.bytes.write().write_from(*offset, buffer),
                Request::Flush => {}
                Request::Discard { range } | Request::WriteZeroes { range, .. } => {
                    self.bytes.write().clear(range.clone());
                }
            }
        }
        Completion { result, buffer: request.into_buffer() }
    }

    /// What `range` holds.
    ///
    /// # Errors
    /// `OutOfRange`, `Misaligned`.
    pub fn extents(&self, range: Range<u64>) -> Result<Vec<StatusExtent>> {
        check_range(&self.facts, &range, false)?;
        let bytes = self.bytes.read();
        let mut extents = Vec::new();
        let mut push = |range: Range<u64>, kind| {
            if !range.is_empty() {
                extents.push(StatusExtent { range, kind, layer: 0, file_offset: None });
            }
        };
        let mut at = range.start;
        while at < range.end {
            let data = bytes.data_after(at).unwrap_or(range.end..range.end);
            let (start, end) = (data.start.min(range.end), data.end.min(range.end));
            push(at..start, BlockKind::Hole);
            push(start..end, BlockKind::Data);
            at = end.max(start);
        }
        Ok(extents)
    }
}

impl Disk for RamDisk {
    fn facts(&self) -> DiskFacts {
        (*self.facts).clone()
    }

    fn submit(&self, request: Request, done: Done) {
        done(self.execute(request));
    }

    fn submit_status(&self, range: Range<u64>, done: StatusDone) {
        done(self.extents(range));
    }
}

impl Node for RamDisk {
    fn facts(&self) -> DiskFacts {
        (*self.facts).clone()
    }

    fn run(&self, request: Request) -> LocalFuture<'_, Completion> {
        Box::pin(ready(self.execute(request)))
    }

    fn status(&self, range: Range<u64>) -> LocalFuture<'_, Result<Vec<StatusExtent>>> {
        Box::pin(ready(self.extents(range)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Buffer, ErrorKind, read_bytes, run_now, write_bytes};

    #[test]
    fn reads_what_was_written_and_tells_holes() {
        let disk = RamDisk::new(1 << 40);
        run_now(write_bytes(&disk, (1 << 39) + 512, &[7; 1024])).unwrap();
        let data = run_now(read_bytes(&disk, 1 << 39, 2048)).unwrap();
        assert!(data[..512].iter().all(|byte| *byte == 0) && data[512..1536].iter().all(|byte| *byte == 7));
        let extents = disk.extents(0..1 << 40).unwrap();
        let kinds: Vec<_> = extents.iter().map(|extent| extent.kind).collect();
        assert_eq!(kinds, [BlockKind::Hole, BlockKind::Data, BlockKind::Hole]);
        let _ = disk.execute(Request::Discard { range: 1 << 39..(1 << 39) + 4096 });
        assert_eq!(disk.extents(0..1 << 40).unwrap().len(), 1);
    }

    #[test]
    fn refuses_with_kind_and_gives_the_buffer_back() {
        let disk = RamDisk::new(4096);
        let write =
            |disk: &RamDisk, offset| disk.execute(Request::Write { offset, buffer: Buffer::zeroed(512), fua: false });
        let kind = |completion: Completion| (completion.buffer.len(), completion.result.unwrap_err().kind());
        assert_eq!(kind(write(&disk, 4096)), (512, ErrorKind::OutOfRange));
        assert_eq!(kind(write(&disk, u64::MAX - 100)), (512, ErrorKind::OutOfRange));
        assert_eq!(kind(write(&disk, 100)), (512, ErrorKind::Misaligned));
        assert_eq!(kind(write(&disk.read_only(), 0)), (512, ErrorKind::ReadOnly));
    }
}
