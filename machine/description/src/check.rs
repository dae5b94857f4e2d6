//! The limits of a VM, and which of them a description breaks.

use crate::{
    AdapterKind, BootSource, DirectKernel, DriveKind, IoLimits, Medium, NetworkAdapter, SerialConnection, VERSION,
    VmDescription,
};

/// Most virtual processors of a VM.
pub const MAX_VPS: u32 = 64;
/// Least RAM: what the BIOS and a boot loader need.
pub const MIN_MEMORY: u64 = 4 << 20;
/// Most RAM: half of what 40 address bits reach.
pub const MAX_MEMORY: u64 = 512 << 30;
/// Most free memory on top of what a guest uses, in percent.
const MAX_BUFFER: u64 = 2000;
/// Most importance of a VM's memory.
const MAX_WEIGHT: u64 = 10_000;
/// IDE controllers of a VM.
pub const MAX_IDE_CONTROLLERS: u8 = 2;
/// Drives on one IDE controller.
pub const MAX_DEVICES_PER_CONTROLLER: u8 = 2;
/// Synthetic network adapters of a VM.
pub const MAX_SYNTHETIC_ADAPTERS: usize = 8;
/// Legacy network adapters of a VM.
pub const MAX_LEGACY_ADAPTERS: usize = 4;
/// SCSI controllers of a VM.
pub const MAX_SCSI_CONTROLLERS: u8 = 4;
/// Drives on one SCSI controller.
pub const MAX_SCSI_DRIVES: u8 = 64;
/// Longest kernel command line, with the zero at its end (x86 Linux: COMMAND_LINE_SIZE).
const MAX_COMMAND_LINE: usize = 2048;
/// Least bandwidth of a disk, bytes per second: with less a guest gives up its requests.
const LEAST_BANDWIDTH: u64 = 64 << 10;
/// Highest limit of a disk: no disk is that fast.
const MOST_PER_SECOND: u64 = 1 << 40;
/// Longest name of a VM, in bytes.
const MAX_NAME: usize = 255;

/// A limit that a description breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Limit {
    /// Another version of the description.
    #[error("the description has version {found}; this build reads version {VERSION}")]
    Version {
        /// What it says.
        found: u32,
    },
    /// A number outside its range.
    #[error("{what} is {found}; it must be between {least} and {most}")]
    Range {
        /// Which number.
        what: &'static str,
        /// What it is.
        found: String,
        /// The least allowed.
        least: String,
        /// The most allowed.
        most: String,
    },
    /// RAM that is no multiple of its unit.
    #[error("{what} is {found} bytes; it must be a multiple of 1M")]
    MemoryUnit {
        /// Which number.
        what: &'static str,
        /// In bytes.
        found: u64,
    },
    /// A place that is there twice.
    #[error("{what} is given twice")]
    Twice {
        /// What.
        what: String,
    },
    /// A name or text with a character that it cannot have, empty, or too long.
    #[error("{what} {reason}")]
    Text {
        /// Which one.
        what: &'static str,
        /// Why not.
        reason: String,
    },
    /// A hard disk without an image.
    #[error("the disk {drive} has no medium; only CD and floppy drives can be empty")]
    NoMedium {
        /// Its place.
        drive: String,
    },
    /// Things that exclude each other.
    #[error("{what}")]
    Conflict {
        /// Both, and what to do.
        what: String,
    },
}

impl VmDescription {
    /// Checks every limit that needs nothing but the description.
    ///
    /// # Errors
    /// The first limit that is broken.
    pub fn check(&self) -> Result<(), Limit> {
        if self.version != VERSION {
            return Err(Limit::Version { found: self.version });
        }
        check_name("name", &self.name, MAX_NAME)?;
        self.check_processor()?;
        self.check_memory()?;
        self.check_boot()?;
        self.check_drives()?;
        self.check_scsi()?;
        self.check_network()?;
        self.check_serial()
    }

    fn check_network(&self) -> Result<(), Limit> {
        let count = |kind| self.network.iter().filter(|adapter| adapter.kind == kind).count() as u64;
        let limit = |what, kind, most: usize| range(what, count(kind), 0, most as u64, |n| n.to_string());
        limit("the number of synthetic network adapters", AdapterKind::Synthetic, MAX_SYNTHETIC_ADAPTERS)?;
        limit("the number of legacy network adapters", AdapterKind::Legacy, MAX_LEGACY_ADAPTERS)?;
        for (at, NetworkAdapter { kind, address, port }) in self.network.iter().enumerate() {
            if self.network[..at].iter().any(|other| other.address == *address) {
                return Err(Limit::Twice { what: format!("network address {address}") });
            }
            if address.is_group() || address.to_u64() == 0 {
                let what = format!(
                    "{address} is no address of one network adapter; the first byte must be even, as in 00-15-5D"
                );
                return Err(Limit::Conflict { what });
            }
            if *kind == AdapterKind::Synthetic && !self.hyperv.enabled {
                let what = "a synthetic network adapter needs the Hyper-V interface, which is off: make the adapter a legacy one";
                return Err(Limit::Conflict { what: what.into() });
            }
            if let Some(port) = port {
                check_name("network.port.switch", &port.switch, MAX_NAME)?;
            }
        }
        if self.processor.deterministic && self.network.iter().any(|adapter| adapter.port.is_some()) {
            let what = "processor.deterministic allows no network: unplug the adapters";
            return Err(Limit::Conflict { what: what.into() });
        }
        Ok(())
    }

    fn check_processor(&self) -> Result<(), Limit> {
        let processor = &self.processor;
        range("processor.count", processor.count.into(), 1, MAX_VPS.into(), |n| n.to_string())?;
        if processor.deterministic && processor.engine == crate::EngineChoice::Kvm {
            let what = "processor.deterministic needs the software engine, and processor.engine is kvm: set it to soft";
            return Err(Limit::Conflict { what: what.into() });
        }
        Ok(())
    }

    fn check_memory(&self) -> Result<(), Limit> {
        let size = self.memory.size.bytes();
        let text = |bytes| crate::Size::from_bytes(bytes).to_string();
        range("memory.size", size, MIN_MEMORY, MAX_MEMORY, text)?;
        if !size.is_multiple_of(1 << 20) {
            return Err(Limit::MemoryUnit { what: "memory.size", found: size });
        }
        let Some(dynamic) = self.memory.dynamic else { return Ok(()) };
        let (minimum, maximum) = (dynamic.minimum.bytes(), dynamic.maximum.bytes());
        range("memory.dynamic.minimum", minimum, MIN_MEMORY, size, text)?;
        range("memory.dynamic.maximum", maximum, size, MAX_MEMORY, text)?;
        range("memory.dynamic.buffer", dynamic.buffer.into(), 0, MAX_BUFFER, |n| n.to_string())?;
        range("memory.dynamic.weight", dynamic.weight.into(), 1, MAX_WEIGHT, |n| n.to_string())?;
        for (what, found) in [("memory.dynamic.minimum", minimum), ("memory.dynamic.maximum", maximum)] {
            if !found.is_multiple_of(1 << 20) {
                return Err(Limit::MemoryUnit { what, found });
            }
        }
        if !self.hyperv.enabled {
            let what = "memory.dynamic needs the Hyper-V interface, and hyperv.enabled is false: set it to true";
            return Err(Limit::Conflict { what: what.into() });
        }
        Ok(())
    }

    fn check_boot(&self) -> Result<(), Limit> {
        let order = &self.boot.order;
        if let Some(twice) = order.iter().enumerate().find(|(at, source)| order[..*at].contains(source)) {
            return Err(Limit::Twice { what: format!("{:?} in boot.order", twice.1).to_lowercase() });
        }
        let legacy = self.network.iter().any(|adapter| adapter.kind == AdapterKind::Legacy);
        if order.contains(&BootSource::Net) && !legacy {
            let what = "boot.order has net, which needs a legacy network adapter: add one (--nic nat,legacy)";
            return Err(Limit::Conflict { what: what.into() });
        }
        if let Some(DirectKernel { kernel, initrd, command_line }) = &self.direct_kernel {
            check_file("direct_kernel.kernel", kernel)?;
            if let Some(initrd) = initrd {
                check_file("direct_kernel.initrd", initrd)?;
            }
            if command_line.len() >= MAX_COMMAND_LINE {
                let reason = format!("has {} bytes; the limit is {}", command_line.len(), MAX_COMMAND_LINE - 1);
                return Err(Limit::Text { what: "direct_kernel.command_line", reason });
            }
            if command_line.contains('\0') {
                return Err(Limit::Text { what: "direct_kernel.command_line", reason: "contains a zero byte".into() });
            }
        }
        Ok(())
    }

    fn check_drives(&self) -> Result<(), Limit> {
        for (at, drive) in self.ide.iter().enumerate() {
            let last = |count: u8| u64::from(count - 1);
            range("ide.controller", drive.controller.into(), 0, last(MAX_IDE_CONTROLLERS), |n| n.to_string())?;
            range("ide.device", drive.device.into(), 0, last(MAX_DEVICES_PER_CONTROLLER), |n| n.to_string())?;
            if self.ide[..at].iter().any(|other| other.name() == drive.name()) {
                return Err(Limit::Twice { what: drive.name() });
            }
            match &drive.medium {
                Some(medium) => check_medium(&drive.name(), medium, drive.kind == DriveKind::Disk)?,
                None if drive.kind == DriveKind::Disk => return Err(Limit::NoMedium { drive: drive.name() }),
                None => {}
            }
        }
        match self.floppy.as_ref().and_then(|floppy| floppy.medium.as_ref()) {
            Some(medium) => check_medium("floppy", medium, false),
            None => Ok(()),
        }
    }

    fn check_scsi(&self) -> Result<(), Limit> {
        range("the number of SCSI controllers", self.scsi.len() as u64, 0, MAX_SCSI_CONTROLLERS.into(), |n| {
            n.to_string()
        })?;
        if !self.scsi.is_empty() && !self.hyperv.enabled {
            let what = "SCSI controllers need the Hyper-V interface, which is off: attach the disks to IDE controllers";
            return Err(Limit::Conflict { what: what.into() });
        }
        for (number, controller) in self.scsi.iter().enumerate() {
            for (at, drive) in controller.drives.iter().enumerate() {
                let name = drive.name(number);
                let last = u64::from(MAX_SCSI_DRIVES - 1);
                range("scsi.drives.location", drive.location.into(), 0, last, |n| n.to_string())?;
                if controller.drives[..at].iter().any(|other| other.location == drive.location) {
                    return Err(Limit::Twice { what: name });
                }
                match &drive.medium {
                    Some(medium) => check_medium(&name, medium, drive.kind == DriveKind::Disk)?,
                    None if drive.kind == DriveKind::Disk => return Err(Limit::NoMedium { drive: name }),
                    None => {}
                }
            }
        }
        Ok(())
    }

    fn check_serial(&self) -> Result<(), Limit> {
        for (at, serial) in self.serial.iter().enumerate() {
            range("serial.port", serial.port.into(), 1, 2, |n| n.to_string())?;
            if self.serial[..at].iter().any(|other| other.port == serial.port) {
                return Err(Limit::Twice { what: format!("serial port {}", serial.port) });
            }
            if let SerialConnection::File(file) | SerialConnection::Unix(file) = &serial.connection {
                check_file("serial.connection", file)?;
            }
        }
        let stdio = self.serial.iter().filter(|serial| serial.connection == SerialConnection::Stdio).count();
        if stdio > 1 {
            let what = "both serial ports are on stdio; give one of them a file or a socket".into();
            return Err(Limit::Conflict { what });
        }
        Ok(())
    }
}

/// A medium of the drive `drive`; only hard disks are tracked and limited.
fn check_medium(drive: &str, medium: &Medium, is_disk: bool) -> Result<(), Limit> {
    check_file("medium.file", &medium.file)?;
    let conflict = |what: String| Err(Limit::Conflict { what });
    if !is_disk && (medium.tracking.is_some() || !medium.limits.is_none()) {
        return conflict(format!("{drive} is no hard disk: its medium has neither tracking nor limits"));
    }
    if let Some(tracking) = &medium.tracking {
        check_file("medium.tracking.file", &tracking.file)?;
        if medium.read_only {
            return conflict(format!("{drive} is read-only: there are no changes to track"));
        }
    }
    let IoLimits { max_iops, max_bandwidth } = medium.limits;
    range("medium.limits.max_iops", max_iops.unwrap_or(1), 1, MOST_PER_SECOND, |n| n.to_string())?;
    let bandwidth = max_bandwidth.map_or(LEAST_BANDWIDTH, crate::Size::bytes);
    let text = |bytes| crate::Size::from_bytes(bytes).to_string();
    range("medium.limits.max_bandwidth", bandwidth, LEAST_BANDWIDTH, MOST_PER_SECOND, text)
}

fn range(what: &'static str, found: u64, least: u64, most: u64, text: impl Fn(u64) -> String) -> Result<(), Limit> {
    if (least..=most).contains(&found) {
        return Ok(());
    }
    Err(Limit::Range { what, found: text(found), least: text(least), most: text(most) })
}

fn check_name(what: &'static str, name: &str, most: usize) -> Result<(), Limit> {
    let reason = if name.trim().is_empty() {
        "is empty".to_owned()
    } else if name.len() > most {
        format!("has {} bytes; the limit is {most}", name.len())
    } else if name.chars().any(char::is_control) {
        "contains a control character".to_owned()
    } else {
        return Ok(());
    };
    Err(Limit::Text { what, reason })
}

fn check_file(what: &'static str, name: &str) -> Result<(), Limit> {
    if name.contains('\0') {
        return Err(Limit::Text { what, reason: "contains a zero byte".into() });
    }
    if name.is_empty() || name.len() > 4096 {
        return Err(Limit::Text { what, reason: format!("has {} bytes; 1 to 4096 are allowed", name.len()) });
    }
    Ok(())
}
