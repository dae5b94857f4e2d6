//! Opening chains: whole, missing, moved, changed, cyclic, too deep; and what the doctor says about them.

mod support;

use bulkhead_chain::{ChainBuilder, Finding, MAX_DEPTH, PathRules, Strictness, diagnose, open_chain, reconnect};
use bulkhead_disk::{DiskError, ErrorKind, File, Layer, MemoryFile, RamDisk, Stack, run_now};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use support::{Store, paths_to, same, scribble};
use uuid::Uuid;

fn open(store: &Store, leaf: &str) -> Result<Stack, DiskError> {
    run_now(open_chain(store, Path::new(leaf), false, &PathRules::default(), Strictness::default()))
}

fn fails(store: &Store, leaf: &str) -> (ErrorKind, String) {
    let error = open(store, leaf).err().expect("the chain is refused");
    (error.kind(), error.to_string())
}

fn name(number: usize) -> String {
    if number == 0 { "/vm/base.vhd".into() } else { format!("/vm/snap-{number}.avhd") }
}

fn chain(depth: usize) -> (Store, RamDisk) {
    let (store, model) = (Store::default(), RamDisk::new(support::SIZE));
    for number in 0..depth {
        if number == 0 {
            store.base(&name(0), 100);
        } else {
            store.child(&name(number), 100 + number as u128, &name(number - 1));
        }
        let names: Vec<String> = (0..=number).rev().map(name).collect();
        let disk = store.stack(&names.iter().map(String::as_str).collect::<Vec<_>>());
        scribble(&disk, &model, number as u64, 15);
        run_now(disk.close()).unwrap();
    }
    (store, model)
}

#[test]
fn fifty_disks_read_as_one() {
    let (store, model) = chain(50);
    let disk = open(&store, &name(49)).unwrap();
    assert_eq!(disk.layers().len(), 50);
    assert!(same(&disk, &model) && same(&disk, &model), "the second time from the cache");
    scribble(&disk, &model, 99, 200);
    assert!(same(&disk, &model));
    let report = run_now(diagnose(&store, Path::new(&name(49)), &PathRules::default())).unwrap();
    assert!(report.is_whole() && report.deep && report.depth == 50);
}

#[test]
fn a_missing_parent_is_named_with_every_place_that_was_tried() {
    let (store, _) = chain(3);
    store.files.borrow_mut().remove(Path::new(&name(1)));
    let (kind, text) = fails(&store, &name(2));
    assert_eq!(kind, ErrorKind::ParentMissing);
    for part in ["(/vm/snap-2.avhd)", &Uuid::from_u128(101).to_string(), "tried /vm/snap-1.avhd"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_moved_parent_is_found_in_the_search_folders_and_by_the_doctor() {
    let (store, model) = chain(3);
    let middle = store.files.borrow_mut().remove(Path::new(&name(1))).unwrap();
    store.files.borrow_mut().insert("/pool/renamed.avhd".into(), middle);
    let rules = PathRules { search: vec!["/pool".into()], ..PathRules::default() };
    let report = run_now(diagnose(&store, Path::new(&name(2)), &rules)).unwrap();
    let link = &report.links[0];
    assert_eq!((link.finding, &link.remedies[..]), (Finding::Missing, &[PathBuf::from("/pool/renamed.avhd")][..]));
    let child = store.layer(&name(2), false);
    let parent = store.layer("/pool/renamed.avhd", true);
    run_now(reconnect(&*child, &*parent, &["../pool/renamed.avhd".into()], false)).unwrap();
    run_now(child.close()).unwrap();
    // The moved disk finds its own parent by the absolute path.
    assert!(same(&open(&store, &name(2)).unwrap(), &model));
}

#[test]
fn a_changed_parent_is_refused() {
    let (store, model) = chain(2);
    // Another disk under the same name.
    let good = store.file(&name(0));
    store.base(&name(0), 555);
    let (kind, text) = fails(&store, &name(1));
    assert!(kind == ErrorKind::ParentChanged && text.contains("/vm/base.vhd"), "{text}");
    let report = run_now(diagnose(&store, Path::new(&name(1)), &PathRules::default())).unwrap();
    assert_eq!(report.links[0].finding, Finding::Changed);
    let (child, wrong) = (store.layer(&name(1), false), store.layer(&name(0), true));
    let refused = run_now(reconnect(&*child, &*wrong, &paths_to(&name(0)), false)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ParentChanged);
    // The right one with another timestamp.
    let mut footer = [0; 512];
    good.peek(good.len() - 512, &mut footer);
    footer[27] ^= 1;
    footer[64..68].fill(0);
    let sum = !footer.iter().fold(0u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
    footer[64..68].copy_from_slice(&sum.to_be_bytes());
    good.poke(good.len() - 512, &footer);
    store.files.borrow_mut().insert(name(0).into(), good);
    let (kind, text) = fails(&store, &name(1));
    assert!(kind == ErrorKind::ParentChanged && text.contains("timestamp"), "{text}");
    let report = run_now(diagnose(&store, Path::new(&name(1)), &PathRules::default())).unwrap();
    assert_eq!(report.links[0].finding, Finding::Restamped);
    let lenient = Strictness { ignore_timestamp: true };
    let disk = run_now(open_chain(&store, Path::new(&name(1)), true, &PathRules::default(), lenient)).unwrap();
    assert!(same(&disk, &model));
    run_now(reconnect(&*child, &*store.layer(&name(0), true), &paths_to(&name(0)), false)).unwrap();
    run_now(child.close()).unwrap();
    assert!(same(&open(&store, &name(1)).unwrap(), &model));
}

#[test]
fn cycles_and_bottomless_chains_end() {
    let store = Store::default();
    store.base("/vm/a.vhd", 1);
    store.child("/vm/b.avhd", 2, "/vm/a.vhd");
    store.child("/vm/a.vhd", 1, "/vm/b.avhd");
    let (kind, text) = fails(&store, "/vm/a.vhd");
    assert!(kind == ErrorKind::Corrupt && text.contains("its own ancestor"), "{text}");
    let report = run_now(diagnose(&store, Path::new("/vm/a.vhd"), &PathRules::default())).unwrap();
    assert_eq!(report.links.last().unwrap().finding, Finding::Cycle);
    let store = Store::default();
    store.base(&name(0), 100);
    for number in 1..=MAX_DEPTH {
        store.child(&name(number), 100 + number as u128, &name(number - 1));
    }
    let (kind, text) = fails(&store, &name(MAX_DEPTH));
    assert!(kind == ErrorKind::Corrupt && text.contains("more than 64"), "{text}");
    assert!(open(&store, &name(MAX_DEPTH - 1)).is_ok());
}

#[test]
fn formats_and_sizes_must_fit() {
    let store = Store::default();
    store.base("/vm/a.vhd", 1);
    store.child("/vm/b.avhd", 2, "/vm/a.vhd");
    run_now(async {
        let parent = bulkhead_vhd::VhdImage::open(store.file("/vm/a.vhd")).await.unwrap();
        parent.resize(support::SIZE * 2).await.unwrap();
        parent.close().await.unwrap();
    });
    let (kind, text) = fails(&store, "/vm/b.avhd");
    assert!(kind == ErrorKind::InvalidInput && text.contains("bytes, the child"), "{text}");
    let report = run_now(diagnose(&store, Path::new("/vm/b.avhd"), &PathRules::default())).unwrap();
    assert_eq!(report.links[0].finding, Finding::Unfit);
    let file = MemoryFile::new("/vm/a.vhdx");
    let kind = bulkhead_vhdx::Kind::Dynamic;
    run_now(bulkhead_vhdx::create(&file, &bulkhead_vhdx::CreateOptions::new(support::SIZE, kind, support::guids(3))))
        .unwrap();
    let vhdx = support::open_file(Rc::new(file), true).unwrap();
    let mut builder = ChainBuilder::new(Strictness::default());
    assert!(builder.push(store.layer("/vm/b.avhd", true)).unwrap().is_some());
    let error = builder.push(vhdx).unwrap_err();
    assert!(error.to_string().contains("a vhd disk cannot have a vhdx parent"), "{error}");
    assert_eq!(builder.finish().err().unwrap().kind(), ErrorKind::ParentMissing);
}
