//! The device: selector, data port, DMA.

use crate::Items;
use crate::regs::{dma, port};
use crate::saved_state::{KIND, SavedFwCfg, VERSION};
use bulkhead_device::{Device, PortIo};
use bulkhead_guest_memory::{AccessError, GuestMemory};
use bulkhead_saved_state::{SavedState, SavedStateError};
use serde_json::json;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Where firmware looks for the device; map this range as bank 0.
pub const PORTS: RangeInclusive<u16> = 0x510..=0x51b;

/// The configuration device. Map it with `ports.map(PORTS, &device, 0)`.
pub struct FwCfg {
    name: String,
    items: Items,
    by_key: BTreeMap<u16, Arc<[u8]>>,
    memory: GuestMemory,
    selected: u16,
    offset: u32,
    dma_high: u32,
}

impl FwCfg {
    /// A device named `name` that offers `items`; DMA goes to `memory`.
    pub fn new(name: &str, items: Items, memory: GuestMemory) -> FwCfg {
        let by_key = items.by_key();
        FwCfg { name: name.into(), items, by_key, memory, selected: 0, offset: 0, dma_high: 0 }
    }

    /// The device as it was saved, with the items of the machine of today.
    ///
    /// # Errors
    /// When `saved` is of another version or damaged.
    pub fn restored(
        name: &str,
        items: Items,
        memory: GuestMemory,
        saved: &SavedState,
    ) -> Result<FwCfg, SavedStateError> {
        let SavedFwCfg { selected, offset, dma_high } = saved.decode(VERSION..=VERSION)?;
        Ok(FwCfg { selected, offset, dma_high, ..FwCfg::new(name, items, memory) })
    }

    fn select(&mut self, key: u16) {
        self.selected = key;
        self.offset = 0;
    }

    /// What is left of the selected item; nothing behind its end and for keys without an item.
    fn rest(&self) -> &[u8] {
        let item = self.by_key.get(&self.selected).map_or(&[][..], |item| &item[..]);
        item.get(self.offset as usize..).unwrap_or(&[])
    }

    fn read_data(&mut self, data: &mut [u8]) {
        let rest = self.rest();
        let len = rest.len().min(data.len());
        data[..len].copy_from_slice(&rest[..len]);
        data[len..].fill(0);
        self.offset = self.offset.saturating_add(data.len() as u32);
    }

    /// Runs the request at `address`: control, length (u32) and address (u64), all big-endian.
    fn run_dma(&mut self, address: u64) {
        let Ok(request) = self.memory.read_array::<16>(address) else { return };
        let [c0, c1, c2, c3, l0, l1, l2, l3, target @ ..] = request;
        let control = u32::from_be_bytes([c0, c1, c2, c3]);
        let length = u32::from_be_bytes([l0, l1, l2, l3]);
        if control & dma::SELECT != 0 {
            self.select((control >> 16) as u16);
        }
        let failed = if control & dma::READ != 0 {
            self.dma_read(u64::from_be_bytes(target), length).is_err()
        } else {
            // Nothing here can be written.
            control & (dma::SKIP | dma::WRITE) == dma::WRITE
        };
        if !failed && control & (dma::READ | dma::SKIP) != 0 {
            self.offset = self.offset.saturating_add(length);
        }
        let answer = if failed { dma::ERROR } else { 0 };
        // The request was read from there, so it is RAM.
        let _ = self.memory.write_u32(address, answer.to_be());
    }

    fn dma_read(&self, target: u64, length: u32) -> Result<(), AccessError> {
        self.memory.check(target, u64::from(length))?;
        let rest = self.rest();
        let len = rest.len().min(length as usize);
        self.memory.write(target, &rest[..len])?;
        self.memory.fill(target + len as u64, u64::from(length) - len as u64, 0)
    }
}

impl Device for FwCfg {
    fn name(&self) -> &str {
        &self.name
    }

    fn save(&self) -> Result<SavedState, SavedStateError> {
        let saved = SavedFwCfg { selected: self.selected, offset: self.offset, dma_high: self.dma_high };
        SavedState::encode(KIND, VERSION, &saved)
    }

    fn inspect(&self) -> serde_json::Value {
        let files: serde_json::Map<_, _> =
            self.items.files().map(|(name, size)| (name.to_owned(), json!(size))).collect();
        json!({ "selected": self.selected, "offset": self.offset, "files": files })
    }

    fn reset(&mut self) {
        self.select(0);
        self.dma_high = 0;
    }
}

impl PortIo for FwCfg {
    fn port_read(&mut self, _bank: u8, offset: u16, size: u8) -> u32 {
        match (offset, size) {
            (port::DATA, 1) => {
                let mut byte = [0];
                self.read_data(&mut byte);
                byte[0].into()
            }
            // By this text a driver knows that DMA works.
            (port::DMA_HIGH, 4) => u32::from_le_bytes(*b"QEMU"),
            (port::DMA_LOW, 4) => u32::from_le_bytes(*b" CFG"),
            _ => 0,
        }
    }

    fn port_write(&mut self, _bank: u8, offset: u16, size: u8, value: u32) {
        match (offset, size) {
            (port::SELECTOR, 2) => self.select(value as u16),
            (port::DMA_HIGH, 4) => self.dma_high = value.swap_bytes(),
            (port::DMA_LOW, 4) => {
                let address = u64::from(self.dma_high) << 32 | u64::from(value.swap_bytes());
                self.dma_high = 0;
                self.run_dma(address);
            }
            _ => {}
        }
    }

    fn port_width(&self, _bank: u8) -> u8 {
        4
    }

    fn port_read_string(&mut self, bank: u8, offset: u16, size: u8, data: &mut [u8]) {
        if (offset, size) == (port::DATA, 1) {
            return self.read_data(data);
        }
        for item in data.chunks_exact_mut(usize::from(size)) {
            item.copy_from_slice(&self.port_read(bank, offset, size).to_le_bytes()[..usize::from(size)]);
        }
    }
}
