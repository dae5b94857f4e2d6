//! The I/O APIC: 24 inputs, each with a redirection entry that says which message it sends.

use crate::GSI_COUNT;
use crate::saved_state::SavedIoapic;
use bulkhead_device::{Device, LineInput, Mmio, Msi, MsiSink};
use bulkhead_saved_state::{SavedState, SavedStateError};
use serde_json::json;
use std::sync::Arc;

const KIND: &str = "ioapic";
const VERSION: u32 = 1;

/// Version 20h: with the EOI register, which Linux uses from this number on.
const IOAPIC_VERSION: u32 = 0x20;
const REG_SELECT: u64 = 0x00;
const REG_WINDOW: u64 = 0x10;
const REG_EOI: u64 = 0x40;

/// Bits of a redirection entry.
mod entry {
    pub const VECTOR: u64 = 0xff;
    pub const LOGICAL: u64 = 1 << 11;
    pub const DELIVERY_STATUS: u64 = 1 << 12;
    pub const REMOTE_IRR: u64 = 1 << 14;
    pub const LEVEL: u64 = 1 << 15;
    pub const MASKED: u64 = 1 << 16;
    pub const READ_ONLY: u64 = DELIVERY_STATUS | REMOTE_IRR;
    pub const DEFINED: u64 = 0xff00_0000_0001_ffff;

    pub const fn delivery_mode(entry: u64) -> u64 {
        entry >> 8 & 7
    }
}

/// The I/O APIC. One bank of 4 KiB at FEC0_0000h. Lines are "asserted" or not: the polarity bits of the entries describe wires
/// that do not exist here and change nothing.
pub struct Ioapic {
    name: String,
    messages: Arc<dyn MsiSink>,
    select: u8,
    id: u8,
    inputs: u32,
    entries: [u64; GSI_COUNT],
}

impl Ioapic {
    /// An I/O APIC after reset: all inputs masked.
    pub fn new(name: &str, messages: Arc<dyn MsiSink>) -> Ioapic {
        let entries = [entry::MASKED; GSI_COUNT];
        Ioapic { name: name.into(), messages, select: 0, id: 0, inputs: 0, entries }
    }

    /// The one that was saved.
    ///
    /// # Errors
    /// When `state` is of another version or damaged.
    pub fn restore(name: &str, messages: Arc<dyn MsiSink>, state: &SavedState) -> Result<Ioapic, SavedStateError> {
        let saved: SavedIoapic = state.decode(VERSION..=VERSION)?;
        let mut ioapic = Ioapic::new(name, messages);
        (ioapic.select, ioapic.id) = (saved.select, saved.id & 0xf);
        ioapic.inputs = saved.inputs & ((1 << GSI_COUNT) - 1);
        for (entry, saved) in ioapic.entries.iter_mut().zip(&saved.entries) {
            *entry = saved & entry::DEFINED;
        }
        Ok(ioapic)
    }

    /// A processor ended an interrupt of `vector`: level-triggered inputs that are still asserted send again.
    ///
    /// Called by the engine, which must hold no lock that its [`MsiSink`] takes.
    pub fn end_of_interrupt(&mut self, vector: u8) {
        for pin in 0..GSI_COUNT {
            let value = self.entries[pin];
            if value & entry::REMOTE_IRR != 0 && value & entry::VECTOR == u64::from(vector) {
                self.entries[pin] &= !entry::REMOTE_IRR;
                self.serve_level(pin);
            }
        }
    }

    fn asserted(&self, pin: usize) -> bool {
        self.inputs >> pin & 1 != 0
    }

    /// Sends for a level-triggered input, once until the end of its interrupt.
    fn serve_level(&mut self, pin: usize) {
        let value = self.entries[pin];
        let ready = value & (entry::LEVEL | entry::MASKED | entry::REMOTE_IRR) == entry::LEVEL;
        if ready && self.asserted(pin) {
            // Only fixed and lowest-priority interrupts have an end that is reported.
            if entry::delivery_mode(value) <= 1 {
                self.entries[pin] |= entry::REMOTE_IRR;
            }
            self.send(value);
        }
    }

    fn send(&self, value: u64) {
        const ASSERT: u32 = 1 << 14;
        let address = 0xfee0_0000 | (value >> 56) << 12 | if value & entry::LOGICAL != 0 { 4 } else { 0 };
        // Vector, delivery mode and trigger mode have the same places in both formats.
        let data = (value & (entry::VECTOR | 0x700 | entry::LEVEL)) as u32 | ASSERT;
        self.messages.send_msi(Msi { address, data });
    }

    fn read_register(&self) -> u32 {
        match self.select {
            0 | 2 => u32::from(self.id) << 24,
            1 => (GSI_COUNT as u32 - 1) << 16 | IOAPIC_VERSION,
            0x10.. => {
                let entry = self.entries.get(usize::from(self.select - 0x10) / 2).copied().unwrap_or(0);
                (if self.select & 1 == 0 { entry } else { entry >> 32 }) as u32
            }
            _ => 0,
        }
    }

    fn write_register(&mut self, value: u32) {
        if self.select == 0 {
            self.id = (value >> 24 & 0xf) as u8;
        }
        let Some(pin) = usize::from(self.select).checked_sub(0x10).map(|index| index / 2) else { return };
        let Some(old) = self.entries.get(pin).copied() else { return };
        let written = match self.select & 1 {
            0 => old & !0xffff_ffff | u64::from(value),
            _ => old & 0xffff_ffff | u64::from(value) << 32,
        };
        let mut new = written & entry::DEFINED & !entry::READ_ONLY | old & entry::READ_ONLY;
        if new & entry::LEVEL == 0 {
            // Software without the EOI register ends an interrupt by a moment of edge mode.
            new &= !entry::REMOTE_IRR;
        }
        self.entries[pin] = new;
        self.serve_level(pin);
    }
}

impl LineInput for Ioapic {
    fn set_input(&mut self, input: u32, level: bool) {
        let pin = input as usize;
        if pin >= GSI_COUNT || self.asserted(pin) == level {
            return;
        }
        self.inputs ^= 1 << pin;
        let value = self.entries[pin];
        if value & entry::LEVEL != 0 {
            self.serve_level(pin);
        } else if level && value & entry::MASKED == 0 {
            // An edge at a masked input is lost, as the 82093AA says.
            self.send(value);
        }
    }
}

impl Device for Ioapic {
    fn name(&self) -> &str {
        &self.name
    }

    fn save(&self) -> Result<SavedState, SavedStateError> {
        let entries = self.entries.to_vec();
        let saved = SavedIoapic { select: self.select, id: self.id, inputs: self.inputs, entries };
        SavedState::encode(KIND, VERSION, &saved)
    }

    fn inspect(&self) -> serde_json::Value {
        let entries: Vec<String> = self.entries.iter().map(|entry| format!("{entry:016x}")).collect();
        json!({ "id": self.id, "inputs": self.inputs, "entries": entries })
    }

    fn reset(&mut self) {
        (self.select, self.id, self.entries) = (0, 0, [entry::MASKED; GSI_COUNT]);
    }
}

impl Mmio for Ioapic {
    fn mmio_read(&mut self, _bank: u8, offset: u64, _size: u8) -> u64 {
        let register = match offset & 0xff & !3 {
            REG_SELECT => u32::from(self.select),
            REG_WINDOW => self.read_register(),
            _ => 0,
        };
        u64::from(register >> (8 * (offset & 3)))
    }

    fn mmio_write(&mut self, _bank: u8, offset: u64, size: u8, value: u64) {
        match offset & 0xff {
            REG_SELECT => self.select = value as u8,
            REG_WINDOW if size >= 4 => self.write_register(value as u32),
            REG_EOI => self.end_of_interrupt(value as u8),
            _ => {}
        }
    }
}
