//! How a VM starts: firmware and boot order, or a kernel directly.

use serde::{Deserialize, Serialize};

/// Firmware and boot order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Boot {
    /// Which firmware.
    pub firmware: Firmware,
    /// Where it looks for an operating system, the first place first.
    pub order: Vec<BootSource>,
    /// What a guest's reset, or a triple fault, does: ends the VM instead of starting it again.
    pub no_reboot: bool,
}

impl Default for Boot {
    fn default() -> Boot {
        let order = vec![BootSource::Disk, BootSource::Cd, BootSource::Floppy];
        Boot { firmware: Firmware::Bios, order, no_reboot: false }
    }
}

/// Firmware of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// PC BIOS.
    #[default]
    Bios,
}

/// A place to boot from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BootSource {
    /// Hard disks, in the order of their controllers.
    Disk,
    /// CD and DVD drives.
    Cd,
    /// The floppy drive.
    Floppy,
    /// The network, through a legacy adapter.
    Net,
}

/// A kernel that is loaded into RAM and entered without firmware: a Linux bzImage, a PVH ELF or a multiboot image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectKernel {
    /// File with the kernel.
    pub kernel: String,
    /// File with the initial RAM disk (multiboot: the first module).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<String>,
    /// Command line.
    #[serde(default)]
    pub command_line: String,
}
