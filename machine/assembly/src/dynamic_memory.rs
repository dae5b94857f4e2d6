//! Dynamic memory in the machine: the device, and the host's side of the guest's RAM.

use crate::MachineError;
use crate::board::Board;
use crate::vmbus::offer;
use bulkhead_balloon::policy::Limits;
use bulkhead_balloon::{DynamicMemory, MemoryConfig, RamSupply};
use bulkhead_engine::{Access, Partition};
use bulkhead_guest_memory::GuestMemory;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Weak};

/// Puts it on the bus. A VM with a fixed size has no such device.
pub(crate) fn attach(board: &mut Board<'_>) -> Result<(), MachineError> {
    let (Some(bus), Some(dynamic)) = (board.vmbus.clone(), board.vm.memory.dynamic) else { return Ok(()) };
    let supply = Arc::new(Supply {
        memory: board.memory.clone(),
        partition: Arc::downgrade(&board.partition),
        meminfo: board.config.resources.file(MEMINFO).and_then(|file| file.try_clone().ok()),
    });
    let limits = Limits {
        minimum: dynamic.minimum.bytes(),
        maximum: dynamic.maximum.bytes(),
        buffer: dynamic.buffer,
        weight: dynamic.weight,
    };
    let config = MemoryConfig {
        startup: board.vm.memory.size.bytes(),
        hot_add_base: board.plan.hot_add.start,
        address_limit: board.plan.hot_add.end,
        limits,
    };
    let device = match board.state(DynamicMemory::NAME)? {
        Some(state) => {
            let added = DynamicMemory::hot_added_of(&state)?.min(board.plan.hot_add.end - config.hot_add_base);
            if added > 0 {
                let added = config.hot_add_base..config.hot_add_base + added;
                board.partition.map(added.clone(), added.start, Access::ReadWrite)?;
            }
            DynamicMemory::restore(&board.reactor, config, supply, &state)?
        }
        None => DynamicMemory::new(&board.reactor, config, supply),
    };
    board.handles.memory = Some(offer(board, &bus, DynamicMemory::offer(), device)?);
    Ok(())
}

/// The resource that tells the host's memory, in the form of `/proc/meminfo`.
pub const MEMINFO: &str = "host.meminfo";

struct Supply {
    memory: GuestMemory,
    /// Weak: the engine's VPs hold devices through their exits.
    partition: Weak<dyn Partition>,
    meminfo: Option<File>,
}

impl RamSupply for Supply {
    fn release(&self, gpa: Range<u64>) -> Result<(), String> {
        self.memory.discard(gpa.start, gpa.end - gpa.start).map_err(|error| error.to_string())
    }

    fn add(&self, gpa: Range<u64>) -> Result<(), String> {
        let partition = self.partition.upgrade().ok_or("the VM is ending")?;
        partition.map(gpa.clone(), gpa.start, Access::ReadWrite).map_err(|error| error.to_string())
    }

    fn host_memory(&self) -> Option<(u64, u64)> {
        let mut text = [0; 4096];
        let len = self.meminfo.as_ref()?.read_at(&mut text, 0).ok()?;
        let text = std::str::from_utf8(&text[..len]).ok()?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
        };
        Some((field("MemTotal")?, field("MemAvailable")?))
    }
}
