//! ACPI tables: one set of bytes, placed by us for a direct boot or by the BIOS through its table loader.

mod dsdt;
mod loader;
mod tables;

use crate::layout;
use acpi_tables::fadt::{FADT, FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::{Aml, AmlSink};
use bulkhead_pci::PowerManagement;

pub use loader::{LoaderFiles, RSDP_FILE, TABLE_LOADER_FILE, TABLES_FILE};

/// Who made the tables.
const OEM_ID: [u8; 6] = *b"BLKHD ";
const OEM_TABLE_ID: [u8; 8] = *b"BULKHEAD";
const OEM_REVISION: u32 = 1;
/// Tables and the RSDP start at multiples of this; the FACS must.
const ALIGN: usize = 64;

/// What the tables depend on.
#[derive(Debug, Clone, Copy)]
pub struct AcpiConfig {
    /// Virtual processors.
    pub vps: u32,
    /// Which of COM1 and COM2 are there.
    pub serial: [bool; 2],
    /// Whether there is a floppy controller.
    pub floppy: bool,
    /// Whether there is a VMBus.
    pub vmbus: bool,
    /// Bytes of RAM below 4 GiB: PCI devices are behind it.
    pub low_ram: u64,
}

/// All tables, relocatable.
#[derive(Debug, Clone)]
pub struct AcpiTables {
    /// All but the RSDP, one behind the other.
    blob: Vec<u8>,
    /// Places in `blob` that hold an offset into `blob` and need the base added: (offset, 4 or 8 bytes).
    pointers: Vec<(usize, usize)>,
    /// Tables with a checksum: (offset, length).
    tables: Vec<(usize, usize)>,
    rsdt: usize,
    xsdt: usize,
}

impl AcpiTables {
    /// Builds the tables of a VM.
    pub fn new(config: &AcpiConfig) -> AcpiTables {
        let mut tables = AcpiTables { blob: Vec::new(), pointers: Vec::new(), tables: Vec::new(), rsdt: 0, xsdt: 0 };
        let facs = tables.add_bytes(&tables::facs());
        let dsdt = tables.add(&dsdt::dsdt(config));
        let fadt = tables.add(&bytes(&fadt(facs, dsdt)));
        tables.pointers.extend([(fadt + 36, 4), (fadt + 40, 4)]);
        let madt = tables.add(tables::madt(config.vps).as_slice());
        let hpet = tables.add(tables::hpet().as_slice());
        let entries = [fadt, madt, hpet];
        tables.rsdt = tables.add_root(*b"RSDT", 4, &entries);
        tables.xsdt = tables.add_root(*b"XSDT", 8, &entries);
        tables
    }

    /// Everything at its place in memory: the tables at `base`, and the RSDP, which goes anywhere on a multiple of 16 in
    /// the BIOS area.
    pub fn placed(&self, base: u32) -> (Vec<u8>, Vec<u8>) {
        let mut blob = self.blob.clone();
        for &(at, size) in &self.pointers {
            // Offsets fit 32 bits, and so do the sums: tables are placed below 4 GiB.
            let mut value = [0; 8];
            value[..size].copy_from_slice(&blob[at..at + size]);
            let value = u64::from_le_bytes(value) + u64::from(base);
            blob[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
        }
        for &(at, len) in &self.tables {
            blob[at + 9] = 0;
            blob[at + 9] = checksum(&blob[at..at + len]);
        }
        let mut rsdp = tables::rsdp(base + self.rsdt as u32, u64::from(base) + self.xsdt as u64);
        rsdp[8] = checksum(&rsdp[..20]);
        rsdp[32] = checksum(&rsdp);
        (blob, rsdp)
    }

    fn add_bytes(&mut self, table: &[u8]) -> usize {
        let at = self.blob.len().next_multiple_of(ALIGN);
        self.blob.resize(at, 0);
        self.blob.extend_from_slice(table);
        at
    }

    fn add(&mut self, table: &[u8]) -> usize {
        let at = self.add_bytes(table);
        self.tables.push((at, table.len()));
        at
    }

    fn add_root(&mut self, signature: [u8; 4], pointer: usize, entries: &[usize]) -> usize {
        let root = self.add(tables::root(signature, pointer, entries).as_slice());
        self.pointers.extend((0..entries.len()).map(|index| (root + 36 + index * pointer, pointer)));
        root
    }
}

fn fadt(facs: usize, dsdt: usize) -> FADT {
    let pm = u32::from(layout::PM_BASE);
    // SLP_BUTTON set says that there is no fixed sleep button; PWR_BUTTON clear, that there is a fixed power button.
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .firmware_ctrl_32(facs as u32)
        .dsdt_32(dsdt as u32)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup);
    // The BIOS leaves ACPI mode off; this port and these values switch it.
    let (on, off) = PowerManagement::SMI_COMMANDS;
    fadt.smi_cmd = 0xb2.into();
    (fadt.acpi_enable, fadt.acpi_disable) = (on, off);
    fadt.sci_int = u16::from(layout::SCI).into();
    fadt.pm1a_evt_blk = pm.into();
    fadt.pm1a_cnt_blk = (pm + 4).into();
    fadt.pm_tmr_blk = (pm + 8).into();
    (fadt.pm1_evt_len, fadt.pm1_cnt_len, fadt.pm_tmr_len) = (4, 2, 4);
    // C2 and C3 do not exist.
    (fadt.p_lvl2_lat, fadt.p_lvl3_lat) = (0xfff.into(), 0xfff.into());
    fadt.century = 0x32;
    // Legacy devices and a keyboard controller are there.
    fadt.iapc_boot_arch = 3.into();
    fadt.reset_reg = GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, layout::RESET_PORT.into());
    fadt.reset_value = 6;
    fadt.finalize()
}

fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte))
}

/// Collects what a table or an AML object writes.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl AmlSink for Bytes {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }
}

fn bytes(object: &dyn Aml) -> Vec<u8> {
    let mut sink = Bytes::default();
    object.to_aml_bytes(&mut sink);
    sink.0
}
