//! Changing the media of CD and floppy drives while the VM runs.

use crate::disks::DiskFiles;
use crate::vm::Vm;
use anyhow::{Context, Result, bail};
use bulkhead_floppy::FloppyController;
use bulkhead_ide::{IdeController, Slot};
use bulkhead_vm_description::Medium;
use bulkhead_worker_protocol::VmState;
use parking_lot::Mutex;
use std::sync::Arc;

/// The name of the floppy drive.
const FLOPPY: &str = "floppy";

/// Which drive a name means.
fn slot(drive: &str) -> Result<Slot> {
    let parse = |text: &str| text.parse::<u8>().ok().filter(|number| *number < 2);
    let places = drive.strip_prefix("ide").and_then(|rest| rest.split_once('.'));
    match places.and_then(|(channel, drive)| Some((parse(channel)?, parse(drive)?))) {
        Some((channel, drive)) => Ok(Slot { channel, drive }),
        None => bail!("there is no drive {drive}; the drives are ide0.0 to ide1.1, and floppy"),
    }
}

/// Puts a medium into a drive. Its file has been passed.
///
/// # Errors
/// No such drive, a locked tray, a file that cannot be used.
pub fn insert(vm: &mut Vm, drive: &str, medium: &Medium) -> Result<Option<VmState>> {
    let slot = if drive == FLOPPY { None } else { Some(slot(drive)?) };
    let files = DiskFiles::take(medium, vm.resources())?;
    let disk = vm.io().open(medium, slot.is_some() || medium.read_only, "", files)?;
    match slot {
        Some(slot) => controller(vm)?.lock().insert(slot, disk, false)?,
        None => drop(floppy_drive(vm)?.lock().change_medium(0, Some(disk))?),
    }
    Ok(None)
}

/// Takes the medium out of a drive.
///
/// # Errors
/// No such drive, a locked tray.
pub fn eject(vm: &mut Vm, drive: &str) -> Result<Option<VmState>> {
    match drive {
        FLOPPY => drop(floppy_drive(vm)?.lock().change_medium(0, None)?),
        _ => drop(controller(vm)?.lock().eject(slot(drive)?, false)?),
    }
    Ok(None)
}

fn floppy_drive(vm: &Vm) -> Result<Arc<Mutex<FloppyController>>> {
    vm.machine().handles().floppy.clone().context("this VM has no floppy drive")
}

fn controller(vm: &Vm) -> Result<Arc<Mutex<IdeController>>> {
    vm.machine().handles().ide.clone().context("this VM has no IDE controller")
}
