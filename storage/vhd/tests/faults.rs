//! Failing files: every operation once, a full store, short writes, a failed flush. Nothing promised is lost, and the disk
//! works again when the cause is gone.

mod support;

use bulkhead_disk::test_support::{Fault, FaultyFile, Operation};
use bulkhead_disk::{ErrorKind, File, MemoryFile, Node, Request, Stack, read_bytes, run_now, write_bytes};
use bulkhead_vhd::{VhdImage, check};
use std::rc::Rc;
use support::{BLOCK, differencing, dynamic, new_file, open, stack};

const SIZE: u64 = 40 * BLOCK as u64;

fn flush(disk: &Stack) -> Result<(), ErrorKind> {
    run_now(disk.run(Request::Flush)).result.map_err(|error| error.kind())
}

/// Writes one sector into each of some blocks; returns which writes succeeded.
fn write_blocks(disk: &Stack, blocks: std::ops::Range<u64>) -> Vec<u64> {
    let write =
        |block: &u64| run_now(write_bytes(disk, block * u64::from(BLOCK) + 512, &[*block as u8 + 1; 512])).is_ok();
    blocks.filter(write).collect()
}

fn verify(disk: &Stack, written: &[u64]) {
    for block in written {
        let data = run_now(read_bytes(disk, block * u64::from(BLOCK), 1536)).unwrap();
        assert!(data[512..1024] == [*block as u8 + 1; 512], "block {block} lost its data");
        assert!(data[..512].iter().chain(&data[1024..]).all(|byte| *byte == 0), "block {block} shows foreign data");
    }
}

#[test]
fn each_operation_fails_once_and_nothing_is_lost() {
    let parent = Rc::new(new_file(&dynamic(SIZE)));
    for differencing_disk in [false, true] {
        let base = if differencing_disk {
            new_file(&differencing(SIZE, &open(parent.clone()), "p.vhd"))
        } else {
            new_file(&dynamic(SIZE))
        };
        let layers = |file: Rc<dyn File>| {
            let mut images = vec![open(file)];
            if differencing_disk {
                images.push(open(parent.clone()));
            }
            stack(images)
        };
        for operation in [Operation::Read, Operation::Write, Operation::Resize, Operation::Clear] {
            for after in 0..60 {
                let memory = Rc::new(base.clone());
                let file = Rc::new(FaultyFile::new(memory.clone()));
                let disk = layers(file.clone());
                let short = if after % 2 == 0 { 100 } else { 0 };
                file.inject(Fault { operation: Some(operation), after, count: 1, kind: ErrorKind::Io, short });
                let mut written = write_blocks(&disk, 0..12);
                let first_flush = flush(&disk);
                file.heal();
                written.extend(write_blocks(&disk, 12..20));
                // A failed metadata write is repeated by the next flush.
                flush(&disk).unwrap_or_else(|kind| panic!("{operation:?} {after}: {first_flush:?} then {kind:?}"));
                verify(&disk, &written);
                run_now(disk.close()).unwrap();
                drop(disk);
                let report = run_now(check(&*memory)).unwrap();
                assert!(report.is_clean(), "{operation:?} {after}: {report:?}");
                verify(&layers(memory), &written);
            }
        }
    }
}

#[test]
fn a_full_store_refuses_new_blocks_only_and_recovers() {
    let memory = Rc::new(new_file(&dynamic(SIZE)));
    let file = Rc::new(FaultyFile::new(memory.clone()));
    let disk = stack(vec![open(file.clone())]);
    file.set_space(5 * u64::from(BLOCK));
    let written = write_blocks(&disk, 0..20);
    assert!((3..6).contains(&written.len()), "{written:?}");
    let error = run_now(write_bytes(&disk, 30 * u64::from(BLOCK), &[1; 512])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    run_now(write_bytes(&disk, 512, &[1; 512])).expect("blocks that are there stay writable");
    flush(&disk).unwrap();
    file.heal();
    let more = write_blocks(&disk, 20..30);
    assert_eq!(more.len(), 10);
    verify(&disk, &written);
    verify(&disk, &more);
    run_now(disk.close()).unwrap();
    assert!(run_now(check(&*memory)).unwrap().is_clean());
}

#[test]
fn after_a_failed_flush_nothing_is_promised_until_the_disk_is_reopened() {
    let memory = Rc::new(new_file(&dynamic(SIZE)));
    let file = Rc::new(FaultyFile::new(memory.clone()));
    let disk = stack(vec![open(file.clone())]);
    let written = write_blocks(&disk, 0..3);
    flush(&disk).unwrap();
    file.inject(Fault { operation: Some(Operation::Flush), after: 0, count: 1, kind: ErrorKind::Io, short: 0 });
    write_blocks(&disk, 0..1);
    assert_eq!(flush(&disk), Err(ErrorKind::Io));
    assert_eq!(flush(&disk), Err(ErrorKind::Poisoned));
    assert_eq!(run_now(write_bytes(&disk, 0, &[1; 512])).unwrap_err().kind(), ErrorKind::Poisoned);
    verify(&disk, &written);
    drop(disk);
    verify(&stack(vec![open(memory)]), &written);
}

#[test]
fn opening_a_failing_file_is_an_error() {
    let memory: Rc<MemoryFile> = Rc::new(new_file(&dynamic(SIZE)));
    for after in 0..4 {
        let file = Rc::new(FaultyFile::new(memory.clone()));
        file.inject(Fault::once(after, ErrorKind::Io));
        match run_now(VhdImage::open(file)) {
            // The copy at the start is only a help.
            Ok(image) => drop(image),
            Err(error) => assert!(matches!(error.kind(), ErrorKind::Io | ErrorKind::Corrupt), "{error}"),
        }
    }
}
