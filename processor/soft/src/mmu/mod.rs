//! What happens when an access misses the TLB.

use crate::cpu::{Cpu, vector};
use crate::op::Fault;

impl Cpu {
    /// A load of `size` bytes (1, 2, 4, 8) that missed.
    #[cold]
    pub(crate) fn load_slow(&mut self, linear: u64, size: u32, seg: u8) -> Result<u64, Fault> {
        let _ = (linear, size);
        Err(self.raise_code(if seg == 2 { vector::SS } else { vector::GP }, 0))
    }

    /// A store that missed.
    #[cold]
    pub(crate) fn store_slow(&mut self, linear: u64, size: u32, seg: u8, value: u64) -> Result<(), Fault> {
        let _ = value;
        self.load_slow(linear, size, seg).map(drop)
    }

    /// Raises what a store would raise.
    #[cold]
    pub(crate) fn probe_write(&mut self, linear: u64, size: u32, seg: u8) -> Result<(), Fault> {
        self.load_slow(linear, size, seg).map(drop)
    }

    /// A LOCKed read-modify-write that missed: (old, new).
    #[cold]
    pub(crate) fn update_locked_slow(
        &mut self,
        linear: u64,
        size: u32,
        seg: u8,
        change: &dyn Fn(u64) -> u64,
    ) -> Result<(u64, u64), Fault> {
        let old = self.load_slow(linear, size, seg)?;
        Ok((old, change(old)))
    }
}
