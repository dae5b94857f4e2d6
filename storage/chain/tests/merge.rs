//! Merging: under writes, with power cuts behind every write, cancelled and continued.

mod support;

use bulkhead_chain::{Merge, MergeControl, merge, merge_layers};
use bulkhead_disk::test_support::{PowerCut, RecordingFile, SlowFile, XorShift};
use bulkhead_disk::{
    DiskError, ErrorKind, Executor, File, LocalFuture, MemoryFile, Node, RamDisk, Request, Result, Stack, TaskWake,
    read_bytes, run_now, write_bytes, yield_now,
};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use support::{NAMES, Quiet, SIZE, Store, open_file, paths_to, same, vhd_chain, vhdx_chain};

/// Seeds per scenario.
fn rounds() -> u64 {
    if std::env::var_os("BULKHEAD_LONG").is_some() { 50 } else { 2 }
}

/// Runs the merge while tasks write and read back.
fn merge_under_writes(disk: Rc<Stack>, model: &RamDisk, what: Merge, seed: u64) {
    let executor = Executor::new(Arc::new(TaskWake::default()));
    let merged = Rc::new(Cell::new(false));
    let (task_disk, task_merged) = (Rc::clone(&disk), Rc::clone(&merged));
    executor.spawn(async move {
        merge(&task_disk, what, &Quiet).await.unwrap();
        task_merged.set(true);
    });
    for task in 0..4u64 {
        let (disk, model, merged) = (Rc::clone(&disk), model.clone(), Rc::clone(&merged));
        executor.spawn(async move {
            let mut random = XorShift::new(seed * 7 + task);
            // Some rounds more after the switch. Each task has its own quarter of the disk.
            let mut after = 0;
            while after < 20 {
                after += u32::from(merged.get());
                let first = task * (SIZE / 2048) + random.below(SIZE / 2048 - 16);
                let data = vec![random.next_u64() as u8 | 1; 512 * (1 + random.below(16)) as usize];
                if random.one_in(6) {
                    let range = first * 512..first * 512 + data.len() as u64;
                    let clear = |range| Request::WriteZeroes { range, may_unmap: true, fua: false };
                    disk.run(clear(range.clone())).await.into_result().unwrap();
                    model.run(clear(range)).await.into_result().unwrap();
                } else {
                    write_bytes(&*disk, first * 512, &data).await.unwrap();
                    write_bytes(&model, first * 512, &data).await.unwrap();
                }
                let got = read_bytes(&*disk, first * 512, data.len()).await.unwrap();
                assert!(got == read_bytes(&model, first * 512, data.len()).await.unwrap());
                if random.one_in(10) {
                    disk.run(Request::Flush).await.into_result().unwrap();
                }
                yield_now().await;
            }
        });
    }
    while executor.live_tasks() > 0 {
        executor.run_ready();
    }
    assert!(merged.get());
}

fn slow_stack(store: &Store, names: &[&str], seed: u64) -> Rc<Stack> {
    let open = |(number, name): (usize, &&str)| {
        let slow: Rc<dyn File> = Rc::new(SlowFile::new(store.file(name), seed + number as u64));
        open_file(slow, number > 0).unwrap()
    };
    Rc::new(Stack::new(names.iter().enumerate().map(open).collect()))
}

#[test]
fn every_layer_merges_under_writes() {
    for seed in 0..rounds() {
        for index in 0..3 {
            let (store, model) = vhd_chain(seed);
            let disk = slow_stack(&store, &NAMES, seed);
            let slow: Rc<dyn File> = Rc::new(SlowFile::new(store.file(NAMES[index + 1]), seed));
            let above = (index > 1).then(|| store.layer(NAMES[index - 1], false));
            let what = Merge {
                index,
                parent: open_file(slow, false).unwrap(),
                child: None,
                above,
                paths: paths_to(NAMES[index + 1]),
            };
            merge_under_writes(Rc::clone(&disk), &model, what, seed);
            assert_eq!(disk.layers().len(), 3);
            assert!(same(&disk, &model));
            run_now(disk.close()).unwrap();
            // From the files, without the merged one, by their links.
            store.files.borrow_mut().remove(std::path::Path::new(NAMES[index]));
            let leaf = if index == 0 { NAMES[1] } else { NAMES[0] };
            let rules = bulkhead_chain::PathRules::default();
            let again =
                run_now(bulkhead_chain::open_chain(&store, leaf.as_ref(), true, &rules, Default::default())).unwrap();
            assert!(again.layers().len() == 3 && same(&again, &model));
        }
    }
}

#[test]
fn vhdx_layers_merge_under_writes() {
    for seed in 0..rounds() {
        for index in 0..2 {
            let (store, model, names) = vhdx_chain(seed);
            let disk = slow_stack(&store, &names, seed);
            let slow: Rc<dyn File> = Rc::new(SlowFile::new(store.file(names[index + 1]), seed));
            let child = (index > 0).then(|| store.layer(names[index], false));
            let what = Merge {
                index,
                parent: open_file(slow, false).unwrap(),
                child,
                above: None,
                paths: vec![format!(".\\{}", &names[index + 1][4..])],
            };
            merge_under_writes(Rc::clone(&disk), &model, what, seed);
            run_now(disk.close()).unwrap();
            store.files.borrow_mut().remove(std::path::Path::new(names[index]));
            let leaf = if index == 0 { names[1] } else { names[0] };
            let rules = bulkhead_chain::PathRules::default();
            let again =
                run_now(bulkhead_chain::open_chain(&store, leaf.as_ref(), true, &rules, Default::default())).unwrap();
            assert!(again.layers().len() == 2 && same(&again, &model));
        }
    }
}

/// Stops after the first step.
struct CancelAtOnce;

impl MergeControl for CancelAtOnce {
    fn progress(&self, _: u64, _: u64) -> LocalFuture<'_, Result<()>> {
        Box::pin(async { Err(DiskError::new(ErrorKind::Cancelled, "merge", "cancelled")) })
    }
}

#[test]
fn a_cancelled_merge_changes_nothing_and_can_be_done_again() {
    let (store, model) = vhd_chain(1);
    let disk = store.stack(&NAMES);
    for index in [0, 1, 2] {
        let parent = store.layer(NAMES[index + 1], false);
        let what = Merge { index, parent: Rc::clone(&parent), child: None, above: None, paths: Vec::new() };
        let error = run_now(merge(&disk, what, &CancelAtOnce)).unwrap_err();
        assert_eq!((error.kind(), disk.layers().len()), (ErrorKind::Cancelled, 4));
        run_now(parent.close()).unwrap();
        assert!(same(&disk, &model) && same(&store.stack(&NAMES), &model), "{index}");
    }
    let what = Merge { index: 3, parent: store.layer(NAMES[3], false), child: None, above: None, paths: Vec::new() };
    assert_eq!(run_now(merge(&disk, what, &Quiet)).unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn power_may_fail_at_every_write_of_a_merge() {
    for index in 0..3 {
        let (store, model) = vhd_chain(2);
        let (child, parent_name) = (store.layer(NAMES[index], true), NAMES[index + 1]);
        let recorder = Rc::new(RecordingFile::new((*store.file(parent_name)).clone()));
        let parent = open_file(recorder.clone(), false).unwrap();
        run_now(merge_layers(&*child, &parent, 0, &Quiet)).unwrap();
        run_now(parent.close()).unwrap();
        let stack_with = |parent: MemoryFile, names: &[&str]| {
            let layers = names.iter().map(|name| {
                if *name == parent_name {
                    open_file(Rc::new(parent.clone()), true).unwrap()
                } else {
                    store.layer(name, true)
                }
            });
            Stack::new(layers.collect())
        };
        let changes = recorder.changes();
        // Every cut near the ends and a sample between: each opens four disks and reads all of them.
        let cuts = (0..=changes).filter(|cut| *cut < 12 || cut + 12 > changes || cut % 13 == 0);
        for cut in cuts {
            for how in [PowerCut::LoseAll, PowerCut::KeepAll, PowerCut::Torn { seed: cut as u64 }] {
                let left = recorder.after_cut(cut, how);
                assert!(same(&stack_with(left, &NAMES), &model), "index {index} cut {cut} {how:?}");
            }
        }
        let whole = recorder.after_cut(changes, PowerCut::LoseAll);
        let without: Vec<&str> = NAMES.iter().copied().filter(|name| *name != NAMES[index]).collect();
        assert!(same(&stack_with(whole.clone(), &without), &model), "index {index}: all is in the parent");
        // An interrupted merge is done again over what is there.
        let again = Rc::new(recorder.after_cut(changes / 2, PowerCut::Torn { seed: 3 }));
        let parent = open_file(again.clone(), false).unwrap();
        run_now(merge_layers(&*child, &parent, 0, &Quiet)).unwrap();
        run_now(parent.close()).unwrap();
        assert!(same(&stack_with((*again).clone(), &without), &model), "index {index}: continued");
    }
}

#[test]
fn a_vhdx_child_accepts_its_parent_after_a_power_cut_in_the_merge() {
    let (store, model, names) = vhdx_chain(5);
    let child = store.layer(names[0], false);
    let recorder = Rc::new(RecordingFile::new((*store.file(names[1])).clone()));
    let parent = open_file(recorder.clone(), false).unwrap();
    run_now(merge_layers(&*child, &parent, 0, &Quiet)).unwrap();
    run_now(parent.close()).unwrap();
    run_now(child.close()).unwrap();
    let changes = recorder.changes();
    for cut in (0..=changes).filter(|cut| *cut < 20 || cut % 5 == 0 || cut + 5 > changes) {
        store
            .files
            .borrow_mut()
            .insert(names[1].into(), Rc::new(recorder.after_cut(cut, PowerCut::Torn { seed: cut as u64 })));
        let rules = bulkhead_chain::PathRules::default();
        let disk = run_now(bulkhead_chain::open_chain(&store, names[0].as_ref(), true, &rules, Default::default()));
        assert!(same(&disk.unwrap_or_else(|error| panic!("cut {cut}: {error}")), &model), "cut {cut}");
    }
}
