//! A drive: its registers, and what is behind them.

use crate::geometry::shown_geometry;
use crate::regs::{error, status};
use bulkhead_disk::{Disk, DiskFacts, Geometry};
use bulkhead_scsi_target::{Identity, LogicalUnit, UnitKind};
use std::sync::Arc;

/// What is plugged in at one place.
#[derive(Clone)]
pub enum DriveConfig {
    /// An ATA disk.
    Disk(Arc<dyn Disk>),
    /// A DVD drive, with a medium or without.
    Dvd(Option<Arc<dyn Disk>>),
}

/// A place for a drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// 0 the primary, 1 the secondary channel.
    pub channel: u8,
    /// 0 or 1.
    pub drive: u8,
}

/// Registers that are two deep for 48-bit commands: what was written last, and before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Deep {
    pub now: u8,
    pub before: u8,
}

impl Deep {
    pub fn write(&mut self, value: u8) {
        *self = Deep { now: value, before: self.now };
    }

    pub fn set(&mut self, value: u8) {
        *self = Deep { now: value, before: 0 };
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TaskFile {
    pub feature: Deep,
    pub count: Deep,
    pub lba_low: Deep,
    pub lba_mid: Deep,
    pub lba_high: Deep,
    pub error: u8,
    pub status: u8,
}

pub(crate) struct Drive {
    pub regs: TaskFile,
    pub kind: DriveKind,
    /// As SET FEATURES took it: 20h + n for multiword DMA, 40h + n for Ultra DMA.
    pub transfer_mode: u8,
    /// Stable, of the place or the disk.
    pub serial: String,
}

pub(crate) enum DriveKind {
    Ata(AtaDisk),
    Atapi(DvdDrive),
}

pub(crate) struct AtaDisk {
    pub disk: Arc<dyn Disk>,
    /// Heads and sectors that CHS addresses count with.
    pub heads: u8,
    pub sectors: u8,
    /// Sectors of a block of READ and WRITE MULTIPLE; 0 = off.
    pub multiple: u8,
    pub write_cache: bool,
    pub smart: bool,
}

pub(crate) struct DvdDrive {
    pub unit: LogicalUnit,
    pub medium: Option<Arc<dyn Disk>>,
}

impl Drive {
    pub fn new(config: DriveConfig, slot: Slot) -> Drive {
        let place = format!("BH{:02}{:02}", slot.channel, slot.drive);
        let (kind, serial) = match config {
            DriveConfig::Disk(disk) => {
                let facts = disk.facts();
                let id = facts.identity;
                // Twenty characters have room for ten of the sixteen bytes.
                let serial = if id.is_nil() { place } else { id.simple().to_string()[12..].to_uppercase() };
                (DriveKind::Ata(AtaDisk::new(disk, &facts)), serial)
            }
            DriveConfig::Dvd(medium) => {
                let unit = LogicalUnit::new(UnitKind::Optical, Identity::dvd());
                (DriveKind::Atapi(DvdDrive { unit, medium }), place)
            }
        };
        let mut drive = Drive { regs: TaskFile::default(), kind, transfer_mode: 0, serial };
        drive.power_on();
        drive
    }

    /// State after power-on or hardware reset.
    pub fn power_on(&mut self) {
        self.transfer_mode = 0x42;
        match &mut self.kind {
            DriveKind::Ata(ata) => *ata = AtaDisk::new(ata.disk.clone(), &ata.disk.facts()),
            DriveKind::Atapi(dvd) => dvd.unit.reset(),
        }
        self.set_signature();
    }

    /// What a drive shows after any reset: who it is.
    pub fn set_signature(&mut self) {
        let (mid, high, ready) = match self.kind {
            DriveKind::Ata(_) => (0, 0, status::READY),
            DriveKind::Atapi(_) => (0x14, 0xeb, 0),
        };
        self.regs = TaskFile { error: error::PASSED, status: ready, ..TaskFile::default() };
        self.regs.count.set(1);
        self.regs.lba_low.set(1);
        self.regs.lba_mid.set(mid);
        self.regs.lba_high.set(high);
    }

    pub fn is_atapi(&self) -> bool {
        matches!(self.kind, DriveKind::Atapi(_))
    }

    /// The disk, or the medium of a DVD drive.
    pub fn disk(&self) -> Option<&Arc<dyn Disk>> {
        match &self.kind {
            DriveKind::Ata(ata) => Some(&ata.disk),
            DriveKind::Atapi(dvd) => dvd.medium.as_ref(),
        }
    }
}

impl AtaDisk {
    fn new(disk: Arc<dyn Disk>, facts: &DiskFacts) -> AtaDisk {
        let Geometry { heads, sectors, .. } = shown_geometry(facts);
        AtaDisk { disk, heads, sectors, multiple: 0, write_cache: true, smart: true }
    }
}
