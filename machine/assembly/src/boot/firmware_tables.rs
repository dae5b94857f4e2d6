//! ACPI and SMBIOS tables in the BIOS area, for kernels that are started without a BIOS.

use super::{Plan, PlanError};
use crate::acpi::{AcpiConfig, AcpiTables};
use crate::smbios::{Smbios, SmbiosConfig};

/// Where the RSDP is: at the start of the area that is searched for it.
const RSDP: u32 = 0xe_0000;
const TABLES: u32 = 0xe_0040;
/// Where SMBIOS's entry point is: in the segment that is searched for it.
const SMBIOS_ANCHOR: u32 = 0xf_0000;
const SMBIOS: u32 = 0xf_0020;

/// Both sets of tables.
#[derive(Debug)]
pub struct FirmwareTables {
    acpi: AcpiTables,
    smbios: Smbios,
}

impl FirmwareTables {
    /// Tables for a machine.
    pub fn new(acpi: &AcpiConfig, smbios: &SmbiosConfig) -> FirmwareTables {
        FirmwareTables { acpi: AcpiTables::new(acpi), smbios: Smbios::new(smbios) }
    }

    /// The ACPI tables.
    pub fn acpi(&self) -> &AcpiTables {
        &self.acpi
    }

    /// The SMBIOS tables.
    pub fn smbios(&self) -> &Smbios {
        &self.smbios
    }

    /// Address of the RSDP.
    pub fn rsdp_address(&self) -> u64 {
        RSDP.into()
    }

    /// Puts the tables at their places.
    ///
    /// # Errors
    /// The VM has less than 1 MiB.
    pub fn add_to(&self, plan: &mut Plan) -> Result<(), PlanError> {
        let (tables, rsdp) = self.acpi.placed(TABLES);
        plan.put("the ACPI root pointer", RSDP.into(), rsdp, 0)?;
        plan.put("the ACPI tables", TABLES.into(), tables, 0)?;
        plan.put("the SMBIOS entry point", SMBIOS_ANCHOR.into(), self.smbios.anchor(SMBIOS), 0)?;
        plan.put("the SMBIOS tables", SMBIOS.into(), self.smbios.structures().to_vec(), 0)
    }
}
