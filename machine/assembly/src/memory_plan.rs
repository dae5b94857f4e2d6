//! What guest memory consists of: RAM, RAM that can be added while the guest runs, the display's memory, firmware.

use crate::MachineError;
use crate::layout::{self, RamLayout};
use bulkhead_vm_description::VmDescription;
use std::fs::File;
use std::ops::Range;
use std::os::fd::OwnedFd;

/// RAM is added in units of this, at multiples of it.
pub const HOT_ADD_UNIT: u64 = 128 << 20;
/// Memory of the synthetic display.
pub const VIDEO_LEN: u64 = 8 << 20;

/// Where each part lies in guest memory. RAM and firmware are seen by the guest at the same addresses; the others when and
/// where their devices say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPlan {
    /// What the guest starts with.
    pub ram: RamLayout,
    /// What can be added. Empty without dynamic memory.
    pub hot_add: Range<u64>,
    /// Memory of the synthetic display. Empty without the Hyper-V interface.
    pub video: Range<u64>,
    /// The firmware.
    pub firmware: Option<Range<u64>>,
}

impl MemoryPlan {
    /// The plan of a VM.
    pub fn new(vm: &VmDescription, firmware_len: Option<u64>) -> MemoryPlan {
        let size = vm.memory.size.bytes();
        let ram = RamLayout::new(size);
        let base = (layout::HIGH_RAM + ram.high).next_multiple_of(HOT_ADD_UNIT);
        let more = vm.memory.dynamic.map_or(0, |dynamic| dynamic.maximum.bytes().saturating_sub(size));
        let hot_add = base..base + more.next_multiple_of(HOT_ADD_UNIT);
        let video = hot_add.end..hot_add.end + if vm.hyperv.enabled { VIDEO_LEN } else { 0 };
        MemoryPlan { ram, hot_add, video, firmware: firmware_len.map(layout::firmware_range) }
    }

    /// A file of saved memory, if it is of a machine with this plan.
    ///
    /// # Errors
    /// `OtherMachine`; the file cannot be looked at.
    pub fn check_file(&self, memory: OwnedFd) -> Result<OwnedFd, MachineError> {
        let file = File::from(memory);
        let failed = |source| MachineError::File { what: "the saved memory".into(), source };
        let (found, needed) = (file.metadata().map_err(failed)?.len(), self.len());
        if found != needed {
            let reason = format!("its memory has {found} bytes, with what can be added; this VM has {needed}");
            return Err(MachineError::OtherMachine { reason });
        }
        Ok(file.into())
    }

    fn len(&self) -> u64 {
        self.ranges().iter().map(|range| range.end - range.start).sum()
    }

    /// All parts, ascending.
    pub fn ranges(&self) -> Vec<Range<u64>> {
        let others = [self.hot_add.clone(), self.video.clone()];
        let mut ranges: Vec<_> = self.ram.ranges().chain(others).chain(self.firmware.clone()).collect();
        ranges.retain(|range| !range.is_empty());
        ranges.sort_by_key(|range| range.start);
        ranges
    }
}
