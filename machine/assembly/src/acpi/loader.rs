//! The tables for the BIOS: files and the table loader's script (QEMU's `etc/table-loader`), 128 bytes per command.

use super::{ALIGN, AcpiTables, tables};

/// Name of the file with all tables but the RSDP.
pub const TABLES_FILE: &str = "etc/acpi/tables";
/// Name of the file with the RSDP.
pub const RSDP_FILE: &str = "etc/acpi/rsdp";
/// Name of the file with the script.
pub const TABLE_LOADER_FILE: &str = "etc/table-loader";

const COMMAND: usize = 128;
const NAME: usize = 56;
const ALLOCATE: u32 = 1;
const ADD_POINTER: u32 = 2;
const ADD_CHECKSUM: u32 = 3;
const ZONE_HIGH: u8 = 1;
const ZONE_BIOS: u8 = 2;

/// Contents of the three files.
#[derive(Debug, Clone)]
pub struct LoaderFiles {
    /// [`TABLES_FILE`].
    pub tables: Vec<u8>,
    /// [`RSDP_FILE`].
    pub rsdp: Vec<u8>,
    /// [`TABLE_LOADER_FILE`].
    pub script: Vec<u8>,
}

impl AcpiTables {
    /// The tables as the BIOS wants them.
    pub fn loader_files(&self) -> LoaderFiles {
        let rsdp = tables::rsdp(self.rsdt as u32, self.xsdt as u64);
        let mut blob = self.blob.clone();
        for &(at, _) in &self.tables {
            blob[at + 9] = 0;
        }
        let mut script = Vec::new();
        script.extend(allocate(TABLES_FILE, ALIGN as u32, ZONE_HIGH));
        script.extend(allocate(RSDP_FILE, 16, ZONE_BIOS));
        for &(at, size) in &self.pointers {
            script.extend(add_pointer(TABLES_FILE, TABLES_FILE, at as u32, size as u8));
        }
        for &(at, len) in &self.tables {
            script.extend(add_checksum(TABLES_FILE, at as u32 + 9, at as u32, len as u32));
        }
        script.extend(add_pointer(RSDP_FILE, TABLES_FILE, 16, 4));
        script.extend(add_pointer(RSDP_FILE, TABLES_FILE, 24, 8));
        script.extend(add_checksum(RSDP_FILE, 8, 0, 20));
        script.extend(add_checksum(RSDP_FILE, 32, 0, 36));
        LoaderFiles { tables: blob, rsdp, script }
    }
}

fn command(kind: u32, parts: &[&[u8]]) -> [u8; COMMAND] {
    let mut command = [0; COMMAND];
    command[..4].copy_from_slice(&kind.to_le_bytes());
    let mut at = 4;
    for part in parts {
        command[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    command
}

fn name(text: &str) -> [u8; NAME] {
    let mut name = [0; NAME];
    name[..text.len()].copy_from_slice(text.as_bytes());
    name
}

fn allocate(file: &str, align: u32, zone: u8) -> [u8; COMMAND] {
    command(ALLOCATE, &[&name(file), &align.to_le_bytes(), &[zone]])
}

fn add_pointer(file: &str, to: &str, offset: u32, size: u8) -> [u8; COMMAND] {
    command(ADD_POINTER, &[&name(file), &name(to), &offset.to_le_bytes(), &[size]])
}

fn add_checksum(file: &str, result: u32, start: u32, len: u32) -> [u8; COMMAND] {
    command(ADD_CHECKSUM, &[&name(file), &result.to_le_bytes(), &start.to_le_bytes(), &len.to_le_bytes()])
}
