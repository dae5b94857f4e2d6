//! Byte-range locks that belong to an open file description (fcntl `F_OFD_*`), and who holds them.
//!
//! Unlike the older process locks they conflict between two opens in one process, survive the closing of other
//! descriptors of the file, and pass along with a descriptor that is sent to another process.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;

/// How a range is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// Any number of holders; needs a descriptor open for reading.
    Shared,
    /// One holder; needs a descriptor open for writing.
    Exclusive,
}

/// Bytes of a file to lock, whether it has them or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockRange {
    /// First byte.
    pub start: u64,
    /// Number of bytes; 0 means all from `start` on.
    pub len: u64,
}

impl LockRange {
    /// The whole file, however long it gets.
    pub const ALL: Self = Self { start: 0, len: 0 };
}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else holds a lock that conflicts; [`conflicting_lock`] and [`lock_holders`] tell more.
    #[error("bytes {start} to {} are locked by another open of the file", end(*.start, *.len))]
    Held {
        /// First byte asked for.
        start: u64,
        /// Bytes asked for, 0 for all.
        len: u64,
    },
    /// The file system or the kernel refuses.
    #[error("cannot lock bytes {start} to {}", end(*.start, *.len))]
    System {
        /// First byte asked for.
        start: u64,
        /// Bytes asked for, 0 for all.
        len: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn end(start: u64, len: u64) -> String {
    if len == 0 { "the end".into() } else { start.saturating_add(len - 1).to_string() }
}

/// A lock on a range of a file, released on drop. Holds the file by reference or by value (`OfdLock<File>`,
/// `OfdLock<BorrowedFd>`).
#[derive(Debug)]
pub struct OfdLock<F: AsFd> {
    file: F,
    range: LockRange,
}

impl<F: AsFd> OfdLock<F> {
    /// Takes the lock or says that it is held; does not wait. Locking again through the same open file changes the
    /// kind.
    ///
    /// # Errors
    /// [`LockError::Held`], or a refusal.
    pub fn try_new(file: F, kind: LockKind, range: LockRange) -> Result<Self, LockError> {
        let LockRange { start, len } = range;
        let result = flock(Some(kind), range).and_then(|mut lock| control(file.as_fd(), libc::F_OFD_SETLK, &mut lock));
        match result {
            Ok(()) => Ok(Self { file, range }),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
                Err(LockError::Held { start, len })
            }
            Err(source) => Err(LockError::System { start, len, source }),
        }
    }

    /// The locked range.
    pub fn range(&self) -> LockRange {
        self.range
    }

    /// The file that is locked.
    pub fn file(&self) -> &F {
        &self.file
    }
}

impl<F: AsFd> Drop for OfdLock<F> {
    fn drop(&mut self) {
        // Unlocking fails only for ranges that could not have been locked.
        let _ = flock(None, self.range).and_then(|mut lock| control(self.file.as_fd(), libc::F_OFD_SETLK, &mut lock));
    }
}

/// The first lock of others that stands in the way of taking `kind` on `range`, and the process that holds it if it
/// is an old process lock (open-file locks have no process: ask [`lock_holders`]). `None`: free.
///
/// # Errors
/// The file system does not lock.
pub fn conflicting_lock(
    file: impl AsFd,
    kind: LockKind,
    range: LockRange,
) -> io::Result<Option<(LockKind, LockRange, Option<u32>)>> {
    let mut lock = flock(Some(kind), range)?;
    control(file.as_fd(), libc::F_OFD_GETLK, &mut lock)?;
    let kind = match i32::from(lock.l_type) {
        libc::F_RDLCK => LockKind::Shared,
        libc::F_WRLCK => LockKind::Exclusive,
        _ => return Ok(None),
    };
    let number = |value: i64| u64::try_from(value).unwrap_or(0);
    let range = LockRange { start: number(lock.l_start), len: number(lock.l_len) };
    Ok(Some((kind, range, u32::try_from(lock.l_pid).ok().filter(|&pid| pid != 0))))
}

/// The processes that hold open-file locks on the file, as far as /proc lets us see them: for messages to people, not
/// for decisions.
///
/// # Errors
/// The file cannot be examined. What cannot be read in /proc is passed over.
pub fn lock_holders(file: impl AsFd) -> io::Result<Vec<u32>> {
    let inode = std::fs::File::from(file.as_fd().try_clone_to_owned()?).metadata()?.ino();
    let mut holders = Vec::new();
    for process in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fdinfo")) else { continue };
        let holds = |info: String| info.lines().any(|line| is_ofd_lock_on(line, inode));
        if descriptors.flatten().any(|fd| std::fs::read_to_string(fd.path()).is_ok_and(holds)) {
            holders.push(pid);
        }
    }
    holders.sort_unstable();
    Ok(holders)
}

/// A line of /proc/PID/fdinfo/FD such as `lock: 1: OFDLCK ADVISORY WRITE -1 08:01:1234 0 EOF`. The device there is
/// not the one of `stat` on some file systems (btrfs), so only the inode number is compared.
fn is_ofd_lock_on(line: &str, inode: u64) -> bool {
    let mut words = line.split_whitespace();
    words.next() == Some("lock:")
        && words.nth(1) == Some("OFDLCK")
        && words.nth(3).and_then(|id| id.rsplit(':').next()?.parse().ok()) == Some(inode)
}

/// The kernel's form of a request; `None` unlocks.
fn flock(kind: Option<LockKind>, range: LockRange) -> io::Result<libc::flock> {
    let number = |value: u64| i64::try_from(value).ok().ok_or(io::ErrorKind::InvalidInput);
    let kind = match kind {
        Some(LockKind::Shared) => libc::F_RDLCK,
        Some(LockKind::Exclusive) => libc::F_WRLCK,
        None => libc::F_UNLCK,
    };
    Ok(libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: number(range.start)?,
        l_len: number(range.len)?,
        l_pid: 0, // OFD requests must say 0
    })
}

fn control(file: BorrowedFd<'_>, command: libc::c_int, lock: &mut libc::flock) -> io::Result<()> {
    loop {
        // SAFETY: the descriptor is open; these commands read and write one `flock`, which is ours alone.
        if unsafe { libc::fcntl(file.as_raw_fd(), command, std::ptr::from_mut(lock)) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_open_file_locks_on_the_inode_count() {
        assert!(is_ofd_lock_on("lock:\t1: OFDLCK ADVISORY  WRITE -1 08:01:1234 0 EOF", 1234));
        assert!(!is_ofd_lock_on("lock:\t1: OFDLCK ADVISORY  WRITE -1 08:01:1234 0 EOF", 234));
        assert!(!is_ofd_lock_on("lock:\t1: POSIX  ADVISORY  WRITE 77 08:01:1234 0 EOF", 1234));
        assert!(!is_ofd_lock_on("pos:\t0", 0));
    }
}
