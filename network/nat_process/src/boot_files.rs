//! The folder that guests boot from. Guests name files in it; nothing outside of it can be named.

use bulkhead_nat::BootFile;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// The folder.
pub struct BootFolder(OwnedFd);

impl BootFolder {
    /// The open folder.
    pub fn new(folder: OwnedFd) -> BootFolder {
        BootFolder(folder)
    }

    /// Opens a file by the name that a guest gives.
    ///
    /// # Errors
    /// There is none; it is no ordinary file; the name leads outside.
    pub fn open(&self, name: &str) -> io::Result<OpenFile> {
        let name = name.replace('\\', "/");
        let name = name.trim_start_matches('/');
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let file = File::from(rustix::fs::openat2(&self.0, name, flags, Mode::empty(), resolve)?);
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(OpenFile { file, len: metadata.len() })
    }
}

impl AsFd for BootFolder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// An open file.
pub struct OpenFile {
    file: File,
    len: u64,
}

impl BootFile for OpenFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
}
