//! Memory-mapped registers: accesses of any length, split into what a device takes.

use super::BusError;
use super::map::{AddressMap, Region};
use crate::Device;
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::{Arc, Weak};

/// The ability to answer accesses to guest-physical addresses that are not memory.
///
/// `bank` tells the ranges of one device apart, `offset` counts from the beginning of the range. `size` is 1, 2, 4 or 8, at
/// most [`Mmio::mmio_unit`], and `offset` is a multiple of it.
pub trait Mmio: Device {
    /// A read. The bits above `size` are ignored.
    fn mmio_read(&mut self, bank: u8, offset: u64, size: u8) -> u64;

    /// A write. The bits of `value` above `size` are zero.
    fn mmio_write(&mut self, bank: u8, offset: u64, size: u8, value: u64);

    /// Widest access of a bank: 1, 2, 4 or 8 bytes. Wider and unaligned ones arrive in aligned pieces, lowest first.
    fn mmio_unit(&self, bank: u8) -> u8 {
        let _ = bank;
        4
    }

    /// A read of any length inside the range. For devices that can copy at once, such as frame buffers.
    fn mmio_read_bytes(&mut self, bank: u8, offset: u64, data: &mut [u8]) {
        let unit = self.mmio_unit(bank);
        for (place, size) in pieces(offset, data.len(), unit) {
            let value = self.mmio_read(bank, offset + place as u64, size).to_le_bytes();
            let piece = &mut data[place..place + usize::from(size)];
            piece.copy_from_slice(&value[..piece.len()]);
        }
    }

    /// A write of any length inside the range.
    fn mmio_write_bytes(&mut self, bank: u8, offset: u64, data: &[u8]) {
        let unit = self.mmio_unit(bank);
        for (place, size) in pieces(offset, data.len(), unit) {
            let piece = &data[place..place + usize::from(size)];
            let value = piece.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
            self.mmio_write(bank, offset + place as u64, size, value);
        }
    }
}

/// Cuts `len` bytes at `offset` into naturally aligned pieces of at most `unit` bytes: (place in the data, size).
fn pieces(offset: u64, len: usize, unit: u8) -> impl Iterator<Item = (usize, u8)> {
    let mut place = 0;
    std::iter::from_fn(move || {
        let left = len - place;
        let alignment = (offset + place as u64) | u64::from(unit);
        let mut size = 1 << alignment.trailing_zeros();
        while size > left {
            size /= 2;
        }
        let piece = (left > 0).then_some((place, size as u8));
        place += size;
        piece
    })
}

/// A moving range of guest-physical addresses.
pub type MmioRegion = Region<dyn Mmio>;

/// The memory-mapped registers of a machine. Clones are the same space.
#[derive(Clone)]
pub struct MmioBus {
    map: Arc<AddressMap<dyn Mmio>>,
}

impl Default for MmioBus {
    fn default() -> MmioBus {
        MmioBus::new()
    }
}

impl MmioBus {
    /// An empty space: reads give all ones.
    pub fn new() -> MmioBus {
        MmioBus { map: AddressMap::new("memory", u64::MAX - 1) }
    }

    /// Gives `addresses` to `device` as its `bank`, for as long as the device lives.
    ///
    /// # Errors
    /// `Overlap`, `OutOfRange`.
    pub fn map<T: Mmio + 'static>(
        &self,
        addresses: Range<u64>,
        device: &Arc<Mutex<T>>,
        bank: u8,
    ) -> Result<(), BusError> {
        let name = device.lock().name().to_owned();
        let weak: Weak<Mutex<T>> = Arc::downgrade(device);
        self.map.map(addresses.start, addresses.end.saturating_sub(addresses.start), &name, weak, bank)
    }

    /// A range of `len` bytes that is nowhere yet. `name` is the device's.
    pub fn region(&self, len: u64, name: &str, device: Weak<Mutex<dyn Mmio>>, bank: u8) -> MmioRegion {
        self.map.region(len, name, device, bank)
    }

    /// A read of any length. Bytes that nobody claims read as all ones.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        let (mut rest, mut at) = (data, address);
        while !rest.is_empty() {
            let len = match self.map.find(at) {
                Some(found) => {
                    let len = rest.len().min(usize::try_from(found.room).unwrap_or(usize::MAX));
                    found.device.lock().mmio_read_bytes(found.bank, found.offset, &mut rest[..len]);
                    len
                }
                None => {
                    rest[0] = 0xff;
                    1
                }
            };
            rest = &mut rest[len..];
            at = at.wrapping_add(len as u64);
        }
    }

    /// A write of any length. Bytes that nobody claims vanish.
    pub fn write(&self, address: u64, data: &[u8]) {
        let (mut rest, mut at) = (data, address);
        while !rest.is_empty() {
            let len = match self.map.find(at) {
                Some(found) => {
                    let len = rest.len().min(usize::try_from(found.room).unwrap_or(usize::MAX));
                    found.device.lock().mmio_write_bytes(found.bank, found.offset, &rest[..len]);
                    len
                }
                None => 1,
            };
            rest = &rest[len..];
            at = at.wrapping_add(len as u64);
        }
    }
}

impl std::fmt::Debug for MmioBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MmioBus")
    }
}
