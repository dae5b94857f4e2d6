//! The ability to be a function on a PCI bus.

use crate::Device;

/// Where a function is on its bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    /// 0 to 31.
    pub device: u8,
    /// 0 to 7.
    pub function: u8,
}

impl std::fmt::Display for PciAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "00:{:02x}.{}", self.device, self.function)
    }
}

/// The ability to be a PCI function. Most delegate to their [`ConfigSpace`](crate::ConfigSpace).
pub trait PciFunction: Device {
    /// Reads the four bytes at `offset`, a multiple of 4.
    fn config_read(&mut self, offset: u8) -> u32;

    /// Writes `size` bytes (1, 2 or 4) at `offset`, inside one aligned group of four.
    fn config_write(&mut self, offset: u8, size: u8, value: u32);
}
