//! The windows of the host bridge: RAM, ROM or nothing between 768 KiB and 1 MiB, and RAM behind the display's window.

use crate::MachineError;
use crate::layout::{SHADOW, VGA_WINDOW};
use bulkhead_engine::{Access, EngineError, Partition};
use bulkhead_guest_memory::GuestMemory;
use bulkhead_pci::{MemoryWindows, SegmentAccess};
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::Arc;

/// Maps what the bridge's registers say.
pub struct Windows {
    partition: Arc<dyn Partition>,
    memory: GuestMemory,
    /// Where the firmware's last 128 KiB are in `memory`.
    firmware: Option<u64>,
    /// Segments of which reads go to ROM and writes to RAM: no mapping can say that.
    write_only: Mutex<Vec<Range<u64>>>,
}

impl Windows {
    /// The windows of a machine, as after reset: ROM or nothing. `firmware` is where the BIOS's last 128 KiB are in
    /// `memory`; without firmware all of it is RAM for good, because nobody would switch it over.
    ///
    /// # Errors
    /// The engine refuses a mapping.
    pub fn new(
        partition: Arc<dyn Partition>,
        memory: GuestMemory,
        firmware: Option<u64>,
    ) -> Result<Windows, MachineError> {
        let windows = Windows { partition, memory, firmware, write_only: Mutex::default() };
        if firmware.is_some() {
            windows.map(0xc_0000..0xe_0000, SegmentAccess::default())?;
            windows.map(0xe_0000..SHADOW.end, SegmentAccess::default())?;
        } else {
            windows.map(SHADOW, SegmentAccess { read_ram: true, write_ram: true })?;
        }
        Ok(windows)
    }

    /// A write that the engine could not place: with "reads from ROM, writes to RAM" it goes to RAM. False = not here.
    pub fn write(&self, gpa: u64, bytes: &[u8]) -> bool {
        SHADOW.contains(&gpa)
            && self.write_only.lock().iter().any(|segment| segment.contains(&gpa))
            && self.memory.write(gpa, bytes).is_ok()
    }

    fn map(&self, range: Range<u64>, access: SegmentAccess) -> Result<(), EngineError> {
        let ram = range.start;
        // The BIOS's own 128 KiB appear below 1 MiB; in front of them there is nothing.
        let rom = self.firmware.zip(range.start.checked_sub(0xe_0000)).map(|(base, offset)| base + offset);
        match (access.read_ram, access.write_ram, rom) {
            (true, true, _) => self.partition.map(range, ram, Access::ReadWrite),
            (true, false, _) => self.partition.map(range, ram, Access::ReadOnly),
            (false, _, Some(rom)) => self.partition.map(range, rom, Access::ReadOnly),
            (false, _, None) => self.partition.unmap(range),
        }
    }
}

impl MemoryWindows for Windows {
    fn set_segment(&self, segment: Range<u64>, access: SegmentAccess) {
        if self.firmware.is_none() {
            return;
        }
        let mut write_only = self.write_only.lock();
        write_only.retain(|other| *other != segment);
        if access.write_ram && !access.read_ram {
            write_only.push(segment.clone());
        }
        drop(write_only);
        report(self.map(segment, access));
    }

    fn set_smram(&self, open: bool) {
        let window = VGA_WINDOW;
        report(match open {
            true => self.partition.map(window.clone(), window.start, Access::ReadWrite),
            false => self.partition.unmap(window),
        });
    }
}

/// Segments are page-aligned and inside RAM, so only a host without memory refuses; the guest then sees the old mapping.
fn report(result: Result<(), EngineError>) {
    if let Err(error) = result {
        tracing::error!(%error, "a memory window of the guest cannot be switched");
    }
}

impl std::fmt::Debug for Windows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Windows").field("write_only", &*self.write_only.lock()).finish()
    }
}
