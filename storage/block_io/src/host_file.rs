//! A host file on an I/O loop.

use crate::engine::Engine;
use crate::holder::{self, Holder};
use crate::lock;
use crate::open::Cache;
use crate::transfer::{Operation, perform, read_cached};
use bulkhead_disk::{
    Buffer, Completion, DiskError, Durability, ErrorKind, File, FileFacts, LocalFuture, LocalLock, LocalLockGuard,
    Notify, Result,
};
use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;
use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What direct I/O wants, in bytes.
pub(crate) struct Alignment {
    pub(crate) offset: u32,
    pub(crate) memory: u32,
}

/// Unit of zeros written where the file system cannot clear a range.
const ZEROS: usize = 1 << 20;

/// An open disk file. Closing it ends its lock.
pub struct HostFile {
    engine: Engine,
    fd: Arc<OwnedFd>,
    path: PathBuf,
    facts: FileFacts,
    len: Cell<u64>,
    alignment: Option<Alignment>,
    poisoned: Cell<bool>,
    gate: Gate,
    /// Set when this open locked the file: its record is to be removed.
    holder: Option<Holder>,
}

/// Read-modify-write of a misaligned direct write excludes every other write of the file.
#[derive(Default)]
struct Gate {
    exclusive: LocalLock,
    shared: Cell<u32>,
    left: Notify,
}

struct Shared<'a>(&'a Gate);

impl Drop for Shared<'_> {
    fn drop(&mut self) {
        self.0.shared.set(self.0.shared.get() - 1);
        self.0.left.notify_all();
    }
}

impl Gate {
    async fn shared(&self) -> Shared<'_> {
        if self.exclusive.try_lock().is_none() {
            drop(self.exclusive.lock().await);
        }
        self.shared.set(self.shared.get() + 1);
        Shared(self)
    }

    async fn exclusive(&self) -> LocalLockGuard {
        let guard = self.exclusive.lock().await;
        while self.shared.get() > 0 {
            self.left.wait().await;
        }
        guard
    }
}

impl HostFile {
    pub(crate) fn new(
        engine: Engine,
        fd: OwnedFd,
        path: PathBuf,
        facts: FileFacts,
        len: u64,
        alignment: Option<Alignment>,
        holder: Option<Holder>,
    ) -> Self {
        Self {
            engine,
            fd: Arc::new(fd),
            path,
            facts,
            len: Cell::new(len),
            alignment,
            poisoned: Cell::new(false),
            gate: Gate::default(),
            holder,
        }
    }

    /// The cache mode in effect.
    pub fn cache(&self) -> Cache {
        if self.alignment.is_some() { Cache::Direct } else { Cache::Writeback }
    }

    /// The descriptor, for calls that this type does not have.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn error(&self, action: impl Into<String>, error: io::Error) -> DiskError {
        DiskError::from_io(action.into(), error).with_path(&self.path)
    }

    /// Refuses changes to read-only and poisoned files.
    fn check_change(&self, action: &'static str) -> Result<()> {
        if self.poisoned.get() {
            let reason = "an earlier flush failed, so the host may have dropped written data";
            return Err(DiskError::new(ErrorKind::Poisoned, action, reason)
                .with_path(&self.path)
                .advise("close the disk, check the host's storage, then check the disk"));
        }
        if self.facts.read_only {
            return Err(
                DiskError::new(ErrorKind::ReadOnly, action, "the file was opened read-only").with_path(&self.path)
            );
        }
        Ok(())
    }

    fn is_aligned(&self, offset: u64, buffer: &Buffer) -> bool {
        self.alignment.as_ref().is_none_or(|want| {
            offset.is_multiple_of(want.offset.into())
                && (buffer.len() as u64).is_multiple_of(want.offset.into())
                && buffer.is_aligned(want.memory as usize)
        })
    }

    async fn read_range(&self, offset: u64, mut buffer: Buffer) -> Completion {
        let len = buffer.len() as u64;
        if offset.checked_add(len).is_none_or(|end| end > self.len.get()) {
            let reason = format!("the file ends at byte {}", self.len.get());
            let error = DiskError::new(ErrorKind::OutOfRange, format!("read {len} bytes"), reason);
            return Completion::failed(error.with_path(&self.path).at(offset), buffer);
        }
        if self.alignment.is_none() && read_cached(&self.fd, offset, &mut buffer) {
            return Completion::ok(buffer);
        }
        let (result, buffer) = if self.is_aligned(offset, &buffer) {
            self.engine.run(&self.fd, Operation::Read { offset }, buffer).await
        } else {
            self.read_bounced(offset, buffer).await
        };
        let result = result.map_err(|error| self.error(format!("read {len} bytes"), error).at(offset));
        Completion { result, buffer }
    }

    async fn read_bounced(&self, offset: u64, mut buffer: Buffer) -> (io::Result<()>, Buffer) {
        let (start, len) = self.cover(offset, buffer.len());
        // The last granule of a file whose length is no multiple of it comes short, which is enough.
        let (result, bounce) = self.engine.run(&self.fd, Operation::Read { offset: start }, Buffer::zeroed(len)).await;
        let short = matches!(&result, Err(error) if error.kind() == io::ErrorKind::UnexpectedEof);
        if result.is_ok() || short {
            let skip = (offset - start) as usize;
            if let Some(data) = bounce.as_slice() {
                let want = buffer.len();
                buffer.copy_from(0, &data[skip..skip + want]);
            }
            return (Ok(()), buffer);
        }
        (result, buffer)
    }

    /// The aligned range around `len` bytes at `offset`: (start, length).
    fn cover(&self, offset: u64, len: usize) -> (u64, usize) {
        let granule = u64::from(self.facts.granule).max(1);
        let start = offset / granule * granule;
        let end = (offset + len as u64).next_multiple_of(granule);
        (start, (end - start) as usize)
    }

    async fn write_range(&self, offset: u64, mut buffer: Buffer, durability: Durability) -> Completion {
        let len = buffer.len() as u64;
        if let Err(error) = self.check_change("write") {
            return Completion::failed(error.at(offset), buffer);
        }
        let Some(end) = offset.checked_add(len).filter(|end| i64::try_from(*end).is_ok()) else {
            let error = DiskError::new(ErrorKind::OutOfRange, "write", "the offset is beyond what files can have");
            return Completion::failed(error.with_path(&self.path).at(offset), buffer);
        };
        let stable = durability == Durability::Stable;
        let operation = Operation::Write { offset, stable };
        let (result, buffer) = if self.alignment.is_none() && !stable {
            let result = perform(&self.fd, operation, &mut buffer);
            (result, buffer)
        } else if self.is_aligned(offset, &buffer) {
            let _shared = if self.facts.granule > 1 { Some(self.gate.shared().await) } else { None };
            self.engine.run(&self.fd, operation, buffer).await
        } else {
            let result = self.write_bounced(offset, &buffer, stable).await;
            (result, buffer)
        };
        if result.is_ok() {
            self.len.set(self.len.get().max(end));
        }
        let result = result.map_err(|error| self.error(format!("write {len} bytes"), error).at(offset));
        Completion { result, buffer }
    }

    /// Read-modify-write of the granules around a misaligned write.
    async fn write_bounced(&self, offset: u64, buffer: &Buffer, stable: bool) -> io::Result<()> {
        let (start, len) = self.cover(offset, buffer.len());
        let memory_only = start == offset && len == buffer.len();
        let _guard = self.gate.exclusive().await;
        let mut bounce = Buffer::zeroed(len);
        if !memory_only {
            let (result, data) = self.engine.run(&self.fd, Operation::Read { offset: start }, bounce).await;
            bounce = data;
            match result {
                // What is behind the end of the file stays zero.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                other => other?,
            }
        }
        let old_len = self.len.get();
        bounce.copy_from((offset - start) as usize, &buffer.to_vec());
        self.engine.run(&self.fd, Operation::Write { offset: start, stable }, bounce).await.0?;
        // The padding of the last granule must not stay part of the file.
        let want = old_len.max(offset + buffer.len() as u64);
        if start + len as u64 > want {
            rustix::fs::ftruncate(&*self.fd, want)?;
        }
        Ok(())
    }

    async fn flush_file(&self) -> Result<()> {
        if self.facts.read_only {
            return Ok(());
        }
        self.check_change("flush")?;
        let (result, _) = self.engine.run(&self.fd, Operation::Flush, Buffer::empty()).await;
        result.map_err(|error| {
            self.poisoned.set(true);
            self.error("flush", error)
        })
    }

    /// `fallocate`; false where the file system cannot do it.
    async fn fallocate(&self, action: &'static str, mode: FallocateFlags, range: &Range<u64>) -> Result<bool> {
        let (offset, len) = (range.start, range.end.saturating_sub(range.start));
        let operation = Operation::Allocate { mode, offset, len };
        let (result, _) = self.engine.run(&self.fd, operation, Buffer::empty()).await;
        match result {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV)) => {
                Ok(false)
            }
            Err(error) => Err(self.error(format!("{action} {len} bytes"), error).at(offset)),
        }
    }

    /// Range checks of zeroing and punching: inside the file.
    fn check_inside(&self, action: &'static str, range: &Range<u64>) -> Result<()> {
        self.check_change(action)?;
        if range.start > range.end || range.end > self.len.get() {
            let reason = format!("the range ends at byte {}, the file at {}", range.end, self.len.get());
            return Err(DiskError::new(ErrorKind::OutOfRange, action, reason).with_path(&self.path).at(range.start));
        }
        Ok(())
    }

    async fn clear(&self, action: &'static str, modes: &[FallocateFlags], range: Range<u64>) -> Result<()> {
        self.check_inside(action, &range)?;
        if range.is_empty() {
            return Ok(());
        }
        for mode in modes {
            if self.fallocate(action, *mode | FallocateFlags::KEEP_SIZE, &range).await? {
                return Ok(());
            }
        }
        let mut at = range.start;
        while at < range.end {
            let len = (range.end - at).min(ZEROS as u64);
            self.write_range(at, Buffer::zeroed(len as usize), Durability::Cached).await.result?;
            at += len;
        }
        Ok(())
    }

    fn seek_data(&self, offset: u64) -> Result<Option<Range<u64>>> {
        let len = self.len.get();
        if offset >= len {
            return Ok(None);
        }
        let start = match rustix::fs::seek(&*self.fd, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(None),
            // No holes known to this file system.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some(offset..len)),
            Err(error) => return Err(self.error("look for data", error.into()).at(offset)),
        };
        let end = rustix::fs::seek(&*self.fd, SeekFrom::Hole(start))
            .map_err(|error| self.error("look for holes", error.into()).at(start))?;
        Ok((start < len).then(|| start..end.min(len)))
    }
}

impl Drop for HostFile {
    fn drop(&mut self) {
        if let Some(holder) = &self.holder {
            holder::remove(self.fd.as_fd(), &self.path, !self.facts.read_only, holder);
            lock::release(self.fd.as_fd());
        }
    }
}

impl File for HostFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn facts(&self) -> FileFacts {
        self.facts
    }

    fn len(&self) -> u64 {
        self.len.get()
    }

    fn read(&self, offset: u64, buffer: Buffer) -> LocalFuture<'_, Completion> {
        Box::pin(self.read_range(offset, buffer))
    }

    fn write(&self, offset: u64, buffer: Buffer, durability: Durability) -> LocalFuture<'_, Completion> {
        Box::pin(self.write_range(offset, buffer, durability))
    }

    fn flush(&self) -> LocalFuture<'_, Result<()>> {
        Box::pin(self.flush_file())
    }

    fn set_len(&self, len: u64) -> LocalFuture<'_, Result<()>> {
        Box::pin(async move {
            self.check_change("set the length")?;
            let action = || format!("set the length to {len} bytes");
            rustix::fs::ftruncate(&*self.fd, len).map_err(|error| self.error(action(), error.into()))?;
            self.len.set(len);
            Ok(())
        })
    }

    fn allocate(&self, range: Range<u64>) -> LocalFuture<'_, Result<()>> {
        Box::pin(async move {
            self.check_change("reserve space")?;
            if range.is_empty() {
                return Ok(());
            }
            if self.fallocate("reserve", FallocateFlags::empty(), &range).await? {
                self.len.set(self.len.get().max(range.end));
            } else if range.end > self.len.get() {
                self.set_len(range.end).await?;
            }
            Ok(())
        })
    }

    fn zero_range(&self, range: Range<u64>) -> LocalFuture<'_, Result<()>> {
        Box::pin(self.clear("clear", &[FallocateFlags::ZERO_RANGE], range))
    }

    fn punch(&self, range: Range<u64>) -> LocalFuture<'_, Result<()>> {
        Box::pin(self.clear("free", &[FallocateFlags::PUNCH_HOLE, FallocateFlags::ZERO_RANGE], range))
    }

    fn data_after(&self, offset: u64) -> LocalFuture<'_, Result<Option<Range<u64>>>> {
        Box::pin(async move { self.seek_data(offset) })
    }
}
