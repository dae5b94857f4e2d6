//! A disk as files: `disk.raw`, the whole of it, and `partitionN.raw`, one per partition. Host tools (mtools, debugfs,
//! mke2fs, qemu-img …) work on them as on any file.
//!
//! | module | what |
//! |---|---|
//! | `files` | names, sizes and attributes |
//! | `transfer` | any byte range on a disk of sectors |
//! | `filesystem` | the FUSE requests |
//!
//! The kernel caches nothing of these files (`FOPEN_DIRECT_IO`): `disk.raw` and the partitions are the same bytes, and two
//! caches of them would differ. Whoever starts the process mounts and unmounts; this side only answers.

mod files;
mod filesystem;
mod transfer;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bulkhead_disk::Disk;
use fuser::{Config, Session, SessionACL};

pub use files::ExportedFile;

/// Answers the requests that come through `device` (a mounted `/dev/fuse`) until the file system is unmounted.
/// Blocks; what was written is on the disk, but not flushed.
///
/// # Errors
/// The device fails, or the kernel's protocol is too old.
pub fn serve(device: OwnedFd, disk: Arc<dyn Disk>, files: Vec<ExportedFile>) -> io::Result<()> {
    let filesystem = filesystem::DiskFiles::new(disk, files);
    Session::from_fd(filesystem, device, SessionACL::Owner, Config::default())?.run()
}
