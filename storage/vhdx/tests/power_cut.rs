//! Power cuts at every write: whatever reaches the disk, the image opens, is consistent, and has everything that a flush
//! promised; no sector ever shows another sector's data.

mod support;

use bulkhead_disk::test_support::{PowerCut, RecordingFile, XorShift};
use bulkhead_disk::{File, Layer, MemoryFile, Node, Place, Request, read_bytes, run_now, write_bytes};
use bulkhead_vhdx::{CreateOptions, Kind, Vhdx, create};
use std::rc::Rc;
use support::crash::Crash;
use support::*;

/// Writes, zeroes, discards and flushes in a small disk.
fn session(crash: &mut Crash, seed: u64, steps: usize) {
    let mut random = XorShift::new(seed);
    let shared: Rc<dyn File> = crash.file.clone();
    let image = open(shared, seed).image;
    let disk = crash.disk_of(&image);
    let sectors = disk_sectors(&image);
    for _ in 0..steps {
        let start = random.below(sectors);
        let longest = if random.one_in(4) { 4096 } else { 16 };
        let length = (1 + random.below(longest)).min(sectors - start);
        match random.below(10) {
            0..5 => crash.write(&disk, start..start + length.min(64)),
            5..7 => crash.zero(&disk, start..start + length, random.one_in(2), random.one_in(2)),
            7 => crash.zero(&disk, start / 2048 * 2048..(start / 2048 + 1) * 2048, false, true),
            _ => crash.flush(&disk),
        }
    }
    run_now(disk.close()).unwrap();
    crash.acknowledged();
}

fn disk_sectors(image: &Vhdx) -> u64 {
    image.facts().size / 512
}

fn small(kind: Kind) -> CreateOptions {
    create_options(8 * MIB, kind, MIB)
}

#[test]
fn dynamic_disk_in_use() {
    for seed in 0..rounds(1) as u64 {
        let mut crash = Crash::new(new_image(&small(Kind::Dynamic)), Vec::new());
        session(&mut crash, 100 + seed, 60);
        session(&mut crash, 200 + seed, 30);
        crash.cut_everywhere(|left, cut, what| drop(crash.survive(left, cut, what)));
    }
}

#[test]
fn differencing_disk_in_use() {
    let mut base = Crash::new(new_image(&small(Kind::Dynamic)), Vec::new());
    session(&mut base, 1, 60);
    let parent = base.file.after_cut(base.file.changes(), PowerCut::KeepAll);
    let child = new_image(&child_options(&parent, "p.vhdx", MIB));
    let mut crash = Crash::new(child, vec![parent]);
    crash.stand_on(&base);
    session(&mut crash, 2, 60);
    crash.cut_everywhere(|left, cut, what| drop(crash.survive(left, cut, what)));
}

/// Power fails again while the log is being replayed: the second recovery has the same result.
#[test]
fn recovery_itself_is_cut() {
    let mut crash = Crash::new(new_image(&small(Kind::Dynamic)), Vec::new());
    session(&mut crash, 9, 25);
    let mut nested = 0;
    for cut in (0..=crash.file.changes()).step_by(3) {
        let left = crash.file.after_cut(cut, PowerCut::Torn { seed: cut as u64 });
        let recovery = Rc::new(RecordingFile::new(left));
        let shared: Rc<dyn File> = recovery.clone();
        if open(shared, 3).replayed_entries == 0 {
            continue;
        }
        for again in 0..=recovery.changes() {
            for way in [PowerCut::LoseAll, PowerCut::KeepAll, PowerCut::Torn { seed: again as u64 }] {
                let what = format!("cut at {cut}, recovery cut at {again}, {way:?}");
                crash.survive(recovery.after_cut(again, way), cut, &what);
                nested += 1;
            }
        }
    }
    assert!(nested > 50, "the log was dirty only {nested} times");
}

#[test]
fn creation() {
    for kind in [Kind::Dynamic, Kind::Fixed] {
        let file = RecordingFile::new(MemoryFile::new("new.vhdx"));
        run_now(create(&file, &small(kind))).unwrap();
        for cut in 0..=file.changes() {
            for seed in 0..20 {
                let left = file.after_cut(cut, PowerCut::Torn { seed });
                if let Ok(opened) = run_now(Vhdx::open(Rc::new(left), options(false, 4))) {
                    assert_eq!(opened.image.facts().size, 8 * MIB);
                }
            }
        }
        open(Rc::new(file.after_cut(file.changes(), PowerCut::LoseAll)), 5);
    }
}

/// Growing from 100 GiB to 300 GiB moves the BAT; data written before and during stays.
#[test]
fn growth_with_a_larger_bat() {
    let mut crash = Crash::new(new_image(&create_options(100 << 30, Kind::Dynamic, MIB)), Vec::new());
    let shared: Rc<dyn File> = crash.file.clone();
    let image = open(shared, 6).image;
    let disk = crash.disk_of(&image);
    for at in [0, 1 << 20, (100 << 21) - 8] {
        crash.write(&disk, at..at + 8);
    }
    run_now(image.resize(300 << 30)).unwrap();
    crash.acknowledged();
    crash.write(&disk, (299 << 21)..(299 << 21) + 8);
    crash.flush(&disk);
    run_now(disk.close()).unwrap();
    let mut sizes = Vec::new();
    crash.cut_everywhere(|left, cut, what| {
        let left = crash.survive(left, cut, what);
        let size = open_read_only(&left).facts().size;
        assert!(size == 100 << 30 || size == 300 << 30, "{what}: size {size}");
        sizes.push(size);
    });
    assert!(sizes.contains(&(100 << 30)) && sizes.contains(&(300 << 30)));
}

#[test]
fn shrink_of_a_free_tail() {
    let mut crash = Crash::new(new_image(&small(Kind::Dynamic)), Vec::new());
    let shared: Rc<dyn File> = crash.file.clone();
    let image = open(shared, 6).image;
    let disk = crash.disk_of(&image);
    crash.write(&disk, 0..8);
    crash.write(&disk, 14_000..14_008);
    crash.flush(&disk);
    assert!(run_now(image.resize(4 * MIB)).is_err(), "the tail holds data");
    crash.zero(&disk, 14_000..14_008, false, true);
    run_now(image.resize(4 * MIB)).unwrap();
    run_now(disk.close()).unwrap();
    crash.acknowledged();
    crash.cut_everywhere(|left, cut, what| drop(crash.survive(left, cut, what)));
}

#[test]
fn compaction() {
    let mut crash = Crash::new(new_image(&small(Kind::Dynamic)), Vec::new());
    let shared: Rc<dyn File> = crash.file.clone();
    let disk = crash.disk_of(&open(shared, 6).image);
    for block in [5, 3, 7, 1, 0, 6] {
        crash.write(&disk, block * 2048..block * 2048 + 16);
    }
    crash.zero(&disk, 5 * 2048..6 * 2048, false, true);
    // Zeros that were written as data: only a look at the content finds them.
    crash.zero(&disk, 3 * 2048..3 * 2048 + 16, false, false);
    run_now(disk.close()).unwrap();
    crash.acknowledged();
    let before = crash.file.len();
    let shared: Rc<dyn File> = crash.file.clone();
    let compacted = run_now(open(shared, 8).image.compact(true, &mut |_, _| true)).unwrap();
    assert_eq!((compacted.dropped_blocks, compacted.moved_blocks), (1, 2));
    assert_eq!(compacted.after, before - 2 * MIB);
    crash.acknowledged();
    crash.cut_everywhere(|left, cut, what| drop(crash.survive(left, cut, what)));
}

/// Copies what the child holds into the parent.
fn merge(child: &Vhdx, parent: &Vhdx) {
    let (from, to) = (stack(child), stack(parent));
    let size = child.facts().size;
    let mut at = 0;
    for extent in run_now(child.resolve(0..size)).unwrap() {
        match extent.place {
            Place::Absent => {}
            Place::Zero => {
                let request = Request::WriteZeroes { range: at..at + extent.len, may_unmap: true, fua: false };
                run_now(to.run(request)).result.unwrap();
            }
            Place::File(_) => {
                let data = run_now(read_bytes(&from, at, extent.len as usize)).unwrap();
                run_now(write_bytes(&to, at, &data)).unwrap();
            }
        }
        at += extent.len;
    }
    run_now(parent.flush()).unwrap();
}

/// A merge is cut anywhere in the parent: child over parent is as before, the child still knows its parent, and the merge
/// can be done again.
#[test]
fn merge_into_the_parent() {
    let mut base = Crash::new(new_image(&small(Kind::Dynamic)), Vec::new());
    session(&mut base, 31, 40);
    let parent = base.file.after_cut(base.file.changes(), PowerCut::KeepAll);
    let mut upper = Crash::new(new_image(&child_options(&parent, "p.vhdx", MIB)), vec![parent.clone()]);
    upper.stand_on(&base);
    session(&mut upper, 32, 40);
    let child_file = upper.file.after_cut(upper.file.changes(), PowerCut::KeepAll);

    let recorded = Rc::new(RecordingFile::new(parent));
    let shared: Rc<dyn File> = recorded.clone();
    let parent = open(shared, 33).image;
    let child_shared = Rc::new(child_file);
    let child = open(child_shared.clone(), 34).image;
    // The child accepts the id that the parent gets by its first change.
    let mut link = child.parent_link().unwrap();
    assert_eq!(link.id, parent.link_id());
    link.second_id = Some(parent.next_link_id());
    run_now(child.set_parent_link(link)).unwrap();
    let child_during = (*child_shared).clone();
    merge(&child, &parent);
    run_now(parent.close()).unwrap();

    let all = upper.file.changes();
    for cut in 0..=recorded.changes() {
        for way in [PowerCut::LoseAll, PowerCut::KeepAll, PowerCut::Torn { seed: cut as u64 }, PowerCut::AllButOne(cut)]
        {
            let what = format!("merge cut at {cut}, {way:?}");
            let left = Rc::new(recorded.after_cut(cut, way));
            let shared: Rc<dyn File> = left.clone();
            let parent = open(shared, 35).image;
            let child = open_read_only(&child_during);
            let link = child.parent_link().unwrap();
            assert!(
                [Some(link.id), link.second_id].contains(&Some(parent.link_id())),
                "{what}: the child lost its parent"
            );
            let layers: Vec<Rc<dyn Layer>> = vec![Rc::new(child.clone()), Rc::new(parent.clone())];
            upper.judge(&bulkhead_disk::Stack::new(layers), all, &what);
            merge(&child, &parent);
            upper.judge(&stack(&parent), all, &format!("{what}, merged again"));
        }
    }
}
