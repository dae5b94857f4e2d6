//! The synthetic display in the machine: its memory, and the window in which guests put it.

use crate::MachineError;
use crate::board::Board;
use crate::layout;
use crate::vmbus::offer;
use bulkhead_engine::{Access, Partition};
use bulkhead_guest_memory::GuestMemory;
use bulkhead_video::{SynthVideo, VideoConfig, VideoMemory};
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::{Arc, Weak};

/// The resolution that guests are told to prefer.
const PREFERRED: (u16, u16) = (1024, 768);

/// Puts it on the bus.
pub(crate) fn attach(board: &mut Board<'_>) -> Result<(), MachineError> {
    let Some(bus) = board.vmbus.clone() else { return Ok(()) };
    let memory = Arc::new(Vram {
        memory: board.memory.clone(),
        source: board.plan.video.clone(),
        window: layout::pci_window(board.ram.low),
        partition: Arc::downgrade(&board.partition),
        shown: Mutex::new(None),
    });
    let config = VideoConfig { preferred: PREFERRED, memory, ram: board.memory.clone() };
    let video = match board.state(SynthVideo::NAME)? {
        Some(state) => SynthVideo::restore(&board.reactor, config, &state)?,
        None => SynthVideo::new(&board.reactor, config),
    };
    let video = offer(board, &bus, SynthVideo::offer(), Arc::new(Mutex::new(video)))?;
    board.handles.synthetic_video = Some(video);
    Ok(())
}

struct Vram {
    memory: GuestMemory,
    /// Where it is in guest memory.
    source: Range<u64>,
    /// Where guests may see it.
    window: Range<u64>,
    /// Weak: the engine's VPs hold devices through their exits.
    partition: Weak<dyn Partition>,
    shown: Mutex<Option<Range<u64>>>,
}

impl VideoMemory for Vram {
    fn len(&self) -> u64 {
        self.source.end - self.source.start
    }

    fn show_at(&self, gpa: u64) -> Result<(), String> {
        let end = gpa.checked_add(self.len()).filter(|end| *end <= self.window.end && gpa >= self.window.start);
        let range = gpa..end.ok_or_else(|| format!("it is not in the window {:#x?}", self.window))?;
        let partition = self.partition.upgrade().ok_or("the VM is ending")?;
        partition.map(range.clone(), self.source.start, Access::ReadWrite).map_err(|error| error.to_string())?;
        *self.shown.lock() = Some(range);
        Ok(())
    }

    fn hide(&self) {
        let shown = self.shown.lock().take();
        if let (Some(range), Some(partition)) = (shown, self.partition.upgrade())
            && let Err(error) = partition.unmap(range)
        {
            tracing::error!(%error, "the display's memory cannot be taken away from the guest");
        }
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), String> {
        let end = offset.checked_add(buffer.len() as u64).filter(|end| *end <= self.len());
        end.ok_or("it goes beyond the display's memory")?;
        self.memory.read(self.source.start + offset, buffer).map_err(|error| error.to_string())
    }
}
