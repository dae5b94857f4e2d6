//! The Hyper-V interface of a VM, and its integration services.

use serde::{Deserialize, Serialize};

/// Whether the guest finds a Hyper-V host, and what that host does for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HyperV {
    /// The guest sees the interface and VMBus. Without it the VM is a plain PC.
    pub enabled: bool,
    /// Integration services.
    #[serde(skip_serializing_if = "IntegrationServices::is_default")]
    pub services: IntegrationServices,
}

impl Default for HyperV {
    fn default() -> HyperV {
        HyperV { enabled: true, services: IntegrationServices::default() }
    }
}

impl HyperV {
    /// As in a VM that says nothing about it.
    pub fn is_default(&self) -> bool {
        *self == HyperV::default()
    }
}

/// Which integration services are offered to the guest. All are but file copy, which people switch on when they need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IntegrationServices {
    /// Shut the guest down from the host.
    pub shutdown: bool,
    /// Set the guest's clock.
    pub time: bool,
    /// See whether the guest is alive.
    pub heartbeat: bool,
    /// Exchange keys and values.
    pub kvp: bool,
    /// Freeze file systems for backups.
    pub vss: bool,
    /// Copy files into the guest.
    pub file_copy: bool,
}

impl Default for IntegrationServices {
    fn default() -> IntegrationServices {
        IntegrationServices { shutdown: true, time: true, heartbeat: true, kvp: true, vss: true, file_copy: false }
    }
}

impl IntegrationServices {
    /// None at all.
    pub const NONE: IntegrationServices = IntegrationServices {
        shutdown: false,
        time: false,
        heartbeat: false,
        kvp: false,
        vss: false,
        file_copy: false,
    };

    /// Names, as on the command line.
    pub const NAMES: [&str; 6] = ["shutdown", "time", "heartbeat", "kvp", "vss", "file-copy"];

    /// The switch of the service called `name`.
    pub fn by_name(&mut self, name: &str) -> Option<&mut bool> {
        Some(match name {
            "shutdown" => &mut self.shutdown,
            "time" => &mut self.time,
            "heartbeat" => &mut self.heartbeat,
            "kvp" => &mut self.kvp,
            "vss" => &mut self.vss,
            "file-copy" => &mut self.file_copy,
            _ => return None,
        })
    }

    /// As in a VM that says nothing about them.
    pub fn is_default(&self) -> bool {
        *self == IntegrationServices::default()
    }
}
