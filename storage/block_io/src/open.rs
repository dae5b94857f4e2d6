//! Opening host files: by path or from a descriptor, cached or direct, locked.

use crate::context::IoContext;
use crate::engine::Engine;
use crate::holder::Holder;
use crate::host_file::{Alignment, HostFile};
use crate::lock;
use bulkhead_disk::{DiskError, ErrorKind, FileFacts, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Where written data waits for a flush.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cache {
    /// In the device only (O_DIRECT); falls back to `Writeback` where the file system has no direct I/O.
    Direct,
    /// In the host's page cache.
    #[default]
    Writeback,
}

/// How to open a host file.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    read_only: bool,
    create: bool,
    cache: Cache,
    lock: bool,
    holder: Holder,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { read_only: false, create: false, cache: Cache::Writeback, lock: true, holder: Holder::this_process("") }
    }
}

impl OpenOptions {
    /// Read-write, cached, locked, existing files only.
    pub fn new() -> Self {
        Self::default()
    }

    /// Read-only: shares the file with other readers.
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Creates a new file (mode 0600); an existing one is an error.
    #[must_use]
    pub fn create_new(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// The cache mode.
    #[must_use]
    pub fn cache(mut self, cache: Cache) -> Self {
        self.cache = cache;
        self
    }

    /// Whether to lock. A descriptor that was handed over is already locked: its lock came along.
    #[must_use]
    pub fn lock(mut self, lock: bool) -> Self {
        self.lock = lock;
        self
    }

    /// Who to name when others are refused.
    #[must_use]
    pub fn holder(mut self, holder: Holder) -> Self {
        self.holder = holder;
        self
    }

    /// Opens and locks `path`, without an I/O loop: the descriptor can be handed to a worker, its lock goes along. The
    /// lock lives as long as any copy of the descriptor.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`, `Locked` (naming the holder), …
    pub fn open_fd(&self, path: &Path) -> Result<OwnedFd> {
        let failed = |errno: rustix::io::Errno| DiskError::from_io("open the disk file", errno.into()).with_path(path);
        let mut flags = if self.read_only { OFlags::RDONLY } else { OFlags::RDWR };
        flags |= OFlags::CLOEXEC;
        if self.create {
            flags |= OFlags::CREATE | OFlags::EXCL;
        }
        let fd = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
        if self.lock {
            lock::acquire(fd.as_fd(), path, self.read_only, &self.holder)?;
        }
        Ok(fd)
    }

    /// Opens `path` for the loop of `context`.
    ///
    /// # Errors
    /// As for [`OpenOptions::open_fd`].
    pub fn open(&self, context: &IoContext, path: &Path) -> Result<HostFile> {
        let fd = self.clone().lock(false).open_fd(path)?;
        self.from_fd(context, fd, path)
    }

    /// Takes an open descriptor; `label` is its name in messages.
    ///
    /// # Errors
    /// `Locked`, `ReadOnly` (a read-only descriptor for a writable disk), `InvalidInput` for a directory or pipe.
    pub fn from_fd(&self, context: &IoContext, fd: OwnedFd, label: impl Into<PathBuf>) -> Result<HostFile> {
        self.build(context.inner.engine.clone(), fd, label.into())
    }

    /// Opens `path` without a loop: every operation is finished at once, futures need no executor
    /// ([`bulkhead_disk::run_now`]).
    ///
    /// # Errors
    /// As for [`OpenOptions::open_fd`].
    pub fn open_inline(&self, path: &Path) -> Result<HostFile> {
        let fd = self.clone().lock(false).open_fd(path)?;
        self.build(Engine::Inline, fd, path.to_owned())
    }

    fn build(&self, engine: Engine, fd: OwnedFd, path: PathBuf) -> Result<HostFile> {
        let failed = |errno: rustix::io::Errno| DiskError::from_io("open the disk file", errno.into()).with_path(&path);
        let flags = rustix::fs::fcntl_getfl(&fd).map_err(failed)?;
        if !self.read_only && !flags.contains(OFlags::RDWR) {
            let reason = "its descriptor was opened read-only";
            return Err(DiskError::new(ErrorKind::ReadOnly, "open the disk file", reason).with_path(path));
        }
        let stat = rustix::fs::fstat(&fd).map_err(failed)?;
        let (len, resizable) = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => (u64::try_from(stat.st_size).unwrap_or(0), true),
            FileType::BlockDevice => (rustix::fs::seek(&fd, rustix::fs::SeekFrom::End(0)).map_err(failed)?, false),
            other => {
                let reason = format!("it is neither a file nor a block device but {other:?}");
                return Err(DiskError::new(ErrorKind::InvalidInput, "open the disk file", reason).with_path(path));
            }
        };
        if self.lock {
            lock::acquire(fd.as_fd(), &path, self.read_only, &self.holder)?;
        }
        let holder = self.lock.then(|| self.holder.clone());
        let alignment = if self.cache == Cache::Direct { direct_alignment(&fd, flags) } else { None };
        let granule = alignment.as_ref().map_or(1, |alignment| alignment.offset);
        let facts = FileFacts { read_only: self.read_only, granule, resizable };
        Ok(HostFile::new(engine, fd, path, facts, len, alignment, holder))
    }
}

/// Switches direct I/O on; None where the file has none.
fn direct_alignment(fd: &OwnedFd, flags: OFlags) -> Option<Alignment> {
    let statx = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok()?;
    let told = statx.stx_mask & StatxFlags::DIOALIGN.bits() != 0;
    let (offset, memory) = match (told, statx.stx_dio_offset_align, statx.stx_dio_mem_align) {
        (true, 0, _) | (true, _, 0) => return None,
        (true, offset, memory) => (offset, memory),
        // Kernels before 6.1 do not tell; every device of theirs takes 4096.
        (false, ..) => (4096, 4096),
    };
    rustix::fs::fcntl_setfl(fd, flags | OFlags::DIRECT).ok()?;
    Some(Alignment { offset, memory })
}
