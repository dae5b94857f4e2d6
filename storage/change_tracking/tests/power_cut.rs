//! Power cuts at every write of the tracking file, with writers, forks, merges and saves running at once: no write that may
//! have reached the disk is ever missed.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use bulkhead_change_tracking::{ChangeTracker, GRANULE, Stamp};
use bulkhead_disk::test_support::{PowerCut, RecordingFile, SlowFile, XorShift};
use bulkhead_disk::{
    Buffer, Completion, DiskFacts, Executor, File, LocalFuture, MemoryFile, Node, Request, Result, StatusExtent,
    TaskWake, run_now, write_bytes, yield_now,
};
use uuid::Uuid;

const SIZE: u64 = 6 << 30;
const STAMP: Stamp = Stamp { now: Uuid::from_u128(1), next: Uuid::from_u128(2) };

/// A disk that takes its time, and knows how much of the tracking file was there when a write reached it.
struct Witness {
    file: Rc<RecordingFile>,
    random: RefCell<XorShift>,
    hits: RefCell<Vec<(usize, Range<u64>)>>,
}

impl Node for Witness {
    fn facts(&self) -> DiskFacts {
        DiskFacts::plain(SIZE, "witness")
    }

    fn run(&self, request: Request) -> LocalFuture<'_, Completion> {
        Box::pin(async move {
            let turns = self.random.borrow_mut().below(6);
            for _ in 0..turns {
                yield_now().await;
            }
            self.hits.borrow_mut().push((self.file.changes(), request.range()));
            yield_now().await;
            Completion::ok(request.into_buffer())
        })
    }

    fn status(&self, _: Range<u64>) -> LocalFuture<'_, Result<Vec<StatusExtent>>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}

/// From which change of the file on (`at`) every write since change `base` must be in the union of all bitmaps.
struct Promise {
    at: usize,
    base: usize,
}

struct Run {
    file: Rc<RecordingFile>,
    witness: Rc<Witness>,
    promises: Rc<RefCell<Vec<Promise>>>,
}

fn drive(future: impl Future<Output = ()> + 'static, executor: &Executor) {
    executor.spawn(future);
    executor.run_ready();
}

/// Writers and an administrator on one tracker.
fn run(seed: u64) -> Run {
    let file = Rc::new(RecordingFile::new(MemoryFile::new("a.cbt")));
    let random = RefCell::new(XorShift::new(seed));
    let witness = Rc::new(Witness { file: file.clone(), random, hits: RefCell::default() });
    let slow: Rc<dyn File> = Rc::new(SlowFile::new(file.clone(), seed));
    let tracker = Rc::new(run_now(ChangeTracker::open(witness.clone(), slow, STAMP)).expect("it opens"));
    run_now(tracker.add("a")).expect("it is added");
    let promises = Rc::new(RefCell::new(vec![Promise { at: file.changes(), base: file.changes() }]));
    let executor = Executor::new(Arc::new(TaskWake::default()));
    let writers = Rc::new(Cell::new(3));
    for writer in 0..3 {
        let (tracker, left) = (tracker.clone(), writers.clone());
        executor.spawn(async move {
            let mut random = XorShift::new(seed * 10 + writer);
            for _ in 0..12 {
                let offset = random.below(SIZE / 512 - 256) * 512;
                write_bytes(&*tracker, offset, &vec![1; 512 * (1 + random.below(255) as usize)]).await.expect("writes");
            }
            left.set(left.get() - 1);
        });
    }
    let (recorded, made, admin) = (file.clone(), promises.clone(), tracker.clone());
    let administrator = async move {
        let mut random = XorShift::new(seed + 77);
        while writers.get() > 0 {
            admin.fork("a", "frozen").await.expect("forks");
            let forked = recorded.changes();
            admin.save().await.expect("saves");
            if random.one_in(2) {
                admin.merge("frozen", "a").await.expect("merges");
            } else {
                // The backup is done: what was before the fork is not needed any more.
                made.borrow_mut().push(Promise { at: recorded.changes(), base: forked });
                admin.remove("frozen").await.expect("removes");
            }
            admin.save().await.expect("saves");
        }
    };
    drive(administrator, &executor);
    assert_eq!(executor.live_tasks(), 0, "somebody is stuck");
    Run { file, witness, promises }
}

fn check(run: &Run, cut: usize, how: PowerCut) {
    let left: Rc<dyn File> = Rc::new(run.file.after_cut(cut, how));
    let Ok(tracker) = run_now(ChangeTracker::open(run.witness.clone(), left, STAMP)) else {
        panic!("cut {cut} {how:?}: the file does not open");
    };
    let promises = run.promises.borrow();
    let Some(promise) = promises.iter().rfind(|promise| promise.at <= cut) else { return };
    for (hit, range) in run.witness.hits.borrow().iter() {
        if (promise.base..=cut).contains(hit) {
            let is_in = |name: &str| -> bool {
                tracker.changes(name, range.clone()).is_ok_and(|runs| runs.iter().all(|(_, changed)| *changed))
            };
            let parts = range.clone().step_by(512).all(|at| {
                let sector = at..at + 512;
                let holds = |name: &str| tracker.changes(name, sector.clone()).is_ok_and(|runs| runs[0].1);
                holds("a") || holds("frozen")
            });
            assert!(is_in("a") || is_in("frozen") || parts, "cut {cut} {how:?}: {range:?}, hit at {hit}, is missed");
        }
    }
}

#[test]
fn no_write_is_ever_missed() {
    let seeds = if std::env::var_os("BULKHEAD_LONG").is_some() { 60 } else { 4 };
    let mut removed = 0;
    for seed in 1..=seeds {
        let run = run(seed);
        let first = run.promises.borrow()[0].at;
        removed += run.promises.borrow().len() - 1;
        assert_eq!(run.witness.hits.borrow().len(), 36);
        for cut in first..=run.file.changes() {
            for how in [PowerCut::LoseAll, PowerCut::KeepAll, PowerCut::OnlyOne(cut), PowerCut::AllButOne(cut)] {
                check(&run, cut, how);
            }
            for torn in 0..3 {
                check(&run, cut, PowerCut::Torn { seed: seed * 1000 + torn });
            }
        }
    }
    assert!(removed > seeds as usize, "only {removed} frozen bitmaps were removed: the forks were not tried");
}

#[test]
fn a_clean_close_is_exact_and_a_crash_counts_whole_regions() {
    let disk = Rc::new(bulkhead_disk::RamDisk::new(SIZE));
    let file = Rc::new(MemoryFile::new("a.cbt"));
    let changed = |tracker: &ChangeTracker| tracker.bitmaps().iter().map(|bitmap| bitmap.changed).collect::<Vec<_>>();
    let tracker = run_now(ChangeTracker::open(disk.clone(), file.clone(), STAMP)).expect("it opens");
    run_now(tracker.add("a")).expect("it is added");
    for at in [0, 3 << 30, (3 << 30) + GRANULE - 512] {
        run_now(write_bytes(&tracker, at, &[1; 1024])).expect("writes");
    }
    run_now(tracker.run(Request::Discard { range: 5 << 30..(5 << 30) + 4096 })).result.expect("discards");
    assert_eq!(changed(&tracker), [4 * GRANULE]);
    // Power goes without a close.
    let crashed = run_now(ChangeTracker::open(disk.clone(), Rc::new((*file).clone()), STAMP)).expect("it opens");
    assert_eq!(changed(&crashed), [3 * (256 << 20)]);
    run_now(tracker.close(STAMP.next)).expect("closes");
    let later = Stamp { now: STAMP.next, next: Uuid::from_u128(3) };
    let again = run_now(ChangeTracker::open(disk.clone(), Rc::new((*file).clone()), later)).expect("it opens");
    assert_eq!(changed(&again), [4 * GRANULE]);
    assert_eq!(again.changes("a", 0..1 << 20).expect("it is there"), [(0..GRANULE, true), (GRANULE..1 << 20, false)]);
    // Somebody else changed the disk.
    let foreign = Stamp { now: Uuid::from_u128(9), next: Uuid::from_u128(10) };
    let suspicious = run_now(ChangeTracker::open(disk, Rc::new((*file).clone()), foreign)).expect("it opens");
    assert_eq!(changed(&suspicious), [SIZE]);
    // The disk grew meanwhile: what is new counts as changed.
    let grown = Rc::new(bulkhead_disk::RamDisk::new(SIZE + (1 << 30)));
    let grown = run_now(ChangeTracker::open(grown, Rc::new((*file).clone()), later)).expect("it opens");
    assert_eq!(changed(&grown), [4 * GRANULE + (1 << 30)]);
}

#[test]
fn wrong_names_and_too_many_bitmaps_are_refused() {
    let disk = Rc::new(bulkhead_disk::RamDisk::new(SIZE));
    let tracker = run_now(ChangeTracker::open(disk, Rc::new(MemoryFile::new("a")), STAMP)).expect("it opens");
    for name in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        run_now(tracker.add(name)).expect("it is added");
    }
    for name in ["i", "a", "", &"x".repeat(65)] {
        assert!(run_now(tracker.add(name)).is_err(), "{name}");
    }
    let error = run_now(tracker.fork("a", "frozen")).expect_err("it is full");
    assert!(error.to_string().contains("there are 8 already"), "{error}");
    assert!(tracker.bitmaps().iter().any(|bitmap| bitmap.name == "a" && bitmap.tracking));
    assert!(run_now(tracker.remove("z")).is_err() && run_now(tracker.merge("a", "a")).is_err());
    let out = Request::Write { offset: SIZE, buffer: Buffer::zeroed(512), fua: false };
    assert!(run_now(tracker.run(out)).result.is_err());
    assert!(tracker.bitmaps().iter().all(|bitmap| bitmap.changed == 0));
}
