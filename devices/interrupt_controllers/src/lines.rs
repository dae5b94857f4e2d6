//! The lines from devices to both controllers at once.

use crate::{Ioapic, Pic};
use bulkhead_device::{Line, LineInput, LineSink, OrGate};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Interrupt inputs of the machine: global system interrupts 0 to 23.
pub const GSI_COUNT: usize = 24;

/// Leads each interrupt to the PIC (0 to 15) and to the I/O APIC. Interrupt 0 goes to I/O APIC pin 2, as on every PC, which
/// the MADT must say. Interrupt 2 does not exist: its places are the cascade and the timer.
pub struct InterruptLines {
    gates: [Arc<OrGate>; GSI_COUNT],
    used: [AtomicU32; GSI_COUNT],
}

impl InterruptLines {
    /// Wires both controllers.
    pub fn new(pic: Arc<Mutex<Pic>>, ioapic: Arc<Mutex<Ioapic>>) -> InterruptLines {
        let fan_out: Arc<dyn LineSink> = Arc::new(FanOut { pic, ioapic });
        InterruptLines {
            gates: std::array::from_fn(|gsi| OrGate::new(Line::new(fan_out.clone(), gsi as u32))),
            used: Default::default(),
        }
    }

    /// A new driver of interrupt `gsi`; several drivers share it. Numbers that do not exist lead nowhere.
    pub fn line(&self, gsi: u32) -> Line {
        match self.gates.get(gsi as usize) {
            Some(gate) => gate.line(self.used[gsi as usize].fetch_add(1, Relaxed)),
            None => Line::unconnected(),
        }
    }
}

impl std::fmt::Debug for InterruptLines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InterruptLines").field("used", &self.used).finish()
    }
}

struct FanOut {
    pic: Arc<Mutex<Pic>>,
    ioapic: Arc<Mutex<Ioapic>>,
}

impl LineSink for FanOut {
    fn set_input(&self, gsi: u32, level: bool) {
        if gsi < 16 {
            self.pic.lock().set_input(gsi, level);
        }
        match gsi {
            0 => self.ioapic.lock().set_input(2, level),
            2 => {}
            _ => self.ioapic.lock().set_input(gsi, level),
        }
    }
}
