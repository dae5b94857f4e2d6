//! A machine: the memory, processors, chipset and devices of one VM, assembled from its description.

pub mod acpi;
pub mod boot;
pub mod layout;
pub mod smbios;
