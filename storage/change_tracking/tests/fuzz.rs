//! A seeded bounded round of the fuzz target over mutated files whose heads' checksums are mended.

use std::rc::Rc;

use bulkhead_change_tracking::{ChangeTracker, Stamp};
use bulkhead_disk::test_support::XorShift;
use bulkhead_disk::{MemoryFile, RamDisk, run_now, write_bytes};
use uuid::Uuid;

#[test]
fn hostile_bytes_yield_a_value_or_an_error() {
    let rounds = if std::env::var_os("BULKHEAD_LONG").is_some() { 50_000 } else { 2000 };
    let file = Rc::new(MemoryFile::new("seed"));
    let stamp = Stamp { now: Uuid::nil(), next: Uuid::nil() };
    let tracker = run_now(ChangeTracker::open(Rc::new(RamDisk::new(5 << 30)), file.clone(), stamp)).expect("it opens");
    run_now(tracker.add("a")).expect("it is added");
    run_now(write_bytes(&tracker, 1 << 20, &[1; 512])).expect("writes");
    run_now(tracker.fork("a", "b")).expect("forks");
    run_now(write_bytes(&tracker, 1 << 30, &[1; 512])).expect("writes");
    let seed = file.to_vec();
    let mut random = XorShift::new(2);
    for _ in 0..rounds {
        let mut data = seed.clone();
        if random.one_in(5) {
            data.truncate(random.below(data.len() as u64) as usize);
        }
        for _ in 0..1 + random.below(4) {
            let near = [256, 1024, 4096, data.len() as u64][random.below(4) as usize];
            let at = (random.below(2) * 4096 + random.below(near)) as usize;
            if let Some(byte) = data.get_mut(at) {
                *byte = [0, 1, 0x7F, 0x80, 0xFF, random.next_u64() as u8][random.below(6) as usize];
            }
        }
        for head in data.chunks_exact_mut(4096).take(2) {
            let sum = crc32c::crc32c_append(crc32c::crc32c(&head[..8]), &head[12..]);
            head[8..12].copy_from_slice(&sum.to_le_bytes());
        }
        bulkhead_change_tracking::fuzz::fuzz(&data);
    }
    bulkhead_change_tracking::fuzz::fuzz(&[]);
}
