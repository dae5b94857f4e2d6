//! From arguments to a VM description. What this build lacks is refused here.

use super::arguments::Arguments;
use crate::exit::Failure;
use bulkhead_ids::VmId;
use bulkhead_vm_description::{
    BootSource, CpuLevel, DirectKernel, DriveKind, DynamicMemory, EngineChoice, Floppy, IdeDrive, ImageFormat,
    IntegrationServices, MAX_SCSI_DRIVES, Medium, ScsiController, ScsiDrive, SerialConnection, SerialPort, Tier,
    VmDescription,
};
use std::path::Path;

/// The id of a VM in deterministic mode.
const DETERMINISTIC_ID: &str = "01900000-0000-7000-8000-000000000001";

/// The description that the arguments ask for.
///
/// # Errors
/// Exit code 2: wrong values, limits, and what this build does not support.
pub fn describe(arguments: &Arguments) -> Result<VmDescription, Failure> {
    let id = match &arguments.id {
        Some(text) => text.parse().map_err(|error| Failure::Usage(format!("--id: {error}")))?,
        // Guests see it, so a run that is to be the same each time needs the same one.
        None if arguments.deterministic => DETERMINISTIC_ID.parse().expect("a constant"),
        None => VmId::new(),
    };
    let mut vm = VmDescription::new(id, arguments.name.clone(), arguments.memory);
    vm.processor.count = arguments.cpus;
    vm.processor.level = cpu_level(&arguments.cpu_level)?;
    vm.processor.engine = engine(&arguments.engine)?;
    vm.processor.tier = tier(&arguments.tier)?;
    vm.processor.deterministic = arguments.deterministic;
    vm.hyperv.enabled = !arguments.no_hyperv;
    if let Some(services) = &arguments.ic {
        vm.hyperv.services = integration_services(services)?;
    }
    if arguments.memory_max.is_some() || arguments.memory_min.is_some() {
        let (minimum, maximum) = (arguments.memory_min, arguments.memory_max);
        let size = arguments.memory;
        vm.memory.dynamic = Some(DynamicMemory::new(minimum.unwrap_or(size), maximum.unwrap_or(size)));
    }
    vm.boot.no_reboot = arguments.no_reboot;
    vm.test_devices = arguments.test_devices;
    boot(arguments, &mut vm)?;
    drives(arguments, &mut vm)?;
    serial(arguments, &mut vm)?;
    Ok(vm)
}

fn cpu_level(text: &str) -> Result<CpuLevel, Failure> {
    match text {
        "v1" => Ok(CpuLevel::V1),
        "v2" => Ok(CpuLevel::V2),
        "v3" => Ok(CpuLevel::V3),
        other => Err(Failure::unsupported(&format!("--cpu-level {other}"), "levels that are: v1, v2, v3")),
    }
}

fn engine(text: &str) -> Result<EngineChoice, Failure> {
    let all = [EngineChoice::Auto, EngineChoice::Soft, EngineChoice::Kvm];
    let found = all.into_iter().find(|engine| engine.name() == text);
    found.ok_or_else(|| Failure::unsupported(&format!("--engine {text}"), "engines that are: auto, soft, kvm"))
}

fn tier(text: &str) -> Result<Tier, Failure> {
    let found = Tier::ALL.into_iter().find(|tier| tier.name() == text);
    found.ok_or_else(|| {
        Failure::unsupported(&format!("--tier {text}"), "tiers that are: auto, interpreter, translator, lockstep")
    })
}

fn boot(arguments: &Arguments, vm: &mut VmDescription) -> Result<(), Failure> {
    match arguments.firmware.as_deref() {
        None | Some("bios") => {}
        Some(other) => {
            return Err(Failure::unsupported(&format!("--firmware {other}"), "firmware that is: bios"));
        }
    }
    let first = match arguments.boot.as_deref() {
        None => None,
        Some("disk") => Some(BootSource::Disk),
        Some("cd") => Some(BootSource::Cd),
        Some("floppy") => Some(BootSource::Floppy),
        Some("net") => Some(BootSource::Net),
        Some(other) => {
            return Err(Failure::unsupported(
                &format!("--boot {other}"),
                "boot sources that are: disk, cd, floppy, net",
            ));
        }
    };
    if let Some(first) = first {
        vm.boot.order.retain(|source| *source != first);
        vm.boot.order.insert(0, first);
    }
    vm.direct_kernel = arguments.kernel.as_deref().map(|kernel| DirectKernel {
        kernel: name(kernel),
        initrd: arguments.initrd.as_deref().map(name),
        command_line: arguments.cmdline.clone().unwrap_or_default(),
    });
    Ok(())
}

/// Disks fill the places from the first one on, CD drives from the third one on, as PCs have them; then what is free.
fn drives(arguments: &Arguments, vm: &mut VmDescription) -> Result<(), Failure> {
    const PLACES: [(u8, u8); 4] = [(0, 0), (0, 1), (1, 0), (1, 1)];
    let mut place = |kind: DriveKind, medium: Medium, preferred: [usize; 4]| {
        let free = preferred.into_iter().map(|at| PLACES[at]).find(|(c, d)| vm.ide_drive(*c, *d).is_none());
        let (controller, device) = free.ok_or_else(|| {
            let count = arguments.disk.len() + arguments.cdrom.len();
            Failure::Usage(format!(
                "{count} IDE drives are asked for; there are 2 controllers with 2 places each, 4 in all"
            ))
        })?;
        vm.ide.push(IdeDrive { controller, device, kind, medium: Some(medium) });
        Ok::<(), Failure>(())
    };
    let mut scsi_disks = Vec::new();
    for disk in arguments.disks() {
        let disk = disk.map_err(Failure::Usage)?;
        check_format(&disk.medium)?;
        if disk.bus == "scsi" {
            scsi_disks.push(disk.medium);
            continue;
        }
        place(DriveKind::Disk, disk.medium, [0, 1, 2, 3])?;
    }
    for path in &arguments.cdrom {
        let medium = Medium { read_only: true, ..raw(path) };
        place(DriveKind::Cd, medium, [2, 3, 1, 0])?;
    }
    vm.scsi = scsi_controllers(scsi_disks);
    vm.floppy = arguments.floppy.as_deref().map(|path| Floppy { medium: Some(raw(path)) });
    Ok(())
}

/// Disks fill the first controller, then the next.
fn scsi_controllers(disks: Vec<Medium>) -> Vec<ScsiController> {
    let drives = disks.into_iter().zip((0..MAX_SCSI_DRIVES).cycle());
    let drives = drives.map(|(medium, location)| ScsiDrive { location, kind: DriveKind::Disk, medium: Some(medium) });
    let drives: Vec<_> = drives.collect();
    drives.chunks(MAX_SCSI_DRIVES.into()).map(|drives| ScsiController { drives: drives.to_vec() }).collect()
}

/// Names of services, or `all` or `none`.
fn integration_services(text: &str) -> Result<IntegrationServices, Failure> {
    let mut services = IntegrationServices::NONE;
    let names = match text {
        "all" => IntegrationServices::NAMES.join(","),
        other => other.to_owned(),
    };
    for name in names.split(',').filter(|name| *name != "none") {
        match services.by_name(name) {
            Some(service) => *service = true,
            None => {
                let names = IntegrationServices::NAMES.join(", ");
                return Err(Failure::unsupported(
                    &format!("--ic {name}"),
                    &format!("services that are: {names}, all, none"),
                ));
            }
        }
    }
    Ok(services)
}

/// Images of other products are never written.
fn check_format(medium: &Medium) -> Result<(), Failure> {
    match medium.format() {
        ImageFormat::Raw | ImageFormat::Vhd | ImageFormat::Vhdx => Ok(()),
        _ if medium.read_only => Ok(()),
        other => {
            let what = format!("writing to {} images ({})", other.name(), medium.file);
            let advice =
                "formats that are written: raw, vhd, vhdx; add ,ro, or convert it with `bulkhead disk convert`";
            Err(Failure::unsupported(&what, advice))
        }
    }
}

fn raw(path: &Path) -> Medium {
    Medium { file: name(path), format: Some(ImageFormat::Raw), ..Medium::default() }
}

fn serial(arguments: &Arguments, vm: &mut VmDescription) -> Result<(), Failure> {
    let given = &arguments.serial;
    if given.len() > 2 {
        return Err(Failure::Usage(format!("--serial is given {} times; a VM has two serial ports", given.len())));
    }
    let default = ["stdio".to_owned()];
    let ports = if given.is_empty() { &default[..] } else { given };
    for (port, text) in (1..).zip(ports) {
        let connection = match text.split_once(':') {
            None if text == "stdio" => SerialConnection::Stdio,
            None if text == "none" => continue,
            Some(("file", path)) if !path.is_empty() => SerialConnection::File(path.into()),
            Some(("unix", path)) if !path.is_empty() => SerialConnection::Unix(path.into()),
            _ => {
                let message = format!("--serial {text}: write stdio, file:PATH, unix:PATH or none");
                return Err(Failure::Usage(message));
            }
        };
        vm.serial.push(SerialPort { port, connection });
    }
    Ok(())
}

/// A path as the name of a file in the description.
fn name(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
