//! Random operations against a RAM disk: fixed, dynamic, differencing, with reopening; and with racing tasks.

mod support;

use bulkhead_disk::test_support::{SlowFile, XorShift};
use bulkhead_disk::{
    Buffer, Executor, File, Layer, MemoryFile, Node, RamDisk, Request, Stack, TaskWake, read_bytes, run_now,
    write_bytes,
};
use bulkhead_vhd::{Kind, check};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use support::{BLOCK, differencing, dynamic, new_file, open, options, stack};

const SECTORS: u64 = 20 * (BLOCK as u64 / 512) + 77;
const SIZE: u64 = SECTORS * 512;

fn operations() -> u64 {
    let factor = if std::env::var_os("BULKHEAD_LONG").is_some() { 20 } else { 1 };
    22_000 * factor
}

fn same(disk: &Stack, model: &RamDisk, offset: u64, len: usize, what: &str) {
    let got = run_now(read_bytes(disk, offset, len)).unwrap();
    let want = run_now(read_bytes(model, offset, len)).unwrap();
    if let Some(at) = (0..len).find(|at| got[*at] != want[*at]) {
        panic!("{what}: byte {} is {}, not {}", offset + at as u64, got[at], want[at]);
    }
}

/// A discard leaves old data or zeros; the model takes over which.
fn discard(disk: &Stack, model: &RamDisk, offset: u64, len: usize) {
    run_now(disk.run(Request::Discard { range: offset..offset + len as u64 })).into_result().unwrap();
    let got = run_now(read_bytes(disk, offset, len)).unwrap();
    let want = run_now(read_bytes(model, offset, len)).unwrap();
    for (got, want) in got.chunks(512).zip(want.chunks(512)) {
        assert!(got == want || got.iter().all(|byte| *byte == 0), "a discard shows foreign data");
    }
    run_now(write_bytes(model, offset, &got)).unwrap();
}

/// Runs random operations; `reopen` closes the disk and opens it again.
fn random_operations(mut disk: Stack, model: &RamDisk, seed: u64, reopen: &dyn Fn() -> Stack) -> Stack {
    let mut random = XorShift::new(seed);
    for round in 0..operations() {
        let first = random.below(SECTORS);
        let longest = if random.one_in(50) { 3000 } else { 40 };
        let count = 1 + random.below((SECTORS - first).min(longest));
        let (offset, len) = (first * 512, (count * 512) as usize);
        match random.below(100) {
            0..45 => {
                let data: Vec<u8> = (0..len).map(|at| (at as u64 / 512 + round) as u8 | 1).collect();
                let fua = random.one_in(200);
                let write = Request::Write { offset, buffer: Buffer::copy_of(&data), fua };
                run_now(disk.run(write)).into_result().unwrap();
                run_now(write_bytes(model, offset, &data)).unwrap();
            }
            45..90 => same(&disk, model, offset, len, &format!("seed {seed} round {round}")),
            90..94 => {
                let may_unmap = random.one_in(2);
                let clear = |range| Request::WriteZeroes { range, may_unmap, fua: false };
                run_now(disk.run(clear(offset..offset + len as u64))).into_result().unwrap();
                run_now(model.run(clear(offset..offset + len as u64))).into_result().unwrap();
            }
            94..97 => discard(&disk, model, offset, len),
            97 | 98 => run_now(disk.run(Request::Flush)).into_result().unwrap().is_empty().then_some(()).unwrap(),
            _ if random.one_in(20) => {
                run_now(disk.close()).unwrap();
                drop(disk);
                disk = reopen();
            }
            _ => {}
        }
    }
    run_now(disk.close()).unwrap();
    drop(disk);
    let disk = reopen();
    for block in 0..SIZE.div_ceil(1 << 20) {
        let len = (SIZE - (block << 20)).min(1 << 20) as usize;
        same(&disk, model, block << 20, len, "at the end");
    }
    disk
}

fn check_clean(file: &MemoryFile) {
    let report = run_now(check(file)).unwrap();
    assert!(report.is_clean(), "{report:?}");
}

#[test]
fn fixed_and_dynamic_disks_behave_as_the_model() {
    for (seed, options) in [(1, options(SIZE, Kind::Fixed { reserve: true })), (2, dynamic(SIZE))] {
        let file = Rc::new(new_file(&options));
        let reopen = || stack(vec![open(file.clone())]);
        random_operations(reopen(), &RamDisk::new(SIZE), seed, &reopen);
        check_clean(&file);
    }
}

#[test]
fn a_chain_of_three_behaves_as_the_model() {
    let model = RamDisk::new(SIZE);
    let base = Rc::new(new_file(&dynamic(SIZE)));
    let middle = Rc::new(new_file(&differencing(SIZE, &open(base.clone()), "base.vhd")));
    let top = Rc::new(new_file(&differencing(SIZE, &open(middle.clone()), "middle.avhd")));
    let mut files: Vec<Rc<MemoryFile>> = Vec::new();
    for (seed, file) in [(3, base), (4, middle), (5, top)] {
        files.insert(0, file.clone());
        let reopen = || stack(files.iter().map(|file| open(file.clone())).collect());
        random_operations(reopen(), &model, seed, &reopen);
        check_clean(&file);
        // Becomes a parent: nothing may write to it any more.
        file.set_read_only(true);
    }
}

#[test]
fn racing_tasks_never_lose_or_mix_sectors() {
    for seed in 0..30 {
        let base = Rc::new(new_file(&dynamic(SIZE)));
        let child = Rc::new(new_file(&differencing(SIZE, &open(base.clone()), "base.vhd")));
        for files in [vec![base.clone()], vec![child.clone(), base.clone()]] {
            let layers = files.iter().map(|file| {
                let slow: Rc<dyn File> = Rc::new(SlowFile::new(file.clone(), seed));
                // Opening runs alone, so it may wait in place.
                Rc::new(run_now(bulkhead_vhd::VhdImage::open(slow)).unwrap()) as Rc<dyn Layer>
            });
            race(Rc::new(Stack::new(layers.collect())), seed);
            files.iter().for_each(|file| check_clean(file));
        }
    }
}

/// Many tasks write interleaved sectors of the same blocks, some flush; each reads back its own.
fn race(disk: Rc<Stack>, seed: u64) {
    const TASKS: u64 = 12;
    let executor = Executor::new(Arc::new(TaskWake::default()));
    let finished = Rc::new(Cell::new(0));
    for task in 0..TASKS {
        let (disk, finished) = (Rc::clone(&disk), Rc::clone(&finished));
        executor.spawn(async move {
            let mut random = XorShift::new(seed * 100 + task);
            let mut mine = std::collections::BTreeMap::new();
            for round in 0..25u8 {
                let sector = random.below(1700) * TASKS + task;
                write_bytes(&*disk, sector * 512, &[task as u8 * 16 + round % 16; 512])
                    .await
                    .expect("the write succeeds");
                mine.insert(sector, task as u8 * 16 + round % 16);
                if random.one_in(8) {
                    disk.run(Request::Flush).await.into_result().unwrap();
                }
                let (sector, value) = mine.iter().nth(random.below(mine.len() as u64) as usize).unwrap();
                assert_eq!(read_bytes(&*disk, sector * 512, 512).await.unwrap(), [*value; 512]);
            }
            for (sector, value) in mine {
                assert_eq!(read_bytes(&*disk, sector * 512, 512).await.unwrap(), [value; 512], "sector {sector}");
            }
            finished.set(finished.get() + 1);
        });
    }
    while executor.live_tasks() > 0 {
        executor.run_ready();
    }
    assert_eq!(finished.get(), TASKS);
    run_now(disk.close()).unwrap();
}
