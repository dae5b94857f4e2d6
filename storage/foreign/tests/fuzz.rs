//! A seeded bounded round of the fuzz target over mutated images, and headers that claim the impossible.

use std::process::Command;
use std::rc::Rc;

use bulkhead_disk::test_support::XorShift;
use bulkhead_disk::{MemoryFile, Node, run_now};
use bulkhead_foreign::{ForeignDisk, ForeignFormat};

/// Small images of every kind.
fn seeds() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().expect("a folder");
    let raw = folder.path().join("a.raw");
    let mut disk = vec![0; 1 << 20];
    disk[4096..200 << 10].iter_mut().enumerate().for_each(|(n, byte)| *byte = (n / 7) as u8);
    std::fs::write(&raw, disk).expect("a file");
    let cases: [(&str, &[&str]); 7] = [
        ("qcow2", &["-o", "cluster_size=512"]),
        ("qcow2", &["-c", "-o", "cluster_size=4k"]),
        ("qcow2", &["-c", "-o", "compression_type=zstd"]),
        ("qcow2", &["-o", "extended_l2=on"]),
        ("vmdk", &["-o", "subformat=monolithicSparse"]),
        ("vmdk", &["-o", "subformat=streamOptimized"]),
        ("vdi", &[]),
    ];
    let make = |(name, options): &(&str, &[&str])| {
        let image = folder.path().join("image");
        let mut command = Command::new("qemu-img");
        command.args(["convert", "-f", "raw", "-O", name]).args(*options).args([&raw, &image]);
        assert!(command.status().expect("qemu-img (package qemu-utils)").success());
        std::fs::read(&image).expect("a file")
    };
    cases.iter().map(make).collect()
}

#[test]
fn hostile_bytes_yield_a_value_or_an_error() {
    let rounds = if std::env::var_os("BULKHEAD_LONG").is_some() { 20_000 } else { 600 };
    let mut random = XorShift::new(5);
    let seeds = seeds();
    for seed in &seeds {
        bulkhead_foreign::fuzz::fuzz(seed);
    }
    for _ in 0..rounds {
        let mut data = seeds[random.below(seeds.len() as u64) as usize].clone();
        if random.one_in(6) {
            data.truncate(random.below(data.len() as u64 + 1) as usize);
        }
        for _ in 0..1 + random.below(5) {
            if data.is_empty() {
                break;
            }
            let len = data.len() as u64;
            let at = match random.below(4) {
                0 => random.below(len),
                1 => random.below(len.min(1024)),
                2 => random.below(len.min(512)),
                _ => random.below(len / 512 + 1) * 512 + random.below(64),
            } as usize;
            let value = [0, 1, 0x7F, 0x80, 0xFF, random.next_u64() as u8][random.below(6) as usize];
            if let Some(byte) = data.get_mut(at) {
                *byte = value;
            }
        }
        bulkhead_foreign::fuzz::fuzz(&data);
    }
    bulkhead_foreign::fuzz::fuzz(&[]);
}

/// 64 TiB in a file of a few KiB: opening and mapping cost nothing in proportion.
#[test]
fn a_header_that_claims_64_tib_costs_nothing() {
    let mut header = vec![0; 128 << 10];
    header[..8].copy_from_slice(&[0x51, 0x46, 0x49, 0xFB, 0, 0, 0, 3]);
    header[20..24].copy_from_slice(&21u32.to_be_bytes());
    header[24..32].copy_from_slice(&(64u64 << 40).to_be_bytes());
    header[36..40].copy_from_slice(&128u32.to_be_bytes());
    let claims = |header: &[u8]| {
        let file = Rc::new(MemoryFile::with_data("claim", header));
        run_now(ForeignDisk::open(file, ForeignFormat::Qcow2))
    };
    // The table at 0 is the header itself: its first entries are no offsets, so only what is asked for fails.
    let disk = claims(&header).expect("the header is right");
    assert_eq!(disk.facts().size, 64 << 40);
    let extents = run_now(disk.status(32 << 40..64 << 40)).expect("a map");
    assert_eq!(extents.len(), 1, "{extents:?}");
    // More entries than the file has bytes.
    header[36..40].copy_from_slice(&u32::MAX.to_be_bytes());
    assert!(claims(&header).is_err());
    header[36..40].copy_from_slice(&1u32.to_be_bytes());
    assert!(claims(&header).is_err(), "one table cannot cover 64 TiB");
    header[24..32].copy_from_slice(&u64::MAX.to_be_bytes());
    assert!(claims(&header).is_err());
}
