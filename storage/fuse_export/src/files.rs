//! The files: their names, places on the disk, and attributes.

use std::time::{Duration, SystemTime};

use fuser::{FileAttr, FileType, INodeNo};

/// One file: a range of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportedFile {
    /// Its name, such as `partition1.raw`.
    pub name: String,
    /// First byte on the disk; a multiple of the logical sector.
    pub start: u64,
    /// Bytes; a multiple of the logical sector.
    pub size: u64,
}

/// Nothing ever changes, so the kernel may remember it.
pub const REMEMBER: Duration = Duration::from_secs(3600);
/// The files are numbered from here on, in their order.
pub const FIRST: u64 = 2;

/// The folder and its files.
pub struct Files {
    pub list: Vec<ExportedFile>,
    pub read_only: bool,
    /// When it was mounted.
    pub made: SystemTime,
}

impl Files {
    /// The file of an inode number.
    pub fn get(&self, ino: INodeNo) -> Option<&ExportedFile> {
        let index = u64::from(ino).checked_sub(FIRST)?;
        self.list.get(usize::try_from(index).ok()?)
    }

    /// Attributes of the folder or a file, for the user who mounted it: the kernel lets nobody else in.
    pub fn attributes(&self, ino: INodeNo, (uid, gid): (u32, u32)) -> Option<FileAttr> {
        let write = if self.read_only { 0 } else { 0o200 };
        let (kind, perm, nlink, size) = match self.get(ino) {
            Some(file) => (FileType::RegularFile, 0o400 | write, 1, file.size),
            None if ino == INodeNo::ROOT => (FileType::Directory, 0o500, 2, 0),
            None => return None,
        };
        Some(FileAttr {
            ino,
            size,
            // One less than full: cp, tar and rsync look for holes only in files that seem to have some.
            blocks: (size / 512).saturating_sub(1),
            atime: self.made,
            mtime: self.made,
            ctime: self.made,
            crtime: self.made,
            kind,
            perm,
            nlink,
            uid,
            gid,
            rdev: 0,
            blksize: 1 << 17,
            flags: 0,
        })
    }
}
