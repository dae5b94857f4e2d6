//! The port space: 65,536 ports of one byte, accessed 1, 2 or 4 at a time.

use super::BusError;
use super::map::{AddressMap, Region};
use crate::Device;
use parking_lot::Mutex;
use std::ops::RangeInclusive;
use std::sync::{Arc, Weak};

/// The ability to answer port accesses.
///
/// `bank` tells the ranges of one device apart, `offset` counts from the beginning of the range. `size` is 1, 2 or 4 and at
/// most [`PortIo::port_width`]; the whole access is inside the range. It need not be aligned.
pub trait PortIo: Device {
    /// IN. The bits above `size` are ignored.
    fn port_read(&mut self, bank: u8, offset: u16, size: u8) -> u32;

    /// OUT. The bits of `value` above `size` are zero.
    fn port_write(&mut self, bank: u8, offset: u16, size: u8, value: u32);

    /// Widest access of a bank, in bytes: 1, 2 or 4. Wider ones arrive in pieces, lowest port first, as on the ISA bus.
    fn port_width(&self, bank: u8) -> u8 {
        let _ = bank;
        1
    }

    /// Whether a guest that reads this bank can learn nothing but that it must wait for threads of the host. A VP that polls
    /// then gives way to them: on a loaded host they would not come to run beside it.
    fn keeps_waiting(&self, bank: u8) -> bool {
        let _ = bank;
        false
    }

    /// REP INS: `data.len() / size` reads of the same port. For devices with a data port that can copy at once.
    fn port_read_string(&mut self, bank: u8, offset: u16, size: u8, data: &mut [u8]) {
        for item in data.chunks_exact_mut(usize::from(size)) {
            let value = self.port_read(bank, offset, size).to_le_bytes();
            item.copy_from_slice(&value[..item.len()]);
        }
    }

    /// REP OUTS: `data.len() / size` writes of the same port.
    fn port_write_string(&mut self, bank: u8, offset: u16, size: u8, data: &[u8]) {
        for item in data.chunks_exact(usize::from(size)) {
            self.port_write(bank, offset, size, little_endian(item));
        }
    }
}

/// A moving range of ports.
pub type PortRegion = Region<dyn PortIo>;

/// The port space of a machine. Clones are the same space.
#[derive(Clone)]
pub struct PortBus {
    map: Arc<AddressMap<dyn PortIo>>,
}

impl Default for PortBus {
    fn default() -> PortBus {
        PortBus::new()
    }
}

impl PortBus {
    /// An empty space: reads give all ones.
    pub fn new() -> PortBus {
        PortBus { map: AddressMap::new("ports", 0xffff) }
    }

    /// Gives `ports` to `device` as its `bank`, for as long as the device lives.
    ///
    /// # Errors
    /// `Overlap`, `OutOfRange` (an empty range).
    pub fn map<T: PortIo + 'static>(
        &self,
        ports: RangeInclusive<u16>,
        device: &Arc<Mutex<T>>,
        bank: u8,
    ) -> Result<(), BusError> {
        let name = device.lock().name().to_owned();
        let weak: Weak<Mutex<T>> = Arc::downgrade(device);
        let len = (u64::from(*ports.end()) + 1).saturating_sub(u64::from(*ports.start()));
        self.map.map(u64::from(*ports.start()), len, &name, weak, bank)
    }

    /// A range of `len` ports that is nowhere yet. `name` is the device's.
    pub fn region(&self, len: u16, name: &str, device: Weak<Mutex<dyn PortIo>>, bank: u8) -> PortRegion {
        self.map.region(u64::from(len), name, device, bank)
    }

    /// IN of 1, 2 or 4 bytes. Ports that nobody claims read as all ones.
    pub fn read(&self, port: u16, size: u8) -> u32 {
        let Some(found) = self.map.find(u64::from(port)) else {
            return if size == 1 { 0xff } else { self.read_bytes(port, size) };
        };
        if found.room < u64::from(size) {
            return self.read_bytes(port, size);
        }
        let mut device = found.device.lock();
        let value = read_device(&mut *device, found.bank, found.offset as u16, size);
        let waiting = device.keeps_waiting(found.bank);
        drop(device);
        if waiting {
            std::thread::yield_now();
        }
        value
    }

    /// OUT of 1, 2 or 4 bytes. Writes to ports that nobody claims vanish.
    pub fn write(&self, port: u16, size: u8, value: u32) {
        match self.map.find(u64::from(port)) {
            Some(found) if found.room >= u64::from(size) => {
                let mut device = found.device.lock();
                write_device(&mut *device, found.bank, found.offset as u16, size, value & mask(size));
            }
            None if size == 1 => {}
            _ => {
                for (index, byte) in value.to_le_bytes().into_iter().take(usize::from(size)).enumerate() {
                    self.write(port.wrapping_add(index as u16), 1, u32::from(byte));
                }
            }
        }
    }

    /// REP INS of `data.len() / size` items.
    pub fn read_string(&self, port: u16, size: u8, data: &mut [u8]) {
        if let Some(found) = self.map.find(u64::from(port)).filter(|found| found.room >= u64::from(size)) {
            let mut device = found.device.lock();
            if device.port_width(found.bank) >= size {
                return device.port_read_string(found.bank, found.offset as u16, size, data);
            }
        }
        for item in data.chunks_exact_mut(usize::from(size)) {
            let value = self.read(port, size).to_le_bytes();
            item.copy_from_slice(&value[..item.len()]);
        }
    }

    /// REP OUTS of `data.len() / size` items.
    pub fn write_string(&self, port: u16, size: u8, data: &[u8]) {
        if let Some(found) = self.map.find(u64::from(port)).filter(|found| found.room >= u64::from(size)) {
            let mut device = found.device.lock();
            if device.port_width(found.bank) >= size {
                return device.port_write_string(found.bank, found.offset as u16, size, data);
            }
        }
        for item in data.chunks_exact(usize::from(size)) {
            self.write(port, size, little_endian(item));
        }
    }

    /// An access that does not lie in one range: byte by byte.
    fn read_bytes(&self, port: u16, size: u8) -> u32 {
        (0..u16::from(size)).rev().fold(0, |value, index| value << 8 | self.read(port.wrapping_add(index), 1))
    }
}

impl std::fmt::Debug for PortBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PortBus")
    }
}

fn read_device(device: &mut dyn PortIo, bank: u8, offset: u16, size: u8) -> u32 {
    let width = device.port_width(bank);
    if size <= width {
        return device.port_read(bank, offset, size) & mask(size);
    }
    let mut value = 0;
    for done in (0..size).step_by(usize::from(width)) {
        let piece = device.port_read(bank, offset + u16::from(done), width) & mask(width);
        value |= piece << (8 * u32::from(done));
    }
    value
}

fn write_device(device: &mut dyn PortIo, bank: u8, offset: u16, size: u8, value: u32) {
    let width = device.port_width(bank);
    if size <= width {
        return device.port_write(bank, offset, size, value);
    }
    for done in (0..size).step_by(usize::from(width)) {
        let piece = value >> (8 * u32::from(done)) & mask(width);
        device.port_write(bank, offset + u16::from(done), width, piece);
    }
}

const fn mask(size: u8) -> u32 {
    match size {
        1 => 0xff,
        2 => 0xffff,
        _ => u32::MAX,
    }
}

/// At most four bytes as a number.
fn little_endian(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
}
