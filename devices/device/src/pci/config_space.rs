//! The 256 bytes of a function's configuration space (PCI Local Bus 3.0, ch. 6): what may be written, and BARs that follow.

use crate::{MmioRegion, PortRegion};
use minicbor::{Decode, Encode};

const SIZE: usize = 256;
const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const COMMAND_PORTS: u16 = 1 << 0;
const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_MASTER: u16 = 1 << 2;

/// What a function says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PciIdentity {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Base class, sub-class and programming interface: `0x010180`.
    pub class: u32,
    /// Subsystem vendor and device id; zeros for none.
    pub subsystem: (u16, u16),
}

/// What a BAR decodes. The length of its region is a power of two, at least 4 ports or 16 bytes (2048 for a ROM).
#[derive(Debug)]
pub enum BarKind {
    /// Ports.
    Ports(PortRegion),
    /// 32-bit memory.
    Memory(MmioRegion),
    /// 32-bit memory without side effects of reads.
    Prefetchable(MmioRegion),
    /// The expansion ROM; its number is [`ConfigSpace::ROM`].
    Rom(MmioRegion),
}

#[derive(Debug)]
struct Bar {
    offset: usize,
    kind: BarKind,
}

/// The configuration space of a function with a type 0 header.
#[derive(Debug)]
pub struct ConfigSpace {
    bytes: [u8; SIZE],
    /// The state after reset.
    initial: [u8; SIZE],
    /// Bits that the guest writes.
    writable: [u8; SIZE],
    /// Bits that the guest clears by writing ones.
    clears: [u8; SIZE],
    bars: Vec<Bar>,
}

/// The saved form: only what the guest or the function changed matters; the rest is made again by the constructor.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SavedConfigSpace {
    /// All 256 bytes.
    #[cbor(n(0), with = "minicbor::bytes")]
    bytes: Vec<u8>,
}

impl ConfigSpace {
    /// The number of the expansion ROM among the BARs.
    pub const ROM: usize = 6;

    /// A header with command, status, cache line, latency and interrupt line registers as usual; no BARs.
    pub fn new(identity: PciIdentity) -> ConfigSpace {
        let zero = [0; SIZE];
        let mut space = ConfigSpace { bytes: zero, initial: zero, writable: zero, clears: zero, bars: Vec::new() };
        space.set_u16(0x00, identity.vendor);
        space.set_u16(0x02, identity.device);
        space.set_u32(0x08, identity.class << 8 | u32::from(identity.revision));
        space.set_u16(0x2c, identity.subsystem.0);
        space.set_u16(0x2e, identity.subsystem.1);
        // Ports, memory, bus master, parity response, SERR, INTx disable.
        space.allow(COMMAND, &[0x47, 0x05]);
        space.allow(0x0c, &[0xff, 0xff]);
        space.allow(0x3c, &[0xff]);
        space.clears[STATUS + 1] = 0xf9;
        space.keep();
        space
    }

    /// Sets the interrupt pin: 1 for INTA.
    #[must_use]
    pub fn with_interrupt_pin(mut self, pin: u8) -> ConfigSpace {
        self.bytes[0x3d] = pin;
        self.keep();
        self
    }

    /// Adds BAR `number` (0 to 5, or [`ConfigSpace::ROM`]).
    #[must_use]
    pub fn with_bar(mut self, number: usize, kind: BarKind) -> ConfigSpace {
        let offset = if number == Self::ROM { 0x30 } else { 0x10 + 4 * number };
        let (len, flags, fixed_bits) = match &kind {
            BarKind::Ports(region) => (region.len(), 1, 0),
            BarKind::Memory(region) => (region.len(), 0, 0),
            BarKind::Prefetchable(region) => (region.len(), 8, 0),
            BarKind::Rom(region) => (region.len(), 0, 1),
        };
        debug_assert!(len.is_power_of_two() && len >= 4, "BAR of {len:#x} bytes");
        let mask = !(u32::try_from(len).unwrap_or(u32::MAX).saturating_sub(1)) | fixed_bits;
        self.allow(offset, &mask.to_le_bytes());
        self.set_u32(offset, flags);
        self.bars.push(Bar { offset, kind });
        self.keep();
        self
    }

    /// Sets bytes at `offset` as they are after reset, and which of their bits the guest may write.
    #[must_use]
    pub fn with_register<const N: usize>(mut self, offset: usize, value: [u8; N], writable: [u8; N]) -> ConfigSpace {
        self.bytes[offset..offset + N].copy_from_slice(&value);
        self.allow(offset, &writable);
        self.keep();
        self
    }

    /// The state after reset, with BARs off the bus.
    pub fn reset(&mut self) {
        self.bytes = self.initial;
        self.place_bars();
    }

    /// The four bytes at `offset`, whose low two bits are ignored.
    pub fn read(&self, offset: u8) -> u32 {
        self.u32(usize::from(offset & !3))
    }

    /// A guest's write of `size` bytes, which must not cross a group of four; BARs follow at once.
    pub fn write(&mut self, offset: u8, size: u8, value: u32) {
        let first = usize::from(offset);
        for (at, new) in (first..SIZE.min((first | 3) + 1)).zip(value.to_le_bytes()).take(usize::from(size)) {
            let kept = self.bytes[at] & !self.writable[at] & !(new & self.clears[at]);
            self.bytes[at] = kept | new & self.writable[at];
        }
        if first < STATUS || (0x10..0x34).contains(&first) {
            self.place_bars();
        }
    }

    /// One byte.
    pub fn u8(&self, offset: usize) -> u8 {
        self.bytes[offset]
    }

    /// Two bytes.
    pub fn u16(&self, offset: usize) -> u16 {
        u16::from_le_bytes([self.bytes[offset], self.bytes[offset + 1]])
    }

    /// Four bytes.
    pub fn u32(&self, offset: usize) -> u32 {
        u32::from(self.u16(offset)) | u32::from(self.u16(offset + 2)) << 16
    }

    /// Sets a byte, whatever the guest may write: for registers that show state of the function.
    pub fn set_u8(&mut self, offset: usize, value: u8) {
        self.bytes[offset] = value;
    }

    /// Sets two bytes, whatever the guest may write.
    pub fn set_u16(&mut self, offset: usize, value: u16) {
        self.bytes[offset..offset + 2].copy_from_slice(&value.to_le_bytes());
    }

    /// Sets four bytes, whatever the guest may write.
    pub fn set_u32(&mut self, offset: usize, value: u32) {
        self.bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }

    /// Whether the function may read and write guest memory.
    pub fn bus_master(&self) -> bool {
        self.u16(COMMAND) & COMMAND_MASTER != 0
    }

    /// Whether the guest switched INTx off.
    pub fn interrupt_disabled(&self) -> bool {
        self.u16(COMMAND) & 1 << 10 != 0
    }

    /// Shows the level of INTx in the status register.
    pub fn set_interrupt_status(&mut self, level: bool) {
        self.bytes[STATUS] = self.bytes[STATUS] & !8 | u8::from(level) << 3;
    }

    /// The saved form.
    pub fn save(&self) -> SavedConfigSpace {
        SavedConfigSpace { bytes: self.bytes.to_vec() }
    }

    /// Takes over a saved state; BARs move to where they were. A saved form of another length changes what it has.
    #[must_use]
    pub fn restored(mut self, saved: &SavedConfigSpace) -> ConfigSpace {
        for (byte, saved) in self.bytes.iter_mut().zip(&saved.bytes) {
            *byte = *saved;
        }
        // Who the function is does not depend on a file.
        for fixed in [0x00..0x04, 0x08..0x0c, 0x0e..0x0f, 0x2c..0x30, 0x34..0x35, 0x3d..0x3e] {
            self.bytes[fixed.clone()].copy_from_slice(&self.initial[fixed]);
        }
        self.place_bars();
        self
    }

    fn allow(&mut self, offset: usize, mask: &[u8]) {
        self.writable[offset..offset + mask.len()].copy_from_slice(mask);
    }

    fn keep(&mut self) {
        self.initial = self.bytes;
    }

    fn place_bars(&mut self) {
        let command = self.u16(COMMAND);
        for bar in &self.bars {
            let value = self.u32(bar.offset);
            match &bar.kind {
                BarKind::Ports(region) => {
                    place(region, value & !3, command & COMMAND_PORTS != 0, 0xffff);
                }
                BarKind::Memory(region) | BarKind::Prefetchable(region) => {
                    place(region, value & !0xf, command & COMMAND_MEMORY != 0, u32::MAX);
                }
                BarKind::Rom(region) => {
                    let on = command & COMMAND_MEMORY != 0 && value & 1 != 0;
                    place(region, value & !0x7ff, on, u32::MAX);
                }
            }
        }
    }
}

/// Zero and the very end of the space mean "not placed": the values before and while a guest sizes the BAR.
fn place<D: ?Sized>(region: &crate::Region<D>, base: u32, decodes: bool, limit: u32) {
    let last = u64::from(base) + region.len() - 1;
    if decodes && base != 0 && last < u64::from(limit) {
        region.move_to(u64::from(base));
    } else {
        region.unmap();
    }
}
