//! Random bytes: the kernel's, or a seeded sequence for deterministic runs.

use parking_lot::Mutex;
use rustix::rand::{GetRandomFlags, getrandom};

pub(crate) enum Entropy {
    Host,
    /// SplitMix64 state. Repeatable, not secret: for deterministic runs only.
    Seeded(Mutex<u64>),
}

impl Entropy {
    pub fn fill(&self, buf: &mut [u8]) {
        match self {
            Entropy::Host => fill_from_kernel(buf),
            Entropy::Seeded(state) => {
                let mut state = state.lock();
                for chunk in buf.chunks_mut(8) {
                    chunk.copy_from_slice(&split_mix(&mut state).to_le_bytes()[..chunk.len()]);
                }
            }
        }
    }
}

fn fill_from_kernel(buf: &mut [u8]) {
    let mut filled = 0;
    while filled < buf.len() {
        match getrandom(&mut buf[filled..], GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            // getrandom exists since Linux 3.17 and has no other failure with valid arguments.
            Err(error) => panic!("getrandom failed: {error}"),
        }
    }
}

fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
