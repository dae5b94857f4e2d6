//! Power cuts across all files of a chain while a running disk is merged and written.

mod support;

use bulkhead_chain::{Merge, MergeControl, PathRules, merge, open_chain};
use bulkhead_disk::test_support::{History, PowerCut, RecordingFile, Timeline, XorShift};
use bulkhead_disk::{LocalFuture, Node, RamDisk, Request, Result, Stack, read_bytes, run_now, write_bytes};
use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use support::{SIZE, Store, open_file, paths_to, vhd_chain, vhdx_chain};

/// Sectors that the guest writes: every hundredth one and some behind it.
const PLACES: u64 = SIZE / 512 / 100;

/// The files of a chain, all recorded on one timeline.
struct Recorded {
    files: Vec<(PathBuf, Rc<RecordingFile>)>,
    timeline: Timeline,
}

impl Recorded {
    fn new(store: &Store, names: &[&str]) -> Self {
        let timeline = Timeline::default();
        let record =
            |name: &&str| (PathBuf::from(name), Rc::new(RecordingFile::on((*store.file(name)).clone(), &timeline)));
        Self { files: names.iter().map(record).collect(), timeline }
    }

    fn file(&self, name: &str) -> Rc<RecordingFile> {
        let found = self.files.iter().find(|(path, _)| path == Path::new(name));
        Rc::clone(&found.unwrap().1)
    }

    /// What is left of every file; each one loses what it had not flushed in its own way.
    fn after_cut(&self, time: usize, round: u64) -> Store {
        let store = Store::default();
        for (number, (path, file)) in self.files.iter().enumerate() {
            let how = match (round + number as u64) % 3 {
                0 => PowerCut::LoseAll,
                1 => PowerCut::KeepAll,
                _ => PowerCut::Torn { seed: round * 100 + number as u64 },
            };
            let left = file.after_cut(file.changes_before(time), how);
            store.files.borrow_mut().insert(path.clone(), Rc::new(left));
        }
        store
    }
}

/// A guest that writes and flushes, also while the merge runs, and remembers when the disk's file was exchanged.
struct Guest {
    disk: Rc<Stack>,
    history: RefCell<History>,
    timeline: Timeline,
    random: RefCell<XorShift>,
    /// The cut points from which on the parent is the disk.
    switched: Cell<Option<usize>>,
}

impl Guest {
    fn work(&self, count: u64) {
        let mut history = self.history.borrow_mut();
        let mut random = self.random.borrow_mut();
        let now = || self.timeline.now();
        for _ in 0..count {
            let first = random.below(PLACES) * 100;
            let issued = now();
            match random.below(8) {
                0 => {
                    run_now(self.disk.run(Request::Flush)).into_result().unwrap();
                    history.flushed(issued, now());
                }
                1 => {
                    let range = first * 512..(first + 4) * 512;
                    let clear = Request::WriteZeroes { range, may_unmap: true, fua: false };
                    run_now(self.disk.run(clear)).into_result().unwrap();
                    history.note(first, 4, 0, issued, now());
                }
                _ => history.write(&*self.disk, first, 1 + random.below(4), &now),
            }
        }
    }

    /// Every place once, durably: from here on each one holds what the history knows.
    fn begin(&self) -> usize {
        for place in 0..PLACES {
            self.history.borrow_mut().write(&*self.disk, place * 100, 4, &|| self.timeline.now());
        }
        let issued = self.timeline.now();
        run_now(self.disk.run(Request::Flush)).into_result().unwrap();
        self.history.borrow_mut().flushed(issued, self.timeline.now());
        self.timeline.now()
    }
}

impl MergeControl for Guest {
    fn progress(&self, _: u64, _: u64) -> LocalFuture<'_, Result<()>> {
        self.work(25);
        Box::pin(async { Ok(()) })
    }

    fn switch(&self) -> LocalFuture<'_, Result<()>> {
        self.switched.set(Some(self.timeline.now()));
        Box::pin(async { Ok(()) })
    }
}

/// The bytes that the guest never writes.
fn rest(disk: &dyn Node) -> Vec<u8> {
    let mut data = run_now(read_bytes(disk, 0, SIZE as usize)).unwrap();
    for place in 0..PLACES as usize {
        data[place * 51200..place * 51200 + 2048].fill(0);
    }
    data
}

/// Merges layer `index` of the running disk; then cuts power at every point, opens the disk by its links, and checks it.
fn merge_with_cuts(store: &Store, model: &RamDisk, names: &[&str], index: usize) {
    let recorded = Recorded::new(store, names);
    let open = |number: usize, read_only| open_file(recorded.file(names[number]), read_only).unwrap();
    let disk = Rc::new(Stack::new((0..names.len()).map(|number| open(number, number > 0)).collect()));
    let guest = Guest {
        disk: Rc::clone(&disk),
        history: RefCell::default(),
        timeline: recorded.timeline.clone(),
        random: RefCell::new(XorShift::new(index as u64 + 5)),
        switched: Cell::new(None),
    };
    let began = guest.begin();
    let what = Merge {
        index,
        parent: open(index + 1, false),
        child: (index > 0).then(|| open(index, false)),
        above: (index > 1).then(|| open(index - 1, false)),
        paths: paths_to(names[index + 1]),
    };
    run_now(merge(&disk, what, &guest)).unwrap();
    guest.work(25);
    assert_eq!(guest.switched.get().is_some(), index == 0);
    run_now(disk.close()).unwrap();
    let (end, untouched) = (recorded.timeline.now(), rest(model));
    let step = if std::env::var_os("BULKHEAD_LONG").is_some() { 1 } else { 3 };
    for time in (began..=end).filter(|time| (time + index).is_multiple_of(step) || time + 8 > end) {
        let left = recorded.after_cut(time, time as u64);
        let leaf = if guest.switched.get().is_some_and(|switched| time >= switched) { names[1] } else { names[0] };
        let what = format!("merge of {index}, cut {time} of {began}..{end}");
        let opened = run_now(open_chain(&left, leaf.as_ref(), true, &PathRules::default(), Default::default()));
        let opened = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
        guest.history.borrow().check(&opened, time).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(rest(&opened) == untouched, "{what}: what the guest never wrote has changed");
    }
}

#[test]
fn every_merge_of_a_vhd_chain_survives_a_power_cut_at_every_change_of_any_file() {
    for index in 0..3 {
        let (store, model) = vhd_chain(7);
        merge_with_cuts(&store, &model, &support::NAMES, index);
    }
}

#[test]
fn every_merge_of_a_vhdx_chain_survives_a_power_cut_at_every_change_of_any_file() {
    for index in 0..2 {
        let (store, model, names) = vhdx_chain(7);
        merge_with_cuts(&store, &model, &names, index);
    }
}

#[test]
fn a_switch_that_cannot_be_remembered_leaves_the_old_disk() {
    struct Forgetful;
    impl MergeControl for Forgetful {
        fn progress(&self, _: u64, _: u64) -> LocalFuture<'_, Result<()>> {
            Box::pin(async { Ok(()) })
        }

        fn switch(&self) -> LocalFuture<'_, Result<()>> {
            let reason = "the configuration cannot be written";
            Box::pin(async move {
                Err(bulkhead_disk::DiskError::new(bulkhead_disk::ErrorKind::Io, "remember the disk's new file", reason))
            })
        }
    }
    let (store, model) = vhd_chain(3);
    let disk = store.stack(&support::NAMES);
    let parent = store.layer(support::NAMES[1], false);
    let what = Merge { index: 0, parent, child: None, above: None, paths: Vec::new() };
    assert!(run_now(merge(&disk, what, &Forgetful)).is_err());
    assert_eq!(disk.layers().len(), 4);
    run_now(write_bytes(&disk, 4096, &[9; 512])).unwrap();
    run_now(write_bytes(&model, 4096, &[9; 512])).unwrap();
    assert!(support::same(&disk, &model));
}
