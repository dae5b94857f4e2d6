//! What goes where in RAM, and with which registers VP 0 starts.

use crate::layout::{RamLayout, SHADOW, VGA_WINDOW};
use bulkhead_engine::{DescriptorTable, Segment, VpState, seg};
use bulkhead_guest_memory::{AccessError, GuestMemory};
use std::ops::Range;

/// Something cannot be where it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} of {len:#x} bytes cannot be at {at:#x}: {reason}")]
pub struct PlanError {
    /// Which part.
    pub what: &'static str,
    /// Where it should be.
    pub at: u64,
    /// How long it is.
    pub len: u64,
    /// What is in the way.
    pub reason: String,
}

/// A start that is worked out but not carried out.
#[derive(Debug)]
pub struct Plan {
    ram: RamLayout,
    parts: Vec<Part>,
    /// Registers of VP 0.
    pub state: VpState,
}

#[derive(Debug)]
struct Part {
    what: &'static str,
    at: u64,
    bytes: Vec<u8>,
    /// Zeros behind the bytes.
    zeros: u64,
}

impl Part {
    fn range(&self) -> Range<u64> {
        self.at..self.at + self.bytes.len() as u64 + self.zeros
    }
}

/// Room for the loader's own tables, below 640 KiB and not where any kernel loads.
const GDT: u64 = 0x500;

impl Plan {
    /// Nothing yet; `state` is VP 0 after power-on.
    pub fn new(ram: RamLayout, state: VpState) -> Plan {
        Plan { ram, parts: Vec::new(), state }
    }

    /// The VM's RAM.
    pub fn ram(&self) -> RamLayout {
        self.ram
    }

    /// Bytes that [`Plan::write`] writes.
    pub fn len(&self) -> u64 {
        self.parts.iter().map(|part| part.range().end - part.range().start).sum()
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Puts bytes, and zeros behind them, at an address.
    ///
    /// # Errors
    /// It is not RAM, or there is something already.
    pub fn put(&mut self, what: &'static str, at: u64, bytes: Vec<u8>, zeros: u64) -> Result<(), PlanError> {
        let len = (bytes.len() as u64).saturating_add(zeros);
        let error = |reason: String| PlanError { what, at, len, reason };
        let end = at.checked_add(len).ok_or_else(|| error("it would end behind the address space".into()))?;
        let inside = self.ram.ranges().any(|range| at >= range.start && end <= range.end);
        if !inside {
            let size = self.ram.low >> 20;
            return Err(error(format!("the VM has RAM from 0 to {size} MiB there; give it more memory")));
        }
        if at < VGA_WINDOW.end && end > VGA_WINDOW.start {
            return Err(error("the display adapter's window is there".into()));
        }
        if let Some(other) = self.parts.iter().find(|part| part.range().start < end && at < part.range().end) {
            return Err(error(format!("{} is at {:#x}..{:#x}", other.what, other.range().start, other.range().end)));
        }
        self.parts.push(Part { what, at, bytes, zeros });
        Ok(())
    }

    /// Puts bytes as high as possible below `limit`, on a page. Returns where.
    ///
    /// # Errors
    /// There is no room.
    pub fn put_high(&mut self, what: &'static str, limit: u64, bytes: Vec<u8>) -> Result<u64, PlanError> {
        let len = bytes.len() as u64;
        let floor = SHADOW.end;
        let mut top = limit.min(self.ram.low);
        loop {
            let at = top.checked_sub(len).map(|at| at & !0xfff).filter(|at| *at >= floor);
            let Some(at) = at else {
                let reason = format!("no room below {:#x}; give the VM more memory", limit.min(self.ram.low));
                return Err(PlanError { what, at: floor, len, reason });
            };
            match self.parts.iter().find(|part| part.range().start < at + len && at < part.range().end) {
                Some(other) => top = other.range().start,
                None => {
                    self.put(what, at, bytes, 0)?;
                    return Ok(at);
                }
            }
        }
    }

    /// Flat 32-bit protected mode without paging, interrupts off: what 32-bit kernels expect.
    ///
    /// # Errors
    /// Something is where the descriptor table should be.
    pub fn enter_32_bit(&mut self, entry: u64) -> Result<(), PlanError> {
        // Selectors 10h and 18h as Linux wants them; 8 stays unused.
        let descriptors: [u64; 4] = [0, 0, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
        let table: Vec<u8> = descriptors.iter().flat_map(|descriptor| descriptor.to_le_bytes()).collect();
        let limit = table.len() as u16 - 1;
        self.put("the descriptor table", GDT, table, 0)?;
        let state = &mut self.state;
        let flat = |selector, attributes| Segment { base: 0, limit: u32::MAX, selector, attributes };
        state.segments = [flat(0x18, 0xc093); 6];
        state.segments[seg::CS] = flat(0x10, 0xc09b);
        state.gdtr = DescriptorTable { base: GDT, limit };
        state.idtr = DescriptorTable::default();
        state.cr0 = 0x11;
        (state.cr3, state.cr4, state.efer) = (0, 0, 0);
        state.rflags = 2;
        state.rip = entry;
        Ok(())
    }

    /// Writes everything into RAM.
    ///
    /// # Errors
    /// `memory` is not the RAM that the plan was made for.
    pub fn write(&self, memory: &GuestMemory) -> Result<(), AccessError> {
        for part in &self.parts {
            memory.write(part.at, &part.bytes)?;
            memory.fill(part.at + part.bytes.len() as u64, part.zeros, 0)?;
        }
        Ok(())
    }
}
