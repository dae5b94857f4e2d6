//! Disks on VMBus: SCSI controllers, and the fast path of IDE disks.

use crate::MachineError;
use crate::board::Board;
use crate::vmbus;
use bulkhead_vm_description::{DriveKind, Medium, ScsiDrive};
use bulkhead_vmbus_storage::{Attachment, Controller, LunConfig, Wiring};

/// The SCSI controllers of the description, in its order.
pub(crate) fn scsi_controllers(board: &mut Board<'_>) -> Result<(), MachineError> {
    // One channel per processor; the first one is not a sub-channel.
    let sub_channels = (board.vm.processor.count - 1).min(63) as u16;
    for (number, controller) in (0..).zip(&board.vm.scsi) {
        let units = controller.drives.iter().map(|drive| unit(board, drive)).collect::<Result<Vec<_>, _>>()?;
        let made = attach(board, &format!("scsi{number}"), Attachment::Scsi { number, sub_channels }, units)?;
        board.handles.scsi.push(made);
    }
    Ok(())
}

/// Each IDE disk once more, for guests that leave emulated disks alone once they have seen a Hyper-V host. DVD drives have no
/// fast path.
pub(crate) fn ide_fast_paths(board: &mut Board<'_>) -> Result<(), MachineError> {
    if board.vmbus.is_none() {
        return Ok(());
    }
    for drive in board.vm.ide.iter().filter(|drive| drive.kind == DriveKind::Disk) {
        let Some(medium) = &drive.medium else { continue };
        let attachment = Attachment::Ide { channel: drive.controller, device: drive.device };
        let units = vec![(0, LunConfig::Disk(board.config.resources.disk(&medium.file)?))];
        attach(board, &format!("{}-vmbus", drive.name()), attachment, units)?;
    }
    Ok(())
}

fn unit(board: &Board<'_>, drive: &ScsiDrive) -> Result<(u8, LunConfig), MachineError> {
    let open = |medium: &Medium| board.config.resources.disk(&medium.file);
    let medium = drive.medium.as_ref().map(open).transpose()?;
    let config = match (drive.kind, medium) {
        (DriveKind::Disk, Some(disk)) => LunConfig::Disk(disk),
        (DriveKind::Disk, None) => return Err(MachineError::NoMedium { location: drive.location }),
        (DriveKind::Cd, medium) => LunConfig::Dvd(medium),
    };
    Ok((drive.location, config))
}

fn attach(
    board: &mut Board<'_>,
    name: &str,
    attachment: Attachment,
    units: Vec<(u8, LunConfig)>,
) -> Result<ControllerHandle, MachineError> {
    let bus = board.vmbus.clone().ok_or_else(|| MachineError::NoVmBus { device: name.to_owned() })?;
    let wiring = Wiring { reactor: board.reactor.clone(), attachment };
    let controller = match board.state(name)? {
        Some(state) => Controller::restored(name, wiring, units, &state)?,
        None => Controller::new(name, wiring, units)?,
    };
    vmbus::offer(board, &bus, attachment.offer(name), controller)
}

/// A SCSI controller, for whoever adds and removes its disks.
pub type ControllerHandle = std::sync::Arc<parking_lot::Mutex<Controller>>;
