//! OFD locks within a process and between processes.
#![cfg(not(miri))]

use bulkhead_linux::{LockError, LockKind, LockRange, OfdLock, conflicting_lock, lock_holders};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

const HEAD: LockRange = LockRange { start: 0, len: 100 };
const TAIL: LockRange = LockRange { start: 100, len: 0 };
/// Names the file to the child process of this test.
const CHILD_FILE: &str = "BULKHEAD_TEST_LOCK_FILE";

fn open(path: &std::path::Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

#[test]
fn two_opens_of_one_process_exclude_each_other_by_range() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let (a, b) = (open(file.path()), open(file.path()));
    let head = OfdLock::try_new(&a, LockKind::Exclusive, HEAD).unwrap();
    let error = OfdLock::try_new(&b, LockKind::Shared, LockRange::ALL).unwrap_err();
    assert!(matches!(error, LockError::Held { start: 0, len: 0 }));
    assert_eq!(error.to_string(), "bytes 0 to the end are locked by another open of the file");
    let tail = OfdLock::try_new(&b, LockKind::Exclusive, TAIL).unwrap();
    assert_eq!(conflicting_lock(&b, LockKind::Shared, HEAD).unwrap(), Some((LockKind::Exclusive, HEAD, None)));
    assert_eq!(conflicting_lock(&b, LockKind::Shared, TAIL).unwrap(), None, "our own lock is no conflict");
    // Closing another descriptor of the file must not release anything.
    drop(open(file.path()));
    assert!(OfdLock::try_new(&b, LockKind::Shared, HEAD).is_err());
    drop(head);
    drop(OfdLock::try_new(&b, LockKind::Exclusive, HEAD).unwrap());
    drop(tail);
    assert_eq!(conflicting_lock(&a, LockKind::Exclusive, LockRange::ALL).unwrap(), None);
}

#[test]
fn shared_locks_share() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let (a, b) = (open(file.path()), open(file.path()));
    let _first = OfdLock::try_new(&a, LockKind::Shared, LockRange::ALL).unwrap();
    let _second = OfdLock::try_new(&b, LockKind::Shared, LockRange::ALL).unwrap();
    assert!(OfdLock::try_new(&b, LockKind::Exclusive, HEAD).is_err());
    let conflict = conflicting_lock(&b, LockKind::Exclusive, HEAD).unwrap().unwrap();
    assert_eq!((conflict.0, conflict.1), (LockKind::Shared, LockRange::ALL));
}

#[test]
fn impossible_ranges_are_errors() {
    let file = tempfile::tempfile().unwrap();
    let range = LockRange { start: u64::MAX, len: 1 };
    assert!(matches!(OfdLock::try_new(&file, LockKind::Shared, range), Err(LockError::System { .. })));
    let read_only = File::open("/proc/self/exe").unwrap();
    assert!(matches!(OfdLock::try_new(&read_only, LockKind::Exclusive, HEAD), Err(LockError::System { .. })));
}

#[test]
fn a_lock_of_another_process_holds_until_it_ends_and_names_it() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["child_process", "--exact", "--ignored", "--nocapture"])
        .env(CHILD_FILE, file.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().ends_with("locked")), "the child took the lock");

    let ours = open(file.path());
    assert!(matches!(OfdLock::try_new(&ours, LockKind::Shared, TAIL), Err(LockError::Held { .. })));
    let held = conflicting_lock(&ours, LockKind::Shared, LockRange::ALL).unwrap();
    assert_eq!(held, Some((LockKind::Exclusive, LockRange::ALL, None)));
    assert_eq!(lock_holders(&ours).unwrap(), [child.id()]);

    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    let lock = OfdLock::try_new(&ours, LockKind::Exclusive, LockRange::ALL).unwrap();
    assert_eq!(lock_holders(lock.file()).unwrap(), [std::process::id()]);
}

/// The other process: holds the lock until its input ends.
#[test]
#[ignore = "the second process of the test above, which starts it"]
fn child_process() {
    let Some(path) = std::env::var_os(CHILD_FILE) else { return };
    let _lock = OfdLock::try_new(open(path.as_ref()), LockKind::Exclusive, LockRange::ALL).unwrap();
    println!("locked");
    std::io::stdin().lines().for_each(drop);
}
