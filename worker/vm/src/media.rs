//! Drives while the VM runs: adding and removing those of SCSI controllers, changing the media of CD and floppy drives.

use crate::disks::DiskFiles;
use crate::vm::Vm;
use anyhow::{Context, Result, bail};
use bulkhead_device::QuiesceToken;
use bulkhead_floppy::FloppyController;
use bulkhead_ide::{IdeController, Slot};
use bulkhead_machine::ControllerHandle;
use bulkhead_vm_description::{DriveKind, Medium};
use bulkhead_vmbus_storage::LunConfig;
use bulkhead_worker_protocol::VmState;
use crossbeam_channel::bounded;
use parking_lot::Mutex;
use std::sync::Arc;

/// The name of the floppy drive.
const FLOPPY: &str = "floppy";

/// A place for a drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Floppy,
    Ide(Slot),
    Scsi { controller: u8, lun: u8 },
}

/// Which drive a name means.
fn place(drive: &str) -> Result<Place> {
    let numbers = |prefix: &str| {
        let (first, second) = drive.strip_prefix(prefix)?.split_once('.')?;
        Some((first.parse::<u8>().ok()?, second.parse::<u8>().ok()?))
    };
    if drive == FLOPPY {
        return Ok(Place::Floppy);
    }
    if let Some((channel @ 0..2, drive @ 0..2)) = numbers("ide") {
        return Ok(Place::Ide(Slot { channel, drive }));
    }
    if let Some((controller, lun)) = numbers("scsi") {
        return Ok(Place::Scsi { controller, lun });
    }
    bail!("there is no drive {drive}; the drives are ide0.0 to ide1.1, scsi0.0 to scsi3.63, and floppy")
}

fn scsi_place(drive: &str) -> Result<(u8, u8)> {
    match place(drive)? {
        Place::Scsi { controller, lun } => Ok((controller, lun)),
        _ => bail!("{drive} cannot be added or removed while the VM runs; drives of SCSI controllers can"),
    }
}

/// Adds a drive to a SCSI controller. Its files have been passed.
///
/// # Errors
/// No such place, or it is taken; files that cannot be used.
pub fn attach(vm: &mut Vm, drive: &str, kind: DriveKind, medium: Option<&Medium>) -> Result<Option<VmState>> {
    let (number, lun) = scsi_place(drive)?;
    let controller = scsi_controller(vm, number)?;
    if controller.lock().luns().any(|used| used == lun) {
        bail!("{drive} is in use; choose another place, or remove what is there");
    }
    let disk = match medium {
        Some(medium) => {
            let files = DiskFiles::take(medium, vm.resources())?;
            Some(vm.io().open(medium, kind == DriveKind::Cd || medium.read_only, "", files)?)
        }
        None => None,
    };
    let config = match (kind, disk) {
        (DriveKind::Cd, disk) => LunConfig::Dvd(disk),
        (DriveKind::Disk, Some(disk)) => LunConfig::Disk(disk),
        (DriveKind::Disk, None) => bail!("the disk {drive} has no medium; only DVD drives can be empty"),
    };
    controller.lock().attach(lun, config)?;
    if let Some(medium) = medium {
        vm.removable().insert(drive.to_owned(), medium.file.clone());
    }
    Ok(None)
}

/// Removes a drive from a SCSI controller, and closes its files.
///
/// # Errors
/// No such place, or it is empty; a disk that cannot be left cleanly closed.
pub fn detach(vm: &mut Vm, drive: &str) -> Result<Option<VmState>> {
    let (number, lun) = scsi_place(drive)?;
    let (is_unused, unused) = bounded(1);
    let token = QuiesceToken::new(move || {
        let _ = is_unused.send(());
    });
    scsi_controller(vm, number)?.lock().detach(lun, token)?;
    // Disks answer every request, in the end with an error.
    let _ = unused.recv();
    if let Some(file) = vm.removable().remove(drive) {
        vm.io().close_one(&file).with_context(|| format!("{drive} is removed, but was not closed well"))?;
    }
    Ok(None)
}

/// Puts a medium into a drive. Its file has been passed.
///
/// # Errors
/// No such drive, a locked tray, a file that cannot be used.
pub fn insert(vm: &mut Vm, drive: &str, medium: &Medium) -> Result<Option<VmState>> {
    let place = place(drive)?;
    let files = DiskFiles::take(medium, vm.resources())?;
    let disk = vm.io().open(medium, place != Place::Floppy || medium.read_only, "", files)?;
    match place {
        Place::Floppy => drop(floppy_drive(vm)?.lock().change_medium(0, Some(disk))?),
        Place::Ide(slot) => controller(vm)?.lock().insert(slot, disk, false)?,
        Place::Scsi { controller, lun } => scsi_controller(vm, controller)?.lock().insert(lun, disk, false)?,
    }
    Ok(None)
}

/// Takes the medium out of a drive.
///
/// # Errors
/// No such drive, a locked tray.
pub fn eject(vm: &mut Vm, drive: &str) -> Result<Option<VmState>> {
    match place(drive)? {
        Place::Floppy => drop(floppy_drive(vm)?.lock().change_medium(0, None)?),
        Place::Ide(slot) => drop(controller(vm)?.lock().eject(slot, false)?),
        Place::Scsi { controller, lun } => scsi_controller(vm, controller)?.lock().eject(lun, false)?,
    }
    Ok(None)
}

fn floppy_drive(vm: &Vm) -> Result<Arc<Mutex<FloppyController>>> {
    vm.machine().handles().floppy.clone().context("this VM has no floppy drive")
}

fn controller(vm: &Vm) -> Result<Arc<Mutex<IdeController>>> {
    vm.machine().handles().ide.clone().context("this VM has no IDE controller")
}

fn scsi_controller(vm: &Vm, number: u8) -> Result<ControllerHandle> {
    let controller = vm.machine().handles().scsi.get(usize::from(number)).cloned();
    controller.with_context(|| format!("this VM has no SCSI controller {number}"))
}
