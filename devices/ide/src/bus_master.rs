//! Bus-master registers of a channel, and the tables of physical regions that they point to (SFF-8038i).

use crate::regs::bus_master::{ACTIVE, CAPABLE, ERROR, INTERRUPT, START, TO_MEMORY};
use bulkhead_guest_memory::{AccessError, GuestMemory, GuestRange, ScatterList};

/// A table is inside 64 KiB.
const MAX_REGIONS: u32 = 8192;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct BusMaster {
    pub command: u8,
    pub status: u8,
    pub table: u32,
}

/// A table, resolved.
pub(crate) struct Regions {
    pub list: ScatterList,
    /// The table has nothing beyond `list`.
    pub exhausted: bool,
}

impl BusMaster {
    pub fn read(&self, offset: u16) -> u8 {
        match offset {
            0 => self.command,
            2 => self.status,
            4..=7 => self.table.to_le_bytes()[usize::from(offset - 4)],
            _ => 0,
        }
    }

    /// True when this started a transfer.
    pub fn write(&mut self, offset: u16, value: u8) -> bool {
        match offset {
            0 => {
                let started = value & START != 0 && self.command & START == 0;
                self.command = value & (START | TO_MEMORY);
                self.status = self.status & !ACTIVE | if started || self.active(value) { ACTIVE } else { 0 };
                return started;
            }
            2 => {
                let cleared = value & (ERROR | INTERRUPT);
                self.status = self.status & (ACTIVE | ERROR | INTERRUPT) & !cleared | value & CAPABLE;
            }
            4..=7 => {
                let mut bytes = self.table.to_le_bytes();
                bytes[usize::from(offset - 4)] = value;
                self.table = u32::from_le_bytes(bytes) & !3;
            }
            _ => {}
        }
        false
    }

    /// Whether a running transfer goes on when `command` is written.
    fn active(&self, command: u8) -> bool {
        command & START != 0 && self.status & ACTIVE != 0
    }

    pub fn is_active(&self) -> bool {
        self.status & ACTIVE != 0
    }

    /// Ends the transfer; an `error` is one of the bus.
    pub fn stop(&mut self, error: bool) {
        self.status &= !ACTIVE;
        if error {
            self.status |= ERROR;
        }
    }

    /// The interrupt line of the channel rose.
    pub fn interrupted(&mut self) {
        self.status |= INTERRUPT;
    }

    /// The first `want` bytes of the table's regions, or all if they are fewer.
    pub fn regions(&self, memory: &GuestMemory, want: u64) -> Result<Regions, AccessError> {
        let mut ranges = Vec::new();
        let (mut total, mut exhausted) = (0, false);
        for index in 0..MAX_REGIONS {
            if total >= want || exhausted {
                break;
            }
            let at = u64::from(self.table) + u64::from(index) * 8;
            let entry = memory.read_u64(at)?;
            let (base, count, last) = (entry & 0xffff_fffe, entry >> 32 & 0xfffe, entry >> 63 != 0);
            let count = if count == 0 { 0x1_0000 } else { count };
            let len = count.min(want - total);
            ranges.push(GuestRange { gpa: base, len });
            total += len;
            exhausted = last && len == count || index + 1 == MAX_REGIONS;
        }
        Ok(Regions { list: memory.scatter_list(ranges)?, exhausted })
    }
}
