//! The lock of an open disk file, in the byte scheme that qemu uses, so that both refuse each other.
//!
//! Byte `100 + p` is held (shared) by whoever uses permission `p`, byte `200 + p` by whoever does not share `p`. An opener
//! first takes its bytes and then looks for others in its way, so two racing openers may both be refused, never both succeed.

use crate::holder::{self, Holder};
use bulkhead_disk::{DiskError, ErrorKind, Result};
use bulkhead_linux::{LockError, LockKind, LockRange, OfdLock, conflicting_lock, lock_holders};
use std::os::fd::BorrowedFd;
use std::path::Path;

const USED: u64 = 100;
const UNSHARED: u64 = 200;
const READ: u64 = 0;
const WRITE: u64 = 1;
const RESIZE: u64 = 3;

/// (permissions used, permissions not shared).
const WRITER: (&[u64], &[u64]) = (&[READ, WRITE, RESIZE], &[WRITE, RESIZE]);
const READER: (&[u64], &[u64]) = (&[READ], &[WRITE, RESIZE]);

/// Locks for one writer, or for readers only, and leaves the holder's record. The lock belongs to the open file: it ends when
/// the last copy of its descriptor is closed, in whichever process.
pub(crate) fn acquire(fd: BorrowedFd<'_>, path: &Path, read_only: bool, holder: &Holder) -> Result<()> {
    let (used, unshared) = if read_only { READER } else { WRITER };
    let system = |error: std::io::Error| DiskError::from_io("lock the disk file", error).with_path(path);
    let mut locks = Vec::new();
    for start in used.iter().map(|p| USED + p).chain(unshared.iter().map(|p| UNSHARED + p)) {
        match OfdLock::try_new(fd, LockKind::Shared, LockRange { start, len: 1 }) {
            Ok(lock) => locks.push(lock),
            Err(LockError::Held { .. }) => return Err(refusal(fd, path, read_only)),
            Err(LockError::System { source, .. }) => return Err(system(source)),
        }
    }
    for start in used.iter().map(|p| UNSHARED + p).chain(unshared.iter().map(|p| USED + p)) {
        let range = LockRange { start, len: 1 };
        if conflicting_lock(fd, LockKind::Exclusive, range).map_err(system)?.is_some() {
            return Err(refusal(fd, path, read_only));
        }
    }
    holder::write(fd, path, !read_only, holder);
    // Dropping them would unlock: from here on they live with the open file.
    locks.into_iter().for_each(std::mem::forget);
    Ok(())
}

/// Unlocks at once. Closing the descriptor would do it too, but io_uring may hold the file a moment longer than its last
/// completion, and whoever opens it next must not be refused for that.
pub(crate) fn release(fd: BorrowedFd<'_>) {
    let range = LockRange { start: USED, len: UNSHARED + RESIZE + 1 - USED };
    drop(OfdLock::try_new(fd, LockKind::Shared, range));
}

fn refusal(fd: BorrowedFd<'_>, path: &Path, read_only: bool) -> DiskError {
    let holders = holder::read(fd, path);
    let who = if holders.is_empty() {
        // No record: a foreign program, or one without the right to leave a record.
        let pids = lock_holders(fd).unwrap_or_default();
        let pids: Vec<String> = pids
            .iter()
            .filter(|pid| **pid != std::process::id())
            .map(|pid| format!("process {pid}{}", command_of(*pid)))
            .collect();
        if pids.is_empty() { "another open of the file".into() } else { pids.join(", ") }
    } else {
        holders.iter().map(Holder::to_string).collect::<Vec<_>>().join(", ")
    };
    let action = if read_only { "open the disk for reading" } else { "open the disk for writing" };
    DiskError::new(ErrorKind::Locked, action, format!("it is in use by {who}"))
        .with_path(path)
        .advise("stop that user first, or open a copy")
}

fn command_of(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).map(|name| format!(" ({})", name.trim())).unwrap_or_default()
}
