//! The units of a controller: adding, removing, changing media.

use crate::Controller;
use bulkhead_device::QuiesceToken;
use bulkhead_disk::{Disk, DiskFacts};
use bulkhead_scsi_target::{Identity, LogicalUnit, UnitKind};
use parking_lot::Mutex;
use std::sync::Arc;

/// Units of a SCSI controller.
pub const MAX_LUNS: u8 = 64;

/// What is at a place.
#[derive(Clone)]
pub enum LunConfig {
    /// A disk.
    Disk(Arc<dyn Disk>),
    /// A DVD drive, with a medium or without.
    Dvd(Option<Arc<dyn Disk>>),
}

/// A unit and what it works on.
pub(crate) struct Lun {
    pub unit: LogicalUnit,
    /// The disk, or the medium in a DVD drive.
    pub disk: Option<Arc<dyn Disk>>,
    pub users: Users,
}

/// Held by a unit and by every request that is with its disk. Once the unit is removed, the last one lets the token go.
#[derive(Debug, Clone, Default)]
pub(crate) struct Users(
    #[allow(dead_code, reason = "it is only there to be dropped")] Arc<Mutex<Option<QuiesceToken>>>,
);

/// What cannot be done to the units of a running controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LunError {
    /// Beyond the last place.
    #[error("unit {0} does not exist: a SCSI controller has units 0 to 63")]
    OutOfRange(u8),
    /// Something is there.
    #[error("unit {0} is in use; choose another, or remove what is there")]
    InUse(u8),
    /// Nothing is there.
    #[error("unit {0} is empty")]
    Empty(u8),
    /// IDE drives stay.
    #[error("IDE disks cannot be added or removed while the VM runs; use a SCSI controller")]
    NotHotPluggable,
    /// Not a DVD drive.
    #[error("unit {0} is not a DVD drive")]
    NotADrive(u8),
    /// The guest locked the tray.
    #[error("the guest has locked the tray of unit {0}; eject it in the guest, or force it")]
    Locked(u8),
}

impl Lun {
    pub fn new(config: LunConfig, identity: impl FnOnce(&DiskFacts) -> Identity) -> Lun {
        match config {
            LunConfig::Disk(disk) => {
                let identity = identity(&disk.facts());
                Lun { unit: LogicalUnit::new(UnitKind::Disk, identity), disk: Some(disk), users: Users::default() }
            }
            LunConfig::Dvd(disk) => {
                Lun { unit: LogicalUnit::new(UnitKind::Optical, Identity::dvd()), disk, users: Users::default() }
            }
        }
    }
}

impl Controller {
    /// Adds a unit while the VM runs; the guest looks at once.
    ///
    /// # Errors
    /// No such place, or it is taken; an IDE disk.
    pub fn attach(&mut self, lun: u8, config: LunConfig) -> Result<(), LunError> {
        self.check_hot_plug(lun)?;
        if self.luns.contains_key(&lun) {
            return Err(LunError::InUse(lun));
        }
        let lun_state = self.new_lun(lun, config);
        self.luns.insert(lun, lun_state);
        self.enumerate_soon();
        Ok(())
    }

    /// Removes a unit while the VM runs; the guest looks at once and drops it. Requests that are with the disk are finished;
    /// `unused` is dropped when there are none left, and the disk may be closed.
    ///
    /// # Errors
    /// No such place, or it is empty; an IDE disk.
    pub fn detach(&mut self, lun: u8, unused: QuiesceToken) -> Result<(), LunError> {
        self.check_hot_plug(lun)?;
        let removed = self.luns.remove(&lun).ok_or(LunError::Empty(lun))?;
        *removed.users.0.lock() = Some(unused);
        drop(removed);
        self.enumerate_soon();
        Ok(())
    }

    /// Puts a medium into a DVD drive, in place of the one that is there.
    ///
    /// # Errors
    /// No drive there; its tray is locked and `force` is not set.
    pub fn insert(&mut self, lun: u8, medium: Arc<dyn Disk>, force: bool) -> Result<(), LunError> {
        self.change_medium(lun, Some(medium), force)
    }

    /// Takes the medium out of a DVD drive.
    ///
    /// # Errors
    /// As [`Controller::insert`].
    pub fn eject(&mut self, lun: u8, force: bool) -> Result<(), LunError> {
        self.change_medium(lun, None, force)
    }

    /// The disk at this place has another size now; the guest is told.
    ///
    /// # Errors
    /// Nothing is there.
    pub fn capacity_changed(&mut self, lun: u8) -> Result<(), LunError> {
        self.luns.get_mut(&lun).ok_or(LunError::Empty(lun))?.unit.capacity_changed();
        // It asks every unit how it is, and hears of the size.
        self.enumerate_soon();
        Ok(())
    }

    /// The places in use.
    pub fn luns(&self) -> impl Iterator<Item = u8> + '_ {
        self.luns.keys().copied()
    }

    fn change_medium(&mut self, lun: u8, medium: Option<Arc<dyn Disk>>, force: bool) -> Result<(), LunError> {
        let drive = self.luns.get_mut(&lun).ok_or(LunError::Empty(lun))?;
        if drive.unit.kind() != UnitKind::Optical {
            return Err(LunError::NotADrive(lun));
        }
        if drive.disk.is_some() && drive.unit.press_eject().is_err() && !force {
            return Err(LunError::Locked(lun));
        }
        drive.unit.medium_changed(medium.is_some());
        drive.disk = medium;
        Ok(())
    }

    fn check_hot_plug(&self, lun: u8) -> Result<(), LunError> {
        if !self.is_scsi() {
            return Err(LunError::NotHotPluggable);
        }
        if lun < MAX_LUNS { Ok(()) } else { Err(LunError::OutOfRange(lun)) }
    }
}
