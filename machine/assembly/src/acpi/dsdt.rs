//! The DSDT: processors, the PCI root bridge with its interrupt routing, ISA devices, the sleep state.

use super::{AcpiConfig, OEM_ID, OEM_REVISION, OEM_TABLE_ID, bytes};
use crate::layout;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, PackageBuilder,
    Path, ResourceTemplate, Scope,
};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink};

/// Descriptors that have no type of their own in the library.
struct Raw(&'static [u8]);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(self.0);
    }
}

/// The whole table.
pub fn dsdt(config: &AcpiConfig) -> Vec<u8> {
    let mut dsdt = Sdt::new(*b"DSDT", 36, 2, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    for object in [sleep_states(), processors(config.vps), pci_root(config.low_ram), isa_devices(config)] {
        dsdt.append_slice(&object);
    }
    if config.vmbus {
        dsdt.append_slice(&vmbus());
    }
    dsdt.as_slice().to_vec()
}

/// S5 is sleep type 0 of the power management device.
fn sleep_states() -> Vec<u8> {
    let zero = 0u8;
    bytes(&Name::new(Path::new("_S5_"), &Package::new(vec![&zero, &zero, &zero, &zero])))
}

fn processors(vps: u32) -> Vec<u8> {
    let mut inner = Vec::new();
    for id in 0..vps {
        let path = Path::new(&format!("C{id:03}"));
        let hid = Name::new(Path::new("_HID"), &"ACPI0007");
        let uid = Name::new(Path::new("_UID"), &id);
        inner.extend(bytes(&Device::new(path, vec![&hid, &uid])));
    }
    Scope::raw(Path::new("\\_SB_"), inner)
}

fn pci_root(low_ram: u64) -> Vec<u8> {
    let memory = |start: u64, end: u64, cacheable| {
        AddressSpace::new_memory(cacheable, true, start as u32, (end - 1) as u32, None)
    };
    let cacheable = AddressSpaceCacheable::Cacheable;
    let (vga, window) = (layout::VGA_WINDOW, layout::pci_window(low_ram));
    let buses = AddressSpace::new_bus_number(0u16, 0xff);
    let display = memory(vga.start, vga.end, cacheable);
    let devices = memory(window.start, window.end, AddressSpaceCacheable::NotCacheable);
    let resources = ResourceTemplate::new(vec![&buses, &IO_CONFIG, &LOW_PORTS, &HIGH_PORTS, &display, &devices]);
    let mut routes = PackageBuilder::new();
    for slot in 0..32u32 {
        for pin in 0..4u8 {
            let line = (slot as usize + usize::from(pin) + 3) % 4;
            let (address, gsi) = (slot << 16 | 0xffff, layout::PCI_INTERRUPTS[line]);
            routes.add_element(&Package::new(vec![&address, &pin, &0u8, &gsi]));
        }
    }
    let device = bytes(&Device::new(
        Path::new("PCI0"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0A03")),
            &Name::new(Path::new("_UID"), &0u8),
            &Name::new(Path::new("_CRS"), &resources),
            &Name::new(Path::new("_PRT"), &routes),
        ],
    ));
    Scope::raw(Path::new("\\_SB_"), device)
}

/// CF8h–CFFh, used by the bridge itself.
const IO_CONFIG: Raw = Raw(&[0x47, 1, 0xf8, 0x0c, 0xf8, 0x0c, 1, 8]);
/// Ports 0–CF7h, passed on (word address space, entire range, fixed).
const LOW_PORTS: Raw = Raw(&[0x88, 13, 0, 1, 0x0c, 3, 0, 0, 0, 0, 0xf7, 0x0c, 0, 0, 0xf8, 0x0c]);
/// Ports D00h–FFFFh, passed on.
const HIGH_PORTS: Raw = Raw(&[0x88, 13, 0, 1, 0x0c, 3, 0, 0, 0x00, 0x0d, 0xff, 0xff, 0, 0, 0x00, 0xf3]);
/// DMA channel 2, 8 bits, no bus master, compatibility timing.
const DMA_2: Raw = Raw(&[0x2a, 0x04, 0x00]);

/// One device with fixed ports and interrupt.
fn isa_device(name: &str, hid: &str, uid: u8, resources: Vec<&dyn Aml>) -> Vec<u8> {
    bytes(&Device::new(
        Path::new(name),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new(hid)),
            &Name::new(Path::new("_UID"), &uid),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(resources)),
        ],
    ))
}

fn isa_devices(config: &AcpiConfig) -> Vec<u8> {
    let port = |first: u16, count: u8| IO::new(first, first, 1, count);
    let irq = |number: u32| Interrupt::new(true, true, false, false, number);
    let mut devices = Vec::new();
    devices.extend(isa_device("RTC_", "PNP0B00", 0, vec![&port(0x70, 2), &irq(8)]));
    devices.extend(isa_device("KBD_", "PNP0303", 0, vec![&port(0x60, 1), &port(0x64, 1), &irq(1)]));
    devices.extend(isa_device("MOU_", "PNP0F13", 0, vec![&irq(12)]));
    if config.floppy {
        let resources: Vec<&dyn Aml> = vec![&FLOPPY_PORTS, &FLOPPY_STATUS, &FLOPPY_IRQ, &DMA_2];
        devices.extend(isa_device("FDC0", "PNP0700", 0, resources));
    }
    for (index, (base, number)) in [(0x3f8, 4), (0x2f8, 3)].into_iter().enumerate() {
        if config.serial[index] {
            let name = format!("COM{}", index + 1);
            devices.extend(isa_device(&name, "PNP0501", index as u8 + 1, vec![&port(base, 8), &irq(number)]));
        }
    }
    let hpet = Memory32Fixed::new(false, layout::HPET as u32, 0x400);
    devices.extend(isa_device("HPET", "PNP0103", 0, vec![&hpet]));
    // Ports that belong to no device with a driver: power management.
    let pm = IO::new(layout::PM_BASE, layout::PM_BASE, 1, 64);
    devices.extend(isa_device("PMIO", "PNP0C02", 1, vec![&pm]));
    Scope::raw(Path::new("\\_SB_"), devices)
}

/// VMBus, named as on Hyper-V. It is behind the PCI bridge, because guests give synthetic devices memory out of the windows of
/// what it is behind. Drivers want resources, but use none: interrupt 7 is what no driver mistakes for one to share.
fn vmbus() -> Vec<u8> {
    let resources = ResourceTemplate::new(vec![&VMBUS_IRQ]);
    let device = bytes(&Device::new(
        Path::new("VMBS"),
        vec![
            &Name::new(Path::new("_HID"), &"VMBus"),
            &Name::new(Path::new("_UID"), &0u8),
            &Name::new(Path::new("_STA"), &0xfu8),
            &Name::new(Path::new("_CRS"), &resources),
        ],
    ));
    Scope::raw(Path::new("\\_SB_.PCI0"), device)
}

/// Interrupt 7, edge, active high, not the extended descriptor that Linux would map.
const VMBUS_IRQ: Raw = Raw(&[0x22, 0x80, 0x00]);
const FLOPPY_PORTS: Raw = Raw(&[0x47, 1, 0xf2, 0x03, 0xf2, 0x03, 1, 4]);
const FLOPPY_STATUS: Raw = Raw(&[0x47, 1, 0xf7, 0x03, 0xf7, 0x03, 1, 1]);
/// Interrupt 6, edge, active high.
const FLOPPY_IRQ: Raw = Raw(&[0x22, 0x40, 0x00]);
