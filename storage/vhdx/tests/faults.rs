//! Storage that fails: every operation once, and a store that fills up. Clear errors, nothing lost, recovery.

mod support;

use bulkhead_disk::test_support::{Fault, FaultyFile, Operation};
use bulkhead_disk::{Buffer, ErrorKind, File, MemoryFile, Node, Request, Stack, read_bytes, run_now};
use bulkhead_vhdx::check::{CheckOptions, check};
use bulkhead_vhdx::{CreateOptions, Kind, Vhdx};
use std::rc::Rc;
use support::*;

/// Writes `block` of the disk; None = failed.
fn write(disk: &Stack, block: u64, value: u8) -> bool {
    let buffer = Buffer::copy_of(&[value; 4096]);
    run_now(disk.run(Request::Write { offset: block * MIB / 2, buffer, fua: false })).result.is_ok()
}

fn flush(disk: &Stack) -> bool {
    run_now(disk.run(Request::Flush)).result.is_ok()
}

fn is_clean(file: &Rc<MemoryFile>) {
    let options = CheckOptions { repair: true, drop_damaged_blocks: false, new_guid: guids(3) };
    let report = run_now(check(Rc::clone(file) as Rc<dyn File>, options)).unwrap();
    assert!(report.is_clean(), "{report:?}");
}

/// Fails the n-th operation, for every n: what a flush promised is there after a reopen.
fn every_operation_fails_once(create: &CreateOptions, kind: ErrorKind, short: usize) {
    for n in 0.. {
        let inner = Rc::new(new_image(create));
        let file = Rc::new(FaultyFile::new(inner.clone()));
        let shared: Rc<dyn File> = file.clone();
        let image = open(shared, 1).image;
        let disk = stack(&image);
        let before = file.operations();
        file.inject(Fault { operation: None, after: n, count: 1, kind, short });
        let mut promised: [u8; 12] = [0; 12];
        let mut pending = promised;
        for round in 1..=3u8 {
            for block in 0..12 {
                if write(&disk, block, round) {
                    pending[block as usize] = round;
                }
            }
            if flush(&disk) {
                promised = pending;
            }
        }
        let closed = run_now(disk.close()).is_ok();
        let operations = file.operations() - before;
        file.heal();
        is_clean(&inner);
        let disk = stack(&open_read_only(&inner));
        for (block, value) in promised.iter().enumerate() {
            let found = run_now(read_bytes(&disk, block as u64 * MIB / 2, 4096)).unwrap();
            assert!(found[0] >= *value, "operation {n}: block {block} holds {}, promised was {value}", found[0]);
        }
        if operations < n {
            assert!(closed && promised == [3; 12], "without a fault everything works");
            return;
        }
    }
}

#[test]
fn io_errors() {
    every_operation_fails_once(&create_options(8 * MIB, Kind::Dynamic, MIB), ErrorKind::Io, 0);
}

#[test]
fn short_writes() {
    every_operation_fails_once(&create_options(8 * MIB, Kind::Dynamic, MIB), ErrorKind::NoSpace, 512);
}

#[test]
fn io_errors_in_a_differencing_disk() {
    let parent = new_image(&create_options(8 * MIB, Kind::Dynamic, MIB));
    every_operation_fails_once(&child_options(&parent, "p.vhdx", MIB), ErrorKind::Io, 1024);
}

/// The store is full: the write fails with `NoSpace` and goes through when there is room again, without a reopen.
#[test]
fn a_full_store() {
    let inner = Rc::new(new_image(&create_options(32 * MIB, Kind::Dynamic, MIB)));
    let file = Rc::new(FaultyFile::new(inner.clone()));
    let shared: Rc<dyn File> = file.clone();
    let disk = stack(&open(shared, 1).image);
    assert!(write(&disk, 0, 1) && flush(&disk));
    file.set_space(file.len());
    let mut written = 1;
    while write(&disk, written, 2) {
        written += 1;
    }
    let error = run_now(disk.run(Request::Write { offset: written * MIB / 2, buffer: Buffer::zeroed(512), fua: true }));
    assert_eq!(error.result.unwrap_err().kind(), ErrorKind::NoSpace);
    assert!(flush(&disk), "what has a place can be flushed");
    file.set_space(u64::MAX);
    for block in written..30 {
        assert!(write(&disk, block, 3), "room again");
    }
    run_now(disk.close()).unwrap();
    is_clean(&inner);
    let disk = stack(&open_read_only(&inner));
    for block in 0..30 {
        let found = run_now(read_bytes(&disk, block * MIB / 2, 512)).unwrap()[0];
        assert_eq!(
            found,
            if block == 0 {
                1
            } else if block < written {
                2
            } else {
                3
            }
        );
    }
}

/// After a failed flush nothing is known about the file: writes are refused until it is opened again.
#[test]
fn a_failed_flush_poisons() {
    let inner = Rc::new(new_image(&create_options(8 * MIB, Kind::Dynamic, MIB)));
    let file = Rc::new(FaultyFile::new(inner.clone()));
    let shared: Rc<dyn File> = file.clone();
    let disk = stack(&open(shared, 1).image);
    assert!(write(&disk, 0, 1) && flush(&disk) && write(&disk, 1, 1));
    file.inject(Fault { operation: Some(Operation::Flush), after: 0, count: 1, kind: ErrorKind::Io, short: 0 });
    assert!(!flush(&disk));
    let refused = run_now(disk.run(Request::Write { offset: 0, buffer: Buffer::zeroed(512), fua: false }));
    assert_eq!(refused.result.unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(run_now(read_bytes(&disk, 0, 512)).unwrap(), [1; 512], "reading goes on");
    drop(disk);
    file.heal();
    let shared: Rc<dyn File> = file;
    let disk = stack(&run_now(Vhdx::open(shared, options(false, 2))).unwrap().image);
    assert!(write(&disk, 1, 2) && flush(&disk));
}
