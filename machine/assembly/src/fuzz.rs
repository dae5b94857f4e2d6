//! Kernels of a hostile author: each form with a header of random numbers.

use crate::acpi::AcpiConfig;
use crate::boot::{FirmwareTables, Images, plan};
use crate::layout::RamLayout;
use crate::smbios::SmbiosConfig;
use bulkhead_engine::VpState;
use bulkhead_ids::VmId;
use std::sync::OnceLock;

const RAM: u64 = 64 << 20;

/// The first byte chooses the form, the others come in groups of four: where to change the kernel, and to what.
pub fn fuzz(data: &[u8]) {
    static TABLES: OnceLock<FirmwareTables> = OnceLock::new();
    let Some((form, edits)) = data.split_first() else { return };
    let mut kernel = template(*form);
    for edit in edits.chunks_exact(4) {
        // Most numbers that matter are at the beginning.
        let at = usize::from(u16::from_le_bytes([edit[0], edit[1]])) % if edit[2] & 3 == 0 { 0x1000 } else { 0x300 };
        kernel[at] = edit[3];
    }
    kernel.truncate(kernel.len() - edits.len() % 0x700);
    let ram = RamLayout::new(RAM);
    let tables = TABLES.get_or_init(|| {
        let acpi = AcpiConfig { vps: 1, serial: [true, false], floppy: false, vmbus: false, low_ram: RAM };
        let smbios = SmbiosConfig { id: VmId::new(), name: "fuzz".into(), vps: 1, memory: RAM, hyperv: false };
        FirmwareTables::new(&acpi, &smbios)
    });
    let initrd = (form & 0x10 != 0).then_some(&[7u8; 5000][..]);
    let images = Images { kernel: &kernel, initrd, command_line: "a line" };
    if let Ok(plan) = plan(images, ram, tables, VpState::power_on(0, 0)) {
        assert!(plan.len() <= RAM, "a plan of {} bytes for {RAM} bytes of RAM", plan.len());
    }
}

/// A small kernel of one of the forms.
fn template(form: u8) -> Vec<u8> {
    let mut kernel = vec![0; 0x2000];
    let mut set = |at: usize, bytes: &[u8]| kernel[at..at + bytes.len()].copy_from_slice(bytes);
    let word = |value: u32| value.to_le_bytes();
    match form % 4 {
        0 => {
            set(0x1f1, &[2]);
            set(0x1fe, &[0x55, 0xaa, 0xeb, 0x66]);
            set(0x202, b"HdrS\x0f\x02");
            set(0x22c, &word(0x37ff_ffff));
            set(0x238, &word(0x7ff));
        }
        1 => {
            // ELF64 with one segment at 1 MiB and the PVH note.
            set(0, b"\x7fELF\x02\x01\x01");
            set(0x18, &word(0x10_0000));
            set(0x20, &word(0x40));
            set(0x36, &[56, 0, 2, 0]);
            for (at, kind, offset, len) in [(0x40, 1, 0x1000u32, 0x800), (0x78, 4, 0x200, 0x14)] {
                set(at, &word(kind));
                set(at + 8, &word(offset));
                set(at + 24, &word(0x10_0000));
                set(at + 32, &word(len));
                set(at + 40, &word(len));
            }
            for (index, value) in [4, 4, 18, u32::from_le_bytes(*b"Xen\0"), 0x10_0000].into_iter().enumerate() {
                set(0x200 + 4 * index, &word(value));
            }
        }
        form => {
            // Multiboot: with addresses in the header, or an ELF32.
            let flags = if form == 2 { 0x1_0003 } else { 3 };
            for (index, value) in [0x1bad_b002, flags, 0u32.wrapping_sub(0x1bad_b002 + flags)].into_iter().enumerate() {
                set(0x100 + 4 * index, &word(value));
            }
            for (index, value) in [0x10_0100, 0x10_0000, 0x10_1000, 0x10_3000, 0x10_0200].into_iter().enumerate() {
                set(0x10c + 4 * index, &word(value));
            }
            if form == 3 {
                set(0, b"\x7fELF\x01\x01\x01");
                set(0x18, &word(0x10_0000));
                set(0x1c, &word(0x40));
                set(0x2a, &[32, 0, 1, 0]);
                for (index, value) in [1, 0x1000, 0x10_0000, 0x10_0000, 0x800, 0x900].into_iter().enumerate() {
                    set(0x40 + 4 * index, &word(value));
                }
            }
        }
    }
    kernel
}
