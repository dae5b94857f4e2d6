//! A seeded bounded round of the fuzz target over mutated images whose checksums are mended, so that it gets past them.

mod support;

use bulkhead_disk::test_support::XorShift;
use bulkhead_disk::{Layer, run_now, write_bytes};
use std::rc::Rc;
use support::{differencing, dynamic, new_file, open, options, stack};

fn seeds() -> Vec<Vec<u8>> {
    let size = 3 << 20;
    let base = Rc::new(new_file(&dynamic(size)));
    let disk = stack(vec![open(base.clone())]);
    run_now(write_bytes(&disk, 4096, &[1; 4096])).unwrap();
    run_now(disk.close()).unwrap();
    let child = Rc::new(new_file(&differencing(size, &open(base.clone()), "p.vhd")));
    let disk = stack(vec![open(child.clone()), open(base.clone())]);
    run_now(write_bytes(&disk, 1 << 20, &[1; 512])).unwrap();
    run_now(disk.close()).unwrap();
    let fixed = new_file(&options(64 << 10, bulkhead_vhd::Kind::Fixed { reserve: false }));
    vec![base.to_vec(), child.to_vec(), fixed.to_vec()]
}

/// One's complement of the byte sum, as in every VHD structure.
fn mend(data: &mut [u8], start: usize, len: usize, at: usize) {
    let Some(part) = data.get_mut(start..start + len) else { return };
    part[at..at + 4].fill(0);
    let sum = !part.iter().fold(0u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
    part[at..at + 4].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn hostile_bytes_yield_a_value_or_an_error() {
    let rounds = if std::env::var_os("BULKHEAD_LONG").is_some() { 40_000 } else { 2000 };
    let mut random = XorShift::new(1);
    let seeds = seeds();
    for _ in 0..rounds {
        let mut data = seeds[random.below(3) as usize].clone();
        if random.one_in(4) {
            data.truncate(random.below(data.len() as u64 + 1) as usize);
        }
        // Mostly where structures are: the first 2 KiB and the last 512 bytes.
        for _ in 0..1 + random.below(4) {
            if data.is_empty() {
                break;
            }
            let len = data.len() as u64;
            let at = match random.below(4) {
                0 => len - 1 - random.below(len.min(512)),
                1 => random.below(len),
                _ => random.below(len.min(2048)),
            } as usize;
            let interesting = [0, 1, 0x7F, 0x80, 0xFF, random.next_u64() as u8];
            data[at] = interesting[random.below(6) as usize];
        }
        let len = data.len();
        mend(&mut data, 0, 512, 64);
        mend(&mut data, 512, 1024, 36);
        mend(&mut data, len.saturating_sub(512), 512, 64);
        bulkhead_vhd::fuzz::fuzz(&data);
    }
    bulkhead_vhd::fuzz::fuzz(&[]);
}

#[test]
fn opening_never_allocates_in_proportion_to_the_claimed_size() {
    // A tiny file that claims 2040 GiB in 4 KiB blocks, or a table far behind its end.
    let file = new_file(&options(2040 << 30, bulkhead_vhd::Kind::Dynamic { block_size: 256 << 20 }));
    let mut data = file.to_vec();
    data[512 + 32..512 + 36].copy_from_slice(&4096u32.to_be_bytes());
    data[512 + 28..512 + 32].copy_from_slice(&u32::MAX.to_be_bytes());
    mend(&mut data, 512, 1024, 36);
    let error = |data: &[u8]| {
        let file = Rc::new(bulkhead_disk::MemoryFile::with_data("tiny", data));
        run_now(bulkhead_vhd::VhdImage::open(file)).err().unwrap()
    };
    assert_eq!(error(&data).kind(), bulkhead_disk::ErrorKind::Unsupported);
    data[512 + 32..512 + 36].copy_from_slice(&(2u32 << 20).to_be_bytes());
    mend(&mut data, 512, 1024, 36);
    assert_eq!(error(&data).kind(), bulkhead_disk::ErrorKind::Corrupt);
    let whole = open(Rc::new(file));
    assert_eq!(whole.facts().size, 2040 << 30);
}
