//! The description of a VM: what it is made of, in `vm.toml` and in the worker protocol.
//!
//! A description names its files ([`Medium::file`], [`DirectKernel::kernel`], …) and opens none. In `vm.toml` the names are
//! paths, relative to the VM's folder; on the way to a worker they are the names of descriptors that travel beside it.
//!
//! [`VmDescription::check`] holds every limit. Whoever takes a description from outside calls it, or [`from_toml`], which does.

mod boot;
mod check;
mod drives;
#[doc(hidden)]
pub mod fuzz;
mod hyperv;
mod memory;
mod nics;
mod processor;
mod scsi;
mod serial;
mod size;
mod text;
mod vm;

pub use boot::{Boot, BootSource, DirectKernel, Firmware};
pub use check::{
    Limit, MAX_DEVICES_PER_CONTROLLER, MAX_IDE_CONTROLLERS, MAX_LEGACY_ADAPTERS, MAX_MEMORY, MAX_SCSI_CONTROLLERS,
    MAX_SCSI_DRIVES, MAX_SYNTHETIC_ADAPTERS, MAX_VPS, MIN_MEMORY,
};
pub use drives::{ChangeTracking, DriveKind, Floppy, IdeDrive, ImageFormat, IoLimits, Medium};
pub use hyperv::{HyperV, IntegrationServices};
pub use memory::{DynamicMemory, Memory};
pub use nics::{AdapterKind, NetworkAdapter, SwitchPort};
pub use processor::{CpuLevel, EngineChoice, Processor, Tier};
pub use scsi::{ScsiController, ScsiDrive};
pub use serial::{SerialConnection, SerialPort};
pub use size::{ParseSizeError, Size};
pub use text::{TextError, from_toml, to_toml};
pub use vm::{VERSION, VmDescription};
