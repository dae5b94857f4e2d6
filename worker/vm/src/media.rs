//! Changing the media of CD and floppy drives while the VM runs.

use crate::vm::Vm;
use anyhow::{Context, Result, bail};
use bulkhead_ide::Slot;
use bulkhead_vm_description::Medium;
use bulkhead_worker_protocol::VmState;

/// Which drive a name means.
fn slot(drive: &str) -> Result<Slot> {
    let parse = |text: &str| text.parse::<u8>().ok().filter(|number| *number < 2);
    let places = drive.strip_prefix("ide").and_then(|rest| rest.split_once('.'));
    match places.and_then(|(channel, drive)| Some((parse(channel)?, parse(drive)?))) {
        Some((channel, drive)) => Ok(Slot { channel, drive }),
        None => bail!("there is no drive {drive}; CD drives are named ide0.0 to ide1.1"),
    }
}

/// Puts a medium into a drive. Its file has been passed.
///
/// # Errors
/// No such drive, a locked tray, a file that cannot be used.
pub fn insert(vm: &mut Vm, drive: &str, medium: &Medium) -> Result<Option<VmState>> {
    let slot = slot(drive)?;
    let file = vm.resources().take_file(&medium.file);
    let file = file.with_context(|| format!("the file {} was not passed", medium.file))?;
    let disk = vm.io().open(medium, true, "", file)?;
    controller(vm)?.lock().insert(slot, disk, false)?;
    Ok(None)
}

/// Takes the medium out of a drive.
///
/// # Errors
/// No such drive, a locked tray.
pub fn eject(vm: &mut Vm, drive: &str) -> Result<Option<VmState>> {
    let slot = slot(drive)?;
    controller(vm)?.lock().eject(slot, false)?;
    Ok(None)
}

fn controller(vm: &Vm) -> Result<std::sync::Arc<parking_lot::Mutex<bulkhead_ide::IdeController>>> {
    vm.machine().handles().ide.clone().context("this VM has no IDE controller")
}
