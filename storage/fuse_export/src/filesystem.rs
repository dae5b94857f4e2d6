//! The FUSE requests.

use std::ffi::OsStr;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use bulkhead_disk::{BlockKind, Disk, DiskError, ErrorKind, Request as DiskRequest};
use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};

use crate::files::{ExportedFile, FIRST, Files, REMEMBER};
use crate::transfer::Transfers;

/// Bytes of one request at most.
const MOST_BYTES: u32 = 1 << 20;
/// Requests that the kernel sends ahead.
const QUEUE: u16 = 64;
/// Data and holes are looked for in steps of this.
const WINDOW: u64 = 1 << 30;
// Linux's numbers, which `lseek` and `fallocate` carry.
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;
const KEEP_SIZE: i32 = 1;
const PUNCH_HOLE: i32 = 2;
const ZERO_RANGE: i32 = 16;

/// The file system.
pub struct DiskFiles {
    files: Files,
    transfers: Transfers,
}

impl DiskFiles {
    pub fn new(disk: Arc<dyn Disk>, list: Vec<ExportedFile>) -> Self {
        let read_only = disk.facts().read_only;
        let files = Files { list, read_only, made: SystemTime::UNIX_EPOCH };
        Self { files, transfers: Transfers::new(disk) }
    }

    /// The bytes of the disk that a request on a file means; cut at the file's end.
    fn range(&self, ino: INodeNo, offset: u64, len: u64) -> Option<Range<u64>> {
        let file = self.files.get(ino)?;
        let begin = offset.min(file.size);
        let end = offset.saturating_add(len).min(file.size);
        Some(file.start + begin..file.start + end)
    }

    /// The first data or hole at or after `offset` of a file; its end is a hole.
    fn seek(&self, file: &ExportedFile, offset: u64, data: bool) -> Result<u64, Errno> {
        let sector = u64::from(self.transfers.disk.facts().logical_sector);
        let end = file.start + file.size;
        let mut at = file.start + offset / sector * sector;
        while at < end {
            let window = at..end.min(at + WINDOW);
            for extent in self.transfers.status(window.clone()).map_err(number)? {
                if (extent.kind == BlockKind::Data) == data {
                    return Ok(extent.range.start.saturating_sub(file.start).max(offset));
                }
            }
            at = window.end;
        }
        if data { Err(Errno::ENXIO) } else { Ok(file.size) }
    }
}

/// The host's number for a disk's error. The whole story goes to the log.
fn number(error: DiskError) -> Errno {
    tracing::warn!(%error, "a request on a mounted disk failed");
    match error.kind() {
        ErrorKind::NoSpace => Errno::ENOSPC,
        ErrorKind::ReadOnly => Errno::EROFS,
        ErrorKind::Unsupported | ErrorKind::Misaligned => Errno::EOPNOTSUPP,
        _ => Errno::EIO,
    }
}

/// An empty reply.
fn answer(reply: ReplyEmpty) -> impl FnOnce(bulkhead_disk::Result<()>) + Send + 'static {
    move |result| match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(number(error)),
    }
}

impl Filesystem for DiskFiles {
    #[allow(clippy::disallowed_methods, reason = "a shell: files show when they were mounted")]
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Refused values fall back to what the kernel allows.
        let _ = config.set_max_write(MOST_BYTES);
        let _ = config.set_max_background(QUEUE);
        let _ = config.add_capabilities(InitFlags::FUSE_ASYNC_DIO);
        self.files.made = SystemTime::now();
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.files.list.iter().zip(FIRST..).find(|(file, _)| OsStr::new(&file.name) == name);
        match found.filter(|_| parent == INodeNo::ROOT) {
            Some((_, ino)) => match self.files.attributes(INodeNo(ino), (request.uid(), request.gid())) {
                Some(attributes) => reply.entry(&REMEMBER, &attributes, Generation(0)),
                None => reply.error(Errno::ENOENT),
            },
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, request: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.files.attributes(ino, (request.uid(), request.gid())) {
            Some(attributes) => reply.attr(&REMEMBER, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    /// Times are taken and forgotten; a disk has no other size or mode.
    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        match self.files.attributes(ino, (request.uid(), request.gid())) {
            None => reply.error(Errno::ENOENT),
            Some(now) if size.is_some_and(|size| size != now.size) => reply.error(Errno::EPERM),
            Some(_) if mode.is_some() || uid.is_some() || gid.is_some() => reply.error(Errno::EPERM),
            Some(now) => reply.attr(&REMEMBER, &now),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if self.files.get(ino).is_none() {
            reply.error(Errno::EISDIR);
        } else if self.files.read_only && flags.acc_mode() != OpenAccMode::O_RDONLY {
            reply.error(Errno::EROFS);
        } else {
            reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES);
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.range(ino, offset, u64::from(size)) {
            None => reply.error(Errno::EISDIR),
            Some(range) if range.is_empty() => reply.data(&[]),
            Some(range) => self.transfers.read(range, move |result| match result {
                Ok(bytes) => reply.data(&bytes),
                Err(error) => reply.error(number(error)),
            }),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let Some(range) = self.range(ino, offset, data.len() as u64) else { return reply.error(Errno::EISDIR) };
        let len = (range.end - range.start) as usize;
        if len == 0 && !data.is_empty() {
            // As on a block device.
            return reply.error(Errno::ENOSPC);
        }
        self.transfers.write(range.start, &data[..len], move |result| match result {
            Ok(()) => reply.written(len as u32),
            Err(error) => reply.error(number(error)),
        });
    }

    /// Closing makes nothing durable, as with any file.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.transfers.flush(answer(reply));
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        if ino != INodeNo::ROOT {
            return reply.error(Errno::ENOTDIR);
        }
        let dots = [".", ".."].map(|name| (INodeNo::ROOT, FileType::Directory, name));
        let files = self.files.list.iter().zip(FIRST..);
        let files = files.map(|(file, ino)| (INodeNo(ino), FileType::RegularFile, file.name.as_str()));
        let rest = dots.into_iter().chain(files).zip(1..).skip(usize::try_from(offset).unwrap_or(usize::MAX));
        for ((ino, kind, name), next) in rest {
            if reply.add(ino, next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let blocks = self.transfers.disk.facts().size / 4096;
        reply.statfs(blocks, 0, 0, self.files.list.len() as u64, 0, 4096, 255, 4096);
    }

    fn fallocate(&self, _: &Request, ino: INodeNo, _: FileHandle, at: u64, len: u64, mode: i32, reply: ReplyEmpty) {
        let may_unmap = mode & PUNCH_HOLE != 0;
        if mode & !(KEEP_SIZE | PUNCH_HOLE | ZERO_RANGE) != 0 || mode & (PUNCH_HOLE | ZERO_RANGE) == 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let Some(range) = self.range(ino, at, len) else { return reply.error(Errno::EISDIR) };
        self.transfers.change(DiskRequest::WriteZeroes { range, may_unmap, fua: false }, answer(reply));
    }

    fn lseek(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let Some(file) = self.files.get(ino) else { return reply.error(Errno::EISDIR) };
        let offset = u64::try_from(offset).ok().filter(|offset| *offset < file.size);
        let found = match (whence, offset) {
            (_, None) => Err(Errno::ENXIO),
            (SEEK_DATA, Some(offset)) => self.seek(file, offset, true),
            (SEEK_HOLE, Some(offset)) => self.seek(file, offset, false),
            _ => Err(Errno::EINVAL),
        };
        match found {
            Ok(at) => reply.offset(i64::try_from(at).unwrap_or(i64::MAX)),
            Err(error) => reply.error(error),
        }
    }

    // What tools ask for in passing. The answers are those of a file system without it; the kernel asks some only once.

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn create(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        reply.error(Errno::EPERM);
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EPERM);
    }
}
