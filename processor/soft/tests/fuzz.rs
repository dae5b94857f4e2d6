//! A bounded, seeded round of the fuzz targets.

use bulkhead_soft::fuzz::{fuzz, fuzz_walk};

struct XorShift(u64);

impl XorShift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

fn rounds(default: u64) -> u64 {
    std::env::var("BULKHEAD_FUZZ_ROUNDS").ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

#[test]
fn random_code_neither_panics_nor_hangs() {
    for seed in 1..=rounds(200) {
        let mut random = XorShift(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut data = random.bytes(400);
        data[0] = seed as u8;
        eprintln_on_panic(seed, || fuzz(&data));
    }
}

#[test]
fn random_page_tables_are_walked_or_refused() {
    for seed in 1..=rounds(200) * 20 {
        let mut random = XorShift(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut data = random.bytes(512);
        // Mostly present entries, few reserved bits: else no walk gets deep.
        for entry in data[2..].chunks_exact_mut(8) {
            entry[0] |= 1;
            entry[5..8].fill(0);
        }
        eprintln_on_panic(seed, || fuzz_walk(&data));
    }
}

/// Says which seed it was.
fn eprintln_on_panic(seed: u64, run: impl FnOnce() + std::panic::UnwindSafe) {
    if let Err(panic) = std::panic::catch_unwind(run) {
        eprintln!("seed {seed}");
        std::panic::resume_unwind(panic);
    }
}
