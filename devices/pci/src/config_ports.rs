//! Configuration mechanism 1, and the reset control register that lies among its ports.

use crate::saved_state::SavedConfigPorts;
use bulkhead_device::{Device, PciAddress, PciBus, PortIo, PowerRequest, PowerSink};
use bulkhead_saved_state::{SavedState, SavedStateError};
use serde_json::json;
use std::sync::Arc;

const KIND: &str = "pci-config-ports";
const VERSION: u32 = 1;
const ENABLE: u32 = 1 << 31;
const ADDRESS: u32 = 0x80ff_fffc;
/// Offset of CF9h.
const RESET_CONTROL: u16 = 1;
const RESET_CPU: u8 = 4;

/// The ports CF8h–CFFh, one bank. Not a function itself: it is called first and locks one function at a time.
pub struct ConfigPorts {
    name: String,
    bus: PciBus,
    power: Arc<dyn PowerSink>,
    address: u32,
    reset_control: u8,
}

impl ConfigPorts {
    /// Ports after reset that lead to the functions of `bus`.
    pub fn new(name: &str, bus: &PciBus, power: Arc<dyn PowerSink>) -> ConfigPorts {
        ConfigPorts { name: name.into(), bus: bus.clone(), power, address: 0, reset_control: 0 }
    }

    /// The ports that were saved.
    ///
    /// # Errors
    /// When `state` is of another version or damaged.
    pub fn restore(
        name: &str,
        bus: &PciBus,
        power: Arc<dyn PowerSink>,
        state: &SavedState,
    ) -> Result<ConfigPorts, SavedStateError> {
        let saved: SavedConfigPorts = state.decode(VERSION..=VERSION)?;
        let (address, reset_control) = (saved.address & ADDRESS, saved.reset_control);
        Ok(ConfigPorts { address, reset_control, ..ConfigPorts::new(name, bus, power) })
    }

    /// The selected function and register, if there can be one: there is only bus 0.
    fn selected(&self) -> Option<(PciAddress, u8)> {
        if self.address & ENABLE == 0 || self.address >> 16 & 0xff != 0 {
            return None;
        }
        let device = (self.address >> 11 & 0x1f) as u8;
        let function = (self.address >> 8 & 7) as u8;
        Some((PciAddress { device, function }, self.address as u8))
    }
}

impl Device for ConfigPorts {
    fn name(&self) -> &str {
        &self.name
    }

    fn save(&self) -> Result<SavedState, SavedStateError> {
        let saved = SavedConfigPorts { address: self.address, reset_control: self.reset_control };
        SavedState::encode(KIND, VERSION, &saved)
    }

    fn inspect(&self) -> serde_json::Value {
        json!({ "address": self.address, "functions": format!("{:?}", self.bus) })
    }

    fn reset(&mut self) {
        (self.address, self.reset_control) = (0, 0);
    }
}

impl PortIo for ConfigPorts {
    fn port_read(&mut self, _bank: u8, offset: u16, size: u8) -> u32 {
        match (offset, size) {
            (0, 4) => self.address,
            (RESET_CONTROL, 1) => u32::from(self.reset_control),
            (4.., _) => {
                let Some((at, register)) = self.selected() else { return u32::MAX };
                self.bus.read(at, register) >> (8 * (offset & 3))
            }
            _ => u32::MAX,
        }
    }

    fn port_write(&mut self, _bank: u8, offset: u16, size: u8, value: u32) {
        match (offset, size) {
            (0, 4) => self.address = value & ADDRESS,
            (RESET_CONTROL, 1) => {
                let rises = value as u8 & !self.reset_control & RESET_CPU != 0;
                self.reset_control = value as u8 & 0x06;
                if rises {
                    self.power.request(PowerRequest::Reset);
                }
            }
            (4.., _) => {
                if let Some((at, register)) = self.selected() {
                    self.bus.write(at, register + (offset as u8 & 3), size, value);
                }
            }
            _ => {}
        }
    }

    fn port_width(&self, _bank: u8) -> u8 {
        4
    }
}
