//! Files for tests of formats: one that records every write for power-cut tests, one that fails on demand.

mod faulty;
mod recording;
mod xorshift;

pub use faulty::{Fault, FaultyFile, Operation};
pub use recording::{PowerCut, Recorded, RecordingFile};
pub use xorshift::XorShift;
