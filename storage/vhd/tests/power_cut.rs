//! Power cuts behind every write, with torn and reordered unflushed writes.

mod support;

use bulkhead_disk::test_support::{History, PowerCut, RecordingFile, XorShift};
use bulkhead_disk::{File, Layer, MemoryFile, Node, ParentLink, Request, Stack, run_now};
use bulkhead_vhd::{VhdImage, check, create, repair};
use std::rc::Rc;
use support::{BLOCK, differencing, dynamic, new_file, open, stack};
use uuid::Uuid;

const SIZE: u64 = 6 * BLOCK as u64;

/// The ways to lose power behind change `cut`.
fn cuts(cut: usize) -> Vec<PowerCut> {
    let mut cuts = vec![PowerCut::LoseAll, PowerCut::KeepAll];
    let rounds = if std::env::var_os("BULKHEAD_LONG").is_some() { 40 } else { 3 };
    for seed in 0..rounds {
        cuts.push(PowerCut::Torn { seed: seed * 1000 + cut as u64 });
        cuts.push(PowerCut::OnlyOne(seed as usize));
        cuts.push(PowerCut::AllButOne(seed as usize));
    }
    cuts
}

/// Calls `examine` with what every cut leaves.
fn every_cut(file: &RecordingFile, mut examine: impl FnMut(Rc<MemoryFile>, usize, PowerCut)) {
    for cut in 0..=file.changes() {
        for how in cuts(cut) {
            examine(Rc::new(file.after_cut(cut, how)), cut, how);
        }
    }
}

fn no_fatal_problem(file: &MemoryFile, what: &str) {
    let report = run_now(check(file)).unwrap();
    assert!(report.problems.iter().all(|problem| !problem.fatal), "{what}: {report:?}");
}

fn writes_and_flushes(files: impl Fn(Rc<dyn File>) -> Stack, base: MemoryFile, seed: u64, touched: u64) {
    let file = Rc::new(RecordingFile::new(base));
    let changes = || file.changes();
    let disk = files(file.clone());
    let mut history = History::default();
    let mut random = XorShift::new(seed);
    for _ in 0..60 {
        let first = random.below(touched) * 61 % (SIZE / 512 - 8);
        let issued = changes();
        match random.below(10) {
            0..6 => history.write(&disk, first, 1 + random.below(8), &changes),
            6 => {
                let range = first * 512..(first + 4) * 512;
                run_now(disk.run(Request::WriteZeroes { range, may_unmap: true, fua: false })).into_result().unwrap();
                history.note(first, 4, 0, issued, changes());
            }
            _ => {
                run_now(disk.run(Request::Flush)).into_result().unwrap();
                history.flushed(issued, changes());
            }
        }
    }
    run_now(disk.close()).unwrap();
    history.flushed(changes(), changes());
    every_cut(&file, |left, cut, how| {
        let what = format!("seed {seed} cut {cut} {how:?}");
        no_fatal_problem(&left, &what);
        let disk = files(left.clone());
        history.check(&disk, cut).unwrap_or_else(|error| panic!("{what}: {error}"));
        // It goes on working, and a repair finds nothing to lose.
        let mut later = History::default();
        later.write(&disk, 3, 2, &|| 0);
        run_now(disk.close()).unwrap();
        drop(disk);
        run_now(repair(left.clone())).unwrap();
        assert!(run_now(check(&*left)).unwrap().is_clean(), "{what}");
        later.check(&files(left), 1).unwrap_or_else(|error| panic!("{what}, later: {error}"));
    });
}

#[test]
fn dynamic_disks_keep_what_was_flushed() {
    for seed in 0..3 {
        writes_and_flushes(|file| stack(vec![open(file)]), new_file(&dynamic(SIZE)), seed, 500);
    }
}

#[test]
fn differencing_disks_keep_what_was_flushed_and_show_the_parent_otherwise() {
    // The parent is zeros: "old" is the parent's data.
    let parent = Rc::new(new_file(&dynamic(SIZE)));
    let child = new_file(&differencing(SIZE, &open(parent.clone()), "p.vhd"));
    for seed in 10..13 {
        writes_and_flushes(|file| stack(vec![open(file), open(parent.clone())]), child.clone(), seed, 500);
    }
}

#[test]
fn a_differencing_child_never_shows_zeros_where_the_parent_has_data() {
    let parent = Rc::new(new_file(&dynamic(SIZE)));
    let base = stack(vec![open(parent.clone())]);
    run_now(bulkhead_disk::write_bytes(&base, 0, &vec![0x77; SIZE as usize])).unwrap();
    run_now(base.close()).unwrap();
    let child = new_file(&differencing(SIZE, &open(parent.clone()), "p.vhd"));
    let file = Rc::new(RecordingFile::new(child));
    let disk = stack(vec![open(file.clone()), open(parent.clone())]);
    for sector in [5u64, 6, 100, 1030, 1031, 4000] {
        run_now(bulkhead_disk::write_bytes(&disk, sector * 512, &[0x99; 1024])).unwrap();
        if sector == 100 {
            run_now(disk.run(Request::Flush)).into_result().unwrap();
        }
    }
    run_now(disk.close()).unwrap();
    every_cut(&file, |left, cut, how| {
        let disk = stack(vec![open(left), open(parent.clone())]);
        let data = run_now(bulkhead_disk::read_bytes(&disk, 0, SIZE as usize)).unwrap();
        assert!(data.iter().all(|byte| matches!(byte, 0x77 | 0x99)), "cut {cut} {how:?}");
    });
}

#[test]
fn creating_leaves_nothing_or_a_whole_disk() {
    let parent = open(Rc::new(new_file(&dynamic(SIZE))));
    for options in [
        dynamic(SIZE),
        differencing(SIZE, &parent, "p.vhd"),
        support::options(SIZE, bulkhead_vhd::Kind::Fixed { reserve: true }),
    ] {
        let file = RecordingFile::new(MemoryFile::new("new.vhd"));
        run_now(create(&file, &options)).unwrap();
        let mut whole = 0;
        every_cut(&file, |left, cut, how| {
            if let Ok(image) = run_now(VhdImage::open(left)) {
                whole += 1;
                assert_eq!((image.footer().size(), image.link_id()), (SIZE, options.id), "cut {cut} {how:?}");
                assert!(run_now(image.resolve(0..SIZE)).is_ok());
            } else {
                assert!(cut < file.changes(), "finished but not there: {how:?}");
            }
        });
        assert!(whole > 0);
    }
}

fn data_of(file: Rc<dyn File>, len: u64) -> Vec<u8> {
    run_now(bulkhead_disk::read_bytes(&stack(vec![open(file)]), 0, len as usize)).unwrap()
}

/// A dynamic disk with data in every second block.
fn filled() -> (MemoryFile, Vec<u8>) {
    let file = Rc::new(new_file(&dynamic(SIZE)));
    let disk = stack(vec![open(file.clone())]);
    for block in [0u64, 2, 3, 5] {
        let data: Vec<u8> = (0..8192).map(|at| (at / 512 + block) as u8 + 1).collect();
        run_now(bulkhead_disk::write_bytes(&disk, block * u64::from(BLOCK) + 4096, &data)).unwrap();
    }
    run_now(disk.close()).unwrap();
    drop(disk);
    let data = data_of(file.clone(), SIZE);
    (Rc::try_unwrap(file).ok().unwrap(), data)
}

#[test]
fn resizing_leaves_the_old_or_the_new_size_and_all_data() {
    let (base, data) = filled();
    for size in [SIZE + 512, SIZE * 3, SIZE * 200, SIZE - 4096] {
        let file = Rc::new(RecordingFile::new(base.clone()));
        let image = open(file.clone());
        run_now(image.resize(size)).unwrap();
        every_cut(&file, |left, cut, how| {
            let image = open(left.clone());
            let now = image.footer().size();
            assert!(now == size || now == SIZE && cut < file.changes(), "{size}: cut {cut} {how:?}: {now}");
            let got = data_of(left, SIZE.min(now));
            assert!(got[..] == data[..got.len()], "{size}: cut {cut} {how:?}");
        });
        let image = open(file.clone());
        assert_eq!(image.footer().size(), size);
        run_now(image.close()).unwrap();
        assert!(run_now(check(&*file)).unwrap().is_clean());
    }
}

#[test]
fn compacting_never_changes_the_contents() {
    let (base, mut data) = filled();
    let file = Rc::new(base);
    let disk = stack(vec![open(file.clone())]);
    run_now(bulkhead_disk::write_bytes(&disk, 0, &vec![0; BLOCK as usize])).unwrap();
    run_now(bulkhead_disk::write_bytes(&disk, 2 * u64::from(BLOCK), &vec![0; BLOCK as usize])).unwrap();
    run_now(disk.close()).unwrap();
    drop(disk);
    for block in [0, 2] {
        data[block * BLOCK as usize..(block + 1) * BLOCK as usize].fill(0);
    }
    let file = Rc::new(RecordingFile::new((*file).clone()));
    let image = open(file.clone());
    let report = run_now(image.compact(true, &|_| false, &mut |_, _| true)).unwrap();
    assert_eq!((report.dropped_blocks, report.moved_blocks), (2, 2));
    assert!(report.bytes_after < 3 * u64::from(BLOCK), "{report:?}");
    every_cut(&file, |left, cut, how| {
        no_fatal_problem(&left, &format!("cut {cut} {how:?}"));
        assert!(data_of(left, SIZE) == data, "cut {cut} {how:?}");
    });
    assert!(run_now(check(&*file)).unwrap().is_clean());
}

#[test]
fn relinking_leaves_the_old_or_the_new_link() {
    let parent = open(Rc::new(new_file(&dynamic(SIZE))));
    let child = new_file(&differencing(SIZE, &parent, "old-parent.vhd"));
    let file = Rc::new(RecordingFile::new(child));
    let image = open(file.clone());
    let old = image.parent_link().unwrap();
    assert_eq!(old.paths, [".\\old-parent.vhd", "\\srv\\vm\\old-parent.vhd", "old-parent.vhd"]);
    let long = "x".repeat(700);
    let link = ParentLink {
        id: Uuid::from_u128(99),
        second_id: None,
        timestamp: Some(7),
        paths: vec![
            "../other/new-parent.vhd".into(),
            format!("/srv/{long}/new-parent.vhd"),
            "file:///srv/new-parent.vhd".into(),
        ],
    };
    run_now(image.set_parent_link(link)).unwrap();
    let new = image.parent_link().unwrap();
    assert_eq!((new.id, new.timestamp, new.paths.len()), (Uuid::from_u128(99), Some(7), 4));
    every_cut(&file, |left, cut, how| {
        let image = open(left.clone());
        let link = image.parent_link().unwrap();
        assert!(link == old || link == new, "cut {cut} {how:?}: {link:?}");
        // Whatever the header's state, the next change must not lose it.
        run_now(image.set_saved_state(true)).unwrap();
        run_now(image.set_saved_state(false)).unwrap();
        run_now(image.close()).unwrap();
        assert_eq!(open(left.clone()).parent_link().unwrap(), link, "cut {cut} {how:?}");
        assert!(run_now(check(&*left)).unwrap().problems.iter().all(|problem| !problem.fatal));
    });
    assert_eq!(open(file).parent_link().unwrap(), new);
}
