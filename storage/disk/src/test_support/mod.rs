//! Files for tests of formats: one records every write for power-cut tests, one fails on demand, one makes races.

mod faulty;
mod history;
mod recording;
mod slow;
mod xorshift;

pub use faulty::{Fault, FaultyFile, Operation};
pub use history::History;
pub use recording::{PowerCut, Recorded, RecordingFile, Timeline};
pub use slow::SlowFile;
pub use xorshift::XorShift;
