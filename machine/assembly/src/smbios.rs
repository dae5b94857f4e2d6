//! SMBIOS 2.8 tables: who the machine is, its processors and memory. The system's UUID is the VM's id.

use bulkhead_ids::VmId;

/// File of the BIOS with the structures.
pub const TABLES_FILE: &str = "etc/smbios/smbios-tables";
/// File of the BIOS with the entry point.
pub const ANCHOR_FILE: &str = "etc/smbios/smbios-anchor";

/// Length of the entry point.
const ANCHOR_LEN: usize = 31;
const MANUFACTURER: &str = "Bulkhead";
/// Manufacturer and version of the systems on Hyper-V.
const HYPERV: (&str, &str) = ("Microsoft Corporation", "7.0");

/// What the structures tell.
#[derive(Debug, Clone)]
pub struct SmbiosConfig {
    /// Becomes the system's UUID.
    pub id: VmId,
    /// Becomes the family string.
    pub name: String,
    /// Virtual processors, each a core of one socket.
    pub vps: u32,
    /// RAM in bytes.
    pub memory: u64,
    /// The VM has the Hyper-V interface. Guests with drivers for its disks look at these names to leave the emulated ones alone.
    pub hyperv: bool,
}

/// The structures and their entry point.
#[derive(Debug, Clone)]
pub struct Smbios {
    structures: Vec<u8>,
    count: u16,
    largest: u16,
}

impl Smbios {
    /// Builds the structures.
    pub fn new(config: &SmbiosConfig) -> Smbios {
        let mut tables = Smbios { structures: Vec::new(), count: 0, largest: 0 };
        tables.add_system(config);
        tables.add_processor(config.vps);
        tables.add_memory(config.memory);
        // Type 32: no boot errors. Type 127: the end.
        tables.add(32, 0x2000, &[0; 7], &[]);
        tables.add(127, 0x7f00, &[], &[]);
        tables
    }

    /// The structures.
    pub fn structures(&self) -> &[u8] {
        &self.structures
    }

    /// The entry point for structures at `address`.
    pub fn anchor(&self, address: u32) -> Vec<u8> {
        let mut anchor = vec![0; ANCHOR_LEN];
        anchor[..4].copy_from_slice(b"_SM_");
        anchor[5] = ANCHOR_LEN as u8;
        (anchor[6], anchor[7]) = (2, 8);
        anchor[8..10].copy_from_slice(&self.largest.to_le_bytes());
        anchor[16..21].copy_from_slice(b"_DMI_");
        anchor[22..24].copy_from_slice(&(self.structures.len() as u16).to_le_bytes());
        anchor[24..28].copy_from_slice(&address.to_le_bytes());
        anchor[28..30].copy_from_slice(&self.count.to_le_bytes());
        anchor[30] = 0x28;
        anchor[21] = checksum(&anchor[16..]);
        anchor[4] = checksum(&anchor);
        anchor
    }

    fn add_system(&mut self, config: &SmbiosConfig) {
        // BIOS: vendor, version, segment E800h, date, 64 KiB; characteristics: none but "virtual machine".
        let mut bios = vec![1, 2, 0x00, 0xe8, 3, 0];
        bios.extend(0x08u64.to_le_bytes());
        bios.extend([0, 0x1c, 1, 0, 0xff, 0xff]);
        self.add(0, 0x0000, &bios, &[MANUFACTURER, env!("CARGO_PKG_VERSION"), "01/01/2026"]);
        // System: woken by the power switch.
        let mut system = vec![1, 2, 3, 0];
        system.extend(little_endian_uuid(config.id));
        system.extend([6, 0, 4]);
        let name: String = config.name.chars().filter(|c| !c.is_control()).collect();
        let family = if name.is_empty() { "Virtual Machine" } else { &name };
        let (manufacturer, version) = match config.hyperv {
            true => HYPERV,
            false => (MANUFACTURER, env!("CARGO_PKG_VERSION")),
        };
        self.add(1, 0x0100, &system, &[manufacturer, "Virtual Machine", version, family]);
        // Chassis: "other"; states safe; security none.
        let chassis = [1, 1, 2, 0, 0, 3, 3, 3, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        self.add(3, 0x0300, &chassis, &[manufacturer, version]);
    }

    fn add_processor(&mut self, vps: u32) {
        let count = vps.min(255) as u8;
        // Socket, central processor, family "other", manufacturer, id, version, voltage, clock, speeds, enabled, upgrade.
        let mut processor = vec![1, 3, 1, 2];
        processor.extend([0; 8]);
        processor.extend([3, 0, 0, 0, 0xd0, 0x07, 0xd0, 0x07, 0x41, 1]);
        // Caches unknown; serial, asset, part; cores, enabled, threads; 64-bit capable.
        processor.extend([0xff; 6]);
        processor.extend([0, 0, 0, count, count, count, 4, 0, 1, 0]);
        self.add(4, 0x0400, &processor, &["CPU 0", MANUFACTURER, "Bulkhead virtual processor"]);
    }

    fn add_memory(&mut self, memory: u64) {
        let mib = memory >> 20;
        // Array: system board, system memory, no error correction, extended capacity, one device.
        let mut array = vec![3, 3, 3];
        array.extend(0x8000_0000_u32.to_le_bytes());
        array.extend([0xfe, 0xff, 1, 0]);
        array.extend(memory.to_le_bytes());
        self.add(16, 0x1000, &array, &[]);
        let size = u16::try_from(mib).ok().filter(|size| *size < 0x7fff).unwrap_or(0x7fff);
        let mut device = 0x1000u16.to_le_bytes().to_vec();
        device.extend([0xfe, 0xff, 0xff, 0xff, 0xff, 0xff]);
        device.extend(size.to_le_bytes());
        // Form DIMM, no set, locator, bank none, type RAM, detail "other".
        device.extend([9, 0, 1, 0, 7, 2, 0, 0, 0, 2, 0, 0, 0, 0]);
        device.extend(if size == 0x7fff { mib as u32 } else { 0 }.to_le_bytes());
        device.extend([0; 8]);
        self.add(17, 0x1100, &device, &["DIMM 0", MANUFACTURER]);
        let mut range = u32::MAX.to_le_bytes().to_vec();
        range.extend(u32::MAX.to_le_bytes());
        range.extend(0x1000u16.to_le_bytes());
        range.push(1);
        range.extend(0u64.to_le_bytes());
        range.extend((memory - 1).to_le_bytes());
        self.add(19, 0x1300, &range, &[]);
    }

    fn add(&mut self, kind: u8, handle: u16, body: &[u8], strings: &[&str]) {
        let start = self.structures.len();
        self.structures.extend([kind, body.len() as u8 + 4]);
        self.structures.extend(handle.to_le_bytes());
        self.structures.extend(body);
        for string in strings {
            // A string of a structure has at most 64 characters.
            self.structures.extend(string.bytes().take(64));
            self.structures.push(0);
        }
        if strings.is_empty() {
            self.structures.push(0);
        }
        self.structures.push(0);
        self.count += 1;
        self.largest = self.largest.max((self.structures.len() - start) as u16);
    }
}

/// SMBIOS keeps the first three fields of a UUID little-endian.
fn little_endian_uuid(id: VmId) -> [u8; 16] {
    let mut bytes = id.to_bytes();
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    bytes
}

fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte))
}
