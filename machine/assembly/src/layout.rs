//! Where everything is in guest-physical memory and in the port space.

use std::ops::Range;

/// RAM below 4 GiB ends here at the latest; behind it lie PCI devices, controllers and the firmware.
pub const LOW_RAM_LIMIT: u64 = 0xc000_0000;
/// Where RAM goes on.
pub const HIGH_RAM: u64 = 1 << 32;
/// The display adapter's window, a hole in RAM.
pub const VGA_WINDOW: Range<u64> = 0xa_0000..0xc_0000;
/// What the host bridge's PAM registers switch between RAM and ROM.
pub const SHADOW: Range<u64> = 0xc_0000..0x10_0000;
/// I/O APIC.
pub const IOAPIC: u64 = 0xfec0_0000;
/// High precision event timer.
pub const HPET: u64 = 0xfed0_0000;
/// Local APICs.
pub const LOCAL_APIC: u64 = 0xfee0_0000;

/// Base of the power management registers, where SeaBIOS puts it too.
pub const PM_BASE: u16 = 0x600;
/// Interrupt of the power management device.
pub const SCI: u8 = 9;
/// Reset control register of the south bridge.
pub const RESET_PORT: u16 = 0xcf9;
/// Interrupts of the four PCI lines, where SeaBIOS puts them too.
pub const PCI_INTERRUPTS: [u8; 4] = [10, 10, 11, 11];

/// The RAM of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RamLayout {
    /// Bytes from address 0 on.
    pub low: u64,
    /// Bytes from 4 GiB on.
    pub high: u64,
}

impl RamLayout {
    /// Places `size` bytes.
    pub fn new(size: u64) -> RamLayout {
        let low = size.min(LOW_RAM_LIMIT);
        RamLayout { low, high: size - low }
    }

    /// The ranges of RAM.
    pub fn ranges(self) -> impl Iterator<Item = Range<u64>> {
        let high = (self.high > 0).then_some(HIGH_RAM..HIGH_RAM + self.high);
        std::iter::once(0..self.low).chain(high)
    }
}

/// Where 32-bit BARs of PCI devices may be: as SeaBIOS chooses it, from 2 or 3 GiB on.
pub fn pci_window(low_ram: u64) -> Range<u64> {
    const TWO_GIB: u64 = 2 << 30;
    if low_ram <= TWO_GIB { TWO_GIB..IOAPIC } else { LOW_RAM_LIMIT..IOAPIC }
}

/// Where a firmware image of `len` bytes is: it ends at 4 GiB.
pub fn firmware_range(len: u64) -> Range<u64> {
    HIGH_RAM - len..HIGH_RAM
}
