//! The tables with fixed contents.

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::layout;
use acpi_tables::sdt::Sdt;

fn table(signature: [u8; 4], revision: u8) -> Sdt {
    Sdt::new(signature, 36, revision, OEM_ID, OEM_TABLE_ID, OEM_REVISION)
}

/// Processors and interrupt controllers (ACPI 6.5, 5.2.12).
pub fn madt(vps: u32) -> Sdt {
    const PCAT_COMPAT: u32 = 1;
    const ENABLED: u32 = 1;
    let mut madt = table(*b"APIC", 3);
    madt.append_slice(&(layout::LOCAL_APIC as u32).to_le_bytes());
    madt.append_slice(&PCAT_COMPAT.to_le_bytes());
    for id in 0..vps as u8 {
        madt.append_slice(&[0, 8, id, id]);
        madt.append_slice(&ENABLED.to_le_bytes());
    }
    // I/O APIC 0, its address, its first interrupt.
    madt.append_slice(&[1, 12, 0, 0]);
    madt.append_slice(&(layout::IOAPIC as u32).to_le_bytes());
    madt.append_slice(&0u32.to_le_bytes());
    // The PIT is at input 2; the SCI is level-triggered, active high.
    madt.append_slice(&interrupt_override(0, 2, 0));
    madt.append_slice(&interrupt_override(layout::SCI, layout::SCI.into(), 0xd));
    // NMI at LINT1 of all processors.
    madt.append_slice(&[4, 6, 0xff, 0, 0, 1]);
    madt
}

fn interrupt_override(irq: u8, gsi: u32, flags: u16) -> [u8; 10] {
    let (gsi, flags) = (gsi.to_le_bytes(), flags.to_le_bytes());
    [2, 10, 0, irq, gsi[0], gsi[1], gsi[2], gsi[3], flags[0], flags[1]]
}

/// The HPET (IA-PC HPET 1.0a, 3.2.4): three comparators, 64-bit counter, replaces legacy interrupts.
pub fn hpet() -> Sdt {
    let mut hpet = table(*b"HPET", 1);
    hpet.append_slice(&0x8086_a201_u32.to_le_bytes());
    hpet.append_slice(&[0, 64, 0, 0]);
    hpet.append_slice(&layout::HPET.to_le_bytes());
    // Number 0, shortest period of a periodic timer, no page protection.
    hpet.append_slice(&[0, 0x80, 0, 0]);
    hpet
}

/// RSDT or XSDT; the entries are offsets until the tables are placed.
pub fn root(signature: [u8; 4], pointer: usize, entries: &[usize]) -> Sdt {
    let mut root = table(signature, 1);
    for entry in entries {
        root.append_slice(&(*entry as u64).to_le_bytes()[..pointer]);
    }
    root
}

/// The FACS: has no checksum, and OSs write into it.
pub fn facs() -> Vec<u8> {
    let mut facs = vec![0; 64];
    facs[..4].copy_from_slice(b"FACS");
    facs[4] = 64;
    facs[32] = 1;
    facs
}

/// The RSDP without its checksums.
pub fn rsdp(rsdt: u32, xsdt: u64) -> Vec<u8> {
    let mut rsdp = vec![0; 36];
    rsdp[..8].copy_from_slice(b"RSD PTR ");
    rsdp[9..15].copy_from_slice(&OEM_ID);
    rsdp[15] = 2;
    rsdp[16..20].copy_from_slice(&rsdt.to_le_bytes());
    rsdp[20] = 36;
    rsdp[24..32].copy_from_slice(&xsdt.to_le_bytes());
    rsdp
}
