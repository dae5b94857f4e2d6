//! Random operations against a model, ended by the other readers: qemu and libvhdi must read what the model holds.

mod support;

use bulkhead_disk::{Layer, MemoryFile, Stack, run_now};
use bulkhead_vhdx::check::{CheckOptions, check};
use bulkhead_vhdx::{CreateOptions, Kind};
use std::rc::Rc;
use support::*;

fn check_clean(file: &MemoryFile) {
    let options = CheckOptions { repair: false, drop_damaged_blocks: false, new_guid: guids(7) };
    let report = run_now(check(Rc::new(file.clone()), options)).unwrap();
    assert!(report.findings.is_empty(), "{report:?}");
}

/// Runs `steps` operations with a reopen now and then; returns the file and the model.
fn exercise(create: &CreateOptions, steps: usize, seed: u64) -> (MemoryFile, Mix) {
    let mut file = new_image(create);
    let image = open(Rc::new(file.clone()), seed).image;
    let mut mix = Mix::new(seed, &image.facts());
    let session = steps / 5;
    let mut left = steps;
    while left > 0 {
        let shared = Rc::new(file.clone());
        let image = open(shared.clone(), seed + left as u64).image;
        let disk = stack(&image);
        for _ in 0..session.min(left) {
            mix.step(&disk);
        }
        left = left.saturating_sub(session);
        mix.compare_all(&disk);
        run_now(disk.close()).unwrap();
        file = (*shared).clone();
        check_clean(&file);
    }
    (file, mix)
}

fn with_both_readers(name: &str, file: &MemoryFile, mix: &Mix) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.vhdx");
    save(file, &path);
    let content = mix.content();
    if mix.sector == 512 && has("qemu-img", name) {
        qemu_agrees(&path, &content);
    }
    if has_libvhdi(name) {
        assert_same(&libvhdi_read(&[&path]), &content, "libvhdi");
    }
}

#[test]
fn dynamic() {
    let (file, mix) = exercise(&create_options(96 * MIB + 512 * 7, Kind::Dynamic, 2 * MIB), rounds(30_000), 1);
    with_both_readers("dynamic", &file, &mix);
}

#[test]
fn dynamic_with_small_blocks() {
    let (file, mix) = exercise(&create_options(64 * MIB, Kind::Dynamic, MIB), rounds(20_000), 2);
    with_both_readers("dynamic_with_small_blocks", &file, &mix);
}

#[test]
fn dynamic_with_4k_sectors() {
    let options = CreateOptions { logical_sector: 4096, ..create_options(64 * MIB, Kind::Dynamic, 8 * MIB) };
    let (file, mix) = exercise(&options, rounds(10_000), 3);
    with_both_readers("dynamic_with_4k_sectors", &file, &mix);
}

#[test]
fn fixed() {
    let options = CreateOptions { sparse: true, ..create_options(48 * MIB, Kind::Fixed, 2 * MIB) };
    let (file, mix) = exercise(&options, rounds(20_000), 4);
    with_both_readers("fixed", &file, &mix);
}

/// Base and two children; operations go to the top, which is now and then replaced by a new child.
#[test]
fn differencing_chain() {
    differencing(512, 1, rounds(20_000), false);
}

/// As above, with whole blocks cleared in the children; only our own reader is asked.
#[test]
fn differencing_chain_with_cleared_blocks() {
    differencing(512, 20, rounds(20_000), true);
}

#[test]
fn differencing_chain_with_4k_sectors() {
    differencing(4096, 50, rounds(10_000), false);
}

fn differencing(sector: u32, seed: u64, steps: usize, clear_blocks: bool) {
    let base = CreateOptions { logical_sector: sector, ..create_options(64 * MIB, Kind::Dynamic, 2 * MIB) };
    let (base, mut mix) = exercise(&base, 500, seed);
    mix.clear_blocks = clear_blocks;
    let mut files = vec![base];
    for generation in 0..3u64 {
        let block_size = [2, 1, 4][generation as usize] * MIB;
        let name = format!("{generation}.vhdx");
        let child = new_image(&child_options(files.last().unwrap(), &name, block_size));
        let mut child = child;
        for session in 0..3 {
            let shared = Rc::new(child.clone());
            let image = open(shared.clone(), seed + 10 * generation + session).image;
            let mut layers: Vec<Rc<dyn Layer>> = vec![Rc::new(image)];
            layers.extend(files.iter().rev().map(|file| Rc::new(open_read_only(file)) as Rc<dyn Layer>));
            let disk = Stack::new(layers);
            for _ in 0..steps / 9 {
                mix.step(&disk);
            }
            mix.compare_all(&disk);
            run_now(disk.close()).unwrap();
            child = (*shared).clone();
            check_clean(&child);
        }
        files.push(child);
    }
    if clear_blocks || !has_libvhdi("differencing_chain") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let paths: Vec<_> = (0..files.len()).map(|index| dir.path().join(format!("{index}.vhdx"))).collect();
    files.iter().zip(&paths).for_each(|(file, path)| save(file, path));
    let chain: Vec<_> = paths.iter().rev().map(std::path::PathBuf::as_path).collect();
    assert_same(&libvhdi_read(&chain), &mix.content(), "libvhdi, chain of 4");
}
