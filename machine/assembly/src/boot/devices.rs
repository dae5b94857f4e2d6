//! What a BIOS would have done to the devices before it starts a kernel: interrupt routes, and places for what the ACPI tables
//! name. Operating systems place all other BARs themselves.

use crate::layout;
use bulkhead_device::{PciAddress, PciBus, PortBus};
use bulkhead_pci::PowerManagement;

/// Sets up the chipset for a kernel that is started without a BIOS.
pub fn set_up_devices(pci: &PciBus, ports: &PortBus) {
    const COMMAND: u8 = 0x04;
    const PORTS_AND_MASTER: u32 = 5;
    let isa = PciAddress { device: 1, function: 0 };
    let mut level_triggered = 0u16;
    for (register, irq) in (0x60..).zip(layout::PCI_INTERRUPTS) {
        pci.write(isa, register, 1, irq.into());
        level_triggered |= 1 << irq;
    }
    level_triggered |= 1 << layout::SCI;
    ports.write(0x4d0, 1, u32::from(level_triggered) & 0xff);
    ports.write(0x4d1, 1, u32::from(level_triggered) >> 8);

    let power = PciAddress { device: 1, function: 3 };
    pci.write(power, 0x40, 4, u32::from(layout::PM_BASE) | 1);
    pci.write(power, 0x80, 1, 1);
    pci.write(power, COMMAND, 2, 1);
    // Nobody will ask for ACPI mode to be switched on twice, and some kernels do not ask at all.
    ports.write(0xb2, 1, PowerManagement::SMI_COMMANDS.0.into());

    let ide = PciAddress { device: 1, function: 1 };
    // Both channels decode their ports; bus-master registers behind those of power management.
    pci.write(ide, 0x40, 2, 0x8000);
    pci.write(ide, 0x42, 2, 0x8000);
    pci.write(ide, 0x20, 4, 0xc000);
    pci.write(ide, COMMAND, 2, PORTS_AND_MASTER);
}
