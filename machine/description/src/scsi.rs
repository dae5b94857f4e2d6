//! SCSI controllers: synthetic, on VMBus.

use crate::{DriveKind, Medium};
use serde::{Deserialize, Serialize};

/// A SCSI controller with its drives. Its number is its place in the description.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScsiController {
    /// What is attached; drives can be added and removed while the VM runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drives: Vec<ScsiDrive>,
}

/// A drive on a SCSI controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScsiDrive {
    /// Place on the controller, 0 to 63: its logical unit number.
    pub location: u8,
    /// What the drive is.
    pub kind: DriveKind,
    /// What is in it. A disk has one; a DVD drive may be empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub medium: Option<Medium>,
}

impl ScsiDrive {
    /// The drive's name in messages and requests, on controller `controller`: `scsi0.5`.
    pub fn name(&self, controller: usize) -> String {
        format!("scsi{controller}.{}", self.location)
    }
}
