//! What the BIOS is told: its configuration items, and the CMOS bytes that go back to the PC AT.

use crate::MachineError;
use crate::acpi;
use crate::boot::FirmwareTables;
use crate::layout::RamLayout;
use crate::network_boot;
use crate::resources::{NETWORK_BOOT, Resources};
use crate::smbios;
use bulkhead_fw_cfg::{Items, key};
use bulkhead_vm_description::{BootSource, DriveKind, VmDescription};

/// The address at which the BIOS finds SMBIOS structures is its own choice; it corrects the entry point.
const ANYWHERE: u32 = 0;

/// All items for a VM.
///
/// # Errors
/// The network boot program is missing or none; a file name is refused: a mistake here.
pub fn items(
    vm: &VmDescription,
    ram: RamLayout,
    tables: &FirmwareTables,
    resources: &Resources,
) -> Result<Items, MachineError> {
    let mut items = Items::new();
    let vps = (vm.processor.count as u16).to_le_bytes();
    items.set(key::UUID, vm.id.to_bytes().as_slice());
    items.set(key::RAM_SIZE, ram.low.to_le_bytes().as_slice());
    items.set(key::CPUS, vps.as_slice());
    items.set(key::MAX_CPUS, vps.as_slice());
    // No menu, and so no waiting for a key.
    items.set(key::BOOT_MENU, 0u16.to_le_bytes().as_slice());
    items.set(key::IRQ0_OVERRIDE, 1u32.to_le_bytes().as_slice());
    items.add_file("etc/e820", e820(ram))?;
    items.add_file("bootorder", boot_order(vm))?;
    let acpi = tables.acpi().loader_files();
    items.add_file(acpi::TABLES_FILE, acpi.tables)?;
    items.add_file(acpi::RSDP_FILE, acpi.rsdp)?;
    items.add_file(acpi::TABLE_LOADER_FILE, acpi.script)?;
    items.add_file(smbios::TABLES_FILE, tables.smbios().structures().to_vec())?;
    items.add_file(smbios::ANCHOR_FILE, tables.smbios().anchor(ANYWHERE))?;
    if vm.boot.order.contains(&BootSource::Net) {
        network_boot::add(&mut items, &resources.read(NETWORK_BOOT)?)?;
    }
    Ok(items)
}

fn e820(ram: RamLayout) -> Vec<u8> {
    const RAM: u32 = 1;
    let mut map = Vec::new();
    for range in ram.ranges() {
        map.extend(range.start.to_le_bytes());
        map.extend((range.end - range.start).to_le_bytes());
        map.extend(RAM.to_le_bytes());
    }
    map
}

/// Open Firmware paths of all drives, in boot order, a line each.
fn boot_order(vm: &VmDescription) -> Vec<u8> {
    let ide = |kind: DriveKind| {
        let mut drives: Vec<_> = vm.ide.iter().filter(|drive| drive.kind == kind).collect();
        drives.sort_by_key(|drive| (drive.controller, drive.device));
        let path = |controller, device| format!("/pci@i0cf8/ide@1,1/drive@{controller}/disk@{device}");
        drives.into_iter().map(|drive| path(drive.controller, drive.device)).collect::<Vec<_>>()
    };
    let mut paths = Vec::new();
    for source in &vm.boot.order {
        match source {
            BootSource::Disk => paths.extend(ide(DriveKind::Disk)),
            BootSource::Cd => paths.extend(ide(DriveKind::Cd)),
            BootSource::Floppy if vm.floppy.is_some() => paths.push("/pci@i0cf8/isa@1/fdc@03f0/floppy@0".into()),
            BootSource::Floppy => {}
            BootSource::Net => paths.push(network_boot::BOOT_PATH.into()),
        }
    }
    // Whatever is not listed is not tried.
    paths.push("HALT".into());
    let mut bytes = paths.join("\n").into_bytes();
    bytes.push(0);
    bytes
}

/// CMOS bytes (index, value) that the board's maker has set.
pub fn cmos(vm: &VmDescription, ram: RamLayout) -> Vec<(u8, u8)> {
    let mut cmos = Vec::new();
    let mut word = |index: u8, value: u64| {
        let [low, high] = (value.min(0xffff) as u16).to_le_bytes();
        cmos.extend([(index, low), (index + 1, high)]);
    };
    let behind = |start: u64| ram.low.saturating_sub(start);
    word(0x15, 640);
    word(0x17, behind(1 << 20) >> 10);
    word(0x30, behind(1 << 20) >> 10);
    word(0x34, behind(16 << 20) >> 16);
    let high = ram.high >> 16;
    cmos.extend([(0x5b, high as u8), (0x5c, (high >> 8) as u8), (0x5d, (high >> 16) as u8)]);
    // Floppy A: type 4 is 1.44 MB. Equipment: FPU, PS/2 mouse, floppy.
    let floppy = vm.floppy.is_some();
    cmos.extend([(0x10, if floppy { 0x40 } else { 0 }), (0x14, 0x06 | u8::from(floppy))]);
    // Boot order for a BIOS that does not ask for paths: 1 floppy, 2 disk, 3 CD.
    let code = |index: usize| match vm.boot.order.get(index) {
        Some(BootSource::Floppy) => 1,
        Some(BootSource::Disk) => 2,
        Some(BootSource::Cd) => 3,
        // Only by its path.
        Some(BootSource::Net) | None => 0,
    };
    cmos.extend([(0x3d, code(0) | code(1) << 4), (0x38, code(2) << 4 | 1)]);
    cmos.push((0x5f, (vm.processor.count - 1) as u8));
    cmos
}
