//! The whole of a VM.

use crate::{
    Boot, DirectKernel, Floppy, HyperV, IdeDrive, Memory, NetworkAdapter, Processor, ScsiController, SerialPort, Size,
};
use bulkhead_ids::VmId;
use serde::{Deserialize, Serialize};

/// The version of the description that this build writes.
pub const VERSION: u32 = 1;

/// Everything a worker must know to make a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmDescription {
    /// Form of this description: [`VERSION`].
    pub version: u32,
    /// Identity. Guests see it as the system's UUID in SMBIOS.
    pub id: VmId,
    /// What people call the VM. Not unique.
    pub name: String,
    /// Free text for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub notes: String,
    /// RAM.
    pub memory: Memory,
    /// Virtual processors.
    #[serde(default)]
    pub processor: Processor,
    /// Firmware and where it looks for an operating system.
    #[serde(default)]
    pub boot: Boot,
    /// A kernel that is started without firmware.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct_kernel: Option<DirectKernel>,
    /// Up to two IDE controllers with two drives each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ide: Vec<IdeDrive>,
    /// Up to four SCSI controllers with 64 drives each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scsi: Vec<ScsiController>,
    /// The floppy drive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floppy: Option<Floppy>,
    /// The Hyper-V interface and its integration services.
    #[serde(default, skip_serializing_if = "HyperV::is_default")]
    pub hyperv: HyperV,
    /// Network adapters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub network: Vec<NetworkAdapter>,
    /// COM1 and COM2.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub serial: Vec<SerialPort>,
    /// The exit and console ports that bare-metal test programs expect.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub test_devices: bool,
}

impl VmDescription {
    /// A VM with one processor and no drives.
    pub fn new(id: VmId, name: impl Into<String>, memory: Size) -> VmDescription {
        VmDescription {
            version: VERSION,
            id,
            name: name.into(),
            notes: String::new(),
            memory: Memory { size: memory, dynamic: None },
            processor: Processor::default(),
            boot: Boot::default(),
            direct_kernel: None,
            ide: Vec::new(),
            scsi: Vec::new(),
            floppy: None,
            hyperv: HyperV::default(),
            network: Vec::new(),
            serial: Vec::new(),
            test_devices: false,
        }
    }

    /// The IDE drive at a place.
    pub fn ide_drive(&self, controller: u8, device: u8) -> Option<&IdeDrive> {
        self.ide.iter().find(|drive| drive.controller == controller && drive.device == device)
    }

    /// The connection of COM`port`; an absent port has none.
    pub fn serial_port(&self, port: u8) -> Option<&SerialPort> {
        self.serial.iter().find(|serial| serial.port == port)
    }
}
